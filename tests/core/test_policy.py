"""The policy: the CUSUM worked by hand, its hysteresis, the null's statistics, the learner, and the reasons given."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from loop import policy
from loop.config import PolicyTable
from loop.policy import MIN_PSEUDO, Happened, Null, PolicyState, judge, score, start_sense, take_pseudo
from loop.readout import Readout

TABLE = PolicyTable(
    threshold=8.0,
    release=4.0,
    drift=0.25,
    expected_offset=0.0,
    expected_gain=0.0,
    min_outcomes=3,
    refractory_s=60.0,
    max_duty=0.5,
    duty_window_s=600.0,
)
# A null of one stream with mean 0 and deviation 1: the index of an outcome is its feature.
PLAIN = PolicyState(null=Null(100, (0.0,), (1.0,)), composite=Null(100, (0.0,), (1.0,)))


def play(state: PolicyState, values: list[float]) -> tuple[PolicyState, list[float]]:
    """Score one valid outcome a value; returns the evidence after each."""
    evidence = []
    for event, value in enumerate(values, start=1):
        state, said = score(TABLE, state, Happened(event, "", 0.5), (value,), "")
        evidence.append(said.evidence)
    return state, evidence


def test_the_cusum_is_what_hand_work_gives() -> None:
    _, evidence = play(PLAIN, [1.0, -0.5, 2.0, -3.0, 0.25, 0.75])
    assert evidence == pytest.approx([0.75, 0.0, 1.75, 0.0, 0.0, 0.5])


def test_what_the_normative_learner_expects_is_taken_off_first() -> None:
    table = msgspec.structs.replace(TABLE, expected_offset=0.5, expected_gain=2.0)
    _, said = score(table, PLAIN, Happened(1, "H", 1.0), (3.0,), "")
    assert said.surprise == 0.5
    assert said.expected == pytest.approx(1.5)
    assert said.index == pytest.approx(3.0)
    assert said.excess == pytest.approx(1.5)
    assert said.evidence == pytest.approx(1.25)


def test_evidence_saturates_a_quarter_above_the_threshold() -> None:
    _, evidence = play(PLAIN, [4.0] * 20)
    assert max(evidence) == evidence[-1] == 1.25 * TABLE.threshold


def test_the_gate_is_wanted_at_the_threshold_and_released_at_the_release_level() -> None:
    state = PLAIN._replace(window=(1, 2, 3), evidence=7.9)
    assert judge(TABLE, state) == ("closed", "evidence 7.9 below the threshold 8")
    assert judge(TABLE, state._replace(evidence=8.0)) == ("open", "evidence 8.0 reached the threshold 8")
    wanted = state._replace(wanted=True)
    assert judge(TABLE, wanted._replace(evidence=4.1)) == (
        "open",
        "evidence 4.1 still above the release level 4",
    )
    assert judge(TABLE, wanted._replace(evidence=4.0)) == (
        "closed",
        "evidence 4.0 fell to the release level 4",
    )


def test_nothing_is_wanted_before_the_window_has_its_outcomes() -> None:
    state = PLAIN._replace(window=(1, 2), evidence=16.0)
    assert judge(TABLE, state) == ("closed", "2 of 3 valid outcomes in this window")
    assert judge(TABLE, start_sense(state)).reason == "0 of 3 valid outcomes in this window"
    assert start_sense(state).evidence == 16.0


def test_an_outcome_that_is_refused_moves_no_evidence_but_teaches_the_learner() -> None:
    before = PLAIN._replace(evidence=3.0, window=(1,))
    after, said = score(TABLE, before, Happened(2, "H", 1.0), (4.0,), "overlaps HOLD")
    assert (said.reason, said.evidence, said.excess) == ("overlaps HOLD", 3.0, None)
    assert (after.evidence, after.window) == (3.0, (1,))
    assert dict(after.belief) == {"H": 0.625}


@pytest.mark.parametrize(
    ("state", "features", "reason"),
    [
        (PLAIN, None, "features not valid"),
        (PolicyState(), (1.0,), f"the null has 0 of {MIN_PSEUDO} pseudo-events"),
        (
            PLAIN._replace(composite=Null(MIN_PSEUDO - 1, (0.0,), (1.0,))),
            (1.0,),
            "the null has 29 of 30 pseudo-events",
        ),
    ],
)
def test_without_features_or_null_an_outcome_is_no_evidence_and_says_why(
    state: PolicyState, features: tuple[float, ...] | None, reason: str
) -> None:
    after, said = score(TABLE, state, Happened(1, "", 0.5), features, "")
    assert said.reason == reason
    assert said.index is None
    assert after.window == ()


def test_the_learner_is_rescorla_wagner_with_rate_a_quarter() -> None:
    belief: tuple[tuple[str, float], ...] = ()
    assert policy.surprise_of(belief, Happened(1, "H", 1.0)) == 0.5
    for expected in (0.625, 0.71875, 0.7890625):
        belief = policy.update_belief(belief, "H", 1.0)
        assert dict(belief)["H"] == expected
    belief = policy.update_belief(belief, "L", 0.0)
    assert belief == (("H", 0.7890625), ("L", 0.375))
    assert policy.surprise_of(belief, Happened(1, "L", 1.0)) == 0.625
    assert policy.surprise_of(belief, Happened(1, "never seen", 0.0)) == 0.5


def test_what_a_cue_states_is_believed_and_nothing_is_learned_from_it() -> None:
    happened = Happened(1, "P75/I2", 1.0, told=0.75)
    assert policy.surprise_of((("P75/I2", 0.1),), happened) == 0.25
    after, said = score(TABLE, PLAIN, happened, (1.0,), "")
    assert said.surprise == 0.25
    assert after.belief == ()


def test_a_readout_takes_the_place_of_the_null() -> None:
    fitted = Readout(
        names=("f",),
        median=(0.0,),
        scale=(2.0,),
        weights=(0.4,),
        intercept=0.3,
        sigma=0.5,
        b0=0.1,
        b1=1.0,
        n_trials=80,
        r_cv=0.4,
    )
    after, said = score(TABLE, PolicyState(), Happened(1, "H", 1.0), (1.0,), "", fitted)
    # E = .3 + .4 * .5 = .5; in units of sigma above b0: .8; a surprise of .5 accounts for 1.0 of them.
    assert said.index == pytest.approx(0.8)
    assert said.expected == pytest.approx(1.0)
    assert said.excess == pytest.approx(-0.2)
    assert after.evidence == 0.0


# E is the feature, b0 = 0, sigma = 1.
FIRM = Readout(
    names=("f",), median=(0.0,), scale=(10.0,), weights=(10.0,), intercept=0.0, sigma=1.0, b0=0.0, b1=1.0, n_trials=82, r_cv=0.6
)  # fmt: skip


def test_with_a_readout_an_outcome_adds_its_log_likelihood_ratio_by_hand() -> None:
    assert FIRM.firmness == pytest.approx(1.0 - 0.64 / (0.36 * 80))
    state, first = score(TABLE, PolicyState(), Happened(1, "H", 1.0), (1.5,), "", FIRM)
    # Nobody knows anything of H yet: both are surprised by .5, and what remains of an error where all was as told is .1.
    shift = FIRM.firmness * 0.1
    assert first.evidence == pytest.approx(2.4 * shift * (1.0 - shift / 2.0) - 0.05)
    _, second = score(TABLE, state, Happened(2, "H", 1.0), (1.5,), "", FIRM)
    # They believe .625 and .54 now; the slower one would be surprised by .085 more.
    shift = FIRM.firmness * ((1.0 - 0.54) - (1.0 - 0.625) + 0.1)
    assert second.excess == pytest.approx(1.5 - 0.375)
    assert second.evidence == pytest.approx(first.evidence + 2.4 * shift * (1.125 - shift / 2.0) - 0.05)


def test_no_outcome_counts_for_more_than_half_a_deviation_would() -> None:
    steep = msgspec.structs.replace(FIRM, b1=60.0)
    _, said = score(TABLE, PolicyState(), Happened(1, "H", 1.0), (34.0,), "", steep)
    assert said.excess == pytest.approx(4.0)
    assert said.evidence == pytest.approx(2.4 * 0.5 * (4.0 - 0.25) - 0.05)
    assert policy.shift_of(steep, 0.9, 0.1) == -0.5


def test_once_the_error_is_gone_the_wish_ends_though_nothing_speaks_against_persistence() -> None:
    """Outcomes on which both learners err alike: the ratio hardly moves, so what was gathered has to fade."""
    state = PolicyState(evidence=1.25 * TABLE.threshold, wanted=True)
    for event in range(1, 121):
        value = policy.surprise_of(state.belief, Happened(event, f"cue {event}", 1.0)) * FIRM.b1
        state, _ = score(TABLE, state, Happened(event, f"cue {event}", 1.0), (value,), "", FIRM)
        if event >= TABLE.min_outcomes and judge(TABLE, state).wanted != "open":
            break
    assert 20 < event < 120


@pytest.mark.parametrize(("r_cv", "n_trials"), [(-0.5, 80), (0.0, 80), (0.1, 80), (0.9, 2)])
def test_a_readout_that_may_know_nothing_gives_no_evidence(r_cv: float, n_trials: int) -> None:
    loose = msgspec.structs.replace(FIRM, r_cv=r_cv, n_trials=n_trials)
    state = PolicyState()
    for event in range(1, 50):
        state, _ = score(TABLE, state, Happened(event, "H", 1.0), (4.0,), "", loose)
    assert state.evidence == 0.0


def test_outcomes_count_where_a_slow_learner_is_still_surprised() -> None:
    """Twenty sure outcomes, then their reverse: the same excess weighs most some outcomes after it, least on its first."""
    state, shifts = PolicyState(), []
    for event in range(1, 100):
        happened = Happened(event, "H", float(event <= 20))
        slow = policy.surprise_of(state.slow_belief, happened)
        shifts.append(policy.shift_of(FIRM, policy.surprise_of(state.belief, happened), slow))
        state, _ = score(TABLE, state, happened, (0.0,), "", FIRM)
    assert 25 <= 1 + int(np.argmax(shifts)) <= 30
    assert shifts[20] < shifts[-1] < 0.3 * max(shifts)
    assert shifts[-1] == pytest.approx(0.1 * FIRM.firmness, abs=0.02)


def test_the_null_has_the_moments_of_what_it_was_given() -> None:
    draws = np.random.default_rng(1).normal([3.0, -20.0], [2.0, 0.1], size=(300, 2))
    null = Null()
    for row in draws:
        null = policy.learn_null(null, tuple(row))
    assert null.n == 300
    np.testing.assert_allclose(null.mean, draws.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(null.variance, draws.var(axis=0), rtol=1e-9)


def test_the_null_follows_a_slow_drift() -> None:
    null = Null()
    for _ in range(1000):
        null = policy.learn_null(null, (0.0,))
    for _ in range(1500):
        null = policy.learn_null(null, (5.0,))
    assert null.mean[0] == pytest.approx(5.0 * (1 - (1 - 1 / 300) ** 1500), rel=1e-9)


def test_the_index_of_null_draws_has_mean_zero_and_deviation_one() -> None:
    rng = np.random.default_rng(2)
    mixing = np.array(
        [[1.0, 0.6, 0.2, 0.0], [0.0, 0.8, 0.1, 0.1], [0.0, 0.0, 2.0, 0.5], [0.0, 0.0, 0.0, 3.0]]
    )
    draws = rng.normal(size=(4000, 4)) @ mixing + [1.0, -7.0, 30.0, 0.0]
    state, index = PolicyState(), []
    for row in draws:
        features = tuple(row.tolist())
        if state.composite.n >= 300:
            said = score(TABLE, state, Happened(1, "", 0.5), features, "")[1]
            assert said.index is not None
            index.append(said.index)
        state = take_pseudo(state, features)
    assert np.mean(index) == pytest.approx(0.0, abs=0.06)
    assert np.std(index) == pytest.approx(1.0, abs=0.06)


def test_one_wild_stream_cannot_carry_the_composite_beyond_its_clip() -> None:
    null = Null(100, (0.0,) * 4, (1.0,) * 4)
    state = PolicyState(null=null, composite=Null(100, (0.0,), (1.0,)))
    _, said = score(TABLE, state, Happened(1, "", 0.5), (1e300, 0.0, 0.0, 0.0), "")
    assert said.index == pytest.approx(1.0)


@pytest.mark.parametrize(("feature", "index"), [(1e300, 4.0), (2.5, 4.0), (1.5, 3.0), (-1.5, -3.0), (-2.5, -4.0)])
def test_the_index_is_clipped_at_four_deviations(feature: float, index: float) -> None:
    state = PLAIN._replace(composite=Null(100, (0.0,), (0.25,)))
    _, said = score(TABLE, state, Happened(1, "", 0.5), (feature,), "")
    assert said.index == pytest.approx(index)
    assert said.excess == said.index
    assert said.evidence == pytest.approx(max(0.0, index - TABLE.drift))


def test_nothing_is_mutated_and_the_same_question_has_the_same_answer() -> None:
    before = PLAIN._replace(belief=(("H", 0.7),), window=(1,), evidence=2.0)
    copy = PolicyState(*before)
    first = score(TABLE, before, Happened(2, "H", 1.0), (2.0,), "")
    take_pseudo(before, (9.0,))
    judge(TABLE, before)
    assert before == copy
    assert score(TABLE, before, Happened(2, "H", 1.0), (2.0,), "") == first


def run_lengths(threshold: float, runs: int) -> tuple[float, float]:
    """Mean trials to a false gate of N(0,1) excess, and its standard error."""
    table = msgspec.structs.replace(TABLE, threshold=threshold, release=threshold / 2)
    draws = iter(np.random.default_rng(12).normal(size=400_000).tolist())
    lengths = []
    for _ in range(runs):
        state, n = PLAIN._replace(window=(1, 2, 3)), 0
        while judge(table, state).wanted == "closed":
            n += 1
            state = score(table, state, Happened(n, "", 0.5), (next(draws),), "")[0]._replace(window=(1, 2, 3))
        lengths.append(n)
    return float(np.mean(lengths)), float(np.std(lengths) / np.sqrt(len(lengths)))


@pytest.mark.parametrize(
    ("threshold", "runs", "published"), [(3.0, 1000, None), (5.0, 400, None), (8.0, 150, 752)]
)
def test_false_gates_come_as_rarely_as_theory_says(
    threshold: float, runs: int, published: float | None
) -> None:
    """Average run length of a CUSUM, Siegmund (1985): (exp(2 d b) - 2 d b - 1) / (2 d^2) with b = h + 1.166."""
    b = 2 * TABLE.drift * (threshold + 1.166)
    theory = (math.exp(b) - b - 1) / (2 * TABLE.drift**2)
    mean, error = run_lengths(threshold, runs)
    assert error < theory / 8
    assert abs(mean - theory) < 4 * error
    assert published is None or abs(mean - published) < 3 * error
