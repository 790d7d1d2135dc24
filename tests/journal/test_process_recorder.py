"""The recording process: what it gets it keeps, and the engine never waits for it (I21, I22, I26)."""

from __future__ import annotations

import contextlib
import os
import random
import re
import select
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from journal_helpers import META, chunk, content, features, recording_process, session_steps, write_session

from devices.clock import SystemClock, VirtualClock
from devices.units import NS_PER_S
from loop.events import Chunk, Operator, Tick
from loop.reader import Session
from loop.recorder import ProcessRecorder, RecorderStatus
from loop.session_file import JournalError

ROOT = Path(__file__).resolve().parents[2]
SEARCH = os.pathsep.join((str(ROOT), str(Path(__file__).parent)))
FULL_DISK = "(?i)full|disk i/o|too large"


@pytest.fixture
def reap() -> Iterator[list[ProcessRecorder]]:
    """Recorders whose process a test leaves behind."""
    recorders: list[ProcessRecorder] = []
    yield recorders
    for recorder in recorders:
        with contextlib.suppress(ProcessLookupError):
            os.kill(recorder.pid, signal.SIGCONT)
            os.kill(recorder.pid, signal.SIGKILL)
        with contextlib.suppress(JournalError):
            recorder.close(5.0)


def pump_until(recorder: ProcessRecorder, done: Callable[[RecorderStatus], bool], timeout_s: float = 20.0) -> RecorderStatus:
    """Pump whenever the recording process says something, until `done`."""
    deadline = time.monotonic() + timeout_s
    while not done(recorder.status()):
        assert time.monotonic() < deadline, recorder.status()
        select.select([recorder], [], [], 0.02)
        recorder.pump()
    return recorder.status()


def wait_for_exit(pid: int) -> None:
    """Wait until any process has ended, child or not."""
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            assert select.select([handle], [], [], 20.0)[0], "the recording process lives on"
        finally:
            os.close(handle)


def test_it_writes_what_the_inline_recorder_writes(tmp_path: Path) -> None:
    recorder = ProcessRecorder(tmp_path / "live.sqlite", META, VirtualClock())
    for event, outputs in session_steps(60):
        recorder.record(event, outputs)
        recorder.pump()
    status = recorder.close()
    assert status.lost is None
    assert status.committed == status.recorded
    assert status.backlog_bytes == 0
    inline = write_session(tmp_path / "inline.sqlite", 60)
    assert sorted(os.listdir(tmp_path)) == ["inline.sqlite", "live.sqlite"]
    with Session.open(tmp_path / "live.sqlite") as live, Session.open(inline) as other:
        assert live.check().ok
        assert live.closed
        found, expected = list(map(content, live.rows())), list(map(content, other.rows()))
        assert found[:-1] == expected[:-1]
    assert recorder.close() == status


def test_rows_are_on_disk_soon_after_they_were_recorded(tmp_path: Path) -> None:
    recorder = ProcessRecorder(tmp_path / "live.sqlite", META, SystemClock())
    with Session.open(tmp_path / "live.sqlite") as session:
        assert session.last_seq == 0
        seq = recorder.record(chunk(0), [features(0)])
        assert recorder.status().lag_s == 0.0
        status = pump_until(recorder, lambda status: status.committed == seq + 1)
        assert status.lag_s == 0.0
        assert session.last_seq == 2
        recorder.close()
        assert session.closed


def test_it_neither_needs_nor_loads_what_could_take_it_down() -> None:
    code = "import sys, loop.row_writer; sys.exit(bool({'mne', 'pylsl', 'scipy'} & sys.modules.keys()))"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": SEARCH})


def test_an_interrupt_from_the_keyboard_does_not_reach_it(tmp_path: Path) -> None:
    recorder = ProcessRecorder(tmp_path / "live.sqlite", META, SystemClock())
    assert os.getsid(recorder.pid) != os.getsid(0)
    os.kill(recorder.pid, signal.SIGINT)
    recorder.record(Tick(t_ns=1))
    assert recorder.close().lost is None


@pytest.mark.parametrize("case", ["exists", "directory", "space", "command", "dies"])
def test_a_start_that_cannot_succeed_is_refused_with_one_sentence(tmp_path: Path, case: str) -> None:
    path = tmp_path / "session.sqlite"
    options: dict[str, object] = {}
    if case == "exists":
        path.touch()
    match case:
        case "directory":
            path = tmp_path / "no" / "session.sqlite"
        case "space":
            options["min_free_bytes"] = 2**62
        case "command":
            options["command"] = (str(tmp_path / "no such program"),)
        case "dies":
            options["command"] = recording_process("raise SystemExit('not today')")
    expected = {
        "exists": "exists already",
        "directory": "directory does not exist",
        "space": "MiB are free",
        "command": "cannot start",
        "dies": "not today",
    }
    with pytest.raises(JournalError, match=expected[case]) as caught:
        ProcessRecorder(path, META, SystemClock(), **options)
    assert "\n" not in str(caught.value)
    assert path.exists() == (case == "exists")


def test_a_killed_recording_process_is_told_and_leaves_a_valid_prefix(tmp_path: Path) -> None:
    chance = random.Random(11)
    for trial in range(6):
        path = tmp_path / f"{trial}.sqlite"
        recorder = ProcessRecorder(path, META, SystemClock())
        numbers = iter(range(10**9))
        written = 0

        def step(recorder: ProcessRecorder = recorder, numbers: Iterator[int] = numbers) -> None:
            recorder.record(chunk(next(numbers)), [features(1)])
            recorder.pump()

        target = chance.randrange(1, 400)
        deadline = time.monotonic() + 20
        while written < target and time.monotonic() < deadline:
            step()
            written += 1
        os.kill(recorder.pid, signal.SIGKILL)
        status = pump_until(recorder, lambda status: status.lost is not None)
        assert "ended" in (status.lost or "")
        with Session.open(path) as session:
            report = session.check()
            assert report.ok
            assert not report.closed
            assert report.valid_rows >= status.committed + 1
            assert [row.seq for row in session.rows()] == list(range(report.valid_rows))
        recorder.record(Tick(t_ns=1))
        assert recorder.status().backlog_bytes == 0
        with pytest.raises(JournalError, match="incomplete"):
            recorder.close(5.0)


PARENT = """
import sys
from journal_helpers import META, chunk, features
from devices.clock import SystemClock
from loop.recorder import ProcessRecorder
recorder = ProcessRecorder(sys.argv[1], META, SystemClock())
print(recorder.pid, flush=True)
committed = -1
for number in range(10**9):
    recorder.record(chunk(number), [features(number)])
    recorder.pump()
    if recorder.status().committed != committed:
        committed = recorder.status().committed
        print(committed, flush=True)
"""


def test_a_killed_engine_leaves_all_that_was_sent(tmp_path: Path) -> None:
    for trial in range(3):
        path = tmp_path / f"{trial}.sqlite"
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(path)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": SEARCH},
        )
        assert parent.stdout is not None
        with parent.stdout:
            pid = int(parent.stdout.readline())
            seen = [int(parent.stdout.readline()) for _ in range(trial + 1)]
            parent.kill()
            parent.wait()
            wait_for_exit(pid)
        assert not path.with_name(path.name + "-wal").exists()
        with Session.open(path) as session:
            report = session.check()
            assert report.ok
            assert not report.closed
            assert report.valid_rows > seen[-1]
            firsts = [event.first for event in session.inputs() if isinstance(event, Chunk)]
            assert firsts == [number * 20 for number in range(len(firsts))]


BLOCKING = """
gate = open({gate!r}, 'rb')
bell = open({bell!r}, 'wb', buffering=0)
class Blocking(row_writer.RowWriter):
    def commit(self):
        if self.waiting:
            bell.write(b'.')
            gate.read(1)
        super().commit()
def make(order):
    return Blocking(row_writer.Path(order.path), order.meta, order.opened_ns)
row_writer.serve.__defaults__ = (make,)
"""


def test_a_disk_that_hangs_delays_no_step_and_is_told(tmp_path: Path, reap: list[ProcessRecorder]) -> None:
    gate, bell = tmp_path / "gate", tmp_path / "bell"
    os.mkfifo(gate)
    os.mkfifo(bell)
    opener, listener = os.open(gate, os.O_RDWR), os.open(bell, os.O_RDWR)
    clock = VirtualClock()
    command = recording_process(BLOCKING.format(gate=str(gate), bell=str(bell)))
    recorder = ProcessRecorder(tmp_path / "live.sqlite", META, clock, command=command, max_lag_s=2.0)
    reap.append(recorder)

    def step(number: int) -> int:
        begin = time.perf_counter_ns()
        recorder.record(chunk(number), [features(number)])
        recorder.pump()
        return time.perf_counter_ns() - begin

    steps = 3000
    costs = [step(0)]
    assert select.select([listener], [], [], 20.0)[0], "the recording process must have begun to write"
    costs += [step(number) for number in range(1, steps)]
    stuck = recorder.status()
    assert stuck.committed == 0, "nothing can have been written while the disk hangs"
    assert stuck.backlog_bytes > 0, "the line must be full, else this test shows nothing"
    assert statistics.median(costs) < 1_000_000
    assert sum(costs) < 5 * NS_PER_S

    assert recorder.status().lost is None
    clock.advance_to(clock.now_ns() + NS_PER_S)
    recorder.pump()
    assert recorder.status().lag_s == 1.0
    clock.advance_to(clock.now_ns() + 3600 * NS_PER_S)
    recorder.pump()
    assert recorder.status().lag_s == 2.0, "time asleep does not count"
    assert recorder.status().lost is None
    clock.advance_to(clock.now_ns() + NS_PER_S // 10)
    recorder.pump()
    assert "nothing has reached the disk" in (recorder.status().lost or "")

    os.write(opener, b"." * 60_000)
    status = recorder.close(30.0)
    os.close(opener)
    os.close(listener)
    assert status.committed == 2 * steps + 1
    with Session.open(tmp_path / "live.sqlite") as session:
        assert session.check().ok
        assert session.closed


def test_a_backlog_above_its_limit_is_told_and_memory_stays_bounded(tmp_path: Path, reap: list[ProcessRecorder]) -> None:
    limit = 1_000_000
    recorder = ProcessRecorder(tmp_path / "live.sqlite", META, SystemClock(), max_backlog_bytes=limit, max_lag_s=1e6)
    reap.append(recorder)
    os.kill(recorder.pid, signal.SIGSTOP)
    status = recorder.status()
    told_at = 0
    for number in range(20_000):
        recorder.record(chunk(number))
        recorder.pump()
        status = recorder.status()
        if status.lost and not told_at:
            told_at = status.backlog_bytes
    assert "wait for the recording process" in (status.lost or "")
    assert limit < told_at < 1.1 * limit
    assert status.backlog_bytes < 2.1 * limit
    os.kill(recorder.pid, signal.SIGCONT)
    with pytest.raises(JournalError, match="incomplete"):
        recorder.close(20.0)
    with Session.open(tmp_path / "live.sqlite") as session:
        report = session.check()
        assert (report.ok, report.closed) == (True, False)
        assert report.valid_rows == status.recorded + 1, "all that was accepted is there, in order"


LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))"
FULL = """
class Small(row_writer.RowWriter):
    def __init__(self, *given, **options):
        super().__init__(*given, **options)
        self._db.execute('PRAGMA max_page_count = 60')
row_writer.RowWriter = Small
"""


@pytest.mark.parametrize("limit", [LIMITED, FULL], ids=["write error", "disk full"])
def test_a_full_disk_is_told_and_what_was_written_stays(tmp_path: Path, limit: str) -> None:
    recorder = ProcessRecorder(tmp_path / "live.sqlite", META, SystemClock(), command=recording_process(limit))
    numbers = iter(range(100_000))

    def lost(status: RecorderStatus) -> bool:
        for _ in range(50):
            recorder.record(chunk(next(numbers)))
        return status.lost is not None

    recorder.record(chunk(next(numbers)))
    pump_until(recorder, lambda status: status.committed > 0)
    status = pump_until(recorder, lost)
    assert "cannot write" in (status.lost or "")
    assert re.search(FULL_DISK, status.lost or ""), status.lost
    with pytest.raises(JournalError, match="incomplete"):
        recorder.close(10.0)
    with Session.open(tmp_path / "live.sqlite") as session:
        report = session.check()
        assert report.ok
        assert report.valid_rows == status.committed + 1 > 1


def test_too_little_room_is_told_while_there_still_is_some(tmp_path: Path) -> None:
    code = (
        "row_writer.DISK_CHECK_S = 0.01\n"
        "import types\n"
        "room = types.SimpleNamespace(free=5 << 20)\n"
        "row_writer.shutil = types.SimpleNamespace(disk_usage=lambda path: room)"
    )
    path = tmp_path / "live.sqlite"
    recorder = ProcessRecorder(path, META, SystemClock(), command=recording_process(code))
    status = pump_until(recorder, lambda status: status.lost is not None)
    assert "only 5 MiB are free" in (status.lost or "")
    recorder.record(Operator(t_ns=1, action="note", detail="the current ends"))
    assert recorder.close().committed == 2, "what follows is still recorded"
    with Session.open(path) as session:
        assert session.closed


def test_an_event_that_cannot_be_recorded_ends_the_record_not_the_engine(tmp_path: Path) -> None:
    recorder = ProcessRecorder(tmp_path / "live.sqlite", META, SystemClock())
    recorder.record(Tick(t_ns=1))
    recorder.record(Tick(t_ns=2**63))
    assert "64 bits" in (recorder.status().lost or "")
    recorder.record(Tick(t_ns=2))
    with pytest.raises(JournalError, match="incomplete"):
        recorder.close()
    with Session.open(tmp_path / "live.sqlite") as session:
        assert session.check().ok
        assert list(session.inputs()) == [Tick(t_ns=1)]


def test_a_recording_process_that_is_told_to_end_finishes_its_file(tmp_path: Path) -> None:
    recorder = ProcessRecorder(tmp_path / "live.sqlite", META, SystemClock())
    recorder.record(Tick(t_ns=1))
    pump_until(recorder, lambda status: status.committed == 1)
    os.kill(recorder.pid, signal.SIGTERM)
    status = pump_until(recorder, lambda status: status.lost is not None)
    assert "signal" in (status.lost or "")
    wait_for_exit(recorder.pid)
    with Session.open(tmp_path / "live.sqlite") as session:
        assert session.check().valid_rows == 2
    with pytest.raises(JournalError):
        recorder.close()
