"""The readout's fit: what it pools, and what its cross-validation says where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest

from loop.readout import fit_readout

NAMES = ("a", "b", "c", "d")


def trials(rng: np.random.Generator, slope: float, n: int = 80) -> tuple[np.ndarray, np.ndarray]:
    target = rng.uniform(0.0, 1.0, n)
    return slope * target[:, None] + rng.normal(size=(n, len(NAMES))), target


def test_what_trials_cannot_tell_apart_gets_one_weight_and_the_sign_is_learned() -> None:
    features, target = trials(np.random.default_rng(1), 1.0)
    for sign in (1.0, -1.0):
        weights = np.array(fit_readout(NAMES, sign * features, target, apart=1e9).weights)
        assert np.ptp(weights) < 1e-6
        assert (sign * weights > 0.0).all()


def test_equal_penalties_are_plain_ridge_regression() -> None:
    features, target = trials(np.random.default_rng(2), 1.0)
    readout = fit_readout(NAMES, features, target, ridge=7.0, apart=7.0)
    x = np.clip((features - readout.median) / np.array(readout.scale), -4.0, 4.0)
    x -= x.mean(axis=0)
    expected = np.linalg.solve(x.T @ x + 7.0 * np.eye(4), x.T @ (target - target.mean()))
    np.testing.assert_allclose(readout.weights, expected, rtol=1e-9)


def test_pooling_helps_where_all_features_show_the_same() -> None:
    rng = np.random.default_rng(3)
    pooled, plain = [], []
    for _ in range(60):
        features, target = trials(rng, 0.6)
        unseen, truth = trials(rng, 0.6, 400)
        for found, apart in ((pooled, 200.0), (plain, 5.0)):
            readout = fit_readout(NAMES, features, target, apart=apart)
            found.append(np.corrcoef([readout.apply(row) for row in unseen.tolist()], truth)[0, 1])
    print(f"\nr on unseen trials: pooled {np.mean(pooled):.3f}, plain {np.mean(plain):.3f}")
    assert np.mean(pooled) > np.mean(plain)


@pytest.mark.parametrize("slope", [0.0, 0.6])
def test_sigma_is_the_noise_of_these_weights_on_new_trials(slope: float) -> None:
    rng = np.random.default_rng(5)
    ratios = []
    for _ in range(150):
        readout = fit_readout(NAMES, *trials(rng, slope))
        unseen, truth = trials(rng, slope, 400)
        value = np.array([readout.apply(row) for row in unseen.tolist()])
        line = np.polynomial.Polynomial.fit(truth, value, 1)
        ratios.append(np.std(value - line(truth), ddof=2) / readout.sigma)
    print(f"\nnoise on new trials / sigma, slope {slope}: {np.mean(ratios):.3f}")
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.03)


def test_cross_validation_is_hardly_below_zero_where_there_is_nothing_and_right_where_there_is() -> None:
    rng = np.random.default_rng(4)
    nothing = [fit_readout(NAMES, *trials(rng, 0.0)).r_cv for _ in range(150)]
    something, true = [], []
    for _ in range(60):
        readout = fit_readout(NAMES, *trials(rng, 1.0))
        something.append(readout.r_cv)
        unseen, truth = trials(rng, 1.0, 400)
        true.append(np.corrcoef([readout.apply(row) for row in unseen.tolist()], truth)[0, 1])
    print(f"\nr_cv: nothing {np.mean(nothing):.3f}, something {np.mean(something):.3f}, on unseen trials {np.mean(true):.3f}")
    assert -0.15 < np.mean(nothing) < 0.03
    assert np.mean(something) == pytest.approx(np.mean(true), abs=0.05)
