"""The gate explored exhaustively: every reachable state with every input, each edge checked (I07, I08)."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator

import pytest

from devices.units import NS_PER_S
from loop import gate
from loop.gate import WITH_CURRENT, GateInput, GateParams, GateState, GateStep, Phase

# Coarse on purpose: seconds as units, few levels, so that the set of states is finite and small.
PARAMS = GateParams(
    level_ua=100,
    ramp_ns=4 * NS_PER_S,
    hold_ns=2 * NS_PER_S,
    settle_ns=2 * NS_PER_S,
    refractory_ns=3 * NS_PER_S,
    # The duty limit never binds here, so that former spells are no part of the state; it has tests of its own.
    max_duty=1.0,
    duty_window_ns=11 * NS_PER_S,
)
Edge = tuple[GateState, int, GateInput, GateStep]
NOW_NS = 1000 * NS_PER_S
STEPS_NS = (NS_PER_S, 3 * NS_PER_S)
GUARDS = ("", "absent", "zeroing", "safe", "armed", "live", "aborting", "ending", "stopped", "latched", "silent")
WISHES: tuple[gate.Wish, ...] = ("none", "pause", "resume", "end")
INPUTS = tuple(
    GateInput(guard, "", at_zero, decision, wish, "why")
    for guard, at_zero, decision, wish in itertools.product(GUARDS, (False, True), (0, 7), WISHES)
)
STOPPED_GUARD = ("aborting", "stopped", "latched")
STEEPEST_UA_NS = math.pi / 2 * PARAMS.level_ua / PARAMS.ramp_ns


def relative(state: GateState, t_ns: int) -> GateState:
    """The same state as if it were `NOW_NS`; what cannot matter any more in its phase is brought to one value."""

    def age(when_ns: int, most_ns: int) -> int:
        return NOW_NS - min(t_ns - when_ns, most_ns)

    timed = state.phase in WITH_CURRENT or state.phase is Phase.SETTLE
    down = state.phase is Phase.RAMP_DOWN
    closed = state.closed_ns if state.phase not in WITH_CURRENT else None
    return GateState(
        phase=state.phase,
        since_ns=age(state.since_ns, PARAMS.ramp_ns) if timed else NOW_NS,
        from_ua=state.from_ua if down else 0,
        level_ua=state.level_ua,
        shown_ua=state.shown_ua,
        hold_ns=PARAMS.hold_ns if state.phase in WITH_CURRENT else 0,
        closed_ns=None if closed is None else age(closed, PARAMS.refractory_ns),
        after_zero=state.after_zero if down else Phase.SETTLE,
    )


def explore(params: GateParams) -> Iterator[Edge]:
    """Every edge: a state, the time of the next step, the input, and what came of it."""
    start = relative(GateState(since_ns=NOW_NS), NOW_NS)
    seen, queue = {start}, deque([start])
    while queue:
        state = queue.popleft()
        for given in INPUTS:
            for step_ns in STEPS_NS:
                t_ns = NOW_NS + step_ns
                result = gate.step(params, state, t_ns, given)
                yield state, t_ns, given, result
                after = relative(result.state, t_ns)
                if after not in seen:
                    seen.add(after)
                    queue.append(after)


@pytest.fixture(scope="module", params=["held", "released"])
def edges(request: pytest.FixtureRequest) -> list[Edge]:
    return list(explore(PARAMS._replace(plateau=request.param)))


def check_levels(state: GateState, t_ns: int, given: GateInput, after: GateState) -> None:
    """Bounds, direction and slope of the level on one edge."""
    assert 0 <= after.level_ua <= after.shown_ua <= PARAMS.level_ua
    if after.phase not in WITH_CURRENT:
        assert after.level_ua == 0
        return
    change_ua = after.level_ua - state.level_ua
    assert abs(change_ua) <= STEEPEST_UA_NS * (t_ns - NOW_NS) + 1
    if after.phase is Phase.RAMP_DOWN or given.wish in ("pause", "end") or given.guard == "ending":
        assert change_ua <= 0
    if after.phase is Phase.RAMP_DOWN and state.phase is not Phase.RAMP_DOWN:
        assert after.level_ua == state.level_ua, "a ramp-down starts at the present level"
        assert after.from_ua == state.shown_ua
    if after.phase is Phase.HOLD:
        assert after.shown_ua == PARAMS.level_ua
    if after.phase is not Phase.RAMP_UP and state.phase in (Phase.HOLD, Phase.RAMP_DOWN):
        assert change_ua <= 0


def check_moves(state: GateState, t_ns: int, given: GateInput, result: GateStep) -> None:
    """Which phase may follow which, and on what grounds."""
    before, after = state.phase, result.state.phase
    if before is Phase.ENDED:
        assert result.state == state
        return
    if given.guard in STOPPED_GUARD:
        assert after is Phase.STOPPED or (before is Phase.STOPPED and after is Phase.ENDED)
    if before is Phase.STOPPED and after is not Phase.STOPPED:
        armed_again = after is Phase.SETTLE and given.guard in ("armed", "live")
        assert armed_again or (after is Phase.ENDED and given.at_zero and given.wish == "end")
    if before in WITH_CURRENT and after not in (*WITH_CURRENT, Phase.STOPPED):
        assert before is Phase.RAMP_DOWN
        assert given.at_zero, "the cycle goes on at confirmed zero only"
    if before in (Phase.RAMP_UP, Phase.HOLD) and given.wish in ("pause", "end"):
        assert after in (Phase.RAMP_DOWN, Phase.STOPPED)
    if before not in WITH_CURRENT and after in WITH_CURRENT:
        assert (before, after) == (Phase.SENSE, Phase.RAMP_UP)
        assert given.decision
        assert given.guard in ("armed", "live")
        assert given.wish not in ("pause", "end")
        assert state.closed_ns is None or t_ns - state.closed_ns >= PARAMS.refractory_ns
        assert not gate.held_closed(PARAMS, state, t_ns, given)
    assert bool(result.reason) == (after is not before), "every change, and nothing else, has a reason"
    if result.held:
        assert before is after is Phase.SENSE


def test_a_held_gate_shows_what_it_is_and_a_sham_what_a_held_one_would_be() -> None:
    held, released = (list(explore(PARAMS._replace(plateau=plateau))) for plateau in ("held", "released"))  # type: ignore[arg-type]
    assert all(edge[3].state.level_ua == edge[3].state.shown_ua for edge in held)
    assert any(edge[3].state.level_ua < edge[3].state.shown_ua for edge in released)

    def shown(state: GateState) -> GateState:
        return state._replace(level_ua=state.shown_ua)

    # Seen from outside, one machine: same shown states, same moves, same reasons.
    moves = {(shown(state), t_ns, given): (shown(r.state), r.reason, r.held) for state, t_ns, given, r in held}
    assert all(moves[shown(state), t_ns, given] == (shown(r.state), r.reason, r.held) for state, t_ns, given, r in released)


def test_every_edge_of_the_gate_is_safe(edges: list[Edge]) -> None:
    states, phases = set(), set()
    for state, t_ns, given, result in edges:
        check_levels(state, t_ns, given, result.state)
        check_moves(state, t_ns, given, result)
        states.add(state)
        phases.add(state.phase)
    print(f"gate: {len(states)} states, {len(edges)} edges")
    assert phases == set(Phase)
    assert len(states) > 40
    assert len(edges) == len(states) * len(INPUTS) * len(STEPS_NS)


def test_an_end_asked_for_on_the_way_down_is_never_forgotten(edges: list[Edge]) -> None:
    for state, _, given, result in edges:
        if state.phase is not Phase.RAMP_DOWN:
            continue
        ends = state.after_zero is Phase.ENDED or given.wish == "end" or given.guard == "ending"
        if ends and result.state.phase is not Phase.STOPPED:
            assert result.state.phase is Phase.ENDED or result.state.after_zero is Phase.ENDED
        if state.after_zero is Phase.PAUSED and result.state.phase is not Phase.STOPPED:
            assert Phase.SETTLE not in (result.state.phase, result.state.after_zero)


@pytest.mark.parametrize("phase", sorted(Phase))
def test_a_stop_wins_from_every_phase(edges: list[Edge], phase: Phase) -> None:
    reached = {state for state, *_ in edges if state.phase is phase}
    assert reached
    for state, guard in itertools.product(reached, STOPPED_GUARD):
        given = GateInput(guard, "cut", at_zero=False, decision=7, wish="resume", reason="go on")
        after = gate.step(PARAMS, state, NOW_NS + 1, given).state
        assert after.phase is (Phase.ENDED if phase is Phase.ENDED else Phase.STOPPED)
        assert after.level_ua == 0
