"""The mock stimulator as a process of its own, on a pty in real time; its meter outlives whoever drives it.

    python -m devices.mock.stimulator_process --meter run.meter --link /tmp/stimulator --fault open_circuit@30

It prints one line of JSON (port, link, meter, control, pid, t_ns) when it is ready, and ends on SIGTERM or
SIGINT.

Control, one command a line, one line of JSON back; over the local socket of ``--control PATH``, or over
standard input and output with ``--control -`` (then the end of input ends the process):

    inject NAME[:key=value,...][@SECONDS]    clear NAME    status    unplug    quit

``unplug`` pulls the cable for good: the line hangs up, the device and its meter live on.

Exit codes: 0 ended in order, 2 wrong arguments, 3 a path could not be used.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import pty
import select
import signal
import socket
import sys
import tty
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final, Literal, Protocol

import msgspec

from devices import priority
from devices.clock import SystemClock
from devices.mock import faults, numbers
from devices.mock.electrodes import ElectrodeParameters
from devices.mock.meter import Meter, MeterFile
from devices.mock.stimulator import StimulatorModel
from devices.units import NS_PER_MS, NS_PER_S

FAULTS: Final = faults.FAULTS
WAKE_MS: Final = 2
MAX_CLIENTS: Final = 8
MAX_LINE_BYTES: Final = 1000
_STALL_NS: Final = 5 * NS_PER_MS

Answer = dict[str, Any]


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


def run(settings: ProcessSettings, announce: Callable[[str], None] = print) -> int:
    """Be a stimulator until told to stop.

    Parameters
    ----------
    settings : ProcessSettings
        Seed, paths, faults.
    announce : callable
        Gets the line of JSON that says where the device is, once it answers; and answers to standard input.

    Returns
    -------
    int
        0.

    Raises
    ------
    PathError
        If the meter file, the link or the socket cannot be made.
    """
    rig = Rig(settings, announce)
    try:
        rig.serve()
    finally:
        rig.close()
    return 0


class Model(Protocol):
    """A device that a rig can turn: bytes in, bytes out, time passes, faults begin."""

    def receive(self, data: bytes, t_ns: int) -> None:
        """Bytes from the host."""
        ...

    def advance(self, t_ns: int) -> None:
        """Let time pass."""
        ...

    def take_output(self) -> bytes:
        """What the device has said."""
        ...

    def inject(self, fault: faults.Injection) -> int:
        """Begin a fault; returns when it does, ns."""
        ...

    def clear(self, name: str) -> None:
        """End a fault."""
        ...


class MeterSink(Protocol):
    """A meter's file."""

    def flush(self) -> None:
        """Hand everything taken so far to the operating system."""
        ...

    def close(self) -> None:
        """Flush and close."""
        ...


class Rig:
    """The pty, the model, the meter file and the control channel, and the loop that turns them.

    Another device on a serial line is a subclass that makes another model, and says what its state is.
    """

    known_faults: Mapping[str, faults.FaultSpec] = faults.FAULTS

    def __init__(self, settings: ProcessSettings, announce: Callable[[str], None]) -> None:
        self._settings = settings
        self._announce = announce
        self._clock = SystemClock()
        self._poll = select.poll()
        self._ending = False
        self._unsent = b""
        self._clients: dict[int, tuple[socket.socket | None, bytearray]] = {}
        self._listener: socket.socket | None = None
        self._file: MeterSink | None = None
        # The process keeps its own end of the host's side open: a host that closes then never looks like a
        # hang-up.
        self._master, self._slave = pty.openpty()
        self._plugged = True
        self.port = os.ttyname(self._slave)
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        try:
            self._make_link()
            self._listen()
            self._start_ns = self._last_ns = self._clock.now_ns()
            self._model = self.make_model(self._start_ns)
        except OSError as error:
            self.close()
            raise PathError(
                f"{error.filename or error.args[0]}: {error.strerror or 'cannot be used'}"
            ) from error
        for fault in settings.faults:
            self._model.inject(fault)

    def make_model(self, start_ns: int) -> Model:
        """The device, and the meter's file where one is wanted. Raises OSError."""
        given = self._settings
        file = MeterFile(given.meter) if given.meter is not None else None
        self._file = file
        self._device = StimulatorModel(start_ns, given.seed, given.body, meter=Meter(start_ns, file))
        return self._device

    def state(self) -> Answer:
        """What `status` tells of the device."""
        model = self._device
        return {
            "state": model.firmware.state.name,
            "fault": model.firmware.fault.name.lower(),
            "relay_closed": model.relay_closed,
            "current_ua": model.current_ua,
            "peak_ua": model.meter.peak_ua,
            "charge_uc": model.meter.charge_uc,
            "boot_count": model.boot_count,
            "faults": model.faults.names,
        }

    def serve(self) -> None:
        """Step the device in real time until told to end."""
        self._poll.register(self._master, select.POLLIN)
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
        for client, _ in self._clients.values():
            if client is not None:
                client.close()
        self._clients.clear()
        if self._listener is not None:
            self._listener.close()
            Path(str(self._settings.control)).unlink(missing_ok=True)
            self._listener = None
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
            os.close(self._master)
            os.close(self._slave)

    def _turn(self) -> None:
        ready = [descriptor for descriptor, _ in self._poll.poll(WAKE_MS)]
        data = self._read_host() if self._plugged and self._master in ready else b""
        now_ns = self._clock.now_ns()
        self._deliver(data, now_ns)
        self._model.advance(now_ns)
        self._last_ns = now_ns
        self._write_host()
        for descriptor in ready:
            if self._listener is not None and descriptor == self._listener.fileno():
                self._welcome()
            elif descriptor in self._clients:
                self._hear(descriptor)
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

    # ---- the line

    def _read_host(self) -> bytes:
        try:
            return os.read(self._master, 65_536)
        except BlockingIOError:
            return b""

    def _write_host(self) -> None:
        fresh = self._model.take_output()
        if not self._plugged:
            return
        if not self._unsent:
            self._unsent = fresh
        # else: nobody reads; what is new is lost like on a real line, but the frame under way is finished.
        if self._unsent:
            try:
                self._unsent = self._unsent[os.write(self._master, self._unsent) :]
            except BlockingIOError:
                return

    # ---- control

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

    def _listen(self) -> None:
        control = self._settings.control
        if control is None:
            return
        if control == "-":
            self._add_client(sys.stdin.fileno(), None)
            return
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if Path(control).is_socket():
                Path(control).unlink()
            listener.bind(str(control))
        except OSError as error:
            listener.close()
            raise OSError(error.errno or errno.EINVAL, error.strerror or str(error), str(control)) from error
        listener.listen(MAX_CLIENTS)
        listener.settimeout(0.0)
        self._listener = listener
        self._poll.register(listener.fileno(), select.POLLIN)

    def _add_client(self, descriptor: int, client: socket.socket | None) -> None:
        os.set_blocking(descriptor, False)
        self._clients[descriptor] = (client, bytearray())
        self._poll.register(descriptor, select.POLLIN)

    def _welcome(self) -> None:
        assert self._listener is not None
        client, _ = self._listener.accept()
        if len(self._clients) >= MAX_CLIENTS:
            client.close()
            return
        self._add_client(client.fileno(), client)

    def _hear(self, descriptor: int) -> None:
        client, line = self._clients[descriptor]
        try:
            data = os.read(descriptor, 4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        line += data
        while b"\n" in line:
            text, _, rest = bytes(line).partition(b"\n")
            line[:] = rest
            self._reply(client, self._obey(text.decode(errors="replace").strip()))
        if data and len(line) <= MAX_LINE_BYTES:
            return
        self._poll.unregister(descriptor)
        del self._clients[descriptor]
        if client is None:
            self._ending = True
        else:
            client.close()

    def _reply(self, client: socket.socket | None, answer: Answer) -> None:
        text = json.dumps(answer)
        if client is None:
            self._announce(text)
            return
        with contextlib.suppress(OSError):  # who asked may be gone: the fault is in force all the same
            client.sendall(text.encode() + b"\n")

    def _obey(self, line: str) -> Answer:
        word, _, rest = line.partition(" ")
        try:
            match word:
                case "inject":
                    fault = faults.parse(rest, self.known_faults)
                    return {"ok": True, "fault": fault.spec.name, "t_ns": self._model.inject(fault)}
                case "clear":
                    self._model.clear(rest.strip())
                    return {"ok": True, "t_ns": self._last_ns}
                case "status":
                    return self._status()
                case "unplug":
                    if self._plugged:
                        self._poll.unregister(self._master)
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
        return {"ok": True, "t_ns": self._last_ns, "uptime_s": uptime_s, **self.state()}

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._ending = True


def _print_line(text: str) -> None:
    print(text, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the process; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m devices.mock.stimulator_process",
        description="A stimulator that speaks the reference serial protocol, with a body and a meter.",
        epilog="example: --meter run.meter --link /tmp/stimulator --fault over_current:extra_ua=300@12.5",
    )
    parser.add_argument("--meter", type=Path, metavar="FILE", help="write what truly flows to this file")
    parser.add_argument("--link", type=Path, metavar="PATH", help="make a link of this name to the pty")
    parser.add_argument(
        "--control", metavar="PATH", help="listen on this local socket; '-' takes standard input"
    )
    parser.add_argument("--seed", type=int, default=0, help="draws errors, latencies and noise (default 0)")
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="NAME[:key=value,...][@SECONDS]",
        help="inject a fault SECONDS after the start, at once without; may be given more than once",
    )
    parser.add_argument(
        "--electrodes",
        default=numbers.DEFAULT_PAIR,
        metavar="NAME[:key=value,...]",
        help=f"the pair and its numbers: {', '.join(numbers.pairs())} (default {numbers.DEFAULT_PAIR})",
    )
    given = parser.parse_args(arguments)
    try:
        chosen = tuple(faults.parse(text) for text in given.fault)
        body = ElectrodeParameters.named(given.electrodes)
    except (faults.FaultError, numbers.NumberError) as error:
        parser.error(str(error))
    control = given.control if given.control in (None, "-") else Path(given.control)
    settings = ProcessSettings(
        seed=given.seed, body=body, meter=given.meter, link=given.link, control=control, faults=chosen
    )
    try:
        priority.claim_processor(priority.HARDWARE)
        return run(settings, _print_line)
    except PathError as error:
        print(error.args[0], file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main())
