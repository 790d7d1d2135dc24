"""The export to MNE: the right samples, in volts, at the right time, with what happened as annotations."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import msgspec
import numpy as np
import pytest
from journal_helpers import LAYOUT, META, SOURCE, chunk, samples_at, write_session

from devices.clock import VirtualClock
from devices.units import NS_PER_MS, NS_PER_S
from loop.events import Block, Chunk, GateChange, Incident, Input, Layout, Marker, Output, SegmentStart, Tick
from loop.raw_export import samples_from
from loop.reader import Session
from loop.recorder import InlineRecorder
from loop.session_file import JournalError

VOLTS = np.array([1e-6, 1e-6, 1e-6, 0.5e-6])[:, np.newaxis]


def segment(number: int, t_ns: int = 0, layout: Layout = LAYOUT) -> SegmentStart:
    return SegmentStart(t_ns=t_ns, segment=number, layout=layout, source=SOURCE, clock_offset_ns=0)


def gate(t_ns: int, before: str, after: str) -> GateChange:
    return GateChange(t_ns=t_ns, before=before, after=after, reason="", decision=0)


def record(path: Path, steps: list[tuple[Input, list[Output]]]) -> Session:
    """Write a session with stored samples and open it."""
    with InlineRecorder(path, META, VirtualClock(), store_samples=True) as recorder:
        for event, outputs in steps:
            recorder.record(event, outputs)
    return Session.open(path)


def notes(session: Session, **options: int) -> list[tuple[float, float, str]]:
    raw = session.to_raw(**options)  # type: ignore[arg-type]
    rounded = [(round(a["onset"], 6), round(a["duration"], 6), str(a["description"])) for a in raw.annotations]
    return sorted(rounded)


def test_samples_come_out_in_volts_with_labels_types_and_positions(tmp_path: Path) -> None:
    with Session.open(write_session(tmp_path / "session.sqlite", 60)) as session:
        raw = session.to_raw()
    assert raw.info["sfreq"] == 1000.0
    assert raw.ch_names == list(LAYOUT.labels)
    assert raw.get_channel_types() == ["eeg", "eeg", "eog", "eeg"]
    np.testing.assert_allclose(raw.get_data(), samples_at(0, 1200).T.astype(float) * VOLTS, rtol=1e-12)
    positions = raw.get_montage().get_positions()["ch_pos"]
    np.testing.assert_allclose(positions["PO7"], LAYOUT.positions_m[1])
    assert raw.info["meas_date"] == dt.datetime(2000, 1, 1, tzinfo=dt.UTC)


def test_annotations_lie_at_the_samples_they_speak_of(tmp_path: Path) -> None:
    steps: list[tuple[Input, list[Output]]] = [(segment(1), [])]
    steps += [(chunk(number), []) for number in range(50)]
    at = chunk(49).t_ns
    steps += [
        (Marker(t_ns=at, stamp_ns=123 * NS_PER_MS, text="STIM/NOX/2"), []),
        (Tick(t_ns=at), [gate(200 * NS_PER_MS, "SENSE", "HOLD"), gate(700 * NS_PER_MS, "HOLD", "SETTLE")]),
        (Tick(t_ns=at), [Incident(t_ns=300 * NS_PER_MS, name="movement", detail="", answer="")]),
    ]
    with record(tmp_path / "session.sqlite", steps) as session:
        assert notes(session) == [
            (0.0, 0.2, "TDCS/SENSE"),
            (0.123, 0.0, "STIM/NOX/2"),
            (0.2, 0.5, "TDCS/HOLD"),
            (0.3, 0.0, "BAD_movement"),
            (0.7, 0.299, "TDCS/SETTLE"),
        ]


def test_an_amplifier_that_runs_fast_does_not_shift_its_markers(tmp_path: Path) -> None:
    period = 990_000
    steps: list[tuple[Input, list[Output]]] = [(segment(1), [])]
    for number in range(500):
        stamps = (np.arange(number * 20, number * 20 + 20) * period).astype(np.int64)
        steps.append((Chunk(int(stamps[-1]), 1, number * 20, stamps, samples_at(number * 20, 20)), []))
    steps.append((Marker(t_ns=0, stamp_ns=9000 * period, text="late"), []))
    with record(tmp_path / "session.sqlite", steps) as session:
        assert notes(session) == [(9.0, 0.0, "late")]


def test_a_gap_is_zero_and_annotated_on_the_true_time_axis(tmp_path: Path) -> None:
    shift = 500 * NS_PER_MS
    steps: list[tuple[Input, list[Output]]] = [(segment(1), [])]
    steps += [(chunk(number), []) for number in range(10)]
    steps += [(segment(2, shift), [])]
    steps += [(chunk(number, 2, shift_ns=shift), []) for number in range(10, 20)]
    steps += [(Marker(t_ns=0, stamp_ns=shift + 300 * NS_PER_MS, text="after"), [])]
    with record(tmp_path / "session.sqlite", steps) as session:
        data = session.to_raw().get_data()
        expected = samples_at(0, 400).T.astype(float) * VOLTS
        assert data.shape == (4, 900)
        np.testing.assert_allclose(data[:, :200], expected[:, :200], rtol=1e-12)
        assert not data[:, 200:700].any()
        np.testing.assert_allclose(data[:, 700:], expected[:, 200:], rtol=1e-12)
        assert notes(session) == [(0.2, 0.5, "BAD_gap"), (0.8, 0.0, "after")]
        alone = session.to_raw(segment=2)
        np.testing.assert_allclose(alone.get_data(), expected[:, 200:], rtol=1e-12)
        with pytest.raises(JournalError, match="no segment 3"):
            session.to_raw(segment=3)


def test_a_gap_inside_a_chunk_is_found(tmp_path: Path) -> None:
    stamps = np.r_[0:10, 210:220] * NS_PER_MS
    broken = Chunk(int(stamps[-1]), 1, 0, stamps.astype(np.int64), samples_at(0, 20))
    with record(tmp_path / "session.sqlite", [(segment(1), []), (broken, [])]) as session:
        data = session.to_raw().get_data()
        assert data.shape == (4, 220)
        np.testing.assert_allclose(data[:, 210:], samples_at(10, 10).T.astype(float) * VOLTS, rtol=1e-12)
        assert notes(session) == [(0.01, 0.2, "BAD_gap")]


def test_samples_that_came_twice_are_left_out(tmp_path: Path) -> None:
    steps: list[tuple[Input, list[Output]]] = [(segment(1), [])]
    steps += [(chunk(number), []) for number in (0, 1, 2, 1, 2, 3, 4)]
    with record(tmp_path / "session.sqlite", steps) as session:
        raw = session.to_raw()
    np.testing.assert_allclose(raw.get_data(), samples_at(0, 100).T.astype(float) * VOLTS, rtol=1e-12)


def test_an_absence_of_hours_is_not_filled(tmp_path: Path) -> None:
    far = 7200 * NS_PER_S
    steps: list[tuple[Input, list[Output]]] = [(segment(1), []), (chunk(0), [])]
    steps += [(segment(2, far), []), (chunk(1, 2, shift_ns=far), [])]
    with record(tmp_path / "session.sqlite", steps) as session:
        with pytest.raises(JournalError, match="export each segment alone"):
            session.to_raw()
        assert session.to_raw(segment=2).n_times == 20


def test_segments_with_other_channels_are_not_glued_together(tmp_path: Path) -> None:
    other = msgspec.structs.replace(LAYOUT, labels=("Cz", "Iz", "EOG1", "PO7"))
    steps: list[tuple[Input, list[Output]]] = [(segment(1), []), (chunk(0), [])]
    steps += [(segment(2, layout=other), []), (chunk(1, 2), [])]
    with record(tmp_path / "session.sqlite", steps) as session:
        with pytest.raises(JournalError, match="different channels"):
            session.to_raw()
        assert session.to_raw(segment=2).ch_names == list(other.labels)


@pytest.mark.parametrize("case", ["nothing", "no samples", "channels", "rate"])
def test_what_cannot_be_exported_is_refused_with_one_sentence(tmp_path: Path, case: str) -> None:
    narrow = msgspec.structs.replace(LAYOUT, labels=("Cz",), units=("uV",), to_uv=(1.0,), positions_m=())
    steps: dict[str, list[tuple[Input, list[Output]]]] = {
        "nothing": [],
        "no samples": [(segment(1), [])],
        "channels": [(segment(1, layout=narrow), []), (chunk(0), [])],
        "rate": [(segment(1, layout=msgspec.structs.replace(LAYOUT, sfreq_hz=0.0)), []), (chunk(0), [])],
    }
    with (
        record(tmp_path / "session.sqlite", steps[case]) as session,
        pytest.raises(JournalError, match="no segment|no samples|4 channels, the layout has 1|makes no sense"),
    ):
        session.to_raw()


class Tape:
    """A source that can be played again, in blocks of at most 7 samples."""

    layout = LAYOUT
    info = SOURCE

    def __init__(self, n_samples: int) -> None:
        self.n_samples = n_samples
        self.position = 0

    def read(self, n: int, current_ua: float) -> Block | None:
        n = min(n, 7, self.n_samples - self.position)
        if n == 0:
            return None
        first = self.position
        self.position += n
        return Block(first, np.arange(first, first + n) * NS_PER_MS, samples_at(first, n), ())


def test_samples_that_are_not_stored_come_from_the_source(tmp_path: Path) -> None:
    path = write_session(tmp_path / "session.sqlite", 60, store_samples=False)
    with Session.open(path) as session:
        raw = session.to_raw(samples_from(Tape(1200)))
        np.testing.assert_allclose(raw.get_data(), samples_at(0, 1200).T.astype(float) * VOLTS, rtol=1e-12)
        assert len(list(session.inputs(samples_from(Tape(1200))))) > 60
        with pytest.raises(JournalError, match="a patient who cannot be made again"):
            session.to_raw()
        with pytest.raises(JournalError, match="ends before sample 1200"):
            session.to_raw(samples_from(Tape(1199)))


def test_a_source_is_asked_in_order(tmp_path: Path) -> None:
    provide = samples_from(Tape(100))
    assert provide(0, 10, 0.0).shape == (10, 4)
    assert provide(10, 0, 0.0).shape == (0, 4)
    with pytest.raises(JournalError, match="stands at sample 10"):
        provide(20, 10, 0.0)
