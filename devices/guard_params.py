"""Derives the guard's parameters from settings and device: what limits a session, and why a device must not be armed in it.

What holds for the guard of pulses as well (`devices.pulse_guard_state.make_pulse_params`) is public.
"""

from __future__ import annotations

import math
from typing import TypedDict

from devices import limits
from devices.guard_state import FOREVER, Params
from devices.pulse_settings import PulseSettings
from devices.settings import Settings
from devices.stimulator import Capabilities, GatePlan, Identity
from devices.units import NS_PER_MS, NS_PER_S


class Waits(TypedDict):
    """How long a guard waits for word of the device."""

    stale_ns: int
    confirm_ns: int
    zeroing_ns: int


def waits(round_trip_s: float, readback_interval_s: float) -> Waits:
    """Derive the waits of a device that reports every `readback_interval_s`, and of a command after `round_trip_s`."""
    # Zero is confirmed by a report taken a round trip after the command; one report may be lost on the way.
    confirm_s = round_trip_s + 2.0 * readback_interval_s + 0.1
    return {
        "stale_ns": max(200 * NS_PER_MS, math.ceil(4.0 * readback_interval_s * NS_PER_S)),
        "confirm_ns": max(400 * NS_PER_MS, math.ceil(confirm_s * NS_PER_S)),
        "zeroing_ns": max(NS_PER_S, math.ceil(2.0 * confirm_s * NS_PER_S)),
    }


def forbidden_to_all(settings: Settings | PulseSettings, identity: Identity, unguarded: str) -> str:
    """Why no guard may arm this device in this session; empty where one may.

    `unguarded` says why the death of the guard would leave the device on; empty where it would not.
    """
    if settings.input_is_simulated and not identity.emulator:
        return (
            f"the input is simulated and {identity.model} {identity.serial_number} is no emulator: "
            "simulated input never drives real hardware"
        )
    if unguarded:
        return unguarded
    if not identity.emulator and not settings.participant:
        return "no participant is named, so nobody's dose can be counted; set session.participant"
    return ""


def _forbidden(settings: Settings, capabilities: Capabilities, identity: Identity) -> str:
    unguarded = ""
    if not (capabilities.self_expiring_lease or capabilities.hardware_watchdog):
        mode = f" in mode {settings.device.mode}" if settings.device.mode else ""
        unguarded = (
            f"{identity.model} has neither a lease nor a watchdog{mode}: a dead guard would leave current on, so no loop may "
            "drive it"
        )
    why = forbidden_to_all(settings, identity, unguarded)
    if why:
        return why
    if not identity.emulator and not settings.checklist:
        return (
            f"there is no pre-arm checklist, and {identity.model} {identity.serial_number} is a real stimulator: fill in what "
            "`cereloop checklist` makes and name it by session.checklist"
        )
    if capabilities.unipolar and settings.stimulation.polarity != capabilities.leads:
        return (
            f"{identity.model} is unipolar, its leads give {capabilities.leads} current, and stimulation.polarity is "
            f"{settings.stimulation.polarity}: change the leads and say so, or the polarity"
        )
    return _unfit(settings, capabilities, identity) if capabilities.whole_gate else ""


def _unfit(settings: Settings, capabilities: Capabilities, identity: Identity) -> str:
    """Why the configured gate is none that the device takes as a whole; empty where it is."""
    stim, least, most = settings.stimulation, capabilities.min_transition_s, capabilities.max_transition_s
    if not capabilities.device_ramp:
        return f"{identity.model} takes whole gates, but cannot end one by a ramp of its own"
    if stim.ramp_s < least or (most is not None and stim.ramp_s > most):
        return f"stimulation.ramp_s is {stim.ramp_s:g}; {identity.model} ramps in {least:g} to {most or 60.0:g} s"
    if capabilities.max_hold_s is not None and stim.hold_s > capabilities.max_hold_s:
        return f"stimulation.hold_s is {stim.hold_s:g}; {identity.model} holds for at most {capabilities.max_hold_s:g} s"
    return ""


def _plan(settings: Settings, sign: int) -> GatePlan:
    stim = settings.stimulation
    ramp_ms = round(stim.ramp_s * 1000.0)
    return GatePlan(level_ua=sign * stim.level_ua, rise_ms=ramp_ms, hold_ms=round(stim.hold_s * 1000.0), fall_ms=ramp_ms)


def make_params(
    settings: Settings,
    capabilities: Capabilities,
    identity: Identity,
    arm_secret: bytes,
    arm_until_ns: int = FOREVER,
) -> Params:
    """Derive the guard's parameters.

    Parameters
    ----------
    settings : Settings
        Already passed by `limits.check_settings`.
    capabilities, identity
        Of the opened device.
    arm_secret : bytes
        1 to 64 bytes that arm codes are derived from; random in the process, fixed in a simulation.
    arm_until_ns : int
        When the pre-arm checklist runs out, on the lease clock.

    Raises
    ------
    limits.LimitError
        If the settings raise a ceiling.
    """
    limits.check_settings(settings)
    merged = limits.effective(settings, capabilities)
    level = math.floor(merged.level_ua.value)
    slew_na_s = math.floor(merged.slew_ua_s.value * 1000.0)
    slope_ua_s = limits.ramp_peak_slope_ua_s(settings.stimulation.level_ua, settings.stimulation.ramp_s)
    round_trip_s = 2.0 * capabilities.command_latency_s + capabilities.readback_interval_s + capabilities.min_transition_s
    sign = -1 if settings.stimulation.polarity == "cathodal" else 1
    return Params(
        sign=sign,
        plan=_plan(settings, sign) if capabilities.whole_gate else None,
        plan_slack_ua=max(50, level // 5),
        max_level_ua=level,
        over_current_ua=level + max(50, level // 20),
        slew_na_s=slew_na_s,
        end_slew_na_s=min(slew_na_s, math.ceil(slope_ua_s * 1000.0)),
        max_charge_uc=math.floor(merged.charge_uc.value),
        max_on_time_ms=math.floor(merged.on_time_s.value * 1000.0),
        arm_below_ohm=merged.arm_below_ohm.value,
        stop_above_ohm=merged.stop_above_ohm.value,
        short_below_ohm=limits.SHORT_BELOW_OHM,
        device_ramp=capabilities.device_ramp,
        measures_current=capabilities.measures_current,
        forbidden=_forbidden(settings, capabilities, identity),
        arm_secret=arm_secret,
        arm_until_ns=arm_until_ns,
        lag_ns=max(20 * NS_PER_MS, math.ceil(round_trip_s * NS_PER_S)),
        **waits(round_trip_s, capabilities.readback_interval_s),
    )
