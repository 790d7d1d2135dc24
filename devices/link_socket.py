"""The local socket between engine and guard: where it lives, the engine's end, and `stop_all` for the emergency stop.

Sockets are SOCK_SEQPACKET: one message is one packet, and neither end ever blocks on the other.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import selectors
import socket
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from devices import link
from devices.clock import SystemClock
from devices.guard_state import ZERO_UA, Phase
from devices.stimulator import StopClass

SUFFIX: Final = ".sock"
_LONGEST_NAME: Final = 40
STOP_TIMEOUT_S: Final = 1.0
_RETRY_S: Final = 0.02
_MAX_PACKETS_A_READ: Final = 256


class RuntimeDirectoryError(OSError):
    """The runtime directory is not ours alone; the text says what was found and what to do."""


class GuardUnreachableError(OSError):
    """No guard answered at the socket within the time given."""


def runtime_directory() -> Path:
    """The directory of this user's guard sockets, made with mode 0700 where it is missing.

    ``$XDG_RUNTIME_DIR/cereloop``, or ``/tmp/cereloop-<uid>`` where that variable is unset.

    Raises
    ------
    RuntimeDirectoryError
        If it belongs to another user, is a link, or others may enter it.
    """
    base = os.environ.get("XDG_RUNTIME_DIR")
    path = Path(base) / "cereloop" if base else Path(f"/tmp/cereloop-{os.getuid()}")  # noqa: S108 - checked below
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    check_directory(path)
    return path


def check_directory(path: Path) -> None:
    """Refuse a directory in which anybody else could plant or replace a socket.

    Raises
    ------
    RuntimeDirectoryError
        One sentence that says what is wrong with it.
    """
    try:
        found = path.lstat()
    except OSError as error:
        raise RuntimeDirectoryError(f"{path}: {error.strerror}; it is needed for the guard's socket") from error
    if not stat.S_ISDIR(found.st_mode):
        raise RuntimeDirectoryError(f"{path} is not a directory: move it away")
    if found.st_uid != os.getuid():
        raise RuntimeDirectoryError(f"{path} belongs to user {found.st_uid}, not to {os.getuid()}: refused")
    if found.st_mode & 0o077:
        raise RuntimeDirectoryError(f"{path} has mode {stat.S_IMODE(found.st_mode):04o}: make it 0700")


def socket_path(session: str) -> Path:
    """Where the guard of `session` listens; a name that a file cannot bear is reduced to letters and digits."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", session).strip("-") or "session"
    if len(name) > _LONGEST_NAME:
        # A socket's path has room for about a hundred characters; what is cut off still tells two sessions apart.
        name = f"{name[:_LONGEST_NAME - 9]}-{hashlib.sha256(session.encode()).hexdigest()[:8]}"
    return runtime_directory() / f"{name}{SUFFIX}"


def find_guards(directory: Path | None = None) -> list[Path]:
    """Every guard socket of this user, sorted; some may be left over from guards that were killed."""
    where = runtime_directory() if directory is None else directory
    found = []
    for path in sorted(where.glob(f"*{SUFFIX}")):
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(path.lstat().st_mode):
                found.append(path)
    return found


class GuardClient:
    """The engine's end of the link. Sending and receiving never block.

    Parameters
    ----------
    connection : socket.socket
        A connected SOCK_SEQPACKET socket; owned from now on.

    Attributes
    ----------
    lost : int
        Messages that could not be sent because the guard did not take them.
    garbage : int
        Packets from the guard that were no message.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(0.0)
        self._socket = connection
        self._closed = False
        self.lost = 0
        self.garbage = 0

    @classmethod
    def connect(cls, path: Path | str, timeout_s: float) -> GuardClient:
        """Connect to the guard at `path`, waiting for it to listen for at most `timeout_s` seconds.

        Raises
        ------
        GuardUnreachableError
            If nobody has listened there within the time.
        """
        deadline_s = time.monotonic() + timeout_s
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                connection.settimeout(0.0)
                connection.connect(os.fspath(path))
            except OSError as error:
                connection.close()
                waits = error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.EAGAIN)
                if not waits or time.monotonic() >= deadline_s:
                    raise GuardUnreachableError(f"no guard answers at {path}: {error.strerror}") from error
                time.sleep(_RETRY_S)
            else:
                return cls(connection)

    def fileno(self) -> int:
        """Descriptor that turns readable when the guard has sent something; -1 once closed."""
        return -1 if self._closed else self._socket.fileno()

    @property
    def closed(self) -> bool:
        """Whether the link has ended, by either side."""
        return self._closed

    def send(self, message: link.ToGuard) -> bool:
        """Send, or lose the message where the guard does not take it now; tells which."""
        if self._closed:
            self.lost += 1
            return False
        try:
            self._socket.send(link.encode(message), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            self.lost += 1
            return False
        except OSError:
            self.lost += 1
            self.close()
            return False
        return True

    def receive(self) -> list[link.FromGuard]:
        """Everything that has arrived, oldest first; sets `closed` when the guard has gone."""
        messages: list[link.FromGuard] = []
        for _ in range(_MAX_PACKETS_A_READ):
            if self._closed:
                break
            try:
                packet = self._socket.recv(link.MAX_PACKET_BYTES + 1, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError:
                packet = b""
            if not packet:
                self.close()
                break
            try:
                messages.append(link.decode_from_guard(packet))
            except link.LinkError:
                self.garbage += 1
        return messages

    def close(self) -> None:
        """Let go of the link. Under current that is an abort ramp. Idempotent."""
        if not self._closed:
            self._closed = True
            self._socket.close()


class StopOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one guard that was told to stop.

    `confirmed` says that the guard has reported the stop and zero current, `detail` what it said last.
    """

    path: str
    confirmed: bool
    detail: str


def stop_all(
    reason: str,
    stop_class: StopClass = StopClass.S0_CUT,
    directory: Path | None = None,
    timeout_s: float = STOP_TIMEOUT_S,
) -> list[StopOutcome]:
    """Stop every guard of this user, with or without an engine; the emergency stop of the command line.

    Parameters
    ----------
    reason : str
        What the record shall say.
    stop_class : StopClass
        S0, unless an ordinary stop is wanted.
    directory : Path, optional
        Where the sockets are; the runtime directory by default.
    timeout_s : float
        How long to wait for zero, in seconds, for all guards together.

    Returns
    -------
    list of StopOutcome
        One for each guard that was alive; empty where there is none.
    """
    message = link.Stop(stop_class=int(stop_class), reason=reason[:500])
    outcomes: list[StopOutcome] = []
    asked: dict[GuardClient, Path] = {}
    for path in find_guards(directory):
        try:
            client = GuardClient.connect(path, 0.0)
        except GuardUnreachableError as error:
            if isinstance(error.__cause__, ConnectionRefusedError | FileNotFoundError):
                continue
            outcomes.append(StopOutcome(path=str(path), confirmed=False, detail=str(error)))
            continue
        if client.send(message):
            asked[client] = path
        else:
            outcomes.append(StopOutcome(path=str(path), confirmed=False, detail="the guard did not take the stop"))
    outcomes += _await_zero(asked, stop_class, timeout_s)
    return sorted(outcomes, key=lambda outcome: outcome.path)


def _await_zero(asked: dict[GuardClient, Path], stop_class: StopClass, timeout_s: float) -> Sequence[StopOutcome]:
    clock = SystemClock()
    deadline_ns = clock.now_ns() + round(timeout_s * 1e9)
    outcomes: list[StopOutcome] = []
    last = dict.fromkeys(asked, "no report came")
    with selectors.DefaultSelector() as selector:
        for client in asked:
            selector.register(client, selectors.EVENT_READ, client)
        while selector.get_map() and clock.now_ns() < deadline_ns:
            for key, _ in selector.select((deadline_ns - clock.now_ns()) / 1e9):
                client = key.data
                selector.unregister(client)
                done = _read_outcome(client, asked[client], stop_class, last)
                if done is None:
                    selector.register(client, selectors.EVENT_READ, client)
                else:
                    outcomes.append(done)
                    client.close()
        for key in list(selector.get_map().values()):
            client = key.data
            outcomes.append(StopOutcome(path=str(asked[client]), confirmed=False, detail=last[client]))
            client.close()
    return outcomes


def _read_outcome(client: GuardClient, path: Path, stop_class: StopClass, last: dict[GuardClient, str]) -> StopOutcome | None:
    for message in client.receive():
        if not isinstance(message, link.Report):
            continue
        measured = "not measured" if message.measured_ua is None else f"{message.measured_ua:.0f} uA measured"
        last[client] = f"{message.phase}, {message.level_ua} uA commanded, {measured}: {message.reason}"
        zero = message.level_ua == 0 and abs(message.measured_ua or 0.0) <= ZERO_UA
        stopped = message.phase == Phase.LATCHED or (
            stop_class is not StopClass.S0_CUT and message.phase in (Phase.SAFE, Phase.STOPPED)
        )
        if zero and stopped:
            return StopOutcome(path=str(path), confirmed=True, detail=last[client])
    if client.closed:
        return StopOutcome(path=str(path), confirmed=False, detail=f"the guard has ended; before that: {last[client]}")
    return None
