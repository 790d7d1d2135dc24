"""How a gate becomes commands: chains, slopes, what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.nic2_codec import MAX_TIME_MS, MIN_TIME_MS
from devices.nic2_plan import Course, course, legs, ramp, why_not
from devices.stimulator import GatePlan


@given(st.integers(0, 5000), st.integers(-2000, 2000), st.integers(-2000, 2000), st.integers(MIN_TIME_MS, 60_000))
def test_a_ramp_is_a_chain_that_arrives_on_time(at_ms: int, a: int, b: int, span_ms: int) -> None:
    chain = ramp(at_ms, a, b, span_ms)
    assert chain[0].at_ms == at_ms
    assert chain[-1].to_ua == b
    assert chain[-1].at_ms + chain[-1].transition_ms == at_ms + span_ms
    slope = abs(b - a) / span_ms
    level, end_ms = a, at_ms
    for leg in chain:
        assert MIN_TIME_MS <= leg.transition_ms <= MAX_TIME_MS
        assert leg.at_ms == end_ms
        assert abs(leg.to_ua - level) <= slope * leg.transition_ms + 1.0
        level, end_ms = leg.to_ua, leg.at_ms + leg.transition_ms


def test_two_milliamps_in_thirty_seconds_are_three_steps() -> None:
    assert [(leg.at_ms, leg.to_ua, leg.transition_ms) for leg in ramp(0, 0, 2000, 30_000)] == [
        (0, 667, 10_000),
        (10_000, 1333, 10_000),
        (20_000, 2000, 10_000),
    ]


def test_a_late_start_shortens_the_hold_and_not_the_end() -> None:
    plan = GatePlan(level_ua=300, rise_ms=4000, hold_ms=5000, fall_ms=4000)
    assert [(leg.at_ms, leg.to_ua) for leg in legs(plan, 700)] == [(700, 300), (9000, 0)]


@pytest.mark.parametrize(
    ("plan", "longest", "words"),
    [
        ((0, 1000, 1000, 1000), 10_000, "a level of 0 uA"),
        ((-1001, 10_000, 1000, 10_000), 10_000, "armed for at most 1000 uA"),
        ((100, 99, 1000, 1000), 10_000, "rise of 99 ms"),
        ((100, 1000, 1000, 10_001), 10_000, "fall of 10001 ms"),
        ((101, 1000, 1000, 1000), 10_000, "armed for at most 100 uA/s"),
        ((600, 10_000, 1000, 10_000), 10_000, r"slower than the 61 uA/s .*ramp_s = 9.8"),
        ((620, 10_000, 10_001, 10_000), 10_000, "hold of 10001 ms"),
        ((620, 10_000, 99, 10_000), None, "hold of 99 ms"),
    ],
)
def test_plans_that_are_refused(plan: tuple[int, int, int, int], longest: int | None, words: str) -> None:
    import re

    assert re.search(words, why_not(GatePlan(**dict(zip(GatePlan.__struct_fields__, plan, strict=True))), 1000, 100, longest))


@pytest.mark.parametrize("plan", [(1000, 10_000, 10_000, 10_000), (-620, 10_000, 10_000, 10_000), (7, 100, 100, 100)])
def test_plans_that_fit_one_peak(plan: tuple[int, int, int, int]) -> None:
    given_plan = GatePlan(**dict(zip(GatePlan.__struct_fields__, plan, strict=True)))
    assert why_not(given_plan, 1000, 100, 10_000) == ""


def test_a_course() -> None:
    path = course(GatePlan(level_ua=-100, rise_ms=1000, hold_ms=1000, fall_ms=1000), 0)
    seconds = [path.level_ua(round(t * 1e9)) for t in (-1, 0, 0.5, 1, 1.5, 2.25, 3, 9)]
    assert seconds == [0, 0, -50, -100, -100, -75, 0, 0]
    assert path.greatest_ua(round(2.25e9)) == 75
    assert path.end_ns == 3_000_000_000
    assert Course(((5, 10.0), (5, 20.0))).level_ua(5) == 20.0
