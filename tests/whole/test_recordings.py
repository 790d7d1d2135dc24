"""Every real recording replays, or one sentence says why there is nothing to work on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import loop
from loop.redrive import verify
from loop.sources.errors import SourceError

RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "recordings"
pytestmark = pytest.mark.skipif(not RECORDINGS.is_dir(), reason=f"real recordings are not here: {RECORDINGS}")

ODDBALL = ["source.path='given'", "markers.rename={target='STIM/NOX/100', standard='STIM/INN/0'}"]


@pytest.mark.parametrize("run", range(1, 7))
def test_oddball_replays_with_its_events(run: int, tmp_path: Path) -> None:
    config = loop.load_config("replay", ODDBALL)
    with loop.replay(RECORDINGS / "oddball_muse" / f"run-{run:02d}_raw.fif", config, out=tmp_path / "o.sqlite") as session:
        assert len(session.outcomes) > 150
        assert "TP9/TP10 stand in for PO9/PO10: this is not a posterior-fossa site" in session.setups[0].notes
        assert len(session.features.t_ns) == pytest.approx(50 * 120, abs=60)
    assert verify(tmp_path / "o.sqlite").identical


def test_eeglab_set_replays(tmp_path: Path) -> None:
    config = loop.load_config("replay", ["source.path='given'", "markers.rename={square='STIM/NOX/60', rt='RESP/AWARE/1'}"])
    with loop.replay(RECORDINGS / "attention_eeglab" / "eeglab_data.set", config, out=tmp_path / "s.sqlite") as session:
        assert len(session.outcomes) == 80
        assert any("muscle" in note for note in session.setups[0].notes)
    assert verify(tmp_path / "s.sqlite").identical


def test_edf_replays_and_its_dead_end_is_named(tmp_path: Path) -> None:
    with loop.replay(RECORDINGS / "rest_eegmmidb" / "S001R01.edf", out=tmp_path / "e.sqlite") as session:
        assert "PO7/PO8" in session.setups[0].estimator
        flat = {incident.detail for incident in session.incidents if incident.name == "channel_flat"}
        assert len(flat) == 64
        assert not len(session.outcomes)
    assert verify(tmp_path / "e.sqlite").identical


def test_xdf_of_a_real_lsl_session_replays(tmp_path: Path) -> None:
    with loop.replay(RECORDINGS / "lsl_xdf" / "muselsl2_sub-P001_eeg.xdf", out=tmp_path / "x.sqlite") as session:
        assert "TP9/TP10" in session.setups[0].estimator
        assert len(session.features.t_ns) > 1000
    assert verify(tmp_path / "x.sqlite").identical


@pytest.mark.parametrize("name", ["minimal.xdf", "empty_streams.xdf"])
def test_files_with_nothing_to_work_on_say_so_in_one_sentence(name: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=name.replace(".", r"\.")):
        loop.replay(RECORDINGS / "lsl_xdf" / name, out=tmp_path / "n.sqlite")
    command = [sys.executable, "-m", "loop", "replay", str(RECORDINGS / "lsl_xdf" / name)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 3
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_recording_can_drive_the_simulated_stimulator_only(tmp_path: Path) -> None:
    given = Path(__file__).resolve().parents[2] / "configs" / "live-mock.toml"
    recording = RECORDINGS / "rest_eegmmidb" / "S001R01.edf"
    command = [sys.executable, "-m", "loop", "replay", str(recording), "--config", str(given)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "simulated stimulator only" in done.stderr
