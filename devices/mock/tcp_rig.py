"""An emulated device that is a TCP server: one client at a time, another is turned away at once."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Any, Protocol

from devices.driver import tcp_address
from devices.mock.faults import ActiveFaults
from devices.mock.stimulator_process import EmulatedDevice, PathError, ProcessSettings, Rig


class TcpDevice(EmulatedDevice, Protocol):
    """A model on a TCP connection; `hung_up` asks the rig to end the connection, which clears it."""

    faults: ActiveFaults
    hung_up: bool

    def client_gone(self) -> None:
        """The connection has ended."""
        ...


class TcpRig(Rig):
    """The server, one client, the model, the meter file and the control channel; a subclass makes the model.

    Parameters
    ----------
    settings : ProcessSettings
        Seed, paths, faults.
    listen : tuple of str and int
        Host and port; port 0 takes any that is free.
    announce : callable
        Gets the line of JSON that says where the device is.

    Raises
    ------
    PathError
        If the address cannot be used.
    """

    device: TcpDevice

    def __init__(self, settings: ProcessSettings, listen: tuple[str, int], announce: Callable[[str], None]) -> None:
        self._at = listen
        self._client: socket.socket | None = None
        super().__init__(settings, announce)

    def _open_line(self) -> str:
        host, port = self._at
        try:
            self._server = socket.create_server((host, port), backlog=4)
        except OSError as error:
            raise PathError(f"{host}:{port}: {error.strerror or error}; choose another address by --listen") from error
        self._server.settimeout(0.0)
        self._poll.register(self._server, select.POLLIN)
        name: tuple[Any, ...] = self._server.getsockname()
        return f"{name[0]}:{name[1]}"

    def _close_line(self) -> None:
        self._drop_client()
        self._poll.unregister(self._server)
        self._server.close()

    def _read_host(self, ready: list[int]) -> bytes:
        data = self._receive(ready)
        # After the old client's end has been seen, or who connects anew at once would be turned away.
        if self._server.fileno() in ready:
            self._take_client()
        return data

    def _receive(self, ready: list[int]) -> bytes:
        client = self._client
        if client is None or client.fileno() not in ready or "half_open" in self.device.faults:
            return b""
        try:
            data = client.recv(65_536)
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        if not data:
            self._drop_client()
        return data

    def _write_host(self) -> None:
        if self.device.hung_up:
            self.device.hung_up = False
            self._drop_client()
        data = self.device.take_output()
        client = self._client
        if client is None:
            return
        self._unsent += data
        if not self._unsent:
            return
        try:
            self._unsent = self._unsent[client.send(self._unsent) :]
        except BlockingIOError:
            return
        except OSError:
            self._drop_client()

    def _take_client(self) -> None:
        try:
            client, _ = self._server.accept()
        except OSError:
            return
        if self._client is not None:
            client.close()
            return
        client.settimeout(0.0)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._client = client
        self._poll.register(client, select.POLLIN)

    def _drop_client(self) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        self._poll.unregister(client)
        client.close()
        self._unsent = b""
        self.device.client_gone()


def listen_address(text: str, usual: int) -> tuple[str, int]:
    """Host and port to listen at; port 0 is any. Raises DriverError."""
    if text.endswith(":0"):
        return tcp_address(text[:-2], usual)[0], 0
    return tcp_address(text, usual)
