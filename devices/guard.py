"""The guard's decision part: `step(params, state, t_ns, input) -> (state, actions)`, without clock, I/O or randomness.

A current is a lease: what is not renewed ends by a ramp. A stop always wins: the smaller class number replaces the larger,
never the other way round, and only an operator's reset at confirmed zero leads out of a latch (I07, I08).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec.structs import replace

from devices import guard_requests as requests
from devices import guard_rules as rules
from devices import link
from devices.guard_checks import abort_level, judge
from devices.guard_dose import flowing_ua, is_used_up, settle
from devices.guard_plan import gate_cost, planned_ua
from devices.guard_state import (
    NEVER,
    Action,
    Booked,
    BookFailed,
    DeviceFailure,
    DeviceStop,
    DisarmDevice,
    EngineGone,
    Garbage,
    Heartbeat,
    Input,
    Params,
    Phase,
    RunGate,
    Send,
    SetLevel,
    State,
    Terminate,
    Tick,
    fresh,
    report,
    zero_confirmed,
)
from devices.guard_stops import latch, stop
from devices.stimulator import DeviceState, GatePlan, Readback, StopClass
from devices.units import NS_PER_MS, NS_PER_S

_UA: Final = 1000 * NS_PER_S
"""One microamp in units of `State.credit`."""

Result = tuple[State, Sequence[Action]]


def step(params: Params, state: State, t_ns: int, event: Input) -> tuple[State, list[Action]]:
    """Decide one input.

    Parameters
    ----------
    params : Params
        Fixed for the session.
    state : State
        What the step before returned.
    t_ns : int
        Now, in nanoseconds on the lease clock; never earlier than in the step before.
    event : Input
        What happened.

    Returns
    -------
    state : State
        The new state.
    actions : list of Action
        What to do, in this order.
    """
    if state.exited:
        return state, []
    before = state.phase
    actions: list[Action] = []
    stalled = rules.stalled(params, state, t_ns)
    if stalled:
        state, more = _late(state, t_ns, stalled)
        actions += more
    state, more = _HANDLERS[type(event)](params, state, t_ns, event)
    actions += more
    if state.phase is not before:
        actions.append(Send(report(params, state, t_ns)))
    return state, actions


# ---- time


def _late(state: State, t_ns: int, why: str) -> Result:
    """The host slept or stalled: cut, and count what may have flowed until the device's own lease ended."""
    dt_ns = t_ns - state.tick_ns
    counted_ns = min(dt_ns, NS_PER_S) if state.level_ua else 0
    state = replace(
        state,
        tick_ns=t_ns,
        gate_fc=state.gate_fc + state.level_ua * counted_ns,
        gate_ns=state.gate_ns + counted_ns,
    )
    return latch(state, t_ns, why)


def _tick(params: Params, state: State, t_ns: int, _event: Tick) -> Result:
    actions: list[Action] = []
    if state.tick_ns == NEVER:
        state = replace(state, tick_ns=t_ns, phase_ns=t_ns, zero_ns=t_ns, slow_ns=t_ns)
        actions.append(DisarmDevice())
    dt_ns = t_ns - state.tick_ns
    flow_ua = flowing_ua(params, state, t_ns)
    if flow_ua:
        state = replace(
            state,
            tick_ns=t_ns,
            gate_fc=state.gate_fc + flow_ua * dt_ns,
            gate_ns=state.gate_ns + dt_ns,
            flowed=True,
        )
    else:
        state = replace(state, tick_ns=t_ns)
    told_ua, told_phase = state.level_ua, state.phase
    state, more = _PHASES[state.phase](params, state, t_ns, dt_ns)
    actions += more
    zero = state.level_ua == 0 and zero_confirmed(params, state, t_ns)
    if zero:
        state, more = settle(state)
        actions += more
    slow = t_ns >= state.slow_ns
    _drive(params, state, told_ua, zero, slow, actions)
    if slow:
        late = t_ns - state.slow_ns >= params.slow_ns
        state = replace(state, slow_ns=(t_ns if late else state.slow_ns) + params.slow_ns)
        if state.phase is told_phase:
            actions.append(Send(report(params, state, t_ns)))
    if state.leaving:
        state, more = rules.leave(params, state, t_ns, report, is_zero=zero)
        actions += more
    return state, actions


def _zeroing(params: Params, state: State, t_ns: int, _dt_ns: int) -> Result:
    readback = state.readback
    if (
        readback is not None
        and zero_confirmed(params, state, t_ns)
        and not readback.fault
        and readback.state is not DeviceState.FAULT
    ):
        return replace(state, phase=Phase.SAFE, phase_ns=t_ns, boot_count=readback.boot_count), []
    if t_ns - state.phase_ns <= params.zeroing_ns:
        return state, []
    if readback is None or not fresh(params, state, t_ns):
        return latch(state, t_ns, "the device does not report: zero cannot be confirmed")
    if readback.fault or readback.state is DeviceState.FAULT:
        return latch(state, t_ns, f"device fault: {readback.fault[:200] or 'unnamed'}")
    return latch(state, t_ns, f"current though none was commanded: {readback.measured_ua} uA measured")


def _armed(params: Params, state: State, t_ns: int, _dt_ns: int) -> Result:
    expired = rules.arming_expired(params, state, t_ns)
    return stop(params, state, t_ns, StopClass.S2_SESSION_RAMP, expired) if expired else (state, [])


def _live(params: Params, state: State, t_ns: int, dt_ns: int) -> Result:
    if state.lease_ns <= t_ns:
        if state.level_ua:
            return stop(params, state, t_ns, StopClass.S1_ABORT_RAMP, "the lease expired: the engine is silent")
        return replace(state, phase=Phase.ARMED, phase_ns=t_ns, target_ua=0, credit=0, reason="no lease"), []
    if state.level_ua == 0 and state.target_ua == 0:
        return state, []
    if state.booking:
        return rules.wait_for_ledger(params, state, t_ns, target_ua=0)
    silent = _silence(params, state, t_ns)
    if silent and state.level_ua:
        return _silenced(params, state, t_ns, silent)
    if silent:
        return replace(state, target_ua=0), []
    if params.plan is not None:
        return _follow(params, params.plan, state, t_ns)
    moved = _move(state, t_ns, dt_ns, state.target_ua, params.slew_na_s)
    if is_used_up(params, moved):
        return stop(params, state, t_ns, StopClass.S2_SESSION_RAMP, "the reserved dose is used up")
    return moved, []


def _follow(params: Params, plan: GatePlan, state: State, t_ns: int) -> Result:
    """A device that takes whole gates: send one, then know where it must be; the engine's leases say whether it goes on."""
    if state.run_ns == NEVER:
        charge_fc, needed_ns = gate_cost(plan)
        if charge_fc > state.reserved_uc * NS_PER_S or needed_ns > state.reserved_ms * NS_PER_MS:
            why = link.Refused(seq=state.last_seq, reason="dose: the reservation does not cover the gate as a whole")
            return replace(state, target_ua=0), [Send(why)]
        return replace(state, run_ns=t_ns, rise_ns=t_ns, level_ua=1, flowed=True), [RunGate(plan)]
    level_ua = planned_ua(plan, t_ns - state.run_ns)
    if level_ua == 0:
        return replace(state, run_ns=NEVER, level_ua=0, target_ua=0, zero_ns=t_ns), []
    if level_ua > state.target_ua + params.plan_slack_ua:
        return stop(params, state, t_ns, StopClass.S2_SESSION_RAMP, "less is wanted than the gate that runs will give")
    if state.gate_fc > state.reserved_uc * NS_PER_S or state.gate_ns > state.reserved_ms * NS_PER_MS:
        # The plan itself fits; an ammeter may still have counted more.
        return stop(params, state, t_ns, StopClass.S2_SESSION_RAMP, "the reserved dose is used up")
    return replace(state, level_ua=level_ua), []


def _ending(params: Params, state: State, t_ns: int, dt_ns: int) -> Result:
    if state.level_ua:
        silent = _silence(params, state, t_ns)
        if silent:
            return _silenced(params, state, t_ns, silent)
        state = _move(state, t_ns, dt_ns, 0, params.end_slew_na_s)
    if state.level_ua == 0:
        if zero_confirmed(params, state, t_ns):
            return replace(state, phase=Phase.SAFE, phase_ns=t_ns, stop_class=None), [DisarmDevice()]
        if t_ns - state.zero_ns > params.confirm_ns:
            return latch(state, t_ns, f"zero was not confirmed after the ramp ({state.reason})"[:500])
    return state, []


def _aborting(params: Params, state: State, t_ns: int, _dt_ns: int) -> Result:
    level_ua = min(state.level_ua, abort_level(params, state, t_ns))
    if level_ua != state.level_ua:
        state = replace(state, level_ua=level_ua, zero_ns=state.zero_ns if level_ua else t_ns)
    if level_ua == 0:
        if zero_confirmed(params, state, t_ns):
            return replace(state, phase=Phase.STOPPED, phase_ns=t_ns), [DisarmDevice()]
        if t_ns - state.zero_ns > params.confirm_ns:
            return latch(state, t_ns, f"zero was not confirmed after the abort ramp ({state.reason})"[:500])
    return state, []


def _rest(_params: Params, state: State, _t_ns: int, _dt_ns: int) -> Result:
    return state, []


def _move(state: State, t_ns: int, dt_ns: int, target_ua: int, slew_na_s: int) -> State:
    """Go towards the target by whole microamps, no faster than the slew; a late tick earns at most two ticks' worth."""
    if target_ua == state.level_ua:
        return replace(state, credit=0) if state.credit else state
    credit = min(state.credit, _UA) + slew_na_s * min(dt_ns, 20 * NS_PER_MS)
    way_ua = min(abs(target_ua - state.level_ua), credit // _UA)
    level_ua = state.level_ua + (way_ua if target_ua > state.level_ua else -way_ua)
    zero_ns = t_ns if level_ua == 0 and state.level_ua else state.zero_ns
    rise_ns = t_ns if level_ua and state.level_ua == 0 else state.rise_ns
    return replace(
        state,
        level_ua=level_ua,
        credit=credit - way_ua * _UA,
        zero_ns=zero_ns,
        rise_ns=rise_ns,
        flowed=state.flowed or level_ua > 0,
    )


def _silence(params: Params, state: State, t_ns: int) -> str:
    if not fresh(params, state, t_ns):
        return f"no read-back for {params.stale_ns // NS_PER_MS} ms"
    if state.level_ua and t_ns - max(state.ack_ns, state.rise_ns) > params.stale_ns:
        return f"the device has acknowledged nothing for {params.stale_ns // NS_PER_MS} ms"
    return ""


def _silenced(params: Params, state: State, t_ns: int, why: str) -> Result:
    return _enter(params, t_ns, rules.silenced(state, why))


def _drive(params: Params, state: State, told_ua: int, zero: bool, slow: bool, actions: list[Action]) -> None:
    """Append what the device must be told in this tick: a level while there is one, else a sign of life."""
    phase = state.phase
    by_levels = params.plan is None
    if by_levels and (phase is Phase.LIVE or phase is Phase.ENDING or (phase is Phase.ABORTING and not params.device_ramp)):
        stands = state.readback is not None and state.readback.commanded_ua != 0
        if state.level_ua or told_ua or stands:
            actions.append(SetLevel(params.sign * state.level_ua))
            return
    if not slow:
        return
    if phase is Phase.LATCHED and not zero:
        actions.append(DeviceStop(StopClass.S0_CUT))
    elif (
        (phase is Phase.ABORTING or (phase is Phase.ENDING and not by_levels))
        and params.device_ramp
        and state.readback is not None
        and state.readback.state in (DeviceState.ARMED, DeviceState.ACTIVE, DeviceState.UNCERTAIN)
    ):
        actions.append(DeviceStop(StopClass.S1_ABORT_RAMP if phase is Phase.ABORTING else StopClass.S2_SESSION_RAMP))
    else:
        actions.append(Heartbeat())


# ---- the device


def _readback(params: Params, state: State, t_ns: int, readback: Readback) -> Result:
    if state.readback is not None and readback.t_ns < state.readback.t_ns:
        return state, []
    verdict = judge(params, state, t_ns, readback)
    acked = readback.ack_seq != state.ack_seq
    state = replace(
        state,
        readback=readback,
        heard_ns=t_ns,
        off_ns=verdict.off_ns,
        ohm_ns=verdict.ohm_ns,
        off_seen_ns=verdict.off_seen_ns,
        ohm_seen_ns=verdict.ohm_seen_ns,
        ack_seq=readback.ack_seq,
        ack_ns=t_ns if acked else state.ack_ns,
    )
    if verdict.stop is not None:
        return stop(params, state, t_ns, verdict.stop, verdict.reason)
    idle = readback.state is DeviceState.IDLE and state.phase in (Phase.ARMED, Phase.LIVE) and state.level_ua == 0
    if idle and t_ns - state.phase_ns > params.confirm_ns:
        return stop(params, state, t_ns, StopClass.S2_SESSION_RAMP, "the device disarmed itself")
    return state, []


def _device_failure(params: Params, state: State, t_ns: int, event: DeviceFailure) -> Result:
    if event.kind == "uncertain":
        is_on = state.phase in (Phase.LIVE, Phase.ENDING) and state.level_ua > 0
        return _enter(params, t_ns, rules.uncertain(state, event, is_on=is_on))
    if event.kind == "refused" and state.level_ua == 0 and state.phase in (Phase.ARMED, Phase.LIVE):
        state, actions = stop(params, state, t_ns, StopClass.S2_SESSION_RAMP, f"the device refused: {event.what}"[:500])
        return state, [*actions, Send(link.Refused(seq=state.last_seq, reason=state.reason))]
    return latch(state, t_ns, f"device {event.kind}: {event.what}"[:500])


def _ended(params: Params, state: State, t_ns: int, event: rules.End) -> Result:
    return _enter(params, t_ns, rules.ended(params, state, t_ns, event))


def _enter(params: Params, t_ns: int, called: rules.Stopping[State]) -> Result:
    """Enter the stop that a rule calls for, if any."""
    state, stop_class, why = called
    return (state, []) if stop_class is None else stop(params, state, t_ns, stop_class, why)


_PHASES: Final[dict[Phase, Callable[[Params, State, int, int], Result]]] = {
    Phase.ZEROING: _zeroing,
    Phase.SAFE: _rest,
    Phase.ARMED: _armed,
    Phase.LIVE: _live,
    Phase.ABORTING: _aborting,
    Phase.ENDING: _ending,
    Phase.STOPPED: _rest,
    Phase.LATCHED: _rest,
}

_HANDLERS: Final[dict[type, Callable[[Params, State, int, Any], Result]]] = {
    Tick: _tick,
    Readback: _readback,
    DeviceFailure: _device_failure,
    Booked: requests.booked,
    BookFailed: requests.book_failed,
    Garbage: _ended,
    EngineGone: _ended,
    Terminate: _ended,
    link.Command: requests.command,
    link.Arm: requests.arm,
    link.Reserve: requests.reserve,
    link.Reset: requests.reset,
    link.Stop: _ended,
    link.Goodbye: _ended,
}
