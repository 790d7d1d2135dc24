"""The pain-expectation paradigm as a timetable: what is shown and delivered when, in samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from devices.mock.patient_settings import BlockName

Outcome = Literal["NOX", "INN", "OMIT"]

CUE_TO_OUTCOME_S: Final = 2.0
_FIXATION_S: Final = (0.5, 1.0)
_SILENCE_S: Final = 1.5
_RATING_S: Final = (1.0, 4.0)
_RATED_SHARE: Final = 0.5
_PAUSE_S: Final = (4.0, 6.0)

TRIALS: Final[dict[BlockName, int]] = {"I": 80, "A": 40, "P": 80, "V": 40}

# Probability of a noxious outcome after each cue; of the others in P and I half are innocuous and half
# omitted.
_ACQUIRED: Final = {"H": 1.0, "L": 0.0}
_PROBABILISTIC: Final = {"H": 0.75, "L": 0.25, "N": 0.5}
_REVERSED: Final = {"H": 0.0, "L": 1.0}
_STATED_PERCENT: Final = (0, 25, 50, 75, 100)
_STATED_LEVELS: Final = (0.6, 1.0)


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial; times in samples from the start of the session.

    `level` is the strength of a noxious outcome here, 1 being the calibrated one; `told` is the expectation
    that the cue states, None where it must be learned. `rated` is when the rating is given, None on trials
    without one.
    """

    number: int
    block: BlockName
    cue: str
    begin: int
    cue_sample: int
    outcome_sample: int
    outcome: Outcome
    intensity: int
    level: float
    told: float | None
    rated: int | None


@dataclass(frozen=True, slots=True)
class Timetable:
    """All trials in order, and the markers (sample, text) that do not depend on what the participant does."""

    trials: tuple[Trial, ...]
    markers: tuple[tuple[int, str], ...]


def _outcomes(n: int, probability: float, fills: tuple[Outcome, ...]) -> list[Outcome]:
    """Exactly the stated share of noxious outcomes; the rest takes turns."""
    noxious = round(n * probability)
    return ["NOX" if i < noxious else fills[(i - noxious) % len(fills)] for i in range(n)]


def _plan(block: BlockName, rng: np.random.Generator) -> list[tuple[str, Outcome, float, float | None]]:
    """Cue, outcome, level and stated expectation of each trial of a block, shuffled."""
    n = TRIALS[block]
    plan: list[tuple[str, Outcome, float, float | None]] = []
    if block == "I":
        each = n // (len(_STATED_PERCENT) * len(_STATED_LEVELS))
        for percent in _STATED_PERCENT:
            for grade, level in enumerate(_STATED_LEVELS, start=1):
                told = percent / 100.0 * level
                outcomes = _outcomes(each, percent / 100.0, ("INN", "OMIT"))
                plan += [(f"P{percent}/I{grade}", outcome, level, told) for outcome in outcomes]
    else:
        table = {"A": _ACQUIRED, "P": _PROBABILISTIC, "V": _REVERSED}[block]
        fills: tuple[Outcome, ...] = ("INN", "OMIT") if block == "P" else ("INN",)
        for i, (cue, probability) in enumerate(table.items()):
            each = n // len(table) + (i < n % len(table))
            plan += [(cue, outcome, 1.0, None) for outcome in _outcomes(each, probability, fills)]
    return [plan[i] for i in rng.permutation(len(plan))]


def timetable(
    rng: np.random.Generator,
    *,
    sfreq_hz: float,
    n_samples: int,
    rest_s: float,
    blocks: tuple[BlockName, ...],
    noxious: int,
    innocuous: int,
) -> Timetable:
    """Fill a session with trials.

    Parameters
    ----------
    rng : numpy.random.Generator
        Decides order and pauses.
    sfreq_hz : float
        Sampling rate.
    n_samples : int
        Length of the session.
    rest_s : float
        Rest before the first block.
    blocks : tuple of {"I", "A", "P", "V"}
        In turn, over and over; empty for a session without trials.
    noxious, innocuous : int
        Intensities that the markers state.

    Returns
    -------
    Timetable
        Only trials whose silent time after the outcome ends within the session.
    """
    last = n_samples - 1
    trials: list[Trial] = []
    markers: list[tuple[int, str]] = [(0, "SESSION/START")]
    at = rest_s
    if rest_s > 0.0:
        markers += [(0, "BLOCK/R/START"), (min(round(rest_s * sfreq_hz), last), "BLOCK/R/END")]
    full = not blocks
    turn = 0
    while not full:
        block = blocks[turn % len(blocks)]
        turn += 1
        begun = False
        for cue, outcome, level, told in _plan(block, rng):
            begin = round(at * sfreq_hz)
            cue_sample = round((at + rng.uniform(*_FIXATION_S)) * sfreq_hz)
            outcome_sample = cue_sample + round(CUE_TO_OUTCOME_S * sfreq_hz)
            quiet_s = outcome_sample / sfreq_hz + _SILENCE_S
            rated_s = quiet_s + rng.uniform(*_RATING_S) if rng.random() < _RATED_SHARE else None
            end_s = (rated_s or quiet_s) + rng.uniform(*_PAUSE_S)
            if (rated_s or quiet_s) * sfreq_hz > last:
                full = True
                break
            if not begun:
                markers.append((begin, f"BLOCK/{block}/START"))
                begun = True
            intensity = {"NOX": round(noxious * level), "INN": innocuous, "OMIT": 0}[outcome]
            trials.append(
                Trial(
                    number=len(trials) + 1,
                    block=block,
                    cue=cue,
                    begin=begin,
                    cue_sample=cue_sample,
                    outcome_sample=outcome_sample,
                    outcome=outcome,
                    intensity=intensity,
                    level=level,
                    told=told,
                    rated=None if rated_s is None else round(rated_s * sfreq_hz),
                )
            )
            stimulus = "STIM/OMIT" if outcome == "OMIT" else f"STIM/{outcome}/{intensity}"
            markers += [
                (begin, f"TRIAL/{len(trials)}"),
                (cue_sample, f"CUE/{cue}"),
                (outcome_sample, "OUT_DUE"),
                (outcome_sample, stimulus),
            ]
            at = end_s
        if begun:
            markers.append((min(round(at * sfreq_hz), last), f"BLOCK/{block}/END"))
    markers.append((last, "SESSION/END"))
    return Timetable(tuple(trials), tuple(markers))
