"""Frames of the reference serial protocol, to bytes and back, through any damage; see `devices.refproto`."""

from __future__ import annotations

import binascii
import struct
from typing import Final

import msgspec

SYNC: Final = b"\xc5\x3e"
VERSION: Final = 1
HEADER_BYTES: Final = 9
CRC_BYTES: Final = 2
MAX_HOST_PAYLOAD: Final = 8
MAX_DEVICE_PAYLOAD: Final = 160
MAX_SEQ: Final = 2**32 - 1

_SLICE_BYTES: Final = 1024
_HEAD: Final = struct.Struct("<2sBBIB")


class Frame(msgspec.Struct, frozen=True, gc=False):
    """A frame whose checksum is right; what is in it has not been judged yet."""

    seq: int
    command: int
    payload: bytes


def crc16(data: bytes | bytearray) -> int:
    """CRC-16/CCITT-FALSE of `data`."""
    return binascii.crc_hqx(data, 0xFFFF)


def frame_bytes(seq: int, command: int, payload: bytes = b"") -> bytes:
    """Bytes of one frame.

    Parameters
    ----------
    seq : int
        The sender's number for it, 1 .. 2**32 - 1.
    command : int
        Command byte.
    payload : bytes
        At most 160 bytes.
    """
    body = _HEAD.pack(SYNC, VERSION, len(payload), seq, command) + payload
    return body + crc16(body[2:]).to_bytes(CRC_BYTES, "little")


class Decoder:
    """Finds frames in any bytes, however they are cut; never raises, and holds less than 1.3 kB.

    After damage it looks for the next sync inside the bytes it distrusts, so a good frame behind a bad one
    survives.

    Parameters
    ----------
    max_payload : int
        Longest payload to accept, bytes. A device passes `MAX_HOST_PAYLOAD`: then a false header cannot hold
        back a STOP by more than two frames.

    Attributes
    ----------
    bad_checksum, overlong, bad_version : int
        Headers found whose frame was rejected, by cause.
    skipped : int
        Bytes that belonged to no good frame.
    other_version : int or None
        Version of the newest frame that is sound but for its version.
    """

    def __init__(self, max_payload: int = MAX_DEVICE_PAYLOAD) -> None:
        self.bad_checksum = 0
        self.overlong = 0
        self.bad_version = 0
        self.skipped = 0
        self.other_version: int | None = None
        self._max_payload = max_payload
        self._buffer = bytearray()

    @property
    def corrupt(self) -> int:
        """Frames rejected so far, for whatever cause."""
        return self.bad_checksum + self.overlong + self.bad_version

    @property
    def pending(self) -> int:
        """Bytes held back because their frame is not complete."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        """Take more bytes; return the good frames completed by them, oldest first."""
        frames: list[Frame] = []
        for start in range(0, len(data), _SLICE_BYTES):
            self._buffer += data[start : start + _SLICE_BYTES]
            self._drain(frames)
        return frames

    def _drain(self, frames: list[Frame]) -> None:
        buffer, at = self._buffer, 0
        while True:
            found = buffer.find(SYNC, at)
            if found < 0:
                found = len(buffer) - (1 if buffer.endswith(SYNC[:1]) and at < len(buffer) else 0)
            self.skipped += found - at
            at = found
            if len(buffer) - at < HEADER_BYTES:
                break
            length = buffer[at + 3]
            end = at + HEADER_BYTES + length + CRC_BYTES
            if buffer[at + 2] != VERSION:
                self.bad_version += 1
                if end <= len(buffer) and _sound(buffer, at, end):
                    self.other_version = buffer[at + 2]
            elif length > self._max_payload:
                self.overlong += 1
            elif end > len(buffer):
                break
            elif not _sound(buffer, at, end):
                self.bad_checksum += 1
            else:
                _, _, _, seq, command = _HEAD.unpack_from(buffer, at)
                frames.append(Frame(seq, command, bytes(buffer[at + HEADER_BYTES : end - CRC_BYTES])))
                at = end
                continue
            self.skipped += len(SYNC)
            at += len(SYNC)
        del buffer[:at]


def _sound(buffer: bytearray, at: int, end: int) -> bool:
    return crc16(buffer[at + 2 : end - CRC_BYTES]) == int.from_bytes(buffer[end - CRC_BYTES : end], "little")
