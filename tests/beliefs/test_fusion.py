"""K11 against the posterior computed by brute force."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from loop.fusion import PRIOR_SD, fuse
from loop.readout import Readout

READOUT = Readout(
    names=("a",), median=(0.0,), scale=(1.0,), weights=(1.0,), intercept=0.0, sigma=0.2, b0=0.1, b1=0.6, n_trials=80, r_cv=0.4
)


@pytest.mark.parametrize("error", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("value", [-0.4, 0.2, 0.9])
def test_equals_the_posterior_on_a_fine_grid(error: float, value: float) -> None:
    x = np.linspace(-2.0, 3.0, 200_001)
    weight = np.exp(
        -0.5 * ((x - error) / PRIOR_SD) ** 2 - 0.5 * ((value - READOUT.b0 - READOUT.b1 * x) / READOUT.sigma) ** 2
    )
    weight /= weight.sum()
    mean = weight @ x
    assert fuse(READOUT, error, value) == pytest.approx((mean, np.sqrt(weight @ (x - mean) ** 2)), abs=1e-9)


def test_a_readout_that_knows_nothing_leaves_the_markers_value() -> None:
    blind = msgspec.structs.replace(READOUT, b1=0.0)
    assert fuse(blind, 0.4, 5.0) == (0.4, PRIOR_SD)


def test_a_perfect_readout_is_believed() -> None:
    sharp = msgspec.structs.replace(READOUT, sigma=1e-9)
    assert fuse(sharp, 0.1, 0.1 + 0.6 * 0.7) == pytest.approx((0.7, 0.0), abs=1e-6)


def test_fusing_draws_nearer_to_the_truth_than_markers_alone() -> None:
    rng = np.random.default_rng(2)
    truth = rng.uniform(0.0, 1.0, 2000)
    markers = truth - PRIOR_SD * rng.normal(size=2000)
    values = READOUT.b0 + READOUT.b1 * truth + READOUT.sigma * rng.normal(size=2000)
    fused = np.array([fuse(READOUT, m, v) for m, v in zip(markers.tolist(), values.tolist(), strict=True)])
    assert np.std(fused[:, 0] - truth) < 0.97 * np.std(markers - truth)
    assert np.std((fused[:, 0] - truth) / fused[:, 1]) == pytest.approx(1.0, abs=0.05)
