"""An emulated device as a process of its own: model, line, meter file and control channel, turned in real time.

The line, a pty or a server, is a subclass (`devices.mock.pty_rig`, `devices.mock.tcp_rig`), and the device a subclass of that.
"""

from __future__ import annotations

import abc
import errno
import json
import os
import select
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Final, Literal, Protocol

import msgspec

from devices.clock import SystemClock
from devices.mock import faults
from devices.mock.control_channel import Answer, ControlChannel
from devices.mock.electrodes import ElectrodeParameters
from devices.mock.fault_spec import FaultSpec
from devices.mock.meter import Meter, MeterFile
from devices.units import NS_PER_MS, NS_PER_S

WAKE_MS: Final = 2
_STALL_NS: Final = 5 * NS_PER_MS


class ProcessSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the process is told at its start.

    `meter` is the file to write, `link` a name to keep for the pty, `control` a socket path or ``-``,
    `faults` what to inject and when (seconds after the start), `body` the electrodes and the skin under them.
    """

    seed: int = 0
    body: ElectrodeParameters = ElectrodeParameters()
    meter: Path | None = None
    link: Path | None = None
    control: Path | Literal["-"] | None = None
    faults: tuple[faults.Injection, ...] = ()


class PathError(OSError):
    """A path given to the process cannot be used; the text says which and why."""


class EmulatedDevice(Protocol):
    """What turns in the rig: bytes in, bytes out, on a time base of its own."""

    def receive(self, data: bytes, t_ns: int) -> None:
        """Take bytes from the host that have arrived at `t_ns`."""
        ...

    def advance(self, t_ns: int) -> None:
        """Let time run up to `t_ns`."""
        ...

    def take_output(self) -> bytes:
        """Bytes that have left the device up to now."""
        ...

    def inject(self, fault: faults.Injection) -> int:
        """Put a fault in force; returns when, ns."""
        ...

    def clear(self, name: str) -> None:
        """End a fault."""
        ...

    def status(self) -> Answer:
        """What it is and does now, for whoever asks over the control channel."""
        ...


class MeterSink(Protocol):
    """A meter's file."""

    def flush(self) -> None:
        """Hand everything taken so far to the operating system."""
        ...

    def close(self) -> None:
        """Flush and close."""
        ...


class DeviceRig(abc.ABC):
    """The line, the model, the meter file and the control channel, and the loop that turns them.

    Parameters
    ----------
    settings : ProcessSettings
        Seed, paths, faults.
    announce : callable
        Gets the line of JSON that says where the device is, once it answers; and answers to standard input.

    Raises
    ------
    PathError
        If the line, the meter file, the link or the socket cannot be made.
    """

    vocabulary: Mapping[str, FaultSpec]

    def __init__(self, settings: ProcessSettings, announce: Callable[[str], None]) -> None:
        self._settings = settings
        self._announce = announce
        self._clock = SystemClock()
        self._poll = select.poll()
        self._ending = False
        self._unsent = b""
        self._control: ControlChannel | None = None
        self._file: MeterSink | None = None
        self._current_file: MeterFile | None = None
        self._plugged = True
        self.port = self._open_line()
        try:
            if settings.meter is not None:
                self._file = self._open_meter(settings.meter)
            self._make_link()
            if settings.control is not None:
                self._control = ControlChannel(settings.control, self._poll, announce, self._obey)
        except OSError as error:
            self.close()
            raise PathError(
                f"{error.filename or error.args[0]}: {error.strerror or 'cannot be used'}"
            ) from error
        self._start_ns = self._last_ns = self._clock.now_ns()
        self._model = self._make_model(Meter(self._start_ns, self._current_file))
        for fault in settings.faults:
            self._model.inject(fault)

    # ---- what a subclass says

    @abc.abstractmethod
    def _open_line(self) -> str:
        """Get hold of the line; returns what goes into ``device.port``. Raises PathError."""

    @abc.abstractmethod
    def _close_line(self) -> None:
        """Let go of the line; called once."""

    @abc.abstractmethod
    def _read_host(self, ready: list[int]) -> bytes:
        """What the host has sent; `ready` are the descriptors with something to read."""

    @abc.abstractmethod
    def _write_host(self) -> None:
        """Take what the model sent, and send on what the line takes."""

    @abc.abstractmethod
    def _make_model(self, meter: Meter) -> EmulatedDevice:
        """The device, at time `_start_ns`."""

    def _open_meter(self, path: Path) -> MeterSink:
        """The meter's file; a device that makes no current has another kind. Raises OSError."""
        self._current_file = MeterFile(path)
        return self._current_file

    # ---- the loop

    def serve(self) -> None:
        """Step the device in real time until told to end."""
        wake_r, wake_w = os.pipe()
        os.set_blocking(wake_w, False)
        self._poll.register(wake_r, select.POLLIN)
        before = {sig: signal.signal(sig, self._on_signal) for sig in (signal.SIGTERM, signal.SIGINT)}
        old_wake = signal.set_wakeup_fd(wake_w)
        self._announce(json.dumps(self._whereabouts()))
        try:
            while not self._ending:
                self._turn()
        finally:
            signal.set_wakeup_fd(old_wake)
            for sig, handler in before.items():
                signal.signal(sig, handler)
            os.close(wake_r)
            os.close(wake_w)

    def close(self) -> None:
        """Let go of everything; the link and the socket are removed, the meter file stays."""
        if self._control is not None:
            self._control.close()
            self._control = None
        link = self._settings.link
        if link is not None and link.is_symlink() and str(link.readlink()) == self.port:
            link.unlink()
        if self._file is not None:
            self._file.close()
            self._file = None
        self._unplug()

    def _unplug(self) -> None:
        if self._plugged:
            self._plugged = False
            self._close_line()

    def _turn(self) -> None:
        ready = [descriptor for descriptor, _ in self._poll.poll(WAKE_MS)]
        data = self._read_host(ready) if self._plugged else b""
        now_ns = self._clock.now_ns()
        self._deliver(data, now_ns)
        self._model.advance(now_ns)
        self._last_ns = now_ns
        self._write_host()
        if self._control is not None:
            self._control.serve(ready)
            self._ending = self._ending or self._control.ended
        if self._file is not None:
            self._file.flush()

    def _deliver(self, data: bytes, now_ns: int) -> None:
        # Bytes that waited while this process was not scheduled are spread over the wait: a real device would
        # have heard them as they came, and is neither to trip nor to be spared by our lateness.
        wait_ns = now_ns - self._last_ns
        if not data or wait_ns <= _STALL_NS:
            if data:
                self._model.receive(data, now_ns)
            return
        slices = min(len(data), wait_ns // NS_PER_MS)
        for index in range(slices):
            part = data[index * len(data) // slices : (index + 1) * len(data) // slices]
            self._model.receive(part, self._last_ns + wait_ns * (index + 1) // slices)

    def _whereabouts(self) -> Answer:
        given = self._settings
        return {
            "port": self.port,
            "link": None if given.link is None else str(given.link),
            "meter": None if given.meter is None else str(given.meter),
            "control": None if given.control is None else str(given.control),
            "pid": os.getpid(),
            "t_ns": self._start_ns,
        }

    def _make_link(self) -> None:
        link = self._settings.link
        if link is None:
            return
        if link.is_symlink():
            link.unlink()
        elif link.exists():
            raise FileExistsError(errno.EEXIST, "exists and is no link; choose another name", str(link))
        link.symlink_to(self.port)

    # ---- control

    def _obey(self, line: str) -> Answer:
        word, _, rest = line.partition(" ")
        try:
            match word:
                case "inject":
                    fault = faults.parse(rest, self.vocabulary)
                    return {"ok": True, "fault": fault.spec.name, "t_ns": self._model.inject(fault)}
                case "clear":
                    self._model.clear(rest.strip())
                    return {"ok": True, "t_ns": self._last_ns}
                case "status":
                    return self._status()
                case "unplug":
                    self._unplug()
                    return {"ok": True, "t_ns": self._last_ns}
                case "quit":
                    self._ending = True
                    return {"ok": True, "t_ns": self._last_ns}
        except faults.FaultError as error:
            return {"ok": False, "error": str(error)}
        return {
            "ok": False,
            "error": f"{word!r} is no command; the commands are: inject, clear, status, unplug, quit",
        }

    def _status(self) -> Answer:
        uptime_s = (self._last_ns - self._start_ns) / NS_PER_S
        return {"ok": True, "t_ns": self._last_ns, "uptime_s": uptime_s, **self._model.status()}

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._ending = True
