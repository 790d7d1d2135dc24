"""K12: whether the error persists, from what a session's outcomes say, each figure with its interval.

Everything here is worked out from the record after the fact; the policy decides on its CUSUM alone. The index is the
*posterior-fossa prediction-error index*: of scalp channels, not of the cerebellum. Only outcomes that were evidence count, so
none that was seen under current.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from devices.units import NS_PER_S
from loop.coupling import PAIRS
from loop.events import CouplingEpoch, Marker, Outcome, StimulusEnd
from loop.inference import Estimate, Float64s, GridPosterior, correlation_of, grid_posterior, mean_of, ratio_of
from loop.markers import canonical
from loop.policy import PRIOR

_LATE: Final = 15
_EXPECTED: Final = 0.3
_LEAST_TRIALS: Final = 20
# A uniform prior over the logarithm: of the learning rate, and of the trials in which an error decays to 1/e.
RATES: Final = np.geomspace(0.02, 0.8, 24)
DECAYS: Final = np.geomspace(1.0, 60.0, 24)
_DECAYING_BLOCKS: Final = ("A", "V")
# Windows from 0.6 s before to 0.7 s after an event: sooner, onset and end would share samples.
_APART_NS: Final = (1_300_000_000, 30 * NS_PER_S)


class Cusum(msgspec.Struct, frozen=True, kw_only=True):
    """Accumulated evidence: its highest and its last value, and the levels at which the gate is wanted and let go."""

    highest: float
    last: float
    threshold: float
    release: float


class LearningRate(msgspec.Struct, frozen=True, kw_only=True):
    r"""Posterior of the rate of a Rescorla–Wagner learner whose \|d\| the index follows with this `slope`.

    Where the slope's interval reaches zero or below, the index follows no learner, and the rate means nothing.
    """

    rate: GridPosterior
    slope: Estimate


class Decay(msgspec.Struct, frozen=True, kw_only=True):
    """Index = `remaining` + `amplitude` · exp(-k / tau), k the trials of that cue since its block began.

    `remaining` is what does not decay (persistence), `tau` the posterior of the time constant in trials; where the amplitude's
    interval holds zero, no decay was seen and `tau` means nothing.
    """

    remaining: Estimate
    amplitude: Estimate
    tau: GridPosterior
    where: str


class OnsetOffset(msgspec.Struct, frozen=True, kw_only=True):
    """Index at a stimulus' onset and at its end, in pairs; `ratio` (end to onset) is None where it has no bounds.

    The forward model learns what follows a cue and an onset, but no marker tells it of an end (K5): part of the index at
    the end is the plain response to it.
    """

    onset: Estimate
    end: Estimate
    difference: Estimate
    ratio: Estimate | None


class Named(msgspec.Struct, frozen=True, kw_only=True):
    """An estimate and what it is of."""

    name: str
    estimate: Estimate


class Fragility(msgspec.Struct, frozen=True, kw_only=True):
    r"""All figures of K12; None where the session does not tell, and `untold` says why.

    `excess` is the index beyond what the normative learner's surprise explains, in standard deviations. `late_expected` is F:
    the mean index of expected outcomes (\|d\| < 0.3) after the fifteenth; what is still to be learned is part of it, so
    compare it between people or sessions rather than with zero. `models` has, for each learner, the correlation of the
    index with its \|d\|, `kalman_nis` the filter's mean normalised innovation squared (1 where its noise is right).
    `coupling` is imaginary coherency, one a pair and band (`loop.coupling`).
    """

    excess: Estimate | None
    cusum: Cusum | None
    late_expected: Estimate | None
    learning_rate: LearningRate | None
    decay: Decay | None
    onset_offset: OnsetOffset | None
    models: tuple[Named, ...]
    kalman_nis: Estimate | None
    coupling: tuple[Named, ...]
    untold: tuple[str, ...]


def assess(
    outcomes: Sequence[Outcome],
    ends: Sequence[StimulusEnd],
    epochs: Sequence[CouplingEpoch],
    blocks: Sequence[tuple[int, str]],
    levels: tuple[float, float],
) -> Fragility:
    """Work out every figure that the session can tell.

    Parameters
    ----------
    outcomes : sequence of Outcome
        All of the session, in order.
    ends : sequence of StimulusEnd
    epochs : sequence of CouplingEpoch
    blocks : sequence of (int, str)
        Start in nanoseconds and letter of each block, as `blocks_of` gives them; empty where the session marks none.
    levels : (float, float)
        The CUSUM's threshold and release.
    """
    untold: list[str] = []
    used = [one for one in outcomes if _counts(one)]
    excess = mean_of([one.excess for one in used if one.excess is not None])
    if excess is None:
        untold.append(f"excess: only {len(used)} outcomes were evidence")
    late = [one.index for one in outcomes[_LATE:] if _counts(one) and one.surprise < _EXPECTED]
    late_expected = mean_of([index for index in late if index is not None])
    if late_expected is None:
        untold.append(f"late expected outcomes: only {len(late)} after the {_LATE}th")
    epoch_means = [mean_of(column) for column in zip(*(epoch.imaginary for epoch in epochs), strict=True)]
    if not epoch_means:
        untold.append("coupling: no epochs (needs frontal and sensorimotor channels, and SENSE without artefacts)")
    nis = [one.kalman_nis for one in outcomes if one.kalman_nis is not None]
    return Fragility(
        excess=excess,
        cusum=_cusum(outcomes, levels),
        late_expected=late_expected,
        learning_rate=_learning_rate(outcomes, untold),
        decay=_decay(outcomes, blocks, untold),
        onset_offset=_onset_offset(used, ends, untold),
        models=_models(used),
        kalman_nis=mean_of(nis),
        coupling=_named(zip(PAIRS, epoch_means, strict=False)),
        untold=tuple(untold),
    )


def blocks_of(markers: Iterable[Marker], rename: Mapping[str, str]) -> list[tuple[int, str]]:
    """Start and letter of each block that the markers name (``BLOCK/A/START``)."""
    found = []
    for marker in markers:
        parts = canonical(marker.text, rename).split("/")
        if len(parts) == 3 and parts[0] == "BLOCK" and parts[2] == "START":
            found.append((marker.stamp_ns, parts[1]))
    return sorted(found)


def rate_errors(outcomes: Sequence[Outcome], rate: float) -> Float64s:
    r"""\|d\| of a Rescorla–Wagner learner of this rate on each outcome, shape (n,); what was told is believed."""
    belief: dict[str, float] = {}
    errors = np.empty(len(outcomes))
    for k, one in enumerate(outcomes):
        u = one.intensity if one.intensity is not None else 0.0
        value = belief.get(one.cue, PRIOR) if one.told is None else one.told
        errors[k] = abs(u - value)
        if one.told is None:
            belief[one.cue] = value + rate * (u - value)
    return errors


def _counts(one: Outcome) -> bool:
    return one.index is not None and not one.reason


def _cusum(outcomes: Sequence[Outcome], levels: tuple[float, float]) -> Cusum | None:
    if not outcomes:
        return None
    evidence = [one.evidence for one in outcomes]
    return Cusum(highest=max(evidence), last=evidence[-1], threshold=levels[0], release=levels[1])


def _learning_rate(outcomes: Sequence[Outcome], untold: list[str]) -> LearningRate | None:
    chosen = np.array([_counts(one) and one.told is None and one.intensity is not None for one in outcomes], dtype=bool)
    if chosen.sum() < _LEAST_TRIALS:
        untold.append(f"learning rate: {chosen.sum()} usable outcomes with an expectation to learn, needs {_LEAST_TRIALS}")
        return None
    y = np.array([one.index for one in itertools.compress(outcomes, chosen)], dtype=np.float64)

    def design(rate: float) -> Float64s:
        return np.column_stack([np.ones(len(y)), rate_errors(outcomes, rate)[chosen]])

    rate, (_, slope) = grid_posterior(RATES, design, y)
    return LearningRate(rate=rate, slope=slope)


def _decay(outcomes: Sequence[Outcome], blocks: Sequence[tuple[int, str]], untold: list[str]) -> Decay | None:
    """Only where the expectation is learned, and, where blocks are marked, only in A and V, whose error can decay."""
    starts = np.array([start for start, _ in blocks], dtype=np.int64)
    seen: Counter[tuple[int, str]] = Counter()
    ages, values = [], []
    for one in outcomes:
        block = int(np.searchsorted(starts, one.t_ns, side="right")) - 1
        age = seen[block, one.cue]
        seen[block, one.cue] += 1
        can_decay = not blocks or (block >= 0 and blocks[block][1] in _DECAYING_BLOCKS)
        if can_decay and one.told is None and one.index is not None and _counts(one):
            ages.append(age)
            values.append(one.index)
    if len(values) < _LEAST_TRIALS:
        where = "in blocks A and V" if blocks else "whose expectation is learned"
        untold.append(f"decay: {len(values)} usable outcomes {where}, needs {_LEAST_TRIALS}")
        return None
    k, y = np.array(ages, dtype=np.float64), np.array(values)

    def design(tau: float) -> Float64s:
        return np.column_stack([np.ones(len(k)), np.exp(-k / tau)])

    tau, (remaining, amplitude) = grid_posterior(DECAYS, design, y)
    where = "blocks A and V" if blocks else "the whole session, which marks no blocks"
    return Decay(remaining=remaining, amplitude=amplitude, tau=tau, where=where)


def _onset_offset(used: Sequence[Outcome], ends: Sequence[StimulusEnd], untold: list[str]) -> OnsetOffset | None:
    onsets = [one for one in used if one.text.startswith("STIM/NOX")]
    times = np.array([one.t_ns for one in onsets], dtype=np.int64)
    pairs: list[tuple[float, float]] = []
    for end in ends:
        at = int(np.searchsorted(times, end.t_ns)) - 1
        if at < 0 or end.index is None or end.reason:
            continue
        onset = onsets[at]
        if onset.index is not None and _APART_NS[0] <= end.t_ns - onset.t_ns <= _APART_NS[1]:
            pairs.append((onset.index, end.index))
    x, y = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    onset_mean, end_mean, difference = mean_of(x), mean_of(y), mean_of(y - x)
    if onset_mean is None or end_mean is None or difference is None:
        why = "no STIM_OFF markers" if not ends else f"only {len(x)} ends of stimuli that lasted 1.3 s or longer were usable"
        untold.append(f"onset against end: {why}")
        return None
    return OnsetOffset(onset=onset_mean, end=end_mean, difference=difference, ratio=ratio_of(y, x))


def _models(used: Sequence[Outcome]) -> tuple[Named, ...]:
    columns: dict[str, list[float | None]] = {
        "the normative learner": [one.surprise for one in used],
        "Rescorla–Wagner (rate 0.2)": [one.d_rescorla_wagner for one in used],
        "the Kalman filter": [one.d_kalman for one in used],
        "the eHGF": [one.d_ehgf for one in used],
    }
    index = [one.index for one in used]
    found: list[tuple[str, Estimate | None]] = []
    for name, errors in columns.items():
        pairs = [(e, i) for e, i in zip(errors, index, strict=True) if e is not None and i is not None]
        found.append((name, correlation_of([e for e, _ in pairs], [i for _, i in pairs])))
    return _named(found)


def _named(found: Iterable[tuple[str, Estimate | None]]) -> tuple[Named, ...]:
    return tuple(Named(name=name, estimate=estimate) for name, estimate in found if estimate is not None)
