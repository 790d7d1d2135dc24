"""The fault campaign: its short form is within every bound, it runs the same again, and it finds a guard that is none."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from devices import guard
from devices.guard_checks import Verdict
from loop.campaign.rows import all_rows, pair_rows, rows
from loop.campaign.run import plan_of
from loop.campaign.virtual import is_virtual, lane
from loop.config import ConfigError

HAZARDS = tomllib.loads((Path(__file__).parents[1] / "hazards.toml").read_text())
COMMAND = [sys.executable, "-m", "loop", "campaign"]


def campaign(*arguments: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run([*COMMAND, "--json", *arguments], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_the_rows_are_those_of_the_table_of_hazards() -> None:
    faults = {code: row for code, row in HAZARDS.items() if code.startswith("F")}
    assert list(rows()) == list(faults)
    for code, row in rows().items():
        hazard = faults[code]
        assert (row.group, row.text, row.answer, row.bound) == tuple(hazard[k] for k in ("group", "text", "answer", "bound"))
        if row.bound.endswith(" s"):
            assert row.bound_s == float(row.bound.removesuffix(" s")), code
    assert len(pair_rows()) == 15
    assert sum(row.deep for row in all_rows().values()) >= 10


def test_every_row_runs_on_the_virtual_clock() -> None:
    assert [name for name in all_rows() if not is_virtual(name)] == []


def test_the_short_form_is_within_every_bound() -> None:
    code, report = campaign("--short")
    (part,) = report["parts"]
    assert [line["row"] for line in part["lines"]] == list(all_rows())
    assert [(line["row"], line["wrong"]) for line in part["lines"] if line["failed"]] == []
    assert (code, report["within"], report["complete"]) == (0, True, True)
    assert all(line["runs"] == part["asked"] for line in part["lines"])


def test_the_same_seed_gives_the_same_runs() -> None:
    names = ["F01", "F32", "F56 emergency stop + guard SIGKILL"]
    first, again = (list(lane(0, 4, 3, names, lambda: False)) for _ in range(2))
    assert first == again
    assert first != list(lane(0, 4, 4, names, lambda: False))


def test_a_guard_that_believes_everything_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def trusting(*_: object) -> Verdict:
        return Verdict(None, "")

    monkeypatch.setattr(guard, "judge", trusting)
    runs = list(lane(0, 6, 1, ["F20", "F33", "F34"], lambda: False))
    assert all(run.wrong for run in runs if run.row in ("F33", "F34"))
    assert not any(run.wrong for run in runs if run.row == "F20")


def test_a_guard_that_ramps_too_slowly_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "abort_level", lambda params, state, t_ns: max(0, state.level_ua - 1))
    monkeypatch.setattr("loop.campaign.rig.ReferenceStimulator.stop", lambda self, stop_class: None)
    assert any(run.wrong for run in lane(0, 8, 1, ["F20", "F41"], lambda: False))


def test_real_processes_are_killed_and_judged_by_the_meter() -> None:
    code, report = campaign("--runs", "0", "--trials", "1", "--row", "F20", "--row", "F44", "--row", "F56 gap + engine SIGKILL")
    (part,) = report["parts"]
    lines = {line["row"]: line for line in part["lines"]}
    assert [(name, line["wrong"]) for name, line in lines.items() if line["failed"]] == []
    assert (code, part["clock"]) == (0, "real")
    assert {name: list(line["seen"]) for name, line in lines.items()} == {
        "F20": ["S1"], "F44": ["on"], "F56 gap + engine SIGKILL": ["S1"],
    }  # fmt: skip
    assert 0.05 < lines["F20"]["worst_s"] <= lines["F20"]["bound_s"] == 1.2
    assert 150.0 < lines["F20"]["peak_ua"] < 220.0


def test_ctrl_c_leaves_a_partial_table_that_says_so(tmp_path: Path) -> None:
    out = tmp_path / "partial.json"
    child = subprocess.Popen(
        [*COMMAND, "--row", "F20", "--runs", "100000", "--trials", "0", "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    assert child.stderr.readline().startswith("runs: virtual 1 of 100000")
    child.send_signal(signal.SIGINT)
    output, errors = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "INCOMPLETE, this table is partial" in output
    assert "interrupted" in errors
    report = json.loads(out.read_text())
    assert report["complete"] is False
    assert 0 < report["parts"][0]["lines"][0]["runs"] < 100_000


def test_what_cannot_be_run_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"--row F99: there is no such row"):
        plan_of(1, 1, 0, ["F99"])
    assert plan_of(1, 1, 0, ["F56", "F01"]).rows == (*pair_rows(), "F01")
