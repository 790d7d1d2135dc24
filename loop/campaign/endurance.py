"""Long undisturbed sessions: eight hours on the virtual clock, half an hour in real time beside twice the load of the machine.

Nothing may stop the current falsely, and no process may grow: memory is sampled along the way, and its slope must not be told
from none by more than `LEAST_KIB`. What a session keeps of every gate it needs: the harm guard's record of the block and of the
probe trials beside it, and the buffers that numpy holds back for arrays of one more entry, together about 1.5 KiB; the dose of
a session bounds the number of gates. Of a trial nothing is kept. Resident memory is a high-water mark: it rises by a few
hundred KiB at once, with nothing more allocated, when memory is first touched that the process has had all along. So the
slope is the median over all pairs of samples, which such a step hardly moves. A leak that comes in blocks would hide as such
steps; altogether memory must therefore not have risen by more than one of them beside what gates leave behind.
"""

from __future__ import annotations

import gc
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np

from devices.units import NS_PER_MS, NS_PER_S
from loop.campaign.children import RealError
from loop.campaign.rig import Rig, drawn
from loop.campaign.run import Step
from loop.campaign.slot import Slot
from loop.events import Marker
from loop.gate import Phase

Clock = Literal["virtual", "real"]

SECONDS: Final[dict[Clock, float]] = {"virtual": 8 * 3600.0, "real": 1800.0}
MOST_FALSE_STOPS: Final[dict[Clock, int]] = {"virtual": 0, "real": 1}
TRIAL_S: Final = 5.0
SAMPLES: Final = 24
WARM_UP: Final = 0.25
"""Share of the time that is not looked at: whatever remembers a bounded number of trials is full then."""
SHORTEST_S: Final = 600.0
"""Below this memory is told and not judged: caches are still filling."""
LEAST_KIB: Final = 4.0
"""Growth between two samples that is no leak, in KiB: a page of memory, or what is kept of the two gates of a sample."""
ONE_STEP_KIB: Final = 512.0
"""More than any single step that was seen."""
_GUARD_RESTS_NS: Final = 40 * NS_PER_MS
_ENGINE_RESTS_NS: Final = 80 * NS_PER_MS
_STOPS: Final = frozenset({"aborting", "stopped", "latched"})
_TOLD: Final = ("abort", "guard_aborting", "guard_latched")
_FEW_GATES: Final = ("gate.sense_s=600", "session.duration_s=86400")
"""Forty-odd gates in eight hours stay within a session's dose."""


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of one process: KiB at first and last, the slope a sample, how far below it its 95 % interval ends, and the rise.

    `risen_kib` is the median of the last quarter above that of the first; it counts for `samples` of them.
    """

    process: str
    first_kib: float
    last_kib: float
    slope_kib: float
    half_kib: float
    risen_kib: float = 0.0
    samples: int = 0

    @property
    def flat(self) -> bool:
        """Whether no more growth can be told than gates leave behind."""
        slopes = self.slope_kib - self.half_kib > LEAST_KIB
        return not slopes and self.risen_kib <= ONE_STEP_KIB + LEAST_KIB * self.samples


class Endurance(msgspec.Struct, frozen=True, kw_only=True):
    """What a long session came to. `stops` are the false ones, with their reasons."""

    clock: Clock
    asked_s: float
    done_s: float
    gates: int
    stops: list[str]
    memory: list[Growth]
    complete: bool
    well: bool


def growth(process: str, kib: list[float]) -> Growth:
    """Slope of memory samples by Theil and Sen, the warm-up left out."""
    from scipy import stats

    late = np.asarray(kib[int(WARM_UP * len(kib)) :] or [0.0])
    slope = half = risen = 0.0
    if len(late) > 3 and np.ptp(late) > 0.0:
        fit = stats.theilslopes(late, np.arange(len(late)), 0.95)
        slope, half = float(fit.slope), float(fit.slope - fit.low_slope)
        quarter = max(1, len(late) // 4)
        risen = float(np.median(late[-quarter:]) - np.median(late[:quarter]))
    return Growth(
        process=process, first_kib=float(late[0]), last_kib=float(late[-1]), slope_kib=slope, half_kib=half,
        risen_kib=risen, samples=len(late),
    )  # fmt: skip


def resident_kib(pid: int | str) -> float:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() / 1024


def endure(clock: Clock, seconds: float, progress: Callable[[Step], None], stop: Callable[[], bool]) -> Endurance:
    """Run a session of this length, or until `stop`."""
    return (_virtual if clock == "virtual" else _real)(seconds, progress, stop)


def _virtual(seconds: float, progress: Callable[[Step], None], stop: Callable[[], bool]) -> Endurance:
    rig = Rig("endurance", drawn(random.Random("endurance"), 200, _FEW_GATES))
    stops: list[str] = []
    gates, open_before = 0, False

    def look() -> None:
        nonlocal gates, open_before
        if rig.guard.phase in _STOPS and (not stops or stops[-1] != rig.guard.state.reason):
            stops.append(rig.guard.state.reason)
        is_open = rig.gate_phase is Phase.HOLD
        gates += is_open and not open_before
        open_before = is_open

    rig.to_sense()
    rig.every_turn = look
    # At rest there is no lease to renew: turns come as seldom as in any session on the virtual clock.
    rig.guard_late = lambda: _GUARD_RESTS_NS if rig.guard.is_at_rest else 0
    rig.engine_late = lambda: _ENGINE_RESTS_NS if rig.guard.is_at_rest else 0
    begun_ns, kib = rig.t_ns, list[float]()
    while rig.t_ns - begun_ns < seconds * NS_PER_S and not stop():
        for _ in range(max(1, round(seconds / SAMPLES / TRIAL_S))):
            kind = "STIM/INN/20" if len(kib) % 2 else "STIM/NOX/60"
            for text in ("OUT_DUE", kind):
                rig.feed(Marker(t_ns=rig.t_ns, stamp_ns=rig.t_ns, text=text))
            rig.run(TRIAL_S)
            if stop():
                break
            done_s = (rig.t_ns - begun_ns) / NS_PER_S
            progress(Step("endurance, s", round(done_s), round(seconds), len(stops)))
        gc.collect()
        kib.append(resident_kib("self"))
    done_s = (rig.t_ns - begun_ns) / NS_PER_S
    return _ended("virtual", seconds, done_s, gates, stops, [growth("session", kib)], stop)


def _ended(
    clock: Clock, asked_s: float, done_s: float, gates: int, stops: list[str], memory: list[Growth], stop: Callable[[], bool]
) -> Endurance:
    grows = done_s >= SHORTEST_S and not all(one.flat for one in memory)
    well = len(stops) <= MOST_FALSE_STOPS[clock] and not grows
    return Endurance(
        clock=clock, asked_s=asked_s, done_s=round(done_s, 1), gates=gates, stops=stops, memory=memory,
        complete=not stop(), well=well,
    )  # fmt: skip


@contextmanager
def load(times: float) -> Iterator[None]:
    """Processes that want `times` as much as the machine has."""
    count = round(times * (os.cpu_count() or 1))
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for one in busy:
            one.kill()
            one.wait()


def _real(seconds: float, progress: Callable[[Step], None], stop: Callable[[], bool]) -> Endurance:
    with tempfile.TemporaryDirectory(prefix="clc") as folder:
        place = Path(folder) / "0"
        place.mkdir(mode=0o700)
        slot = Slot(place, f"endurance-{os.getpid()}")
        try:
            return _beside_load(slot, seconds, progress, stop)
        finally:
            slot.close()


def _beside_load(slot: Slot, seconds: float, progress: Callable[[Step], None], stop: Callable[[], bool]) -> Endurance:
    """One session; after a false stop it is reset and armed, and goes on."""
    # Long holds, so that current flows most of the time, within the dose of a session.
    slot.begin("stimulation.hold_s=30.0", "gate.sense_s=20.0", f"session.duration_s={max(60.0, seconds + 60.0)}")
    pids = {"engine": slot.engine_pid, "guard": slot.guard_pid, "recorder": slot.recorder_pid}
    kib: dict[str, list[float]] = {name: [] for name in pids}
    stops: list[str] = []
    gates = 0
    with load(2.0):
        begun_s = time.monotonic()
        while (done_s := time.monotonic() - begun_s) < seconds and not stop():
            time.sleep(min(seconds / SAMPLES, 5.0))  # between two looks at the session
            events, slot.events[:] = slot.hear().copy(), []
            gates += sum(event.get("after") == "HOLD" for event in events)
            told = [str(event.get("detail")) for event in events if event.get("name") in _TOLD]
            if told:
                stops.append(told[0])
                slot.rearm()
            if not slot.runs:
                raise RealError("the session ended by itself")
            for name, pid in pids.items():
                kib[name].append(resident_kib(pid))
            progress(Step("endurance, s", round(done_s), round(seconds), len(stops)))
    return _ended("real", seconds, done_s, gates, stops, [growth(name, values) for name, values in kib.items()], stop)


def _judgement(found: Endurance, one: Growth) -> str:
    if found.done_s < SHORTEST_S:
        return "too short to judge"
    return "flat" if one.flat else "IT GROWS"


def sentence(found: Endurance) -> str:
    """What it came to, in a few lines."""
    lines = [
        (
            f"{'INTERRUPTED, ' if not found.complete else ''}{found.done_s:.0f} s of {found.asked_s:.0f} s ({found.clock}), "
            f"{found.gates} gates, {len(found.stops)} false stops (at most {MOST_FALSE_STOPS[found.clock]})"
        )
    ]
    lines += [f"false stop: {reason}" for reason in found.stops]
    lines += [
        (
            f"memory of {one.process}: {one.first_kib:.0f} -> {one.last_kib:.0f} KiB, {one.slope_kib:+.1f} "
            f"KiB a sample (at least {one.slope_kib - one.half_kib:+.1f}): {_judgement(found, one)}"
        )
        for one in found.memory
    ]
    return "\n".join(lines)

