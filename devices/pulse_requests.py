"""What the engine may ask of the pulse guard (pulses, arm, reserve, reset), and why it is refused. Pure.

Every request carries a number that must rise; a duplicate changes nothing (I10).
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from devices import guard_rules as rules
from devices import link
from devices.guard_rules import refuse
from devices.guard_state import NEVER, Booked, BookFailed, BookPulses, Phase, fresh
from devices.pulse_guard_state import PulseAction, PulseGuardState, PulseParams, disarmed, report
from devices.pulses import PulseState

Result = tuple[PulseGuardState, Sequence[PulseAction]]


def _pulses(params: PulseParams, state: PulseGuardState, t_ns: int, event: link.Pulses) -> Result:
    """Accept a wish for pulses and its lease, or drop it (I05). A drop renews nothing, so what follows is silence."""
    why = _why_no_pulses(params, state, t_ns, event)
    if why:
        return rules.drop(params, state, t_ns, event.seq, why)
    # A gate that has given all that was reserved stays closed until the engine has let go of it.
    spent = state.flowed and state.armed_ns == NEVER
    return replace(
        state,
        phase=Phase.LIVE,
        phase_ns=state.phase_ns if state.phase is Phase.LIVE else t_ns,
        lease_ns=min(event.deadline_ns, t_ns + params.lease_ns),
        wanted_percent=0 if spent or not state.reserved else event.intensity_percent,
    ), []


def _why_no_pulses(params: PulseParams, state: PulseGuardState, t_ns: int, event: link.Pulses) -> str:
    why = rules.not_in_session(state, "no pulses") or rules.too_late(t_ns, event.deadline_ns)
    if why:
        return why
    if event.intensity_percent not in (0, params.train.intensity_percent):
        return f"{event.intensity_percent} % were asked for; this session gives {params.train.intensity_percent} %"
    return ""


def _arm(params: PulseParams, state: PulseGuardState, t_ns: int, event: link.Arm) -> Result:
    """Allow gates, if the device, the dose and the operator's code allow it; the device itself is armed gate by gate."""
    return rules.arm(params, state, t_ns, event, _why_not_arm(params, state, t_ns))


def _why_not_arm(params: PulseParams, state: PulseGuardState, t_ns: int) -> str:
    why = rules.why_not_arm(params, state, t_ns)
    if why:
        return why
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


def _reserve(params: PulseParams, state: PulseGuardState, t_ns: int, event: link.ReservePulses) -> Result:
    """Book the coming gate's pulses; an unused reservation is replaced (I04)."""
    why = _why_not_reserve(params, state, t_ns, event)
    if why:
        return refuse(state, event.seq, why)
    state = replace(state, reserved=event.pulses, booking=event.seq, booking_ns=t_ns, wanted_percent=0)
    return state, [BookPulses(event.seq, event.pulses, event.pulses * params.train.interval_ms)]


def _why_not_reserve(params: PulseParams, state: PulseGuardState, t_ns: int, event: link.ReservePulses) -> str:
    why = rules.not_in_session(state, "no dose is reserved")
    if why:
        return why
    if state.armed_ns != NEVER or state.flowed:
        return "the gate before is not settled: the device has not confirmed that it is disarmed"
    if not fresh(params, state, t_ns):
        return "the device does not report"
    if not event.pulses:
        return "an empty reservation"
    left = params.limits.max_pulses - state.used
    if event.pulses > left:
        return f"dose: {event.pulses} pulses asked, {max(0, left)} left"
    return ""


def booked(params: PulseParams, state: PulseGuardState, t_ns: int, event: Booked) -> Result:
    """The reservation is on disk: what it is for may be given."""
    return rules.booked(params, state, t_ns, event, report)


def book_failed(_params: PulseParams, state: PulseGuardState, _t_ns: int, event: BookFailed) -> Result:
    """The ledger did not take the reservation, so nothing may be given."""
    return rules.book_failed(state, event, reserved=0, wanted_percent=0)


def _reset(params: PulseParams, state: PulseGuardState, t_ns: int, event: link.Reset) -> Result:
    """Leave a latch or an abort, by an operator, once the device is known to be disarmed; arming is needed anew (I07)."""
    unconfirmed = "" if disarmed(params, state, t_ns) else "the device has not confirmed that it is disarmed"
    return rules.reset(state, t_ns, event, unconfirmed, quiet_ns=t_ns)


pulses = rules.numbered(_pulses)
arm = rules.numbered(_arm)
reserve = rules.numbered(_reserve)
reset = rules.numbered(_reset)
