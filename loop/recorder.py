"""Recorders: what takes the engine's inputs and outputs and has them written to a session file.

`InlineRecorder` writes in the caller's own process, the same bytes every time: for simulation and replay.
`ProcessRecorder` hands rows to a process of its own and never waits for a disk (I26): for live sessions.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from devices.children import module_command
from devices.clock import Clock
from devices.units import NS_PER_S
from loop import session_file as sf
from loop.events import Input, Output
from loop.inline_recorder import InlineRecorder
from loop.journal import encode_step
from loop.row_writer import Order, WriterStatus, check_room, claim
from loop.sealing import RowSeal
from loop.session_file import JournalError, SessionMeta

__all__ = ["InlineRecorder", "ProcessRecorder", "RecorderStatus"]

_START_S: Final = 20.0
_SEND_BYTES: Final = 256 * 1024
_SENDS_A_PUMP: Final = 4
_RUN_STEP_NS: Final = NS_PER_S


class RecorderStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How far the record is.

    `recorded` is the newest seq handed over, `committed` the newest on disk, `lag_s` the age of the oldest
    row that is not, `backlog_bytes` what the recording process has not taken yet, `lost` why the record can
    no longer be relied on, or None.
    """

    recorded: int
    committed: int
    lag_s: float
    backlog_bytes: int
    lost: str | None


class ProcessRecorder:
    """Hands rows to a recording process; nothing here waits for a disk.

    `record` encodes and buffers, `pump` moves the buffer on; call it at least every tick. Once
    `status().lost` is set it stays set: the caller turns it into `RecorderLost` (I22). Rows still go out as
    long as there is somebody to take them, so that the end of the current is recorded too, if it can be.

    Parameters
    ----------
    path, meta, clock
        As for `InlineRecorder`; samples are always stored.
    min_free_bytes : int
        Free space below which the record counts as lost; checked before the start and every 2 s.
    max_backlog_bytes : int
        Backlog above which the record counts as lost; at twice as much, further rows are refused to keep
        memory bounded.
    max_lag_s : float
        Age of the oldest row not on disk above which the record counts as lost; time asleep does not count.
    machine_key : bytes
        As for `InlineRecorder`.
    command : sequence of str
        How the recording process is started; the number of its socket is appended.

    Raises
    ------
    JournalError
        If the file exists, its directory is missing, not writable or too full, or the process does not start.
    """

    def __init__(
        self,
        path: str | Path,
        meta: SessionMeta,
        clock: Clock,
        *,
        min_free_bytes: int = 256 * 1024 * 1024,
        max_backlog_bytes: int = 64 * 1024 * 1024,
        max_lag_s: float = 5.0,
        machine_key: bytes = b"",
        command: Sequence[str] = tuple(module_command("loop.row_writer")),
    ) -> None:
        self._clock = clock
        self._max_backlog = max_backlog_bytes
        self._max_lag_ns = round(max_lag_s * NS_PER_S)
        self._next = 1
        self._committed = -1
        self._lost: str | None = None
        self._refusing = False
        self._done = False
        self._closed = False
        self._queue: deque[bytes] = deque()
        self._backlog = 0
        self._unsent = memoryview(b"")
        self._heard = b""
        self._marks: deque[tuple[int, int]] = deque()
        self._seen_ns = clock.now_ns()
        self._run_ns = 0
        path = Path(path).absolute()
        meta = msgspec.structs.replace(meta, started_wall_ns=clock.wall_ns())
        self._seal = RowSeal(machine_key, meta) if machine_key else None
        claim(path)
        order = Order(
            path=str(path),
            meta=meta,
            opened_ns=self._seen_ns,
            min_free_bytes=min_free_bytes,
        )
        try:
            check_room(path, min_free_bytes)
            self._start(command, order)
        except JournalError:
            path.unlink(missing_ok=True)
            raise

    @property
    def pid(self) -> int:
        """Process number of the recording process."""
        return self._process.pid

    def fileno(self) -> int:
        """Descriptor that turns readable when the recording process has something to say; `pump` hears it."""
        return self._line.fileno()

    def record(self, event: Input, outputs: Iterable[Output] = ()) -> int:
        """Buffer an input and its outputs; never blocks, never raises for what the disk or the event does.

        Returns
        -------
        int
            Seq of the input's row. It is in the file once `status().committed` has reached it.
        """
        seq = self._next
        if self._refusing:
            return seq
        try:
            rows = encode_step(seq, self._clock.wall_ns(), event, outputs, store_samples=True, seal=self._seal)
            self._take([sf.frame(row) for row in rows])
        except JournalError as error:
            # A hole in the record would break the chain from cause to command: end here, with a valid prefix.
            self._lose(str(error))
            self._refusing = True
        return seq

    def pump(self) -> None:
        """Send what the line takes now and hear what the recording process says; never blocks."""
        self._advance()
        self._send()
        self._hear()
        if self._lost is None:
            if self._backlog > self._max_backlog:
                self._lose(
                    f"{self._backlog >> 10} KiB wait for the recording process; at most {self._max_backlog >> 10} are allowed"
                )
            elif self._lag_ns() > self._max_lag_ns:
                self._lose(f"nothing has reached the disk for {self._lag_ns() / NS_PER_S:.1f} s")

    def status(self) -> RecorderStatus:
        """How far the record is, as of the last `pump`."""
        return RecorderStatus(
            recorded=self._next - 1,
            committed=self._committed,
            lag_s=self._lag_ns() / NS_PER_S,
            backlog_bytes=self._backlog,
            lost=self._lost,
        )

    def close(self, timeout_s: float = 30.0) -> RecorderStatus:
        """Record the end, wait until all is on disk and the file is closed, and verify it. Idempotent.

        Raises
        ------
        JournalError
            If the recording process did not finish in `timeout_s`, or fewer rows are on disk than were
            recorded. A process that is only slow goes on by itself with what it has received.
        """
        if self._closed:
            return self.status()
        self._closed = True
        if not self._refusing:
            self._take([sf.frame(sf.closing_row(self._next, self._clock.now_ns(), self._clock.wall_ns()))])
        deadline = time.monotonic() + timeout_s
        self._wait(deadline, lambda: not self._backlog)
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_WR)
        self._wait(deadline, lambda: self._done)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(deadline - time.monotonic(), 0.1))
        self._line.close()
        if self._process.stderr is not None:
            self._process.stderr.close()
        if not self._done or self._refusing or self._committed != self._next - 1:
            raise JournalError(
                f"the record is incomplete: {self._committed + 1} of {self._next} rows are on disk"
                f" ({self._lost or f'not finished within {timeout_s:g} s'})"
            )
        return self.status()

    def _take(self, frames: list[bytes]) -> None:
        self._queue.extend(frames)
        self._backlog += sum(map(len, frames))
        self._next += len(frames)
        self._marks.append((self._next - 1, self._run_ns))
        if self._backlog > 2 * self._max_backlog:
            self._refusing = True

    def _advance(self) -> None:
        now = self._clock.now_ns()
        self._run_ns += min(now - self._seen_ns, _RUN_STEP_NS)
        self._seen_ns = now

    def _lag_ns(self) -> int:
        return self._run_ns - self._marks[0][1] if self._marks else 0

    def _lose(self, reason: str) -> None:
        if self._lost is None:
            self._lost = reason

    def _send(self) -> None:
        for _ in range(_SENDS_A_PUMP):
            if not self._unsent and not self._fill():
                return
            try:
                sent = self._line.send(self._unsent, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except OSError:
                return  # The line's end is told, with its reason, by what is heard on it.
            self._unsent = self._unsent[sent:]
            self._backlog -= sent

    def _fill(self) -> bool:
        frames = []
        size = 0
        while self._queue and size < _SEND_BYTES:
            frames.append(self._queue.popleft())
            size += len(frames[-1])
        self._unsent = memoryview(b"".join(frames))
        return size > 0

    def _hear(self) -> None:
        while not self._done:
            try:
                heard = self._line.recv(65_536)
            except BlockingIOError:
                return
            except OSError:
                heard = b""
            if not heard:
                self._ended()
                return
            *lines, self._heard = (self._heard + heard).split(b"\n")
            for line in lines:
                self._understand(line)

    def _understand(self, line: bytes) -> None:
        try:
            status = msgspec.json.decode(line, type=WriterStatus)
        except msgspec.DecodeError:
            return  # A line cut short by a full buffer; the next one says all that it said.
        self._committed = max(self._committed, status.committed)
        while self._marks and self._marks[0][0] <= self._committed:
            self._marks.popleft()
        if status.lost:
            self._lose(status.lost)
        if status.closed:
            self._done = True
            if not self._closed:
                self._lose("the recording process was told to end by a signal")
                self._refusing = True

    def _ended(self) -> None:
        code = self._process.poll()
        said = b""
        if self._process.stderr is not None:
            with contextlib.suppress(OSError):
                said = os.read(self._process.stderr.fileno(), 65_536)
        lines = said.decode("utf-8", "replace").strip().splitlines()
        self._lose(
            "the recording process ended"
            + (f" with code {code}" if code is not None else "")
            + (f": {lines[-1]}" if lines else "")
        )
        self._refusing = True
        self._queue.clear()
        self._unsent = memoryview(b"")
        self._backlog = 0

    def _start(self, command: Sequence[str], order: Order) -> None:
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        root = str(Path(__file__).resolve().parents[1])
        search = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [*command, str(theirs.fileno())],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                    env={**os.environ, "PYTHONPATH": search},
                )
        except OSError as error:
            self._line.close()
            raise JournalError(f"cannot start the recording process {command[0]}: {error.strerror}") from error
        self._line.settimeout(0.0)
        if self._process.stderr is not None:
            os.set_blocking(self._process.stderr.fileno(), False)
        message = msgspec.json.encode(order) + b"\n"
        self._queue.append(message)
        self._backlog = len(message)
        self._wait(time.monotonic() + _START_S, lambda: self._committed >= 0)
        if self._committed < 0:
            self._process.kill()
            self._process.wait()
            self._line.close()
            raise JournalError(f"the recording process did not start: {self._lost or 'no answer'}")

    def _wait(self, deadline: float, done: Callable[[], bool]) -> None:
        """Send and hear until `done`, the deadline, or the recording process is gone."""
        while True:
            self._send()
            self._hear()
            gone = self._process.poll() is not None
            if done() or self._done or (gone and self._refusing) or time.monotonic() >= deadline:
                return
            writing = [self._line] if self._backlog else []
            with contextlib.suppress(OSError, ValueError):
                select.select([self._line], writing, [], 0.1)
