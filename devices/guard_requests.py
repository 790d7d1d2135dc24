"""What the engine may ask of the guard (command, arm, reserve, reset), and why it is refused. Pure.

Every request carries a number that must rise; a duplicate changes nothing (I10).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec.structs import replace

from devices import guard_rules as rules
from devices import link
from devices.guard_rules import refuse
from devices.guard_state import (
    NEVER,
    Action,
    ArmDevice,
    Book,
    Booked,
    BookFailed,
    Params,
    Phase,
    State,
    fresh,
    report,
    zero_confirmed,
)
from devices.stimulator import DeviceState
from devices.units import NS_PER_MS, NS_PER_S

Result = tuple[State, Sequence[Action]]


def _command(params: Params, state: State, t_ns: int, event: link.Command) -> Result:
    """Accept a level and its lease, or drop it (I05). A drop renews nothing, so what follows is silence."""
    why = _why_no_level(params, state, t_ns, event)
    if why:
        return rules.drop(params, state, t_ns, event.seq, why)
    return replace(
        state,
        phase=Phase.LIVE,
        phase_ns=state.phase_ns if state.phase is Phase.LIVE else t_ns,
        lease_ns=min(event.deadline_ns, t_ns + params.lease_ns),
        target_ua=event.level_ua,
    ), []


def _why_no_level(params: Params, state: State, t_ns: int, event: link.Command) -> str:
    why = rules.not_in_session(state, "no level") or rules.too_late(t_ns, event.deadline_ns)
    if why:
        return why
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


def _arm(params: Params, state: State, t_ns: int, event: link.Arm) -> Result:
    """Arm, if the device, the electrodes, the dose and the operator's code allow it."""
    tell = ArmDevice(params.max_level_ua, params.slew_na_s // 1000)
    return rules.arm(params, state, t_ns, event, _why_not_arm(params, state, t_ns), tell)


def _why_not_arm(params: Params, state: State, t_ns: int) -> str:
    why = rules.why_not_arm(params, state, t_ns)
    if why:
        return why
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


def _reserve(params: Params, state: State, t_ns: int, event: link.Reserve) -> Result:
    """Book the coming gate's greatest dose; an unused reservation is replaced (I04)."""
    why = _why_not_reserve(params, state, event)
    if why:
        return refuse(state, event.seq, why)
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


def _why_not_reserve(params: Params, state: State, event: link.Reserve) -> str:
    why = rules.not_in_session(state, "no dose is reserved")
    if why:
        return why
    if state.level_ua or state.target_ua or state.flowed:
        return "the gate before is not settled: zero current is not confirmed yet"
    if not event.charge_uc or not event.on_time_ms:
        return "an empty reservation"
    left_uc = params.max_charge_uc - (-(-state.used_fc // NS_PER_S))
    left_ms = params.max_on_time_ms - (-(-state.used_ns // NS_PER_MS))
    if event.charge_uc > left_uc:
        return f"dose: {event.charge_uc} uC asked, {max(0, left_uc)} uC left"
    if event.on_time_ms > left_ms:
        return f"dose: {event.on_time_ms} ms with current asked, {max(0, left_ms)} ms left"
    return ""


def booked(params: Params, state: State, t_ns: int, event: Booked) -> Result:
    """The reservation is on disk: what it is for may flow."""
    return rules.booked(params, state, t_ns, event, report)


def book_failed(_params: Params, state: State, _t_ns: int, event: BookFailed) -> Result:
    """The ledger did not take the reservation, so nothing may flow."""
    return rules.book_failed(state, event, reserved_uc=0, reserved_ms=0, target_ua=0)


def _reset(params: Params, state: State, t_ns: int, event: link.Reset) -> Result:
    """Leave a latch or an abort, by an operator, at confirmed zero; arming is needed anew (I07)."""
    unconfirmed = "" if zero_confirmed(params, state, t_ns) else "zero current is not confirmed"
    return rules.reset(state, t_ns, event, unconfirmed, zero_ns=t_ns, off_ns=NEVER, ohm_ns=NEVER)


command = rules.numbered(_command)
arm = rules.numbered(_arm)
reserve = rules.numbered(_reserve)
reset = rules.numbered(_reset)
