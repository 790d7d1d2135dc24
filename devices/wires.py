"""What carries a driver's bytes: a serial line or pty, or a mock device in the same process."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import termios
import time
from typing import Final, Literal, Protocol

import serial

from devices.clock import Clock
from devices.stimulator import DeviceLostError, DeviceNotFoundError

BAUD: Final = 115_200


class WiredModel(Protocol):
    """A mock device as a wire sees it."""

    def receive(self, data: bytes, t_ns: int) -> None:
        """Bytes from the host."""
        ...

    def advance(self, t_ns: int) -> None:
        """Let time pass."""
        ...

    def take_output(self) -> bytes:
        """What the device has said."""
        ...


class Wire(Protocol):
    """What carries the bytes. Nothing here blocks but `wait`."""

    @property
    def name(self) -> str:
        """How an error text calls it."""
        ...

    def open(self) -> None:
        """Get hold of the line. Raises DeviceNotFoundError."""
        ...

    def fileno(self) -> int:
        """Descriptor to wait on, -1 if there is none."""
        ...

    def write(self, data: bytes) -> int:
        """Hand over as much of `data` as fits; return how much. Raises DeviceLostError."""
        ...

    def read(self) -> bytes:
        """What has arrived; empty if nothing has. Raises DeviceLostError."""
        ...

    def wait(self, budget_s: float) -> float:
        """Wait at most `budget_s` for something to read; return what is left of it, 0 if nothing came."""
        ...

    def close(self) -> None:
        """Let go of the line. Idempotent, never raises."""
        ...


class SerialWire:
    """A serial line or the path of a pty, held exclusively.

    Parameters
    ----------
    port : str
        Path such as ``/dev/ttyUSB0``.
    baud : int
        Bits a second; 8N1 and no flow control whatever it is.
    rts : {"raised", "low"}
        Where the request-to-send line rests: a device that takes it for a trigger needs it low.
    """

    def __init__(self, port: str, baud: int = BAUD, rts: Literal["raised", "low"] = "raised") -> None:
        self._port = port
        self._baud = baud
        self._rts = rts
        self._serial: serial.Serial | None = None

    @property
    def name(self) -> str:
        """The port's path."""
        return self._port

    def open(self) -> None:
        """Open, locked against others.

        Raises
        ------
        DeviceNotFoundError
            If the path does not exist, may not be opened, is no serial line, or is in use.
        """
        self.close()
        try:
            line = serial.Serial(None, self._baud, timeout=0, write_timeout=0, exclusive=True)
            line.port, line.rts = self._port, self._rts == "raised"
            line.open()
        except (serial.SerialException, ValueError, OSError) as error:
            raise DeviceNotFoundError(self._why(error)) from error
        # Read returns nothing only at a hang-up: without this an empty line and a pulled cable look the same.
        # A USB bridge holds small packets back for 16 ms unless told otherwise; a pty or CDC device knows no such thing.
        with contextlib.suppress(ValueError, OSError, NotImplementedError):
            line.set_low_latency_mode(True)
        attributes = termios.tcgetattr(line.fileno())
        attributes[6][termios.VMIN] = 1
        termios.tcsetattr(line.fileno(), termios.TCSANOW, attributes)
        self._serial = line

    def fileno(self) -> int:
        """The line's descriptor, -1 while closed."""
        return -1 if self._serial is None else int(self._serial.fileno())

    def write(self, data: bytes) -> int:
        """Write without blocking.

        Raises
        ------
        DeviceLostError
            If the line is closed or broken.
        """
        try:
            return os.write(self._descriptor(), data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise self._lost(error) from error

    def read(self) -> bytes:
        """Read without blocking.

        Raises
        ------
        DeviceLostError
            If the line is closed, hung up or broken.
        """
        try:
            data = os.read(self._descriptor(), 4096)
        except (BlockingIOError, InterruptedError):
            return b""
        except OSError as error:
            raise self._lost(error) from error
        if not data:
            raise DeviceLostError(
                f"{self._port}: the line was hung up; check cable and power, then open it again"
            )
        return data

    def wait(self, budget_s: float) -> float:
        """Wait until readable, at most `budget_s`, on the system's clock."""
        start = time.monotonic()
        select.select([self._descriptor()], [], [], budget_s)
        return max(0.0, budget_s - (time.monotonic() - start))

    def close(self) -> None:
        """Close the line."""
        line, self._serial = self._serial, None
        if line is not None:
            with contextlib.suppress(OSError):  # the cable may be out; the descriptor is gone either way
                line.close()

    def _descriptor(self) -> int:
        if self._serial is None:
            raise DeviceLostError(f"{self._port} is not open")
        return int(self._serial.fileno())

    def _lost(self, error: OSError) -> DeviceLostError:
        return DeviceLostError(f"{self._port}: {error.strerror}; check cable and power, then open it again")

    def _why(self, error: Exception) -> str:
        number = getattr(error, "errno", None)
        if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            return f"{self._port} does not exist; check the cable, and `port` in the configuration"
        if number in (errno.EACCES, errno.EPERM):
            return (
                f"{self._port} may not be opened by this user; join the group that owns it (ls -l shows it)"
            )
        if number in (errno.EAGAIN, errno.EBUSY):
            return f"{self._port} is in use by another program; end that program first"
        return f"{self._port} cannot be opened as a serial line: {error}"


class InProcessWire:
    """A mock device in this process, on the clock of the session; for the virtual clock.

    Parameters
    ----------
    model : WiredModel
        The device.
    clock : Clock
        Tells it the time; nothing here moves it.
    """

    def __init__(self, model: WiredModel, clock: Clock) -> None:
        self._model = model
        self._clock = clock

    @property
    def name(self) -> str:
        """Says that this is no hardware."""
        return "the simulated stimulator"

    def open(self) -> None:
        """Drop what was sent before."""
        self.read()

    def fileno(self) -> int:
        """There is none."""
        return -1

    def write(self, data: bytes) -> int:
        """Deliver at the present virtual time."""
        self._model.receive(data, self._clock.now_ns())
        return len(data)

    def read(self) -> bytes:
        """Let the device run up to the present virtual time; take what it sent."""
        self._model.advance(self._clock.now_ns())
        return self._model.take_output()

    def wait(self, budget_s: float) -> float:  # noqa: ARG002 - of the protocol
        """Virtual time does not pass by waiting."""
        return 0.0

    def close(self) -> None:
        """Nothing to let go of."""
