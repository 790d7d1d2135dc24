"""A task as a timetable: what is shown and delivered when, in samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, assert_never

import numpy as np

from devices.mock.patient_settings import BlockName
from devices.mock.task import Block, Cued, Heat, Outcome, Rest, Task, TaskError, Timing, Trains

Doing = Literal["eyes_open", "eyes_closed", "clench", "blink"]

_FULL_LEVEL: Final = 1.0
# The last markers come so long before the last sample: formats that keep time in single precision would lose them.
_TAIL_S: Final = 0.1
# A train is announced so long before its first touch.
_TRAIN_LEAD_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Trial:
    """One outcome and what announced it; times in samples from the start of the session.

    `level` is the strength of a noxious outcome here, 1 being the calibrated one; `told` is the expectation that the cue
    states, None where it must be learned. `due_sample` is when a punctual outcome would come. `rated` is when pain is rated,
    `asked` when the expectation is, None on trials without. Heat ends at `off_sample`, and was said to at `off_due_sample`.
    In trains every touch is one of these: `place` counts from 1, and `cue` is ``reg`` or ``jit``.
    """

    number: int
    block: BlockName
    cue: str
    begin: int
    cue_sample: int
    due_sample: int
    outcome_sample: int
    outcome: Outcome
    intensity: int
    level: float
    told: float | None
    rated: int | None
    asked: int | None = None
    off_sample: int | None = None
    off_due_sample: int | None = None
    place: int = 0


@dataclass(frozen=True, slots=True)
class Activity:
    """What the participant does from sample `first` up to `stop` of a rest block."""

    doing: Doing
    first: int
    stop: int


@dataclass(frozen=True, slots=True)
class Timetable:
    """A whole session.

    `markers` are those (sample, text) that do not depend on what the participant does; `awareness` are the samples at which
    they are asked what predicted what. `n_samples` is how long it takes.
    """

    trials: tuple[Trial, ...]
    activities: tuple[Activity, ...]
    markers: tuple[tuple[int, str], ...]
    awareness: tuple[int, ...]
    n_samples: int


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What one cued trial will be."""

    cue: str
    outcome: Outcome
    level: float
    intensity: int
    told: float | None


class _Full(Exception):  # noqa: N818 - a signal within this module, no error
    """The next trial would not end within the session."""


class _Writer:
    """Writes block after block; a trial that would not end in time is left out, and with it all that follows."""

    def __init__(self, rng: np.random.Generator, sfreq_hz: float, n_samples: int, noxious: int, innocuous: int) -> None:
        self.rng = rng
        self.sfreq_hz = sfreq_hz
        self.last = max(0, n_samples - 1 - round(_TAIL_S * sfreq_hz))
        self.noxious, self.innocuous = noxious, innocuous
        self.at_s = 0.0
        self.trials: list[Trial] = []
        self.activities: list[Activity] = []
        self.markers: list[tuple[int, str]] = []
        self.awareness: list[int] = []
        self.trains = 0
        self._numbered = 0

    def sample(self, time_s: float) -> int:
        return round(time_s * self.sfreq_hz)

    def within(self, time_s: float) -> int:
        return min(self.sample(time_s), self.last)

    def span(self, limits: tuple[float, float]) -> float:
        return float(self.rng.uniform(*limits))

    def add(self, trial: Trial) -> None:
        self.trials.append(trial)
        stimulus = "STIM/OMIT" if trial.outcome == "OMIT" else f"STIM/{trial.outcome}/{trial.intensity}"
        if trial.place == 0:
            self._numbered += 1
            self.markers += [(trial.begin, f"TRIAL/{self._numbered}"), (trial.cue_sample, f"CUE/{trial.cue}")]
        self.markers += [(trial.outcome_sample, "OUT_DUE"), (trial.outcome_sample, stimulus)]
        if trial.off_sample is not None:
            self.markers.append((trial.off_sample, "STIM_OFF"))

    def fits(self, until_s: float) -> None:
        if until_s * self.sfreq_hz > self.last:
            raise _Full

    def block(self, name: BlockName, write: Callable[[], None]) -> None:
        """Frame what `write` writes, unless it writes nothing."""
        began, before = self.at_s, len(self.markers)
        try:
            write()
        finally:
            if len(self.markers) > before:
                self.markers.insert(before, (self.within(began), f"BLOCK/{name}/START"))
                self.markers.append((self.within(self.at_s), f"BLOCK/{name}/END"))

    # ---- the kinds of block

    def rest(self, plan: Rest) -> None:
        for part in plan.stretches:
            first, stop = self.within(self.at_s), self.within(self.at_s + part.seconds)
            if part.mark.startswith("ART/"):
                self.markers += [(first, f"{part.mark}/ON"), (stop, f"{part.mark}/OFF")]
            else:
                self.markers.append((first, part.mark))
            self.activities.append(Activity(part.doing, first, stop))
            self.at_s += part.seconds
            self.fits(self.at_s)
            self.at_s += part.pause_s

    def cued(self, name: BlockName, plan: Cued, timing: Timing) -> None:
        late = self._shuffled(plan.trials, timing.late_share)
        for drawn, comes_late in zip(self._drawn(plan), late, strict=True):
            self._trial(name, drawn, timing, plan.rated_share, plan.expectation_share, late=comes_late)
        if plan.asked_awareness == "at the end":
            self.awareness.append(self.within(self.at_s))

    def heat(self, name: BlockName, plan: Heat, timing: Timing) -> None:
        told = int(plan.cue[1:].split("/")[0]) / 100.0 if plan.cue.startswith("P") else None
        late = self._shuffled(plan.trials, timing.late_share)
        for comes_late, over in zip(late, self._shuffled(plan.trials, plan.late_end_share), strict=True):
            held_s = plan.heat_s + (plan.late_end_by_s if over else 0.0)
            drawn = _Drawn(plan.cue, "NOX", _FULL_LEVEL, self.noxious, told)
            heat_s = (plan.heat_s, held_s)
            self._trial(name, drawn, timing, plan.rated_share, 0.0, late=comes_late, pause_s=plan.pause_s, heat_s=heat_s)

    def trains_of(self, name: BlockName, plan: Trains) -> None:
        kinds = ["reg"] * plan.regular + ["jit"] * plan.jittered
        order = [kinds[i] for i in self.rng.permutation(len(kinds))]
        omitted = {kind: iter(self._shuffled(order.count(kind), plan.omitted_share)) for kind in ("reg", "jit")}
        for kind in order:
            self._train(name, kind, plan, omitted=next(omitted[kind]))

    def _train(self, name: BlockName, kind: str, plan: Trains, *, omitted: bool) -> None:
        self.fits(self.at_s + (plan.touches + 1) * plan.interval_s)
        self.trains += 1
        begin = self.sample(self.at_s)
        self.markers.append((begin, f"TRAIN/{self.trains}/{kind}"))
        for place in range(1, plan.touches + 2):
            due_s = self.at_s + _TRAIN_LEAD_S + (place - 1) * plan.interval_s
            moved_s = 0.0
            if kind == "jit" and plan.jitter_from <= place <= plan.touches:
                moved_s = plan.jitter * plan.interval_s * float(self.rng.uniform(-1.0, 1.0))
            outcome: Outcome = "OMIT" if omitted and place == plan.touches + 1 else "INN"
            at = self.sample(due_s + moved_s)
            self.add(
                Trial(
                    number=len(self.trials) + 1,
                    block=name,
                    cue=kind,
                    begin=begin,
                    cue_sample=begin,
                    due_sample=at,
                    outcome_sample=at,
                    outcome=outcome,
                    intensity=self.innocuous if outcome == "INN" else 0,
                    level=0.0,
                    told=None,
                    rated=None,
                    place=place,
                )
            )
        self.at_s += (plan.touches + 1) * plan.interval_s

    def _shuffled(self, n: int, share: float) -> list[bool]:
        """Exactly the stated share of n, in any order."""
        chosen = round(n * share)
        return [bool(i < chosen) for i in self.rng.permutation(n)]

    def _drawn(self, plan: Cued) -> list[_Drawn]:
        """Cue, outcome, strength and stated expectation of each trial of a block, in any order."""
        kinds: list[tuple[str, float, float, float | None]] = [(cue, p, _FULL_LEVEL, None) for cue, p in plan.cues.items()]
        for percent in plan.stated:
            for grade, level in enumerate(plan.grades, start=1):
                kinds.append((f"P{percent}/I{grade}", percent / 100.0, level, percent / 100.0 * level))
        drawn: list[_Drawn] = []
        noxious_so_far = 0
        for i, (cue, probability, level, told) in enumerate(kinds):
            n = plan.trials // len(kinds) + (i < plan.trials % len(kinds))
            noxious = round(n * probability)
            for k in range(n):
                if k >= noxious:
                    outcome: Outcome = plan.otherwise[(k - noxious) % len(plan.otherwise)]
                    drawn.append(_Drawn(cue, outcome, level, self.innocuous if outcome == "INN" else 0, told))
                    continue
                noxious_so_far += 1
                # Evenly spread over the noxious ones, so that the share is exact.
                fixed = int(noxious_so_far * plan.fixed_share) > int((noxious_so_far - 1) * plan.fixed_share)
                intensity = plan.fixed_intensity if fixed else round(self.noxious * level)
                drawn.append(_Drawn(cue, "NOX", intensity / self.noxious, intensity, told))
        return [drawn[i] for i in self.rng.permutation(len(drawn))]

    def _trial(
        self,
        name: BlockName,
        drawn: _Drawn,
        timing: Timing,
        rated_share: float,
        expectation_share: float,
        *,
        late: bool,
        pause_s: tuple[float, float] | None = None,
        heat_s: tuple[float, float] | None = None,
    ) -> None:
        begin_s = self.at_s
        cue = self.sample(begin_s + self.span(timing.fixation_s))
        due = cue + self.sample(timing.cue_to_outcome_s)
        outcome = due + (self.sample(timing.late_by_s) if late else 0)
        off_due = off = None
        if heat_s is not None:
            off_due, off = (outcome + self.sample(seconds) for seconds in heat_s)
        quiet_s = (off or outcome) / self.sfreq_hz + timing.silence_s
        rated_s = quiet_s + self.span(timing.rating_s) if self.rng.random() < rated_share else None
        asked_s = (rated_s or quiet_s) + self.span(timing.rating_s) if self.rng.random() < expectation_share else None
        end_s = asked_s or rated_s or quiet_s
        self.at_s = end_s + self.span(pause_s or timing.pause_s)
        if end_s * self.sfreq_hz > self.last:
            self.at_s = begin_s
            raise _Full
        self.add(
            Trial(
                number=len(self.trials) + 1,
                block=name,
                cue=drawn.cue,
                begin=self.sample(begin_s),
                cue_sample=cue,
                due_sample=due,
                outcome_sample=outcome,
                outcome=drawn.outcome,
                intensity=drawn.intensity,
                level=drawn.level,
                told=drawn.told,
                rated=None if rated_s is None else self.sample(rated_s),
                asked=None if asked_s is None else self.sample(asked_s),
                off_sample=off,
                off_due_sample=off_due,
            )
        )


def timetable(
    rng: np.random.Generator,
    task: Task,
    *,
    sfreq_hz: float,
    n_samples: int,
    rest_s: float,
    blocks: tuple[BlockName, ...],
    rounds: int | None,
    noxious: int,
    innocuous: int,
) -> Timetable:
    """Fill a session with blocks.

    Parameters
    ----------
    rng : numpy.random.Generator
        Decides order and pauses.
    task : Task
        What the blocks are.
    sfreq_hz : float
        Sampling rate.
    n_samples : int
        Longest that the session may be.
    rest_s : float
        Rest before the first block.
    blocks : tuple of BlockName
        In turn; empty for a session without any.
    rounds : int or None
        How often in turn before the session ends; None goes on as long as it may.
    noxious, innocuous : int
        Intensities that the markers state.

    Returns
    -------
    Timetable
        Only trials that end within the session.

    Raises
    ------
    TaskError
        If the task has no such block.
    """
    if lacking := [name for name in blocks if name not in task.blocks]:
        raise TaskError(f"blocks {', '.join(lacking)}: the task has only {', '.join(task.blocks)}")
    out = _Writer(rng, sfreq_hz, n_samples, noxious, innocuous)
    out.markers.append((0, "SESSION/START"))
    if rest_s > 0.0:
        out.markers += [(0, "BLOCK/R/START"), (out.within(rest_s), "BLOCK/R/END")]
        out.at_s = rest_s
    turn = 0
    ended = not blocks
    whole = False
    while not ended:
        if rounds is not None and turn == rounds * len(blocks):
            whole = True
            break
        name = blocks[turn % len(blocks)]
        turn += 1
        try:
            out.block(name, _writer_of(out, name, task.blocks[name], task.timing))
        except _Full:
            ended = True
    last = out.within(out.at_s) if whole else out.last
    out.markers.append((last, "SESSION/END"))
    markers = sorted(out.markers, key=lambda marker: marker[0])
    n_samples -= out.last - last
    return Timetable(tuple(out.trials), tuple(out.activities), tuple(markers), tuple(out.awareness), n_samples)


def _writer_of(out: _Writer, name: BlockName, plan: Block, timing: Timing) -> Callable[[], None]:
    match plan:
        case Rest():
            return lambda: out.rest(plan)
        case Cued():
            return lambda: out.cued(name, plan, timing)
        case Trains():
            return lambda: out.trains_of(name, plan)
        case Heat():
            return lambda: out.heat(name, plan, timing)
        case _:
            assert_never(plan)
