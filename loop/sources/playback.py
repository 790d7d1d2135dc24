"""A recording played from its first to its last sample, whatever reads its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from loop.events import Block, Layout, SourceInfo
from loop.sources.errors import SourceError

Int64s = npt.NDArray[np.int64]
Samples = npt.NDArray[Any]

MIN_DURATION_S: Final = 2.0
CACHE_S: Final = 10.0


class Rows(Protocol):
    """Samples that can be had by index."""

    def __call__(self, start: int, stop: int) -> tuple[Int64s, Samples]:
        """Stamps (n,) in ns from the first sample, and samples (n, n_channels), of rows `start` to `stop`."""
        ...


class RecordingPlayback:
    """A recording played from its first to its last sample; implements `Playback`.

    Attributes
    ----------
    layout : Layout
        The channels that are handed out.
    info : SourceInfo
        Path and SHA-256 of the recording.
    n_samples : int
        Samples in all.
    rows : callable
        Stamps and samples by index, whatever was read so far.
    notes : tuple of str
        What was left out, and what the reader should know.
    """

    def __init__(
        self,
        rows: Rows,
        n_samples: int,
        layout: Layout,
        info: SourceInfo,
        markers: Sequence[tuple[int, str]],
        notes: Sequence[str] = (),
    ) -> None:
        where = info.path or info.identity
        if n_samples == 0:
            raise SourceError(f"{where} has no samples.")
        if n_samples < MIN_DURATION_S * layout.sfreq_hz:
            raise SourceError(f"{where} is {n_samples / layout.sfreq_hz:.3g} s long; at least {MIN_DURATION_S:g} s are needed.")
        self.layout = layout
        self.info = info
        self.n_samples: int | None = n_samples
        self.rows = rows
        self._n = n_samples
        self._step = max(1, round(CACHE_S * layout.sfreq_hz))
        self._position = 0
        self._cache_first = 0
        self._stamps, self._samples = rows(0, min(self._step, n_samples))
        last_ns = int(rows(n_samples - 1, n_samples)[0][0])
        ordered = sorted(markers, key=lambda marker: marker[0])
        self._markers = [marker for marker in ordered if marker[0] <= last_ns]
        self._next_marker = 0
        late = len(ordered) - len(self._markers)
        self.notes = (
            *notes,
            *([f"{late} markers lie after the last sample and are left out."] if late else []),
        )

    @property
    def markers(self) -> tuple[tuple[int, str], ...]:
        """All markers that will be handed out: (ns from the first sample, text); negative before it."""
        return tuple(self._markers)

    def read(self, n: int, current_ua: float) -> Block | None:
        """The next samples.

        Parameters
        ----------
        n : int
            At most so many; fewer at the end.
        current_ua : float
            Ignored: what is recorded does not feel the present current.

        Returns
        -------
        Block or None
            Samples (n, n_channels) in the recording's own unit; None at the end. Markers from before the
            first sample come with the first block.

        Raises
        ------
        SourceError
            If the file can no longer be read.
        """
        del current_ua
        if n < 1:
            raise ValueError(f"a block has at least one sample, not {n}")
        first = self._position
        if first >= self._n:
            return None
        stop = min(first + n, self._n)
        if stop > self._cache_first + len(self._stamps):
            # Refill from `first`, so that a block never straddles two fills and can always be a view.
            self._stamps, self._samples = self.rows(first, min(first + max(self._step, n), self._n))
            self._cache_first = first
        a, b = first - self._cache_first, stop - self._cache_first
        self._position = stop
        stamps = self._stamps[a:b]
        markers: Sequence[tuple[int, str]] = ()
        begin = self._next_marker
        if begin < len(self._markers) and self._markers[begin][0] <= stamps[-1]:
            end = begin
            while end < len(self._markers) and self._markers[end][0] <= stamps[-1]:
                end += 1
            markers = self._markers[begin:end]
            self._next_marker = end
        return Block(first, stamps, self._samples[a:b], markers)
