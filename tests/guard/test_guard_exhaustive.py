"""Every state of the guard's decision part times every input, on a coarse grid of times and levels (I08).

One tick is a second, one step of the level a microamp, and every time-out one to three ticks, so that the reachable
states, seen relative to now, are finitely many. What an edge must hold is asserted on every edge.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from devices import link
from devices.guard import step
from devices.guard_state import (
    NEVER,
    Announce,
    ArmDevice,
    Book,
    Booked,
    BookFailed,
    DeviceFailure,
    DeviceStop,
    EngineGone,
    Exit,
    Garbage,
    Input,
    Leaving,
    Params,
    Phase,
    ResetDevice,
    RunGate,
    Send,
    SetLevel,
    Settle,
    State,
    Terminate,
    Tick,
    arm_code,
    initial,
    zero_confirmed,
)
from devices.stimulator import DeviceState, GatePlan, Readback, StopClass
from devices.units import NS_PER_S

S = NS_PER_S
NOW = 1000 * S
MOST_UA = 2

PARAMS = Params(
    sign=1,
    max_level_ua=MOST_UA,
    over_current_ua=50,
    slew_na_s=50_000,
    end_slew_na_s=50_000,
    max_charge_uc=3,
    max_on_time_ms=60_000,
    arm_below_ohm=10.0,
    stop_above_ohm=20.0,
    short_below_ohm=1.0,
    device_ramp=True,
    measures_current=True,
    forbidden="",
    arm_secret=b"x",
    abort_slew_ua_s=1,
    tick_ns=S,
    late_ns=S,
    lease_ns=2 * S,
    slow_ns=S,
    lag_ns=S // 2,
    stale_ns=S,
    sustain_ns=S,
    confirm_ns=S,
    zeroing_ns=S,
    arm_valid_ns=S,
    garbage_ns=S,
    give_up_ns=S,
    book_ns=S,
    tolerance_ua=15,
    idle_tolerance_ua=12,
)

# The same for a device that takes a gate as a whole.
WHOLE = replace(
    PARAMS,
    plan=GatePlan(level_ua=MOST_UA, rise_ms=2000, hold_ms=1000, fall_ms=2000),
    plan_slack_ua=0,
    max_charge_uc=7,
)

AT_ZERO = (Phase.ZEROING, Phase.SAFE, Phase.ARMED, Phase.STOPPED, Phase.LATCHED)
RANK = {Phase.LATCHED: 0, Phase.ABORTING: 1, Phase.STOPPED: 1, Phase.ENDING: 2}


def _readbacks(state: State) -> Iterator[tuple[str, Readback]]:
    live = state.phase in (Phase.LIVE, Phase.ENDING, Phase.ABORTING)
    says = (
        DeviceState.ACTIVE if state.level_ua else DeviceState.ARMED if live or state.phase is Phase.ARMED else DeviceState.IDLE
    )
    good = Readback(
        t_ns=NOW,
        state=says,
        commanded_ua=state.level_ua,
        measured_ua=float(state.level_ua),
        voltage_mv=None,
        impedance_ohm=5.0,
        ack_seq=1,
        boot_count=1,
        fault="",
    )
    yield "readback: good", good
    yield "readback: nothing acknowledged", replace(good, ack_seq=0)
    yield "readback: still on", replace(good, state=DeviceState.ACTIVE, commanded_ua=1, measured_ua=1.0)
    yield "readback: off", replace(good, measured_ua=30.0)
    yield "readback: over-current", replace(good, measured_ua=60.0)
    yield "readback: wrong sign", replace(good, measured_ua=-30.0)
    yield "readback: infinite", replace(good, measured_ua=float("inf"))
    yield "readback: impedance", replace(good, impedance_ohm=30.0)
    yield "readback: idle", replace(good, state=DeviceState.IDLE, commanded_ua=0, measured_ua=0.0)
    yield "readback: uncertain", replace(good, state=DeviceState.UNCERTAIN)
    yield "readback: fault", replace(good, fault="broken", commanded_ua=0, measured_ua=0.0)
    yield "readback: restarted", replace(good, boot_count=2)


def _inputs(params: Params, state: State) -> Iterator[tuple[str, int, Input]]:
    """Name, time that passes before it, and the input; everything but a tick comes at once or too late."""
    yield "tick", S, Tick()
    yield "tick: late", 3 * S, Tick()
    for name, readback in _readbacks(state):
        yield name, 0, readback
    for level in (0, 1, MOST_UA):
        yield f"command {level}", 0, link.Command(seq=1, level_ua=level, deadline_ns=NOW + 2 * S, decision=0)
    yield "command: late", 0, link.Command(seq=1, level_ua=1, deadline_ns=NOW, decision=0)
    yield "command: old", 0, link.Command(seq=0, level_ua=1, deadline_ns=NOW + S, decision=0)
    yield "command: too high", 0, link.Command(seq=1, level_ua=3, deadline_ns=NOW + S, decision=0)
    yield (
        "command: after a stall",
        3 * S,
        link.Command(seq=1, level_ua=2, deadline_ns=NOW + 4 * S, decision=0),
    )
    yield "arm", 0, link.Arm(seq=1, code=arm_code(params, state))
    yield "arm: wrong code", 0, link.Arm(seq=1, code="?")
    most_ms = 4000 if params.plan is None else 6000
    yield "reserve", 0, link.Reserve(seq=1, charge_uc=params.max_charge_uc, on_time_ms=most_ms)
    yield "reserve: too much", 0, link.Reserve(seq=1, charge_uc=params.max_charge_uc + 1, on_time_ms=most_ms)
    yield "booked", 0, Booked(1)
    yield "booked: another", 0, Booked(2)
    yield "book failed", 0, BookFailed(1, "full")
    yield "book failed: another", 0, BookFailed(2, "full")
    for stop_class in (0, 1, 2):
        yield f"stop {stop_class}", 0, link.Stop(stop_class=stop_class, reason="")
    yield "reset", 0, link.Reset(seq=1, operator="x")
    yield "goodbye", 0, link.Goodbye(reason="")
    yield "engine gone", 0, EngineGone()
    yield "terminate", 0, Terminate()
    yield "garbage", 0, Garbage("")
    yield "device refused", 0, DeviceFailure("refused", "")
    yield "device lost", 0, DeviceFailure("lost", "")
    yield "device uncertain", 0, DeviceFailure("uncertain", "")


def _since(value: int, now: int, most: int) -> int:
    """`value` seen from `now`, moved to `NOW`; ages beyond `most` seconds are all alike."""
    if value == NEVER:
        return NEVER
    return NOW - min(now - value, most * S)


def _canonical(params: Params, state: State, now: int) -> State:
    """The same state as if it were `NOW`, without what decides nothing in its phase."""
    if state.exited:
        return State(exited=True)
    phase = state.phase
    resting = phase in (Phase.SAFE, Phase.STOPPED, Phase.LATCHED)
    flowing = state.level_ua > 0
    judged = phase not in (Phase.LATCHED, Phase.ZEROING)
    phase_ns = leaving_ns = NEVER
    if phase in (Phase.ZEROING, Phase.ARMED, Phase.ABORTING):
        phase_ns = _since(state.phase_ns, now, 4 if phase is Phase.ABORTING else 2)
    elif resting and state.leaving:
        phase_ns = leaving_ns = _since(max(state.phase_ns, state.leaving_ns), now, 2)
    zero_ages = 2 if phase in (Phase.ABORTING, Phase.ENDING) else 1
    acks = flowing and phase in (Phase.LIVE, Phase.ENDING)
    return State(
        phase=phase,
        reason="",
        stop_class=state.stop_class,
        level_ua=state.level_ua,
        target_ua=state.target_ua,
        lease_ns=NEVER if state.lease_ns <= now else NOW + state.lease_ns - now,
        credit=state.credit,
        tick_ns=NOW if state.tick_ns != NEVER else NEVER,
        slow_ns=NOW if state.slow_ns != NEVER else NEVER,
        phase_ns=phase_ns,
        from_ua=state.from_ua if phase is Phase.ABORTING else 0,
        zero_ns=NEVER if flowing else _since(state.zero_ns, now, zero_ages),
        readback=_canonical_readback(params, state),
        run_ns=_since(state.run_ns, now, 6),
        heard_ns=_since(state.heard_ns, now, 2),
        off_ns=_since(state.off_ns, now, 1) if judged else NEVER,
        ohm_ns=_since(state.ohm_ns, now, 1) if judged else NEVER,
        # One of the two memories of good readings in between; the other is the same code, and would triple the states again.
        off_seen_ns=_since(state.off_seen_ns, now, 4) if judged else NEVER,
        boot_count=1 if judged else None,
        ack_seq=0,
        ack_ns=_since(max(state.ack_ns, state.rise_ns), now, 2) if acks else NEVER,
        silences=min(state.silences, 1),
        blind=state.blind and phase is Phase.ABORTING,
        reserved_uc=state.reserved_uc,
        reserved_ms=state.reserved_ms,
        booking=1 if state.booking else 0,
        booking_ns=_since(state.booking_ns, now, 2),
        gate_fc=0 if state.leaving else min(state.gate_fc, params.max_charge_uc * S),
        gate_ns=min(state.gate_ns, 5 * S) if phase is Phase.LIVE else 0,
        used_fc=0 if state.leaving else min(state.used_fc, params.max_charge_uc * S),
        flowed=state.flowed,
        leaving=state.leaving,
        leaving_ns=leaving_ns,
    )


def _canonical_readback(params: Params, state: State) -> Readback | None:
    """Only what a later decision can still see: whether it shows zero, how much flows, and what arming would ask."""
    readback = state.readback
    if readback is None:
        return None
    readback = replace(readback, t_ns=NOW, ack_seq=0, boot_count=1)
    if state.phase in (Phase.SAFE, Phase.ARMED) or (state.phase is Phase.LIVE and not state.level_ua):
        return readback
    zeroing = state.phase is Phase.ZEROING
    flows = abs(readback.measured_ua or 0.0) > params.idle_tolerance_ua
    stopping = (Phase.ABORTING,) if params.plan is None else (Phase.ABORTING, Phase.ENDING)
    uncertain = readback.state is DeviceState.UNCERTAIN
    follows = readback.state in (DeviceState.ARMED, DeviceState.ACTIVE) and state.phase in stopping
    return replace(
        readback,
        state=DeviceState.UNCERTAIN if uncertain else DeviceState.ACTIVE if follows else DeviceState.IDLE,
        impedance_ohm=readback.impedance_ohm if zeroing else None,
        fault=readback.fault if zeroing else "",
        measured_ua=30.0 if flows else 0.0,
        commanded_ua=1 if readback.commanded_ua else 0,
    )


def _check(params: Params, name: str, event: Input, now: int, old: State, new: State, actions: list[Any]) -> None:
    """What holds on every edge."""
    levels = [action.level_ua for action in actions if isinstance(action, SetLevel)]
    stops = [action.stop_class for action in actions if isinstance(action, DeviceStop)]
    gates = [action for action in actions if isinstance(action, RunGate)]
    assert not levels if params.plan is not None else not gates, "levels or whole gates, never both"
    if gates:
        assert old.run_ns == NEVER and new.run_ns == now and old.level_ua == 0 and old.target_ua > 0
        assert old.phase is new.phase is Phase.LIVE and not old.flowed and old.stop_class is None
    if new.run_ns != NEVER:
        assert new.phase is Phase.LIVE and new.level_ua > 0
    assert 0 <= new.level_ua <= MOST_UA and all(0 <= level <= MOST_UA for level in levels)
    assert len(levels) <= 1 and (not levels or levels[0] == new.level_ua)
    if new.phase in AT_ZERO:
        assert new.level_ua == 0 and not levels
    if new.level_ua > old.level_ua:
        assert isinstance(event, Tick) and old.phase is new.phase is Phase.LIVE
        assert new.level_ua - old.level_ua == 1, "slew"
        assert new.lease_ns > now, "no level without a lease"
        assert new.target_ua >= new.level_ua and new.reserved_uc > 0 and new.stop_class is None
        assert not old.booking and not new.booking, "a rise before the reservation is on disk"
        assert old.readback is not None and now - old.heard_ns <= params.stale_ns
    if new.phase is Phase.LIVE and new.level_ua and isinstance(event, Tick):
        assert new.lease_ns > now
    if params.plan is not None and new.phase is Phase.ENDING and old.phase is Phase.LIVE:
        assert stops == [StopClass.S2_SESSION_RAMP]
    if new.stop_class is not None or (new.leaving and new.phase is not Phase.LIVE):
        assert new.target_ua == 0 and new.level_ua <= old.level_ua
    if old.level_ua - new.level_ua > 1:
        assert new.phase is Phase.LATCHED or old.phase is new.phase is Phase.ABORTING, "a fall beyond the slew"
    if old.phase in RANK and new.phase in RANK:
        assert RANK[new.phase] <= RANK[old.phase], "a stop was downgraded"
    if new.phase is Phase.LATCHED:
        assert new.stop_class is StopClass.S0_CUT and new.lease_ns == NEVER
        if old.phase is not Phase.LATCHED:
            assert stops and stops[0] is StopClass.S0_CUT
            assert isinstance(actions[0], DeviceStop) or isinstance(event, Tick)
    if old.phase in (Phase.LATCHED, Phase.STOPPED) and new.phase is not old.phase and new.phase is not Phase.LATCHED:
        assert isinstance(event, link.Reset) and new.phase is Phase.ZEROING
        assert zero_confirmed(params, old, now) and any(isinstance(action, ResetDevice) for action in actions)
    if old.phase is Phase.ABORTING and new.phase is not Phase.ABORTING:
        assert new.phase in (Phase.STOPPED, Phase.LATCHED)
    if old.phase is Phase.ENDING and new.phase is Phase.SAFE:
        assert zero_confirmed(params, new, now) and new.stop_class is None
    if new.phase is Phase.ARMED and old.phase not in (Phase.ARMED, Phase.LIVE):
        assert name == "arm" and old.phase is Phase.SAFE and zero_confirmed(params, old, now)
        assert any(isinstance(action, ArmDevice) for action in actions)
        assert any(isinstance(action, Announce) for action in actions)
    if new.phase is Phase.LIVE and old.phase is not Phase.LIVE:
        assert name in {"command 0", "command 1", "command 2"} and old.phase is Phase.ARMED
    if (
        name == "stop 0"
        or (name.endswith((": late", "after a stall")) and not isinstance(event, link.Command))
        or name == "command: after a stall"
    ) and (old.tick_ns != NEVER or name == "stop 0"):
        assert new.phase is Phase.LATCHED
        assert old.phase is Phase.LATCHED or stops[0] is StopClass.S0_CUT
    if name in {"command: late", "command: old", "command: too high", "arm: wrong code", "reserve: too much"}:
        assert (new.phase, new.level_ua, new.target_ua, new.lease_ns, new.reserved_uc) == (
            old.phase,
            old.level_ua,
            old.target_ua,
            old.lease_ns,
            old.reserved_uc,
        )
    if new.phase is not old.phase:
        assert any(
            isinstance(action, Send) and isinstance(action.message, link.Report) and action.message.phase == new.phase
            for action in actions
        )
    if new.booking:
        assert new.level_ua == 0 and new.reserved_uc > 0
        assert old.booking or (name == "reserve" and any(isinstance(action, Book) for action in actions))
    elif old.booking:
        settled = any(isinstance(action, Settle) for action in actions)
        given_up = new.flowed and new.reserved_uc > 0 and any(isinstance(action, Send) for action in actions)
        assert name in {"booked", "book failed"} or settled or given_up, "a reservation lost sight of"
        assert name != "book failed" or new.reserved_uc == 0
    if any(isinstance(action, Book) for action in actions):
        assert old.phase in (Phase.ARMED, Phase.LIVE) and not old.level_ua and not old.flowed, "a file touched under current"
    if name.endswith(": another"):
        assert (new, actions) == (old, [])
    for action in actions:
        if isinstance(action, Settle):
            assert new.reserved_uc == 0 and new.level_ua == 0 and zero_confirmed(params, new, now)
        if isinstance(action, Exit):
            assert new.leaving is not Leaving.STAYS and new.level_ua == 0
            assert new.phase in (Phase.SAFE, Phase.STOPPED, Phase.LATCHED)
            assert action.code == 4 or zero_confirmed(params, new, now)
    assert new.used_fc >= old.used_fc
    assert new.used_fc + new.gate_fc >= old.used_fc + old.gate_fc or isinstance(event, link.Reserve)


class Exploration:
    """All reachable states, how often each phase is left for which other, and the number of edges."""

    def __init__(self, params: Params) -> None:
        start = _canonical(params, initial(params), NOW)
        self.states: set[State] = {start}
        self.moves: Counter[tuple[Phase, str, Phase]] = Counter()
        self.edges = 0
        self.by_phase: Counter[Phase] = Counter()
        waiting = deque([start])
        while waiting:
            old = waiting.popleft()
            if old.exited:
                continue
            self.by_phase[old.phase] += 1
            for name, later, event in _inputs(params, old):
                if old.tick_ns == NEVER and not isinstance(event, Tick):
                    continue
                now = NOW + later
                new, actions = step(params, old, now, event)
                if isinstance(event, Garbage):
                    # Once and twice only count; the third time within a second is what this edge stands for.
                    assert replace(new, garbage_ns=(), dropped=0) == old
                    new, actions = step(params, step(params, new, now, event)[0], now, event)
                    assert new.phase is Phase.LATCHED
                self.edges += 1
                try:
                    _check(params, name, event, now, old, new, actions)
                except AssertionError as error:
                    raise AssertionError(f"{name}\nfrom {old}\nto {new}\ndoing {actions}\n{error}") from error
                self.moves[old.phase, name, new.phase] += 1
                seen = _canonical(params, new, now)
                if seen not in self.states:
                    self.states.add(seen)
                    waiting.append(seen)


@pytest.fixture(scope="module", params=[PARAMS, WHOLE], ids=["levels", "whole gates"])
def explored(request: pytest.FixtureRequest) -> Exploration:
    return Exploration(request.param)


def test_every_edge_holds(explored: Exploration) -> None:
    print(f"\n{len(explored.states)} states, {explored.edges} edges, {dict(explored.by_phase)}")
    assert set(explored.by_phase) == set(Phase)
    assert len(explored.states) > 1000


def test_the_emergency_stop_latches_every_phase(explored: Exploration) -> None:
    reached = {(old, new) for old, name, new in explored.moves if name == "stop 0"}
    assert reached == {(phase, Phase.LATCHED) for phase in Phase}


def test_every_phase_is_left_only_as_designed(explored: Exploration) -> None:
    """The whole graph of phases; a new arrow is a decision, not an accident."""
    z, s, a, live, ab, e, st, lat = Phase
    arrows = {(old, new) for old, _, new in explored.moves if old is not new}
    assert arrows == {
        (z, s),
        (z, lat),
        (s, a),
        (s, lat),
        (a, live),
        (a, s),
        (a, st),
        (a, lat),
        (live, a),
        (live, s),
        (live, ab),
        (live, e),
        (live, st),
        (live, lat),
        (ab, st),
        (ab, lat),
        (e, s),
        (e, ab),
        (e, lat),
        (st, z),
        (st, lat),
        (lat, z),
    }
