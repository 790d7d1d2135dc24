"""NIC2's remote stimulation protocol as a pure codec: requests to bytes and back, replies from bytes; no socket, no clock.

A request is one opcode byte and, for some, an ASCII string ended by NUL. There is no length, no checksum and no sequence
number, and a reply does not say what it answers: only the order tells. So a reader says what it expects, and takes no more.
Every limit that the vendor's client checks, and the sum of the currents, is checked here before a byte leaves.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final

import msgspec

from devices.nic2_table import Op, OpcodeTable, Reply, Status

MAX_CHANNELS: Final = 32
MAX_CHANNEL_UA: Final = 2000
MIN_TIME_MS: Final = 100
MAX_TIME_MS: Final = 10_000
MAX_PARAMETER_BYTES: Final = 512
MAX_LINE_BYTES: Final = 1024
MAX_PENDING_BYTES: Final = 4096
MAX_OHM: Final = 1e9

_ENDS: Final = b"\x00\n\r"
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,9}")
_OHMS: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{0,12})?([eE][+-]?[0-9]{1,2})?")
_SEPARATORS: Final = re.compile(r"[\s;,]+")


class Nic2CodecError(ValueError):
    """Bytes or values that the protocol does not allow; the text says which and what was expected."""


class Change(msgspec.Struct, frozen=True):
    """`Op.ONLINE_ATDCS_CHANGE`: current of each channel (uA, signed), and how long the way there takes (ms)."""

    currents_ua: tuple[int, ...]
    transition_ms: int


class Peak(msgspec.Struct, frozen=True):
    """`Op.ONLINE_ATDCS_PEAK`: up to the currents (uA, signed), stay, and back to where it began (ms each)."""

    currents_ua: tuple[int, ...]
    up_ms: int
    stay_ms: int
    down_ms: int


class Request(msgspec.Struct, frozen=True):
    """One request as a server reads it; `op` is None where the byte is no opcode of this version."""

    op: Op | None
    text: str = ""


class DeviceSettings(msgspec.Struct, frozen=True):
    """Answer to `Op.READ_DEVICE_SETTINGS`."""

    firmware: str
    address: str
    link: str
    kind: str


# ---- requests


def request(table: OpcodeTable, op: Op, text: str = "") -> bytes:
    """Bytes of a request.

    Raises
    ------
    Nic2CodecError
        If the opcode takes no parameter, lacks one, or the text is too long or not printable ASCII.
    """
    code = bytes([table.opcodes[op]])
    if op not in table.parameters:
        if text:
            raise Nic2CodecError(f"{op.name} takes no parameter, {text[:40]!r} was given")
        return code
    if not text or len(text) > MAX_PARAMETER_BYTES or not (text.isascii() and text.isprintable()):
        raise Nic2CodecError(f"{op.name} needs 1 to {MAX_PARAMETER_BYTES} printable ASCII characters, got {text[:40]!r}")
    return code + text.encode("ascii") + b"\x00"


def hello(table: OpcodeTable) -> bytes:
    """The version handshake."""
    return request(table, Op.VERSION, table.version)


def change(table: OpcodeTable, what: Change) -> bytes:
    """Bytes of an online change. Raises Nic2CodecError if a value is out of range or the currents do not sum to zero."""
    return _online(table, Op.ONLINE_ATDCS_CHANGE, what.currents_ua, (what.transition_ms,))


def peak(table: OpcodeTable, what: Peak) -> bytes:
    """Bytes of a peak, which ends by itself. Raises Nic2CodecError as `change` does."""
    return _online(table, Op.ONLINE_ATDCS_PEAK, what.currents_ua, (what.up_ms, what.stay_ms, what.down_ms))


def _online(table: OpcodeTable, op: Op, currents_ua: tuple[int, ...], times_ms: tuple[int, ...]) -> bytes:
    check_currents(currents_ua)
    for time_ms in times_ms:
        # A boolean or a float would be written as such, and NIC takes what is no integer for no current at all.
        if type(time_ms) is not int or not MIN_TIME_MS <= time_ms <= MAX_TIME_MS:
            raise Nic2CodecError(f"{op.name}: a time of {time_ms!r} ms is no integer in {MIN_TIME_MS} .. {MAX_TIME_MS} ms")
    return request(table, op, ";".join(str(number) for number in (*currents_ua, *times_ms)))


def check_currents(currents_ua: Sequence[int]) -> None:
    """Refuse currents that NIC would misread or that would leave by the reference electrodes.

    Raises
    ------
    Nic2CodecError
        If there are none or too many, one is no integer or too large, or their sum is not exactly zero.
    """
    if not 1 <= len(currents_ua) <= MAX_CHANNELS:
        raise Nic2CodecError(f"{len(currents_ua)} channels; NIC takes 1 to {MAX_CHANNELS}")
    for channel, current in enumerate(currents_ua, start=1):
        if type(current) is not int or not -MAX_CHANNEL_UA <= current <= MAX_CHANNEL_UA:
            raise Nic2CodecError(f"channel {channel}: {current!r} uA is no integer in +-{MAX_CHANNEL_UA} uA")
    if sum(currents_ua) != 0:
        raise Nic2CodecError(f"the currents sum to {sum(currents_ua)} uA, not zero: the rest would leave by DRL and CMS")


def spread(level_ua: int, target: int, returns: Sequence[int], channels: int) -> tuple[int, ...]:
    """Currents of all channels for a level at the target electrode.

    Parameters
    ----------
    level_ua : int
        Signed, uA, at the target.
    target : int
        Channel number, from 1.
    returns : sequence of int
        Channel numbers that share the return in equal parts; the first ones carry what does not divide.
    channels : int
        How many the device has.

    Returns
    -------
    tuple of int
        One a channel, uA; they sum to zero exactly.

    Raises
    ------
    Nic2CodecError
        If a channel does not exist or is named twice, or nothing returns.
    """
    named = [target, *returns]
    if not returns or len(set(named)) != len(named) or not all(1 <= channel <= channels for channel in named):
        raise Nic2CodecError(
            f"target {target} with returns {list(returns)} does not fit {channels} channels: each is named once, from 1"
        )
    currents = [0] * channels
    currents[target - 1] = level_ua
    share, rest = divmod(abs(level_ua), len(returns))
    for i, channel in enumerate(returns):
        size = share + (1 if i < rest else 0)
        currents[channel - 1] = -size if level_ua > 0 else size
    return tuple(currents)


# ---- replies, as a client reads them


class Replies:
    """What has come from NIC and has not been taken yet; bounded.

    Parameters
    ----------
    table : OpcodeTable
        Version agreed on.
    """

    def __init__(self, table: OpcodeTable) -> None:
        self._table = table
        self._bytes = bytearray()

    def __len__(self) -> int:
        return len(self._bytes)

    def feed(self, data: bytes) -> None:
        """Add bytes. Raises Nic2CodecError if more wait than any reply has."""
        if len(self._bytes) + len(data) > MAX_PENDING_BYTES:
            self._bytes.clear()
            raise Nic2CodecError(f"more than {MAX_PENDING_BYTES} bytes that answer nothing")
        self._bytes += data

    def clear(self) -> None:
        """Forget everything."""
        self._bytes.clear()

    def take(self, op: Op) -> Status | int | str | None:
        """The reply to `op`, if it is complete.

        Returns
        -------
        Status, int, str or None
            By `OpcodeTable.reply`: a status, a count, or a line without its end; None if more bytes are needed.

        Raises
        ------
        Nic2CodecError
            If what came cannot be that reply. It is then used up.
        """
        kind = self._table.reply(op)
        if not self._bytes or kind is Reply.NONE:
            return None
        if kind is Reply.LINE:
            return self._line(op)
        byte = self._bytes.pop(0)
        if kind is Reply.COUNT:
            if not 1 <= byte <= MAX_CHANNELS:
                raise Nic2CodecError(f"{op.name} was answered with {byte}; expected 1 to {MAX_CHANNELS} channels")
            return byte
        status = self._table.status(byte)
        if status is None:
            raise Nic2CodecError(
                f"{op.name} was answered with {byte}, which is no status of version {self._table.version}; "
                "this may be another version of NIC"
            )
        return status

    def _line(self, op: Op) -> str | None:
        ends = [at for at in (self._bytes.find(end) for end in b"\n\r\x00") if at >= 0]
        if not ends:
            if len(self._bytes) > MAX_LINE_BYTES:
                self._bytes.clear()
                raise Nic2CodecError(f"{op.name} was answered with a line of more than {MAX_LINE_BYTES} bytes")
            return None
        at = min(ends)
        line = bytes(self._bytes[:at])
        del self._bytes[: at + 1]
        # "\r\n" is one end, not two.
        if self._bytes[:1] == b"\n":
            del self._bytes[:1]
        if len(line) > MAX_LINE_BYTES or not line.isascii():
            raise Nic2CodecError(f"{op.name} was answered with {line[:40]!r}; expected a line of ASCII")
        return line.decode("ascii")


def parse_impedances(line: str, channels: int) -> tuple[float, ...]:
    """Impedances of all channels.

    Parameters
    ----------
    line : str
        Numbers, separated by blanks, tabs, commas or semicolons.
    channels : int
        How many are expected.

    Returns
    -------
    tuple of float
        Ohm; 0 where a channel was not measured, as NIC leaves those to which the protocol gives no current.

    Raises
    ------
    Nic2CodecError
        If their number is wrong or one is no finite number from 0 to 1e9.
    """
    words = [word for word in _SEPARATORS.split(line.strip()[:MAX_LINE_BYTES]) if word]
    if len(words) != channels:
        raise Nic2CodecError(f"GET_IMPEDANCE was answered with {len(words)} numbers; expected {channels}")
    values = []
    for channel, word in enumerate(words, start=1):
        value = float(word) if _OHMS.fullmatch(word) else math.nan
        if not 0.0 <= value <= MAX_OHM:
            raise Nic2CodecError(f"GET_IMPEDANCE: channel {channel} is {word[:40]!r}; expected ohms, 0 to {MAX_OHM:g}")
        values.append(value)
    return tuple(values)


def parse_settings(line: str) -> DeviceSettings:
    """Firmware, address, kind of link and of device, separated by tabs. Raises Nic2CodecError if they are not four."""
    parts = [part.strip() for part in line.split("\t")]
    if len(parts) != 4 or not all(part.isprintable() and len(part) <= 64 for part in parts):
        raise Nic2CodecError(f"READ_DEVICE_SETTINGS was answered with {line[:60]!r}; expected four texts between tabs")
    return DeviceSettings(*parts)


# ---- requests, as a server reads them


class RequestDecoder:
    """Bytes of a client into requests; bounded, and never raises.

    Parameters
    ----------
    table : OpcodeTable
        Version spoken.

    Attributes
    ----------
    overlong : int
        Parameters dropped because they did not end.
    """

    def __init__(self, table: OpcodeTable) -> None:
        self.overlong = 0
        self._table = table
        self._op: Op | None = None
        self._text = bytearray()

    def feed(self, data: bytes) -> list[Request]:
        """Requests that are complete now; an opcode may come long before its parameter does."""
        found = []
        for byte in data:
            if self._op is None:
                op = self._table.op(byte)
                if op in self._table.parameters:
                    self._op = op
                elif op is not None or byte not in _ENDS:
                    found.append(Request(op))
            elif byte in _ENDS:
                found.append(Request(self._op, self._text.decode("ascii", "replace")))
                self._forget()
            elif len(self._text) >= MAX_PARAMETER_BYTES:
                self.overlong += 1
                self._forget()
            else:
                self._text.append(byte)
        return found

    def _forget(self) -> None:
        self._op = None
        self._text.clear()


def parse_numbers(text: str, n: int) -> tuple[int, ...] | None:
    """The `n` integers of an online command, between semicolons; None where one is no integer or their number is wrong."""
    words = text.split(";")
    if len(words) != n or not all(_NUMBER.fullmatch(word) for word in words):
        return None
    return tuple(int(word) for word in words)
