"""How long current can last after each kind of fault, with the device in use: the table to read before arming."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from devices.guard_state import LEASE_MS
from devices.limits import ABORT_SLEW_UA_S, EffectiveLimits
from devices.pulses import PulseCapabilities
from devices.stimulator import Capabilities, StopClass

SLACK_S: Final = 0.15
# What a device's own timer may add; it does not wait for the host's scheduler.
DEVICE_SLACK_S: Final = 0.1
STALE_S: Final = 0.2
TICK_S: Final = 0.01
SUSTAIN_S: Final = 0.1
LONGEST_RAMP_S: Final = 60.0
LEASE_S: Final = LEASE_MS / 1000.0


class TimeToZero(msgspec.Struct, frozen=True, kw_only=True):
    """One row.

    Attributes
    ----------
    cause : str
        What has gone wrong, or who stops.
    stop_class : StopClass
        How the current then ends.
    bound_s : float or None
        Seconds until the current is at most 10 uA; None where nothing ends it.
    words : str
        One plain sentence for the operator.
    """

    cause: str
    stop_class: StopClass
    bound_s: float | None
    words: str


def time_to_zero(capabilities: Capabilities, limits: EffectiveLimits, ramp_s: float = LONGEST_RAMP_S) -> list[TimeToZero]:
    """Bounds for this device and these limits, on a host without real-time rights.

    Parameters
    ----------
    capabilities : Capabilities
        Of the device; its latency, host timeout and shortest transition enter every row.
    limits : EffectiveLimits
        The greatest level sets the length of the abort ramp.
    ramp_s : float
        The configured ramp, in seconds; the longest allowed if it is not known yet.

    Returns
    -------
    list of TimeToZero
        From who stops by hand to what nobody notices.
    """
    reach_s = TICK_S + SLACK_S + capabilities.command_latency_s
    cut_s = reach_s + capabilities.min_transition_s
    abort_s = reach_s + max(limits.level_ua.value / ABORT_SLEW_UA_S, capabilities.min_transition_s)
    seen_s = capabilities.readback_interval_s + SUSTAIN_S
    s0, s1, s2 = StopClass.S0_CUT, StopClass.S1_ABORT_RAMP, StopClass.S2_SESSION_RAMP

    def row(cause: str, stop_class: StopClass, bound_s: float, how: str) -> TimeToZero:
        rounded = math.ceil(bound_s * 100.0 - 1e-6) / 100.0
        return TimeToZero(cause=cause, stop_class=stop_class, bound_s=rounded, words=f"{cause}: {how} within {rounded:g} s")

    silent_s = max(STALE_S, 4.0 * capabilities.readback_interval_s)
    rows = [
        row("emergency stop", s0, cut_s, "the current is cut"),
        row("the EEG stream stops or stalls", s1, STALE_S + abort_s, "the current ramps to zero"),
        row("the engine dies", s1, abort_s, "the guard ramps to zero"),
        row("the engine hangs", s1, LEASE_S + abort_s, "its lease ends and the guard ramps to zero"),
        row("garbage three times in a second on the link", s0, cut_s, "the current is cut"),
    ]
    rows += _device_rows(capabilities, seen_s, cut_s)
    rows += [
        _impedance_row(capabilities, seen_s + abort_s),
        row("the device answers late or not at all", s1, silent_s + abort_s, "the guard ramps to zero"),
        row("no room, or a disk error", s1, STALE_S + abort_s, "the current ramps to zero"),
        _guard_death(capabilities),
        row(
            "ordinary stop, end of session, dose used up",
            s2,
            max(ramp_s, capabilities.min_transition_s) + reach_s,
            "the current ramps down at the configured slope",
        ),
    ]
    return rows


def time_to_no_pulse(can: PulseCapabilities) -> list[TimeToZero]:
    """The same of a pulse stimulator: how long after each fault a pulse can still come."""
    reach_s = TICK_S + SLACK_S + can.command_latency_s
    s0, s1, s2 = StopClass.S0_CUT, StopClass.S1_ABORT_RAMP, StopClass.S2_SESSION_RAMP
    silent_s = max(STALE_S, 4.0 * can.readback_interval_s)
    ends = [can.host_timeout_s] if can.hardware_watchdog else []
    ends += [can.max_train_s] if can.self_expiring_lease else []
    alone_s = min(ends) + DEVICE_SLACK_S + can.command_latency_s if ends else None
    rows = (
        ("emergency stop", s0, reach_s, "the stimulator is disarmed"),
        ("the EEG stream stops or stalls", s1, STALE_S + reach_s, "the stimulator is disarmed"),
        ("the engine dies", s1, reach_s, "the guard disarms"),
        ("the engine hangs", s1, LEASE_S + reach_s, "its lease ends and the guard disarms"),
        ("a pulse too strong, too early or too many, or a fault", s0, can.readback_interval_s + reach_s, "the guard disarms"),
        ("the coil is too warm", s1, 1.0 + can.readback_interval_s + reach_s, "the guard disarms"),
        ("the device answers late or not at all", s1, silent_s + reach_s, "the guard disarms"),
        ("the guard dies or hangs, the cable is pulled, or the host stops", s0, alone_s, "the device disarms by itself"),
        ("ordinary stop, end of session, pulses used up", s2, reach_s, "the stimulator is disarmed"),
    )
    table = []
    for cause, stop_class, bound_s, how in rows:
        bound = None if bound_s is None else math.ceil(bound_s * 100.0 - 1e-6) / 100.0
        words = f"{cause}: nothing ends the pulses" if bound is None else f"{cause}: {how} within {bound:g} s"
        table.append(TimeToZero(cause=cause, stop_class=stop_class, bound_s=bound, words=words))
    return table


def _device_rows(capabilities: Capabilities, seen_s: float, cut_s: float) -> list[TimeToZero]:
    causes = (
        (
            "over-current, wrong polarity, a restart or a fault that the device reports",
            capabilities.readback_interval_s + cut_s,
        ),
        ("a current or set point that is not what was commanded, or an open circuit", seen_s + cut_s),
    )
    rows = []
    for cause, bound_s in causes:
        if not capabilities.measures_current:
            rows.append(
                TimeToZero(
                    cause=cause,
                    stop_class=StopClass.S0_CUT,
                    bound_s=None,
                    words=f"{cause}: this device does not measure its current, so nobody would notice; watch the participant",
                )
            )
            continue
        rounded = math.ceil(bound_s * 100.0 - 1e-6) / 100.0
        rows.append(
            TimeToZero(
                cause=cause,
                stop_class=StopClass.S0_CUT,
                bound_s=rounded,
                words=f"{cause}: the current is cut within {rounded:g} s",
            )
        )
    return rows


def _impedance_row(capabilities: Capabilities, bound_s: float) -> TimeToZero:
    cause = "impedance above the stop limit, or a short"
    if not capabilities.measures_current:
        words = f"{cause}: this device does not measure it under current, so nobody would notice; watch the participant"
        return TimeToZero(cause=cause, stop_class=StopClass.S1_ABORT_RAMP, bound_s=None, words=words)
    rounded = math.ceil(bound_s * 100.0 - 1e-6) / 100.0
    words = f"{cause}: the guard ramps to zero within {rounded:g} s"
    return TimeToZero(cause=cause, stop_class=StopClass.S1_ABORT_RAMP, bound_s=rounded, words=words)


def _guard_death(capabilities: Capabilities) -> TimeToZero:
    cause = "the guard dies or hangs, the cable is pulled, or the host stops"
    if not (capabilities.self_expiring_lease or capabilities.hardware_watchdog):
        return TimeToZero(
            cause=cause,
            stop_class=StopClass.S0_CUT,
            bound_s=None,
            words=f"{cause}: nothing ends the current; this device must not be armed",
        )
    bound_s = capabilities.host_timeout_s + DEVICE_SLACK_S + capabilities.command_latency_s + capabilities.min_transition_s
    rounded = math.ceil(bound_s * 100.0 - 1e-6) / 100.0
    return TimeToZero(
        cause=cause,
        stop_class=StopClass.S0_CUT,
        bound_s=rounded,
        words=f"{cause}: the device by itself ends the current within {rounded:g} s"
        + (f" ({capabilities.caveat})" if capabilities.caveat else ""),
    )
