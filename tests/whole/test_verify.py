"""`verify` proves a session, and names the first thing that is not as it was (I19–I21)."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import loop
from loop.redrive import verify


@pytest.fixture
def copy(simulated: Path, tmp_path: Path) -> Path:
    target = tmp_path / "copy.sqlite"
    shutil.copy(simulated, target)
    return target


def test_a_session_is_identical(simulated: Path) -> None:
    verdict = verify(simulated)
    assert verdict.identical
    assert verdict.samples > 70_000
    assert verdict.sentence.startswith("identical")


def test_it_is_identical_in_another_process_with_another_hash_seed(simulated: Path) -> None:
    # This process has a hash seed of its own, drawn when it began: with the other process there are two.
    command = [sys.executable, "-m", "loop", "verify", str(simulated), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONHASHSEED": "1"}, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["identical"]


def change(path: Path, sql: str, *values: object) -> None:
    with sqlite3.connect(path) as database:
        assert database.execute(sql, values).rowcount == 1


def test_a_changed_decision_is_named(copy: Path) -> None:
    change(copy, "update log set body = replace(body, 'open', 'closed') where seq = "
                 "(select min(seq) from log where kind = 'decision' and body like '%\"wanted\":\"open\"%')")
    verdict = verify(copy)
    assert not verdict.identical
    assert "decision" in verdict.damage


def test_a_changed_input_changes_what_follows_and_both_are_named(copy: Path) -> None:
    change(copy, "update log set body = replace(body, 'STIM/', 'STUM/') where seq = "
                 "(select min(seq) from log where kind = 'marker' and body like '%STIM/NOX%')")
    verdict = verify(copy)
    assert not verdict.identical
    assert "marker" in verdict.damage


def test_a_config_that_was_changed_is_found(copy: Path) -> None:
    change(copy, "update meta set value = replace(value, '\"threshold\":0.5', '\"threshold\":0.6') where key = 'config'")
    verdict = verify(copy)
    assert not verdict.identical


def test_a_session_that_was_cut_short_is_a_valid_prefix(simulated: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.sqlite"
    shutil.copy(simulated, cut)
    with sqlite3.connect(cut) as database:
        database.execute("delete from log where seq > (select max(seq) / 2 from log)")
    verdict = verify(cut)
    assert not verdict.identical
    assert not verdict.closed
    assert not verdict.divergence


def test_the_recording_that_is_missing_is_named(tmp_path: Path) -> None:
    import mne
    import numpy as np

    info = mne.create_info(["PO9", "PO10", "Oz", "Cz", "P9", "P10", "Fz", "FCz"], 250.0, "eeg")
    raw = mne.io.RawArray(np.random.default_rng(0).normal(0, 1e-5, (8, 3000)), info, verbose="error")
    file = tmp_path / "noise_raw.fif"
    raw.save(file, verbose="error")
    out = tmp_path / "noise.sqlite"
    loop.replay(file, out=out).close()
    assert verify(out).identical
    moved = tmp_path / "moved_raw.fif"
    file.rename(moved)
    assert verify(out, moved).identical
    done = subprocess.run([sys.executable, "-m", "loop", "verify", str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "noise_raw.fif" in done.stderr
    assert "Traceback" not in done.stderr
    other = tmp_path / "other_raw.fif"
    raw.copy().crop(0, 5).save(other, verbose="error")
    command = [sys.executable, "-m", "loop", "verify", str(out), "--recording", str(other)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "is not the recording" in done.stderr
