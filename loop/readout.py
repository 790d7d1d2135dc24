"""From event features to one number with its noise: the ridge readout of K9, fitted where the expectation is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

CLIP: Final = 4.0
RIDGE: Final = 5.0
APART: Final = 200.0
MIN_TRIALS: Final = 20
_FOLDS: Final = 10
_LINE: Final = 2
_LEAST_SCALE: Final = 1e-9

Float64s = npt.NDArray[np.float64]


class ReadoutError(ValueError):
    """Too little to fit a readout on, in one sentence."""


class Readout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """E = intercept + weights · clip((f - median) / scale, ±4), and what E is worth.

    On new trials E = b0 + b1 · target + noise of standard deviation `sigma`. `b0` and `b1` come from predictions of trials that
    the weights were not fitted on (ten folds), and so does `r_cv`, the correlation of those predictions with the target.
    """

    names: tuple[str, ...]
    median: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float
    sigma: Annotated[float, Meta(gt=0.0)]
    b0: float
    b1: float
    n_trials: int
    r_cv: float

    def apply(self, features: Sequence[float]) -> float:
        """E of one event's features, in the order of `names`; sums run in that order, so that replays agree in every bit."""
        total = self.intercept
        for f, m, s, w in zip(features, self.median, self.scale, self.weights, strict=True):
            total += w * min(max((f - m) / s, -CLIP), CLIP)
        return total

    @property
    def firmness(self) -> float:
        """Share of b1² that is not noise of its estimate: 1 - 1/t² of `r_cv` on `n_trials`; 0 where r is not above zero."""
        r = self.r_cv
        if self.n_trials <= _LINE or r <= 0.0:
            return 0.0
        return max(0.0, 1.0 - (1.0 - r * r) / (r * r * (self.n_trials - _LINE)))

    def excess(self, value: float, surprise: float) -> float:
        """K12: by how many `sigma` E lies above what a learner with this surprise would show."""
        return (value - self.b0 - self.b1 * surprise) / self.sigma


def fit_readout(
    names: Sequence[str], features: Float64s, target: Float64s, ridge: float = RIDGE, apart: float = APART
) -> Readout:
    r"""Fit a readout by ridge regression on clipped, standardised features, with their weights pulled together.

    Parameters
    ----------
    names : sequence of str
        One a feature.
    features : ndarray, shape (n_trials, n_features)
        Rows with a value that is not finite are left out.
    target : ndarray, shape (n_trials,)
        What E shall follow: \|outcome - expectation\| where the expectation was told.
    ridge : float
        Penalty on what the standardised weights have in common.
    apart : float
        Penalty on how far each lies from their mean; equal to `ridge` for plain ridge regression.

    Returns
    -------
    Readout

    Raises
    ------
    ReadoutError
        If fewer than 20 trials are usable, or the target does not vary.

    Notes
    -----
    The features are views of one response: each alone tells little about it in eighty trials, so a weight may differ from the
    others only as far as the trials insist. The sign that they share is learned, for either is possible.

    Folds are every tenth trial, so the fit is a function of its input alone. `b1` is kept from falling below zero: a readout
    that runs against its target on unseen trials knows nothing, and must not turn surprise into evidence.

    `sigma` is of these weights, not of the folds': each fold has weights of its own, and what differs between them is the error
    of weights, not noise of E. It made sigma 8 % too large where E follows nothing. The residuals of E on the target hardly
    depend on what the weights were drawn by; 1 / (1 - leverage), as for trials left out, more than makes up for the little that
    they do: sigma is up to 3 % too wide with 80 trials, up to 10 % with 20.
    """
    sound = np.isfinite(features).all(axis=1) & np.isfinite(target)
    f, t = features[sound], target[sound]
    n = len(t)
    if n < MIN_TRIALS:
        raise ReadoutError(f"{n} usable trials with a known expectation; a readout needs at least {MIN_TRIALS}")
    if np.ptp(t) <= 0.0:
        raise ReadoutError("the expectation was always met alike: a readout needs trials that differ in their error")
    predicted = np.empty(n)
    for fold in range(_FOLDS):
        out = np.arange(n) % _FOLDS == fold
        median, scale, weights, intercept, _ = _solve(f[~out], t[~out], ridge, apart)
        # The mean of all targets for that of the others: the latter is high where those of the fold are low, and would drown a
        # weak readout in a correlation of its own making.
        intercept += float(t.mean() - t[~out].mean())
        predicted[out] = intercept + np.clip((f[out] - median) / scale, -CLIP, CLIP) @ weights
    spread = float(np.var(t))
    slope = float(np.mean((predicted - predicted.mean()) * (t - t.mean()))) / spread
    b1 = max(0.0, slope)
    b0 = float(predicted.mean() - b1 * t.mean())
    spread_p = float(predicted.std())
    r_cv = slope * math.sqrt(spread) / spread_p if spread_p > 0.0 else 0.0
    median, scale, weights, intercept, leverage = _solve(f, t, ridge, apart)
    value = np.clip((f - median) / scale, -CLIP, CLIP) @ weights
    steepness = float(np.mean((value - value.mean()) * (t - t.mean()))) / spread
    rest = (value - value.mean() - steepness * (t - t.mean())) / (1.0 - leverage)
    sigma = max(float(np.sqrt(np.sum(rest**2) / (n - 2))), _LEAST_SCALE)
    return Readout(
        names=tuple(names),
        median=tuple(median.tolist()),
        scale=tuple(scale.tolist()),
        weights=tuple(weights.tolist()),
        intercept=intercept,
        sigma=sigma,
        b0=b0,
        b1=b1,
        n_trials=n,
        r_cv=r_cv,
    )


def _solve(f: Float64s, t: Float64s, ridge: float, apart: float) -> tuple[Float64s, Float64s, Float64s, float, Float64s]:
    """Median, scale, weights, intercept, and of each trial the share of its own target in its prediction (leverage)."""
    median: Float64s = np.median(f, axis=0)
    scale = np.maximum(f.std(axis=0), _LEAST_SCALE)
    x = np.clip((f - median) / scale, -CLIP, CLIP)
    centre = x.mean(axis=0)
    centred = x - centre
    n = f.shape[1]
    gram = centred.T @ centred + apart * np.eye(n) + (ridge - apart) / n
    weights = np.linalg.solve(gram, centred.T @ (t - t.mean()))
    leverage: Float64s = np.sum(centred * np.linalg.solve(gram, centred.T).T, axis=1)
    return median, scale, weights, float(t.mean() - centre @ weights), leverage
