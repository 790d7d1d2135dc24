"""Fits a shrinkage linear discriminant and writes it as a `Readout`; only this needs scikit-learn, applying one does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from loop.errors import SessionError
from loop.readout import CLIP, Readout, ReadoutError

Float64s = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

MIN_TRIALS: Final = 40
MIN_CLASS: Final = 10
_FOLDS: Final = 10
_LEAST_SCALE: Final = 1e-9
# Half the width between quartiles of a normal distribution, in standard deviations, doubled.
_QUARTILES_SD: Final = 1.349


def fit_discriminant(names: Sequence[str], features: Float64s, is_first: Bools, target: Float64s) -> Readout:
    """Fit a linear discriminant of two classes with Ledoit–Wolf shrinkage on clipped, robustly standardised features.

    Parameters
    ----------
    names : sequence of str
        One a feature.
    features : ndarray, shape (n_trials, n_features)
        In order of time. Rows with a value that is not finite are left out.
    is_first : ndarray of bool, shape (n_trials,)
        The class that the score rises with.
    target : ndarray, shape (n_trials,)
        What the policy's learner makes of each trial (surprise, 0 to 1); trials where it is not finite are left out.

    Returns
    -------
    Readout
        Its E is the discriminant's score. `b0`, `b1`, `sigma` and `r_cv` relate the scores of trials that the weights were not
        fitted on to `target`.

    Raises
    ------
    ReadoutError
        If there are too few trials, or too few of one class.
    SessionError
        If scikit-learn is not installed.

    Notes
    -----
    Ledoit & Wolf 2004, J Multivar Anal 88:365; for event-related potentials Blankertz et al. 2011, NeuroImage 56:814. Both
    classes count alike, however rare one is. Folds are ten stretches of neighbouring trials, because responses whose windows
    overlap must not stand on both sides. `b1` is kept from falling below zero, as in `loop.readout.fit_readout`.
    """
    sound = np.isfinite(features).all(axis=1) & np.isfinite(target)
    f, first, t = features[sound], is_first[sound], target[sound]
    n, counts = len(t), (int(first.sum()), int((~first).sum()))
    if n < MIN_TRIALS or min(counts) < MIN_CLASS:
        raise ReadoutError(
            f"{counts[0]} usable STIM/NOX and {counts[1]} STIM/INN; a discriminant needs at least {MIN_TRIALS} in all and "
            f"{MIN_CLASS} of each (markers.rename puts other names onto them)"
        )
    fold = np.arange(n) * _FOLDS // n
    score = np.empty(n)
    for one in range(_FOLDS):
        inside = fold != one
        median, scale, weights, intercept = _solve(f[inside], first[inside])
        score[~inside] = intercept + np.clip((f[~inside] - median) / scale, -CLIP, CLIP) @ weights
    spread, spread_score = float(np.var(t)), float(score.std())
    if spread <= 0.0 or spread_score <= 0.0:
        raise ReadoutError("all trials are alike: a discriminant needs trials that differ")
    slope = float(np.mean((score - score.mean()) * (t - t.mean()))) / spread
    b1 = max(0.0, slope)
    b0 = float(score.mean() - b1 * t.mean())
    sigma = math.sqrt(float(np.sum((score - b0 - b1 * t) ** 2)) / (n - 2))
    median, scale, weights, intercept = _solve(f, first)
    return Readout(
        names=tuple(names),
        median=tuple(median.tolist()),
        scale=tuple(scale.tolist()),
        weights=tuple(weights.tolist()),
        intercept=intercept,
        sigma=max(sigma, _LEAST_SCALE),
        b0=b0,
        b1=b1,
        n_trials=n,
        r_cv=slope * math.sqrt(spread) / spread_score,
    )


def _solve(f: Float64s, first: Bools) -> tuple[Float64s, Float64s, Float64s, float]:
    try:
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise SessionError("fitting this readout needs scikit-learn; install it with: pip install 'cereloop[lda]'") from error
    median: Float64s = np.median(f, axis=0)
    low, high = np.percentile(f, (25.0, 75.0), axis=0)
    scale = np.maximum((high - low) / _QUARTILES_SD, _LEAST_SCALE)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=(0.5, 0.5))
    # The matrices are small: more threads would only wait for each other, and sum in another order on another machine.
    with threadpool_limits(limits=1, user_api="blas"):
        model.fit(np.clip((f - median) / scale, -CLIP, CLIP), first)
    return median, scale, np.asarray(model.coef_[0], dtype=np.float64), float(model.intercept_[0])
