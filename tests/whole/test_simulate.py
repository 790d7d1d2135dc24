"""A simulated session from configuration to proof: it opens gates, keeps its limits, and gives the same bytes twice."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec
import pytest
from whole_quick import QUICK

import loop
from devices import link
from loop.config import Config
from loop.events import SourceInfo
from loop.summary import summarise


def test_two_runs_give_the_same_file(quick: Config, simulated: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.sqlite"
    loop.simulate(quick, out=again).close()
    assert again.read_bytes() == simulated.read_bytes()


def test_another_seed_gives_another_file(simulated: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.sqlite"
    loop.simulate(loop.load_config("simulate", [*QUICK, "patient.seed=2"]), out=again).close()
    assert again.read_bytes() != simulated.read_bytes()


def test_the_gate_opens_on_evidence_and_closes_again(simulated: Path) -> None:
    with loop.Session.open(simulated) as session:
        summary = summarise(session)
        phases = [change.after for change in session.gates]
    assert summary.gates
    assert "evidence" in summary.gates[0].reason
    first = phases.index("RAMP_UP")
    assert phases[first : first + 5] == ["RAMP_UP", "HOLD", "RAMP_DOWN", "SETTLE", "SENSE"]
    assert summary.ended == "the configured duration is over"


def test_limits_hold_and_charge_is_that_of_the_ramps_and_holds(quick: Config, simulated: Path) -> None:
    assert quick.stimulation is not None
    with loop.Session.open(simulated) as session:
        summary = summarise(session)
        reports = [device.message for device in session.device_reports]
    assert summary.peak_ua == quick.stimulation.level_ua
    full = [gate for gate in summary.gates if gate.seconds > 45.0]
    one_gate_mc = quick.stimulation.level_ua * (quick.stimulation.ramp_s + quick.stimulation.hold_s) / 1e6
    assert summary.charge_mc >= 0.98e3 * one_gate_mc * len(full)
    assert summary.charge_mc <= 1.05e3 * one_gate_mc * len(summary.gates)
    levels = [report.level_ua for report in reports if isinstance(report, link.Report)]
    assert max(levels) <= quick.stimulation.level_ua
    assert levels[-1] == 0


def test_every_command_resolves_to_decision_outcomes_features_and_samples(simulated: Path) -> None:
    with loop.Session.open(simulated) as session:
        commands = session.commands
        raised = [seq for item, seq in zip(commands, commands.seq, strict=True) if item.message.level_ua > 0]
        explanation = session.explain(raised[0])
        assert explanation.decision is not None
        assert explanation.decision.wanted == "open"
        assert explanation.grounds
        assert all(ground.feature_rows and ground.sample_rows for ground in explanation.grounds)


def test_no_outcome_under_current_is_evidence(simulated: Path) -> None:
    with loop.Session.open(simulated) as session:
        gates, outcomes = session.gates, session.outcomes
    phase, marks = "IDLE", sorted([(g.t_ns, "", g) for g in gates] + [(o.decided_sample * 2_000_000, "o", o) for o in outcomes],
                                  key=lambda mark: (mark[0], mark[1]))
    seen = 0
    for _, kind, item in marks:
        if not kind:
            phase = item.after
        elif phase not in ("SENSE", "IDLE"):
            seen += 1
            assert item.reason
    assert seen


def test_the_record_says_how_to_make_the_patient_again(quick: Config, simulated: Path) -> None:
    with loop.Session.open(simulated) as session:
        info = msgspec.json.decode(session.meta.source, type=SourceInfo)
    assert info.kind == "patient"
    assert info.simulated
    assert msgspec.json.decode(info.identity)["seed"] == quick.patient.seed  # type: ignore[union-attr]


@pytest.mark.parametrize("arm", ["open_loop", "feedback_only"])
def test_the_other_arms_do_what_they_are_called(arm: str, tmp_path: Path) -> None:
    config = loop.load_config("simulate", [*QUICK, f"session.arm='{arm}'", "session.duration_s=70"])
    with loop.simulate(config, out=tmp_path / "arm.sqlite") as session:
        opened = [change for change in session.gates if change.after == "RAMP_UP"]
        assert len(session.guard_messages) == 0 if arm == "feedback_only" else len(opened) >= 1
        assert all("open_loop plan" in change.reason for change in opened)


def test_plain_sqlite_reads_it(simulated: Path) -> None:
    with sqlite3.connect(simulated) as database:
        rows = database.execute("select wanted, reason from decisions where wanted = 'open'").fetchall()
    assert rows
    assert "evidence" in rows[0][1]


def test_to_raw_makes_the_patients_eeg_again(simulated: Path) -> None:
    from loop.redrive import samples_of

    with loop.Session.open(simulated) as session:
        raw = session.to_raw(samples_of(session))
    assert raw.info["sfreq"] == 500.0
    assert "PO10" in raw.ch_names
    assert any(text.startswith("STIM/") for text in raw.annotations.description)
    assert any("HOLD" in text for text in raw.annotations.description)
