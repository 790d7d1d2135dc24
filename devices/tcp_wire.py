"""What carries a driver's bytes over TCP: connected within a bounded time, never blocking afterwards."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from typing import Final

from devices.stimulator import DeviceLostError, DeviceNotFoundError

CONNECT_S: Final = 3.0
# A peer that acknowledges nothing for so long is gone, though no FIN ever came.
SILENT_PEER_MS: Final = 2000


class TcpWire:
    """A TCP connection; implements `devices.wires.Wire`.

    Parameters
    ----------
    host, port : str, int
        Of the server.
    """

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._socket: socket.socket | None = None

    @property
    def name(self) -> str:
        """Host and port."""
        return f"{self._address[0]}:{self._address[1]}"

    def open(self) -> None:
        """Connect, within 3 s. Raises DeviceNotFoundError if nothing answers there."""
        self.close()
        try:
            line = socket.create_connection(self._address, CONNECT_S)
        except OSError as error:
            why = "nothing answered in time" if isinstance(error, TimeoutError) else error.strerror or str(error)
            raise DeviceNotFoundError(
                f"{self.name}: {why}; check that the program there runs, and `device.port` in the configuration"
            ) from error
        line.settimeout(0.0)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_PEER_MS)
        self._socket = line

    def fileno(self) -> int:
        """The socket's descriptor, -1 while closed."""
        return -1 if self._socket is None else self._socket.fileno()

    def write(self, data: bytes) -> int:
        """Write without blocking. Raises DeviceLostError if the connection is closed or broken."""
        try:
            return self._connected().send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise self._lost(error.strerror or str(error)) from error

    def read(self) -> bytes:
        """Read without blocking. Raises DeviceLostError if the connection is closed, ended by the peer, or broken."""
        try:
            data = self._connected().recv(4096)
        except (BlockingIOError, InterruptedError):
            return b""
        except OSError as error:
            raise self._lost(error.strerror or str(error)) from error
        if not data:
            raise self._lost("the other side ended the connection")
        return data

    def wait(self, budget_s: float) -> float:
        """Wait until readable, at most `budget_s`; returns what is left of it, 0 if nothing came."""
        start = time.monotonic()
        ready, _, _ = select.select([self._connected()], [], [], budget_s)
        return max(0.0, budget_s - (time.monotonic() - start)) if ready else 0.0

    def close(self) -> None:
        """End the connection; what was written still goes out."""
        line, self._socket = self._socket, None
        if line is not None:
            with contextlib.suppress(OSError):  # the peer may be gone; the descriptor is free either way
                line.close()

    def _connected(self) -> socket.socket:
        if self._socket is None:
            raise DeviceLostError(f"{self.name} is not open")
        return self._socket

    def _lost(self, why: str) -> DeviceLostError:
        return DeviceLostError(f"{self.name}: {why}; check network and device, then open it again")
