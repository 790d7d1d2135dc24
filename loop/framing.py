"""Each sample once and in order: gaps, duplicates, reorder, bursts, clock jumps and rate drift are named (I13)."""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

import numpy as np

from devices.units import NS_PER_S
from loop.events import Int64s

STALE_NS: Final = 200_000_000
CLOCK_JUMP_NS: Final = NS_PER_S
DRIFT_WINDOW_NS: Final = 10 * NS_PER_S
DRIFT_LIMIT: Final = 0.02
# How fast the expected grid follows the stamps: one part in 16 a chunk keeps jitter out and follows real drift.
_FOLLOW: Final = 16


class Fault(NamedTuple):
    """Something wrong with the stream's timing."""

    name: str
    detail: str


class Framed(NamedTuple):
    """What `Framer.take` made of a chunk: the rows `start` to `stop` are to be processed, after a restart if told so."""

    start: int
    stop: int
    restart: bool = False
    fresh: bool = False
    faults: tuple[Fault, ...] = ()


class Framer:
    """Follows one segment's time stamps.

    Stamps are compared with a grid at the nominal rate that follows them slowly. A chunk that lies off the grid by more
    than `jitter_ns` is a gap (ahead), or a duplicate, a reordering or a clock jump (behind).

    Parameters
    ----------
    sfreq_hz : float
        Nominal rate of the segment.
    jitter_ns : int
        Tolerated distance between a stamp and the grid.
    """

    def __init__(self, sfreq_hz: float, jitter_ns: int) -> None:
        self._period_ns = NS_PER_S / sfreq_hz
        self._jitter_ns = max(jitter_ns, int(2 * self._period_ns))
        self._n_tail = 2 + int(2 * self._jitter_ns / self._period_ns)
        self._next_ns: int | None = None
        self._newest_ns: int | None = None
        self._tail: deque[Int64s] = deque()
        self._anchor: tuple[int, int] | None = None
        self._count = 0
        self._late = False

    def take(self, t_ns: int, stamps_ns: Int64s) -> Framed:
        """Judge one chunk that arrived at `t_ns`; `stamps_ns` is (n_times,)."""
        n = len(stamps_ns)
        if n == 0:
            return Framed(0, 0)
        faults: list[Fault] = []
        first, last = int(stamps_ns[0]), int(stamps_ns[-1])
        start, restart = 0, False

        if n > 1:
            steps = stamps_ns[1:] - stamps_ns[:-1]
            inner = self._inner_fault(steps, stamps_ns)
            if inner is not None:
                # Nothing inside a broken chunk can be trusted to be in order: leave it out whole.
                self._forget()
                return Framed(0, 0, restart=True, faults=(inner,))
        expected_ns = self._expected_ns()
        if expected_ns is not None:
            off_ns = first - expected_ns
            if off_ns > CLOCK_JUMP_NS and abs(t_ns - last) > CLOCK_JUMP_NS:
                faults.append(Fault("clock_jump", f"stamps jumped ahead by {off_ns / NS_PER_S:.3f} s"))
                restart = True
            elif off_ns > self._jitter_ns and self._next_ns is not None:
                missing = round(off_ns / self._period_ns)
                text = f"{missing} samples missing ({off_ns / 1e6:.0f} ms)"
                faults.append(Fault("gap", text))
                restart = True
            elif off_ns < -self._jitter_ns:
                start, fault = self._behind(t_ns, stamps_ns, off_ns)
                restart = fault.name == "clock_jump"
                faults.append(fault)
            elif off_ns < 0:
                start = self._repeated(stamps_ns)
                if start:
                    faults.append(Fault("duplicate", f"{start} of {n} samples had come before: left out"))
        if start >= n:
            return Framed(n, n, faults=tuple(faults))

        age_ns = t_ns - last
        # A stamp that far in the future is on another clock: such samples are no sign of life either.
        fresh = abs(age_ns) <= STALE_NS
        if not fresh and not self._late:
            place = f"{age_ns / 1e6:.0f} ms old" if age_ns > 0 else f"{-age_ns / 1e6:.0f} ms ahead of the clock"
            faults.append(Fault("late_data", f"samples are {place} on arrival"))
        self._late = not fresh
        self._follow(stamps_ns[start:], restart=restart)
        drift = self._drift(last, n - start, restart=restart)
        if drift is not None:
            faults.append(drift)
        return Framed(start, n, restart=restart, fresh=fresh, faults=tuple(faults))

    def _expected_ns(self) -> int | None:
        """Where the next chunk should begin; after a broken chunk that is only known roughly."""
        if self._next_ns is not None or self._newest_ns is None:
            return self._next_ns
        return self._newest_ns + round(self._period_ns)

    def _repeated(self, stamps_ns: Int64s) -> int:
        """How many samples at the start lie before the last one that carries exactly the stamp of one that came before.

        A repeated chunk can be shorter than the jitter that is tolerated; its stamps give it away.
        """
        known = np.flatnonzero(np.isin(stamps_ns, np.concatenate(self._tail)))
        return int(known[-1]) + 1 if len(known) else 0

    def _inner_fault(self, steps: Int64s, stamps_ns: Int64s) -> Fault | None:
        low, high = int(steps.min()), int(steps.max())
        if low < -self._jitter_ns:
            return Fault("reorder", f"stamps run backwards inside a chunk, by {-low / 1e6:.1f} ms")
        if high > self._period_ns + self._jitter_ns:
            return Fault("gap", f"{round(high / self._period_ns) - 1} samples missing inside a chunk")
        if low < 0 and len(np.unique(stamps_ns)) < len(stamps_ns):
            return Fault("duplicate", "samples come twice inside a chunk")
        if low == 0 and int(np.count_nonzero(steps == 0)) * 2 > len(steps):
            return Fault("duplicate", "samples of one chunk share their stamps")
        return None

    def _behind(self, t_ns: int, stamps_ns: Int64s, off_ns: int) -> tuple[int, Fault]:
        """A chunk that starts before the expected time: a duplicate, an old one, or another clock."""
        assert self._newest_ns is not None
        new = int(np.searchsorted(stamps_ns, self._newest_ns + int(self._period_ns / 2), side="left"))
        n = len(stamps_ns)
        other_clock = abs(t_ns - int(stamps_ns[-1])) > CLOCK_JUMP_NS or self._newest_ns - t_ns > CLOCK_JUMP_NS
        if off_ns < -CLOCK_JUMP_NS and other_clock:
            return 0, Fault("clock_jump", f"stamps jumped back by {-off_ns / NS_PER_S:.3f} s")
        if new >= n:
            return n, Fault("duplicate", f"{n} samples lie in the past by {-off_ns / 1e6:.0f} ms: left out")
        return new, Fault("duplicate", f"{new} of {n} samples had come before: left out")

    def _follow(self, stamps_ns: Int64s, *, restart: bool) -> None:
        last = int(stamps_ns[-1])
        if self._next_ns is None or restart:
            self._next_ns = last + round(self._period_ns)
        else:
            expected_last = self._next_ns + round((len(stamps_ns) - 1) * self._period_ns)
            self._next_ns = expected_last + (last - expected_last) // _FOLLOW + round(self._period_ns)
        self._newest_ns = last if restart or self._newest_ns is None else max(self._newest_ns, last)
        if restart:
            self._tail.clear()
        self._tail.append(stamps_ns)
        while sum(map(len, self._tail)) - len(self._tail[0]) >= self._n_tail:
            self._tail.popleft()

    def _drift(self, last_ns: int, n: int, *, restart: bool) -> Fault | None:
        """Compare the count of samples with the time they span, every ten seconds."""
        if self._anchor is None or restart:
            self._anchor, self._count = (last_ns, 0), 0
            return None
        self._count += n
        span_ns = last_ns - self._anchor[0]
        if span_ns < DRIFT_WINDOW_NS:
            return None
        ratio = self._count * self._period_ns / span_ns
        self._anchor, self._count = (last_ns, 0), 0
        if abs(ratio - 1.0) <= DRIFT_LIMIT:
            return None
        rate = ratio * NS_PER_S / self._period_ns
        return Fault("rate_drift", f"{rate:.2f} samples a second instead of {NS_PER_S / self._period_ns:.2f}")

    def _forget(self) -> None:
        self._next_ns = None
        self._anchor = None
        self._count = 0
