"""The messages between engine and guard, and their bytes.

One message is one packet on a local SOCK_SEQPACKET socket. The engine asks; the guard alone decides and owns the device.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta

from devices.pulses import PulseCapabilities
from devices.stimulator import Capabilities, Identity

LINK_VERSION: Final = 2
MAX_PACKET_BYTES: Final = 16_384

_T = TypeVar("_T")

Seq = Annotated[int, Meta(ge=1, le=2**53)]
Reason = Annotated[str, Meta(max_length=500)]


class _Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="m"):
    """Base of all messages."""


# ---- engine (or `cereloop stop`) to guard


class Hello(_Message, frozen=True, tag="hello"):
    """First message on a connection; a hash that differs from the guard's own reading is refused (I06)."""

    version: int
    settings_sha256: str


class Arm(_Message, frozen=True, tag="arm"):
    """The operator has typed the code that `Welcome` carried; valid for 60 s unless a level follows."""

    seq: Seq
    code: str


class Reserve(_Message, frozen=True, tag="reserve"):
    """Before RAMP_UP: the greatest charge and time that the coming gate can need."""

    seq: Seq
    charge_uc: Annotated[int, Meta(ge=0)]
    on_time_ms: Annotated[int, Meta(ge=0)]


class Command(_Message, frozen=True, tag="command"):
    """A level (magnitude, integer microamps: NaN cannot be one) that holds until `deadline_ns` on CLOCK_BOOTTIME."""

    seq: Seq
    level_ua: Annotated[int, Meta(ge=0, le=1_000_000)]
    deadline_ns: int
    decision: int


class ReservePulses(_Message, frozen=True, tag="reserve_pulses"):
    """Before the first train of a gate: how many pulses it can need."""

    seq: Seq
    pulses: Annotated[int, Meta(ge=0, le=100_000)]


class Pulses(_Message, frozen=True, tag="pulses"):
    """Pulses of this intensity (percent of the greatest output; 0: none) may be given until `deadline_ns`, as `Command`."""

    seq: Seq
    intensity_percent: Annotated[int, Meta(ge=0, le=1000)]
    deadline_ns: int
    decision: int


class Stop(_Message, frozen=True, tag="stop"):
    """Stop now, by class 0 (cut), 1 (abort ramp) or 2 (session ramp). Needs no Hello; always works (I28)."""

    stop_class: Annotated[int, Meta(ge=0, le=2)]
    reason: Reason


class Reset(_Message, frozen=True, tag="reset"):
    """The operator resets a latch or an abort at confirmed zero; the session must then be armed anew."""

    seq: Seq
    operator: Annotated[str, Meta(min_length=1, max_length=100)]


class Goodbye(_Message, frozen=True, tag="goodbye"):
    """The engine ends in order; the guard goes to zero, then exits."""

    reason: Reason


ToGuard = Hello | Arm | Reserve | Command | ReservePulses | Pulses | Stop | Reset | Goodbye


# ---- guard to engine


class Welcome(_Message, frozen=True, tag="welcome"):
    """Answer to Hello: the device, its limits in force, and the code the operator must type.

    `capabilities` is that of a current stimulator, `pulse_capabilities` that of one that gives pulses; the other is None.
    """

    version: int
    identity: Identity
    capabilities: Capabilities | None
    max_level_ua: int
    limit_reasons: list[str]
    arm_code: str
    pulse_capabilities: PulseCapabilities | None = None
    max_intensity_percent: int = 0


class Refused(_Message, frozen=True, tag="refused"):
    """A request was refused; `seq` is its number, 0 where it had none."""

    seq: int
    reason: Reason


class Report(_Message, frozen=True, tag="report"):
    """State of guard and device; every 50 ms and at every change of phase.

    phase: ``zeroing``, ``safe`` (disarmed at zero), ``armed``, ``live`` (current may flow), ``aborting`` (S1),
    ``ending`` (S2), ``stopped`` (at zero after S1: needs reset and arm), ``latched`` (after S0: likewise).
    Currents are magnitudes except `measured_ua`, which is signed. Charge is what was used, in microcoulomb. Of pulses:
    `intensity_percent` is above 0 while any may come, `pulses` the most that may have been given in this session.
    """

    t_ns: int
    phase: str
    reason: Reason
    level_ua: int
    measured_ua: float | None
    voltage_mv: float | None
    impedance_ohm: float | None
    last_seq: int
    reserved_uc: int
    charge_uc: int
    on_time_ms: int
    dropped: int
    lease_left_ms: int
    intensity_percent: int = 0
    pulses: int = 0
    reserved_pulses: int = 0
    coil_c: float | None = None


FromGuard = Welcome | Refused | Report

_TO_GUARD = msgspec.msgpack.Decoder(ToGuard, strict=True)
_FROM_GUARD = msgspec.msgpack.Decoder(FromGuard, strict=True)
_ENCODER = msgspec.msgpack.Encoder()


class LinkError(ValueError):
    """Bytes on the link that are no message; the text says why."""


def encode(message: ToGuard | FromGuard) -> bytes:
    """Bytes of one packet."""
    return _ENCODER.encode(message)


def decode_to_guard(packet: bytes) -> ToGuard:
    """Parse a packet that the guard received.

    Raises
    ------
    LinkError
        If the packet is too long, malformed, of an unknown kind, or a field is out of range.
    """
    message: ToGuard = _decode(packet, _TO_GUARD)
    return message


def decode_from_guard(packet: bytes) -> FromGuard:
    """Parse a packet that the engine received.

    Raises
    ------
    LinkError
        As for `decode_to_guard`.
    """
    message: FromGuard = _decode(packet, _FROM_GUARD)
    return message


def _decode(packet: bytes, decoder: msgspec.msgpack.Decoder[_T]) -> _T:
    if len(packet) > MAX_PACKET_BYTES:
        raise LinkError(f"packet of {len(packet)} bytes; at most {MAX_PACKET_BYTES} are allowed")
    try:
        message: _T = decoder.decode(packet)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise LinkError(f"not a message of link version {LINK_VERSION}: {error}") from error
    return message
