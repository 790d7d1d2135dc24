"""The guard's end of the local socket: one engine, a few bystanders that may only stop, nobody that can block it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from collections import deque
from pathlib import Path
from typing import Final

from devices import link
from devices.link_socket import check_directory
from devices.units import NS_PER_MS, NS_PER_S

MAX_BYSTANDERS: Final = 8
BYSTANDER_NS: Final = 2 * NS_PER_S
FLOOD_PACKETS: Final = 100
FLOOD_NS: Final = 100 * NS_PER_MS
_PACKETS_A_READ: Final = 32
_ACCEPTS_A_READ: Final = 8


class GuardRunningError(OSError):
    """Another guard serves this socket."""


class Peer:
    """One connection.

    Attributes
    ----------
    is_engine : bool
        Whether its Hello was accepted. All others may only stop, and are let go after two seconds.
    """

    def __init__(self, connection: socket.socket, t_ns: int) -> None:
        self.socket = connection
        self.since_ns = t_ns
        self.is_engine = False
        self._times_ns: deque[int] = deque(maxlen=FLOOD_PACKETS)

    def fileno(self) -> int:
        """Descriptor to wait on."""
        return self.socket.fileno()

    def floods(self, t_ns: int) -> bool:
        """Count a packet; tell once in 100 packets whether they came within 100 ms."""
        self._times_ns.append(t_ns)
        if len(self._times_ns) < FLOOD_PACKETS:
            return False
        too_fast = t_ns - self._times_ns[0] < FLOOD_NS
        self._times_ns.clear()
        return too_fast


class LinkServer:
    """Listens at `path` with mode 0600, inside a directory that is ours alone.

    Parameters
    ----------
    path : Path
        Where to listen. What a killed guard has left there is replaced.

    Attributes
    ----------
    peers : list of Peer
        All connections, oldest first.

    Raises
    ------
    GuardRunningError
        If another guard serves this socket.
    RuntimeDirectoryError
        If the directory is not ours alone.
    """

    def __init__(self, path: Path) -> None:
        check_directory(path.parent)
        self.path = path
        self.peers: list[Peer] = []
        self._lock_fd = _lock(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            # The lock is ours, so whatever lies at the path belongs to a guard that is dead.
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            before = os.umask(0o177)
            try:
                self._socket.bind(os.fspath(path))
            finally:
                os.umask(before)
            self._socket.listen(MAX_BYSTANDERS)
            self._socket.settimeout(0.0)
        except OSError:
            self._socket.close()
            os.close(self._lock_fd)
            raise

    def fileno(self) -> int:
        """Descriptor that turns readable when somebody connects."""
        return self._socket.fileno()

    @property
    def engine(self) -> Peer | None:
        """The engine's connection, if there is one."""
        for peer in self.peers:
            if peer.is_engine:
                return peer
        return None

    def accept(self, t_ns: int) -> list[Peer]:
        """Take new connections of this user; beyond the bound the oldest bystander has to go."""
        taken: list[Peer] = []
        for _ in range(_ACCEPTS_A_READ):
            try:
                connection, _ = self._socket.accept()
            except OSError:
                break
            if _uid(connection) not in (os.getuid(), 0):
                connection.close()
                continue
            connection.settimeout(0.0)
            bystanders = [peer for peer in self.peers if not peer.is_engine]
            if len(bystanders) >= MAX_BYSTANDERS:
                self.drop(bystanders[0])
                taken = [peer for peer in taken if peer is not bystanders[0]]
            peer = Peer(connection, t_ns)
            self.peers.append(peer)
            taken.append(peer)
        return taken

    def read(self, peer: Peer) -> tuple[list[bytes], bool]:
        """Packets that have arrived, at most 32, and whether the connection has ended behind them."""
        packets: list[bytes] = []
        for _ in range(_PACKETS_A_READ):
            try:
                packet = peer.socket.recv(link.MAX_PACKET_BYTES + 1)
            except BlockingIOError:
                return packets, False
            except OSError:
                return packets, True
            if not packet:
                return packets, True
            packets.append(packet)
        return packets, False

    def send(self, peer: Peer, message: link.FromGuard) -> None:
        """Send, or lose the message: who reads too slowly misses reports, and the guard never waits."""
        with contextlib.suppress(OSError):
            peer.socket.send(link.encode(message), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def drop(self, peer: Peer) -> None:
        """End a connection. Closing it also takes it out of an epoll set."""
        if peer in self.peers:
            self.peers.remove(peer)
        peer.socket.close()

    def expired(self, t_ns: int) -> list[Peer]:
        """Bystanders that have had their time."""
        return [peer for peer in self.peers if not peer.is_engine and t_ns - peer.since_ns > BYSTANDER_NS]

    def close(self) -> None:
        """Stop listening and remove the socket; the lock ends last."""
        for peer in list(self.peers):
            self.drop(peer)
        self._socket.close()
        with contextlib.suppress(OSError):
            self.path.unlink()
        os.close(self._lock_fd)


def _lock(path: Path) -> int:
    """Hold the lock beside the socket; the kernel lets go of it however the process ends."""
    lock = path.with_name(path.name + ".lock")
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise GuardRunningError(f"another guard already serves {path}: end its session first") from error
    return fd


def _uid(connection: socket.socket) -> int:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid: int = struct.unpack("3i", credentials)[1]
    return uid
