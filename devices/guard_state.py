"""The words of the guards' decision parts: phases, inputs, actions, and what the guard of a current has and knows. Values only.

`devices.pulse_guard_state` adds those of the guard of pulses, `devices.guard_params` derives the parameters from the settings.
"""

from __future__ import annotations

import enum
import hashlib
from typing import Final

import msgspec

from devices import limits, link
from devices.stimulator import DeviceState, GatePlan, Readback, StopClass
from devices.units import NS_PER_MS, NS_PER_S

ZERO_UA: Final = 10
MAX_COUNTED_UA: Final = 20_000
"""Most that a reading can add to the dose: above what any stimulator here delivers, so an absurd one stays bounded."""
LEASE_MS: Final = 250
TICK_NS: Final = 10 * NS_PER_MS
WRONG_CODES_ALLOWED: Final = 3
GARBAGE_ALLOWED: Final = 3
NEVER: Final = -(1 << 62)
"""A time before every other: 'has not happened'."""
FOREVER: Final = 1 << 62

_CODE_LETTERS: Final = "ACDEFHJKLMNPRTUVWY3479"


class Phase(enum.StrEnum):
    """Where the guard is; the strings of `link.Report.phase`."""

    ZEROING = "zeroing"
    SAFE = "safe"
    ARMED = "armed"
    LIVE = "live"
    ABORTING = "aborting"
    ENDING = "ending"
    STOPPED = "stopped"
    LATCHED = "latched"


class Leaving(enum.IntEnum):
    """Whether the guard is to exit once zero is confirmed, and who wants it."""

    STAYS = 0
    GOODBYE = 1
    ENGINE_GONE = 2
    TERMINATED = 3


class ExitCode(enum.IntEnum):
    """How the guard process ends."""

    ENDED = 0
    """In order, at confirmed zero, on the engine's goodbye."""
    REFUSED = 2
    """Did not start: settings, device, socket or a mismatch of input and device; one sentence says which."""
    ENGINE_LOST = 3
    """At confirmed zero, after the engine had gone or a signal had asked."""
    ZERO_UNCONFIRMED = 4
    """The device no longer answers or still reports current: cut its power by hand."""
    INTERNAL = 70
    """A defect in the guard; the device was cut before the process ended."""


class CommonParams(msgspec.Struct, frozen=True, kw_only=True):
    """What every guard has fixed for a session, whatever is given."""

    forbidden: str
    """Why this device must not be armed in this session; empty where it may."""
    arm_secret: bytes
    arm_until_ns: int = FOREVER
    """End of the day for which the pre-arm checklist holds; nothing is armed from then on."""
    tick_ns: int = TICK_NS
    late_ns: int = 250 * NS_PER_MS
    lease_ns: int = LEASE_MS * NS_PER_MS
    slow_ns: int = 50 * NS_PER_MS
    lag_ns: int
    """From a command to a report that knows of it."""
    stale_ns: int
    confirm_ns: int
    zeroing_ns: int
    arm_valid_ns: int = 60 * NS_PER_S
    garbage_ns: int = NS_PER_S
    give_up_ns: int = 5 * NS_PER_S
    book_ns: int = NS_PER_S
    """How long the ledger may take to commit a reservation."""


class Params(CommonParams, frozen=True, kw_only=True):
    """Everything fixed for a session. Levels and slews are magnitudes; `sign` is the polarity at the electrode."""

    sign: int
    max_level_ua: int
    over_current_ua: int
    slew_na_s: int
    """Limit of every ordinary change, in nanoamps a second."""
    end_slew_na_s: int
    """Slope of S2: the steepest of the configured raised-cosine ramp."""
    max_charge_uc: int
    max_on_time_ms: int
    arm_below_ohm: float
    stop_above_ohm: float
    short_below_ohm: float
    device_ramp: bool
    measures_current: bool
    plan: GatePlan | None = None
    """The gate to send as a whole, where the device takes no single levels."""
    plan_slack_ua: int = 50
    """By how much the plan may lie above what the engine asks: its ramps are raised cosines, the plan's are straight."""
    used_fc: int = 0
    used_ns: int = 0
    """What the ledger already holds for this session when the guard starts (I04)."""
    abort_slew_ua_s: int = limits.ABORT_SLEW_UA_S
    lag_ns: int = 70 * NS_PER_MS
    stale_ns: int = 200 * NS_PER_MS
    sustain_ns: int = 100 * NS_PER_MS
    confirm_ns: int = 400 * NS_PER_MS
    zeroing_ns: int = NS_PER_S
    tolerance_ua: int = 50
    idle_tolerance_ua: int = 25


class CommonState(msgspec.Struct, frozen=True, kw_only=True):
    """What changes in every guard. Times are nanoseconds on the lease clock, `NEVER` where nothing has happened."""

    phase: Phase = Phase.ZEROING
    reason: str = "started"
    stop_class: int | None = None
    lease_ns: int = NEVER
    last_seq: int = 0
    tick_ns: int = NEVER
    slow_ns: int = NEVER
    phase_ns: int = NEVER
    """When the present phase began; for `armed`, when its 60 s began."""
    heard_ns: int = NEVER
    boot_count: int | None = None
    silences: int = 0
    blind: bool = False
    """Whether this abort began because the device was silent: what it then says may be old."""
    booking: int = 0
    """Number of the reservation that the ledger has not committed yet; while it is not 0 nothing rises (I04)."""
    booking_ns: int = NEVER
    flowed: bool = False
    """Whether the reservation's gate has begun and is not settled."""
    garbage_ns: tuple[int, ...] = ()
    dropped: int = 0
    refused_ns: int = NEVER
    wrong_codes: int = 0
    code_index: int = 0
    leaving: Leaving = Leaving.STAYS
    leaving_ns: int = NEVER
    exited: bool = False


class State(CommonState, frozen=True, kw_only=True):
    """All that changes."""

    level_ua: int = 0
    """Magnitude in force at the device, as far as the guard knows; what the device was last told."""
    target_ua: int = 0
    credit: int = 0
    """Slew allowance not yet used, in units of 1e-9 nanoamp."""
    from_ua: int = 0
    """Level when the present stop began."""
    run_ns: int = NEVER
    """When the gate that runs began, where the device takes whole gates."""
    zero_ns: int = NEVER
    rise_ns: int = NEVER
    """When the level last became 0, and when it last left 0."""
    readback: Readback | None = None
    off_ns: int = NEVER
    ohm_ns: int = NEVER
    """Since when read-backs have been off the level, or the impedance out of bounds; a loose lead's short spells of good
    contact do not interrupt it."""
    off_seen_ns: int = NEVER
    ohm_seen_ns: int = NEVER
    """When that was last seen."""
    ack_seq: int = -1
    ack_ns: int = NEVER
    reserved_uc: int = 0
    reserved_ms: int = 0
    gate_fc: int = 0
    gate_ns: int = 0
    """Charge (1e-15 C = microamp nanosecond) and time since the reservation."""
    used_fc: int = 0
    used_ns: int = 0
    """Charge and time of all gates settled before."""


# ---- inputs: the messages of the link, `Readback`, and these


class Tick(msgspec.Struct, frozen=True):
    """Time has passed; due every 10 ms."""


class Garbage(msgspec.Struct, frozen=True):
    """The engine sent bytes that are no message, or flooded the link; `what` says which."""

    what: str


class EngineGone(msgspec.Struct, frozen=True):
    """The engine's connection has ended."""


class Terminate(msgspec.Struct, frozen=True):
    """The operating system asks the guard to end."""


class DeviceFailure(msgspec.Struct, frozen=True):
    """The driver raised. `kind` is ``lost``, ``protocol``, ``refused`` or ``uncertain`` (a reply is overdue)."""

    kind: str
    what: str


class Booked(msgspec.Struct, frozen=True):
    """The ledger has committed the reservation."""

    seq: int


class BookFailed(msgspec.Struct, frozen=True):
    """The ledger could not commit the reservation."""

    seq: int
    what: str


Input = (
    Tick
    | Readback
    | link.Arm
    | link.Reserve
    | link.Command
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


# ---- actions


class SetLevel(msgspec.Struct, frozen=True):
    """Tell the device a signed level, with a device lease of `LEASE_MS`."""

    level_ua: int


class RunGate(msgspec.Struct, frozen=True):
    """Send the device one gate as a whole."""

    plan: GatePlan


class Heartbeat(msgspec.Struct, frozen=True):
    """Tell the device that the guard lives."""


class DeviceStop(msgspec.Struct, frozen=True):
    """Let the device stop by this class."""

    stop_class: StopClass


class ArmDevice(msgspec.Struct, frozen=True):
    """Latch these limits in the device and allow current."""

    max_level_ua: int
    max_slew_ua_s: int


class DisarmDevice(msgspec.Struct, frozen=True):
    """Zero, and no current until armed again."""


class ResetDevice(msgspec.Struct, frozen=True):
    """Clear the device's own latch, then disarm."""


class Book(msgspec.Struct, frozen=True):
    """Commit this reservation before anything flows."""

    seq: int
    charge_uc: int
    on_time_ms: int


class Settle(msgspec.Struct, frozen=True):
    """Zero is confirmed: this much was used, the rest of the reservation is refunded. Rounded up."""

    charge_uc: int
    on_time_ms: int


class BookPulses(msgspec.Struct, frozen=True):
    """Commit this reservation before any pulse is given; `on_time_ms` is how long they take."""

    seq: int
    pulses: int
    on_time_ms: int


class SettlePulses(msgspec.Struct, frozen=True):
    """The device is confirmed disarmed: at most this many were given, the rest of the reservation is refunded."""

    pulses: int
    on_time_ms: int


class Send(msgspec.Struct, frozen=True):
    """Send this to the engine."""

    message: link.Report | link.Refused


class Announce(msgspec.Struct, frozen=True):
    """The arm code has changed: send a fresh Welcome."""


class Exit(msgspec.Struct, frozen=True):
    """End the process; zero is confirmed unless the code says otherwise."""

    code: ExitCode


CurrentAction = SetLevel | RunGate | ArmDevice
"""Those that only a guard of a current takes."""
Action = (
    SetLevel | RunGate | Heartbeat | DeviceStop | ArmDevice | DisarmDevice | ResetDevice
    | Book | Settle | Send | Announce | Exit
)  # fmt: skip


def arm_code(params: CommonParams, state: CommonState) -> str:
    """The code that the operator must type now: five letters, new after each success and after three failures."""
    digest = hashlib.blake2b(state.code_index.to_bytes(8, "big"), key=params.arm_secret, digest_size=5).digest()
    return "".join(_CODE_LETTERS[byte % len(_CODE_LETTERS)] for byte in digest)


def initial(params: Params) -> State:
    """The state at the start: zeroing, nothing known of the device."""
    return State(used_fc=params.used_fc, used_ns=params.used_ns)


def fresh(params: CommonParams, state: CommonState, t_ns: int) -> bool:
    """Whether the device has reported within the stale time."""
    return t_ns - state.heard_ns <= params.stale_ns


def reason_told(params: CommonParams, state: CommonState, t_ns: int, unconfirmed: str) -> str:
    """The reason as the engine is told it: a latch in which something stays `unconfirmed` is an alarm."""
    if unconfirmed and state.phase is Phase.LATCHED and t_ns - state.phase_ns > params.confirm_ns:
        return f"ALARM, {unconfirmed}: cut the stimulator's power now ({state.reason})"[:500]
    return state.reason


def zero_confirmed(params: Params, state: State, t_ns: int) -> bool:
    """Whether a fresh read-back, taken after the level became 0, shows zero current."""
    readback = state.readback
    if state.level_ua or readback is None or t_ns - state.heard_ns > params.stale_ns:
        return False
    if readback.state is DeviceState.UNCERTAIN:
        return False
    if state.heard_ns - state.zero_ns < params.lag_ns or readback.commanded_ua != 0:
        return False
    if readback.measured_ua is None:
        return not params.measures_current and readback.state not in (DeviceState.ACTIVE, DeviceState.RAMPING_DOWN)
    return abs(readback.measured_ua) <= ZERO_UA


def report(params: Params, state: State, t_ns: int) -> link.Report:
    """The state as the engine is told it."""
    readback = state.readback
    unconfirmed = "" if zero_confirmed(params, state, t_ns) else "zero is not confirmed"
    return link.Report(
        t_ns=t_ns,
        phase=state.phase.value,
        reason=reason_told(params, state, t_ns, unconfirmed),
        level_ua=state.level_ua,
        measured_ua=readback.measured_ua if readback else None,
        voltage_mv=readback.voltage_mv if readback else None,
        impedance_ohm=readback.impedance_ohm if readback else None,
        last_seq=state.last_seq,
        reserved_uc=0 if state.booking else state.reserved_uc,
        charge_uc=(state.used_fc + state.gate_fc + NS_PER_S - 1) // NS_PER_S,
        on_time_ms=(state.used_ns + state.gate_ns + NS_PER_MS - 1) // NS_PER_MS,
        dropped=state.dropped,
        lease_left_ms=max(0, (state.lease_ns - t_ns) // NS_PER_MS),
    )
