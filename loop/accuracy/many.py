"""Evidence and gates over many sessions, trial by trial, without EEG: where whole sessions would take hours.

A patient of the simulation plays the blocks A, P and V once (160 outcomes). Each error becomes an index as one of the sessions
with EEG had it: its own offset, slope and noise against the truth, judged by its own readout (`bench.Law`). Then the policy
itself decides. What is left out: outcomes that are not valid (5 %), noise that is not normal, and drifts.

The session is one of the same group, and its readout is moved to where a calibration of this very patient would have put it:
what of an error remains where all was as told is part of the offset then, and no excess. Before, somebody erring persistently
was judged by the calibration of somebody who does not, and the other way round: gates came both too easily and too rarely.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec
import numpy as np

from devices.mock.paradigm import timetable
from devices.mock.patient_settings import BlockName, Group, PatientSettings
from devices.mock.person import Person
from devices.mock.task import load_task
from loop import policy
from loop.accuracy.bench import Law
from loop.accuracy.harm_power import wilson
from loop.config import PolicyTable
from loop.policy import Happened, PolicyState
from loop.readout import Readout

Who = Literal["HC", "CC", "FM", "no excess"]
WITHIN: Final = 60

_BLOCKS: Final[tuple[BlockName, ...]] = ("A", "P", "V")
_BASE_SEED: Final = 1_000_000


class Gated(msgspec.Struct, frozen=True, kw_only=True):
    """Shares of the sessions of one kind of patient, with Wilson's 95 % intervals, and openings an hour."""

    who: str
    sessions: int
    within: float
    within_low: float
    within_high: float
    ever: float
    ever_low: float
    ever_high: float
    an_hour: float
    median_trial: float | None


def gated(who: Who, laws: Sequence[Law], table: PolicyTable, sessions: int) -> Gated:
    """Play sessions without current and count what the evidence would have opened.

    Parameters
    ----------
    who : {"HC", "CC", "FM", "no excess"}
        ``no excess`` errs and learns exactly as the normative learner of the policy.
    laws : sequence of Law
        Of sessions with EEG; those of the same group are taken in turn, all of them where there are none or for ``no excess``.
    table : PolicyTable
    sessions : int
    """
    own = [law for law in laws if law.group == who] or laws
    played = [_session(who, own[number % len(own)], table, _BASE_SEED + number) for number in range(sessions)]
    return counted(who, [opened for opened, _ in played], sum(lasted_s for _, lasted_s in played) / 3600.0)


def counted(who: str, opened: Sequence[Sequence[int]], hours: float) -> Gated:
    """Sum up at which outcomes the gates of each session opened, counted from 1, in so many hours altogether."""
    sessions = len(opened)
    known = [gates[0] for gates in opened if gates]
    soon = sum(first <= WITHIN for first in known)
    within_low, within_high = wilson(soon, sessions)
    ever_low, ever_high = wilson(len(known), sessions)
    return Gated(
        who=who,
        sessions=sessions,
        within=soon / sessions,
        within_low=within_low,
        within_high=within_high,
        ever=len(known) / sessions,
        ever_low=ever_low,
        ever_high=ever_high,
        an_hour=sum(map(len, opened)) / hours,
        median_trial=float(np.median(known)) if known else None,
    )


def _session(who: Who, law: Law, table: PolicyTable, seed: int) -> tuple[list[int], float]:
    """Outcomes at which a gate opened, counted from 1, and how long the session lasted."""
    group: Group = "normative" if who == "no excess" else who
    settings = PatientSettings(seed=seed, group=group, blocks=_BLOCKS, rounds=1, rest_s=0.0)
    person = Person(settings)
    plan = timetable(
        np.random.default_rng([seed, 1]),
        load_task(settings.task),
        sfreq_hz=settings.sfreq_hz,
        n_samples=round(7200 * settings.sfreq_hz),
        rest_s=0.0,
        blocks=_BLOCKS,
        rounds=1,
        noxious=settings.noxious_intensity,
        innocuous=settings.innocuous_intensity,
    )
    rng = np.random.default_rng([seed, 7])
    readout = _readout(law, person)
    state, wanted = PolicyState(), False
    opened = []
    for number, trial in enumerate(plan.trials, start=1):
        u = trial.level if trial.outcome == "NOX" else 0.0
        expected = person.expects(trial.cue, trial.told)
        error = person.error(u - expected)
        noise, wander = rng.standard_normal(2).tolist()
        if trial.told is None:
            person.learn(trial.cue, expected, u - expected, wander)
        value = law.offset + law.slope * error + law.noise * noise
        state, _ = policy.score(table, state, Happened(number, trial.cue, u, trial.told), (value,), "", readout)
        wants = policy.judge(table, state).wanted == "open"
        if wants and not wanted:
            opened.append(number)
        wanted = wants
        state = state._replace(wanted=wanted)
    return opened, plan.trials[-1].outcome_sample / settings.sfreq_hz


def _readout(law: Law, person: Person) -> Readout:
    """The session's readout for an index that is worked out already, as if this person had been calibrated."""
    return Readout(
        names=("E",),
        median=(0.0,),
        scale=(1e6,),
        weights=(1e6,),
        intercept=0.0,
        sigma=law.sigma,
        b0=law.b0 + law.slope * (person.persistence - law.persistence),
        b1=max(0.0, law.b1 + law.slope * (person.gain - law.gain)),
        n_trials=80,
        r_cv=law.r_cv,
    )
