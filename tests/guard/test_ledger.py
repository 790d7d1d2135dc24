"""The ledger's file: killed at every change, cut, changed, missing, busy; it never counts too little (I04, F54)."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ledger_rig import SetClock, gate, past, taken

from devices import ledger
from devices.dose import DoseSession
from devices.dose_book import DoseBookError
from devices.ledger import Ledger, LedgerError
from devices.ledger_book import sessions_of

HERE = Path(__file__).parent
COUNTED = (0, 1000, 400, 900, 600)
"""Charge that counts after each acknowledged step of `ledger_crash.bookings`."""


@pytest.fixture
def quick_folder() -> Iterator[Path]:
    """In memory where there is such a place: what a kill leaves behind does not hang on the disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


def test_killed_at_every_change_of_a_file_the_next_guard_counts_all_that_may_have_flowed(
    tmp_path: Path, quick_folder: Path
) -> None:
    """At least what was acknowledged, at most what was asked for; and the session goes on, for it did not end in order."""
    shim = tmp_path / "shim.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(shim), str(HERE / "crash_shim.c"), "-ldl"], check=True)
    done = subprocess.run(
        [sys.executable, str(HERE / "ledger_crash.py"), str(shim), str(quick_folder)],
        env={**os.environ, "LD_PRELOAD": str(shim), "PYTHONPATH": str(HERE.parents[1])},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    crashes = [row for row in found if row["work"] == "book" and row["died"]]
    assert len(crashes) > 3 * 5 * 10, "the shim must see every write, flush and removal of five transactions"
    assert {row["steps"] for row in crashes} == {0, 1, 2, 3, 4}
    for row in crashes:
        if "refused" in row:
            assert row["steps"] == 4 and "the last session (crashed)" in row["refused"], row
            continue
        assert row["used"] in COUNTED[row["steps"] : row["steps"] + 2], row
        assert row["goes_on"] is (row["used"] > 0), row
    made = [row for row in found if row["work"] == "create"]
    assert len(made) > 5
    assert all(row["whole"] for row in made), "a ledger is made whole or not at all"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "good.sqlite"
    past(path, SetClock())
    return path


def told(path: Path) -> list[tuple[str, int, int]] | None:
    """What the ledger says of P001; None where it is refused."""
    said = ""
    sessions: tuple[DoseSession, ...] = ()
    try:
        book = Ledger(path)
        sessions = sessions_of(book, "P001", emulated=False)
        book.close()
    except LedgerError as error:
        said = str(error)
    if said:
        assert str(path) in said and len(said.splitlines()) == 1
        return None
    return [(session.name, session.counted_uc, session.counted_ms) for session in sessions]


def test_a_file_cut_at_any_length_is_refused(good: Path, tmp_path: Path) -> None:
    data = good.read_bytes()
    path = tmp_path / "cut.sqlite"
    for length in [*range(100), *range(100, len(data), 97), len(data) - 1]:
        path.write_bytes(data[:length])
        assert told(path) is None, length


def test_a_changed_byte_is_refused_or_changes_nothing(good: Path, tmp_path: Path) -> None:
    data, expected = good.read_bytes(), told(good)
    path = tmp_path / "flipped.sqlite"
    refused = 0
    # Most of a page is empty; what is written stands at its beginning and its end.
    places = [at for at in range(len(data)) if data[at] or at % 4096 < 120]
    for at in places[::7]:
        for bit in (0x01, 0x80):
            changed = bytearray(data)
            changed[at] ^= bit
            path.write_bytes(changed)
            found = told(path)
            refused += found is None
            assert found in (None, expected), at
    assert refused > len(places) // 7


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("delete from entries where seq = (select max(seq) from entries)", "its head says"),
        ("delete from entries where seq = 3", "row 3 is missing"),
        ("update entries set body = replace(body, '\"charge_uc\":1000', '\"charge_uc\":10') where seq = 1", "row 1 does not"),
        ("update head set count = count - 1", "its head says"),
        ("delete from head", "its head"),
        ("update entries set body = 7 where seq = 2", "row 2"),
        ("drop table head", "its tables"),
        ("create table more (x)", "its tables"),
        ("pragma application_id = 7", "is no dose ledger"),
        ("pragma user_version = 2", "has format 2"),
    ],
)
def test_a_row_that_was_removed_or_changed_by_hand_is_refused(good: Path, tmp_path: Path, spoil: str, words: str) -> None:
    path = tmp_path / "spoilt.sqlite"
    shutil.copy(good, path)
    database = sqlite3.connect(path)
    database.execute(spoil)
    database.commit()
    database.close()
    with pytest.raises(LedgerError, match=words):
        Ledger(path)


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"hello", b"SQLite format 3\0" + b"\1" * 5000])
def test_what_is_no_ledger_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    path.write_bytes(content)
    assert told(path) is None


def test_a_missing_ledger_is_never_made_by_a_guard(tmp_path: Path) -> None:
    path = tmp_path / "gone.sqlite"
    with pytest.raises(DoseBookError, match="cereloop dose --new"):
        taken(path, SetClock())
    assert not path.exists()


def test_a_ledger_is_never_made_over_another_and_never_where_nobody_may_write(good: Path, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="exists already"):
        ledger.create(good)
    with pytest.raises(LedgerError, match="no such file"):
        ledger.create(tmp_path / "no" / "such" / "dose.sqlite")
    assert sorted(path.name for path in tmp_path.iterdir()) == []


def test_a_ledger_that_another_program_holds_is_refused_and_the_gate_with_it(tmp_path: Path) -> None:
    path, clock = tmp_path / "d.sqlite", SetClock()
    past(path, clock)
    book = taken(path, clock)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(DoseBookError, match="locked"):
        book.reserve(1000, 2000)
    holder.execute("COMMIT")
    holder.close()
    gate(book, clock)
    book.close()
    assert told(path) == [("old-P001", 1200, 2700), ("s1", 400, 900)]


def test_a_ledger_that_cannot_be_written_is_found_out_before_anybody_arms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, clock = tmp_path / "d.sqlite", SetClock()
    past(path, clock)
    connect = sqlite3.connect

    def read_only(where: str, **options: Any) -> sqlite3.Connection:
        return connect(where.replace("mode=rw", "mode=ro"), **options)

    monkeypatch.setattr(sqlite3, "connect", read_only)
    with pytest.raises(DoseBookError, match=r"d\.sqlite: the ledger cannot be used: attempt to write a readonly database"):
        taken(path, clock)


def test_it_is_for_its_owner_alone(good: Path) -> None:
    assert good.stat().st_mode & 0o777 == 0o600
