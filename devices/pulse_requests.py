"""What the engine may ask of the pulse guard (pulses, arm, reserve, reset), and why it is refused. Pure.

Every request carries a number that must rise; a duplicate changes nothing (I10).
"""

from __future__ import annotations

from msgspec.structs import replace

from devices import link
from devices.guard_state import (
    NEVER,
    WRONG_CODES_ALLOWED,
    Announce,
    Booked,
    BookFailed,
    BookPulses,
    Phase,
    ResetDevice,
    Send,
    code_of,
)
from devices.pulse_guard_state import PulseAction, PulseGuardState, PulseParams, disarmed, fresh, report
from devices.pulses import PulseState
from devices.units import NS_PER_MS

Result = tuple[PulseGuardState, list[PulseAction]]


def pulses(params: PulseParams, state: PulseGuardState, t_ns: int, event: link.Pulses) -> Result:
    """Accept a wish for pulses and its lease, or drop it (I05). A drop renews nothing, so what follows is silence."""
    if event.seq <= state.last_seq:
        return replace(state, dropped=state.dropped + 1), []
    why = _why_no_pulses(params, state, t_ns, event)
    if not why:
        phase_ns = state.phase_ns if state.phase is Phase.LIVE else t_ns
        # A gate that has given all that was reserved stays closed until the engine has let go of it.
        spent = state.flowed and state.armed_ns == NEVER
        return replace(
            state,
            phase=Phase.LIVE,
            phase_ns=phase_ns,
            last_seq=event.seq,
            lease_ns=min(event.deadline_ns, t_ns + params.lease_ns),
            wanted_percent=0 if spent or not state.reserved else event.intensity_percent,
        ), []
    state = replace(state, last_seq=event.seq, dropped=state.dropped + 1)
    if t_ns - state.refused_ns < params.slow_ns:
        return state, []
    return replace(state, refused_ns=t_ns), [Send(link.Refused(seq=event.seq, reason=why))]


def _why_no_pulses(params: PulseParams, state: PulseGuardState, t_ns: int, event: link.Pulses) -> str:
    if state.phase not in (Phase.ARMED, Phase.LIVE):
        return f"no pulses while {state.phase.value} ({state.reason})"[:500]
    if event.deadline_ns <= t_ns:
        return f"the command came {(t_ns - event.deadline_ns) // NS_PER_MS} ms after its deadline"
    if event.intensity_percent not in (0, params.train.intensity_percent):
        return f"{event.intensity_percent} % were asked for; this session gives {params.train.intensity_percent} %"
    return ""


def arm(params: PulseParams, state: PulseGuardState, t_ns: int, event: link.Arm) -> Result:
    """Allow gates, if the device, the dose and the operator's code allow it; the device itself is armed gate by gate."""
    if event.seq <= state.last_seq:
        return replace(state, dropped=state.dropped + 1), []
    state = replace(state, last_seq=event.seq)
    why = _why_not_arm(params, state, t_ns)
    if why:
        return _refuse(state, event.seq, f"not armed: {why}")
    if event.code.strip().upper() != code_of(params.arm_secret, state.code_index):
        wrong = state.wrong_codes + 1
        if wrong < WRONG_CODES_ALLOWED:
            return _refuse(replace(state, wrong_codes=wrong), event.seq, "not armed: the code is wrong")
        state = replace(state, wrong_codes=0, code_index=state.code_index + 1)
        state, actions = _refuse(state, event.seq, "not armed: the code was wrong three times; there is a new code")
        return state, [*actions, Announce()]
    index = state.code_index + 1
    return replace(state, phase=Phase.ARMED, phase_ns=t_ns, reason="armed", wrong_codes=0, code_index=index), [Announce()]


def _why_not_arm(params: PulseParams, state: PulseGuardState, t_ns: int) -> str:
    if state.phase is not Phase.SAFE:
        return f"the guard is {state.phase.value} ({state.reason})"[:400]
    if state.leaving:
        return "the guard is about to end"
    if params.forbidden:
        return params.forbidden
    if t_ns >= params.arm_until_ns:
        return "the pre-arm checklist is out of date: the day that it was filled in for is over"
    if state.used >= params.limits.max_pulses:
        return "the session's pulses are used up"
    readback = state.readback
    if readback is None or not disarmed(params, state, t_ns) or readback.state is not PulseState.IDLE or readback.fault:
        return "the device does not confirm zero: that it is disarmed"
    if readback.coil_c is None:
        return "the coil's temperature is not known yet" if params.measures_temperature else ""
    if not readback.coil_c <= params.max_coil_c:
        return f"the coil is at {readback.coil_c:.1f} degrees Celsius, above {params.max_coil_c:g}: let it cool or change it"
    return ""


def reserve(params: PulseParams, state: PulseGuardState, t_ns: int, event: link.ReservePulses) -> Result:
    """Book the coming gate's pulses; an unused reservation is replaced (I04)."""
    if event.seq <= state.last_seq:
        return replace(state, dropped=state.dropped + 1), []
    state = replace(state, last_seq=event.seq)
    if state.phase not in (Phase.ARMED, Phase.LIVE):
        return _refuse(state, event.seq, f"no dose is reserved while {state.phase.value} ({state.reason})"[:500])
    if state.armed_ns != NEVER or state.flowed:
        return _refuse(state, event.seq, "the gate before is not settled: the device has not confirmed that it is disarmed")
    if not fresh(params, state, t_ns):
        return _refuse(state, event.seq, "the device does not report")
    if not event.pulses:
        return _refuse(state, event.seq, "an empty reservation")
    left = params.limits.max_pulses - state.used
    if event.pulses > left:
        return _refuse(state, event.seq, f"dose: {event.pulses} pulses asked, {max(0, left)} left")
    state = replace(state, reserved=event.pulses, booking=event.seq, booking_ns=t_ns, wanted_percent=0)
    return state, [BookPulses(event.seq, event.pulses, event.pulses * params.train.interval_ms)]


def booked(params: PulseParams, state: PulseGuardState, t_ns: int, event: Booked) -> Result:
    """The reservation is on disk: what it is for may be given."""
    if event.seq != state.booking:
        return state, []
    state = replace(state, booking=0, booking_ns=NEVER)
    return state, [Send(report(params, state, t_ns))]


def book_failed(_params: PulseParams, state: PulseGuardState, _t_ns: int, event: BookFailed) -> Result:
    """The ledger did not take the reservation, so nothing may be given."""
    if event.seq != state.booking:
        return state, []
    state = replace(state, reserved=0, booking=0, booking_ns=NEVER, wanted_percent=0)
    return _refuse(state, event.seq, f"dose: the ledger could not be written: {event.what}"[:500])


def reset(params: PulseParams, state: PulseGuardState, t_ns: int, event: link.Reset) -> Result:
    """Leave a latch or an abort, by an operator, once the device is known to be disarmed; arming is needed anew (I07)."""
    if event.seq <= state.last_seq:
        return replace(state, dropped=state.dropped + 1), []
    state = replace(state, last_seq=event.seq)
    if state.phase not in (Phase.STOPPED, Phase.LATCHED):
        return _refuse(state, event.seq, f"nothing to reset: the guard is {state.phase.value}")
    if state.leaving:
        return _refuse(state, event.seq, "the guard is about to end")
    if not disarmed(params, state, t_ns):
        return _refuse(state, event.seq, "not reset: the device has not confirmed that it is disarmed")
    return replace(
        state,
        phase=Phase.ZEROING,
        stop_class=None,
        reason=f"reset by {event.operator}",
        phase_ns=t_ns,
        quiet_ns=t_ns,
        boot_count=None,
        blind=False,
        garbage_ns=(),
    ), [ResetDevice()]


def _refuse(state: PulseGuardState, seq: int, reason: str) -> Result:
    return state, [Send(link.Refused(seq=seq, reason=reason))]
