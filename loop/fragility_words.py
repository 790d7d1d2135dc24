"""The figures of K12 in words for people: what was found, how sure it is, and what the session cannot tell."""

from __future__ import annotations

from collections.abc import Sequence

from loop.fragility import Fragility, Named
from loop.inference import Estimate

_NAMES = {"posterior_fossa": "posterior-fossa prediction-error index"}


def rows(figures: Fragility, estimator_kind: str) -> list[tuple[str, str]]:
    """Label and sentence of each line; an empty label continues the line above.

    Parameters
    ----------
    figures : Fragility
    estimator_kind : str
        As the configuration names it; says whose index it is.
    """
    index = _NAMES.get(estimator_kind, f"index of the estimator `{estimator_kind}`")
    found = [("persistence", f"of the {index}; 95 % intervals, each for itself and as if trials were independent")]
    if figures.excess is not None:
        found.append(("excess", f"{_sd(figures.excess)} beyond the normative learner, {_told(figures.excess)}"))
    if figures.cusum is not None:
        c = figures.cusum
        gate = f"gate at {c.threshold:g}, let go at {c.release:g}"
        found.append(("evidence", f"last {c.last:.1f}, highest {c.highest:.1f} ({gate})"))
    if figures.late_expected is not None:
        found.append(("late expected", f"index {_sd(figures.late_expected)}, {_told(figures.late_expected)}"))
    if figures.learning_rate is not None:
        rate, slope = figures.learning_rate.rate, figures.learning_rate.slope
        if slope.low > 0.0:
            words = f"{_range(rate.estimate, '.2f')}; the trials said {rate.bits:.1f} bits about it"
        else:
            words = f"cannot be told: the index follows no learner's error (slope {_range(slope, '+.2f')})"
        found.append(("learning rate", words))
    if figures.decay is not None:
        decay = figures.decay
        found.append(("decay", f"{_sd(decay.remaining)} remains ({decay.where})"))
        if decay.amplitude.low > 0.0 or decay.amplitude.high < 0.0:
            words = f"{_sd(decay.amplitude)} decays within {_range(decay.tau.estimate, '.0f')} trials to 1/e"
        else:
            words = f"no decay seen: {_sd(decay.amplitude)} would decay"
        found.append(("", words))
    if figures.onset_offset is not None:
        both = figures.onset_offset
        found.append(("onset, end", f"index {_sd(both.onset)} at onset, {_sd(both.end)} at the end"))
        found.append(("", f"end minus onset {_sd(both.difference)}, {_told(both.difference)}"))
        ratio = "has no bounds: onset is not told from 0" if both.ratio is None else _range(both.ratio, ".2f")
        found.append(("", f"ratio end to onset {ratio}; the forward model expects onsets, not ends"))
    learners = [f"r with |d| of {one.name} {_range(one.estimate, '+.2f')}" for one in figures.models]
    found += _labelled("index follows", learners)
    if figures.kalman_nis is not None:
        found.append(("Kalman NIS", f"{_range(figures.kalman_nis, '.2f')}; 1 where the filter's noise is right"))
    if figures.coupling:
        n = figures.coupling[0].estimate.n
        found.append(("coupling", f"imaginary coherency of signals, {n} × 2 s; positive: PF leads"))
        found += [("", line) for line in _pairs(figures.coupling)]
    return found + _labelled("not told", figures.untold)


def _labelled(label: str, lines: Sequence[str]) -> list[tuple[str, str]]:
    return [("" if number else label, line) for number, line in enumerate(lines)]


def _pairs(coupling: Sequence[Named]) -> list[str]:
    """One line a pair, with its bands; the interval of a mean is as wide on both sides."""
    lines: dict[str, list[str]] = {}
    for one in coupling:
        pair, _, band = one.name.rpartition(" ")
        half = 0.5 * (one.estimate.high - one.estimate.low)
        lines.setdefault(pair, []).append(f"{band} {one.estimate.value:+.3f} ± {half:.3f}")
    return [f"{pair}: {', '.join(bands)}" for pair, bands in lines.items()]


def _sd(estimate: Estimate) -> str:
    return f"{estimate.value:+.2f} sd ({estimate.low:+.2f} to {estimate.high:+.2f})"


def _range(estimate: Estimate, form: str) -> str:
    return f"{estimate.value:{form}} ({estimate.low:{form}} to {estimate.high:{form}})"


def _told(estimate: Estimate) -> str:
    side = "above 0" if estimate.low > 0.0 else "below 0" if estimate.high < 0.0 else "not told from 0"
    return f"{side}, {estimate.n} trials"
