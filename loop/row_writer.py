"""The one writer of session files, and the process that lives to write one: ``python -m loop.row_writer``.

Needs no numpy, mne or pylsl: it starts fast, and nothing the engine's libraries do can take the record with
them.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from loop import session_file as sf
from loop.session_file import JournalError, LogRow

COMMIT_S: Final = 0.2
COMMIT_BYTES: Final = 8 * 1024 * 1024
DISK_CHECK_S: Final = 2.0
_RECEIVE_BYTES: Final = 256 * 1024
_INSERT: Final = "INSERT INTO log VALUES (?, ?, ?, ?, ?, CAST(? AS TEXT), ?, ?)"


class WriterStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the recording process tells: newest seq on disk (-1: none), what is wrong, whether it is done."""

    committed: int
    lost: str = ""
    closed: bool = False


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """The first line the recording process is told: what to write, where, and how much room to keep."""

    path: str
    meta: sf.SessionMeta
    opened_ns: int
    min_free_bytes: int


def claim(path: Path) -> None:
    """Create an empty file that did not exist before.

    Raises
    ------
    JournalError
        If the file exists, or its directory does not exist or cannot be written.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    except FileExistsError as error:
        raise JournalError(f"{path} exists already; a session is never written over another") from error
    except FileNotFoundError as error:
        raise JournalError(f"cannot create {path}: the directory does not exist") from error
    except OSError as error:
        raise JournalError(f"cannot create {path}: {error.strerror}") from error


def check_room(path: Path, min_free_bytes: int) -> None:
    """Raise JournalError if fewer than `min_free_bytes` are free where `path` lies, or nobody can tell."""
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError as error:
        raise JournalError(f"cannot ask for the free space at {path.parent}: {error.strerror}") from error
    if free < min_free_bytes:
        raise JournalError(f"only {free >> 20} MiB are free at {path.parent}; the record needs {min_free_bytes >> 20} MiB")


class RowWriter:
    """Writes the rows of a session and the hashes that chain them. One thread, one file, append only.

    Parameters
    ----------
    path : Path
        A file that `claim` has just created.
    meta : SessionMeta
        What the session is.
    opened_ns : int
        Reading of the engine's clock that belongs to `meta.started_wall_ns`.
    durability : {"normal", "full"}
        SQLite's `synchronous`: ``full`` reaches the disk at every commit, ``normal`` at checkpoints only.
        Neither is damaged by a crash of a process.

    Raises
    ------
    JournalError
        Here and in every method, if the file cannot be written. The rows committed before stay readable.
    """

    def __init__(
        self,
        path: Path,
        meta: sf.SessionMeta,
        opened_ns: int,
        *,
        durability: Literal["normal", "full"] = "normal",
    ) -> None:
        self.path = path
        self.committed = -1
        self._waiting: list[tuple[Any, ...]] = []
        self.waiting_bytes = 0
        pairs = sf.meta_pairs(meta)
        self._hash = sf.meta_digest(pairs)
        with self._named("create"):
            self._db = sqlite3.connect(path, isolation_level=None)
            # The schema is written before WAL is switched on: whoever sees the file sees all of it in the
            # main file.
            self._db.execute(f"PRAGMA page_size = {sf.PAGE_BYTES}")
            self._db.execute("PRAGMA auto_vacuum = NONE")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute(f"PRAGMA application_id = {sf.APPLICATION_ID}")
            self._db.execute(f"PRAGMA user_version = {sf.SCHEMA_VERSION}")
            for statement in (*sf.TABLES.values(), *sf.VIEWS.values()):
                self._db.execute(statement)
            self._db.executemany("INSERT INTO meta VALUES (?, ?)", pairs)
            row = sf.opening_row(opened_ns, meta.started_wall_ns)
            self.append(row, sf.frame(row))
            self._insert()
            self._db.execute("COMMIT")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute(f"PRAGMA synchronous = {durability.upper()}")
        self._settle()

    @property
    def waiting(self) -> int:
        """Rows appended and not committed yet."""
        return len(self._waiting)

    def append(self, row: LogRow, packed: bytes) -> None:
        """Take one row and its `frame`; it reaches the file with the next `commit`."""
        self._hash = sf.chain(self._hash, packed)
        self._waiting.append((*row, self._hash))
        self.waiting_bytes += len(packed)

    def commit(self) -> None:
        """Write all rows that wait, in one transaction."""
        if not self._waiting:
            return
        with self._named("write"):
            self._db.execute("BEGIN IMMEDIATE")
            self._insert()
            self._db.execute("COMMIT")
        self._settle()

    def close(self) -> None:
        """Commit, then leave one plain file that needs no ``-wal`` beside it."""
        self.commit()
        with self._named("close"):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            # A reader that still looks on keeps the file in WAL mode: nothing is lost, it only stays in two
            # parts.
            with contextlib.suppress(sqlite3.OperationalError):
                self._db.execute("PRAGMA journal_mode = DELETE")
            self._db.close()

    def abandon(self) -> None:
        """Let go of the file after a failure; what was committed stays."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()

    def _insert(self) -> None:
        self._db.executemany(_INSERT, self._waiting)

    def _settle(self) -> None:
        self.committed = int(self._waiting[-1][0])
        self._waiting.clear()
        self.waiting_bytes = 0

    @contextlib.contextmanager
    def _named(self, verb: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OverflowError) as error:
            raise JournalError(f"cannot {verb} {self.path}: {error}") from error


class Service:
    """What the recording process does: receive rows, write them, tell how far it is.

    Parameters
    ----------
    line : socket.socket
        Stream socket to the engine: first an `Order` on one line, then frames; back go lines of
        `WriterStatus`.
    make_writer : callable
        Makes the writer from an order.
    """

    def __init__(self, line: socket.socket, make_writer: Callable[[Order], RowWriter]) -> None:
        self._line = line
        self._make_writer = make_writer
        self._buffer = bytearray()
        self._ended = False

    def end(self) -> None:
        """Finish with what has been received (asked for by a signal)."""
        self._ended = True

    def run(self) -> int:
        """Serve until the engine closes the line or dies; exit code 0 if all that came is on disk."""
        committed = -1
        try:
            order = self._receive_order()
            writer = self._make_writer(order)
            try:
                committed = self._write_all(writer, order)
            except JournalError:
                committed = writer.committed
                writer.abandon()
                raise
        except JournalError as error:
            self._tell(WriterStatus(committed=committed, lost=str(error)))
            return 1
        self._tell(WriterStatus(committed=committed, closed=True))
        return 0

    def _receive_order(self) -> Order:
        while b"\n" not in self._buffer:
            if not self._receive(None):
                raise JournalError("the recording process was started without an order")
        text, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer = bytearray(rest)
        try:
            return msgspec.json.decode(text, type=Order)
        except msgspec.DecodeError as error:
            raise JournalError(f"the recording process was given an order it cannot read: {error}") from error

    def _write_all(self, writer: RowWriter, order: Order) -> int:
        self._tell(WriterStatus(committed=writer.committed))
        commit_at = time.monotonic() + COMMIT_S
        check_at = time.monotonic() + DISK_CHECK_S
        alive = True
        while alive and not self._ended:
            alive = self._receive(max(commit_at - time.monotonic(), 0.0))
            self._take_rows(writer)
            now = time.monotonic()
            if now >= commit_at or writer.waiting_bytes >= COMMIT_BYTES:
                self._commit(writer)
                commit_at = time.monotonic() + COMMIT_S
            if now >= check_at:
                self._check_room(writer, order)
                check_at = time.monotonic() + DISK_CHECK_S
        self._commit(writer)
        writer.close()
        return writer.committed

    def _commit(self, writer: RowWriter) -> None:
        if writer.waiting:
            writer.commit()
            self._tell(WriterStatus(committed=writer.committed))

    def _check_room(self, writer: RowWriter, order: Order) -> None:
        try:
            check_room(writer.path, order.min_free_bytes)
        except JournalError as error:
            # Told, so that the current ends; written on, so that its end is in the record.
            self._tell(WriterStatus(committed=writer.committed, lost=str(error)))

    def _take_rows(self, writer: RowWriter) -> None:
        start = 0
        while (found := sf.unframe(self._buffer, start)) is not None:
            row, packed = found
            writer.append(row, packed)
            start += len(packed)
        del self._buffer[:start]

    def _receive(self, timeout_s: float | None) -> bool:
        """Wait for bytes; False when no more can come."""
        readable, _, _ = select.select([self._line], [], [], timeout_s)
        if not readable:
            return True
        try:
            received = self._line.recv(_RECEIVE_BYTES)
        except OSError:
            return False
        self._buffer += received
        return bool(received)

    def _tell(self, status: WriterStatus) -> None:
        # An engine that has died, or that does not listen, must not keep the record from being finished.
        with contextlib.suppress(OSError):
            self._line.send(msgspec.json.encode(status) + b"\n", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def make_writer(order: Order) -> RowWriter:
    """The writer that a live session uses: every commit reaches the disk."""
    return RowWriter(Path(order.path), order.meta, order.opened_ns, durability="full")


def serve(descriptor: int, make: Callable[[Order], RowWriter] = make_writer) -> int:
    """Run the recording process on an inherited socket; returns its exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # A batch process that wakes up does not push the engine that woke it off its core.
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    with socket.socket(fileno=descriptor) as line:
        service = Service(line, make)
        signal.signal(signal.SIGTERM, lambda _number, _frame: service.end())
        return service.run()


if __name__ == "__main__":
    sys.exit(serve(int(sys.argv[1])))
