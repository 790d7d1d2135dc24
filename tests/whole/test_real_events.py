"""event_readout on real recordings, by the shipped path: calibrate, replay with the calibration, session file, outcomes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import loop
from loop.accuracy.recordings import control_of, separation_of

RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "recordings"
pytestmark = pytest.mark.skipif(not RECORDINGS.is_dir(), reason=f"real recordings are not here: {RECORDINGS}")
ODDBALL = RECORDINGS / "oddball_muse"
# The Muse's rail lies at 1000 µV; a visual oddball, and no cue that says what is due.
MUSE = [
    "estimator.kind='event_readout'",
    "markers.rename={target='STIM/NOX/100', standard='STIM/INN/0'}",
    "markers.imply_out_due=true",
    "markers.full_intensity=100",
    "channels.rail_uv=999",
]


def test_calibrated_on_three_runs_it_tells_targets_in_three_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(ODDBALL / f"run-{run:02d}_raw.fif") for run in range(1, 7)]
    settings = [part for override in MUSE for part in ("--set", override)]
    command = [sys.executable, "-m", "loop", "calibrate", *runs[:3], *settings, "--out", "muse.json", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["verdict"] == "go on"
    assert made["quality"]["trials"] > 500
    assert "no posterior-fossa index" in Path(tmp_path / made["page"]).read_text()
    calibration = f"estimator.calibration='{tmp_path / 'muse.json'}'"
    sessions = []
    for run in runs[3:]:
        sessions.append(tmp_path / f"{Path(run).stem}.sqlite")
        config = loop.load_config("replay", ["source.path='given'", *MUSE, calibration])
        with loop.replay(run, config, out=sessions[-1]) as session:
            late = [one for one in session.outcomes if one.index is not None and one.decided_sample <= one.sample]
            assert not late
    rows = separation_of(sessions)
    with capsys.disabled():
        print()
        for row in rows:
            print(
                f"  oddball_muse {row.name}: AUC {row.auc:.3f}, 95 % of chance below {row.chance:.3f}, p {row.p:.4f}, "
                f"{row.nox} targets, {row.inn} standards, {row.left_out} left out"
            )
    assert rows[-1].auc >= 0.70
    assert rows[-1].chance < 0.58
    assert all(row.p < 0.01 for row in rows)
    assert loop.verify(sessions[0]).identical


@pytest.mark.parametrize("estimator", ["event_readout", "posterior_fossa"])
def test_random_markers_in_rest_mean_nothing(estimator: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Few seeds; `cereloop control S001R01.edf --seeds 40` is the long form."""
    config = loop.load_config("simulate", [f"estimator.kind='{estimator}'"])
    found = control_of(RECORDINGS / "rest_eegmmidb" / "S001R01.edf", config, range(3))
    with capsys.disabled():
        print(
            f"\n  rest_eegmmidb, fake markers, {found.estimator}: AUC {found.auc:.3f} ± {found.se:.3f} over {found.seeds} seeds"
            f", {found.outcomes} outcomes, {found.gates} gates, {found.refused} calibrations refused, {found.alarms} alarms"
        )
    assert abs(found.auc - 0.5) < max(3.5 * found.se, 0.1)
    assert found.outcomes > 300
    assert found.gates == 0


def test_the_same_control_can_open_a_gate() -> None:
    """Else it would prove nothing: with a threshold that noise reaches, a gate opens, and the control says so."""
    eager = ["policy.threshold=0.3", "policy.release=0.1", "policy.drift=0"]
    found = control_of(RECORDINGS / "rest_eegmmidb" / "S001R01.edf", loop.load_config("simulate", eager), range(1))
    assert found.gates > 0
    assert found.alarms == 1
