"""The harm guard: its evidence against brute force, what it never does, and how it words a lock-out."""

from __future__ import annotations

import inspect
import itertools
import math
import typing
from typing import get_type_hints

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from loop import harm
from loop.harm import (
    ChannelPrior,
    HarmTable,
    Moments,
    Probing,
    Stimulating,
    end_on,
    grown,
    harm_of,
    judge,
    probability_of,
    stack,
    start_on,
    take_index,
    take_rating,
)

TABLE = HarmTable(min_baseline=10, min_probe=10)
PRIOR = ChannelPrior(margin=0.1, spread=1.0, dof=20.0, slope_sd=0.5, wander=0.1, harm=0.5)

values = st.floats(-4.0, 4.0)
points = st.floats(0.0, 100.0)
shares = st.floats(0.0, 1.0)
sights = st.tuples(values, shares, points, shares)
trials = st.lists(sights, min_size=10, max_size=14)
FLAT_TRIALS = [(float(k % 3), 0.5, 30.0, 30.0) for k in range(12)]


def probe(state: Probing, seen: list[tuple[float, float, float, float]]) -> Probing:
    """Take index and rating of each trial."""
    for value, surprise, rating, expected in seen:
        state = take_rating(take_index(state, value, surprise), rating, expected)
    return state


def block(state: Probing, polarity: harm.Polarity = "cathodal") -> Probing:
    return end_on(start_on(state, polarity), 160_000.0)


def session(*probes: list[tuple[float, float, float, float]], polarity: harm.Polarity = "cathodal") -> Probing:
    state = probe(Probing(), probes[0])
    for seen in probes[1:]:
        state = probe(block(state, polarity), seen)
    return state


def flat(n: int, value: float, rating: float, seed: int = 0) -> list[tuple[float, float, float, float]]:
    """Trials that scatter as the priors expect, about given means, exactly."""
    rng = np.random.default_rng(seed)
    index, points = rng.standard_normal((2, n))
    index, points = (part / part.std() - (part / part.std()).mean() for part in (index, points))
    return [(value + i, 0.3, rating + 12.0 * p, 0.5) for i, p in zip(index.tolist(), points.tolist(), strict=True)]


def probabilities(state: Probing) -> tuple[float, float]:
    indices, ratings = (stack(column) for column in zip(*state.probes, strict=True))
    first, second = (float(probability_of(one)) for one in harm.harm_in(TABLE, indices, ratings))
    return first, second


# ---- the evidence


def test_moments_are_those_of_numpy() -> None:
    x, y = np.random.default_rng(3).normal(5.0, 2.0, (2, 40))
    moments = Moments()
    for one in zip(x.tolist(), y.tolist(), strict=True):
        moments = grown(moments, *one)
    covariance = np.cov(x, y, ddof=0) * 40
    expected = (40, x.mean(), y.mean(), covariance[0, 0], covariance[0, 1], covariance[1, 1])
    assert moments == pytest.approx(expected)


def two_probes(n: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(8)
    return rng.random(n), rng.normal(0.2, 1.1, n), rng.random(n - 3), rng.normal(0.9, 0.9, n - 3)


def moments_of(x: np.ndarray, y: np.ndarray) -> Moments:
    moments = Moments()
    for one in zip(x.tolist(), y.tolist(), strict=True):
        moments = grown(moments, *one)
    return moments


def test_the_bayes_factor_is_that_of_brute_force() -> None:
    """Spread and harm integrated out numerically, from the definition of the model instead of Student's t."""
    x0, y0, x1, y1 = two_probes()
    result = harm_of(PRIOR, stack([moments_of(x0, y0), moments_of(x1, y1)]))

    # Level and slope before the block by least squares with a pseudo-observation of slope 0.
    centred = x0 - x0.mean()
    penalty = (PRIOR.spread / PRIOR.slope_sd) ** 2
    slope = centred @ y0 / (centred @ centred + penalty)
    residual = ((y0 - y0.mean() - slope * centred) ** 2).sum() + penalty * slope**2
    dof = PRIOR.dof + len(y0) - 1
    sum_squares = PRIOR.dof * PRIOR.spread**2 + residual
    rise = y1.mean() - y0.mean() - slope * (x1.mean() - x0.mean())
    assert result.rise == pytest.approx([rise])

    share = 1 / len(y0) + 1 / len(y1) + 2 * PRIOR.wander**2 + (x1.mean() - x0.mean()) ** 2 / (centred @ centred + penalty)

    variance = np.linspace(0.2, 5.0, 1201)[:, None]
    size = np.linspace(0.0, 6.0, 1501)
    posterior = stats.invgamma.pdf(variance, dof / 2, scale=sum_squares / 2)
    above = 2.0 * stats.norm.pdf(size, 0.0, PRIOR.harm * np.sqrt(variance))
    likelihood = stats.norm.pdf(rise - PRIOR.margin - size, 0.0, np.sqrt(share * variance))
    slab = integrate.simpson(integrate.simpson(posterior * above * likelihood, x=size), x=variance[:, 0])
    null = integrate.simpson((posterior * likelihood)[:, 0], x=variance[:, 0])
    assert result.factor == pytest.approx([slab / null], rel=1e-6)


@pytest.mark.parametrize(("v", "dof"), [(0.1, 20.0), (0.4, 49.0), (1.5, 6.0)])
def test_evidence_is_fair_where_there_is_no_harm(v: float, dof: float) -> None:
    """The mean Bayes factor over what would be seen without harm is 1: what Ville's inequality rests on."""
    variance, harm2 = 2.0, 0.25
    scale = math.sqrt(variance * v)

    def weighed(t: float) -> float:
        factor = harm._bayes_factor(np.array([t * scale]), np.array([variance]), np.array([dof]), np.array([v]), harm2)
        return float(factor[0]) * float(stats.t.pdf(t, dof))

    assert integrate.quad(weighed, -np.inf, np.inf)[0] == pytest.approx(1.0, abs=1e-6)


def test_evidence_of_many_sessions_at_once_is_that_of_each() -> None:
    rng = np.random.default_rng(5)
    sessions = [session(*[[tuple(rng.random(4).tolist()) for _ in range(10)] for _ in range(4)]) for _ in range(5)]
    stacked = [stack([one.indices for one in each.probes]) for each in sessions]
    together = harm_of(PRIOR, Moments(*(np.array(part) for part in zip(*stacked, strict=True))))
    for i, one in enumerate(stacked):
        alone = harm_of(PRIOR, one)
        assert together.factor[i].tolist() == alone.factor.tolist()
        assert together.rise[i].tolist() == alone.rise.tolist()


def test_a_channel_without_trials_says_nothing() -> None:
    state = Probing()
    for k in range(3):
        state = state if not k else block(state)
        for _ in range(10):
            state = take_index(state, 0.0, 0.3)
    assert probabilities(state)[1] == pytest.approx(1.0 / 3.0)
    assert judge(TABLE, state)[1].kind == "clear"


def test_more_trials_of_the_same_harm_say_more() -> None:
    few, many = (probabilities(session(flat(n, 0.0, 50.0), flat(n, 1.0, 62.0))) for n in (10, 40))
    assert few[0] < many[0]
    assert few[1] < many[1]


def test_what_surprise_explains_is_no_harm() -> None:
    """The second probe has more surprising outcomes; that the index follows surprise is known from the first."""
    rng = np.random.default_rng(2)
    before, after = rng.random(60), 0.6 + 0.4 * rng.random(30)
    noise = rng.standard_normal(90)
    seen = [(2.0 * x + 0.3 * e, x, 50.0, 0.5) for x, e in zip([*before, *after], noise, strict=True)]
    blind = [(value, 0.5, 50.0, 0.5) for value, _, _, _ in seen]
    told, untold = (judge(TABLE, session(part[:60], part[60:]))[1].kind for part in (seen, blind))
    assert told == "clear"
    assert untold != "clear"


# ---- what is said


def test_nothing_starts_before_the_baseline_and_after_each_block_is_gathered() -> None:
    table = msgspec.structs.replace(TABLE, min_baseline=12)
    state = probe(Probing(), flat(11, 0.0, 50.0))
    assert judge(table, state)[1] == ("gathering", "11 of 12 valid probe trials before the first ON block")
    state = take_index(state, 0.0, 0.3)
    assert judge(table, state)[1] == ("clear", "12 probe trials as baseline")
    state = probe(block(state), flat(9, 0.0, 50.0))
    assert judge(table, state)[1] == ("gathering", "9 of 10 valid probe trials after ON block 1")
    assert judge(table, take_index(state, 0.0, 0.3))[1].kind == "clear"
    # A long baseline does not stand in for what follows the next block.
    assert judge(table, block(take_index(state, 0.0, 0.3)))[1].kind == "gathering"


@pytest.mark.parametrize("polarity", ["anodal", "cathodal", "sham"])
def test_every_polarity_is_judged_alike_and_named(polarity: harm.Polarity) -> None:
    state = session(flat(30, 0.0, 50.0), flat(20, 2.0, 50.0), polarity=polarity)
    state, verdict = judge(TABLE, state)
    assert verdict.kind == "locked"
    expected = f"index higher by 2 standard deviations since ON block 1 of 1 ({polarity}, 0.16 C)"
    assert expected in verdict.reason
    assert "probability of harm 0.999" in verdict.reason
    mild = flat(30, 0.0, 50.0), flat(20, 0.6, 55.0)
    assert probabilities(session(*mild, polarity=polarity)) == probabilities(session(*mild, polarity="sham"))


def test_ratings_that_rise_by_ten_lock_and_by_less_do_not() -> None:
    """However many ratings there are: 10 of 100 is the bound, and is reached at 10."""
    baseline = flat(200, 0.0, 50.0)
    _, verdict = judge(TABLE, session(baseline, flat(200, 0.0, 60.01)))
    assert verdict.kind == "locked"
    assert "pain ratings higher by 10 of 100" in verdict.reason
    assert judge(TABLE, session(baseline, flat(200, 0.0, 59.5)))[1].kind == "clear"
    assert judge(msgspec.structs.replace(TABLE, rating_rise=5.0), session(baseline, flat(200, 0.0, 59.5)))[1].kind == "locked"


def test_a_rise_that_chance_explains_holds_at_most() -> None:
    """Twelve points, from two ratings a side."""
    state = session(flat(10, 0.0, 50.0), flat(10, 0.0, 50.0))
    few = [moments_of(np.array([0.5, 0.5]), np.array([c - 8.0, c + 8.0])) for c in (50.0, 62.0)]
    state = state._replace(probes=tuple(p._replace(ratings=m) for p, m in zip(state.probes, few, strict=True)))
    assert judge(TABLE, state)[1].kind in ("clear", "gathering")


def test_while_harm_is_likelier_than_not_no_block_starts_and_more_trials_decide() -> None:
    state = session(flat(30, 0.0, 50.0), flat(10, 1.0, 50.0))
    state, verdict = judge(TABLE, state)
    assert verdict.kind == "gathering"
    assert verdict.reason.startswith("more probe trials are to decide: index higher by 1 standard deviations")
    assert judge(TABLE, probe(state, flat(40, -0.2, 50.0)))[1].kind == "clear"
    assert judge(TABLE, probe(state, flat(40, 1.0, 50.0)))[1].kind == "locked"


def test_slow_harm_shows_over_several_blocks_where_no_step_shows_it() -> None:
    steps = (0.0, 0.3, 0.6, 0.9, 1.2, 1.5)
    probes = [flat(15, level, 50.0, seed) for seed, level in enumerate(steps)]
    for pair in itertools.pairwise(probes):
        assert judge(TABLE, session(*pair))[1].kind == "clear"
    assert judge(TABLE, session(*probes))[1].kind == "locked"


def test_harm_of_a_late_block_is_dated_to_it() -> None:
    state = session(*(flat(20, level, 50.0, seed) for seed, level in enumerate((0.0, 0.0, 0.0, 2.0))))
    assert "since ON block 3 of 3" in judge(TABLE, state)[1].reason


# ---- what it never does


def test_locked_is_final() -> None:
    state, verdict = judge(TABLE, session(flat(30, 0.0, 50.0), flat(20, 2.0, 50.0)))
    better = probe(block(probe(state, flat(200, -3.0, 5.0))), flat(200, -3.0, 5.0))
    assert judge(TABLE, better)[1] == verdict
    assert judge(TABLE, better._replace(locked=""))[1].kind == "clear"


def test_nothing_that_is_measured_has_a_way_in_under_current() -> None:
    """By type: of all public functions only `end_on` takes a `Stimulating`, and its one number is the charge."""
    doors = {}
    for name, function in inspect.getmembers(harm, inspect.isfunction):
        hints = get_type_hints(function)
        hints.pop("return", None)
        if any(Stimulating in (hint, *typing.get_args(hint)) for hint in hints.values()):
            doors[name] = list(hints)
    assert doors == {"end_on": ["state", "charge_uc"]}
    assert Stimulating._fields == ("before", "polarity")
    stimulating = start_on(Probing(), "sham")
    for take in (take_index, take_rating):
        with pytest.raises(AttributeError):
            take(stimulating, 1.0, 0.5)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(trials, st.lists(sights, max_size=5)), min_size=2, max_size=4), st.data())
def test_no_value_under_current_changes_anything(parts, data) -> None:
    """A loop that hands over trials wherever the state can take them, once with other values while current flows."""

    def play(scramble: bool) -> tuple[Probing, list[str]]:
        state: Probing | Stimulating = Probing()
        kinds = []
        for off, on in parts:
            during = [data.draw(sights) for _ in on] if scramble else on
            for is_on, seen in ((False, off), (True, during)):
                if is_on:
                    assert isinstance(state, Probing)
                    state = start_on(state, "anodal")
                for value, surprise, rating, expected in seen:
                    if isinstance(state, Probing):
                        state = take_rating(take_index(state, value, surprise), rating, expected)
                if isinstance(state, Probing):
                    state, verdict = judge(TABLE, state)
                    kinds.append(verdict.reason)
            assert isinstance(state, Stimulating)
            state = end_on(state, 1000.0)
        return state, kinds

    assert play(False) == play(True)


@settings(deadline=None, max_examples=80)
@given(
    st.lists(trials, min_size=2, max_size=4),
    st.lists(st.tuples(st.floats(0.0, 8.0), st.floats(0.0, 100.0)), min_size=14, max_size=14),
)
def test_raising_values_after_the_last_block_never_unlocks(probes, lifts) -> None:
    """By any amounts: no scatter after a block excuses it."""
    lifted = [(v + up, s, r + more, e) for (v, s, r, e), (up, more) in zip(probes[-1], lifts, strict=False)]
    low, high = session(*probes), session(*probes[:-1], lifted)
    for before, after in zip(probabilities(low), probabilities(high), strict=True):
        assert after >= before - 1e-9
    rank = {"clear": 0, "gathering": 1, "locked": 2}
    assert rank[judge(TABLE, high)[1].kind] >= rank[judge(TABLE, low)[1].kind]


@settings(deadline=None, max_examples=50)
@given(st.lists(trials, min_size=2, max_size=5), st.data())
def test_raising_all_after_one_block_by_the_same_never_excuses_it_or_an_earlier_one(probes, data) -> None:
    first = data.draw(st.integers(1, len(probes) - 1))
    lift = data.draw(st.floats(0.0, 10.0))
    moments = [moments_of(np.array([t[1] for t in seen]), np.array([t[0] for t in seen])) for seen in probes]
    raised = [m if k < first else m._replace(mean_y=m.mean_y + lift) for k, m in enumerate(moments)]
    low, high = harm_of(PRIOR, stack(moments)), harm_of(PRIOR, stack(raised))
    assert np.all(high.factor[:first] >= low.factor[:first] * (1.0 - 1e-9))


@settings(deadline=None, max_examples=40)
@given(st.lists(trials, min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_the_order_within_a_probe_does_not_matter(probes, random) -> None:
    shuffled = [random.sample(seen, len(seen)) for seen in probes]
    assert probabilities(session(*shuffled)) == pytest.approx(probabilities(session(*probes)), abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(st.lists(trials, min_size=2, max_size=4), st.floats(0.55, 0.98), st.floats(0.0, 1.0), st.floats(0.0, 20.0))
@example([FLAT_TRIALS] * 3, 0.98, 1.0, 20.0)
@example([FLAT_TRIALS] * 3, 0.55, 0.0, 5.0)
def test_a_laxer_table_never_locks_more(probes, probability, margin, lift) -> None:
    strict = msgspec.structs.replace(TABLE, probability=0.51, margin_sd=0.0)
    lax = msgspec.structs.replace(TABLE, probability=probability, margin_sd=margin)
    # Raised after the first block, for else hardly any session is locked.
    state = session(probes[0], *([(v + lift, s, r, e) for v, s, r, e in seen] for seen in probes[1:]))
    if judge(lax, state)[1].kind == "locked":
        assert judge(strict, state)[1].kind == "locked"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_does_not_count(bad: float) -> None:
    state = session(flat(30, 0.0, 50.0), flat(9, 0.0, 50.0))
    assert take_index(state, bad, 0.3) is state
    assert take_index(state, 0.0, bad) is state
    assert take_rating(state, bad, 0.5) is state
    assert take_rating(state, 50.0, bad) is state
    assert judge(TABLE, take_index(state, bad, 0.3))[1].kind == "gathering"


def test_evidence_that_is_no_number_never_clears() -> None:
    state = session(flat(30, 0.0, 50.0), flat(10, 0.0, 50.0))
    broken = state.probes[0]._replace(indices=state.probes[0].indices._replace(mean_y=math.nan))
    assert judge(TABLE, state)[1].kind == "clear"
    assert judge(TABLE, state._replace(probes=(broken, state.probes[1])))[1].kind == "gathering"


def test_outliers_are_clipped() -> None:
    state = take_rating(take_index(Probing(), 1e9, 0.2), 1e9, 0.2)
    assert state.probes[0].indices.mean_y == 4.0
    assert state.probes[0].ratings.mean_y == 100.0


def test_the_guard_cannot_be_switched_off() -> None:
    never = {"probability": 1.0, "min_probe": 9, "min_baseline": 0, "rating_rise": 101.0, "margin_sd": 2.0, "off": 1}
    for wrong in ({key: value} for key, value in never.items()):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, HarmTable, strict=True)
