"""A recording of the simulated patient: it replays as it was played, its truth lies beside it, and nothing is half written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mne
import msgspec
import numpy as np
import pytest

import loop.patient_recording as written
from devices.mock.patient import Patient
from devices.mock.patient_settings import PatientSettings
from loop.config import ConfigError
from loop.sources.recording import open_recording

SETTINGS = PatientSettings(
    seed=4, sfreq_hz=250.0, labels=("Cz", "PO9", "PO10", "Iz"), rest_s=0.0, blocks=("A", "O"), rounds=1, duration_s=120.0
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[written.Written, Path]:
    out = tmp_path_factory.mktemp("recording") / "p4_raw.fif"
    shares: list[float] = []
    done = written.write_recording(SETTINGS, out, shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    return done, out


def test_it_replays_as_it_was_played(made: tuple[written.Written, Path]) -> None:
    patient = Patient(SETTINGS)
    samples, markers = patient.advance(patient.n_samples, 0.0)
    playback = open_recording(made[1])
    assert playback.n_samples == patient.n_samples
    assert [text for _, text in playback.markers] == [text for _, text in markers]
    stamps = np.array([stamp for stamp, _ in playback.markers]) * 250.0 / 1e9
    assert np.abs(stamps - [sample for sample, _ in markers]).max() < 0.1
    block = playback.read(patient.n_samples, 0.0)
    assert block is not None
    assert np.abs(block.samples * np.array(playback.layout.to_uv) - samples).max() < 1e-3
    assert playback.layout.positions_m == pytest.approx(np.array(patient.positions_m), abs=1e-6)


def test_the_truth_lies_beside_it_and_nowhere_in_it(made: tuple[written.Written, Path]) -> None:
    done, out = made
    truth = msgspec.json.decode(Path(done.truth).read_bytes())
    patient = Patient(SETTINGS)
    patient.advance(patient.n_samples, 0.0)
    assert done.truth == str(out.with_name("p4_truth.json"))
    assert [one["pe"] for one in truth["outcomes"]] == [one.pe for one in patient.truth]
    assert len(truth["outcomes"]) == done.outcomes
    assert truth["person"]["alpha"] == patient.person.alpha
    assert max(truth["source_uv_per_nam"], key=truth["source_uv_per_nam"].get) == "PO10"
    assert msgspec.convert(truth["settings"], PatientSettings, strict=False) == SETTINGS
    assert len(truth["assumptions"]) > 80
    raw = mne.io.read_raw_fif(out, verbose="ERROR")
    assert "simulated" in raw.info["description"]
    assert {text.split("/")[0] for text in raw.annotations.description} <= {
        "SESSION", "BLOCK", "TRIAL", "CUE", "OUT_DUE", "STIM", "STIM_OFF", "RATE", "RESP",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("p4_raw.fif", {}, "exists already; name another file"),
        ("p5.fif", {}, r"p5.fif is no name for a recording; it has to end in _raw.fif or _eeg.fif"),
        ("no/p5_raw.fif", {}, "there is no directory"),
        ("p5_raw.fif", {"labels": ("Cz", "XX")}, "table `patient`: no places of the 10-05 system: XX"),
        ("p5_raw.fif", {"task": "mine.toml"}, "table `patient`: task mine.toml: No such file"),
    ],
)
def test_what_cannot_be_written_is_said_first(
    made: tuple[written.Written, Path], name: str, change: dict[str, object], why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        written.write_recording(msgspec.structs.replace(SETTINGS, **change), made[1].parent / name, lambda _: None)


def test_the_command_says_what_it_wrote_and_refuses_in_one_sentence(tmp_path: Path) -> None:
    out = tmp_path / "c_raw.fif"
    short = ["--set", "patient.duration_s=10", "--set", 'patient.labels=["Cz", "PO10"]', "--set", 'patient.blocks=["R"]']
    command = [sys.executable, "-m", "loop", "mock", "recording", "patient", "--out", str(out), "--seed", "3", "--json", *short]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert msgspec.json.decode(done.stdout, type=written.Written).recording == str(out)
    assert done.stderr == ""
    assert open_recording(out).n_samples == 5000
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert again.stderr == f"cereloop: --out: {out} exists already; name another file\n"


def test_whoever_interrupts_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(written, "_truth_of", interrupted)
    settings = msgspec.structs.replace(SETTINGS, duration_s=5.0, blocks=())
    with pytest.raises(KeyboardInterrupt):
        written.write_recording(settings, tmp_path / "p_raw.fif", lambda _: None)
    assert list(tmp_path.iterdir()) == []
