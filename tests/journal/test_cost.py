"""What the record costs, against the least it could cost on the same machine in the same run."""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np
import pytest
from bench_journal import bare_rate, inline_rate, live_costs


def test_the_inline_recorder_costs_a_few_bare_inserts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare, inline = bare_rate(tmp_path), inline_rate(tmp_path)
    with capsys.disabled():
        print(f"\ninline recorder {inline:.0f} rows/s, bare insert and hash {bare:.0f} rows/s")
    assert inline > bare / 8


def test_a_step_of_the_live_recorder_costs_microseconds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = bare_rate(tmp_path)
    records, pumps = live_costs(tmp_path)
    typical, high = statistics.median(records) / 1000, float(np.percentile(records, 99)) / 1000
    with capsys.disabled():
        print(f"\nrecord {typical:.1f} us median, {high:.1f} us p99; pump {statistics.median(pumps) / 1000:.1f} us median")
    assert typical < 12e6 / bare, "two rows must cost less than a dozen bare inserts"
