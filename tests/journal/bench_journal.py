"""Measures what the record costs; run it as ``python tests/journal/bench_journal.py``."""

from __future__ import annotations

import hashlib
import os
import select
import sqlite3
import tempfile
import time
from pathlib import Path

import numpy as np
from journal_helpers import META

from devices.clock import SystemClock, VirtualClock
from devices.units import NS_PER_MS
from loop.events import Chunk, Features, GateChange, Tick
from loop.reader import Session
from loop.recorder import InlineRecorder, ProcessRecorder

N_ROWS = 60_000
N_STEPS = 1000


def bare_rate(directory: Path) -> float:
    """Rows a second of a loop that hashes a short text and inserts it: the least any such record costs."""
    database = sqlite3.connect(directory / "bare.sqlite", isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    database.execute("CREATE TABLE log (seq INTEGER PRIMARY KEY, body TEXT, hash BLOB)")
    begin = time.perf_counter()
    link = b""
    for start in range(0, N_ROWS, 4096):
        rows = []
        for seq in range(start, min(start + 4096, N_ROWS)):
            link = hashlib.sha256(link + bytes(120)).digest()
            rows.append((seq, "x" * 60, link))
        database.execute("BEGIN")
        database.executemany("INSERT INTO log VALUES (?, ?, ?)", rows)
        database.execute("COMMIT")
    rate = N_ROWS / (time.perf_counter() - begin)
    database.close()
    return rate


def inline_rate(directory: Path) -> float:
    """Small rows a second of the inline recorder, encoding, hash and closing included."""
    clock = VirtualClock()
    begin = time.perf_counter()
    with InlineRecorder(directory / "inline.sqlite", META, clock) as recorder:
        for number in range(N_ROWS // 2):
            t_ns = number * 20 * NS_PER_MS
            clock.advance_to(t_ns)
            change = GateChange(t_ns=t_ns, before="SENSE", after="HOLD", reason="evidence", decision=3)
            recorder.record(Tick(t_ns=t_ns), [change])
    return N_ROWS / (time.perf_counter() - begin)


def live_costs(directory: Path, pause_s: float = 0.0) -> tuple[list[int], list[int]]:
    """Nanoseconds of `record` and of `pump` for 20 ms of 64 channels and a frame, a pause between steps.

    Without a pause the caches are warm and the recording process competes; with one, each step finds them
    cold.
    """
    recorder = ProcessRecorder(directory / f"live {pause_s}.sqlite", META, SystemClock())
    noise = np.random.default_rng(1)
    chunk = Chunk(5, 1, 0, np.arange(20), noise.standard_normal((20, 64)).astype(np.float32))
    frame = Features(np.arange(1), np.arange(1), noise.standard_normal((1, 12)), np.zeros(1, np.uint32))
    records, pumps = [], []
    quiet, other = os.pipe()
    for _ in range(N_STEPS):
        begin = time.perf_counter_ns()
        recorder.record(chunk, [frame])
        middle = time.perf_counter_ns()
        recorder.pump()
        pumps.append(time.perf_counter_ns() - middle)
        records.append(middle - begin)
        if pause_s:
            select.select([quiet], [], [], pause_s)
    os.close(quiet)
    os.close(other)
    recorder.close()
    return records, pumps


def check_rate(directory: Path) -> float:
    """Rows a second of `Session.check` on what `inline_rate` wrote."""
    begin = time.perf_counter()
    with Session.open(directory / "inline.sqlite") as session:
        rows = session.check().valid_rows
    return rows / (time.perf_counter() - begin)


def main() -> None:
    """Print all costs."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        print(f"bare insert and hash   {bare_rate(directory):9.0f} rows/s")
        print(f"inline recorder        {inline_rate(directory):9.0f} rows/s")
        print(f"check                  {check_rate(directory):9.0f} rows/s")
        for pause_s in (0.0, 0.02):
            records, pumps = live_costs(directory, pause_s)
            for what, costs in (("record", records), ("pump", pumps)):
                middle, high = np.percentile(costs, [50, 99]) / 1000
                when = f"every {pause_s * 1000:.0f} ms" if pause_s else "back to back"
                print(f"{what:6} 64 channels, {when:13} {middle:7.1f} us median, {high:.1f} us p99")


if __name__ == "__main__":
    main()
