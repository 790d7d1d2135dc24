"""The dose ledger's file: every reservation, refund and end of every participant, one row each, never changed (I04).

One SQLite file with a rollback journal, so that all that was committed lies in the one file: a kill at any byte leaves either
the row or none of it. Each row carries the hash of the rows before it, and `head` how many there are and the last hash: a file
that was cut, changed or mixed up is refused, never guessed over. What no file can tell is that it is an old copy of itself.

Participants stand there by the code that the session's configuration gives, in capitals. It is not hashed: the session files
carry the same code, a list of codes is quickly tried through, and a salt that got lost would forget every dose with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec

from devices.dose import Entry, Moment
from devices.dose_book import DoseBookError

APPLICATION_ID: Final = 0x43444F53  # "CDOS"
VERSION: Final = 1
_BUSY_S: Final = 2.0
_ERRORS: Final = (sqlite3.Error, UnicodeDecodeError, OverflowError, MemoryError)
_TABLES: Final = {
    "entries": "CREATE TABLE entries (\n  seq INTEGER PRIMARY KEY,\n  body TEXT NOT NULL,\n  hash BLOB NOT NULL\n)",
    "head": "CREATE TABLE head (\n  id TEXT NOT NULL,\n  count INTEGER NOT NULL,\n  hash BLOB NOT NULL\n)",
}
_DECODER: Final = msgspec.json.Decoder(Entry, strict=True)


class LedgerError(DoseBookError):
    """The ledger is missing, damaged, busy or cannot be written; one sentence says which, where and what to do."""


def default_path() -> Path:
    """Where the ledger lies unless `dose.ledger` names another: ``$XDG_DATA_HOME/cereloop/dose.sqlite``.

    ``~/.local/share`` stands in for a variable that is unset or no absolute path.
    """
    base = Path(os.environ.get("XDG_DATA_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".local" / "share") / "cereloop" / "dose.sqlite"


def create(path: Path) -> None:
    """Make an empty ledger, whole or not at all; never over another.

    Raises
    ------
    LedgerError
        If there is one already, or it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        if path.parent == default_path().parent:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            _write_empty(draft)
            os.link(draft, path)
        finally:
            draft.unlink()
        _sync_folder(path.parent)
    except FileExistsError as error:
        raise LedgerError(f"{path} exists already; a ledger is never made over another") from error
    except (OSError, sqlite3.Error) as error:
        raise LedgerError(f"{path}: a ledger cannot be made here: {_words(error)}") from error


def _write_empty(draft: Path) -> None:
    with contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as database:
        database.execute("PRAGMA synchronous = EXTRA")
        database.execute("BEGIN")
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {VERSION}")
        for sql in _TABLES.values():
            database.execute(sql)
        name = secrets.token_hex(16)
        database.execute("INSERT INTO head VALUES (?, 0, ?)", (name, _root(name)))
        database.execute("COMMIT")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Ledger:
    """An open ledger, verified from its first row to its last. Nothing is cached that another process could change.

    Parameters
    ----------
    path : Path
        Made by `create`.

    Attributes
    ----------
    entries : list of Entry
        All rows, in order, as of the last look.

    Raises
    ------
    LedgerError
        Here and in every method.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Entry] = []
        self._look_at()
        with self._named():
            self._db = sqlite3.connect(
                f"file:{quote(str(path.absolute()))}?mode=rw",
                uri=True,
                isolation_level=None,
                timeout=_BUSY_S,
                check_same_thread=False,
            )
        try:
            with self._named():
                self._db.execute("PRAGMA synchronous = EXTRA")
                self._db.execute("PRAGMA cell_size_check = ON")
                self._db.execute("PRAGMA trusted_schema = OFF")
                with self._transaction("BEGIN"):
                    self._check_identity()
                    self._hash = _root(self._head()[0])
                    self._catch_up()
        except LedgerError:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the file for writing and know all its rows; what was put is committed at the end, or nothing of it is."""
        known, link = len(self.entries), self._hash
        try:
            with self._named(), self._transaction("BEGIN IMMEDIATE"):
                self._catch_up()
                yield
                self._db.execute("UPDATE head SET count = ?, hash = ?", (len(self.entries), self._hash))
        except BaseException:
            # Whether a commit that failed has reached the disk is for the file to say, at the next look.
            del self.entries[known:]
            self._hash = link
            raise

    def put(self, entry: Entry) -> None:
        """Add a row, within `writing`; its number must be the next one."""
        body = msgspec.json.encode(entry)
        self._hash = _link(self._hash, body)
        self._db.execute("INSERT INTO entries VALUES (?, CAST(? AS TEXT), ?)", (entry.seq, body, self._hash))
        self.entries.append(entry)

    @property
    def next_seq(self) -> int:
        """Number of the next row."""
        return len(self.entries)

    @property
    def newest_ns(self) -> int:
        """Wall time of the newest row, in ns; 0 where there is none."""
        return max((entry.at.wall_ns for entry in self.entries), default=0)

    def check_clock(self, now: Moment) -> None:
        """Refuse a wall clock that lies before the last entry: it would make the past look longer ago or not have been.

        Raises
        ------
        LedgerError
        """
        if now.wall_ns < self.newest_ns:
            behind_s = (self.newest_ns - now.wall_ns) / 1e9
            raise LedgerError(
                f"the wall clock is {behind_s:.1f} s behind the last entry of {self.path}: set this computer's clock right"
            )

    def _look_at(self) -> None:
        """What must be known before SQLite, which takes an empty file for a new one, gets to see it."""
        try:
            size = self.path.stat().st_size
        except FileNotFoundError as error:
            raise LedgerError(
                f"there is no dose ledger at {self.path}: nobody's dose is on record; if that is right, make one with "
                "`cereloop dose --new`"
            ) from error
        except OSError as error:
            raise LedgerError(f"{self.path}: {_words(error)}") from error
        if not self.path.is_file() or size == 0:
            raise self._damaged("it is empty" if size == 0 else "it is no file")

    def _check_identity(self) -> None:
        (application,) = self._db.execute("PRAGMA application_id").fetchone()
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID:
            raise LedgerError(f"{self.path} is no dose ledger; name the right file by dose.ledger")
        if version != VERSION:
            raise LedgerError(f"{self.path} has format {version}, this software reads {VERSION}; use what wrote it")
        found = dict(self._db.execute("SELECT name, sql FROM sqlite_master").fetchall())
        if found != _TABLES:
            raise self._damaged("its tables are not those of a ledger")
        faults = [row[0] for row in self._db.execute("PRAGMA integrity_check(1)")]
        if faults != ["ok"]:
            raise self._damaged(str(faults[0])[:200])

    def _head(self) -> tuple[str, int, bytes]:
        rows = self._db.execute("SELECT id, count, hash FROM head").fetchall()
        if len(rows) != 1 or [type(value) for value in rows[0]] != [str, int, bytes]:
            raise self._damaged("its head is not what it must be")
        name, count, link = rows[0]
        return name, count, link

    def _catch_up(self) -> None:
        """Verify and take in the rows that have come since the last look."""
        _, count, head = self._head()
        rows = self._db.execute("SELECT seq, body, hash FROM entries WHERE seq >= ? ORDER BY seq", (len(self.entries),))
        for seq, body, link in rows:
            if seq != len(self.entries) or not isinstance(body, str):
                raise self._damaged(f"row {len(self.entries)} is missing or is no row")
            data = body.encode()
            self._hash = _link(self._hash, data)
            if link != self._hash:
                raise self._damaged(f"row {seq} does not match its hash")
            self.entries.append(self._decoded(seq, data))
        if count != len(self.entries) or head != self._hash:
            raise self._damaged(f"it has {len(self.entries)} rows that match, and its head says {count}")

    def _decoded(self, seq: int, data: bytes) -> Entry:
        try:
            entry = _DECODER.decode(data)
        except (msgspec.DecodeError, RecursionError) as error:
            raise self._damaged(f"row {seq} cannot be read ({error})") from error
        if entry.seq != seq:
            raise self._damaged(f"row {seq} says that it is row {entry.seq}")
        return entry

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        self._db.execute(begin)
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Turn what SQLite says into one sentence with the file's name."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise LedgerError(f"{self.path}: the ledger cannot be used: {' '.join(str(error).split())}") from error
        except _ERRORS as error:
            raise self._damaged(str(error)[:200] or type(error).__name__) from error

    def _damaged(self, what: str) -> LedgerError:
        said = " ".join(what.split())
        return LedgerError(f"{self.path} is damaged ({said}): put back a whole copy of the ledger; until then nothing is armed")


def _root(name: str) -> bytes:
    return hashlib.sha256(f"cereloop dose ledger {VERSION}\0{name}".encode("utf-8", "surrogatepass")).digest()


def _link(previous: bytes, body: bytes) -> bytes:
    return hashlib.sha256(previous + body).digest()


def _words(error: Exception) -> str:
    return (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
