"""What a source may raise: each message says what was wrong, where, and what to do."""

from __future__ import annotations


class SourceError(Exception):
    """A recording or a stream cannot be used: "run1.edf has no EEG channels; it has: 3 EOG, 1 STIM"."""


class SourceLostError(SourceError):
    """A stream that was being read has ended or broken; a new handshake may find it again."""
