"""The synchronous recorder: the same bytes for the same events, one file, never over another."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from journal_helpers import META, chunk, session_steps, write_session

from devices.clock import VirtualClock
from loop.events import Chunk, Tick
from loop.reader import Session
from loop.recorder import InlineRecorder
from loop.session_file import JournalError

ROOT = Path(__file__).resolve().parents[2]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_same_events_give_the_same_file(tmp_path: Path) -> None:
    first = write_session(tmp_path / "first.sqlite")
    (tmp_path / "elsewhere").mkdir()
    second = write_session(tmp_path / "elsewhere" / "under another name.sqlite")
    assert digest(first) == digest(second)
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "first.sqlite"]
    assert digest(write_session(tmp_path / "third.sqlite", 61)) != digest(first)


@pytest.mark.parametrize("hash_seed", ["1", "77"])
def test_another_process_with_another_hash_seed_writes_the_same_file(tmp_path: Path, hash_seed: str) -> None:
    here = write_session(tmp_path / "here.sqlite", 200, rows_a_commit=50)
    there = tmp_path / "there.sqlite"
    code = (
        "import pathlib, sys; from journal_helpers import write_session;"
        "write_session(pathlib.Path(sys.argv[1]), 200, rows_a_commit=50)"
    )
    search = os.pathsep.join((str(ROOT), str(Path(__file__).parent)))
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": search, "TZ": "Asia/Tokyo"}
    subprocess.run([sys.executable, "-c", code, str(there)], check=True, env=environment, cwd=tmp_path)
    assert digest(here) == digest(there)


def test_neither_path_nor_time_of_the_host_is_in_the_file(tmp_path: Path) -> None:
    data = write_session(tmp_path / "unmistakable.sqlite").read_bytes()
    assert b"unmistakable" not in data
    assert str(tmp_path).encode() not in data
    with Session.open(tmp_path / "unmistakable.sqlite") as session:
        assert all(row.wall_ns // 10**9 < 946_684_800 + 60 for row in session.rows())


def test_an_existing_file_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "session.sqlite"
    path.write_text("precious")
    with pytest.raises(JournalError, match="exists already"):
        InlineRecorder(path, META, VirtualClock())
    assert path.read_text() == "precious"
    (tmp_path / "dangling.sqlite").symlink_to(tmp_path / "nowhere")
    with pytest.raises(JournalError, match="exists already"):
        InlineRecorder(tmp_path / "dangling.sqlite", META, VirtualClock())


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="directory does not exist"):
        InlineRecorder(tmp_path / "no" / "session.sqlite", META, VirtualClock())
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="cannot create"):
        InlineRecorder(tmp_path / "file" / "session.sqlite", META, VirtualClock())


def test_rows_are_numbered_in_order_and_caused_by_their_input(tmp_path: Path) -> None:
    path = tmp_path / "session.sqlite"
    expected: list[tuple[int, str, int | None]] = [(0, "opened", None)]
    with InlineRecorder(path, META, VirtualClock()) as recorder:
        for event, outputs in session_steps(30):
            seq = recorder.record(event, outputs)
            kind = "chunk" if isinstance(event, Chunk) else str(event.__struct_config__.tag)
            assert seq == expected[-1][0] + 1
            expected.append((seq, kind, None))
            expected += [(seq + number, "", seq) for number in range(1, len(outputs) + 1)]
            assert recorder.recorded == expected[-1][0]
    expected.append((expected[-1][0] + 1, "closed", None))
    with Session.open(path) as session:
        found = [(row.seq, "" if row.cause else row.kind, row.cause) for row in session.rows()]
    assert found == expected


def test_leaving_by_an_error_keeps_the_rows_but_not_the_mark_of_an_orderly_end(tmp_path: Path) -> None:
    path = tmp_path / "session.sqlite"

    def interrupted() -> None:
        with InlineRecorder(path, META, VirtualClock()) as recorder:
            recorder.record(Tick(t_ns=5))
            raise KeyError("a bug elsewhere")

    with pytest.raises(KeyError):
        interrupted()
    with Session.open(path) as session:
        report = session.check()
        assert (report.ok, report.closed, report.valid_rows) == (True, False, 2)


def test_what_cannot_be_recorded_without_loss_raises_and_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "session.sqlite"
    with InlineRecorder(path, META, VirtualClock()) as recorder:
        with pytest.raises(JournalError, match="finite"):
            recorder.record(Chunk(0, 1, 0, np.zeros(1, "i8"), np.zeros((1, 1), "f4"), float("nan")))
        with pytest.raises(JournalError, match="64 bits"):
            recorder.record(Tick(t_ns=2**63))
        assert recorder.record(Tick(t_ns=1)) == 1
    with Session.open(path) as session:
        assert session.check().ok
        assert list(session.inputs()) == [Tick(t_ns=1)]


def test_rows_become_visible_with_their_commit(tmp_path: Path) -> None:
    path = tmp_path / "session.sqlite"
    recorder = InlineRecorder(path, META, VirtualClock(), rows_a_commit=4)
    with Session.open(path) as session:
        for number in range(6):
            recorder.record(chunk(number))
        assert session.last_seq == 4
        assert not session.closed
        recorder.close()
        assert session.last_seq == 7
        assert session.closed
        recorder.close()
        assert session.check().ok
