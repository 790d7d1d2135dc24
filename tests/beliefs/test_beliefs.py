"""What the belief models do: learn what markers show, believe what is told, and never leave the numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loop import beliefs
from loop.beliefs import CueBelief, Trial, errors_of, learn


def after(*trials: Trial) -> beliefs.Beliefs:
    held: beliefs.Beliefs = ()
    for trial in trials:
        held = learn(held, trial)
    return held


def test_one_trial_by_hand() -> None:
    trial = Trial("H", 1.0)
    errors = errors_of((), trial)
    predicted = 1 / 12 + 0.01
    assert errors == pytest.approx((0.5, 0.5, 0.5, 0.25 / (predicted + 0.1)))
    belief = dict(learn((), trial))["H"]
    gain = predicted / (predicted + 0.1)
    assert belief.rescorla_wagner == pytest.approx(0.6)
    assert belief.kalman == pytest.approx((0.5 + 0.5 * gain, predicted * (1 - gain)))
    volatility = math.exp(-3.0)
    predicted_2 = 1 / (1 + volatility)
    assert belief.hgf.pi_2 == pytest.approx(predicted_2 + 0.25)
    assert belief.hgf.mu_2 == pytest.approx(0.5 / (predicted_2 + 0.25))


def test_each_cue_is_learned_alone_and_the_filter_is_told_noxious_or_not() -> None:
    held = after(*[Trial("H", 0.6)] * 30, *[Trial("L", 0.0)] * 30)
    assert errors_of(held, Trial("H", 0.6)) == pytest.approx((0.0, 0.0, 0.0, 0.0), abs=0.12)
    surprised = errors_of(held, Trial("L", 0.6))
    assert surprised.rescorla_wagner == pytest.approx(0.6, abs=0.01)
    assert surprised.kalman == pytest.approx(0.6, abs=0.01)
    assert surprised.hgf > 0.9
    assert surprised.kalman_nis > 2.0
    assert dict(held).keys() == {"H", "L"}


def test_a_reversal_surprises_and_is_learned_again() -> None:
    held = after(*[Trial("H", 1.0)] * 30)
    first = errors_of(held, Trial("H", 0.0))
    for _ in range(30):
        held = learn(held, Trial("H", 0.0))
    last = errors_of(held, Trial("H", 0.0))
    for one, other in zip(first[:3], last[:3], strict=True):
        assert one > 0.85
        assert other < 0.15


def test_what_was_told_is_believed_and_teaches_nothing() -> None:
    held = after(Trial("H", 1.0))
    told = Trial("P75/I1", 0.6, told=0.45, told_chance=0.75)
    assert errors_of(held, told) == (pytest.approx(0.15), pytest.approx(0.15), pytest.approx(0.25), None)
    assert learn(held, told) == held


def test_the_kalman_filters_nis_is_calibrated_where_its_assumptions_hold() -> None:
    rng = np.random.default_rng(1)
    level, nis, held = 0.5, [], ()
    for _ in range(4000):
        level += math.sqrt(beliefs.KALMAN_Q) * rng.normal()
        trial = Trial("H", level + math.sqrt(beliefs.KALMAN_R) * rng.normal())
        nis.append(errors_of(held, trial).kalman_nis)
        held = learn(held, trial)
    assert np.mean(nis) == pytest.approx(1.0, abs=0.08)
    assert np.mean(np.array(nis) > 3.84) == pytest.approx(0.05, abs=0.015)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.6, 1.0]), min_size=1, max_size=60), st.integers(1, 40))
def test_numbers_stay_finite_and_errors_between_0_and_1(pattern: list[float], times: int) -> None:
    held: beliefs.Beliefs = ()
    for u in pattern * times:
        trial = Trial("N", u)
        errors = errors_of(held, trial)
        assert all(0.0 <= error <= 1.0 for error in errors[:3])
        held = learn(held, trial)
        belief = dict(held)["N"]
        assert all(map(math.isfinite, (belief.rescorla_wagner, *belief.kalman, *belief.hgf)))
        assert belief.kalman.variance > 0.0 and belief.hgf.pi_2 > 0.0 and belief.hgf.pi_3 > 0.0


def test_a_precision_that_would_turn_negative_keeps_its_prediction() -> None:
    far = beliefs.Hgf(mu_2=9.0, pi_2=0.2, mu_3=1.2, pi_3=0.02)
    after_it = beliefs.hgf(far, 0.0)
    assert after_it.pi_3 > 0.0
    assert math.isfinite(after_it.mu_3)


def test_thousands_of_equal_outcomes_and_then_another_do_not_overflow() -> None:
    state = beliefs.Hgf()
    for u in [1.0] * 5000 + [0.0] * 2000 + [1.0, 0.0] * 500:
        state = beliefs.hgf(state, u)
        assert all(map(math.isfinite, state))


def test_the_sigmoid_holds_at_both_ends() -> None:
    assert beliefs.sigmoid(1e4) == 1.0
    assert beliefs.sigmoid(-1e4) == 0.0
    assert beliefs.sigmoid(0.3) == pytest.approx(1.0 / (1.0 + math.exp(-0.3)), abs=1e-16)
    assert CueBelief().hgf.mu_2 == 0.0
