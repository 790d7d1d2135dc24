"""How an emulated device is told what to do while it runs: one command a line, one line of JSON back."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

MAX_CLIENTS: Final = 8
MAX_LINE_BYTES: Final = 1000

Answer = dict[str, Any]


class ControlChannel:
    """Whoever gives commands, over a local socket or standard input.

    Parameters
    ----------
    where : Path or "-"
        A local socket to make, or standard input, whose end ends the process.
    poll : select.poll
        Everything to listen to is registered here.
    announce : callable
        Gets the answers to standard input.
    obey : callable
        Takes a command, returns the answer.

    Attributes
    ----------
    ended : bool
        Whether standard input has ended.

    Raises
    ------
    OSError
        If the socket cannot be made.
    """

    def __init__(
        self,
        where: Path | Literal["-"],
        poll: select.poll,
        announce: Callable[[str], None],
        obey: Callable[[str], Answer],
    ) -> None:
        self.ended = False
        self._poll = poll
        self._announce = announce
        self._obey = obey
        self._clients: dict[int, tuple[socket.socket | None, bytearray]] = {}
        self._listener: socket.socket | None = None
        if where == "-":
            self._add_client(sys.stdin.fileno(), None)
        else:
            self._listen(where)

    def serve(self, ready: list[int]) -> None:
        """Welcome and answer whoever is among the descriptors with something to read."""
        for descriptor in ready:
            if self._listener is not None and descriptor == self._listener.fileno():
                self._welcome()
            elif descriptor in self._clients:
                self._hear(descriptor)

    def close(self) -> None:
        """Let go of everybody, and remove the socket."""
        for client, _ in self._clients.values():
            if client is not None:
                client.close()
        self._clients.clear()
        if self._listener is not None:
            self._listener.close()
            self._path.unlink(missing_ok=True)
            self._listener = None

    def _listen(self, control: Path) -> None:
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
        self._listener, self._path = listener, control
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
            self.ended = True
        else:
            client.close()

    def _reply(self, client: socket.socket | None, answer: Answer) -> None:
        text = json.dumps(answer)
        if client is None:
            self._announce(text)
            return
        with contextlib.suppress(OSError):  # who asked may be gone: the fault is in force all the same
            client.sendall(text.encode() + b"\n")
