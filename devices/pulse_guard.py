"""The pulse guard's decision part: `step(params, state, t_ns, input) -> (state, actions)`, as `devices.guard` for a current.

The device is armed for one gate only: no lease, no gate, no armed device. A gate is trains of a few pulses, each asked for when
the one before is over and the engine's lease still runs; a stop disarms at once, whatever its class. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec.structs import replace

from devices import guard_rules as rules
from devices import link
from devices import pulse_requests as requests
from devices.guard_state import (
    NEVER,
    Booked,
    BookFailed,
    DeviceFailure,
    DeviceStop,
    DisarmDevice,
    EngineGone,
    Garbage,
    Heartbeat,
    Phase,
    Send,
    SettlePulses,
    Terminate,
    Tick,
    fresh,
)
from devices.pulse_guard_state import (
    ArmPulses,
    FireTrain,
    PulseAction,
    PulseGuardState,
    PulseInput,
    PulseParams,
    disarmed,
    report,
)
from devices.pulses import PulseReadback, PulseState
from devices.stimulator import StopClass
from devices.units import NS_PER_MS

Result = tuple[PulseGuardState, Sequence[PulseAction]]
_QUIET: Final = {"wanted_percent": 0, "armed_ns": NEVER, "was_ready": False, "train_ns": NEVER}
"""No gate, no train; the device is being told to disarm."""


def step(
    params: PulseParams, state: PulseGuardState, t_ns: int, event: PulseInput
) -> tuple[PulseGuardState, list[PulseAction]]:
    """Decide one input; parameters and results as in `devices.guard.step`."""
    if state.exited:
        return state, []
    before = state.phase
    actions: list[PulseAction] = []
    stalled = rules.stalled(params, state, t_ns)
    if stalled:
        state, more = latch(replace(state, tick_ns=t_ns), t_ns, stalled)
        actions += more
    state, more = _HANDLERS[type(event)](params, state, t_ns, event)
    actions += more
    if state.phase is not before:
        actions.append(Send(report(params, state, t_ns)))
    return state, actions


# ---- stops: the highest wins, none is ever downgraded (I08)


def latch(state: PulseGuardState, t_ns: int, reason: str) -> Result:
    """S0 from any phase: disarmed now, latched. A latch keeps its first reason, and the cut is repeated."""
    return rules.latch(state, t_ns, reason, **_QUIET, quiet_ns=t_ns)


def stop(state: PulseGuardState, t_ns: int, stop_class: StopClass, reason: str) -> Result:
    """Enter the stop `stop_class`, unless one as high or higher is in force.

    Within a gate S1 and S2 disarm at once and wait for the device's word; between gates S1 leads to `stopped`, which needs a
    reset, and S2 to `safe`; before arming there is nothing for them to stop.
    """
    if stop_class is StopClass.S0_CUT:
        return latch(state, t_ns, reason)
    phase = rules.stopped_phase(state, stop_class, is_on=state.flowed)
    if phase is None:
        return state, []
    waits = phase in (Phase.ABORTING, Phase.ENDING)
    return replace(
        state,
        phase=phase,
        stop_class=None if phase is Phase.SAFE else stop_class,
        reason=reason,
        lease_ns=NEVER,
        phase_ns=t_ns,
        quiet_ns=t_ns,
        **_QUIET,
    ), [DeviceStop(stop_class) if waits else DisarmDevice()]


# ---- time


def _tick(params: PulseParams, state: PulseGuardState, t_ns: int, _event: Tick) -> Result:
    actions: list[PulseAction] = []
    if state.tick_ns == NEVER:
        state = replace(state, tick_ns=t_ns, phase_ns=t_ns, quiet_ns=t_ns, slow_ns=t_ns)
        actions.append(DisarmDevice())
    state = replace(state, tick_ns=t_ns)
    state, more = _PHASES[state.phase](params, state, t_ns)
    actions += more
    if disarmed(params, state, t_ns):
        state, more = _settle(params, state)
        actions += more
    if t_ns - state.slow_ns >= params.slow_ns:
        state = replace(state, slow_ns=t_ns)
        is_loud = state.phase is Phase.LATCHED and not disarmed(params, state, t_ns)
        actions.append(DeviceStop(StopClass.S0_CUT) if is_loud else Heartbeat())
        actions.append(Send(report(params, state, t_ns)))
    if state.leaving:
        state, more = rules.leave(params, state, t_ns, report, is_zero=disarmed(params, state, t_ns))
        actions += more
    return state, actions


def _zeroing(params: PulseParams, state: PulseGuardState, t_ns: int) -> Result:
    readback = state.readback
    if readback is not None and disarmed(params, state, t_ns) and not readback.fault and readback.state is PulseState.IDLE:
        return replace(state, phase=Phase.SAFE, phase_ns=t_ns, boot_count=readback.boot_count), []
    if t_ns - state.phase_ns <= params.zeroing_ns:
        return state, []
    if readback is None or not fresh(params, state, t_ns):
        return latch(state, t_ns, "the device does not report: nobody knows that it is disarmed")
    return latch(state, t_ns, f"device fault: {readback.fault[:200]}" if readback.fault else "the device does not disarm")


def _armed(params: PulseParams, state: PulseGuardState, t_ns: int) -> Result:
    expired = rules.arming_expired(params, state, t_ns)
    return stop(state, t_ns, StopClass.S2_SESSION_RAMP, expired) if expired else (state, [])


def _live(params: PulseParams, state: PulseGuardState, t_ns: int) -> Result:
    if state.lease_ns <= t_ns:
        if state.armed_ns != NEVER:
            return stop(state, t_ns, StopClass.S1_ABORT_RAMP, "the lease expired: the engine is silent")
        return replace(state, phase=Phase.ARMED, phase_ns=t_ns, wanted_percent=0, reason="no lease"), []
    if state.armed_ns == NEVER:
        return _begin(params, state, t_ns) if state.wanted_percent else (state, [])
    if not state.wanted_percent:
        return _quiet_in_lease(state, t_ns), [DisarmDevice()]
    readback = state.readback
    if readback is None or not fresh(params, state, t_ns):
        return _silenced(state, t_ns, f"no report for {params.stale_ns // NS_PER_MS} ms")
    if state.train_ns != NEVER:
        return _in_train(params, state, t_ns, readback)
    if state.given >= state.reserved:
        return _quiet_in_lease(state, t_ns), [DisarmDevice()]
    is_known = state.heard_ns - state.armed_ns >= params.lag_ns
    if is_known and readback.state is PulseState.ARMED and readback.ready:
        train = replace(params.train, pulses=min(params.train.pulses, state.reserved - state.given))
        fired = replace(state, was_ready=True, train_ns=t_ns, train_pulses=train.pulses, given=state.given + train.pulses)
        return fired, [FireTrain(train)]
    if t_ns - state.rest_ns > params.device_arm_ns:
        return stop(state, t_ns, StopClass.S1_ABORT_RAMP, "the device is armed and not ready: look at coil and switch")
    return state, []


def _quiet_in_lease(state: PulseGuardState, t_ns: int) -> PulseGuardState:
    """The gate is over, the lease is not."""
    return replace(state, **_QUIET, quiet_ns=t_ns)


def _begin(params: PulseParams, state: PulseGuardState, t_ns: int) -> Result:
    """Arm the device for one gate, once its reservation is on disk."""
    if state.booking:
        return rules.wait_for_ledger(params, state, t_ns, wanted_percent=0, given=0)
    if state.flowed:
        return replace(state, wanted_percent=0), []
    limits = replace(params.limits, max_pulses=state.reserved)
    begun = replace(state, armed_ns=t_ns, train_ns=NEVER, rest_ns=t_ns, given=0, flowed=True, begun_ns=t_ns, seen=0)
    return begun, [ArmPulses(limits)]


def _in_train(params: PulseParams, state: PulseGuardState, t_ns: int, readback: PulseReadback) -> Result:
    planned_ns = state.train_pulses * params.train.interval_ms * NS_PER_MS
    is_over = t_ns - state.train_ns >= planned_ns and state.heard_ns - state.train_ns >= planned_ns
    if is_over and readback.state is PulseState.ARMED:
        return replace(state, train_ns=NEVER, rest_ns=t_ns), []
    if t_ns - state.train_ns > planned_ns + params.train_slack_ns:
        return stop(state, t_ns, StopClass.S1_ABORT_RAMP, "a train has not come to its end in time")
    return state, []


def _silenced(state: PulseGuardState, t_ns: int, why: str) -> Result:
    return _enter(t_ns, rules.silenced(state, why))


def _stopping(params: PulseParams, state: PulseGuardState, t_ns: int) -> Result:
    """After S1 or S2 within a gate: wait for the device's word that it is disarmed."""
    if disarmed(params, state, t_ns):
        if state.phase is Phase.ABORTING:
            return replace(state, phase=Phase.STOPPED, phase_ns=t_ns), [DisarmDevice()]
        return replace(state, phase=Phase.SAFE, phase_ns=t_ns, stop_class=None), [DisarmDevice()]
    patience_ns = params.blind_ns if state.blind else params.confirm_ns
    if t_ns - state.phase_ns > patience_ns:
        return latch(state, t_ns, f"the device was stopped and does not say that it is disarmed ({state.reason})"[:500])
    return state, []


def _rest(_params: PulseParams, state: PulseGuardState, _t_ns: int) -> Result:
    return state, []


def _settle(params: PulseParams, state: PulseGuardState) -> Result:
    """Once disarmed: count what the gate gave; refund the rest once it has begun or can no longer begin."""
    idle = state.phase not in (Phase.ARMED, Phase.LIVE)
    if not (state.flowed or (state.reserved and idle)):
        return state, []
    settled = replace(
        state,
        used=state.used + state.seen,
        reserved=0,
        booking=0,
        booking_ns=NEVER,
        flowed=False,
        given=0,
        train_pulses=0,
        begun_ns=NEVER,
        seen=0,
    )
    return settled, [SettlePulses(state.seen, state.seen * params.train.interval_ms)]


# ---- the device


def _readback(params: PulseParams, state: PulseGuardState, t_ns: int, readback: PulseReadback) -> Result:
    if state.readback is not None and readback.t_ns < state.readback.t_ns:
        return state, []
    wrong = _wrong(params, state, t_ns, readback)
    is_known = state.begun_ns != NEVER and t_ns - state.begun_ns >= params.lag_ns
    seen = max(state.seen, readback.pulses) if is_known else state.seen
    state = replace(state, readback=readback, heard_ns=t_ns, seen=seen)
    if state.phase in (Phase.ZEROING, Phase.LATCHED):
        return state, []
    if wrong:
        return latch(state, t_ns, wrong)
    if state.phase is not Phase.LIVE or state.armed_ns == NEVER:
        return state, []
    if readback.state is PulseState.UNCERTAIN:
        return _silenced(state, t_ns, "the device has not answered for all that it was told")
    if readback.state is PulseState.IDLE and state.was_ready:
        return stop(state, t_ns, StopClass.S1_ABORT_RAMP, "the device disarmed itself")
    if readback.coil_c is not None and not readback.coil_c <= params.max_coil_c:
        why = f"the coil is at {readback.coil_c:.1f} degrees Celsius, above {params.max_coil_c:g}"
        return stop(state, t_ns, StopClass.S1_ABORT_RAMP, why)
    return state, []


def _wrong(params: PulseParams, state: PulseGuardState, t_ns: int, readback: PulseReadback) -> str:
    """Why one report is enough for S0; empty where it is not."""
    if state.boot_count is not None and readback.boot_count != state.boot_count:
        return f"the device restarted (boot {state.boot_count} -> {readback.boot_count})"
    if readback.fault or readback.state is PulseState.FAULT:
        return f"device fault: {readback.fault[:200] or 'unnamed'}"
    if readback.intensity_percent > params.limits.max_intensity_percent:
        most = params.limits.max_intensity_percent
        return f"a pulse too strong: the device is set to {readback.intensity_percent} %, above {most} %"
    if state.armed_ns == NEVER:
        loud = readback.state is PulseState.FIRING and t_ns - state.quiet_ns > params.confirm_ns
        return "pulses though none were commanded" if loud else ""
    if t_ns - state.armed_ns < params.lag_ns:
        return ""  # what it says may be from before it was told to arm, and count the gate before
    if readback.pulses > state.given:
        return f"a pulse too many: {readback.pulses} where {state.given} were asked for"
    if state.train_ns == NEVER:
        return "a pulse that was not asked for" if readback.state is PulseState.FIRING else ""
    before = state.given - state.train_pulses
    due = (t_ns - state.train_ns) // (params.train.interval_ms * NS_PER_MS) + 1
    if readback.pulses > before + due:
        return f"a pulse too early: {readback.pulses - before} of a train that can have given {due}"
    return ""


def _device_failure(_params: PulseParams, state: PulseGuardState, t_ns: int, event: DeviceFailure) -> Result:
    in_session = state.phase in (Phase.ARMED, Phase.LIVE)
    if event.kind == "uncertain":
        return _enter(t_ns, rules.uncertain(state, event, is_on=in_session and state.armed_ns != NEVER))
    if event.kind == "refused" and in_session and state.train_ns == NEVER:
        state, actions = stop(state, t_ns, StopClass.S2_SESSION_RAMP, f"the device refused: {event.what}"[:500])
        return state, [*actions, Send(link.Refused(seq=state.last_seq, reason=state.reason))]
    return latch(state, t_ns, f"device {event.kind}: {event.what}"[:500])


# ---- ends of the link and of the process


def _ended(params: PulseParams, state: PulseGuardState, t_ns: int, event: rules.End) -> Result:
    return _enter(t_ns, rules.ended(params, state, t_ns, event))


def _enter(t_ns: int, called: rules.Stopping[PulseGuardState]) -> Result:
    """Enter the stop that a rule calls for, if any."""
    state, stop_class, why = called
    return (state, []) if stop_class is None else stop(state, t_ns, stop_class, why)


_PHASES: Final[dict[Phase, Callable[[PulseParams, PulseGuardState, int], Result]]] = {
    Phase.ZEROING: _zeroing,
    Phase.SAFE: _rest,
    Phase.ARMED: _armed,
    Phase.LIVE: _live,
    Phase.ABORTING: _stopping,
    Phase.ENDING: _stopping,
    Phase.STOPPED: _rest,
    Phase.LATCHED: _rest,
}

_HANDLERS: Final[dict[type, Callable[[PulseParams, PulseGuardState, int, Any], Result]]] = {
    Tick: _tick,
    PulseReadback: _readback,
    DeviceFailure: _device_failure,
    Booked: requests.booked,
    BookFailed: requests.book_failed,
    Garbage: _ended,
    EngineGone: _ended,
    Terminate: _ended,
    link.Pulses: requests.pulses,
    link.Arm: requests.arm,
    link.ReservePulses: requests.reserve,
    link.Reset: requests.reset,
    link.Stop: _ended,
    link.Goodbye: _ended,
}
