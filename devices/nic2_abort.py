"""When NIC's protocol is to be aborted, when that was last asked for, and whether NIC is deaf to it; pure.

NIC answers no abort: only its status says that one was heard. So it is asked for again until then.
"""

from __future__ import annotations

from typing import Final

from devices.units import NS_PER_MS

ABORT_AGAIN_MS: Final = 500
ABORT_DEAF_MS: Final = 2000


class Abort:
    """The abort of one protocol; times are the driver's, ns."""

    def __init__(self) -> None:
        self._at_ns: int | None = None
        self._sent_ns: int | None = None
        self._first_ns: int | None = None

    @property
    def planned(self) -> bool:
        """Whether one is to come, or has been asked for."""
        return self._at_ns is not None

    @property
    def asked(self) -> bool:
        """Whether NIC has been asked to, and has not obeyed yet."""
        return self._first_ns is not None

    def is_sooner(self, at_ns: int) -> bool:
        """Whether `at_ns` is before the moment planned, or none is planned."""
        return self._at_ns is None or at_ns < self._at_ns

    def plan(self, at_ns: int) -> None:
        """Abort at `at_ns`, unless that is planned for sooner."""
        if self.is_sooner(at_ns):
            self._at_ns = at_ns

    def is_due(self, now_ns: int) -> bool:
        """Whether NIC is to be asked now: for the first time, or again."""
        if self._at_ns is None or now_ns < self._at_ns:
            return False
        return self._sent_ns is None or now_ns - self._sent_ns >= ABORT_AGAIN_MS * NS_PER_MS

    def note_asked(self, now_ns: int) -> None:
        """NIC has been asked."""
        self._sent_ns = now_ns
        if self._first_ns is None:
            self._first_ns = now_ns

    def is_deaf(self, now_ns: int) -> bool:
        """Whether NIC should have obeyed by now."""
        return self._first_ns is not None and now_ns - self._first_ns > ABORT_DEAF_MS * NS_PER_MS

    def note_over(self) -> None:
        """The protocol has ended: nothing is left to abort."""
        self._at_ns = self._sent_ns = self._first_ns = None
