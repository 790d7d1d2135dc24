"""Processes of the real part: a child whose lines are read by a thread, so that nothing here waits for ever."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from devices.clock import SystemClock

CLOCK: Final = SystemClock()
_END_S: Final = 8.0


class RealError(RuntimeError):
    """A process of the campaign did not do what it was there for; the text says which and what it said last."""


class Child:
    """One process in a session of its own.

    Parameters
    ----------
    command : sequence of str
    folder : Path
        Where it runs, and where its standard error goes.
    environment : mapping
        Added to ours.
    """

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        self._errors = folder / f"errors-{time.monotonic_ns()}.txt"
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                bufsize=1,
                cwd=folder,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._last: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def _read(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(ValueError, OSError):
            for line in self.process.stdout:
                self._lines.put(line)
        self._lines.put(None)

    def line(self, wanted: Callable[[str], bool], patience_s: float = 30.0) -> str:
        """The next line that is wanted.

        Raises
        ------
        RealError
            If none comes in time, or the process ends; says what came.
        """
        end_s = time.monotonic() + patience_s
        while True:
            try:
                line = self._lines.get(timeout=max(end_s - time.monotonic(), 0.001))
            except queue.Empty:
                line = None
            if line is None:
                raise RealError(f"{self.process.args!r:.200} waited in vain; last: {self._last[-3:]} {self.errors()}")
            self._last = [*self._last[-10:], line.strip()[:300]]
            if wanted(line):
                return line

    def waiting(self) -> list[str]:
        """Lines that have come and that nobody has asked for."""
        found: list[str] = []
        with contextlib.suppress(queue.Empty):
            while (line := self._lines.get_nowait()) is not None:
                found.append(line)
        return found

    def errors(self) -> str:
        """The end of its standard error."""
        return self._errors.read_text(encoding="utf-8", errors="replace")[-600:]

    def send(self, text: str) -> None:
        """One line to its standard input; nothing where it no longer reads."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self.process.stdin.write(text + "\n")
            self.process.stdin.flush()

    def signal(self, number: int) -> int:
        """Send a signal; the time just before, ns."""
        at_ns = CLOCK.now_ns()
        kill(self.pid, number)
        return at_ns

    def close(self) -> None:
        """End it, whatever it does."""
        if self.alive:
            kill(self.pid, signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def kill(pid: int, number: int) -> None:
    """A signal to one process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def child_of(parent: int, words: bytes) -> int | None:
    """Pid of the child of `parent` whose command line holds `words`."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = (entry / "stat").read_text()
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if int(status.rsplit(")", 1)[1].split()[1]) == parent and words in command:
            return int(entry.name)
    return None
