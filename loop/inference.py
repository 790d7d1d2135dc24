"""Numbers with their intervals: means, ratios, and posteriors over a grid of one parameter with a conjugate regression each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import special

Float64s = npt.NDArray[np.float64]

LEAST_N: Final = 5
_COVERAGE: Final = 0.95
_TAILS: Final = (0.5 * (1.0 - _COVERAGE), 0.5 * (1.0 + _COVERAGE))
# Prior of the regressions, for values in standard deviations: noise of about one, worth two trials; coefficients of a few.
_PRIOR_SHAPE: Final = 1.0
_PRIOR_RATE: Final = 1.0
_PRIOR_PRECISION: Final = 1.0 / 9.0


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A value, its 95 % interval from `low` to `high`, and on how many trials, epochs or pairs it rests."""

    value: float
    low: float
    high: float
    n: int


class GridPosterior(msgspec.Struct, frozen=True, kw_only=True):
    """Posterior of a positive parameter, uniform beforehand in its logarithm over a grid.

    `estimate` is its median with the 95 % interval; `bits` how much the trials said about it, from 0 (nothing: the interval is
    the grid's own) to log2 of the number of grid points. `grid` and `weights` are the posterior itself.
    """

    estimate: Estimate
    bits: float
    grid: tuple[float, ...]
    weights: tuple[float, ...]


class _Regression(NamedTuple):
    """Conjugate normal-inverse-gamma posterior: mean and scale of each coefficient's Student t, its dof, log evidence."""

    mean: Float64s
    scale: Float64s
    dof: float
    log_evidence: float


def mean_of(values: npt.ArrayLike) -> Estimate | None:
    """Mean with Student's interval, as if the values were independent; None where there are fewer than 5."""
    x = np.asarray(values, dtype=np.float64)
    if len(x) < LEAST_N:
        return None
    half = _t(len(x) - 1) * float(x.std(ddof=1)) / math.sqrt(len(x))
    mean = float(x.mean())
    return Estimate(value=mean, low=mean - half, high=mean + half, n=len(x))


def correlation_of(x: npt.ArrayLike, y: npt.ArrayLike) -> Estimate | None:
    """Pearson's r with Fisher's interval; None where there are fewer than 5 pairs or one side does not vary."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(a) < LEAST_N or not np.ptp(a) > 0.0 or not np.ptp(b) > 0.0:
        return None
    r = float(np.corrcoef(a, b)[0, 1])
    z, half = math.atanh(max(-0.999999, min(0.999999, r))), 1.96 / math.sqrt(len(a) - 3)
    return Estimate(value=r, low=math.tanh(z - half), high=math.tanh(z + half), n=len(a))


def ratio_of(above: npt.ArrayLike, below: npt.ArrayLike) -> Estimate | None:
    """Ratio of two paired means with Fieller's interval; None where the lower mean cannot be told from zero.

    Then the ratio has no bounds: any number could be meant (Fieller 1954, J R Stat Soc B 16:175).
    """
    y, x = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    n = len(x)
    if n < LEAST_N:
        return None
    covariance = np.cov(x, y) / n
    square = _t(n - 1) ** 2
    mean_x, mean_y = float(x.mean()), float(y.mean())
    a = mean_x**2 - square * float(covariance[0, 0])
    b = mean_x * mean_y - square * float(covariance[0, 1])
    c = mean_y**2 - square * float(covariance[1, 1])
    if not a > 0.0:
        return None
    root = math.sqrt(max(0.0, b * b - a * c))
    return Estimate(value=mean_y / mean_x, low=(b - root) / a, high=(b + root) / a, n=n)


def grid_posterior(
    grid: Float64s, design: Callable[[float], Float64s], y: Float64s
) -> tuple[GridPosterior, tuple[Estimate, ...]]:
    """Posterior of the parameter that shapes a regression's predictors.

    Parameters
    ----------
    grid : ndarray, shape (n_points,)
        Evenly spaced in the logarithm.
    design : callable
        Predictors, shape (n, n_coefficients), for one value of the parameter.
    y : ndarray, shape (n,)
        In standard deviations of its noise, roughly: the prior expects coefficients of a few.

    Returns
    -------
    GridPosterior, tuple of Estimate
        The parameter's posterior, and each coefficient's, averaged over the grid.

    Notes
    -----
    In each point the coefficients and the noise are conjugate normal-inverse-gamma (Gelman et al., Bayesian Data Analysis, 3rd
    ed., section 14.8), so that their evidence is exact; a coefficient's interval is that of the mixture over the grid.
    """
    fits = [_regress(design(float(value)), y) for value in grid]
    evidence = np.array([fit.log_evidence for fit in fits])
    weights = np.exp(evidence - evidence.max())
    weights /= weights.sum()
    # Each point stands for the cell around it; within a cell the posterior is taken as flat.
    step = math.log(grid[1] / grid[0])
    edges = np.concatenate([np.log(grid) - 0.5 * step, [math.log(grid[-1]) + 0.5 * step]])
    cumulative = np.concatenate([[0.0], np.cumsum(weights)])
    low, median, high = np.exp(np.interp([_TAILS[0], 0.5, _TAILS[1]], cumulative, edges)).tolist()
    known = weights[weights > 0.0]
    posterior = GridPosterior(
        estimate=Estimate(value=median, low=low, high=high, n=len(y)),
        bits=max(0.0, float(math.log2(len(grid)) + (known * np.log2(known)).sum())),
        grid=tuple(grid.tolist()),
        weights=tuple(weights.tolist()),
    )
    return posterior, tuple(_mixture(fits, weights, j, len(y)) for j in range(len(fits[0].mean)))


def _regress(x: Float64s, y: Float64s) -> _Regression:
    n, k = x.shape
    precision = x.T @ x + _PRIOR_PRECISION * np.eye(k)
    covariance = np.linalg.inv(precision)
    mean = covariance @ (x.T @ y)
    shape = _PRIOR_SHAPE + 0.5 * n
    rate = _PRIOR_RATE + 0.5 * float(y @ y - mean @ precision @ mean)
    log_evidence = (
        0.5 * (k * math.log(_PRIOR_PRECISION) - float(np.linalg.slogdet(precision)[1]))
        + _PRIOR_SHAPE * math.log(_PRIOR_RATE)
        - shape * math.log(rate)
        + math.lgamma(shape)
        - math.lgamma(_PRIOR_SHAPE)
        - 0.5 * n * math.log(2.0 * math.pi)
    )
    return _Regression(mean, np.sqrt(rate / shape * np.diag(covariance)), 2.0 * shape, log_evidence)


def _mixture(fits: list[_Regression], weights: Float64s, j: int, n: int) -> Estimate:
    """Mean and interval of one coefficient over the grid."""
    mean = np.array([fit.mean[j] for fit in fits])
    scale = np.array([fit.scale[j] for fit in fits])
    dof = fits[0].dof

    def quantile(p: float) -> float:
        low, high = float((mean - 50.0 * scale).min()), float((mean + 50.0 * scale).max())
        for _ in range(60):
            middle = 0.5 * (low + high)
            if float(weights @ special.stdtr(dof, (middle - mean) / scale)) < p:
                low = middle
            else:
                high = middle
        return 0.5 * (low + high)

    return Estimate(value=float(weights @ mean), low=quantile(_TAILS[0]), high=quantile(_TAILS[1]), n=n)


def _t(dof: int) -> float:
    return float(special.stdtrit(dof, _TAILS[1]))
