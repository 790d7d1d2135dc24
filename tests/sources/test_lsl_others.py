"""A stream made by other software, with another liblsl: the player of mne-lsl, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mne
import numpy as np

from loop.sources.lsl import LslSource

PLAYER = """
import sys
from mne_lsl.player import PlayerLSL
player = PlayerLSL(sys.argv[1], chunk_size=10, name=sys.argv[2], source_id=sys.argv[2])
player.start()
print("up", flush=True)
sys.stdin.read()
player.stop()
"""


def test_the_player_of_mne_lsl_is_understood(tmp_path: Path, unique: str) -> None:
    data = np.random.default_rng(0).normal(scale=1e-5, size=(3, 5000))
    info = mne.create_info(["Cz", "PO10", "EOG1"], 250.0, ["eeg", "eeg", "eog"])
    path = tmp_path / "x_raw.fif"
    mne.io.RawArray(data, info, verbose="error").save(path, verbose="error")
    sent = mne.io.read_raw_fif(path, verbose="error").get_data(picks=["Cz", "PO10"]).T
    player = subprocess.Popen(
        [sys.executable, "-c", PLAYER, str(path), unique], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert player.stdin is not None
    assert player.stdout is not None
    source = LslSource(name=unique, type="", marker_name="", marker_type="", timeout_s=20.0)
    try:
        assert "up\n" in iter(player.stdout.readline, "")
        layout = source.open()
        assert layout.labels == ("Cz", "PO10")
        assert layout.to_uv == (1e6, 1e6)
        assert layout.sfreq_hz == 250.0
        assert not source.info.simulated
        got = source.pull(10.0)
    finally:
        source.close()
        player.communicate("", timeout=30.0)
    assert got is not None
    begin = int(np.flatnonzero(sent[:, 0] == got[1][0, 0])[0])
    assert np.array_equal(got[1], sent[(begin + np.arange(len(got[1]))) % len(sent)])
