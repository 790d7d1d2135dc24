"""Evidence to decision: event features against their null, a normative learner, the CUSUM of K12, and why.

All is pure: state in, state out. With a calibration an outcome's index comes from its readout (K9). Without one it is the mean
of its event features, each in standard deviations of *pseudo-events*: the same windows laid on a regular grid over all of
SENSE.

With a calibration the CUSUM is one of likelihood ratios (Page 1954, Biometrika 41:100): somebody whose error persists, who
learns slowly and errs a little even where all was as told, against the normative learner. An outcome counts for as much as the
two differ on it, so trials on which both would err alike, and calibrations that tell little, add little. Without one no
size is known, and every outcome counts alike.
"""

from __future__ import annotations

import math
from typing import Final, Literal, NamedTuple

import msgspec

from loop.config import PolicyTable
from loop.readout import Readout

PSEUDO_PERIOD_S: Final = 1.3
MIN_PSEUDO: Final = 30
_SCALE_PSEUDO: Final = 10
_CLIP: Final = 4.0
_LEAST_VARIANCE: Final = 1e-12
# The null forgets with this many pseudo-events (about six minutes), so that it follows slow drifts of the recording.
_NULL_MEMORY: Final = 300
_LEARNING_RATE: Final = 0.25
# Whose error persists: the rate of the simulated fibromyalgia group and two thirds of its remaining error of 0.15, for a
# calibration of the same person has part of what remains in its offset. Chosen on development seeds.
SLOW_RATE: Final = 0.08
_REMAINS: Final = 0.1
# K12's reference value of 0.25 is half the shift that it looks for; no outcome counts for more than that shift would. Where E
# follows the error steeply, a line through the instructed trials is too coarse for larger ones.
_MOST_SHIFT: Final = 0.5
# Evidence is the log likelihood ratio in these units, so that one threshold serves with a calibration and without: 8 is 3.3
# nats. It fades by so much with each outcome: where the two hardly differ the ratio hardly moves, and a gate would stay wanted
# for hundreds of outcomes after the error has gone. Of 60 whole sessions of development seeds 77 % with a persistent error are
# gated within 60 outcomes, 0.4 gates an hour open without one, and once none is left the wish ends after 43 outcomes (median).
_PER_NAT: Final = 2.4
_FADES: Final = 0.05
PRIOR: Final = 0.5
# A decision names what it rests on; in a session that only senses this must not grow for hours (I25).
_MOST_IN_WINDOW: Final = 200
# Evidence saturates at this multiple of the threshold, so that release stays within reach after a long excess.
_CEILING: Final = 1.25


class Null(NamedTuple):
    """Running mean and variance of the pseudo-events' features; each tuple has one entry a learned stream."""

    n: int = 0
    mean: tuple[float, ...] = ()
    variance: tuple[float, ...] = ()


class Score(msgspec.Struct, frozen=True):
    """What one outcome said; None throughout where it is no evidence, with the reason."""

    index: float | None
    surprise: float
    expected: float | None
    excess: float | None
    evidence: float
    reason: str


class PolicyState(NamedTuple):
    """`belief` is expected noxious intensity per cue; `window` holds the valid outcomes of this SENSE window, the last 200.

    `slow_belief` is what somebody whose error persists would expect.
    `null` has the pseudo-events' features stream by stream, `composite` the mean over streams once each is standardised.
    """

    null: Null = Null()
    composite: Null = Null()
    belief: tuple[tuple[str, float], ...] = ()
    slow_belief: tuple[tuple[str, float], ...] = ()
    evidence: float = 0.0
    wanted: bool = False
    window: tuple[int, ...] = ()
    outcomes: int = 0
    decision: int = 0


class Verdict(NamedTuple):
    """What is wanted now, and why, in a sentence."""

    wanted: Literal["open", "closed"]
    reason: str


def learn_null(null: Null, features: tuple[float, ...]) -> Null:
    """Take one valid pseudo-event into the null: exact moments at first, exponential memory later."""
    if not null.n:
        return Null(1, features, (0.0,) * len(features))
    n = min(null.n + 1, _NULL_MEMORY)
    gain = 1.0 / n
    mean, variance = [], []
    for x, m, v in zip(features, null.mean, null.variance, strict=True):
        step = x - m
        mean.append(m + gain * step)
        variance.append((1.0 - gain) * (v + gain * step * step))
    return Null(null.n + 1, tuple(mean), tuple(variance))


def take_pseudo(state: PolicyState, features: tuple[float, ...]) -> PolicyState:
    """Take one valid pseudo-event into both nulls; the composite begins once the streams' scales are known."""
    if state.null.n >= _SCALE_PSEUDO:
        state = state._replace(composite=learn_null(state.composite, (_composite(state.null, features),)))
    return state._replace(null=learn_null(state.null, features))


class Happened(NamedTuple):
    """An outcome as the markers tell it.

    `event` is its number, `cue` the cue before it ("" for none), `intensity` its noxious intensity relative to the full one,
    0 to 1, `told` the expectation that the cue stated, None where it must be learned.
    """

    event: int
    cue: str
    intensity: float
    told: float | None = None


def expectation_of(belief: tuple[tuple[str, float], ...], happened: Happened) -> float:
    """Noxious intensity that the normative learner had expected, 0 to 1; an expectation that was stated is believed."""
    return dict(belief).get(happened.cue, PRIOR) if happened.told is None else happened.told


def surprise_of(belief: tuple[tuple[str, float], ...], happened: Happened) -> float:
    """|outcome - expectation| of the normative learner, 0 to 1."""
    return abs(happened.intensity - expectation_of(belief, happened))


def update_belief(
    belief: tuple[tuple[str, float], ...], cue: str, intensity: float, rate: float = _LEARNING_RATE
) -> tuple[tuple[str, float], ...]:
    """Rescorla–Wagner per cue, with rate 0.25 unless told otherwise (K12's normative learner)."""
    values = dict(belief)
    value = values.get(cue, PRIOR)
    values[cue] = value + rate * (intensity - value)
    return tuple(sorted(values.items()))


def score(
    table: PolicyTable,
    state: PolicyState,
    happened: Happened,
    features: tuple[float, ...] | None,
    refusal: str,
    readout: Readout | None = None,
) -> tuple[PolicyState, Score]:
    """Judge one outcome and, where it is evidence, move the CUSUM.

    Parameters
    ----------
    table : PolicyTable
    state : PolicyState
    happened : Happened
    features : tuple of float, or None
        Event features (K8); None where they are not valid.
    refusal : str
        Why this outcome may not be evidence; empty where it may.
    readout : Readout, optional
        The calibration's; without one the index is judged against pseudo-events.

    Returns
    -------
    PolicyState, Score
        An outcome that is no evidence still teaches the learner: the participant saw it.
    """
    surprise, slow_surprise = surprise_of(state.belief, happened), surprise_of(state.slow_belief, happened)
    state = state._replace(outcomes=state.outcomes + 1)
    if happened.told is None:
        state = state._replace(
            belief=update_belief(state.belief, happened.cue, happened.intensity),
            slow_belief=update_belief(state.slow_belief, happened.cue, happened.intensity, SLOW_RATE),
        )
    index = index_of(state, features, readout)
    if not refusal and features is None:
        refusal = "features not valid"
    if not refusal and index is None:
        refusal = f"the null has {state.composite.n} of {MIN_PSEUDO} pseudo-events"
    if refusal or index is None:
        return state, Score(index, surprise, None, None, state.evidence, refusal)
    if readout is not None:
        expected = readout.b1 * surprise / readout.sigma
        excess = index - expected
        shift = shift_of(readout, surprise, slow_surprise)
        step = _PER_NAT * shift * (excess - 0.5 * shift) - _FADES
    else:
        expected = table.expected_offset + table.expected_gain * surprise
        excess = index - expected
        step = excess - table.drift
    evidence = min(max(0.0, state.evidence + step), _CEILING * table.threshold)
    state = state._replace(evidence=evidence, window=(*state.window, happened.event)[-_MOST_IN_WINDOW:])
    return state, Score(index, surprise, expected, excess, evidence, "")


def shift_of(readout: Readout, surprise: float, slow_surprise: float) -> float:
    """By how many sigma E would lie higher if this person's error persisted; at most half of one, less where b1 is not firm."""
    shift = readout.firmness * readout.b1 / readout.sigma * (slow_surprise - surprise + _REMAINS)
    return min(max(shift, -_MOST_SHIFT), _MOST_SHIFT)


def index_of(state: PolicyState, features: tuple[float, ...] | None, readout: Readout | None) -> float | None:
    """The index of one event: in the readout's residual sd, or in sd of pseudo-events; None while neither can be told."""
    if features is None:
        return None
    if readout is not None:
        return (readout.apply(features) - readout.b0) / readout.sigma
    if state.composite.n < MIN_PSEUDO:
        return None
    (mean,), (variance,) = state.composite.mean, state.composite.variance
    deviation = (_composite(state.null, features) - mean) / math.sqrt(variance + _LEAST_VARIANCE)
    return min(max(deviation, -_CLIP), _CLIP)


def start_sense(state: PolicyState) -> PolicyState:
    """A new SENSE window: outcomes are counted anew, evidence stays."""
    return state._replace(window=())


def judge(table: PolicyTable, state: PolicyState) -> Verdict:
    """What closed_loop wants after the outcomes so far of this SENSE window."""
    n, level = len(state.window), state.evidence
    if n < table.min_outcomes:
        return Verdict("closed", f"{n} of {table.min_outcomes} valid outcomes in this window")
    if state.wanted and level > table.release:
        return Verdict("open", f"evidence {level:.1f} still above the release level {table.release:g}")
    if level >= table.threshold:
        return Verdict("open", f"evidence {level:.1f} reached the threshold {table.threshold:g}")
    if state.wanted:
        return Verdict("closed", f"evidence {level:.1f} fell to the release level {table.release:g}")
    return Verdict("closed", f"evidence {level:.1f} below the threshold {table.threshold:g}")


def _composite(null: Null, features: tuple[float, ...]) -> float:
    """Mean over streams of the standardised features, each clipped at 4 standard deviations (K9's clip)."""
    total = 0.0
    for x, m, v in zip(features, null.mean, null.variance, strict=True):
        total += min(max((x - m) / math.sqrt(v + _LEAST_VARIANCE), -_CLIP), _CLIP)
    return total / len(features)
