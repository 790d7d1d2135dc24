"""A calibration that learns from several recordings of one cap: each a segment, one after the other."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import mne
import numpy as np
import pytest

import loop
from loop.calibration.errors import CalibrationError
from loop.calibration.inputs import joined, rest_uv, take_of_playback
from loop.calibration.make import make
from loop.events import Chunk, Marker, SegmentStart
from loop.sources.recording import playback_from_raw

MUSE = ["TP9", "AF7", "AF8", "TP10"]


def raw_of(seed: int, labels: list[str] = MUSE, duration_s: float = 30.0) -> mne.io.RawArray:
    """Noise in which every third stimulus is a target that evokes something."""
    rng = np.random.default_rng(seed)
    sfreq_hz = 256.0
    data = rng.normal(0.0, 8e-6, (len(labels), round(duration_s * sfreq_hz)))
    onsets = np.arange(4.0, duration_s - 1.0, 0.8)
    names = ["target" if i % 3 == 0 else "standard" for i in range(len(onsets))]
    for onset, name in zip(onsets, names, strict=True):
        at = round((onset + 0.2) * sfreq_hz)
        data[:, at : at + 50] += 12e-6 * np.hanning(50) * (name == "target")
    raw = mne.io.RawArray(data, mne.create_info(labels, sfreq_hz, "eeg"), verbose="error")
    rest = mne.Annotations([0.5, 2.5], [0.0, 0.0], ["BLOCK/R/START", "BLOCK/R/END"])
    return raw.set_annotations(mne.Annotations(onsets, np.zeros(len(onsets)), names) + rest)


def take(seed: int, labels: list[str] = MUSE):
    return take_of_playback(lambda: playback_from_raw(raw_of(seed, labels)))


def test_segments_follow_each_other_and_can_be_played_again() -> None:
    whole = joined([take(1), take(2), take(3)])
    events = list(whole.play())
    assert [event.segment for event in events if isinstance(event, SegmentStart)] == [1, 2, 3]
    stamps = np.concatenate([event.stamps_ns for event in events if isinstance(event, Chunk)])
    assert (np.diff(stamps) > 0).all()
    assert np.sort(np.diff(stamps))[-2:].min() >= 10_000_000_000
    firsts = [event.first for event in events if isinstance(event, Chunk)]
    assert firsts == sorted(firsts)
    assert sum(len(event.samples) for event in events if isinstance(event, Chunk)) == 3 * 7680
    assert [event.t_ns for event in events] == [event.t_ns for event in whole.play()]
    one = [event.stamp_ns for event in take(2).play() if isinstance(event, Marker)]
    middle = [event.stamp_ns for event in events if isinstance(event, Marker)][len(one) : 2 * len(one)]
    assert np.diff(middle).tolist() == np.diff(one).tolist()
    assert len(rest_uv(whole, {})) == 3 * len(rest_uv(take(1), {}))


def test_one_recording_stays_what_it_is() -> None:
    alone = take(1)
    assert joined([alone]) is alone


def test_another_cap_is_refused() -> None:
    with pytest.raises(CalibrationError, match="calibrate on recordings of one cap"):
        joined([take(1), take(2, ["TP9", "AF7", "AF8", "Cz"])])


def test_a_calibration_rests_on_all_of_them_and_its_session_verifies(tmp_path: Path) -> None:
    from loop.calibration import file

    rename = "markers.rename={target='STIM/NOX/100', standard='STIM/INN/0'}"
    config = loop.load_config(
        "calibrate", ["estimator.kind='event_readout'", rename, "markers.imply_out_due=true", "markers.full_intensity=100"]
    )
    made = make(joined([take(1), take(2), take(3)]), config, dt.date(2026, 3, 1), {}, lambda _: None)
    assert made.calibration.readout is not None
    assert made.calibration.readout.n_trials > 85
    assert made.calibration.source.path.count(" + ") == 2
    assert made.calibration.verdict.startswith("go on")
    assert "follows the surprise of the stimuli" in " ".join(made.calibration.notes)
    file.save(made.calibration, tmp_path / "c.json")
    raw_of(9).save(tmp_path / "new_raw.fif", verbose="error")
    new = loop.load_config(
        "replay",
        ["source.path='given'", "estimator.kind='event_readout'", rename, f"estimator.calibration='{tmp_path / 'c.json'}'"],
    )
    with loop.replay(tmp_path / "new_raw.fif", new, out=tmp_path / "s.sqlite") as session:
        judged = [(one.text, one.index) for one in session.outcomes if one.index is not None]
        nox, inn = (np.mean([index for text, index in judged if text == kind]) for kind in ("STIM/NOX/100", "STIM/INN/0"))
        assert nox > inn + 1.0
        assert "event readout" in session.setups[0].estimator
    assert loop.verify(tmp_path / "s.sqlite").identical
