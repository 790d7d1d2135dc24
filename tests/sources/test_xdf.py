"""XDF files: the right stream, its own stamps, its own type; and why nothing can be done with some."""

from __future__ import annotations

import builtins
import struct
from pathlib import Path

import numpy as np
import pytest
import pyxdf
from sources_helpers import drain

from loop.sources.errors import SourceError
from loop.sources.recording import open_recording


def chunk(tag: int, content: bytes) -> bytes:
    """A chunk of the XDF format: how long its length is, its length, its kind, its content."""
    return b"\x04" + struct.pack("<IH", len(content) + 2, tag) + content


def header(number: int, name: str, kind: str, n_channels: int, rate: float, form: str, desc: str = "") -> bytes:
    text = (
        f"<info><name>{name}</name><type>{kind}</type><channel_count>{n_channels}</channel_count>"
        f"<nominal_srate>{rate}</nominal_srate><channel_format>{form}</channel_format>"
        f"<source_id>id{number}</source_id><created_at>0</created_at><uid>u{number}</uid><session_id>s</session_id>"
        f"<hostname>h</hostname><desc>{desc}</desc></info>"
    )
    return chunk(2, struct.pack("<I", number) + text.encode())


def numbers(number: int, stamps: list[float], values: np.ndarray) -> bytes:
    body = struct.pack("<I", number) + b"\x04" + struct.pack("<I", len(stamps))
    for stamp, row in zip(stamps, values, strict=True):
        body += b"\x08" + struct.pack("<d", stamp) + row.tobytes()
    return chunk(3, body)


def texts(number: int, stamped: list[tuple[float, str]]) -> bytes:
    body = struct.pack("<I", number) + b"\x04" + struct.pack("<I", len(stamped))
    for stamp, text in stamped:
        body += b"\x08" + struct.pack("<d", stamp) + b"\x04" + struct.pack("<I", len(text)) + text.encode()
    return chunk(3, body)


def footer(number: int) -> bytes:
    return chunk(6, struct.pack("<I", number) + b"<info></info>")


CHANNELS = "<channels>{}</channels>"
CHANNEL = "<channel><label>{}</label><type>EEG</type><unit>{}</unit></channel>"
TWO = CHANNELS.format(CHANNEL.format("Cz", "microvolts") + CHANNEL.format("PO10", "mV"))
START = b"XDF:" + chunk(1, b"<info><version>1.0</version></info>")


def eeg(number: int = 1, name: str = "amp", n: int = 1000, desc: str = TWO) -> tuple[bytes, list[float], np.ndarray]:
    """A stream of int16 at 250 Hz with a second missing after half its samples, and a jitter of a tenth of a period."""
    jitter = np.random.default_rng(1).uniform(-4e-4, 4e-4, n)
    stamps = (1000.0 + np.arange(n) / 250.0 + (np.arange(n) >= n // 2) * 1.0 + jitter).tolist()
    values = np.arange(2 * n, dtype=np.int16).reshape(n, 2)
    return (
        header(number, name, "EEG", 2, 250.0, "int16", desc) + numbers(number, stamps, values),
        stamps,
        values,
    )


def test_samples_keep_their_type_and_stamps_their_jitter_and_gaps(tmp_path: Path) -> None:
    data, stamps, values = eeg()
    words = [(999.5, "before"), (stamps[10], "at"), (stamps[10] + 0.001, "CUE/H"), (2000.0, "after")]
    markers = header(2, "cereloop-markers", "Markers", 1, 0.0, "string") + texts(2, words)
    (tmp_path / "x.xdf").write_bytes(START + data + markers + footer(1) + footer(2))
    playback = open_recording(tmp_path / "x.xdf")
    got_stamps, samples, got_markers = drain(playback, 130)
    assert samples.dtype == np.int16
    assert np.array_equal(samples, values)
    assert got_stamps.tolist() == [round((s - stamps[0]) * 1e9) for s in stamps]
    assert np.diff(got_stamps).max() > 1_000_000_000
    ns = [round((s - stamps[0]) * 1e9) for s, _ in words]
    assert got_markers == [(ns[0], "before"), (ns[1], "at"), (ns[2], "CUE/H")]
    assert playback.layout.units == ("microvolts", "mV")
    assert playback.layout.to_uv == (1.0, 1000.0)
    assert playback.info.dtype == "int16"
    assert any("1 markers lie after" in note for note in playback.notes)


def test_several_eeg_streams_must_be_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "x.xdf"
    path.write_bytes(START + eeg(1, "left")[0] + eeg(7, "right")[0] + footer(1) + footer(7))
    with pytest.raises(SourceError, match=r"2 EEG streams.*'left' .*number 1.*'right' .*number 7"):
        open_recording(path)
    for choice in ("right", "id7", "7"):
        assert "number 7" in open_recording(path, stream=choice).info.identity
    with pytest.raises(SourceError, match="no EEG stream called 'middle'"):
        open_recording(path, stream="middle")


def test_a_stream_without_units_needs_one(tmp_path: Path) -> None:
    path = tmp_path / "x.xdf"
    bare = CHANNELS.format(CHANNEL.format("Cz", "") + CHANNEL.format("PO10", ""))
    path.write_bytes(START + eeg(desc=bare)[0] + footer(1))
    with pytest.raises(SourceError, match="Channel Cz .* does not say its unit"):
        open_recording(path)
    assert open_recording(path, unit="uV").layout.to_uv == (1.0, 1.0)
    path.write_bytes(START + eeg(desc="")[0] + footer(1))
    with pytest.raises(SourceError, match="does not describe its 2 channels"):
        open_recording(path)


def test_streams_with_too_little_in_them(tmp_path: Path) -> None:
    path = tmp_path / "x.xdf"
    path.write_bytes(START + header(1, "amp", "EEG", 2, 250.0, "int16", TWO) + footer(1))
    with pytest.raises(SourceError, match="'amp'.* has no samples"):
        open_recording(path)
    path.write_bytes(START + eeg(n=100)[0] + footer(1))
    with pytest.raises(SourceError, match="at least 2 s"):
        open_recording(path)


def test_without_pyxdf_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.xdf").write_bytes(START + eeg()[0])
    real = builtins.__import__

    def missing(name: str, *args: object, **kwargs: object) -> object:
        if name == "pyxdf":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(SourceError, match=r"pip install 'cereloop\[xdf\]'"):
        open_recording(tmp_path / "x.xdf")


def test_a_cut_file_plays_as_far_as_it_goes_and_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data, _, values = eeg()
    extra = numbers(1, [2000.0, 2000.004], values[:2])
    (tmp_path / "x.xdf").write_bytes(START + data + extra[:-5])
    playback = open_recording(tmp_path / "x.xdf")
    assert np.array_equal(drain(playback, 500)[1][:1000], values)
    assert any("pyxdf" in note for note in playback.notes)
    assert capfd.readouterr() == ("", "")


def test_a_real_session_with_four_streams_of_one_name(recordings: Path) -> None:
    path = recordings / "lsl_xdf/muselsl2_sub-P001_eeg.xdf"
    playback = open_recording(path)
    assert playback.layout.labels == ("TP9", "AF7", "AF8", "TP10")
    assert playback.layout.sfreq_hz == 256.0
    assert playback.notes == ("Left out, not scalp EEG: Right AUX.",)
    stream = next(s for s in pyxdf.load_xdf(str(path), dejitter_timestamps=False)[0] if s["info"]["type"] == ["EEG"])
    stamps, samples, markers = drain(playback, 100)
    assert np.array_equal(samples, stream["time_series"][:, :4])
    assert samples.dtype == np.float32
    expected = np.rint((stream["time_stamps"] - stream["time_stamps"][0]) * 1e9)
    assert np.array_equal(stamps, expected)
    assert markers == []


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("minimal", r"Stream 'SendDataC' in .* is sampled at 10 Hz; the loop needs 128 to 4096 Hz\."),
        ("empty_streams", r"holds no EEG stream; it holds: 'Empty data stream.*number 2\)\."),
    ],
)
def test_real_files_with_nothing_to_work_on(recordings: Path, name: str, why: str) -> None:
    with pytest.raises(SourceError, match=why):
        open_recording(recordings / f"lsl_xdf/{name}.xdf")
