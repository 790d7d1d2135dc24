"""The recorder of simulations and replays: in the caller's process, and the same bytes every time."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from devices.clock import Clock
from loop import session_file as sf
from loop.events import Input, Output
from loop.journal import encode_step
from loop.row_writer import RowWriter, claim
from loop.sealing import RowSeal
from loop.session_file import JournalError, LogRow, SessionMeta


class InlineRecorder:
    """Writes a session file in this process; same meta, clock readings and events give the same bytes.

    Parameters
    ----------
    path : str or Path
        A file that does not exist yet, in a directory that does.
    meta : SessionMeta
        What the session is; `started_wall_ns` is taken from the clock.
    clock : Clock
        Gives each step its wall time.
    store_samples : bool
        Whether chunks keep their samples; else they must be had again from the source.
    rows_a_commit : int
        Rows in one transaction.
    machine_key : bytes
        Seals the rows that would tell the arm of a blinded session; empty: nothing is sealed.

    Raises
    ------
    JournalError
        Here and in every method, if the file cannot be written or an event cannot be recorded without loss.
    """

    def __init__(
        self,
        path: str | Path,
        meta: SessionMeta,
        clock: Clock,
        *,
        store_samples: bool = False,
        rows_a_commit: int = 4096,
        machine_key: bytes = b"",
    ) -> None:
        self._clock = clock
        self._store = store_samples
        self._rows_a_commit = rows_a_commit
        self._next = 1
        self._closed = False
        meta = msgspec.structs.replace(meta, started_wall_ns=clock.wall_ns())
        self._seal = RowSeal(machine_key, meta) if machine_key else None
        claim(Path(path))
        try:
            self._writer = RowWriter(Path(path), meta, clock.now_ns())
        except JournalError:
            Path(path).unlink(missing_ok=True)
            raise

    @property
    def recorded(self) -> int:
        """Seq of the newest row."""
        return self._next - 1

    def record(self, event: Input, outputs: Iterable[Output] = ()) -> int:
        """Record an input and what the engine made of it; returns the seq of the input's row."""
        seq = self._next
        for row in encode_step(
            seq, self._clock.wall_ns(), event, outputs, store_samples=self._store, seal=self._seal
        ):
            self._append(row)
        if self._writer.waiting >= self._rows_a_commit:
            self._writer.commit()
        return seq

    def close(self) -> None:
        """Mark the session as closed in order, and leave one plain file. Idempotent."""
        if not self._closed:
            self._append(sf.closing_row(self._next, self._clock.now_ns(), self._clock.wall_ns()))
            self._finish()

    def abandon(self) -> None:
        """Keep what was recorded, without the mark of an orderly end. Idempotent."""
        if not self._closed:
            self._finish()

    def _append(self, row: LogRow) -> None:
        self._writer.append(row, sf.frame(row))
        self._next = row.seq + 1

    def _finish(self) -> None:
        self._closed = True
        try:
            self._writer.close()
        except JournalError:
            self._writer.abandon()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()
