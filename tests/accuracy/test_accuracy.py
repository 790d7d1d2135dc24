"""The benchmark's short form on development seeds, and the pieces that its figures rest on."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console

from devices.mock.background import Background
from loop.accuracy import bench, scenes
from loop.accuracy.bench import BOUND, COLUMNS, FUSED, MARKERS, OURS, RAW, TEMPLATE, Law, Session, session_of
from loop.accuracy.many import gated
from loop.accuracy.metrics import auc, correlation, difference_of, mean_of, partial
from loop.accuracy.report import Report, draw, render, report_of
from loop.sources.realtime import received_epochs

SEEDS = (scenes.FIRST_DEVELOPMENT_SEED, scenes.FIRST_DEVELOPMENT_SEED + 1, scenes.FIRST_DEVELOPMENT_SEED + 2)
SCENES = scenes.effects("plain", (0.0, 12.0))
COLUMNS_PLAYED = (OURS, RAW, BOUND, MARKERS, FUSED)


@pytest.fixture(scope="module")
def sessions() -> list[Session]:
    out = []
    for seed in SEEDS:
        background = Background(SCENES[0].settings(seed))
        out += [session_of(scene, seed, background, COLUMNS_PLAYED) for scene in SCENES]
    return out


@pytest.fixture(scope="module")
def report(sessions: list[Session]) -> Report:
    return report_of(sessions, SCENES, SCENES[0].config().policy)


def of(sessions: list[Session], scene: str, column: str, measure: str = "r") -> float:
    values = [getattr(one.scores[column], measure) for one in sessions if one.scene == scene]
    assert len(values) == len(SEEDS)
    return float(np.mean(values))


def test_the_index_follows_a_large_error_and_nothing_where_there_is_none(sessions: list[Session]) -> None:
    for scene in ("plain, a = 0", "plain, a = 12"):
        print("\n" + scene, {name: round(of(sessions, scene, name), 2) for name in COLUMNS_PLAYED})
    assert abs(of(sessions, "plain, a = 0", OURS)) < 0.2
    assert of(sessions, "plain, a = 12", OURS) > 0.45
    assert of(sessions, "plain, a = 12", OURS, "auc") > 0.7
    assert of(sessions, "plain, a = 12", OURS, "partial") > 0.3
    assert of(sessions, "plain, a = 12", OURS) > of(sessions, "plain, a = 12", RAW) + 0.1
    assert of(sessions, "plain, a = 12", OURS) > 0.8 * of(sessions, "plain, a = 12", BOUND)
    assert of(sessions, "plain, a = 12", FUSED) > of(sessions, "plain, a = 12", MARKERS)


def test_markers_are_the_same_whatever_the_source(sessions: list[Session]) -> None:
    for k in range(0, len(sessions), 2):
        null, large = sessions[k], sessions[k + 1]
        assert (null.seed, null.group, null.hours) == (large.seed, large.group, large.hours)
        assert null.scores[MARKERS].r == pytest.approx(large.scores[MARKERS].r, abs=0.05)


def test_a_decision_takes_as_long_as_the_windows(sessions: list[Session]) -> None:
    assert all(0.6 < one.delay_s < 0.66 for one in sessions)


def test_the_report_has_every_target_and_reads_in_80_columns(report: Report, tmp_path: Path) -> None:
    console = Console(width=80, record=True, file=(tmp_path / "out").open("w"))
    render(report, console)
    text = console.export_text()
    assert "ours, causal" in text
    assert max(len(line) for line in text.splitlines()) <= 80
    held = {target.name: target.held for target in report.targets}
    assert held["plain, a = 8: r"] is None, "what was not played is neither held nor missed"
    assert held["fused minus markers alone, r, a = 12"] is not None
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report
    draw(report, tmp_path / "figure.svg")
    assert (tmp_path / "figure.svg").read_text().startswith("<?xml")


def test_the_seeds_that_settings_were_compared_on_are_never_reported() -> None:
    assert scenes.FIRST_SEED + 500 < scenes.FIRST_DEVELOPMENT_SEED
    assert {scenes.group_of(seed) for seed in range(3)} == {"HC", "CC", "FM"}


def test_scenes_differ_in_what_they_say() -> None:
    names = [scene.name for scene in scenes.long_form()]
    assert len(set(names)) == len(names)
    by_name = {scene.name: scene for scene in scenes.long_form()}
    assert by_name["source in V1"].settings(1).pe_site == "V1"
    assert by_name["startle only, a = 0"].settings(1).pe_amplitude_nam == 0.0
    assert by_name["right pad's channels out"].config().channels.pads == scenes.PADS
    assert by_name["full, a = 8"].settings(1).sized("startle") > 0.0
    assert {OURS, TEMPLATE, RAW} < set(COLUMNS)


def test_large_against_small_is_by_the_median() -> None:
    truth = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert auc(truth, truth) == 1.0
    assert auc(-truth, truth) == 0.0
    assert auc(np.zeros(6), truth) == 0.5
    assert np.isnan(correlation(np.zeros(6), truth))


def test_partial_correlation_takes_off_what_is_known() -> None:
    rng = np.random.default_rng(1)
    known, own = rng.normal(size=(2, 4000))
    truth = known + own
    assert partial(known + rng.normal(size=4000), truth, known[:, None]) == pytest.approx(0.0, abs=0.05)
    assert partial(own, truth, known[:, None]) == pytest.approx(1.0, abs=1e-2)


def test_intervals_are_students_and_paired() -> None:
    found = mean_of([1.0, 2.0, 3.0, float("nan")])
    assert found is not None
    assert (found.mean, found.n) == (2.0, 3)
    assert found.high - found.mean == pytest.approx(4.303 / 3**0.5, rel=1e-3)
    assert mean_of([1.0, 2.0]) is None
    paired = difference_of([1.0, 12.0, 103.0], [0.0, 11.0, 102.0])
    assert paired is not None
    assert (paired.mean, paired.low, paired.high) == (1.0, 1.0, 1.0)


def test_gates_open_for_a_persisting_error_and_rarely_without_excess() -> None:
    """A readout as good as r = .5 on trials, calibrated without bias."""
    table = SCENES[0].config().policy
    law = Law(offset=0.1, slope=0.3, noise=0.15, b0=0.1, b1=0.3, sigma=0.15, r_cv=0.4, group="", persistence=0.0, gain=1.0)
    persisting, none = gated("FM", [law], table, 100), gated("no excess", [law], table, 100)
    assert persisting == gated("FM", [law], table, 100)
    assert persisting.within > 0.75
    assert none.ever < 0.35
    assert none.an_hour < 0.8
    assert none.ever_low < none.ever < none.ever_high


def test_who_is_played_is_judged_by_a_calibration_of_their_own() -> None:
    """What remains of an error and its gain are no excess, for a calibration has them in its offset and slope."""
    plain = Law(offset=0.1, slope=0.3, noise=0.15, b0=0.1, b1=0.3, sigma=0.15, r_cv=0.4, group="", persistence=0.0, gain=1.0)
    law = msgspec.structs.replace(plain, b0=0.145, b1=0.345, persistence=0.15, gain=1.15, group="FM")
    table = SCENES[0].config().policy
    for who in ("FM", "no excess"):
        assert gated(who, [law], table, 20) == gated(who, [plain], table, 20)
    deaf = msgspec.structs.replace(law, slope=0.0, b1=0.0, r_cv=0.0, group="HC")
    assert gated("FM", [deaf, law], table, 20) == gated("FM", [law], table, 20)
    assert gated("HC", [deaf, law], table, 20).ever == 0.0


def test_epochs_come_through_mne_realtime_as_they_were_sent() -> None:
    samples = np.random.default_rng(2).normal(size=(4000, 2))
    onsets = (700, 1500, 2950)
    epochs = received_epochs(samples, 500.0, ("PO9", "PO10"), onsets, (-0.2, 0.6))
    for epoch, onset in zip(epochs, onsets, strict=True):
        sent = samples[onset - 100 : onset + 301].T
        sent = sent - sent[:, :101].mean(axis=1, keepdims=True)
        np.testing.assert_allclose(epoch, sent[:, ::4], atol=1e-9)


def test_processes_leave_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with bench._one_thread_each():
        assert bench.os.environ["OMP_NUM_THREADS"] == bench.os.environ["MKL_NUM_THREADS"] == "1"
    assert bench.os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in bench.os.environ
