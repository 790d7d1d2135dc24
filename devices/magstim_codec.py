"""The bytes of a Magstim Rapid² on its serial line: commands out, replies in. Pure.

9600 baud, 8N1. A command is ASCII and one checksum byte, the inverted low byte of the sum. The reply repeats the command's
letter, then status, data and checksum; its length depends on the command and on the firmware (7.0 and 9.0 made replies longer).
``?`` alone is no such command, ``X?`` bad data and ``XS`` a conflict with the unit's present state, both with checksum. Facts
from public descriptions of the protocol; where those differ the strict reading is taken, and a surprise is an error.
"""

from __future__ import annotations

import re
from typing import Final, Literal

import msgspec

MAX_REPLY_BYTES: Final = 80
MAX_CODE: Final = 32
"""Longest unlock code."""
EMULATOR_WORD: Final = "cereloop emulator"
"""What an emulator says behind its version; no real unit does."""
LONG_VERSION: Final = (9, 0, 0)
_MIDDLE_VERSION: Final = (7, 0, 0)

Version = tuple[int, int, int]
Answer = Literal["done", "unknown", "bad_data", "conflict"]


class MagstimCodecError(ValueError):
    """Bytes that are no reply to what was asked, or a number that no command can carry; the text says which."""


class Command(msgspec.Struct, frozen=True):
    """One command without its checksum, and how many bytes the whole reply has; 0 where a zero byte ends it."""

    body: bytes
    reply_bytes: int

    @property
    def letter(self) -> int:
        """What the reply begins with."""
        return self.body[0]

    @property
    def packet(self) -> bytes:
        """The bytes on the line."""
        return self.body + bytes((checksum(self.body),))


class Reply(msgspec.Struct, frozen=True):
    """A whole reply: what the unit says to the command, and what stands between letter and checksum."""

    answer: Answer
    data: bytes = b""


class Instrument(msgspec.Struct, frozen=True):
    """The first status byte, bits 0 to 7."""

    standby: bool
    armed: bool
    ready: bool
    coil_present: bool
    replace_coil: bool
    error_present: bool
    error_type: bool
    remote: bool

    @property
    def byte(self) -> int:
        """Back to the byte."""
        return sum(bit << index for index, bit in enumerate(msgspec.structs.astuple(self)))


class Rapid(msgspec.Struct, frozen=True):
    """The second status byte, bits 0 to 7."""

    enhanced_power: bool
    train: bool
    wait: bool
    single_pulse: bool
    hvpsu_connected: bool
    coil_ready: bool
    theta_psu: bool
    modified_coil: bool

    @property
    def byte(self) -> int:
        """Back to the byte."""
        return sum(bit << index for index, bit in enumerate(msgspec.structs.astuple(self)))


class Parameters(msgspec.Struct, frozen=True):
    r"""Reply to ``\@``: both status bytes and what is set; frequency in tenths of Hz, times in tenths of a second."""

    instrument: Instrument
    rapid: Rapid
    power_percent: int
    tenth_hz: int
    pulses: int
    duration_tenths: int
    wait_tenths: int


REMOTE_OFF: Final = Command(b"R@", 3)
DISARM: Final = Command(b"EA", 3)
ARM: Final = Command(b"EB", 3)
FIRE: Final = Command(b"EH", 3)
TEMPERATURE: Final = Command(b"F@", 9)
VERSION: Final = Command(b"ND", 0)


def checksum(body: bytes | bytearray) -> int:
    """The inverted low byte of the sum."""
    return ~sum(body) & 0xFF


def remote_on(unlock_code: str = "") -> Command:
    """Take remote control, and keep it: the same command is the sign of life. Firmware 9 wants the unit's unlock code.

    Raises
    ------
    MagstimCodecError
        If the code holds anything but letters and digits.
    """
    if len(unlock_code) > MAX_CODE or not re.fullmatch(r"[A-Za-z0-9]*", unlock_code):
        raise MagstimCodecError(f"an unlock code is at most {MAX_CODE} letters and digits")
    return Command(b"Q" + (unlock_code.encode() or b"@"), 3)


def power(percent: int) -> Command:
    """Set the intensity, 0 to 100 percent of the greatest output."""
    return Command(b"@" + _digits("an intensity", percent, 3, 100), 3)


def frequency(tenth_hz: int) -> Command:
    """Set the rate of a train, in tenths of Hz."""
    return Command(b"B" + _digits("a frequency", tenth_hz, 4, 1000), 4)


def pulses(version: Version, count: int) -> Command:
    """Set how many pulses a train has."""
    return Command(b"D" + _digits("a number of pulses", count, 5 if version >= LONG_VERSION else 4, 6000), 4)


def duration(version: Version, tenths: int) -> Command:
    """Set how long a train lasts, in tenths of a second; 0 leaves repetitive mode for single pulses."""
    is_long = version >= LONG_VERSION
    return Command(b"[" + _digits("a duration", tenths, 4 if is_long else 3, 6000 if is_long else 999), 4)


def parameters(version: Version) -> Command:
    """Ask for both status bytes and what is set."""
    return Command(b"\\@", 24 if version >= LONG_VERSION else 22 if version >= _MIDDLE_VERSION else 21)


def take(buffer: bytes, asked: Command) -> tuple[Reply | None, bytes]:
    """Take the reply to `asked` off the front of what has arrived.

    Returns
    -------
    reply : Reply or None
        None while it is not whole.
    rest : bytes
        What stands behind it.

    Raises
    ------
    MagstimCodecError
        If what has arrived is no reply to that command: another letter, a wrong checksum, or no end.
    """
    if not buffer:
        return None, buffer
    if buffer[:1] == b"?":
        return Reply("unknown"), buffer[1:]
    if buffer[0] != asked.letter:
        raise MagstimCodecError(f"a reply begins with {buffer[:1]!r} where one to {asked.body[:1]!r} was due")
    refusals: dict[bytes, Answer] = {b"?": "bad_data", b"S": "conflict"}
    refusal = refusals.get(buffer[1:2])
    if refusal is not None and asked.reply_bytes:
        if len(buffer) < 3:
            return None, buffer
        _check(buffer[:3])
        return Reply(refusal), buffer[3:]
    length = asked.reply_bytes or _terminated(buffer)
    if not length or len(buffer) < length:
        return None, buffer
    _check(buffer[:length])
    return Reply("done", buffer[1 : length - 1]), buffer[length:]


def read_version(reply: Reply) -> tuple[Version, bool]:
    """Firmware, and whether an emulator answers.

    Raises
    ------
    MagstimCodecError
        If no version stands there.
    """
    text = reply.data.rstrip(b"\0").decode("ascii", "replace").strip()
    number, _, rest = text.partition(" ")
    parts = number.split(".") if "." in number else list(number)
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() and len(part) <= 3 for part in parts):
        raise MagstimCodecError(f"{text[:40]!r} is no firmware version")
    return (int(parts[0]), int(parts[1]), int(parts[2])), rest.strip() == EMULATOR_WORD


def read_instrument(reply: Reply) -> Instrument:
    """The status byte that nearly every reply begins with. Raises MagstimCodecError."""
    if not reply.data:
        raise MagstimCodecError("a reply without its status byte")
    return instrument_of(reply.data[0])


def instrument_of(byte: int) -> Instrument:
    """Bits of the first status byte."""
    return Instrument(*(bool(byte >> index & 1) for index in range(8)))


def rapid_of(byte: int) -> Rapid:
    """Bits of the second status byte."""
    return Rapid(*(bool(byte >> index & 1) for index in range(8)))


def read_temperature(reply: Reply) -> tuple[float, float]:
    """Temperatures of the coil's two windings, degrees Celsius. Raises MagstimCodecError."""
    data = reply.data
    if len(data) != 7:
        raise MagstimCodecError(f"a temperature of {len(data)} bytes")
    return _number(data[1:4]) / 10.0, _number(data[4:7]) / 10.0


def read_parameters(version: Version, reply: Reply) -> Parameters:
    """Both status bytes and the settings. Raises MagstimCodecError."""
    data = reply.data
    if len(data) != parameters(version).reply_bytes - 2:
        raise MagstimCodecError(f"parameters of {len(data)} bytes")
    count = 5 if version >= LONG_VERSION else 4
    tenths = 4 if version >= LONG_VERSION else 3
    widths = (3, 4, count, tenths, len(data) - 2 - 7 - count - tenths)
    numbers, at = [], 2
    for width in widths:
        numbers.append(_number(data[at : at + width]))
        at += width
    return Parameters(instrument_of(data[0]), rapid_of(data[1]), *numbers)


def _digits(what: str, value: int, width: int, most: int) -> bytes:
    if not 0 <= value <= most:
        raise MagstimCodecError(f"{what} of {value} is outside 0 .. {most}")
    return f"{value:0{width}d}".encode()


def _number(data: bytes) -> int:
    if not data.isdigit():
        raise MagstimCodecError(f"{data!r} is no number")
    return int(data)


def _terminated(buffer: bytes) -> int:
    """Length of a reply that ends with a zero byte and the checksum; 0 while it is not whole."""
    end = buffer.find(b"\0", 1, MAX_REPLY_BYTES)
    if end < 0 and len(buffer) >= MAX_REPLY_BYTES:
        raise MagstimCodecError(f"a reply without an end in {MAX_REPLY_BYTES} bytes")
    return end + 2 if end > 0 else 0


def _check(packet: bytes) -> None:
    if checksum(packet[:-1]) != packet[-1]:
        raise MagstimCodecError(f"a reply with a wrong checksum: {packet.hex(' ')}")
