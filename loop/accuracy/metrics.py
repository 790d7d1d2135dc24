"""What is measured: of one column in one session, and over sessions with intervals."""

from __future__ import annotations

import math
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import special, stats

Float64s = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_LEAST: Final = 3


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A mean over sessions with its 95 % interval (Student), NaN-free; `n` sessions had a value."""

    mean: float
    low: float
    high: float
    n: int


def correlation(index: Float64s, truth: Float64s) -> float:
    """Pearson's r; NaN where one of them does not vary."""
    if len(index) < _LEAST or not np.ptp(index) > 0.0 or not np.ptp(truth) > 0.0:
        return math.nan
    return float(np.corrcoef(index, truth)[0, 1])


def auc(index: Float64s, truth: Float64s) -> float:
    r"""Large against small errors: the chance that one above the session's median of \|PE\| has the higher index."""
    large = truth > np.median(truth)
    n, m = int(large.sum()), int((~large).sum())
    if n == 0 or m == 0:
        return math.nan
    ranks = stats.rankdata(index)
    return float((ranks[large].sum() - n * (n + 1) / 2.0) / (n * m))


def partial(index: Float64s, truth: Float64s, known: Float64s) -> float:
    """Correlation of what is left of both once their best linear prediction from `known` (n, k) is taken off."""
    table = np.column_stack([np.ones(len(index)), known])
    left = [values - table @ np.linalg.lstsq(table, values, rcond=None)[0] for values in (index, truth)]
    return correlation(*left)


def mean_of(values: list[float]) -> Interval | None:
    """Over sessions; None where fewer than three have a value."""
    x = np.array([value for value in values if math.isfinite(value)])
    if len(x) < _LEAST:
        return None
    half = float(special.stdtrit(len(x) - 1, 0.975)) * float(x.std(ddof=1)) / math.sqrt(len(x))
    mean = float(x.mean())
    return Interval(mean=mean, low=mean - half, high=mean + half, n=len(x))


def difference_of(one: list[float], other: list[float]) -> Interval | None:
    """Paired: of the differences, session by session."""
    return mean_of([a - b for a, b in zip(one, other, strict=True)])
