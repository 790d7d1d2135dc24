"""The two clocks: the system's, which also runs through suspend, and a virtual one for tests and simulation."""

from __future__ import annotations

import time
from typing import Final, Protocol

from devices.units import NS_PER_S

# Linux only; elsewhere the monotonic clock is the nearest thing, and leases then do not count sleep.
_BOOTTIME: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    """What tells the time. Only the outermost shell holds one; the core is given times."""

    def now_ns(self) -> int:
        """Nanoseconds on a monotonic clock that counts suspend; the clock of leases."""
        ...

    def wall_ns(self) -> int:
        """Nanoseconds since 1970 UTC; for the record only, never for a decision."""
        ...


class SystemClock:
    """CLOCK_BOOTTIME and the wall clock of this machine."""

    def now_ns(self) -> int:
        """Nanoseconds since boot, suspend included."""
        return time.clock_gettime_ns(_BOOTTIME)

    def wall_ns(self) -> int:
        """Nanoseconds since 1970 UTC."""
        return time.time_ns()


class VirtualClock:
    """A clock that moves only when told to.

    Parameters
    ----------
    start_ns : int
        First reading of the monotonic clock.
    wall_start_ns : int
        First reading of the wall clock; both advance together.
    """

    def __init__(self, start_ns: int = 0, wall_start_ns: int = 946_684_800 * NS_PER_S) -> None:
        self._now_ns = start_ns
        self._wall_minus_now_ns = wall_start_ns - start_ns

    def now_ns(self) -> int:
        """The present virtual time."""
        return self._now_ns

    def wall_ns(self) -> int:
        """The present virtual wall time; starts at 2000-01-01 unless told otherwise."""
        return self._now_ns + self._wall_minus_now_ns

    def advance_to(self, t_ns: int) -> None:
        """Move forward to `t_ns`.

        Raises
        ------
        ValueError
            If `t_ns` lies before the present virtual time.
        """
        if t_ns < self._now_ns:
            raise ValueError(f"virtual time cannot run backwards: {t_ns} ns is before {self._now_ns} ns")
        self._now_ns = t_ns
