"""Intervals that hold what they promise, against closed forms, brute force and repetition."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from loop import inference
from loop.inference import correlation_of, grid_posterior, mean_of, ratio_of


def test_a_mean_has_students_interval() -> None:
    x = np.random.default_rng(1).normal(2.0, 3.0, 17)
    found = mean_of(x)
    expected = stats.t.interval(0.95, 16, loc=x.mean(), scale=stats.sem(x))
    assert (found.value, found.low, found.high, found.n) == pytest.approx((x.mean(), *expected, 17))
    assert mean_of(x[:4]) is None


def test_a_correlation_has_fishers_interval() -> None:
    rng = np.random.default_rng(2)
    x, noise = rng.normal(size=(2, 40))
    found = correlation_of(x, x + noise)
    expected = stats.pearsonr(x, x + noise)
    assert found.value == pytest.approx(expected.statistic)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()), abs=1e-4)
    assert correlation_of(x, np.ones(40)) is None
    assert correlation_of(x[:4], x[:4]) is None
    assert correlation_of([], []) is None


def test_fiellers_interval_holds_the_ratio_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    held = given = 0
    for _ in range(2000):
        x = rng.normal(1.0, 1.0, 20)
        y = 0.5 * x + rng.normal(0.1, 0.5, 20)
        found = ratio_of(y, x)
        if found is not None:
            given += 1
            held += found.low <= 0.6 <= found.high
    assert given > 1900
    assert held / given == pytest.approx(0.95, abs=0.02)


def test_a_ratio_to_nothing_has_no_bounds() -> None:
    rng = np.random.default_rng(4)
    assert ratio_of(rng.normal(1.0, 1.0, 20), rng.permutation(np.tile([1.0, -1.0], 10))) is None


def test_the_evidence_of_a_regression_is_that_of_the_multivariate_t() -> None:
    """Marginally y is multivariate t with 2a degrees of freedom and scale b/a (I + X X' / precision)."""
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(12, 2)), rng.normal(size=12)
    fit = inference._regress(x, y)
    a, b, precision = inference._PRIOR_SHAPE, inference._PRIOR_RATE, inference._PRIOR_PRECISION
    shape = b / a * (np.eye(12) + x @ x.T / precision)
    assert fit.log_evidence == pytest.approx(stats.multivariate_t.logpdf(y, np.zeros(12), shape, df=2 * a), abs=1e-10)
    ridge = np.linalg.solve(x.T @ x + precision * np.eye(2), x.T @ y)
    assert fit.mean == pytest.approx(ridge)


def test_the_posterior_holds_the_time_constant_and_the_coefficients_as_often_as_it_says() -> None:
    rng = np.random.default_rng(6)
    grid, k = np.geomspace(1.0, 60.0, 24), np.arange(80.0)

    def design(tau: float) -> np.ndarray:
        return np.column_stack([np.ones(len(k)), np.exp(-k / tau)])

    held = np.zeros(3)
    for _ in range(200):
        tau = np.exp(rng.uniform(np.log(1.0), np.log(60.0)))
        c, a = rng.normal(0.0, 2.0, 2)
        posterior, coefficients = grid_posterior(grid, design, design(tau) @ [c, a] + rng.normal(size=len(k)))
        for i, (estimate, truth) in enumerate(zip((posterior.estimate, *coefficients), (tau, c, a), strict=True)):
            held[i] += estimate.low <= truth <= estimate.high
        assert sum(posterior.weights) == pytest.approx(1.0)
    assert held / 200 == pytest.approx([0.95] * 3, abs=0.045)


def test_values_that_say_nothing_leave_the_grid_as_it_was() -> None:
    posterior, _ = grid_posterior(np.geomspace(0.02, 0.8, 24), lambda _: np.ones((30, 1)), np.zeros(30))
    assert posterior.bits == pytest.approx(0.0, abs=1e-9)
    assert posterior.weights == pytest.approx([1 / 24] * 24)
    assert posterior.estimate.low < 0.03
    assert posterior.estimate.high > 0.6
