"""The campaign with real processes: jobs are shared by a few slots, and each is judged by the meter at the electrode alone."""

from __future__ import annotations

import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from devices.limits import CHARGE_ALLOWANCE, MAX_LEVEL_UA
from devices.mock.meter import SLEW_WINDOW_MS, MeterRecord, time_to_zero
from devices.refproto import ZERO_UA
from devices.units import NS_PER_S
from loop.campaign.children import CLOCK, RealError
from loop.campaign.judge import STEEPEST_ABORT_UA_S, STEEPEST_RISE_UA_S, Run
from loop.campaign.real_scenes import REFUSALS, SCENES, RealCase, RealScene
from loop.campaign.rows import Row, all_rows
from loop.campaign.slot import HOLD_S, LEVEL_UA, RAMP_S, Slot

SLOTS: Final = 3
_SETTLED_S: Final = 0.3
_SET_UPS: Final = 3
# From 0.2 mA an abort ramp of 2 mA/s lasts 95 ms, a cut some milliseconds, the gentlest ordinary ramp seconds.
_CUT_S: Final = 0.045
_ABORT_S: Final = 0.3
_SLOPE_SLACK: Final = 1.15
_DOSE_UC: Final = LEVEL_UA * (HOLD_S + RAMP_S) * (1.0 + CHARGE_ALLOWANCE)


class Job(NamedTuple):
    """Trials of one row, by one slot."""

    row: Row
    first: int
    trials: int


def is_real(name: str) -> bool:
    """Whether a row can be run with real processes."""
    return name in SCENES or name in REFUSALS


def jobs_of(names: Sequence[str], trials: int) -> list[Job]:
    """Each row once, and `trials` times where it kills, freezes or cuts, in portions that several slots can share."""
    jobs = []
    for name in names:
        if not is_real(name):
            continue
        row = all_rows()[name]
        wanted = trials if row.deep else 1
        jobs += [Job(row, first, min(10, wanted - first)) for first in range(0, wanted, 10)]
    # What takes longest goes first, so that no slot is left with it in the end.
    return sorted(jobs, key=lambda job: -job.trials)


def real_runs(jobs: list[Job], stop: Callable[[], bool]) -> Iterator[Run]:
    """All trials of these jobs, as they end; ends early when `stop` says so."""
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    done: queue.SimpleQueue[Run | None] = queue.SimpleQueue()
    ending = threading.Event()
    with tempfile.TemporaryDirectory(prefix="clc") as folder:
        slots = []
        for number in range(min(SLOTS, len(jobs))):
            place = Path(folder) / str(number)
            place.mkdir(mode=0o700)
            worker = threading.Thread(target=_work, args=(place, waiting, done, ending), daemon=True)
            slots.append(worker)
            worker.start()
        left = len(slots)
        try:
            while left:
                try:
                    run = done.get(timeout=0.5)
                except queue.Empty:
                    if stop():
                        ending.set()
                    continue
                if run is None:
                    left -= 1
                else:
                    yield run
        finally:
            ending.set()
            for worker in slots:
                worker.join(60.0)


def _work(
    place: Path, waiting: queue.SimpleQueue[Job], done: queue.SimpleQueue[Run | None], ending: threading.Event
) -> None:
    slot = Slot(place, f"campaign-{place.parent.name}-{place.name}")
    try:
        while not ending.is_set():
            try:
                job = waiting.get_nowait()
            except queue.Empty:
                return
            for trial in range(job.first, job.first + job.trials):
                if ending.is_set():
                    return
                done.put(trial_of(slot, job.row, trial))
    finally:
        slot.close()
        done.put(None)


def trial_of(slot: Slot, row: Row, trial: int) -> Run:
    """One trial; what breaks in it is told as its result, and the slot begins anew."""
    seed = f"{slot.name} trial {trial}"
    try:
        if row.id in REFUSALS:
            slot.drop_session()
            wrong = REFUSALS[row.id](slot)
            return Run(row=row.id, seed=seed, answer="on" if wrong else "refused", wrong=wrong)
        scene = SCENES[row.id]
        _to_moment(slot, scene)
        begun_ns = CLOCK.now_ns()
        case = scene.act(slot, trial)
        try:
            _watched(slot, begun_ns, case)
            run = judged(slot, row, case, begun_ns, seed)
        finally:
            case.mend(slot)
    except Exception as error:  # noqa: BLE001 - a trial that breaks is a result, and is told as one
        slot.close()
        return Run(row=row.id, seed=seed, answer="broken", wrong=f"{type(error).__name__}: {error}"[:600])
    if case.after == "drop":
        slot.drop_session()
    elif run.answer != "on":
        slot.stopped()
    return run


def _to_moment(slot: Slot, scene: RealScene) -> None:
    """To where the fault strikes. A set-up that fails, on a host that is too busy, begins anew: nothing was injected yet."""
    for attempt in range(_SET_UPS):
        try:
            if scene.at == "RAMP_UP":
                slot.to_ramp()
            else:
                slot.to_hold(scene.kind)
        except RealError:
            slot.close()
            if attempt == _SET_UPS - 1:
                raise
        else:
            return


def _watched(slot: Slot, begun_ns: int, case: RealCase) -> None:
    """Until the current has been zero for a while, or the time of the case is over."""
    end_s = time.monotonic() + case.watch_s
    while time.monotonic() < end_s:
        records = slot.meter()
        if records and records[-1].t_ns > begun_ns and _zero_for_s(records) >= _SETTLED_S:
            return
        time.sleep(0.02)  # the meter writes every few milliseconds; there is no event to wait for


def _zero_for_s(records: list[MeterRecord]) -> float:
    newest = records[-1]
    for record in reversed(records):
        if abs(record.current_ua) > ZERO_UA:
            return (newest.t_ns - record.t_ns) / NS_PER_S
    return float("inf")


def judged(slot: Slot, row: Row, case: RealCase, begun_ns: int, seed: str) -> Run:
    """Judge a trial by what the meter saw."""
    records = [record for record in slot.meter() if record.t_ns >= begun_ns - NS_PER_S // 5]
    flows = _flows(records)
    at_ns = case.at_ns(slot) if callable(case.at_ns) else case.at_ns
    answer = "on" if not records or _zero_for_s(records) < _SETTLED_S else _how(records, at_ns)
    wanted = case.answers or row.answers
    wrong = "" if answer in wanted else f"answer {answer}, not {' or '.join(wanted)}"
    wrong = wrong or case.check(slot)
    bound_s = case.bound_s if case.bound_s is not None else row.bound_s
    zero_s = None if answer == "on" else time_to_zero(slot.meter(), min(at_ns, slot.meter()[-1].t_ns))
    if zero_s is not None and bound_s is not None and zero_s > bound_s:
        wrong = wrong or f"zero after {zero_s:.3f} s, {bound_s:g} s allowed"
    peak, rise, fall = flows
    if peak > MAX_LEVEL_UA:
        wrong = wrong or f"{peak:.0f} uA flowed"
    if not row.moves_current:
        steepest = {"S0": float("inf"), "S1": STEEPEST_ABORT_UA_S}.get(answer, STEEPEST_RISE_UA_S)
        if peak > 1.05 * LEVEL_UA + ZERO_UA or rise > STEEPEST_RISE_UA_S or fall > _SLOPE_SLACK * steepest:
            wrong = wrong or f"{peak:.0f} uA at most, up by {rise:.0f} uA/s, down by {fall:.0f} uA/s"
    return Run(
        row=row.id,
        seed=seed,
        answer=answer,
        zero_s=zero_s,
        bound_s=bound_s if zero_s is not None else None,
        peak_ua=peak,
        rise_ua_s=rise,
        fall_ua_s=fall,
        beyond_uc=max(0.0, records[-1].charge_uc - records[0].charge_uc - _DOSE_UC) if records else 0.0,
        wrong=wrong,
    )


def _flows(records: list[MeterRecord]) -> tuple[float, float, float]:
    """Greatest current (uA), steepest rise and fall (uA/s over 100 ms) of a stretch of the meter."""
    if not records:
        return 0.0, 0.0, 0.0
    first_ns = records[0].t_ns
    grid = np.zeros((records[-1].t_ns - first_ns) // 1_000_000 + 1 + SLEW_WINDOW_MS)
    for record in records:
        grid[(record.t_ns - first_ns) // 1_000_000] = abs(record.current_ua)
    steps = (grid[SLEW_WINDOW_MS:] - grid[:-SLEW_WINDOW_MS]) * (1000.0 / SLEW_WINDOW_MS)
    # The grid is padded with zeros behind its end, which is no fall of the current.
    steps = steps[: max(1, len(grid) - 2 * SLEW_WINDOW_MS)]
    return float(grid.max()), float(max(steps.max(), 0.0)), float(max(-steps.min(), 0.0))


def _how(records: list[MeterRecord], at_ns: int) -> str:
    """The class of a stop, from how long the current took from nine tenths to zero."""
    before = [abs(record.current_ua) for record in records if record.t_ns <= at_ns] or [abs(records[0].current_ua)]
    high = 0.9 * before[-1]
    last_high = max((r.t_ns for r in records if abs(r.current_ua) >= high), default=at_ns)
    zero_ns = next((r.t_ns for r in records if r.t_ns > last_high and abs(r.current_ua) <= ZERO_UA), last_high)
    seconds = (zero_ns - last_high) / NS_PER_S
    return "S0" if seconds <= _CUT_S else "S1" if seconds <= _ABORT_S else "S2"
