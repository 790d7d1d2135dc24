"""The conversation with a LabJack: what was asked under which transaction, what came back, and its set-up at the start."""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from devices import labjack_registers as reg
from devices.stimulator import DeviceLostError, DeviceNotFoundError, DeviceProtocolError, DeviceRefusedError, Identity
from devices.wires import Wire

ANSWER_S: Final = 1.0
MAX_WAITING: Final = 256
MAX_READS: Final = 16
PRODUCTS: Final = {4: "T4", 7: "T7", 8: "T8"}
# What an emulator's serial number begins with; LabJack's own are six digits and more from 440000000 on.
EMULATED_SERIALS: Final = range(1, 1000)


class Asked(NamedTuple):
    """A request under way: its number (transactions are its last 16 bits), first register, how many, reading or writing."""

    number: int
    register: reg.Register
    n: int
    is_read: bool


class Line:
    """Numbers requests, matches replies, and never blocks but in `exchange`.

    Parameters
    ----------
    wire : Wire
        To the LabJack.

    Attributes
    ----------
    last, heard : int
        Number of the newest request, and of the newest one answered.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.last = self.heard = 0
        self._waiting: deque[Asked] = deque()
        self._unsent = b""
        self._decoder = reg.ReplyDecoder()

    @property
    def name(self) -> str:
        """How an error text calls it."""
        return self._wire.name

    def open(self) -> None:
        """Connect. Raises DeviceNotFoundError."""
        self._wire.open()

    def read(self, register: reg.Register, n: int = 1) -> int:
        """Ask for `n` neighbouring registers; returns the request's number. Raises DeviceLostError."""
        return self._send(Asked(self.last + 1, register, n, is_read=True), reg.read_frame(self.last + 1, register, n))

    def write(self, register: reg.Register, value: float) -> int:
        """Ask to write one register; returns the request's number. Raises DeviceLostError."""
        return self._send(Asked(self.last + 1, register, 1, is_read=False), reg.write_frame(self.last + 1, register, value))

    def waits_for(self, register: reg.Register) -> bool:
        """Whether a write of this register has not been answered."""
        return any(asked.register == register and not asked.is_read for asked in self._waiting)

    def take(self) -> list[tuple[Asked, tuple[int, ...]]]:
        """All answers that have come, in order: the request, and the words read.

        Raises
        ------
        DeviceLostError
            If the connection is closed or broken.
        DeviceProtocolError
            If what came answers nothing that was asked, or is no Modbus.
        DeviceRefusedError
            If the LabJack refused a request.
        """
        self._flush()
        answers: list[tuple[Asked, tuple[int, ...]]] = []
        for _ in range(MAX_READS):
            data = self._wire.read()
            if not data:
                break
            try:
                replies = self._decoder.feed(data)
            except reg.RegisterError as error:
                raise DeviceProtocolError(f"{self.name}: {error}") from error
            answers += [self._match(reply) for reply in replies]
        return answers

    def exchange(self, register: reg.Register, n: int = 1) -> tuple[int, ...]:
        """Read and wait for the answer, one second at most. Raises DeviceError."""
        return self._wait_for(self.read(register, n))

    def put(self, register: reg.Register, value: float) -> None:
        """Write and wait for the answer, one second at most. Raises DeviceError."""
        self._wait_for(self.write(register, value))

    def value(self, register: reg.Register) -> float:
        """One register's value now. Raises DeviceError."""
        try:
            return reg.value_of(register, self.exchange(register))
        except reg.RegisterError as error:
            raise DeviceProtocolError(f"{self.name}: {error}") from error

    def set_up_watchdog(self, key: int, timeout_s: int) -> None:
        """Disabled, strict, DAC0 to 0 V after `timeout_s`. The settings live in flash: only what differs is written."""
        self.put(reg.WATCHDOG_ENABLE, 0)
        wanted = (
            (reg.WATCHDOG_ADVANCED, 0), (reg.WATCHDOG_TIMEOUT_S, timeout_s), (reg.WATCHDOG_STARTUP_S, 0),
            (reg.WATCHDOG_STRICT, 1), (reg.WATCHDOG_KEY, key), (reg.WATCHDOG_RESET, 0), (reg.WATCHDOG_DAC0, 1),
            (reg.WATCHDOG_DAC0_V, 0.0),
        )  # fmt: skip
        for register, value in wanted:
            if self.value(register) != value:
                self.put(register, value)
            if self.value(register) != value:
                raise DeviceRefusedError(f"{self.name}: {register.name} does not take {value:g}: no watchdog to rely on")

    def _send(self, asked: Asked, frame: bytes) -> int:
        if len(self._waiting) >= MAX_WAITING:
            raise DeviceLostError(f"{self.name}: {MAX_WAITING} requests are unanswered; check network and device")
        self.last = asked.number
        self._waiting.append(asked)
        self._unsent += frame
        self._flush()
        return asked.number

    def _flush(self) -> None:
        while self._unsent:
            taken = self._wire.write(self._unsent)
            if not taken:
                return
            self._unsent = self._unsent[taken:]

    def _match(self, reply: reg.Reply) -> tuple[Asked, tuple[int, ...]]:
        """The request that a reply belongs to: answers come in order, so what was asked before is not answered any more."""
        if not any(asked.number & reg.MAX_TRANSACTION == reply.transaction for asked in self._waiting):
            raise DeviceProtocolError(f"{self.name}: wrong acknowledgement, of transaction {reply.transaction}")
        asked = self._waiting.popleft()
        while asked.number & reg.MAX_TRANSACTION != reply.transaction:
            asked = self._waiting.popleft()
        self.heard = asked.number
        if reply.exception:
            verb = "read" if asked.is_read else "written"
            name = asked.register.name
            raise DeviceRefusedError(f"{self.name}: {name} cannot be {verb} (Modbus exception {reply.exception})")
        if len(reply.registers) != (2 * asked.n if asked.is_read else 0):
            raise DeviceProtocolError(f"{self.name}: {len(reply.registers)} words for {asked.register.name}")
        return asked, reply.registers

    def _wait_for(self, number: int) -> tuple[int, ...]:
        left_s = ANSWER_S
        while True:
            for asked, words in self.take():
                if asked.number == number:
                    return words
            if left_s <= 0.0:
                raise DeviceNotFoundError(f"{self.name} can be reached, but does not answer as a T-series LabJack does")
            left_s = self._wire.wait(left_s)


def open_line(line: Line) -> Identity:
    """Connect, set 0 V, and find out who answers.

    Raises
    ------
    DeviceNotFoundError
        If nothing answers there, or something else than a T-series LabJack.
    DeviceLostError
        If the connection breaks meanwhile.
    """
    line.open()
    try:
        line.put(reg.DAC0, 0.0)
        if line.value(reg.TEST) != reg.TEST_VALUE:
            raise DeviceNotFoundError(f"{line.name}: register TEST is not 0x{reg.TEST_VALUE:08x}; this is no T-series LabJack")
        product = PRODUCTS.get(round(line.value(reg.PRODUCT_ID)))
        firmware, serial = line.value(reg.FIRMWARE_VERSION), int(line.value(reg.SERIAL_NUMBER))
    except (DeviceProtocolError, DeviceRefusedError) as error:
        raise DeviceNotFoundError(f"{line.name}: this is no T-series LabJack: {error}") from error
    if product is None:
        raise DeviceNotFoundError(f"{line.name}: PRODUCT_ID is none of T4, T7 and T8")
    emulated = serial in EMULATED_SERIALS
    return Identity(
        maker="LabJack",
        model=f"{product}, emulated" if emulated else product,
        serial_number=str(serial),
        firmware=f"{firmware:.4f}",
        emulator=emulated,
    )
