"""The reference serial protocol, version 1.1: a pure codec between frames and bytes, for host and device alike.

It is a reference design, not an existing device: the smallest protocol that lets a silent or mistaken host end at zero
current. ``reference_serial_protocol.md`` beside this file specifies it in full, for whoever builds the device; the tests
compare its worked frames and tables with this code.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec

from devices.refframe import Frame, frame_bytes
from devices.stimulator import DeviceState, Identity, StopClass

MAX_TEXT_BYTES: Final = 32

MINOR: Final = 1
HOST_TIMEOUT_MS: Final = 250
MAX_LEASE_MS: Final = 1000
MAX_LEVEL_UA: Final = 2000
MAX_SLEW_UA_S: Final = 200
DOWN_SLEW_UA_S: Final = 2000
ZERO_UA: Final = 10.0
IMPEDANCE_OVER_RANGE_OHM: Final = 1_000_000

_T = TypeVar("_T")

_NO_I32: Final = -(2**31)
_NO_U32: Final = 2**32 - 1
_LIMITS: Final = struct.Struct("<II")
_LEVEL: Final = struct.Struct("<iH")
_BYTE: Final = struct.Struct("<B")
_ACK: Final = struct.Struct("<IB")
_REPORT: Final = struct.Struct("<BiiiIIHB")
_IDENTITY: Final = struct.Struct("<IBB")
_LATCHED: Final = struct.Struct("<IIIHH")
_FOUND: Final = struct.Struct("<IH")


class Code(enum.IntEnum):
    """The command byte of a frame."""

    IDENTIFY = 0x01
    ARM = 0x02
    DISARM = 0x03
    SET_LEVEL = 0x04
    HEARTBEAT = 0x05
    STOP = 0x06
    RESET_FAULT = 0x07
    QUERY = 0x08
    SELF_TEST = 0x09
    IDENTITY = 0x81
    ACK = 0x82
    REPORT = 0x83
    LIMITS = 0x84
    SELF_TEST_RESULT = 0x85


class AckResult(enum.IntEnum):
    """What the device says to a command it has taken."""

    OK = 0
    NOT_ARMED = 1
    NOT_IDLE = 2
    OVER_LIMIT = 3
    FAULT_LATCHED = 4
    BAD_LEASE = 5
    NOT_AT_ZERO = 6
    NOT_UNDERSTOOD = 7


class FaultCode(enum.IntEnum):
    """Why the device has latched."""

    NONE = 0
    HOST_TIMEOUT = 1
    EMERGENCY_BUTTON = 2
    SELF_TEST = 3


FAULT_NAMES: Final[dict[int, str]] = {
    FaultCode.NONE: "",
    FaultCode.HOST_TIMEOUT: "host_timeout",
    FaultCode.EMERGENCY_BUTTON: "emergency_button",
    FaultCode.SELF_TEST: "self_test",
}


class Defect(enum.IntFlag):
    """What a self-test found; no bit set: sound."""

    PROGRAM_MEMORY = 0x01
    SETTINGS_MEMORY = 0x02
    OUTPUT_RELAY = 0x04
    OUTPUT_AND_AMMETER = 0x08
    TIMERS = 0x10
    BUTTON = 0x20


class FrameError(ValueError):
    """A well-checked frame that is no message of this version; the text says which field is wrong."""


class _Message(msgspec.Struct, frozen=True):
    """Base of all messages."""


class Identify(_Message, frozen=True):
    """Zero, forget the numbering, say who you are."""


class Arm(_Message, frozen=True):
    """Latch a greatest level (uA) and a greatest slew (uA/s), and allow current."""

    max_level_ua: int
    max_slew_ua_s: int


class Disarm(_Message, frozen=True):
    """Zero, and no current until armed again."""


class SetLevel(_Message, frozen=True):
    """One signed level (uA) for `lease_ms` (ms)."""

    level_ua: int
    lease_ms: int


class Heartbeat(_Message, frozen=True):
    """The host lives."""


class Stop(_Message, frozen=True):
    """Zero, by class."""

    stop_class: StopClass


class ResetFault(_Message, frozen=True):
    """Clear the latched fault."""


class Query(_Message, frozen=True):
    """Report at once."""


class SelfTest(_Message, frozen=True):
    """Test yourself, without current at the electrodes."""


class IdentityReply(_Message, frozen=True):
    """Answer to `Identify`; `minor` is the protocol's minor version."""

    ack_seq: int
    minor: int
    identity: Identity


class Ack(_Message, frozen=True):
    """The frame `ack_seq` was taken, and what came of it."""

    ack_seq: int
    result: AckResult


class Report(_Message, frozen=True):
    """What the device knows of itself; currents in uA, `measured_ua` in steps of 0.1 uA."""

    state: DeviceState
    set_ua: int
    measured_ua: float | None
    voltage_mv: int | None
    impedance_ohm: int | None
    ack_seq: int
    boot_count: int
    fault: int


class Limits(_Message, frozen=True):
    """What the device has latched (uA, uA/s) and what it will do by itself (ms); `ack_seq` as in a report."""

    ack_seq: int
    max_level_ua: int
    max_slew_ua_s: int
    host_timeout_ms: int
    max_lease_ms: int


class SelfTestResult(_Message, frozen=True):
    """Answer to `SelfTest`."""

    ack_seq: int
    defects: Defect


HostMessage = Identify | Arm | Disarm | SetLevel | Heartbeat | Stop | ResetFault | Query | SelfTest
DeviceMessage = IdentityReply | Ack | Report | Limits | SelfTestResult

_BARE: Final[dict[int, HostMessage]] = {
    Code.IDENTIFY: Identify(),
    Code.DISARM: Disarm(),
    Code.HEARTBEAT: Heartbeat(),
    Code.RESET_FAULT: ResetFault(),
    Code.QUERY: Query(),
    Code.SELF_TEST: SelfTest(),
}
_BARE_CODES: Final = {type(message): code for code, message in _BARE.items()}
_STATES: Final = {int(state): state for state in DeviceState if state is not DeviceState.UNCERTAIN}
_RESULTS: Final = {int(result): result for result in AckResult}
_CLASSES: Final = {int(stop_class): stop_class for stop_class in StopClass}


def encode(seq: int, message: HostMessage | DeviceMessage) -> bytes:
    """Bytes of one frame that carries `message` as the sender's number `seq`."""
    match message:
        case Report():
            return frame_bytes(seq, Code.REPORT, _report_payload(message))
        case Ack():
            return frame_bytes(seq, Code.ACK, _ACK.pack(message.ack_seq, message.result))
        case SetLevel():
            return frame_bytes(seq, Code.SET_LEVEL, _LEVEL.pack(message.level_ua, message.lease_ms))
        case Arm():
            return frame_bytes(seq, Code.ARM, _LIMITS.pack(message.max_level_ua, message.max_slew_ua_s))
        case Stop():
            return frame_bytes(seq, Code.STOP, _BYTE.pack(message.stop_class))
        case IdentityReply():
            return frame_bytes(seq, Code.IDENTITY, _identity_payload(message))
        case Limits():
            return frame_bytes(seq, Code.LIMITS, _LATCHED.pack(*msgspec.structs.astuple(message)))
        case SelfTestResult():
            return frame_bytes(seq, Code.SELF_TEST_RESULT, _FOUND.pack(message.ack_seq, message.defects))
        case _:
            return frame_bytes(seq, _BARE_CODES[type(message)])


def parse_host(frame: Frame) -> HostMessage:
    """The command in a frame that came from a host.

    Raises
    ------
    FrameError
        If the command is unknown, or its payload has a wrong length or value.
    """
    if frame.command in _BARE:
        _expect(frame, 0)
        return _BARE[frame.command]
    if frame.command == Code.SET_LEVEL:
        _expect(frame, _LEVEL.size)
        return SetLevel(*_LEVEL.unpack(frame.payload))
    if frame.command == Code.ARM:
        _expect(frame, _LIMITS.size)
        return Arm(*_LIMITS.unpack(frame.payload))
    if frame.command == Code.STOP:
        _expect(frame, _BYTE.size)
        return Stop(_named(_CLASSES, frame.payload[0], "stop class"))
    raise FrameError(f"command 0x{frame.command:02x} is none that a host sends")


def parse_device(frame: Frame) -> DeviceMessage:
    """The message in a frame that came from a device.

    Raises
    ------
    FrameError
        If the command is unknown, or its payload has a wrong length or value.
    """
    if frame.command == Code.REPORT:
        _expect(frame, _REPORT.size)
        state, set_ua, measured, millivolt, ohm, ack_seq, boot_count, fault = _REPORT.unpack(frame.payload)
        return Report(
            _named(_STATES, state, "state"),
            set_ua,
            None if measured == _NO_I32 else measured / 10.0,
            None if millivolt == _NO_I32 else millivolt,
            None if ohm == _NO_U32 else ohm,
            ack_seq,
            boot_count,
            fault,
        )
    if frame.command == Code.ACK:
        _expect(frame, _ACK.size)
        ack_seq, result = _ACK.unpack(frame.payload)
        return Ack(ack_seq, _named(_RESULTS, result, "result"))
    if frame.command == Code.LIMITS:
        _expect(frame, _LATCHED.size)
        return Limits(*_LATCHED.unpack(frame.payload))
    if frame.command == Code.SELF_TEST_RESULT:
        _expect(frame, _FOUND.size)
        ack_seq, defects = _FOUND.unpack(frame.payload)
        return SelfTestResult(ack_seq, Defect(defects))
    if frame.command == Code.IDENTITY:
        return _parse_identity(frame.payload)
    raise FrameError(f"command 0x{frame.command:02x} is none that a device sends")


def _expect(frame: Frame, length: int) -> None:
    if len(frame.payload) != length:
        raise FrameError(
            f"command 0x{frame.command:02x} takes {length} bytes of payload, not {len(frame.payload)}"
        )


def _named(names: Mapping[int, _T], value: int, field: str) -> _T:
    if value not in names:
        raise FrameError(f"{field} {value} is not defined")
    return names[value]


def _report_payload(report: Report) -> bytes:
    measured, millivolt, ohm = report.measured_ua, report.voltage_mv, report.impedance_ohm
    return _REPORT.pack(
        report.state,
        report.set_ua,
        _NO_I32 if measured is None else round(measured * 10.0),
        _NO_I32 if millivolt is None else millivolt,
        _NO_U32 if ohm is None else ohm,
        report.ack_seq,
        report.boot_count,
        report.fault,
    )


def _identity_payload(reply: IdentityReply) -> bytes:
    who = reply.identity
    payload = _IDENTITY.pack(reply.ack_seq, who.emulator, reply.minor)
    for text in (who.maker, who.model, who.serial_number, who.firmware):
        data = text.encode()
        if len(data) > MAX_TEXT_BYTES:
            raise ValueError(f"{text!r} is longer than {MAX_TEXT_BYTES} bytes")
        payload += bytes([len(data)]) + data
    return payload


def _parse_identity(payload: bytes) -> IdentityReply:
    if len(payload) < _IDENTITY.size:
        raise FrameError("identity is cut short")
    ack_seq, flags, minor = _IDENTITY.unpack_from(payload)
    texts, at = [], _IDENTITY.size
    for field in ("maker", "model", "serial number", "firmware"):
        end = at + 1 + (payload[at] if at < len(payload) else 0)
        if at >= len(payload) or end > len(payload) or end - at - 1 > MAX_TEXT_BYTES:
            raise FrameError(f"identity: {field} is cut short or too long")
        try:
            texts.append(payload[at + 1 : end].decode())
        except UnicodeDecodeError as error:
            raise FrameError(f"identity: {field} is not UTF-8") from error
        at = end
    if at != len(payload):
        raise FrameError("identity: bytes left over")
    who = Identity(
        maker=texts[0], model=texts[1], serial_number=texts[2], firmware=texts[3], emulator=bool(flags & 1)
    )
    return IdentityReply(ack_seq, minor, who)
