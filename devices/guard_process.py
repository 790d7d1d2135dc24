"""The guard as a process: opens the device at zero, serves one engine, and ends at zero however it ends (I09).

Run as ``python -m devices.guard_process --settings FILE --socket PATH [--log FILE]``.

Exit codes: 0 ended by the engine's goodbye, at zero; 2 refused to start (one sentence says why); 3 the engine had gone
or a signal asked, at zero; 4 zero could not be confirmed; 70 a defect in the guard, the device was cut.
SIGTERM and SIGHUP mean an abort ramp, then the end; SIGINT (Ctrl-C in the terminal) is the engine's to handle.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import os
import select
import selectors
import signal
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from devices import link, priority
from devices.clock import Clock, SystemClock
from devices.dose_book import DoseBookError, ThreadClerk
from devices.guard_shell import GuardShell
from devices.guard_start import StartError, open_core, read_settings
from devices.guard_state import TICK_NS, ExitCode
from devices.ledger_book import LedgerBook
from devices.link_server import GuardRunningError, LinkServer, Peer
from devices.link_socket import RuntimeDirectoryError
from devices.units import NS_PER_S

ENGINE_WAIT_NS: Final = 60 * NS_PER_S
APART_SUFFIX: Final = ".dose.sqlite"
"""Ending of an emulator's own ledger, beside the guard's socket."""
_MCL_CURRENT: Final = 1


class Log:
    """One line a change of state, written only while no current flows, and only where writing cannot block.

    Parameters
    ----------
    fd : int
        Where to; not closed here.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lines: deque[str] = deque(maxlen=1000)
        self._last = ""

    def note(self, t_ns: int, report: link.Report) -> None:
        """Remember the state, if it differs from the one before."""
        said = f"{report.phase}: {report.reason}"
        if said != self._last:
            self._last = said
            self._lines.append(f"{t_ns / NS_PER_S:.3f} {said} ({_amount(report)})")

    def flush(self) -> None:
        """Write what has gathered; call only at rest."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while self._lines and poll.poll(0):
            line = self._lines.popleft()
            try:
                os.write(self._fd, f"{line}\n".encode()[:4000])
            except OSError:
                return


def _amount(report: link.Report) -> str:
    if report.pulses or report.intensity_percent:
        return f"{report.intensity_percent} %, {report.pulses} pulses"
    return f"{report.level_ua} uA, {report.charge_uc} uC"


class GuardLoop:
    """The event loop: device, socket, ticks and signals, in that order of urgency.

    Parameters
    ----------
    core : GuardShell
        Decides and acts.
    server : LinkServer
        Already listening.
    log : Log
        For changes of state.
    clock : Clock
        The lease clock.
    """

    def __init__(self, core: GuardShell, server: LinkServer, log: Log, clock: Clock) -> None:
        self._core = core
        self._server = server
        self._log = log
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        self._selector.register(server, selectors.EVENT_READ, self._accept)
        self._device_fd = core.device_fileno()
        if self._device_fd >= 0:
            self._selector.register(self._device_fd, selectors.EVENT_READ, self._device)
        self._terminate = False
        self._met_engine = False

    def ask_to_end(self, _signal: int, _frame: FrameType | None) -> None:
        """Signal handler: abort ramp, then the end."""
        self._terminate = True

    def run(self) -> ExitCode:
        """Serve until the decision part says that it is over."""
        core, clock = self._core, self._clock
        start_ns = next_ns = clock.now_ns()
        while core.exit_code is None:
            wait_ns = next_ns - clock.now_ns()
            for key, _ in self._selector.select(max(0.0, wait_ns / NS_PER_S)):
                key.data(key.fileobj)
            now_ns = clock.now_ns()
            if self._terminate:
                self._terminate = False
                self._send(now_ns, core.terminate(now_ns))
            if now_ns >= next_ns:
                self._send(now_ns, core.tick(now_ns))
                next_ns = max(next_ns + TICK_NS, now_ns + TICK_NS // 2)
                self._housekeeping(now_ns, start_ns)
        return core.exit_code

    def close(self) -> None:
        """Let go of the selector."""
        self._selector.close()

    def _housekeeping(self, now_ns: int, start_ns: int) -> None:
        core = self._core
        for peer in self._server.expired(now_ns):
            self._drop(peer)
        if not self._met_engine and now_ns - start_ns > ENGINE_WAIT_NS:
            self._met_engine = True
            self._send(now_ns, core.engine_gone(now_ns))
        if core.is_at_rest:
            self._log.flush()

    def _device(self, _fd: object) -> None:
        now_ns = self._clock.now_ns()
        self._send(now_ns, self._core.device_ready(now_ns))
        if self._core.device_lost:
            self._forget_device()

    def _forget_device(self) -> None:
        """A dead line would stay readable for ever; the ticks go on trying."""
        with contextlib.suppress(KeyError, ValueError, OSError):
            self._selector.unregister(self._device_fd)
        self._device_fd = -1

    def _accept(self, _server: object) -> None:
        known = list(self._server.peers)
        taken = self._server.accept(self._clock.now_ns())
        # First those that had to go: a new connection may have got the descriptor of an old one.
        for peer in known:
            if peer not in self._server.peers:
                self._unregister(peer)
        for peer in taken:
            self._selector.register(peer, selectors.EVENT_READ, self._read)

    def _read(self, peer: Peer) -> None:
        packets, ended = self._server.read(peer)
        for packet in packets:
            now_ns = self._clock.now_ns()
            if peer.is_engine:
                if peer.floods(now_ns):
                    self._send(now_ns, self._core.garbage(now_ns, "the link is flooded"))
                self._send(now_ns, self._core.handle_packet(now_ns, packet))
            elif not self._stranger(now_ns, peer, packet):
                self._drop(peer)
                return
        if ended:
            self._drop(peer)
            if peer.is_engine:
                now_ns = self._clock.now_ns()
                self._send(now_ns, self._core.engine_gone(now_ns))

    def _stranger(self, now_ns: int, peer: Peer, packet: bytes) -> bool:
        """Who has not said a fitting Hello may say one, or stop (I28); tells whether to keep the connection."""
        try:
            message = link.decode_to_guard(packet)
        except link.LinkError:
            return False
        if isinstance(message, link.Stop):
            self._send(now_ns, self._core.handle(now_ns, message))
            self._server.send(peer, self._core.report(now_ns))
            return True
        if not isinstance(message, link.Hello):
            self._server.send(peer, link.Refused(seq=0, reason="say Hello first; without it only Stop is heard"))
            return False
        if self._met_engine:
            self._server.send(peer, link.Refused(seq=0, reason="this guard has had its engine; it serves only one"))
            return False
        answer = self._core.hello(message)
        self._server.send(peer, answer)
        if isinstance(answer, link.Refused):
            return False
        peer.is_engine = self._met_engine = True
        self._server.send(peer, self._core.report(now_ns))
        return True

    def _send(self, now_ns: int, messages: Sequence[link.FromGuard]) -> None:
        """Reports go to everybody connected, answers to the engine alone."""
        for message in messages:
            if isinstance(message, link.Report):
                self._log.note(now_ns, message)
            for peer in self._server.peers:
                if peer.is_engine or isinstance(message, link.Report):
                    self._server.send(peer, message)

    def _drop(self, peer: Peer) -> None:
        self._unregister(peer)
        self._server.drop(peer)

    def _unregister(self, peer: Peer) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(peer)


def _claim_time() -> None:
    """Ask for real-time rights and resident memory; where the host grants none, 150 ms of slack are assumed anyway."""
    priority.claim_processor(priority.GUARD)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mlockall(_MCL_CURRENT)
    # A collection in mid-session would be a late tick; nothing here makes reference cycles in steady state.
    gc.collect()
    gc.freeze()
    gc.disable()


def serve(settings_path: Path, socket_path: Path, log_fd: int) -> ExitCode:
    """Run a guard from start to end; the device is at zero before and after.

    Raises
    ------
    StartError
        If it refuses to start.
    """
    settings = read_settings(settings_path)
    try:
        server = LinkServer(socket_path)
    except (GuardRunningError, RuntimeDirectoryError) as error:
        raise StartError(str(error)) from error
    except OSError as error:
        raise StartError(f"socket {socket_path}: {error.strerror or error}") from error
    clock = SystemClock()
    book = LedgerBook(settings, socket_path.with_suffix(APART_SUFFIX), clock)
    clerks: list[ThreadClerk] = []
    code: ExitCode | None = None
    try:
        core = open_core(settings, book, clerks, clock)
        log = Log(log_fd)
        try:
            loop = GuardLoop(core, server, log, clock)
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, loop.ask_to_end)
            _claim_time()
            try:
                code = loop.run()
            finally:
                loop.close()
        finally:
            core.close()
            log.flush()
    finally:
        _close_book(book, clerks, code)
        server.close()
    return code


def _close_book(book: LedgerBook, clerks: list[ThreadClerk], code: ExitCode | None) -> None:
    """Write what is still to be written; only a session that ended in order is closed, any other may go on (I04)."""
    if not all(clerk.close() for clerk in clerks):
        return  # The disk hangs: what is reserved counts in full, and the file is the thread's.
    try:
        if code is ExitCode.ENDED:
            book.finish()
    except DoseBookError as error:
        print(f"cereloop guard: the end of the session is not in the ledger: {error}", file=sys.stderr)
    finally:
        book.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m devices.guard_process",
        description="Guard of one stimulator. Started by cereloop; not meant to be started by hand.",
        epilog="example: python -m devices.guard_process --settings guard.json --socket $XDG_RUNTIME_DIR/cereloop/s01.sock",
    )
    parser.add_argument("--settings", type=Path, required=True, help="the guard's settings, as JSON")
    parser.add_argument("--socket", type=Path, required=True, help="where to listen; the directory needs mode 0700")
    parser.add_argument("--log", type=Path, help="append changes of state to this file instead of standard error")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        log_fd = 2 if given.log is None else os.open(given.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        print(f"cereloop guard: log {given.log}: {error.strerror}", file=sys.stderr)
        return ExitCode.REFUSED
    try:
        return serve(given.settings, given.socket, log_fd)
    except StartError as error:
        print(f"cereloop guard: {error}", file=sys.stderr)
        return ExitCode.REFUSED
    except Exception as error:  # noqa: BLE001 - `serve` has cut the device, and the process ends here
        print(f"cereloop guard: internal error, the device was cut: {error!r}", file=sys.stderr)
        return ExitCode.INTERNAL


if __name__ == "__main__":
    sys.exit(main())
