"""The words of the pulse guard's decision part: its parameters, state, inputs and actions. Values only.

Phases, ways of leaving, and whatever does not depend on what is given are those of `devices.guard_state`.
"""

from __future__ import annotations

import math

import msgspec

from devices import link
from devices.guard_params import forbidden_to_all, waits
from devices.guard_state import (
    FOREVER,
    NEVER,
    Announce,
    Booked,
    BookFailed,
    BookPulses,
    CommonParams,
    CommonState,
    DeviceFailure,
    DeviceStop,
    DisarmDevice,
    EngineGone,
    Exit,
    Garbage,
    Heartbeat,
    ResetDevice,
    Send,
    SettlePulses,
    Terminate,
    Tick,
    fresh,
    reason_told,
)
from devices.pulse_settings import MAX_COIL_C, PulseSettings, check_pulse_settings, pulse_limits
from devices.pulses import PulseCapabilities, PulseLimits, PulseReadback, PulseState, Train
from devices.stimulator import Identity
from devices.units import NS_PER_MS, NS_PER_S


class PulseParams(CommonParams, frozen=True, kw_only=True):
    """Everything fixed for a session."""

    limits: PulseLimits
    """Of the whole session; the device latches them anew, with the gate's own number of pulses, for every gate."""
    train: Train
    """The longest train that one command asks for, at the configured intensity."""
    max_coil_c: float
    measures_temperature: bool
    used_pulses: int = 0
    """What the ledger already holds for this session when the guard starts (I04)."""
    lag_ns: int = 200 * NS_PER_MS
    stale_ns: int = 600 * NS_PER_MS
    confirm_ns: int = 800 * NS_PER_MS
    blind_ns: int = 4 * NS_PER_S
    """As `confirm_ns`, for a device that had fallen silent."""
    zeroing_ns: int = 2 * NS_PER_S
    device_arm_ns: int = 3 * NS_PER_S
    """How long the device may take to be armed and ready."""
    train_slack_ns: int = 3 * NS_PER_S
    """By how much a train may last longer than its pulses: charging before, reading back after."""


class PulseGuardState(CommonState, frozen=True, kw_only=True):
    """All that changes."""

    wanted_percent: int = 0
    armed_ns: int = NEVER
    """When the device was told to arm for the gate that runs; `NEVER` while none does."""
    was_ready: bool = False
    """Whether it has since reported that it could fire."""
    train_ns: int = NEVER
    """When the train that runs was asked for."""
    rest_ns: int = NEVER
    """When the device was told to arm, or the last train was over: since when the next train waits for it."""
    train_pulses: int = 0
    given: int = 0
    """Pulses asked for since the device was last told to arm."""
    begun_ns: int = NEVER
    """When the gate that is not settled yet began."""
    seen: int = 0
    """Most pulses that have been reported since it did."""
    quiet_ns: int = NEVER
    """When the device was last told to disarm."""
    readback: PulseReadback | None = None
    reserved: int = 0
    used: int = 0
    """Pulses of all gates settled before."""


PulseInput = (
    Tick
    | PulseReadback
    | link.Arm
    | link.ReservePulses
    | link.Pulses
    | link.Stop
    | link.Reset
    | link.Goodbye
    | Garbage
    | EngineGone
    | Terminate
    | DeviceFailure
    | Booked
    | BookFailed
)


class ArmPulses(msgspec.Struct, frozen=True):
    """Latch these limits in the device and allow trains."""

    limits: PulseLimits


class FireTrain(msgspec.Struct, frozen=True):
    """Ask for one train, with a lease of `LEASE_MS` that heartbeats renew."""

    train: Train


TrainAction = ArmPulses | FireTrain
"""Those that only a guard of pulses takes."""
PulseAction = (
    ArmPulses | FireTrain | Heartbeat | DeviceStop | DisarmDevice | ResetDevice
    | BookPulses | SettlePulses | Send | Announce | Exit
)  # fmt: skip


def make_pulse_params(
    settings: PulseSettings,
    can: PulseCapabilities,
    identity: Identity,
    arm_secret: bytes,
    arm_until_ns: int = FOREVER,
) -> PulseParams:
    """Derive the guard's parameters; as `devices.guard_params.make_params`.

    Raises
    ------
    PulseLimitError
        If the settings widen a ceiling.
    """
    check_pulse_settings(settings.pulses, settings.pulse_limits)
    latched, _ = pulse_limits(settings, can)
    stim = settings.pulses
    pulses = min(stim.train_pulses, can.max_train_pulses, max(1, int(can.max_train_s * 1000 // stim.interval_ms)))
    round_trip_s = 2.0 * can.command_latency_s + can.readback_interval_s
    return PulseParams(
        limits=latched,
        train=Train(intensity_percent=latched.max_intensity_percent, pulses=pulses, interval_ms=stim.interval_ms),
        max_coil_c=min(settings.pulse_limits.max_coil_c, MAX_COIL_C),
        measures_temperature=can.measures_temperature,
        forbidden=_forbidden(settings, can, identity),
        arm_secret=arm_secret,
        arm_until_ns=arm_until_ns,
        lag_ns=math.ceil(round_trip_s * NS_PER_S),
        **waits(round_trip_s, can.readback_interval_s),
        device_arm_ns=math.ceil((can.arm_s + 2.0) * NS_PER_S),
        train_slack_ns=math.ceil((can.min_gap_s + 2.0) * NS_PER_S),
    )


def _forbidden(settings: PulseSettings, can: PulseCapabilities, identity: Identity) -> str:
    unguarded = ""
    if not (can.self_expiring_lease or can.hardware_watchdog):
        unguarded = (
            f"{identity.model} has neither trains that end by themselves nor a watchdog: a dead guard would leave pulses on"
        )
    why = forbidden_to_all(settings, identity, unguarded)
    if why:
        return why
    if not identity.emulator:
        return (
            f"{identity.model} {identity.serial_number} is a real stimulator, and this driver has been tried on its emulator "
            "only: there is no pre-arm checklist for magnetic stimulation yet"
        )
    if settings.pulses.interval_ms < can.min_interval_ms:
        return f"pulses.interval_ms is {settings.pulses.interval_ms}; {identity.model} needs {can.min_interval_ms} ms"
    return ""


def initial(params: PulseParams) -> PulseGuardState:
    """The state at the start: zeroing, nothing known of the device."""
    return PulseGuardState(used=params.used_pulses)


def disarmed(params: PulseParams, state: PulseGuardState, t_ns: int) -> bool:
    """Whether a fresh report, taken after the device was told to disarm, says that it is: no pulse can come."""
    readback = state.readback
    if state.armed_ns != NEVER or readback is None or not fresh(params, state, t_ns):
        return False
    return state.heard_ns - state.quiet_ns >= params.lag_ns and readback.state in (PulseState.IDLE, PulseState.FAULT)


def report(params: PulseParams, state: PulseGuardState, t_ns: int) -> link.Report:
    """The state as the engine is told it."""
    readback = state.readback
    quiet = disarmed(params, state, t_ns)
    may_come = state.armed_ns != NEVER or (state.flowed and not quiet)
    return link.Report(
        t_ns=t_ns,
        phase=state.phase.value,
        reason=reason_told(params, state, t_ns, "" if quiet else "the coil is not confirmed silent"),
        level_ua=0,
        measured_ua=None,
        voltage_mv=None,
        impedance_ohm=None,
        last_seq=state.last_seq,
        reserved_uc=0,
        charge_uc=0,
        on_time_ms=0,
        dropped=state.dropped,
        lease_left_ms=max(0, (state.lease_ns - t_ns) // NS_PER_MS),
        intensity_percent=params.train.intensity_percent if may_come else 0,
        pulses=state.used + (state.seen if state.flowed else 0),
        reserved_pulses=0 if state.booking else state.reserved,
        coil_c=readback.coil_c if readback else None,
    )
