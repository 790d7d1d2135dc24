"""Damage of any kind is reported, the valid prefix stays readable, all errors are typed (I21, I29)."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from journal_helpers import META, session_steps, write_session

from devices.clock import VirtualClock
from loop.events import Tick
from loop.reader import Session
from loop.recorder import InlineRecorder
from loop.session_file import PAGE_BYTES, VIEWS, JournalError, LogRow

N_CHUNKS = 60


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undamaged session."""
    return write_session(tmp_path_factory.mktemp("check") / "session.sqlite", N_CHUNKS)


@pytest.fixture(scope="module")
def rows(original: Path) -> list[LogRow]:
    """All rows of the undamaged session."""
    with Session.open(original) as session:
        return list(session.rows())


def edit(path: Path, *statements: str) -> None:
    """Change a session file as any SQLite tool could."""
    with sqlite3.connect(path) as database:
        for statement in statements:
            database.execute(statement)
    database.close()


def flip(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def flip_in_header(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[chance.randrange(PAGE_BYTES)] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def scramble(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    start = chance.randrange(len(data) - 64)
    data[start : start + 64] = chance.randbytes(64)
    path.write_bytes(data)


def truncate(path: Path, chance: random.Random) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(chance.randrange(size))


def truncate_at_page(path: Path, chance: random.Random) -> None:
    pages = path.stat().st_size // PAGE_BYTES
    with path.open("r+b") as file:
        file.truncate(chance.randrange(1, pages) * PAGE_BYTES)


def zero_page(path: Path, chance: random.Random) -> None:
    pages = path.stat().st_size // PAGE_BYTES
    with path.open("r+b") as file:
        file.seek(chance.randrange(pages) * PAGE_BYTES)
        file.write(bytes(PAGE_BYTES))


def copy_page(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    source, target = (chance.randrange(len(data) // PAGE_BYTES) * PAGE_BYTES for _ in range(2))
    data[target : target + PAGE_BYTES] = data[source : source + PAGE_BYTES]
    path.write_bytes(data)


def swap_rows(path: Path, chance: random.Random) -> None:
    low, high = sorted(chance.sample(range(1, 2 * N_CHUNKS), 2))
    move = "UPDATE log SET seq = {} WHERE seq = {}"
    edit(path, move.format(-1, low), move.format(low, high), move.format(high, -1))


def swap_contents(path: Path, chance: random.Random) -> None:
    low, high = sorted(chance.sample(range(1, 2 * N_CHUNKS), 2))
    column = chance.choice(["body", "hash"])
    edit(
        path,
        f"UPDATE log SET {column} = CASE seq WHEN {low} THEN (SELECT {column} FROM log WHERE seq = {high})"
        f" ELSE (SELECT {column} FROM log WHERE seq = {low}) END WHERE seq IN ({low}, {high})",
    )


def edit_column(path: Path, chance: random.Random) -> None:
    changes = [
        "body = json_set(body, '$.t_ns', 1)",
        "body = body || ' '",
        "body = CAST(body AS BLOB)",
        "t_ns = t_ns + 1",
        "t_ns = t_ns + 0.5",
        "wall_ns = wall_ns - 1",
        "kind = kind || 's'",
        "kind = 'ti' || char(0) || 'ck'",
        "cause = coalesce(cause, 0) + 1",
        "data = zeroblob(7)",
        "data = coalesce(data, x'') || x'00'",
        "hash = zeroblob(32)",
        "hash = 'text'",
        "body = x'ff'",
    ]
    edit(path, f"UPDATE log SET {chance.choice(changes)} WHERE seq = {chance.randrange(2 * N_CHUNKS)}")


def edit_meta(path: Path, chance: random.Random) -> None:
    change = chance.choice(
        ["value = value || ' ' WHERE key = 'config'", "value = 'live' WHERE key = 'mode'", "key = 'x' || key"]
    )
    edit(path, f"UPDATE meta SET {change}")


def drop(path: Path, chance: random.Random) -> None:
    name = chance.choice([*VIEWS, "log", "meta"])
    edit(path, f"DROP {'VIEW' if name in VIEWS else 'TABLE'} {name}")


def lie_in_view(path: Path, chance: random.Random) -> None:
    name = chance.choice(sorted(VIEWS))
    edit(path, f"DROP VIEW {name}", f"CREATE VIEW {name} AS SELECT * FROM log LIMIT 0")


def delete(path: Path, chance: random.Random) -> None:
    edit(path, f"DELETE FROM log WHERE seq = {chance.randrange(2 * N_CHUNKS)}")


def delete_tail(path: Path, chance: random.Random) -> None:
    edit(path, f"DELETE FROM log WHERE seq >= {chance.randrange(2 * N_CHUNKS)}")


def append(path: Path, chance: random.Random) -> None:
    edit(
        path,
        f"INSERT INTO log SELECT max(seq) + 1, {chance.randrange(99)}, 0, 'tick', NULL, '{{}}', NULL, hash FROM log",
    )


DAMAGES: list[tuple[Callable[[Path, random.Random], None], int]] = [
    (flip, 60),
    (flip_in_header, 20),
    (scramble, 20),
    (truncate, 20),
    (truncate_at_page, 10),
    (zero_page, 20),
    (copy_page, 10),
    (swap_rows, 6),
    (swap_contents, 6),
    (edit_column, 20),
    (edit_meta, 4),
    (drop, 4),
    (lie_in_view, 3),
    (delete, 4),
    (delete_tail, 4),
    (append, 2),
]
MUST_BE_SEEN = {
    swap_rows,
    swap_contents,
    edit_column,
    edit_meta,
    drop,
    lie_in_view,
    delete,
    delete_tail,
    append,
}


def read_all(session: Session) -> None:
    """Use every reader; only a JournalError may come out."""
    readers: list[Callable[[], object]] = [
        lambda: list(session.steps()),
        lambda: list(session.inputs()),
        lambda: session.outputs_of(3),
        lambda: session.explain(session.commands.seq[0]) if session.commands else None,
        lambda: session.last_seq,
        lambda: session.closed,
    ]
    names = (
        "features",
        "outcomes",
        "decisions",
        "gates",
        "markers",
        "device_reports",
        "incidents",
        "ticks",
        "columns",
    )
    readers += [lambda name=name: getattr(session, name) for name in names]  # type: ignore[misc]
    for read in readers:
        with contextlib.suppress(JournalError):
            read()


def judge(path: Path, rows: list[LogRow]) -> str:
    """What becomes of a damaged file; fails if damage goes unnoticed or anything untyped is raised."""
    try:
        session = Session.open(path)
    except JournalError as error:
        return "refused" if "\n" not in str(error) else "refused at length"
    with session:
        read_all(session)
        report = session.check()
        found = list(session.rows())
        assert found == rows[: report.valid_rows], "the valid part must be a prefix of what was written"
        assert len(found) == report.valid_rows
        if report.ok and report.closed:
            assert found == rows
            assert session.meta.config_text == META.config_text
            assert session.meta.versions == META.versions
            assert session.mode == META.mode
            database = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
            assert database.execute("SELECT count(*) FROM decisions").fetchone() == (3,)
            database.close()
            return "unaffected"
        return "reported"


@pytest.mark.parametrize(("damage", "times"), DAMAGES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_damage_is_reported_or_has_no_effect(
    damage: Callable[[Path, random.Random], None],
    times: int,
    original: Path,
    rows: list[LogRow],
    tmp_path: Path,
) -> None:
    verdicts = []
    for seed in range(times):
        path = tmp_path / f"{seed}.sqlite"
        shutil.copy(original, path)
        damage(path, random.Random(seed))
        verdicts.append(judge(path, rows))
        path.unlink()
    if damage in MUST_BE_SEEN:
        assert "unaffected" not in verdicts
    assert "refused at length" not in verdicts


def test_there_are_two_hundred_damages() -> None:
    assert sum(times for _, times in DAMAGES) >= 200


def test_an_undamaged_session_is_found_so(original: Path, rows: list[LogRow]) -> None:
    with Session.open(original) as session:
        report = session.check()
    assert report.ok
    assert report.closed
    assert report.valid_rows == len(rows)
    assert report.notes == ()
    assert len(bytes.fromhex(report.last_hash)) == 32
    assert judge(original, rows) == "unaffected"


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ("hash = zeroblob(32)", "hash"),
        ("hash = 5", "hash"),
        ("t_ns = t_ns + 1", "t_ns"),
        ("kind = 'marker'", "kind"),
        ("kind = 'unheard of'", "kind"),
        ("kind = 'unheard' || x'ff'", "kind"),
        ("body = 'no json'", "body"),
        ("body = x'7b7d'", "body"),
        ("wall_ns = 'noon'", "wall_ns"),
        ("wall_ns = wall_ns + 1", None),
    ],
)
def test_the_first_broken_row_and_column_are_named(
    original: Path, rows: list[LogRow], tmp_path: Path, change: str, column: str | None
) -> None:
    path = tmp_path / "session.sqlite"
    shutil.copy(original, path)
    seq = next(row.seq for row in rows[60:] if row.kind == "tick")
    edit(path, f"UPDATE log SET {change} WHERE seq = {seq}", "UPDATE log SET wall_ns = 0 WHERE seq = 120")
    with Session.open(path) as session:
        report = session.check()
        assert (report.ok, report.seq, report.column, report.valid_rows) == (False, seq, column, seq)
        assert f"row {seq}" in report.problem
        assert [row.seq for row in session.rows()] == list(range(seq)), "readers end where the valid rows end"
        assert session.last_seq == seq - 1
        assert not session.closed


def test_changed_meta_is_named_and_makes_no_row_believable(original: Path, tmp_path: Path) -> None:
    path = tmp_path / "session.sqlite"
    shutil.copy(original, path)
    edit(path, "UPDATE meta SET value = 'polarity = 1' WHERE key = 'config'")
    with Session.open(path) as session:
        report = session.check()
    assert (report.seq, report.column, report.valid_rows) == (0, "meta", 0)


def test_a_missing_tail_shows_as_a_session_that_was_not_closed(original: Path, tmp_path: Path) -> None:
    path = tmp_path / "session.sqlite"
    shutil.copy(original, path)
    edit(path, "DELETE FROM log WHERE seq >= 99")
    with Session.open(path) as session:
        report = session.check()
    assert (report.ok, report.closed, report.valid_rows) == (True, False, 99)


def test_a_file_that_other_tools_refuse_is_reported_though_its_rows_are_whole(original: Path, tmp_path: Path) -> None:
    schema, pages = tmp_path / "schema.sqlite", tmp_path / "pages.sqlite"
    shutil.copy(original, schema)
    edit(schema, "PRAGMA writable_schema = ON", "UPDATE sqlite_master SET type = 'viex' WHERE name = 'markers'")
    data = bytearray(original.read_bytes())
    data[28:32] = (int.from_bytes(data[28:32], "big") + 1).to_bytes(4, "big")
    pages.write_bytes(data)
    for path in (schema, pages):
        with contextlib.closing(sqlite3.connect(path)) as database, pytest.raises(sqlite3.DatabaseError, match="malformed"):
            database.execute("SELECT count(*) FROM log")
        with Session.open(path) as session:
            report = session.check()
            assert "malformed" in report.problem
            assert report.closed
            assert len(list(session.rows())) == report.valid_rows


def test_a_false_signpost_between_pages_is_reported_though_all_rows_are_read(original: Path, tmp_path: Path) -> None:
    path = tmp_path / "session.sqlite"
    data = bytearray(original.read_bytes())
    with contextlib.closing(sqlite3.connect(f"{original.as_uri()}?mode=ro", uri=True)) as database:
        root = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'log'").fetchone()[0]
    page = (root - 1) * PAGE_BYTES
    assert data[page] == 5, "the root must be an interior page"
    cell = page + int.from_bytes(data[page + 12 : page + 14], "big")
    data[cell + 4] -= 1  # the greatest seq below the first branch, a number of one byte
    path.write_bytes(data)
    with Session.open(path) as session:
        report = session.check()
    assert "out of order" in report.problem
    assert report.closed


def test_rows_are_valid_up_to_the_very_row_that_cannot_be_read(original: Path, rows: list[LogRow], tmp_path: Path) -> None:
    path = tmp_path / "session.sqlite"
    data = bytearray(original.read_bytes())
    page = data.index(next(row for row in rows[100:] if row.kind == "tick").body) // PAGE_BYTES * PAGE_BYTES
    data[page : page + PAGE_BYTES] = bytes(PAGE_BYTES)
    path.write_bytes(data)
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
        seq = 0
        with contextlib.suppress(sqlite3.DatabaseError):
            while database.execute("SELECT body FROM log WHERE seq = ?", (seq,)).fetchall():
                seq += 1
    with Session.open(path) as session:
        report = session.check()
    assert 0 < seq <= 110
    assert (report.ok, report.valid_rows, report.seq) == (False, seq, seq)


def test_rows_after_the_end_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "session.sqlite"
    recorder = InlineRecorder(path, META, VirtualClock())
    recorder.record(Tick(t_ns=1))
    recorder.close()
    with Session.open(path) as session:
        last = session.check().last_hash
    edit(path, f"INSERT INTO log VALUES (3, 0, 0, 'tick', NULL, '{{}}', NULL, x'{last}')")
    with Session.open(path) as session:
        report = session.check()
    assert (report.ok, report.seq, report.valid_rows) == (False, 3, 3)


def test_reading_damaged_rows_without_a_check_raises_where_they_begin(original: Path, tmp_path: Path) -> None:
    path = tmp_path / "session.sqlite"
    shutil.copy(original, path)
    edit(path, "DELETE FROM log WHERE seq = 77")
    with Session.open(path) as session:
        read = 0
        with pytest.raises(JournalError, match="row 77"):
            for row in session.rows():
                assert row.seq == read
                read += 1
        assert read == 77


def test_a_file_cut_short_opens_up_to_the_cut(original: Path, rows: list[LogRow], tmp_path: Path) -> None:
    data = original.read_bytes()
    lengths = []
    for part in (0.5, 0.75, 0.95):
        path = tmp_path / f"{part}.sqlite"
        path.write_bytes(data[: int(len(data) * part)])
        with Session.open(path) as session:
            report = session.check()
            assert not report.ok
            assert list(session.rows()) == rows[: report.valid_rows]
            lengths.append(report.valid_rows)
    assert 0 < lengths[0] < lengths[1] < lengths[2] < len(rows)


def test_a_damaged_or_lost_write_ahead_log_shortens_the_session(rows: list[LogRow], tmp_path: Path) -> None:
    live = tmp_path / "live.sqlite"
    clock = VirtualClock()
    recorder = InlineRecorder(live, META, clock, store_samples=True, rows_a_commit=8)
    for event, outputs in session_steps(N_CHUNKS):
        clock.advance_to(max(clock.now_ns(), event.t_ns))
        recorder.record(event, outputs)
    wal = (tmp_path / "live.sqlite-wal").read_bytes()
    assert len(wal) > 30 * PAGE_BYTES, "the rows must be in the log, else this test shows nothing"
    main = live.read_bytes()
    chance = random.Random(3)
    lengths = set()
    for trial in range(20):
        path = tmp_path / f"{trial}.sqlite"
        path.write_bytes(main)
        broken = bytearray(wal)
        if trial % 2:
            broken[chance.randrange(len(broken))] ^= 1 << chance.randrange(8)
        else:
            del broken[chance.randrange(len(broken)) :]
        path.with_name(path.name + "-wal").write_bytes(broken if trial else b"")
        with Session.open(path) as session:
            read_all(session)
            report = session.check()
            assert report.ok
            assert not report.closed
            assert list(session.rows()) == rows[: report.valid_rows]
            lengths.add(report.valid_rows)
    recorder.close()
    assert 1 in lengths, "without its write-ahead log only the beginning is left"
    assert len(lengths) > 10


def test_tables_that_others_add_are_noted_and_harmless(original: Path, tmp_path: Path) -> None:
    path = tmp_path / "session.sqlite"
    shutil.copy(original, path)
    edit(path, "CREATE TABLE notes (text)", "CREATE VIEW late AS SELECT * FROM log WHERE seq > 100", "ANALYZE")
    with Session.open(path) as session:
        report = session.check()
    assert report.ok
    assert "notes was added by others" in report.notes
