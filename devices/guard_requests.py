"""What the engine may ask of the guard (command, arm, reserve, reset), and why it is refused. Pure.

Every request carries a number that must rise; a duplicate changes nothing (I10).
"""

from __future__ import annotations

import math

from msgspec.structs import replace

from devices import link
from devices.guard_state import (
    NEVER,
    WRONG_CODES_ALLOWED,
    Action,
    Announce,
    ArmDevice,
    Book,
    Booked,
    BookFailed,
    Params,
    Phase,
    ResetDevice,
    Send,
    State,
    arm_code,
    fresh,
    report,
    zero_confirmed,
)
from devices.stimulator import DeviceState
from devices.units import NS_PER_MS, NS_PER_S

Result = tuple[State, list[Action]]


def command(params: Params, state: State, t_ns: int, event: link.Command) -> Result:
    """Accept a level and its lease, or drop it (I05). A drop renews nothing, so what follows is silence."""
    if event.seq <= state.last_seq:
        return replace(state, dropped=state.dropped + 1), []
    why = _why_no_level(params, state, t_ns, event)
    if not why:
        lease_ns = min(event.deadline_ns, t_ns + params.lease_ns)
        phase_ns = state.phase_ns if state.phase is Phase.LIVE else t_ns
        return replace(
            state,
            phase=Phase.LIVE,
            phase_ns=phase_ns,
            last_seq=event.seq,
            lease_ns=lease_ns,
            target_ua=event.level_ua,
        ), []
    state = replace(state, last_seq=event.seq, dropped=state.dropped + 1)
    if t_ns - state.refused_ns < params.slow_ns:
        return state, []
    return replace(state, refused_ns=t_ns), [Send(link.Refused(seq=event.seq, reason=why))]


def _why_no_level(params: Params, state: State, t_ns: int, event: link.Command) -> str:
    if state.phase not in (Phase.ARMED, Phase.LIVE):
        return f"no level while {state.phase.value} ({state.reason})"[:500]
    if event.deadline_ns <= t_ns:
        return f"the command came {(t_ns - event.deadline_ns) // NS_PER_MS} ms after its deadline"
    if event.level_ua > params.max_level_ua:
        return f"level {event.level_ua} uA is above the limit of {params.max_level_ua} uA"
    if event.level_ua == 0 or state.level_ua > 0:
        return ""
    if not state.reserved_uc or not state.reserved_ms or state.flowed:
        return "no dose is reserved for this level: send Reserve first"
    readback = state.readback
    if readback is None or not fresh(params, state, t_ns):
        return "the device does not report"
    if readback.state not in (DeviceState.ARMED, DeviceState.ACTIVE):
        return f"the device is not armed (it says {readback.state.name})"
    if readback.impedance_ohm is not None and not readback.impedance_ohm <= params.stop_above_ohm:
        return f"impedance {readback.impedance_ohm:.0f} ohm, above the stop limit of {params.stop_above_ohm:.0f} ohm"
    return ""


def arm(params: Params, state: State, t_ns: int, event: link.Arm) -> Result:
    """Arm, if the device, the electrodes, the dose and the operator's code allow it."""
    if event.seq <= state.last_seq:
        return replace(state, dropped=state.dropped + 1), []
    state = replace(state, last_seq=event.seq)
    why = _why_not_arm(params, state, t_ns)
    if why:
        return _refuse(state, event.seq, f"not armed: {why}")
    if event.code.strip().upper() != arm_code(params, state):
        wrong = state.wrong_codes + 1
        if wrong < WRONG_CODES_ALLOWED:
            return _refuse(replace(state, wrong_codes=wrong), event.seq, "not armed: the code is wrong")
        state = replace(state, wrong_codes=0, code_index=state.code_index + 1)
        state, actions = _refuse(state, event.seq, "not armed: the code was wrong three times; there is a new code")
        return state, [*actions, Announce()]
    state = replace(
        state,
        phase=Phase.ARMED,
        phase_ns=t_ns,
        reason="armed",
        wrong_codes=0,
        code_index=state.code_index + 1,
    )
    return state, [ArmDevice(params.max_level_ua, params.slew_na_s // 1000), Announce()]


def _why_not_arm(params: Params, state: State, t_ns: int) -> str:
    if state.phase is not Phase.SAFE:
        return f"the guard is {state.phase.value} ({state.reason})"[:400]
    if state.leaving:
        return "the guard is about to end"
    if params.forbidden:
        return params.forbidden
    if t_ns >= params.arm_until_ns:
        return "the pre-arm checklist is out of date: the day that it was filled in for is over"
    if state.used_fc >= params.max_charge_uc * NS_PER_S or state.used_ns >= params.max_on_time_ms * NS_PER_MS:
        return "the session's dose is used up"
    readback = state.readback
    if readback is None or not zero_confirmed(params, state, t_ns):
        return "the device does not confirm zero current"
    ohm = readback.impedance_ohm
    if ohm is None or not math.isfinite(ohm):
        return "the impedance is not known: check the electrodes and wait for the device to measure it"
    if ohm >= params.arm_below_ohm:
        return f"impedance {ohm:.0f} ohm; below {params.arm_below_ohm:.0f} ohm is needed: improve the contact"
    if ohm < params.short_below_ohm:
        return f"impedance {ohm:.0f} ohm: the electrodes look shorted"
    return ""


def reserve(params: Params, state: State, t_ns: int, event: link.Reserve) -> Result:
    """Book the coming gate's greatest dose; an unused reservation is replaced (I04)."""
    if event.seq <= state.last_seq:
        return replace(state, dropped=state.dropped + 1), []
    state = replace(state, last_seq=event.seq)
    if state.phase not in (Phase.ARMED, Phase.LIVE):
        return _refuse(state, event.seq, f"no dose is reserved while {state.phase.value} ({state.reason})"[:500])
    if state.level_ua or state.target_ua or state.flowed:
        return _refuse(state, event.seq, "the gate before is not settled: zero current is not confirmed yet")
    if not event.charge_uc or not event.on_time_ms:
        return _refuse(state, event.seq, "an empty reservation")
    left_uc = params.max_charge_uc - (-(-state.used_fc // NS_PER_S))
    left_ms = params.max_on_time_ms - (-(-state.used_ns // NS_PER_MS))
    if event.charge_uc > left_uc:
        return _refuse(state, event.seq, f"dose: {event.charge_uc} uC asked, {max(0, left_uc)} uC left")
    if event.on_time_ms > left_ms:
        return _refuse(state, event.seq, f"dose: {event.on_time_ms} ms with current asked, {max(0, left_ms)} ms left")
    state = replace(
        state,
        reserved_uc=event.charge_uc,
        reserved_ms=event.on_time_ms,
        booking=event.seq,
        booking_ns=t_ns,
        gate_fc=0,
        gate_ns=0,
    )
    return state, [Book(event.seq, event.charge_uc, event.on_time_ms)]


def booked(params: Params, state: State, t_ns: int, event: Booked) -> Result:
    """The reservation is on disk: what it is for may flow."""
    if event.seq != state.booking:
        return state, []
    state = replace(state, booking=0, booking_ns=NEVER)
    return state, [Send(report(params, state, t_ns))]


def book_failed(_params: Params, state: State, _t_ns: int, event: BookFailed) -> Result:
    """The ledger did not take the reservation, so nothing may flow."""
    if event.seq != state.booking:
        return state, []
    state = replace(state, reserved_uc=0, reserved_ms=0, booking=0, booking_ns=NEVER, target_ua=0)
    return _refuse(state, event.seq, f"dose: the ledger could not be written: {event.what}"[:500])


def reset(params: Params, state: State, t_ns: int, event: link.Reset) -> Result:
    """Leave a latch or an abort, by an operator, at confirmed zero; arming is needed anew (I07)."""
    if event.seq <= state.last_seq:
        return replace(state, dropped=state.dropped + 1), []
    state = replace(state, last_seq=event.seq)
    if state.phase not in (Phase.STOPPED, Phase.LATCHED):
        return _refuse(state, event.seq, f"nothing to reset: the guard is {state.phase.value}")
    if state.leaving:
        return _refuse(state, event.seq, "the guard is about to end")
    if not zero_confirmed(params, state, t_ns):
        return _refuse(state, event.seq, "not reset: zero current is not confirmed")
    state = replace(
        state,
        phase=Phase.ZEROING,
        stop_class=None,
        reason=f"reset by {event.operator}",
        phase_ns=t_ns,
        zero_ns=t_ns,
        boot_count=None,
        blind=False,
        garbage_ns=(),
        off_ns=NEVER,
        ohm_ns=NEVER,
    )
    return state, [ResetDevice()]


def _refuse(state: State, seq: int, reason: str) -> Result:
    return state, [Send(link.Refused(seq=seq, reason=reason))]
