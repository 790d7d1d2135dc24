"""LabJack T-series registers and their Modbus TCP frames: the pure codec, both ways.

Addresses and meanings from LabJack's published register map (ljm_constants.json) and T-series data sheet; 32-bit values take
two registers, the high word first, which the register TEST shows at every start. pymodbus makes and reads the protocol data
units and their headers.
"""

from __future__ import annotations

import math
import struct
from typing import Final, Literal, NamedTuple

from pymodbus.exceptions import ModbusException
from pymodbus.framer import FramerSocket
from pymodbus.pdu import DecodePDU, ExceptionResponse, ModbusPDU
from pymodbus.pdu.register_message import (
    ReadHoldingRegistersRequest,
    ReadHoldingRegistersResponse,
    WriteMultipleRegistersRequest,
    WriteMultipleRegistersResponse,
)

UNIT: Final = 1
MAX_FRAME_BYTES: Final = 260
TEST_VALUE: Final = 0x00112233
MAX_TRANSACTION: Final = 0xFFFF
_HEADER_BYTES: Final = 6


class Register(NamedTuple):
    """A 32-bit register: first address, name, and type."""

    address: int
    name: str
    kind: Literal["f32", "u32"]


AIN0: Final = Register(0, "AIN0", "f32")
AIN1: Final = Register(2, "AIN1", "f32")
DAC0: Final = Register(1000, "DAC0", "f32")
TEST: Final = Register(55100, "TEST", "u32")
PRODUCT_ID: Final = Register(60000, "PRODUCT_ID", "f32")
FIRMWARE_VERSION: Final = Register(60004, "FIRMWARE_VERSION", "f32")
SERIAL_NUMBER: Final = Register(60028, "SERIAL_NUMBER", "u32")
WATCHDOG_ENABLE: Final = Register(61600, "WATCHDOG_ENABLE_DEFAULT", "u32")
WATCHDOG_ADVANCED: Final = Register(61602, "WATCHDOG_ADVANCED_DEFAULT", "u32")
WATCHDOG_TIMEOUT_S: Final = Register(61604, "WATCHDOG_TIMEOUT_S_DEFAULT", "u32")
WATCHDOG_STARTUP_S: Final = Register(61606, "WATCHDOG_STARTUP_DELAY_S_DEFAULT", "u32")
WATCHDOG_STRICT: Final = Register(61610, "WATCHDOG_STRICT_ENABLE_DEFAULT", "u32")
WATCHDOG_KEY: Final = Register(61612, "WATCHDOG_STRICT_KEY_DEFAULT", "u32")
WATCHDOG_CLEAR: Final = Register(61614, "WATCHDOG_STRICT_CLEAR", "u32")
WATCHDOG_RESET: Final = Register(61620, "WATCHDOG_RESET_ENABLE_DEFAULT", "u32")
WATCHDOG_DAC0: Final = Register(61640, "WATCHDOG_DAC0_ENABLE_DEFAULT", "u32")
WATCHDOG_DAC0_V: Final = Register(61642, "WATCHDOG_DAC0_DEFAULT", "f32")

ALL: Final = (
    AIN0, AIN1, DAC0, TEST, PRODUCT_ID, FIRMWARE_VERSION, SERIAL_NUMBER, WATCHDOG_ENABLE, WATCHDOG_ADVANCED,
    WATCHDOG_TIMEOUT_S, WATCHDOG_STARTUP_S, WATCHDOG_STRICT, WATCHDOG_KEY, WATCHDOG_CLEAR, WATCHDOG_RESET, WATCHDOG_DAC0,
    WATCHDOG_DAC0_V,
)  # fmt: skip
BY_ADDRESS: Final = {register.address: register for register in ALL}


class RegisterError(ValueError):
    """Bytes that are no Modbus TCP frame of this use, or a value that a register cannot hold."""


class Reply(NamedTuple):
    """What came back for a transaction: registers read, nothing for a write, or the exception's code."""

    transaction: int
    registers: tuple[int, ...]
    exception: int = 0


class Request(NamedTuple):
    """What a host asks: `n` registers of 16 bits to read, or values to write (`values`), from `address` on."""

    transaction: int
    unit: int
    function: int
    address: int
    n: int
    values: tuple[int, ...]


def words_of(register: Register, value: float) -> tuple[int, int]:
    """A value as two registers.

    Raises
    ------
    RegisterError
        If the register cannot hold it; a float must be finite.
    """
    try:
        if register.kind == "f32":
            if not math.isfinite(value):
                raise RegisterError(f"{register.name}: {value} is no finite number")
            raw = struct.pack(">f", value)
        else:
            raw = struct.pack(">I", int(value))
    except (struct.error, OverflowError) as error:
        raise RegisterError(f"{register.name}: {value} does not fit") from error
    high, low = struct.unpack(">HH", raw)
    return high, low


def value_of(register: Register, words: tuple[int, ...]) -> float:
    """The value in two registers; raises RegisterError where it is no finite number."""
    if len(words) != 2:
        raise RegisterError(f"{register.name}: {len(words)} words where 2 belong")
    raw = struct.pack(">HH", *words)
    value: float = struct.unpack(">f" if register.kind == "f32" else ">I", raw)[0]
    if not math.isfinite(value):
        raise RegisterError(f"{register.name} reads {value}")
    return value


def read_frame(transaction: int, first: Register, n: int = 1) -> bytes:
    """Frame that reads `n` neighbouring 32-bit registers."""
    request = ReadHoldingRegistersRequest(
        address=first.address, count=2 * n, dev_id=UNIT, transaction_id=transaction & MAX_TRANSACTION
    )
    return _FRAMER.buildFrame(request)


def write_frame(transaction: int, register: Register, value: float) -> bytes:
    """Frame that writes one 32-bit register. Raises RegisterError."""
    words = list(words_of(register, value))
    request = WriteMultipleRegistersRequest(
        address=register.address, registers=words, dev_id=UNIT, transaction_id=transaction & MAX_TRANSACTION
    )
    return _FRAMER.buildFrame(request)


def reply_frame(request: Request, words: tuple[int, ...] = (), exception: int = 0) -> bytes:
    """A server's answer to a request."""
    answer: ModbusPDU
    if exception:
        answer = ExceptionResponse(request.function, exception)
    elif request.values:
        answer = WriteMultipleRegistersResponse(address=request.address, count=len(request.values))
    else:
        answer = ReadHoldingRegistersResponse(registers=list(words))
    answer.dev_id, answer.transaction_id = request.unit, request.transaction
    return _FRAMER.buildFrame(answer)


class _Frames:
    """Cuts a stream into frames; memory stays below two of them."""

    def __init__(self, decoder: DecodePDU) -> None:
        self._decoder = decoder
        self._buffer = b""

    def feed(self, data: bytes) -> list[tuple[int, int, ModbusPDU]]:
        """All frames that are complete now: transaction, unit, protocol data unit. Raises RegisterError."""
        found: list[tuple[int, int, ModbusPDU]] = []
        self._buffer += data
        while len(self._buffer) >= _HEADER_BYTES:
            transaction, protocol, length = struct.unpack(">HHH", self._buffer[:_HEADER_BYTES])
            if protocol != 0 or not 2 <= length <= MAX_FRAME_BYTES - _HEADER_BYTES:
                self._buffer = b""
                raise RegisterError(f"no Modbus TCP frame: protocol {protocol}, length {length}")
            end = _HEADER_BYTES + length
            if len(self._buffer) < end:
                break
            frame, self._buffer = self._buffer[:end], self._buffer[end:]
            found.append((transaction, frame[6], self._unit(frame[7:])))
        return found

    def _unit(self, body: bytes) -> ModbusPDU:
        try:
            pdu = self._decoder.decode(body) if body else None
        except (ModbusException, ValueError, IndexError, struct.error) as error:
            raise RegisterError(f"a Modbus frame that cannot be read: {error}") from error
        if pdu is None:
            raise RegisterError(f"a Modbus frame of {len(body)} bytes that cannot be read")
        return pdu


class ReplyDecoder:
    """A server's bytes to replies, in the order of their coming."""

    def __init__(self) -> None:
        self._frames = _Frames(DecodePDU(is_server=False))

    def feed(self, data: bytes) -> list[Reply]:
        """Take bytes.

        Raises
        ------
        RegisterError
            If they are no replies to reads and writes; what came with them is dropped.
        """
        replies = []
        for transaction, _, pdu in self._frames.feed(data):
            if isinstance(pdu, ExceptionResponse):
                replies.append(Reply(transaction, (), max(1, pdu.exception_code)))
            elif isinstance(pdu, ReadHoldingRegistersResponse):
                replies.append(Reply(transaction, tuple(pdu.registers)))
            elif isinstance(pdu, WriteMultipleRegistersResponse):
                replies.append(Reply(transaction, ()))
            else:
                raise RegisterError(f"a reply of function {pdu.function_code}, which nobody asked for")
        return replies


class RequestDecoder:
    """A host's bytes to requests."""

    def __init__(self) -> None:
        self._frames = _Frames(DecodePDU(is_server=True))

    def feed(self, data: bytes) -> list[Request]:
        """Take bytes. Raises RegisterError where they are no Modbus TCP."""
        requests = []
        for transaction, unit, pdu in self._frames.feed(data):
            values = tuple(pdu.registers) if isinstance(pdu, WriteMultipleRegistersRequest) else ()
            requests.append(Request(transaction, unit, pdu.function_code, pdu.address, pdu.count, values))
        return requests


_FRAMER: Final = FramerSocket(DecodePDU(is_server=False))
