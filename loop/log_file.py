"""Reads the rows of a session file, trusting nothing in it: whatever is wrong becomes one `JournalError`."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

from loop import session_file as sf
from loop.session_file import JournalError, LogRow

LAST_SEQ: Final = 2**63 - 1
_MAGIC: Final = b"SQLite format 3\0"
_PAGE_ROWS: Final = 1024
_TYPES: Final = ("integer", "integer", "integer", "text", "integer", "text", "blob", "blob")
_COLUMNS: Final = ("seq", "t_ns", "wall_ns", "kind", "cause", "body", "data", "hash")
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)}, {' || '.join(f'substr(typeof({name}), 1, 1)' for name in _COLUMNS)}"

SQLITE_ERRORS: Final = (sqlite3.Error, UnicodeDecodeError, OverflowError, MemoryError)
"""What Python's sqlite3 raises on damaged files; names and messages in them need not be Unicode."""


class RowError(JournalError):
    """A row that no writer wrote so; `seq`, `kind` and `column` say where, as far as can be told."""

    def __init__(self, text: str, seq: int | None = None, kind: str | None = None, column: str | None = None) -> None:
        super().__init__(text)
        self.seq = seq
        self.kind = kind
        self.column = column


class LogFile:
    """A session file opened for reading; the file may grow meanwhile.

    Parameters
    ----------
    path : Path
        The session file. Never written to.

    Raises
    ------
    JournalError
        Here and in every method, in one sentence, if this is no session file that can be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _look_at(path)
        self._db = self._connect()
        try:
            with self._readable():
                self._check_identity()
                self.meta_pairs = self._read_meta()
        except JournalError:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()

    def last_seq(self) -> int:
        """Greatest seq in the file, -1 if there is none."""
        with self._readable():
            found = self._db.execute("SELECT max(seq) FROM log").fetchone()[0]
        return found if isinstance(found, int) else -1

    def rows(
        self, after: int = -1, upto: int = LAST_SEQ, kinds: Collection[str] | None = None
    ) -> Iterator[tuple[LogRow, bytes]]:
        """Rows with ``after < seq <= upto`` in order, each with its hash; all kinds, or only those named.

        Raises
        ------
        RowError
            At the first row that is missing, out of order, of a wrong type, or that SQLite cannot read. All
            rows before it have been yielded.
        """
        previous = after
        size = _PAGE_ROWS
        while previous < upto:
            count = 0
            try:
                for raw in self._page(previous, upto, kinds, size):
                    row, link = _typed(raw, previous)
                    if kinds is None and row.seq != previous + 1:
                        text = f"row {previous + 1} is missing; the next row is {row.seq}"
                        raise RowError(text, previous + 1, None, "seq")
                    if row.seq <= previous:
                        raise RowError(f"row {row.seq} comes after row {previous}", previous + 1, None, "seq")
                    yield row, link
                    previous = row.seq
                    count += 1
                    if previous >= upto:
                        return  # In a damaged tree, what comes next need not be greater.
            except SQLITE_ERRORS as error:
                # sqlite3 steps one row ahead: the last good rows must be asked for one by one.
                if size > 1:
                    size = 1
                    continue
                text = f"after row {previous} the file cannot be read: {error}"
                raise RowError(text, previous + 1) from error
            if count < size:
                return

    def structure_fault(self) -> str:
        """Ask SQLite, as strict as any other tool will be, what is wrong with the file; empty if nothing."""
        try:
            with contextlib.closing(self._open(self._options)) as strict:
                found = strict.execute("PRAGMA quick_check(1)").fetchone()
        except SQLITE_ERRORS as error:
            return str(error)
        text = _text(found[0]) if found else ""
        return "" if text == "ok" else text[:200]

    def schema(self) -> dict[str, str]:
        """Name to SQL of every table, view, index and trigger that SQLite did not make by itself."""
        with self._readable():
            found = self._db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
        return {_text(name): _text(sql) for name, sql in found}

    def _connect(self) -> sqlite3.Connection:
        """Connect read-only; where nothing can be created, too, as long as no ``-wal`` is needed."""
        last: BaseException | None = None
        for self._options in ("mode=ro", "mode=ro&immutable=1"):
            try:
                # A file that was cut short can then be read up to the cut; mode=ro forbids all writing
                # anyway.
                return self._open(self._options, "writable_schema = ON")
            except SQLITE_ERRORS as error:
                last = error
                if not isinstance(error, sqlite3.OperationalError) or _wal_bytes(self.path):
                    break
        raise JournalError(f"{self.path} cannot be read as a session file: {last}") from last

    def _open(self, options: str, *pragmas: str) -> sqlite3.Connection:
        uri = f"{self.path.absolute().as_uri()}?{options}"
        db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=5.0)
        try:
            db.text_factory = bytes
            db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 2 * sf.MAX_ROW_BYTES)
            for pragma in (
                *pragmas,
                "query_only = ON",
                "trusted_schema = OFF",
                "cell_size_check = ON",
                "mmap_size = 0",
            ):
                db.execute(f"PRAGMA {pragma}")
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except SQLITE_ERRORS:
            db.close()
            raise
        return db

    def _check_identity(self) -> None:
        application = self._db.execute("PRAGMA application_id").fetchone()[0]
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if application != sf.APPLICATION_ID:
            raise JournalError(f"{self.path} is a SQLite file, but not a session file")
        if version > sf.SCHEMA_VERSION:
            raise JournalError(f"{self.path} has schema {version}, the newest known is {sf.SCHEMA_VERSION}")
        if version < 1:
            raise JournalError(f"{self.path} has schema {version}, which does not exist")
        present = self.schema()
        for name, sql in sf.TABLES.items():
            if name not in present:
                raise JournalError(f"{self.path} has no table {name}: it is no session file, or damaged")
            if present[name] != sql:
                raise JournalError(f"{self.path} has another table {name} than schema {version}: it is damaged or was edited")

    def _read_meta(self) -> dict[str, str]:
        pairs = self._db.execute("SELECT key, value FROM meta LIMIT 1000").fetchall()
        return {_text(key): _text(value) for key, value in pairs}

    def _page(self, after: int, upto: int, kinds: Collection[str] | None, size: int) -> sqlite3.Cursor:
        chosen = "" if kinds is None else f" AND kind IN ({', '.join('?' * len(kinds))})"
        statement = f"{_SELECT} FROM log WHERE seq > ? AND seq <= ?{chosen} ORDER BY seq LIMIT ?"
        return self._db.execute(statement, (after, upto, *(kinds or ()), size))

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except SQLITE_ERRORS as error:
            raise JournalError(f"{self.path} cannot be read: {error}") from error


def _look_at(path: Path) -> None:
    try:
        if not path.is_file():
            said = "is not a file" if path.exists() else "does not exist"
            raise JournalError(f"{path} {said}")
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
    except OSError as error:
        raise JournalError(f"{path} cannot be read: {error.strerror}") from error
    if not magic:
        raise JournalError(f"{path} is empty: no session was ever written to it")
    if magic != _MAGIC:
        raise JournalError(f"{path} is not a SQLite file, so not a session file")


def _wal_bytes(path: Path) -> int:
    try:
        return path.with_name(path.name + "-wal").stat().st_size
    except OSError:
        return 0


def _typed(raw: tuple[Any, ...], previous: int) -> tuple[LogRow, bytes]:
    seq, t_ns, wall_ns, kind, cause, body, data, link, types = raw
    for column, found, expected in zip(_COLUMNS, types.decode("ascii"), _TYPES, strict=True):
        if found != expected[0] and not (found == "n" and column in ("cause", "data")):
            at = seq if isinstance(seq, int) else previous + 1
            raise RowError(f"column {column} of row {at} is not of type {expected}", at, None, column)
    name = _text(kind)
    if name not in sf.KINDS:
        raise RowError(f"row {seq} is of an unknown kind {name[:40]!r}", seq, name[:40], "kind")
    return LogRow(seq, t_ns, wall_ns, name, cause, body, data), link


def _text(value: object) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
