"""The figures of K12 from whole sessions: at the command line, from Python, and out of a recording with ends of stimuli."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import mne
import numpy as np
import pytest
from rich.console import Console

import loop
from loop.coupling import PAIRS
from loop.summary import render, summarise


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A replayed recording: two cues, heat of 2 s whose end is marked, a block of stated expectations after one of learned."""
    folder = tmp_path_factory.mktemp("recorded")
    names = ["PO9", "PO10", "Oz", "Cz", "Fz", "Pz", "C3", "C4"]
    seconds, rng = 320, np.random.default_rng(1)
    data = rng.normal(0.0, 1e-5, (len(names), seconds * 250))
    marks = [(44.0, "BLOCK/A/START")]
    for k, at_s in enumerate(np.arange(48.0, seconds - 6.0, 8.0)):
        burst = 3e-5 * np.sin(2 * np.pi * 20.0 * np.arange(175) / 250.0)
        start = round(250 * at_s)
        data[:2, start : start + 175] += burst
        marks += [(at_s - 2.0, f"CUE/{'HL'[k % 2]}"), (at_s, "OUT_DUE"), (at_s, "STIM/NOX/100"), (at_s + 2.0, "STIM_OFF")]
    raw = mne.io.RawArray(data, mne.create_info(names, 250.0, "eeg"), verbose="error")
    raw.set_annotations(mne.Annotations([at for at, _ in marks], 0.0, [text for _, text in marks]))
    path = folder / "heat_raw.fif"
    raw.save(path, verbose="error")
    loop.replay(path, out=folder / "heat.sqlite").close()
    return folder / "heat.sqlite"


def test_a_recording_with_ends_of_stimuli_gives_every_figure_and_the_same_bytes(recorded: Path) -> None:
    with loop.Session.open(recorded) as session:
        figures = session.fragility()
        outcomes, ends, epochs = session.outcomes, session.stimulus_ends, session.coupling
        assert len(ends) == len(outcomes) == 34
        assert list(ends.to_frame()["text"].unique()) == ["STIM_OFF"]
    both = figures.onset_offset
    assert both is not None
    assert both.onset.low > both.end.high
    assert both.ratio is not None
    assert both.ratio.high < 0.5
    assert figures.decay is not None
    assert figures.decay.where == "blocks A and V"
    assert [one.name for one in figures.coupling] == list(PAIRS)
    assert figures.coupling[0].estimate.n == len(epochs) > 100
    assert not figures.untold
    verdict = loop.verify(recorded)
    assert verdict.identical, verdict.sentence


def test_show_tells_the_figures_in_words_and_as_json(recorded: Path) -> None:
    asked = subprocess.run(
        [sys.executable, "-m", "loop", "show", str(recorded), "--json"], capture_output=True, text=True, check=True
    )
    figures = json.loads(asked.stdout)["fragility"]
    for name in ("excess", "late_expected", "kalman_nis"):
        assert figures[name]["low"] <= figures[name]["value"] <= figures[name]["high"]
    assert len(figures["learning_rate"]["rate"]["grid"]) == 24
    with loop.Session.open(recorded) as session:
        console = Console(file=io.StringIO(), width=80)
        render(summarise(session), console)
    shown = console.file.getvalue()
    assert "posterior-fossa prediction-error index" in shown
    for label in ("excess", "late expected", "learning rate", "decay", "onset, end", "coupling", "Kalman NIS"):
        assert f"\n{label}" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_a_simulated_session_judges_markers_alone_beside_the_index(simulated: Path) -> None:
    with loop.Session.open(simulated) as session:
        truth = {one.t_ns: one.surprise + 0.01 * (k % 3) for k, one in enumerate(session.outcomes)}
        summary = summarise(session, truth)
        row = session.outcomes.to_frame().iloc[-1]
    assert summary.agreement_markers.r > 0.9
    assert summary.agreement_fused.r is None
    assert summary.agreement.n == summary.agreement_markers.n
    assert np.isfinite([row["d_rescorla_wagner"], row["d_kalman"], row["d_ehgf"]]).all()
    assert summary.fragility.onset_offset is None
    assert any("STIM_OFF" in sentence for sentence in summary.fragility.untold)
