"""The harm guard: judges from probe trials, all without current, whether the current makes things worse.

Under current the artefact fakes an effect, so only trials at zero current are judged: probes before the first and after every
ON block, anodal, cathodal and sham alike. All is pure: state in, state out. `Stimulating` has no place for a measurement, so
nothing seen under current can lock, clear or extend anything.

For each channel, index and pain ratings, and for each ON block j, harm means that from block j on the level is higher than
before it, by more than a margin. Level, spread and slope on a covariate (what the normative learner expected) are conjugate
normal-inverse-gamma and learned from what came *before* block j: no scatter after a block can excuse it. The spread is
unknown, since a wrong one would forge evidence. A probe's level also wanders by itself (vigilance, habituation, learning
that differs from the normative learner's) and has a variance for that.

Half of the prior says that nothing got worse, a quarter that the index did, a quarter that the ratings did. The Bayes factor
of a channel is the mean over j, weighted 1/(j(j+1)), which leaves room for any number of blocks. Where nothing got worse such
a factor ever exceeds c, however often one looks, with probability at most 1/c (Ville's inequality; for unknown level and spread
Hendriksen, de Heide & Grünwald 2021): so at worst (1-p)/p of sessions without harm lock out at probability p. Much fewer do,
since no harm lies below the margin: `loop.accuracy.harm_power` measures how many, and what harm is found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from loop.config import HarmTable

Polarity = Literal["anodal", "cathodal", "sham", "pulses"]
Float64s = npt.NDArray[np.float64]

# Prior odds of "nothing got worse" against harm in one channel: one half against one quarter.
_PRIOR_ODDS: Final = 2.0
# While harm is likelier than this, no further block starts: more probe trials are to decide.
DOUBT: Final = 0.5
_INDEX_CLIP_SD: Final = 4.0
_RATING_MAX: Final = 100.0
# Assumed scatter of single ratings of one stimulus; six ratings' worth of trust is put in it.
_RATING_SD: Final = 12.0


class ChannelPrior(NamedTuple):
    """What is assumed of a channel before the session.

    `margin` and `spread` in the channel's unit; `dof` is how many trials the assumed spread is worth; `slope_sd` in units a
    unit of the covariate; `wander` (of a probe's level) and `harm` (size of a harm beyond the margin) in spreads.
    """

    margin: float
    spread: float
    dof: float
    slope_sd: float
    wander: float
    harm: float


class Moments(NamedTuple):
    """Count, means and sums of squared deviations of covariate x and value y: of one probe, or arrays (..., n_probes)."""

    n: float | Float64s = 0.0
    mean_x: float | Float64s = 0.0
    mean_y: float | Float64s = 0.0
    sxx: float | Float64s = 0.0
    sxy: float | Float64s = 0.0
    syy: float | Float64s = 0.0


class Probe(NamedTuple):
    """The probe trials of one stretch without current."""

    indices: Moments = Moments()
    ratings: Moments = Moments()


class OnBlock(NamedTuple):
    """An ON block: which polarity, and how much charge flowed (0 for sham); of pulses, how many."""

    polarity: Polarity
    charge_uc: float


class Probing(NamedTuple):
    """State at zero current: `probes` has one entry more than `blocks`, the last one still growing.

    `locked` is the sentence that locked the session, empty where none did.
    """

    probes: tuple[Probe, ...] = (Probe(),)
    blocks: tuple[OnBlock, ...] = ()
    locked: str = ""


class Stimulating(NamedTuple):
    """State from ramp-up until settling is over: nothing that is measured meanwhile has a way in."""

    before: Probing
    polarity: Polarity


class Verdict(NamedTuple):
    """Whether a further ON block may start (``clear``), and why not, in a sentence."""

    kind: Literal["gathering", "clear", "locked"]
    reason: str


class Harm(NamedTuple):
    """Evidence of harm in one channel, arrays (..., n_blocks): one entry a block from which on it may have begun.

    `rise` is the estimate by which the level after the block exceeds that before it, `factor` the Bayes factor of harm
    from there on against none.
    """

    rise: Float64s
    factor: Float64s


def index_prior(table: HarmTable) -> ChannelPrior:
    """Prior of the index, in standard deviations of the calibration's residual: so its spread is nearly known."""
    return ChannelPrior(margin=table.margin_sd, spread=1.0, dof=20.0, slope_sd=0.5, wander=0.1, harm=0.5)


def rating_prior(table: HarmTable) -> ChannelPrior:
    """Prior of pain ratings, 0 to 100; the covariate, expectation from 0 to 1, may well move them by 10 points."""
    return ChannelPrior(margin=0.0, spread=_RATING_SD, dof=6.0, slope_sd=10.0, wander=0.1, harm=table.rating_rise / _RATING_SD)


def take_index(state: Probing, excess_sd: float, surprise: float) -> Probing:
    """Take the index of one valid outcome at zero current.

    Parameters
    ----------
    state : Probing
    excess_sd : float
        Index beyond the normative learner's expectation, in residual standard deviations; clipped at 4.
    surprise : float
        The normative learner's |outcome - expectation|, 0 to 1: what is left of its effect is taken off.

    Returns
    -------
    Probing
        Unchanged where a number is not finite: such a trial does not count, so no block starts on it.
    """
    if not (math.isfinite(excess_sd) and math.isfinite(surprise)):
        return state
    value = min(max(excess_sd, -_INDEX_CLIP_SD), _INDEX_CLIP_SD)
    last = state.probes[-1]
    return state._replace(probes=(*state.probes[:-1], last._replace(indices=grown(last.indices, surprise, value))))


def take_rating(state: Probing, rating: float, expected: float) -> Probing:
    """Take the pain rating of one noxious outcome at zero current.

    Parameters
    ----------
    state : Probing
    rating : float
        0 to 100, of a stimulus of the session's one calibrated intensity.
    expected : float
        Noxious intensity that the normative learner had expected, 0 to 1.

    Returns
    -------
    Probing
        Unchanged where a number is not finite.
    """
    if not (math.isfinite(rating) and math.isfinite(expected)):
        return state
    value = min(max(rating, 0.0), _RATING_MAX)
    last = state.probes[-1]
    return state._replace(probes=(*state.probes[:-1], last._replace(ratings=grown(last.ratings, expected, value))))


def start_on(state: Probing, polarity: Polarity) -> Stimulating:
    """An ON block (or its sham) begins with the ramp: what came before is frozen."""
    return Stimulating(state, polarity)


def end_on(state: Stimulating, charge_uc: float) -> Probing:
    """The block is over, ramped down and settled: the next probe begins; `charge_uc` is what was delivered, 0 in sham."""
    before = state.before
    return before._replace(probes=(*before.probes, Probe()), blocks=(*before.blocks, OnBlock(state.polarity, charge_uc)))


def judge(table: HarmTable, state: Probing) -> tuple[Probing, Verdict]:
    """Say whether a further ON block may start; may be asked after every outcome.

    Parameters
    ----------
    table : HarmTable
    state : Probing

    Returns
    -------
    Probing, Verdict
        ``locked`` is final: the state keeps it, whatever comes after.
    """
    if state.locked:
        return state, Verdict("locked", state.locked)
    n, needed = int(state.probes[-1].indices.n), table.min_probe if state.blocks else table.min_baseline
    if n < needed:
        where = f"after ON block {len(state.blocks)}" if state.blocks else "before the first ON block"
        return state, Verdict("gathering", f"{n} of {needed} valid probe trials {where}")
    if not state.blocks:
        return state, Verdict("clear", f"{n} probe trials as baseline")
    indices, ratings = (stack(column) for column in zip(*state.probes, strict=True))
    index, rating = harm_in(table, indices, ratings)
    findings = (_finding(state, "index", "standard deviations", index), _finding(state, "pain ratings", "of 100", rating))
    # Written so that a number which is none at all never clears.
    for finding in findings:
        if finding.probability >= table.probability:
            sentence = f"locked out for this session: {finding.sentence}"
            return state._replace(locked=sentence), Verdict("locked", sentence)
    doubts = [finding.sentence for finding in findings if not finding.probability <= DOUBT]
    if doubts:
        return state, Verdict("gathering", f"more probe trials are to decide: {'; '.join(doubts)}")
    worst = max(finding.probability for finding in findings)
    return state, Verdict("clear", f"no sign of harm: its probability is at most {worst:.2f}")


def grown(moments: Moments, x: float | Float64s, y: float | Float64s) -> Moments:
    """Moments with one more pair of covariate and value (Welford's update)."""
    n = moments.n + 1.0
    dx, dy = x - moments.mean_x, y - moments.mean_y
    mean_x, mean_y = moments.mean_x + dx / n, moments.mean_y + dy / n
    sxy = moments.sxy + dx * (y - mean_y)
    return Moments(n, mean_x, mean_y, moments.sxx + dx * (x - mean_x), sxy, moments.syy + dy * (y - mean_y))


def stack(probes: Sequence[Moments]) -> Moments:
    """Moments of several probes as arrays, one entry a probe."""
    return Moments(*(np.array(column, dtype=np.float64) for column in zip(*probes, strict=True)))


def harm_in(table: HarmTable, indices: Moments, ratings: Moments) -> tuple[Harm, Harm]:
    """Harm in the index and in the pain ratings, from arrays (..., n_probes) of moments.

    A rise of the ratings below `table.rating_rise` may speak against harm, never for it.
    """
    rating = harm_of(rating_prior(table), ratings)
    counts = rating.rise >= table.rating_rise
    rating = rating._replace(factor=np.where(counts, rating.factor, np.minimum(rating.factor, 1.0)))
    return harm_of(index_prior(table), indices), rating


def harm_of(prior: ChannelPrior, probes: Moments) -> Harm:
    """Estimate and weigh the rise after each ON block.

    Parameters
    ----------
    prior : ChannelPrior
    probes : Moments
        Arrays (..., n_probes), at least two probes.

    Returns
    -------
    Harm
        Arrays (..., n_probes - 1). Where either side has no trial, the rise is 0 and the Bayes factor 1.

    Notes
    -----
    With m a side's mean over its probes, weighted by 1/(1/n + wander²), and b and s² as the trials before the block have
    them (Gelman et al., Bayesian Data Analysis, 3rd ed., sections 3.3 and 14.8), rise - margin given a true rise of the
    margin is s·√v times Student's t. Harm adds to it the positive half of a normal of variance s²·harm².
    """
    n = np.asarray(probes.n, dtype=np.float64)
    weight = np.where(n > 0.0, 1.0 / (1.0 / np.maximum(n, 1.0) + prior.wander**2), 0.0)
    precision = np.cumsum(weight, axis=-1)
    sum_x, sum_y = np.cumsum(weight * probes.mean_x, axis=-1), np.cumsum(weight * probes.mean_y, axis=-1)
    before = (precision[..., :-1], sum_x[..., :-1], sum_y[..., :-1])
    after = (precision[..., -1:] - before[0], sum_x[..., -1:] - before[1], sum_y[..., -1:] - before[2])
    known = (before[0] > 0.0) & (after[0] > 0.0)
    p0, p1 = np.where(known, before[0], 1.0), np.where(known, after[0], 1.0)

    # Slope and spread within the probes before the block.
    kappa = (prior.spread / prior.slope_sd) ** 2
    sxx, sxy, syy = (np.cumsum(part, axis=-1)[..., :-1] for part in (probes.sxx, probes.sxy, probes.syy))
    slope = sxy / (kappa + sxx)
    dof = prior.dof + np.cumsum(np.maximum(n - 1.0, 0.0), axis=-1)[..., :-1]
    variance = (prior.dof * prior.spread**2 + syy - slope * sxy) / dof

    dx = after[1] / p1 - before[1] / p0
    rise = np.where(known, after[2] / p1 - before[2] / p0 - slope * dx, 0.0)
    v = 1.0 / p0 + 1.0 / p1 + dx**2 / (kappa + sxx)
    return Harm(rise, np.where(known, _bayes_factor(rise - prior.margin, variance, dof, v, prior.harm**2), 1.0))


def probability_of(harm: Harm) -> Float64s:
    """Probability (...) that the channel got worse, against nothing having got worse; blocks still to come count as 1."""
    j = np.arange(1, harm.factor.shape[-1] + 1, dtype=np.float64)
    total = 1.0 + np.sum((harm.factor - 1.0) / (j * (j + 1.0)), axis=-1)
    probability: Float64s = total / (total + _PRIOR_ODDS)
    return probability


def _bayes_factor(d: Float64s, variance: Float64s, dof: Float64s, v: Float64s, harm2: float) -> Float64s:
    """Half-normal harm of variance `harm2` against none, both in units of `variance`, for a rise `d` beyond the margin."""
    wide = v + harm2
    square = d**2 / (dof * variance)
    two_sided = np.sqrt(v / wide) * ((1.0 + square / v) / (1.0 + square / wide)) ** (0.5 * (dof + 1.0))
    # Posterior of the harm, were it of either sign: Student's t with one more degree of freedom.
    scale = np.sqrt((dof * variance + d**2 / wide) / (dof + 1.0) * v * harm2 / wide)
    factor: Float64s = 2.0 * special.stdtr(dof + 1.0, d * harm2 / wide / scale) * two_sided
    return factor


class _Finding(NamedTuple):
    probability: float
    sentence: str


def _finding(state: Probing, what: str, unit: str, harm: Harm) -> _Finding:
    """A channel's probability of harm, and a sentence on the block from which on harm is likeliest."""
    probability = float(probability_of(harm))
    j = np.arange(1, len(state.blocks) + 1, dtype=np.float64)
    first = int(np.argmax(harm.factor / (j * (j + 1.0))))
    kind, dose = state.blocks[first].polarity, sum(block.charge_uc for block in state.blocks[first:])
    amount = f"{dose:.0f} pulses" if kind == "pulses" else f"{kind}, {1e-6 * dose:.2f} C"
    since = f"since ON block {first + 1} of {len(state.blocks)} ({amount})"
    rise = f"{what} higher by {harm.rise[first]:.2g} {unit}"
    return _Finding(probability, f"{rise} {since}, probability of harm {probability:.3f}")
