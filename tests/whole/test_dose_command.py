"""`cereloop dose` and `cereloop checklist` as a new user meets them."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from devices import ledger
from devices.clock import SystemClock
from devices.dose import Entry, Moment
from devices.ledger import Ledger
from devices.ledger_book import key, moment
from devices.settings import Dose, Limits
from devices.units import NS_PER_S
from loop.dose_report import DoseReport, dose_report, sentence

LIMITS = Limits(
    max_level_ua=1500,
    max_density_ua_cm2=80.0,
    max_slew_ua_s=100,
    max_charge_uc=1_200_000,
    max_on_time_s=600.0,
    arm_below_ohm=10_000,
    stop_above_ohm=20_000,
)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "XDG_DATA_HOME": str(folder / "data"), "COLUMNS": "80", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "loop", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False, timeout=60, env=env)


def put(path: Path, at: Moment, *rows: tuple[str, int, int, int], participant: str = "P001", blinded: bool = False) -> None:
    """Rows (kind, session, charge, time), all at one moment."""
    book = Ledger(path)
    with book.writing():
        for kind, session, charge_uc, on_time_ms in rows:
            entry = Entry(
                seq=book.next_seq,
                participant=key(participant),
                emulated=False,
                kind=kind,  # type: ignore[arg-type]
                session=session,
                run="r",
                name=f"cereloop-live-{participant}-20261124-101500-12345",
                device="m",
                blinded=blinded,
                at=at,
                charge_uc=charge_uc,
                on_time_ms=on_time_ms,
            )
            book.put(entry)
    book.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    ledger.create(tmp_path / "dose.sqlite")
    return tmp_path / "dose.sqlite"


def report(path: Path, caps: Limits | None = None) -> DoseReport:
    return dose_report(path, "p001", SystemClock(), Dose(), caps, emulated=False)


def test_the_first_ledger_is_made_on_purpose_and_read_back(tmp_path: Path) -> None:
    missing = run(tmp_path, "dose", "P001")
    assert missing.returncode == 3
    assert len(missing.stderr.splitlines()) == 1
    made = run(tmp_path, "dose", "--new")
    assert made.returncode == 0
    where = tmp_path / "data" / "cereloop" / "dose.sqlite"
    assert str(where) in made.stdout
    before = moment(SystemClock()).later(-3600 * NS_PER_S)
    gate = (("begin", 0, 0, 0), ("reserve", 0, 900_000, 700_000), ("settle", 0, 450_000, 480_000))
    put(where, before, *gate, ("close", 0, 0, 0))
    shown = run(tmp_path, "dose", "P001")
    assert shown.returncode == 0
    assert max(map(len, shown.stdout.splitlines())) <= max(80, len(f"ledger: {where}"))
    for words in ("P001: 1 session, 450.0 mC and 480 s", "ended", "wait another 23 h", "next new session: from"):
        assert words in " ".join(shown.stdout.split())
    told = json.loads(run(tmp_path, "dose", "P001", "--json").stdout)
    assert (told["charge_mc"], told["on_time_s"], told["left_charge_mc"], told["goes_on"]) == (450.0, 480.0, 0.0, "")
    assert [line["state"] for line in told["sessions"]] == ["ended"]


def test_a_session_that_was_cut_short_says_what_is_left_of_it(path: Path) -> None:
    at = moment(SystemClock())
    gate = (("begin", 0, 0, 0), ("reserve", 0, 500_000, 400_000), ("settle", 0, 200_000, 300_000))
    put(path, at, *gate, ("reserve", 0, 400_000, 200_000))
    told = report(path)
    assert told.sessions[0].state == "open"
    assert (told.left_charge_mc, told.left_on_time_s) == (1800.0, 700.0)
    assert "was cut short and goes on: 1800.0 mC and 700 s are left" in sentence(told)
    narrowed = report(path, LIMITS)
    assert (narrowed.left_charge_mc, narrowed.left_on_time_s) == (600.0, 100.0)


def test_a_blinded_session_shows_no_amount_unless_asked(path: Path) -> None:
    put(path, moment(SystemClock()), ("begin", 0, 0, 0), ("settle", 0, 200_000, 300_000), blinded=True)
    told = report(path)
    assert (told.charge_mc, told.left_charge_mc, told.sessions[0].charge_mc, told.sessions[0].on_time_s) == (None,) * 4
    assert sentence(told).endswith("was cut short and goes on")
    shown = run(path.parent, "dose", "P001", "--ledger", str(path))
    assert "blinded" in shown.stdout
    assert "mC" not in shown.stdout
    opened = run(path.parent, "dose", "P001", "--ledger", str(path), "--unblinded")
    assert "200.0 mC" in opened.stdout


def test_a_clock_that_is_wrong_is_told(path: Path) -> None:
    put(path, moment(SystemClock()).later(3600 * NS_PER_S), ("begin", 0, 0, 0))
    assert "behind the last entry" in sentence(report(path))
    assert report(path).left_charge_mc == 0.0


def test_a_damaged_ledger_is_told_in_one_sentence(path: Path) -> None:
    put(path, moment(SystemClock()), ("begin", 0, 0, 0))
    database = sqlite3.connect(path)
    database.execute("update entries set body = replace(body, 'P001', 'P002')")
    database.commit()
    database.close()
    done = run(path.parent, "dose", "P001", "--ledger", str(path))
    assert done.returncode == 3
    assert "is damaged (row 0 does not match its hash)" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_blank_form_is_written_once(tmp_path: Path) -> None:
    first = run(tmp_path, "checklist", "--out", "f.toml")
    assert first.returncode == 0
    form = (tmp_path / "f.toml").read_text()
    (tmp_path / "f.toml").write_text(form + "# ours\n")
    again = run(tmp_path, "checklist", "--out", "f.toml")
    assert again.returncode == 2
    assert "exists already" in again.stderr
    assert (tmp_path / "f.toml").read_text().endswith("# ours\n")
