"""Sham, yoked and allotted sessions: what flows, what the file shows, and that it can still be proved."""

from __future__ import annotations

import io
import json
import sqlite3
from pathlib import Path

import msgspec
import pytest
from study_sessions import OPEN, Study, config, study

import loop
from devices import link
from loop import sealing
from loop.allotment import trace_of
from loop.config import ConfigError
from loop.events import Decision, GateChange
from loop.gate import Phase
from loop.preflight import _arm
from loop.reader import Session
from loop.redrive import verify
from loop.screen import Screen
from loop.sealing import SEALED_KINDS, SealedError, SealError
from loop.summary import summarise


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def donor(made: Study) -> Path:
    path = made.file.parent / "donor.sqlite"
    loop.simulate(config(*OPEN, "session.arm=open_loop"), out=path).close()
    return path


@pytest.fixture(scope="module")
def sessions(made: Study, donor: Path) -> dict[str, Path]:
    paths = {}
    for arm, code in made.codes.items():
        paths[arm] = made.file.parent / f"{arm}.sqlite"
        chosen = config(*made.overrides(code, session__yoked_to=donor))
        loop.simulate(chosen, out=paths[arm]).close()
    return paths


def phases(session: Session) -> list[tuple[str, str]]:
    return [(change.before, change.after) for change in session.gates]


def test_without_the_key_the_file_shows_the_code_alone(made: Study, sessions: dict[str, Path]) -> None:
    for arm, path in sessions.items():
        with sqlite3.connect(path) as database:
            bodies = database.execute(
                f"select kind, body from log where kind in ({', '.join('?' * len(SEALED_KINDS))})", tuple(SEALED_KINDS)
            ).fetchall()
            recorded = database.execute("select value from meta where key = 'config'").fetchone()[0]
        assert {kind for kind, _ in bodies} == SEALED_KINDS
        assert all(set(json.loads(body)) == {"sealed"} for _, body in bodies)
        assert msgspec.json.decode(recorded)["session"]["arm"] == "allotted"
        with Session.open(path) as session:
            assert session.is_sealed
            summary = summarise(session)
            for read in (lambda s: s.gates, lambda s: s.commands, lambda s: s.decisions, lambda s: s.device_reports):
                with pytest.raises(SealedError, match="blinded; give the machine's key"):
                    read(session)
        assert (summary.blinded, summary.arm) == (True, f"code {made.codes[arm]}")
        assert (summary.gates, summary.charge_mc, summary.peak_ua, summary.last_closed_reason) == ((), 0.0, 0, "")


def test_they_are_proved_with_the_key_and_only_with_it(made: Study, sessions: dict[str, Path]) -> None:
    for path in sessions.values():
        assert verify(path, key=made.machine).identical
        with pytest.raises(SealedError, match="give the machine's key with --key"):
            verify(path)
        with Session.open(path, sealing.new_pair().private) as other, pytest.raises(SealedError, match="does not open it"):
            assert other.gates
        with Session.open(path) as session:
            assert session.check().ok


def test_the_same_session_twice_gives_the_same_bytes(made: Study, sessions: dict[str, Path], donor: Path) -> None:
    again = made.file.parent / "again.sqlite"
    loop.simulate(config(*made.overrides(made.codes["sham"], session__yoked_to=donor)), out=again).close()
    assert again.read_bytes() == sessions["sham"].read_bytes()


def test_a_sham_is_ramps_only_and_otherwise_like_the_real_one(made: Study, sessions: dict[str, Path]) -> None:
    with Session.open(sessions["sham"], made.machine) as session:
        sham, real_like = summarise(session), phases(session)
        levels = [(one.t_ns, one.message.level_ua) for one in session.commands if isinstance(one.message, link.Command)]
        holds = [change.t_ns for change in session.gates if change.after == Phase.HOLD]
    # Its sham stands in for closed_loop unless told otherwise, so this one opens on evidence or not at all.
    assert sham.arm.startswith("code ")
    for hold_ns in holds:
        later = [level for t_ns, level in levels if hold_ns + 4_100_000_000 <= t_ns <= hold_ns + 11_000_000_000]
        assert later
        assert not any(later)
    assert real_like[0] == ("IDLE", "SENSE")


def test_an_open_loop_sham_keeps_the_schedule_and_delivers_two_ramps_a_gate(tmp_path: Path, donor: Path) -> None:
    chosen = config(*OPEN, "session.arm=sham", "session.sham_follows=open_loop")
    with loop.simulate(chosen, out=tmp_path / "sham.sqlite") as sham, Session.open(donor) as real:
        assert phases(sham) == phases(real)
        ours, theirs = summarise(sham), summarise(real)
        changes = [[(row.t_ns, row.seq - row.cause) for row in one.rows(kinds=("gate",))] for one in (sham, real)]
        assert changes[0] == changes[1]
        assert [d.reason for d in sham.decisions] == [d.reason for d in real.decisions]
        marked = [[json.loads(row.body)["text"] for row in one.rows(kinds=("marker_out",))] for one in (sham, real)]
        assert marked[0] == marked[1]
    n = len(ours.gates)
    assert n >= 2
    # Two ramps of 4 s to 0.2 mA are 0.8 mC; the guard counts the larger of commanded and measured.
    assert 0.75 * n <= ours.charge_mc <= 0.95 * n
    assert theirs.charge_mc > 2.5 * ours.charge_mc
    assert verify(tmp_path / "sham.sqlite").identical


def test_a_yoked_session_repeats_the_gates_and_the_dose(made: Study, sessions: dict[str, Path], donor: Path) -> None:
    with Session.open(sessions["yoked"], made.machine) as session, Session.open(donor) as real:
        ours, theirs = summarise(session), summarise(real)
        reasons = [decision.reason for decision in session.decisions if decision.wanted == "open"]
    assert len(ours.gates) == len(theirs.gates) >= 2
    for own, given in zip(ours.gates, theirs.gates, strict=True):
        assert own.at_s == pytest.approx(given.at_s, abs=0.5)
    assert ours.charge_mc == pytest.approx(theirs.charge_mc, rel=0.05)
    assert reasons[0].startswith(f"yoked: gate 1 of {len(theirs.gates)} in the other session's trace")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("stimulation.level_ua=150", "had another level or ramp"),
        ("stimulation.hold_s=5", "held for up to 8 s, so its dose would not fit"),
    ],
)
def test_a_session_that_cannot_be_matched_is_refused(donor: Path, change: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        trace_of(config(*OPEN, "session.arm=yoked", f"session.yoked_to='{donor}'", change), b"")


def test_nobody_is_yoked_to_a_sham(tmp_path: Path) -> None:
    path = tmp_path / "sham.sqlite"
    loop.simulate(config(*OPEN, "session.arm=sham", "session.sham_follows=open_loop"), out=path).close()
    with pytest.raises(ConfigError, match="was no real stimulation"):
        trace_of(config(*OPEN, "session.arm=yoked", f"session.yoked_to='{path}'"), b"")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["session.arm=allotted"], "go together"),
        (["session.arm=yoked"], "key `session.yoked_to` is missing"),
        (["allocation.file=x", "allocation.machine_key=y", "allocation.code=AAAAA"], "go together"),
        (["session.arm=allotted", "allocation.file=x", "allocation.machine_key=y", "allocation.code=a"], "allocation.code"),
    ],
)
def test_half_a_table_is_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config(*OPEN, *overrides)


def test_a_wrong_code_or_key_starts_nothing(made: Study, tmp_path: Path, donor: Path) -> None:
    out = tmp_path / "none.sqlite"
    for words, chosen in (
        ("has no code 'ZZZZZ'", config(*made.overrides("ZZZZZ", session__yoked_to=donor))),
        ("does not open", config(*made.overrides(made.codes["sham"], allocation__machine_key=made.officer))),
        ("the lack of one tells", config(*made.overrides(made.codes["sham"]))),
    ):
        with pytest.raises((SealError, ConfigError), match=words):
            loop.simulate(chosen, out=out)
    assert not out.exists()


def test_a_blinded_screen_shows_phases_and_nothing_that_tells() -> None:
    stream = io.StringIO()
    screen = Screen("json", stream, "blinded")
    opened = GateChange(t_ns=1, before="SENSE", after="RAMP_UP", reason="yoked: gate 1 of 3", decision=4)
    decided = Decision(t_ns=1, decision=4, wanted="open", reason="yoked", evidence=1.0, outcomes=())
    screen.show(loop.events.Tick(t_ns=1), [decided, opened])
    screen.close()
    assert [json.loads(line)["kind"] for line in stream.getvalue().splitlines()] == ["gate"]
    assert "yoked" not in stream.getvalue()


def test_check_says_that_the_arm_can_be_found_out_and_no_more(made: Study, donor: Path) -> None:
    told = [_arm(config(*made.overrides(code, session__yoked_to=donor))) for code in made.codes.values()]
    assert all(finding.ok for finding in told)
    for code, finding in zip(made.codes.values(), told, strict=True):
        assert finding.detail == f"allotted to code {code}; the record will be sealed"
    assert _arm(config(*OPEN, "session.arm=yoked", f"session.yoked_to='{donor}'")).detail.endswith(" gates")
    wrong = _arm(config(*made.overrides("ZZZZZ", session__yoked_to=donor)))
    assert (wrong.ok, "has no code" in wrong.detail) == (False, True)
