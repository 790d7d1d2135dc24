"""The gate on a fine grid of time: the shape of its ramps, refractory time and duty limit."""

from __future__ import annotations

import math

import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from devices.units import NS_PER_MS, NS_PER_S
from loop import gate
from loop.gate import GateInput, GateParams, GateState, Phase

TICK_NS = 20 * NS_PER_MS
PARAMS = GateParams(
    level_ua=1500,
    ramp_ns=25 * NS_PER_S,
    hold_ns=60 * NS_PER_S,
    settle_ns=5 * NS_PER_S,
    refractory_ns=30 * NS_PER_S,
    max_duty=0.5,
    duty_window_ns=300 * NS_PER_S,
)
WANTED = GateInput("live", "", at_zero=True, decision=1, wish="none", reason="wanted")
AT_SENSE = GateState(phase=Phase.SENSE)


def play(
    params: GateParams, state: GateState, start_ns: int, stop_ns: int, given: GateInput
) -> list[tuple[int, GateState]]:
    """Step every 20 ms from `start_ns` up to `stop_ns`; zero is confirmed as soon as zero is wanted."""
    path = []
    for t_ns in range(start_ns, stop_ns, TICK_NS):
        state = gate.step(params, state, t_ns, given).state
        path.append((t_ns, state))
    return path


def phases(path: list[tuple[int, GateState]]) -> list[str]:
    """The phases in order, each once."""
    out: list[str] = []
    for _, state in path:
        if not out or out[-1] != state.phase:
            out.append(state.phase)
    return out


def test_one_gate_goes_once_round_the_cycle() -> None:
    path = play(PARAMS, GateState(), 0, 120 * NS_PER_S, WANTED)
    assert phases(path) == ["SENSE", "RAMP_UP", "HOLD", "RAMP_DOWN", "SETTLE", "SENSE"]
    assert max(state.level_ua for _, state in path) == PARAMS.level_ua


def test_ramps_are_raised_cosines_no_steeper_than_allowed() -> None:
    path = play(PARAMS, AT_SENSE, 0, 120 * NS_PER_S, WANTED)
    steepest = math.pi / 2 * PARAMS.level_ua / PARAMS.ramp_ns * TICK_NS
    for (_, before), (_, after) in zip(path, path[1:], strict=False):
        assert abs(after.level_ua - before.level_ua) <= steepest + 1
    up = [state.level_ua for _, state in path if state.phase is Phase.RAMP_UP]
    assert up == sorted(up)
    assert up[len(up) // 2] == pytest.approx(PARAMS.level_ua / 2, abs=3)
    assert up[len(up) // 4] == pytest.approx(PARAMS.level_ua * (0.5 - 0.5 * math.cos(math.pi / 4)), abs=3)


@pytest.mark.parametrize("after_s", [0.0, 0.02, 0.5, 3.0, 12.5, 24.9, 40.0])
@pytest.mark.parametrize("wish", ["pause", "end"])
def test_a_stop_ramps_down_from_the_present_level_as_gently_as_the_whole_ramp(
    after_s: float, wish: gate.Wish
) -> None:
    up = play(PARAMS, AT_SENSE, 0, TICK_NS + round(after_s * NS_PER_S), WANTED)
    t_ns, state = up[-1]
    top = state.level_ua
    down = play(
        PARAMS, state, t_ns + TICK_NS, t_ns + 40 * NS_PER_S, WANTED._replace(wish=wish, reason="stop")
    )
    levels = [top, *(s.level_ua for _, s in down)]
    assert levels == sorted(levels, reverse=True), "no peak on the way down"
    steepest = math.pi / 2 * PARAMS.level_ua / PARAMS.ramp_ns * TICK_NS
    assert max(a - b for a, b in zip(levels, levels[1:], strict=False)) <= steepest + 1
    assert down[-1][1].phase is (Phase.PAUSED if wish == "pause" else Phase.ENDED)
    lasted_ns = sum(TICK_NS for _, s in down if s.phase is Phase.RAMP_DOWN)
    assert lasted_ns <= PARAMS.ramp_ns * top / PARAMS.level_ua + 3 * TICK_NS


def test_the_ramp_down_waits_for_confirmed_zero() -> None:
    unconfirmed = WANTED._replace(at_zero=False)
    path = play(PARAMS, AT_SENSE, 0, 200 * NS_PER_S, unconfirmed)
    t_ns, state = path[-1]
    assert (state.phase, state.level_ua) == (Phase.RAMP_DOWN, 0)
    assert gate.step(PARAMS, state, t_ns + TICK_NS, WANTED).state.phase is Phase.SETTLE


def test_the_next_gate_waits_for_the_refractory_time_and_says_so() -> None:
    params = PARAMS._replace(max_duty=1.0, duty_window_ns=3600 * NS_PER_S)
    path = play(params, AT_SENSE, 0, 300 * NS_PER_S, WANTED)
    opened = [t for (_, a), (t, b) in zip(path, path[1:], strict=False) if a.opened < b.opened]
    closed_ns = next(state.closed_ns for _, state in path if state.closed_ns is not None)
    assert closed_ns is not None
    assert 0 <= opened[0] - closed_ns - params.refractory_ns <= TICK_NS
    waiting = GateState(phase=Phase.SENSE, closed_ns=0)
    assert gate.step(params, waiting, 10 * NS_PER_S, WANTED).held == "refractory for another 20 s"


@pytest.mark.parametrize("phase", ["absent", "zeroing", "safe", "ending", "silent"])
def test_no_gate_opens_while_the_guard_is_not_armed(phase: str) -> None:
    result = gate.step(PARAMS, AT_SENSE, NS_PER_S, WANTED._replace(guard=phase))
    assert result.state.phase is Phase.SENSE
    assert result.held == f"the guard is {phase}, not armed"


def test_no_window_holds_more_current_than_the_duty_limit() -> None:
    params = PARAMS._replace(refractory_ns=0, hold_ns=10 * NS_PER_S, ramp_ns=2 * NS_PER_S)
    spells = set()
    for _, state in play(params, AT_SENSE, 0, 2000 * NS_PER_S, WANTED):
        spells.update(state.spells)
    assert len(spells) > 20
    most_ns = params.max_duty * params.duty_window_ns
    for last in spells:
        begin_ns = last.stop_ns - params.duty_window_ns
        used_ns = sum(max(0, min(s.stop_ns, last.stop_ns) - max(s.start_ns, begin_ns)) for s in spells)
        assert used_ns <= most_ns + 4 * TICK_NS * len(spells)
        assert used_ns > 0
    total_ns = sum(s.stop_ns - s.start_ns for s in spells)
    assert total_ns > 0.4 * 2000 * NS_PER_S, "the limit is used, not only kept"


def test_many_short_gates_cannot_slip_past_the_duty_limit() -> None:
    params = GateParams(100, NS_PER_S, NS_PER_S, NS_PER_S, 0, 0.2, 3600 * NS_PER_S)
    state, t_ns, with_current = AT_SENSE, 0, 0
    while t_ns < params.duty_window_ns:
        t_ns += NS_PER_S // 2
        state = gate.step(params, state, t_ns, WANTED).state
        with_current += state.phase in gate.WITH_CURRENT
    assert with_current / 2 <= 0.2 * 3600 + 4
    assert state.opened > 64
    assert "duty limit" in gate.held_closed(params, state, t_ns - NS_PER_S, WANTED)


@settings(max_examples=60, deadline=None)
@drawn(
    start=st.integers(0, 2000),
    goal=st.integers(0, 2000),
    ramp_ns=st.integers(1, 60 * NS_PER_S),
    at_ns=st.integers(-NS_PER_S, 61 * NS_PER_S),
)
def test_a_ramp_stays_between_its_ends(start: int, goal: int, ramp_ns: int, at_ns: int) -> None:
    level = gate.ramp_level_ua(start, goal, at_ns, ramp_ns)
    assert min(start, goal) <= level <= max(start, goal)
    assert at_ns > 0 or at_ns >= ramp_ns or level == start
    assert at_ns < ramp_ns or level == goal
