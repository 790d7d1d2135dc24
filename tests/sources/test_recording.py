"""Recordings: the same samples and events as MNE-Python's own, or one sentence why they cannot be played."""

from __future__ import annotations

import hashlib
import shutil
import time
import warnings
from pathlib import Path

import mne
import numpy as np
import pytest

from loop.events import Block
from loop.sources.errors import SourceError
from loop.sources.recording import RecordingPlayback, open_recording, playback_from_raw

REAL = ["oddball_muse/run-02_raw.fif", "attention_eeglab/eeglab_data.set", "rest_eegmmidb/S001R01.edf"]


def play(playback: RecordingPlayback, n: int = 97) -> tuple[np.ndarray, np.ndarray, list[tuple[int, str]]]:
    """All that a playback hands out; also that blocks follow one another, and that markers come with theirs."""
    blocks: list[Block] = []
    while (block := playback.read(n, 0.0)) is not None:
        assert block.first == sum(len(b.samples) for b in blocks)
        assert len(block.stamps_ns) == len(block.samples) <= n
        before = blocks[-1].stamps_ns[-1] if blocks else -(1 << 62)
        assert all(before < stamp <= block.stamps_ns[-1] for stamp, _ in block.markers)
        blocks.append(block)
    assert playback.read(n, 0.0) is None
    markers = [marker for block in blocks for marker in block.markers]
    return np.concatenate([b.stamps_ns for b in blocks]), np.concatenate([b.samples for b in blocks]), markers


def make_raw(seconds: float = 10.0, sfreq: float = 250.0, types: tuple[str, ...] = ("eeg", "eeg", "eog")) -> mne.io.RawArray:
    names = ["Cz", "PO10", "EOG1", "STI"][: len(types)]
    rng = np.random.default_rng(3)
    data = rng.normal(scale=1e-5, size=(len(types), round(seconds * sfreq)))
    return mne.io.RawArray(data, mne.create_info(names, sfreq, list(types)), verbose="error")


@pytest.mark.parametrize("name", REAL)
def test_real_recordings_give_what_mne_gives(recordings: Path, name: str) -> None:
    raw = mne.io.read_raw(recordings / name, verbose="error")
    playback = open_recording(recordings / name)
    stamps, samples, markers = play(playback)
    labels = list(playback.layout.labels)
    assert np.array_equal(samples, raw.get_data(picks=labels).T)
    assert stamps.tolist() == [round(i * 1e9 / raw.info["sfreq"]) for i in range(raw.n_times)]
    assert playback.n_samples == raw.n_times
    assert set(playback.layout.units) == {"V"}
    assert set(playback.layout.to_uv) == {1e6}
    events, ids = mne.events_from_annotations(raw, verbose="error")
    names = {number: text for text, number in ids.items()}
    assert [text for _, text in markers] == [names[event[2]] for event in events]
    sample_of = np.array([stamp for stamp, _ in markers]) * raw.info["sfreq"] / 1e9
    assert np.abs(sample_of - events[:, 0]).max() <= 1.0


def test_real_recordings_leave_out_what_is_not_scalp(recordings: Path) -> None:
    playback = open_recording(recordings / REAL[1])
    assert len(playback.layout.labels) == 30
    assert playback.notes == ("Left out, not scalp EEG: EOG1, EOG2.",)
    assert len(playback.layout.positions_m) == 30


def test_any_block_size_gives_the_same(recordings: Path) -> None:
    whole = play(open_recording(recordings / REAL[0]), 100_000)
    for n in (1_000, 2_561, 313):
        parts = play(open_recording(recordings / REAL[0]), n)
        assert all(np.array_equal(a, b) for a, b in zip(whole[:2], parts[:2], strict=True))
        assert parts[2] == whole[2]


def test_onsets_count_from_the_first_sample_held(tmp_path: Path) -> None:
    raw = make_raw(20.0)
    raw.set_meas_date(1_000_000.0)
    raw.set_annotations(mne.Annotations([1.0, 6.2, 15.0], 0.0, ["early", "CUE/H", "late"], orig_time=raw.info["meas_date"]))
    raw.crop(5.0, 12.0)
    raw.save(tmp_path / "cut_raw.fif", verbose="error")
    assert mne.io.read_raw(tmp_path / "cut_raw.fif", verbose="error").first_samp == 1250
    _, _, markers = play(open_recording(tmp_path / "cut_raw.fif"))
    assert markers == [(1_200_000_000, "CUE/H")]


def test_without_a_date_onsets_count_from_the_first_sample_too() -> None:
    raw = make_raw(20.0)
    raw.set_annotations(mne.Annotations([1.0, 6.2], 0.0, ["early", "CUE/H"]))
    raw.crop(5.0, 12.0)
    assert play(playback_from_raw(raw))[2] == [(1_200_000_000, "CUE/H")]


def test_the_hash_covers_both_files_of_a_recording(recordings: Path, tmp_path: Path) -> None:
    for suffix in ("set", "fdt"):
        shutil.copy(recordings / f"attention_eeglab/eeglab_data.{suffix}", tmp_path)
        (tmp_path / f"eeglab_data.{suffix}").chmod(0o644)
    path = tmp_path / "eeglab_data.set"
    expected = hashlib.sha256(path.read_bytes() + path.with_suffix(".fdt").read_bytes()).hexdigest()
    assert open_recording(path).info.sha256 == expected
    data = bytearray(path.with_suffix(".fdt").read_bytes())
    data[1000] ^= 1
    path.with_suffix(".fdt").write_bytes(data)
    assert open_recording(path).info.sha256 != expected


def test_a_raw_object_is_known_by_its_file_until_it_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "x_raw.fif"
    make_raw().save(path, verbose="error")
    raw = mne.io.read_raw(path, verbose="error")
    assert playback_from_raw(raw).info == open_recording(path).info
    renamed = raw.copy().rename_channels({"Cz": "Pz"})
    for changed in (
        raw.copy().crop(1.0),
        renamed,
        raw.copy().load_data(verbose="error").filter(1.0, 40.0, verbose="error"),
    ):
        info = playback_from_raw(changed).info
        assert info.path == ""
        assert "x_raw.fif" in info.identity
        data = changed.get_data(picks="eeg").T
        assert info.sha256 == hashlib.sha256(np.ascontiguousarray(data, dtype="<f8")).hexdigest()


def test_a_raw_object_plays_its_own_samples_and_stays_as_it_was() -> None:
    raw = make_raw()
    before = raw.get_data()
    _, samples, _ = play(playback_from_raw(raw, picks=["PO10"]))
    assert np.array_equal(samples[:, 0], before[1])
    assert np.array_equal(raw.get_data(), before)


def test_picks_take_channels_in_the_order_given(tmp_path: Path) -> None:
    make_raw().save(tmp_path / "x_raw.fif", verbose="error")
    playback = open_recording(tmp_path / "x_raw.fif", picks=["EOG1", "Cz"])
    assert playback.layout.labels == ("EOG1", "Cz")
    raw = mne.io.read_raw(tmp_path / "x_raw.fif", verbose="error")
    assert np.array_equal(play(playback)[1], raw.get_data(picks=[2, 0]).T)


def refusal(path: Path, **options: object) -> str:
    """The message of the refusal: one line, and it names the file."""
    with pytest.raises(SourceError) as caught:
        open_recording(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


def test_paths_that_are_no_recording(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.fif")
    (tmp_path / "folder.fif").mkdir()
    assert "is a directory" in refusal(tmp_path / "folder.fif")
    (tmp_path / "notes.md").write_text("hello")
    assert "no reader for .md; known are" in refusal(tmp_path / "notes.md")
    (tmp_path / "data.fdt").write_bytes(b"1")
    assert "name its .set file" in refusal(tmp_path / "data.fdt")


@pytest.mark.parametrize("suffix", ["_raw.fif", ".edf", ".set", ".bdf", ".vhdr", ".gdf", ".xdf", ".nedf", ".lay", ".cdt"])
def test_damaged_files_are_refused_in_one_sentence(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(bytes(range(256)) * 64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert "could not be read as" in refusal(path)


def test_a_name_that_two_makers_use_needs_a_hint(tmp_path: Path) -> None:
    (tmp_path / "x.cnt").write_bytes(b"RIFF")
    message = refusal(tmp_path / "x.cnt")
    assert "reader='ant' or 'neuroscan'" in message
    assert "could not be read" in refusal(tmp_path / "x.cnt", reader="neuroscan")
    assert "only for" in refusal_of_hint(tmp_path)


def refusal_of_hint(folder: Path) -> str:
    make_raw().save(folder / "x_raw.fif", verbose="error")
    return refusal(folder / "x_raw.fif", reader="ant")


def test_recordings_that_hold_nothing_to_work_on(tmp_path: Path) -> None:
    path = tmp_path / "x_raw.fif"
    make_raw(types=("eog", "eog", "stim")).save(path, verbose="error")
    assert "no EEG channels; it has: 2 EOG, 1 STIM" in refusal(path)
    make_raw(1.0).save(path, overwrite=True, verbose="error")
    assert "is 1 s long; at least 2 s are needed" in refusal(path)
    make_raw(sfreq=100.0).save(path, overwrite=True, verbose="error")
    assert "sampled at 100 Hz; the loop needs 128 to 4096 Hz" in refusal(path)
    make_raw().save(path, overwrite=True, verbose="error")
    assert "no channel 'Oz'; it has: Cz, PO10, EOG1" in refusal(path, picks=["Oz"])


def test_a_file_that_vanishes_is_a_source_error(tmp_path: Path) -> None:
    path = tmp_path / "x_raw.fif"
    make_raw(30.0).save(path, verbose="error")
    playback = open_recording(path)
    path.unlink()
    with pytest.raises(SourceError, match="could not be read at 10"):
        play(playback, 2500)


def test_replay_is_thousands_of_times_faster_than_real_time(tmp_path: Path) -> None:
    """Against the plain reading of the same file by MNE, so that a slow machine judges neither."""
    path = tmp_path / "big_raw.fif"
    names = [f"E{i}" for i in range(64)]
    data = np.random.default_rng(0).normal(scale=1e-5, size=(64, 60_000))
    mne.io.RawArray(data, mne.create_info(names, 1000.0, "eeg"), verbose="error").save(path, verbose="error")
    raw = mne.io.read_raw_fif(path, verbose="error")

    def plain() -> float:
        began = time.process_time()
        for start in range(0, 60_000, 10_000):
            np.ascontiguousarray(raw[:, start : start + 10_000][0].T)
        return time.process_time() - began

    def played() -> float:
        playback = open_recording(path)
        began = time.process_time()
        while playback.read(100, 0.0) is not None:
            pass
        return time.process_time() - began

    assert min(played() for _ in range(5)) < 2.0 * min(plain() for _ in range(5))
