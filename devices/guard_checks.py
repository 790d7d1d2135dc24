"""What a read-back says about the device: the guard's judgement of one report, as a pure function."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from devices.guard_state import NEVER, Params, Phase, State
from devices.limits import OPEN_ABOVE_OHM
from devices.stimulator import DeviceState, Readback, StopClass
from devices.units import NS_PER_S

_FORGOTTEN: Final = 3


class Verdict(msgspec.Struct, frozen=True):
    """The stop that a read-back calls for (None: none), why, and since when and until when it has been off in either way."""

    stop: StopClass | None
    reason: str
    off_ns: int = NEVER
    ohm_ns: int = NEVER
    off_seen_ns: int = NEVER
    ohm_seen_ns: int = NEVER


def abort_level(params: Params, state: State, t_ns: int) -> int:
    """Level (uA) of the S1 ramp at `t_ns`: straight down from where the abort began."""
    fallen = -(-params.abort_slew_ua_s * max(0, t_ns - state.phase_ns) // NS_PER_S)
    return max(0, state.from_ua - fallen)


def judge(params: Params, state: State, t_ns: int, readback: Readback) -> Verdict:
    """Judge `readback`, which arrived at `t_ns`.

    While zeroing and while latched nothing is judged: the stop is already the highest, and zero has a deadline of its own.
    """
    if state.phase in (Phase.ZEROING, Phase.LATCHED):
        return Verdict(None, "")
    at_once = _at_once(params, state, readback)
    if at_once:
        return Verdict(StopClass.S0_CUT, at_once)
    under_current = state.level_ua > 0 and state.phase in (Phase.LIVE, Phase.ENDING)
    told = state.phase is Phase.ENDING and params.plan is not None
    if under_current and not told and readback.state in (DeviceState.IDLE, DeviceState.RAMPING_DOWN):
        return Verdict(StopClass.S1_ABORT_RAMP, f"the device left the session by itself ({readback.state.name})")
    if under_current and readback.state is DeviceState.UNCERTAIN:
        return Verdict(StopClass.S1_ABORT_RAMP, "the device has not answered for all that it was told")

    off = _off(params, state, t_ns, readback)
    off_ns, off_seen_ns = _spell(params, state.off_ns, state.off_seen_ns, t_ns, off)
    if off and t_ns - off_ns >= params.sustain_ns:
        return Verdict(StopClass.S0_CUT, off, off_ns, off_seen_ns=off_seen_ns)

    bad_ohm = _impedance(params, state, readback.impedance_ohm) if under_current else ""
    ohm_ns, ohm_seen_ns = _spell(params, state.ohm_ns, state.ohm_seen_ns, t_ns, bad_ohm)
    stop, reason = None, ""
    if bad_ohm and t_ns - ohm_ns >= params.sustain_ns:
        is_open = (readback.impedance_ohm or 0.0) >= OPEN_ABOVE_OHM
        stop, reason = StopClass.S0_CUT if is_open else StopClass.S1_ABORT_RAMP, bad_ohm
    return Verdict(stop, reason, off_ns, ohm_ns, off_seen_ns, ohm_seen_ns)


def _spell(params: Params, since_ns: int, seen_ns: int, t_ns: int, bad: str) -> tuple[int, int]:
    """Since when something has been bad, and when it last was.

    A spell is over only when nothing bad has been seen for three times as long as one must last to count: a loose lead that
    closes for moments is still a loose lead, also where each opening is just too short to count by itself.
    """
    if bad:
        return (t_ns if since_ns == NEVER else since_ns), t_ns
    if since_ns == NEVER or t_ns - seen_ns > _FORGOTTEN * params.sustain_ns:
        return NEVER, NEVER
    return since_ns, seen_ns


def _at_once(params: Params, state: State, readback: Readback) -> str:
    """Why one single read-back is enough for S0; empty where it is not."""
    if state.boot_count is not None and readback.boot_count != state.boot_count:
        return f"the device restarted (boot {state.boot_count} -> {readback.boot_count})"
    if readback.fault or readback.state is DeviceState.FAULT:
        return f"device fault: {readback.fault[:200] or 'unnamed'}"
    if abs(readback.commanded_ua) > params.max_level_ua:
        return f"wrong acknowledgement: set point {readback.commanded_ua} uA is above {params.max_level_ua} uA"
    if readback.commanded_ua * params.sign < 0:
        return f"wrong acknowledgement: set point {readback.commanded_ua} uA has the wrong sign"
    measured = readback.measured_ua
    if measured is None:
        return ""
    if not math.isfinite(measured):
        return f"the device measures {measured} uA, which is no number"
    if abs(measured) > params.over_current_ua:
        return f"over-current: {measured:.0f} uA measured, above {params.over_current_ua} uA"
    if measured * params.sign < -params.idle_tolerance_ua:
        return f"wrong polarity: {measured:.0f} uA measured"
    return ""


def _off(params: Params, state: State, t_ns: int, readback: Readback) -> str:
    """How set point or current differ from what was commanded (I11); empty within the tolerance.

    Ordinary slew moves the level by less than the tolerance within the device's lag. During S1 it does not, so anything
    between zero and the ramp as it was one lag ago is right. A device that ends a whole gate does so in its own way.
    """
    if state.phase is Phase.ENDING and params.plan is not None:
        least, most = 0, state.from_ua
        tolerance = max(params.tolerance_ua, most // 10)
    elif state.phase is Phase.ABORTING:
        least, most = 0, state.from_ua if state.blind else abort_level(params, state, t_ns - params.lag_ns)
        tolerance = max(params.tolerance_ua, most // 10)
    else:
        least = most = state.level_ua
        settling = t_ns - state.zero_ns <= params.lag_ns
        idle = state.level_ua == 0 and not settling
        tolerance = params.idle_tolerance_ua if idle else max(params.tolerance_ua, state.level_ua // 10)
    set_ua = readback.commanded_ua * params.sign
    if not least - tolerance <= set_ua <= most + tolerance:
        return f"wrong acknowledgement: set point {set_ua} uA where {most} uA was commanded"
    if readback.measured_ua is None:
        return "the device no longer measures its current" if params.measures_current else ""
    measured_ua = readback.measured_ua * params.sign
    if not least - tolerance <= measured_ua <= most + tolerance:
        what = "current though none was commanded" if most == 0 else "read-back off"
        return f"{what}: {measured_ua:.0f} uA measured where {most} uA was commanded"
    return ""


def _impedance(params: Params, state: State, ohm: float | None) -> str:
    """Why the impedance under current calls for S1; empty where it does not or the device tells none."""
    if ohm is None:
        return ""
    if ohm >= OPEN_ABOVE_OHM:
        return f"open circuit: impedance {ohm:.0f} ohm"
    if not ohm <= params.stop_above_ohm:
        return f"impedance {ohm:.0f} ohm, above the stop limit of {params.stop_above_ohm:.0f} ohm"
    if ohm < params.short_below_ohm and state.level_ua >= 2 * params.tolerance_ua:
        return f"impedance {ohm:.0f} ohm: the electrodes look shorted"
    return ""
