"""Area under the curve by hand, and its chance level on labels that mean nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from loop.accuracy.recordings import _row, auc_of


def test_auc_by_hand() -> None:
    """Of four pairs two are in order, one is tied and counts half, one is not in order."""
    assert auc_of(np.array([1.0, 3.0, 1.0, 2.0]), np.array([True, True, False, False])) == pytest.approx(2.5 / 4)
    assert auc_of(np.array([2.0, 3.0, 0.0, 1.0]), np.array([True, True, False, False])) == 1.0
    assert math.isnan(auc_of(np.array([1.0, 2.0]), np.array([True, True])))


def test_chance_is_what_shuffled_labels_reach() -> None:
    rng = np.random.default_rng(5)
    is_nox = rng.random(200) < 0.2
    noise = rng.normal(size=200)
    noise[3] = np.nan
    row = _row("noise", [(noise, is_nox)], 500, rng)
    assert row.left_out == 1
    assert row.nox + row.inn == 199
    assert 0.55 < row.chance < 0.62
    assert row.p > 0.01
    told = _row("told", [(noise + 2.0 * is_nox, is_nox)], 500, rng)
    assert told.auc > 0.85
    assert told.p == pytest.approx(1 / 501)
    empty = _row("empty", [(noise[:0], is_nox[:0])], 10, rng)
    assert math.isnan(empty.auc)
    assert empty.nox == empty.inn == 0
