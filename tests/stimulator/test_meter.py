"""The independent meter: integrals and slopes by hand, the file, and time to zero."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.mock.meter import (
    AT_REST,
    MAGIC,
    SAMPLE,
    Meter,
    MeterError,
    MeterFile,
    MeterReader,
    MeterRecord,
    follow,
    read_meter,
    time_to_zero,
)
from devices.units import NS_PER_MS

MS = NS_PER_MS


def flow(*samples: tuple[int, float]) -> list[MeterRecord]:
    return [MeterRecord(ms * MS, ua, SAMPLE, 0.0) for ms, ua in samples]


def test_peak_charge_and_slew_of_a_ramp() -> None:
    meter = Meter()
    for k in range(1001):
        meter.record(k, -0.1 * k)
    assert meter.peak_ua == pytest.approx(100.0)
    assert meter.charge_uc == pytest.approx(50.05)
    assert meter.max_rise_ua_s == pytest.approx(100.0)
    assert meter.max_fall_ua_s == 0.0


def test_a_jump_within_the_window_counts_as_slew() -> None:
    meter = Meter()
    meter.record(0, 0.0)
    meter.record(1, 50.0)
    assert meter.max_rise_ua_s == pytest.approx(500.0)
    meter.record(2, 0.0)
    assert meter.max_fall_ua_s == 0.0  # over 100 ms the current came from zero
    for k in range(3, 300):
        meter.record(k, 50.0)
    meter.record(300, 0.0)
    assert meter.max_fall_ua_s == pytest.approx(500.0)


@given(st.lists(st.tuples(st.integers(1, 400), st.integers(0, 60)), max_size=8))
def test_left_out_indices_are_zero(runs: list[tuple[int, int]]) -> None:
    """Leaving out a stretch of zeros equals recording it, but for the sink's choice of samples at rest."""
    kept: list[MeterRecord] = []
    sparse, dense = Meter(sink=kept.append), Meter(sink=kept.append)
    k = 0
    for gap, length in runs:
        for at in range(k, k + gap):
            dense.record(at, 0.0)
        k += gap
        for at in range(k, k + length):
            sparse.record(at, 100.0)
            dense.record(at, 100.0)
        k += length
    sparse.record(k, 0.0)
    dense.record(k, 0.0)
    for name in ("peak_ua", "charge_uc", "max_rise_ua_s", "max_fall_ua_s"):
        assert getattr(sparse, name) == getattr(dense, name), name


def test_at_rest_it_shows_ten_times_a_second_that_it_lives() -> None:
    records: list[MeterRecord] = []
    meter = Meter(start_ns=7, sink=records.append)
    meter.record(0, 0.0)
    meter.record(50, 3.0)
    meter.record(1000, 0.0)
    assert [(r.t_ns, r.kind, r.current_ua) for r in records] == [
        (7, AT_REST, 0.0),
        (50 * MS + 7, SAMPLE, 3.0),
        (51 * MS + 7, SAMPLE, 0.0),
        *[(k * MS + 7, AT_REST, 0.0) for k in range(100, 1001, 100)],
    ]


def test_the_file_gives_back_what_was_recorded(tmp_path: Path) -> None:
    path = tmp_path / "m"
    file = MeterFile(path)
    meter = Meter(sink=file)
    for k in range(300):
        meter.record(k, 20.5 if 100 <= k < 200 else 0.0)
    file.close()
    records = read_meter(path)
    assert [r.current_ua for r in records if r.kind == SAMPLE] == [20.5] * 100 + [0.0]
    assert records[-1].charge_uc == pytest.approx(2.05)
    assert path.stat().st_size == len(MAGIC) + 24 * len(records)


def test_a_half_written_record_is_left_for_later(tmp_path: Path) -> None:
    path = tmp_path / "m"
    file = MeterFile(path)
    for k in range(3):
        file(MeterRecord(k, float(k), SAMPLE, 0.0))
    file.close()
    data = path.read_bytes()
    path.write_bytes(data[:-5])
    reader = MeterReader(path)
    assert [r.t_ns for r in reader.read_new()] == [0, 1]
    assert reader.read_new() == []
    path.write_bytes(data)
    assert [r.t_ns for r in reader.read_new()] == [2]


def test_a_file_that_another_stimulator_began_anew_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "m"
    file = MeterFile(path)
    for k in range(3):
        file(MeterRecord(k, 200.0, SAMPLE, 0.0))
    file.close()
    reader = MeterReader(path)
    assert reader.read_new()[-1].current_ua == 200.0
    again = MeterFile(path)
    again(MeterRecord(7, 0.0, AT_REST, 0.0))
    again.close()
    assert [(r.t_ns, r.current_ua) for r in reader.read_new()] == [(7, 0.0)]
    assert reader.read_new() == []


@given(st.binary(max_size=100))
def test_any_file_is_read_or_refused_with_its_name(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "m"
    path.write_bytes(MAGIC + data)
    assert len(read_meter(path)) == len(data) // 24
    path.write_bytes(b"X" + data)
    with pytest.raises(MeterError, match=f"{path} is no meter file"):
        read_meter(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MeterError, match="No such file"):
        read_meter(tmp_path / "none")


def test_follow_sees_records_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "m"
    file = MeterFile(path)
    first = threading.Event()

    def write() -> None:
        file(MeterRecord(1, 1.0, SAMPLE, 0.0))
        file.flush()
        assert first.wait(10.0)
        file(MeterRecord(2, 2.0, SAMPLE, 0.0))
        file.close()

    writer = threading.Thread(target=write)
    writer.start()
    records = follow(path, timeout_s=10.0)
    assert next(records).t_ns == 1
    first.set()
    assert next(records).t_ns == 2
    writer.join()
    assert list(follow(path, timeout_s=0.02)) == read_meter(path)


def test_time_to_zero_is_that_after_which_it_stays_zero() -> None:
    records = flow((0, 200.0), (50, 9.0), (51, -11.0), (60, 10.0), (100, 0.0))
    assert time_to_zero(records, 0) == pytest.approx(0.060)
    assert time_to_zero(records, 60 * MS) == 0.0
    assert time_to_zero(records, 0, threshold_ua=5.0) == pytest.approx(0.100)
    assert time_to_zero(records[:3], 0) == math.inf


def test_time_to_zero_does_not_take_a_dead_meter_for_zero() -> None:
    with pytest.raises(MeterError, match="no record at or after"):
        time_to_zero(flow((0, 200.0)), 1)
    with pytest.raises(MeterError, match=r"silent for 0\.201 s"):
        time_to_zero(flow((0, 200.0), (201, 0.0)), 0)
