"""Belief models of K10: what three learners, all of them run in parallel, expect of each cue.

All is pure: state in, state out. None of them steers current: the policy's normative learner stays what it is
(`loop.policy`). They say how a trial's surprise depends on the assumed learner, and how well each fits.

Rescorla–Wagner and Kalman follow noxious intensity, 0 to 1; the enhanced hierarchical Gaussian filter (eHGF, binary, three
levels; Weber et al. 2023, arXiv 2305.10937) follows whether the stimulus was noxious at all. An expectation that was stated
is believed by all three and teaches none.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

# K10: rate of Rescorla–Wagner; process and observation noise of the Kalman filter; tonic volatilities and coupling of the eHGF.
RW_RATE: Final = 0.2
KALMAN_Q: Final = 0.01
KALMAN_R: Final = 0.1
OMEGA_2: Final = -3.0
OMEGA_3: Final = -6.0
KAPPA: Final = 1.0
# A uniform belief between 0 and 1 has this mean and this variance.
PRIOR_MEAN: Final = 0.5
PRIOR_VARIANCE: Final = 1.0 / 12.0
# A log volatility that no session comes near (that takes thousands of equal outcomes, then another); beyond, exp overflows.
_MOST_MU_3: Final = 10.0


class Kalman(NamedTuple):
    """Expected intensity and its variance."""

    value: float = PRIOR_MEAN
    variance: float = PRIOR_VARIANCE


class Hgf(NamedTuple):
    """Mean and precision of level 2 (log odds of a noxious outcome) and of level 3 (log volatility)."""

    mu_2: float = 0.0
    pi_2: float = 1.0
    mu_3: float = 0.0
    pi_3: float = 1.0


class CueBelief(NamedTuple):
    """What the three models hold about one cue; the defaults are what they hold before its first trial."""

    rescorla_wagner: float = PRIOR_MEAN
    kalman: Kalman = Kalman()
    hgf: Hgf = Hgf()


Beliefs = tuple[tuple[str, CueBelief], ...]
"""One entry a cue that has been followed by an outcome, sorted by cue."""


class Trial(NamedTuple):
    """An outcome as the markers tell it.

    `intensity` is the noxious intensity relative to the full one, 0 to 1. `told` is the intensity that the cue said to expect,
    `told_chance` the probability of a noxious outcome that it stated; both None where the expectation must be learned.
    """

    cue: str
    intensity: float
    told: float | None = None
    told_chance: float | None = None


class Errors(NamedTuple):
    r"""\|delta\| of each model on one trial, 0 to 1, and the Kalman filter's normalised innovation squared.

    `kalman_nis` has mean 1 where the filter's noise is right; None on trials whose expectation was told.
    """

    rescorla_wagner: float
    kalman: float
    hgf: float
    kalman_nis: float | None


def errors_of(beliefs: Beliefs, trial: Trial) -> Errors:
    """How much each model is surprised by a trial, given what it held before it."""
    noxious = 1.0 if trial.intensity > 0.0 else 0.0
    if trial.told is not None:
        error = abs(trial.intensity - trial.told)
        chance = trial.told if trial.told_chance is None else trial.told_chance
        return Errors(error, error, abs(noxious - chance), None)
    belief = dict(beliefs).get(trial.cue, CueBelief())
    innovation = trial.intensity - belief.kalman.value
    nis = innovation * innovation / (belief.kalman.variance + KALMAN_Q + KALMAN_R)
    return Errors(
        rescorla_wagner=abs(trial.intensity - belief.rescorla_wagner),
        kalman=abs(innovation),
        hgf=abs(noxious - sigmoid(belief.hgf.mu_2)),
        kalman_nis=nis,
    )


def learn(beliefs: Beliefs, trial: Trial) -> Beliefs:
    """What the models hold after a trial; unchanged where the expectation was told."""
    if trial.told is not None:
        return beliefs
    values = dict(beliefs)
    before = values.get(trial.cue, CueBelief())
    values[trial.cue] = CueBelief(
        rescorla_wagner=rescorla_wagner(before.rescorla_wagner, trial.intensity),
        kalman=kalman(before.kalman, trial.intensity),
        hgf=hgf(before.hgf, 1.0 if trial.intensity > 0.0 else 0.0),
    )
    return tuple(sorted(values.items()))


def rescorla_wagner(value: float, u: float, rate: float = RW_RATE) -> float:
    """One step of Rescorla–Wagner: v + rate (u - v)."""
    return value + rate * (u - value)


def kalman(state: Kalman, u: float) -> Kalman:
    """One step of the Kalman filter of a random walk seen in noise: P += q; K = P/(P+r); v += K (u - v); P *= 1 - K."""
    predicted = state.variance + KALMAN_Q
    gain = predicted / (predicted + KALMAN_R)
    return Kalman(state.value + gain * (u - state.value), predicted * (1.0 - gain))


def hgf(state: Hgf, u: float) -> Hgf:
    """One step of the binary eHGF.

    Parameters
    ----------
    state : Hgf
    u : float
        1 for a noxious outcome, 0 for any other.

    Returns
    -------
    Hgf
        Where the precision of level 3 would not stay positive, it keeps its predicted value: beyond that the quadratic
        approximation of the update no longer holds.
    """
    volatility = math.exp(KAPPA * state.mu_3 + OMEGA_2)
    predicted_2 = 1.0 / (1.0 / state.pi_2 + volatility)
    chance = sigmoid(state.mu_2)
    pi_2 = predicted_2 + chance * (1.0 - chance)
    step = (u - chance) / pi_2
    weight = volatility * predicted_2
    surprise = predicted_2 / pi_2 + predicted_2 * step * step - 1.0
    predicted_3 = 1.0 / (1.0 / state.pi_3 + math.exp(OMEGA_3))
    mu_3 = min(max(state.mu_3 + 0.5 * KAPPA * weight * surprise / predicted_3, -_MOST_MU_3), _MOST_MU_3)
    square = (KAPPA * weight) ** 2
    pi_3 = predicted_3 + 0.5 * square + square * surprise - 0.5 * KAPPA**2 * weight * surprise
    return Hgf(state.mu_2 + step, pi_2, mu_3, pi_3 if pi_3 > 0.0 else predicted_3)


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), in a form that cannot overflow."""
    return 0.5 * (1.0 + math.tanh(0.5 * x))
