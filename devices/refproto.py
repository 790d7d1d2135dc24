"""The reference serial protocol, version 1: a pure codec between frames and bytes, for host and device alike.

It is a reference design, not an existing device: the smallest protocol that lets a silent or mistaken host
end at zero current. The line is a byte stream in each direction (115 200 baud, 8N1, no flow control). All
numbers are little endian; signed numbers are two's complement.

Frame

======  =====  ========  ==============================================================================
offset  bytes  field     meaning
======  =====  ========  ==============================================================================
0       2      sync      0xC5 0x3E
2       1      version   1
3       1      length    n, bytes of payload: host to device 0..8, device to host 0..160
4       4      sequence  u32; each sender counts its own frames, strictly increasing, from any but 0
8       1      command   see below
9       n      payload
9 + n   2      checksum  u16, CRC-16/CCITT-FALSE (polynomial 0x1021, start 0xFFFF, not reflected, no
                         final xor; "123456789" gives 0x29B1) over bytes 2 .. 8 + n
======  =====  ========  ==============================================================================

Host to device

====  ===========  ==================  =================================================================
code  name         payload             what the device does
====  ===========  ==================  =================================================================
0x01  IDENTIFY     none                current to zero at once, relay open, disarmed; forgets the old
                                       numbering and counts on from this frame; answers IDENTITY. A
                                       latched fault stays
0x02  ARM          max_level u32 uA,   only when idle: latches both limits until disarmed
                   max_slew u32 uA/s   (1..2000 uA, 1..200 uA/s)
0x03  DISARM       none                current to zero at once, relay open, disarmed
0x04  SET_LEVEL    level i32 uA,       only when armed: moves its set point towards `level`, for `lease`
                   lease u16 ms        (1..1000 ms)
0x05  HEARTBEAT    none                knows that the host lives; renews no lease
0x06  STOP         class u8            0: zero at once, relay open; 1: down at 2 mA/s; 2: down at the
                                       latched slew. Disarmed afterwards. Obeyed whatever its number: it
                                       can only lower. A stop under way is never slowed by a later one
0x07  RESET_FAULT  none                clears a latched fault; refused above 10 uA
0x08  QUERY        none                reports at once
====  ===========  ==================  =================================================================

Device to host

====  ========  ========================================================================================
code  name      payload
====  ========  ========================================================================================
0x81  IDENTITY  acknowledged u32, flags u8 (bit 0: emulator), then maker, model, serial number,
                firmware, each as length u8 (0..32) and UTF-8 bytes
0x82  ACK       acknowledged u32, result u8 (see `AckResult`); one for every frame taken
0x83  REPORT    state u8 (see `DeviceState`), set point i32 uA, measured i32 0.1 uA (-2^31: none),
                voltage i32 mV (-2^31: none), impedance u32 ohm (2^32-1: none; 1 000 000: that or more),
                acknowledged u32, boot count u16, fault u8 (see `FAULT_NAMES`)
====  ========  ========================================================================================

Rules for the device

- A frame whose number is not greater than the last one taken changes nothing and is not answered; IDENTIFY
  and STOP are the exceptions named above. `acknowledged` is the greatest number taken since IDENTIFY or
  power-up.
- Host timeout: armed, or with current on, and no new frame for 250 ms: zero at once, relay open, fault
  latched.
- Lease: `lease` ms after the last SET_LEVEL with the set point or the level not zero: down at 2 mA/s by
  itself, then disarmed. Nothing but a new ARM brings current back.
- The set point rises no faster than the latched slew and falls no faster than 2 mA/s; a level above the
  latched limit is refused and renews nothing. Sequence, limits and faults are not kept over a power-up; the
  boot count is.
- Impedance is measured with at most 10 uA while there is no current; with current on from voltage and
  current, and not at all below 50 uA.
- REPORT every 20 to 50 ms and at once after any change of state.
- A fault is latched: disarmed until RESET_FAULT.
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
    IDENTITY = 0x81
    ACK = 0x82
    REPORT = 0x83


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


FAULT_NAMES: Final[dict[int, str]] = {
    FaultCode.NONE: "",
    FaultCode.HOST_TIMEOUT: "host_timeout",
    FaultCode.EMERGENCY_BUTTON: "emergency_button",
}


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


class IdentityReply(_Message, frozen=True):
    """Answer to `Identify`."""

    ack_seq: int
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


HostMessage = Identify | Arm | Disarm | SetLevel | Heartbeat | Stop | ResetFault | Query
DeviceMessage = IdentityReply | Ack | Report

_BARE: Final[dict[int, HostMessage]] = {
    Code.IDENTIFY: Identify(),
    Code.DISARM: Disarm(),
    Code.HEARTBEAT: Heartbeat(),
    Code.RESET_FAULT: ResetFault(),
    Code.QUERY: Query(),
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
    payload = _ACK.pack(reply.ack_seq, who.emulator)
    for text in (who.maker, who.model, who.serial_number, who.firmware):
        data = text.encode()
        if len(data) > MAX_TEXT_BYTES:
            raise ValueError(f"{text!r} is longer than {MAX_TEXT_BYTES} bytes")
        payload += bytes([len(data)]) + data
    return payload


def _parse_identity(payload: bytes) -> IdentityReply:
    if len(payload) < _ACK.size:
        raise FrameError("identity is cut short")
    ack_seq, flags = _ACK.unpack_from(payload)
    texts, at = [], _ACK.size
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
    return IdentityReply(ack_seq, who)
