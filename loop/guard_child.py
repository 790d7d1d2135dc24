"""The guard as a child process of a live session: started, connected to, and waited for."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from typing import Final

from devices import link, settings
from devices.children import module_command
from devices.guard_state import ExitCode
from devices.link_socket import GuardClient, GuardUnreachableError, socket_path
from devices.pulse_settings import PulseSettings
from loop.errors import SessionError

AT_ZERO: Final = (ExitCode.ENDED, ExitCode.ENGINE_LOST)
"""A guard that was killed, broke, or is still busy has not confirmed zero."""
# Long enough for an operator's consent at the device's own screen; a guard that cannot start says so at once.
_GUARD_START_S: Final = 120.0
_GUARD_END_S: Final = 5.0
_LAST_WORDS_S: Final = 2.0
_GUARD_SAYS: Final = "cereloop guard: "


class GuardProcess:
    """The guard as a child that outlives us if need be.

    Parameters
    ----------
    guarded : Settings or PulseSettings
        What it shall read by itself.

    Raises
    ------
    SessionError
        If it refuses to start; its own sentence says why.
    """

    def __init__(self, guarded: settings.Settings | PulseSettings) -> None:
        self._socket = socket_path(guarded.session)
        self._settings_path = self._socket.with_suffix(".settings.json")
        self._log_path = self._socket.with_suffix(".log")
        descriptor = os.open(self._settings_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(settings.encode(guarded))
        command = module_command(
            "devices.guard_process",
            *("--settings", str(self._settings_path), "--socket", str(self._socket), "--log", str(self._log_path)),
        )
        # A session of its own: the terminal's Ctrl-C and hang-up are for us alone.
        self._process = subprocess.Popen(
            command, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            self.client, self.welcome = self._connect(settings.digest(guarded))
        except BaseException:
            # Also Ctrl-C while a question is open at the device: nobody will ever ask this guard for anything.
            self._process.terminate()
            raise

    @property
    def pid(self) -> int:
        """The guard's process id."""
        return self._process.pid

    def close(self) -> int | None:
        """Let go of the link and wait for the guard's end; its exit code, or None if it is still busy getting to zero."""
        self.client.close()
        try:
            code: int | None = self._process.wait(_GUARD_END_S)
        except subprocess.TimeoutExpired:
            return None
        with contextlib.suppress(OSError):  # a file left behind is nothing beside how the guard has ended
            self._settings_path.unlink(missing_ok=True)
            if code == 0:
                self._log_path.unlink(missing_ok=True)
        return code

    def _connect(self, digest: str) -> tuple[GuardClient, link.Welcome]:
        deadline_s = time.monotonic() + _GUARD_START_S
        client: GuardClient | None = None
        while client is None:
            try:
                client = GuardClient.connect(self._socket, 0.05)
            except GuardUnreachableError as error:
                if self._process.poll() is not None:
                    raise SessionError(self._last_words()) from error
                if time.monotonic() > deadline_s:
                    raise SessionError(self._silence()) from error
        client.send(link.Hello(version=link.LINK_VERSION, settings_sha256=digest))
        while time.monotonic() < deadline_s and not client.closed:
            for message in client.receive():
                if isinstance(message, link.Welcome):
                    return client, message
                if isinstance(message, link.Refused):
                    raise SessionError(f"the guard refused us: {message.reason}")
            time.sleep(0.002)
        raise SessionError(self._last_words() if client.closed else self._silence())

    def _last_words(self) -> str:
        """Why it did not start, in its own words; the link is gone a moment before the process is."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LAST_WORDS_S)
        if self._process.poll() is None or self._process.stderr is None:
            return f"the guard closed the link without a word; its log is {self._log_path}"
        lines = self._process.stderr.read().decode("utf-8", "replace").strip().splitlines()
        if not lines:
            return f"the guard ended with code {self._process.returncode} and gave no reason; its log is {self._log_path}"
        return f"the guard did not start: {lines[-1].removeprefix(_GUARD_SAYS)}"

    def _silence(self) -> str:
        return (
            f"the guard did not answer within {_GUARD_START_S:g} s: is a question open at the device or in its program? "
            f"Its log is {self._log_path}"
        )
