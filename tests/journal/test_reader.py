"""What a session gives out, and how it refuses what is no session."""

from __future__ import annotations

import builtins
import os
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from journal_helpers import (
    COLUMNS,
    META,
    chunk,
    features,
    outcome,
    samples_at,
    session_steps,
    write_session,
)

from devices import link
from devices.clock import VirtualClock
from loop.events import Chunk, Decision, Features, Tick, ToGuard
from loop.reader import Session
from loop.recorder import InlineRecorder
from loop.session_file import APPLICATION_ID, VIEWS, JournalError


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished session."""
    return write_session(tmp_path_factory.mktemp("reader") / "session.sqlite", 60)


def equal(left: Any, right: Any) -> bool:
    """Whether two events are the same, arrays bit by bit."""
    if not isinstance(left, Chunk | Features):
        return bool(left == right)
    pairs = [(getattr(left, name), getattr(right, name)) for name in left.__slots__]
    return all(
        a.tobytes() == b.tobytes() and a.shape == b.shape and a.dtype == b.dtype if isinstance(a, np.ndarray) else a == b
        for a, b in pairs
    )


def test_what_the_session_is(path: Path) -> None:
    with Session.open(path) as session:
        assert session.mode == "simulate"
        assert session.config_text == META.config_text
        assert session.meta.versions == META.versions
        assert session.meta.source == META.source
        assert session.meta.started_wall_ns == 946_684_800 * 10**9
        assert session.columns == COLUMNS
        assert session.closed
        assert session.path == path


def test_steps_give_back_every_input_and_output(path: Path) -> None:
    expected = list(session_steps(60))
    with Session.open(path) as session:
        steps = list(session.steps())
        assert len(steps) == len(expected)
        for step, (event, outputs) in zip(steps, expected, strict=True):
            assert equal(step.event, event)
            assert len(step.outputs) == len(outputs)
            assert all(map(equal, step.outputs, outputs))
            assert step.wall_ns >= 946_684_800 * 10**9
        assert all(map(equal, session.inputs(), [event for event, _ in expected]))
        for step in steps[::17]:
            assert all(map(equal, session.outputs_of(step.seq), step.outputs))
            assert len(session.outputs_of(step.seq)) == len(step.outputs)


def test_rows_can_be_followed_from_any_row(path: Path) -> None:
    with Session.open(path) as session:
        everything = list(session.rows())
        assert [row.seq for row in everything] == list(range(session.last_seq + 1))
        assert list(session.rows(after=100)) == everything[101:]
        assert list(session.rows(after=session.last_seq)) == []
        ticks = list(session.rows(after=100, kinds=("tick", "gate")))
        assert ticks == [row for row in everything[101:] if row.kind in ("tick", "gate")]


def test_tables_hold_the_structs_and_their_rows(path: Path) -> None:
    flat = [value for event, outputs in session_steps(60) for value in (event, *outputs)]
    with Session.open(path) as session:
        decisions = session.decisions
        assert list(decisions) == [value for value in flat if isinstance(value, Decision)]
        assert len(decisions) == 3
        assert decisions[-1].decision == 3
        assert [decision.decision for decision in decisions[1:]] == [2, 3]
        kinds = {row.seq: row.kind for row in session.rows()}
        assert [kinds[seq] for seq in decisions.seq] == ["decision"] * 3
        assert [kinds[cause] for cause in decisions.causes if cause is not None] == ["chunk"] * 3
        assert len(session.outcomes) == 6
        assert len(session.gates) == 3
        assert len(session.commands) == len(session.guard_messages) == 3
        assert len(session.device_reports) == 3
        assert len(session.markers) == 4
        assert len(session.incidents) == 1
        assert len(session.ticks) == 61
        assert len(session.operator_actions) == 1
        assert len(session.segments) == len(session.setups) == 1
        assert session.markers.causes == (None,) * 4
        assert "3 Decision" in repr(decisions)


def test_features_are_one_array(path: Path) -> None:
    expected = [features(number) for number in range(60)]
    with Session.open(path) as session:
        table = session.features
        rows = {row.seq: row.kind for row in session.rows()}
    assert len(table) == 60
    assert table.columns == COLUMNS
    assert table.values.tobytes() == np.concatenate([frame.values for frame in expected]).tobytes()
    assert table.sample.tolist() == [int(frame.sample[0]) for frame in expected]
    assert table.t_ns.tolist() == [int(frame.t_ns[0]) for frame in expected]
    assert table.flags.tolist() == [number % 2 for number in range(60)]
    assert {rows[int(seq)] for seq in table.seq} == {"features"}


def test_frames_for_pandas(path: Path) -> None:
    with Session.open(path) as session:
        frame = session.features.to_frame()
        assert list(frame.columns) == ["t_ns", "sample", "flags", *COLUMNS]
        assert len(frame) == 60
        assert frame["surprise"].tolist() == [0.0] * 60
        commands = session.commands.to_frame()
        assert commands["level_ua"].tolist() == [150] * 3
        assert commands["decision"].tolist() == [1, 2, 3]
        assert commands.index.name == "seq"
        reports = session.device_reports.to_frame()
        assert reports["impedance_ohm"].tolist() == [5100.0] * 3
        assert reports["message"].tolist() == ["report"] * 3
        assert session.outcomes.to_frame()["evidence"].tolist() == [0.5 * event for event in range(1, 7)]


def test_without_pandas_one_sentence_says_what_to_install(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "pandas":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with Session.open(path) as session:
        for table in (session.features, session.decisions):
            with pytest.raises(JournalError, match=r"install cereloop\[frames\]"):
                table.to_frame()


def test_an_empty_session_has_empty_tables(tmp_path: Path) -> None:
    InlineRecorder(tmp_path / "empty.sqlite", META, VirtualClock()).close()
    with Session.open(tmp_path / "empty.sqlite") as session:
        assert len(session.features) == len(session.decisions) == 0
        assert session.columns == ()
        assert list(session.steps()) == []
        assert session.features.to_frame().empty
        assert session.decisions.to_frame().empty
        assert session.check().ok


def test_samples_that_are_not_stored_are_asked_for_in_order(tmp_path: Path) -> None:
    path = write_session(tmp_path / "replay.sqlite", 30, store_samples=False)
    asked: list[tuple[int, int, float]] = []

    def source(first: int, n: int, current_ua: float) -> np.ndarray:
        asked.append((first, n, current_ua))
        return samples_at(first, n)

    with Session.open(path) as session:
        found = list(session.inputs(source))
        with pytest.raises(JournalError, match="give the source"):
            list(session.inputs())
    assert all(map(equal, found, [event for event, _ in session_steps(30)]))
    assert asked == [(number * 20, 20, 0.25 * (number % 2)) for number in range(30)]


def test_plain_sqlite_reads_every_view(path: Path) -> None:
    with sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True) as database:
        counts = {name: database.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in VIEWS}
        assert counts == {
            "samples": 60,
            "segments": 1,
            "markers": 4,
            "ticks": 61,
            "operator_actions": 1,
            "device_reports": 3,
            "features": 60,
            "setups": 1,
            "outcomes": 6,
            "stimulus_ends": 1,
            "coupling": 1,
            "decisions": 3,
            "gates": 3,
            "incidents": 1,
            "commands": 3,
            "guard_messages": 3,
            "markers_out": 3,
        }
        query = "SELECT decision, wanted, evidence, reason, outcomes, wall FROM decisions LIMIT 1"
        found = database.execute(query).fetchone()
        assert found == (1, "open", 2.0, "evidence over the bound", "[1,2]", "2000-01-01T00:00:00.399Z")
        assert database.execute("SELECT level_ua, command, decision FROM commands").fetchone() == (150, 1, 1)
        query = "SELECT first, n, channels, dtype, stored FROM samples LIMIT 1 OFFSET 1"
        assert database.execute(query).fetchone() == (20, 20, 4, "<f4", 1)
        assert database.execute("SELECT before_state, after_state FROM gates").fetchone() == (
            "SENSE",
            "RAMP_UP",
        )
        assert database.execute("SELECT measured_ua, voltage_mv FROM device_reports").fetchone() == (
            -199.5,
            None,
        )
        assert database.execute("SELECT error_index, expected FROM outcomes").fetchone() == (0.75, None)
        assert database.execute("SELECT sfreq_hz, source FROM segments").fetchone() == (1000.0, "patient")
        join = "SELECT level_ua FROM commands c JOIN decisions d USING (decision) WHERE d.seq < c.seq"
        assert len(database.execute(join).fetchall()) == 3
    database.close()


def test_every_column_of_every_view_is_filled_where_the_event_has_it(path: Path) -> None:
    may_be_empty = {
        ("device_reports", "voltage_mv"),
        ("outcomes", "expected"),
        ("guard_messages", "reason"),
    }
    database = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
    for name in VIEWS:
        cursor = database.execute(f"SELECT * FROM {name} LIMIT 1")
        row = cursor.fetchone()
        empty = {(name, column[0]) for column, value in zip(cursor.description, row, strict=True) if value is None}
        assert empty <= may_be_empty
    database.close()


def test_reading_changes_no_byte_and_leaves_no_file(tmp_path: Path) -> None:
    path = write_session(tmp_path / "session.sqlite", 20)
    before = path.read_bytes()
    with Session.open(path) as session:
        session.check()
        list(session.steps())
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["session.sqlite"]


def test_a_name_full_of_special_characters_opens(tmp_path: Path) -> None:
    path = write_session(tmp_path / "s?mode=rwc#50% ä.sqlite", 5)
    with Session.open(str(path)) as session:
        assert session.check().ok


def spoil(path: Path, *statements: str) -> Path:
    """Change a session file as any SQLite tool could."""
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA writable_schema = ON")
        for statement in statements:
            database.execute(statement)
    database.close()
    return path


@pytest.mark.parametrize(
    ("spoiled", "said"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_text("a,b\n1,2\n" * 99), "not a SQLite file"),
        (lambda path: path.write_bytes(path.read_bytes()[:16] + os.urandom(5000)), "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:50]), "cannot be read|not a session|no table"),
        (lambda path: spoil(path, "PRAGMA application_id = 1"), "not a session file"),
        (lambda path: spoil(path, "PRAGMA user_version = 2"), "schema 2"),
        (lambda path: spoil(path, "PRAGMA user_version = 0"), "schema 0"),
        (lambda path: spoil(path, "DROP TABLE log"), "no table log"),
        (lambda path: spoil(path, "DROP TABLE meta"), "no table meta"),
        (lambda path: spoil(path, "ALTER TABLE log ADD COLUMN x"), "another table log"),
        (lambda path: spoil(path, "DELETE FROM meta WHERE key = 'mode'"), "no entry 'mode'"),
        (lambda path: spoil(path, "UPDATE meta SET value = 'dream' WHERE key = 'mode'"), "cannot be read"),
        (
            lambda path: spoil(path, "UPDATE meta SET value = 'x' WHERE key = 'started_wall_ns'"),
            "cannot be read",
        ),
        (lambda path: (path.unlink(), path.mkdir()), "is not a file"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "is not a file"),
    ],
)
def test_what_is_no_session_is_refused_with_one_sentence(tmp_path: Path, spoiled: Any, said: str) -> None:
    path = write_session(tmp_path / "session.sqlite", 5)
    spoiled(path)
    with pytest.raises(JournalError, match=said) as caught:
        Session.open(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_applications_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    spoil(path, "CREATE TABLE log (seq INTEGER PRIMARY KEY)")
    with pytest.raises(JournalError, match="not a session file"):
        Session.open(path)
    spoil(path, f"PRAGMA application_id = {APPLICATION_ID}", "PRAGMA user_version = 1")
    with pytest.raises(JournalError, match="no table meta"):
        Session.open(path)


def test_a_log_that_is_an_endless_view_is_not_run(tmp_path: Path) -> None:
    path = write_session(tmp_path / "session.sqlite", 5)
    columns = "seq, t_ns, wall_ns, kind, cause, body, data, hash"
    endless = (
        f"CREATE VIEW log ({columns}) AS WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n)"
        " SELECT i, 0, 0, 'tick', NULL, '{}', NULL, NULL FROM n"
    )
    spoil(path, "DROP TABLE log", endless)
    with pytest.raises(JournalError, match="another table log"):
        Session.open(path)


def test_a_command_is_explained_down_to_its_samples(path: Path) -> None:
    with Session.open(path) as session:
        rows = {row.seq: row for row in session.rows()}
        for number, seq in enumerate(session.commands.seq):
            found = session.explain(seq)
            assert isinstance(found.message.message, link.Command)
            assert found.cause == session.value(rows[found.cause_seq])
            assert isinstance(found.cause, Tick)
            assert found.decision == session.decisions[number]
            assert found.decision_seq == session.decisions.seq[number]
            assert [ground.outcome.event for ground in found.grounds] == [2 * number + 1, 2 * number + 2]
            for ground in found.grounds:
                assert ground.seq < found.decision_seq < seq
                chunks = [session.value(rows[at]) for at in ground.sample_rows]
                covered = [c.first + i for c in chunks if isinstance(c, Chunk) for i in range(len(c.stamps_ns))]
                assert covered[0] <= ground.outcome.sample
                assert covered[-1] >= ground.outcome.decided_sample
                frames = [session.value(rows[at]) for at in ground.feature_rows]
                at = [int(sample) for frame in frames if isinstance(frame, Features) for sample in frame.sample]
                assert at == [ground.outcome.sample + 19]


def test_a_stop_without_a_decision_is_explained_by_its_cause(tmp_path: Path) -> None:
    stop = ToGuard(t_ns=1, message=link.Stop(stop_class=1, reason="stale"), decision=0)
    with InlineRecorder(tmp_path / "session.sqlite", META, VirtualClock()) as recorder:
        recorder.record(chunk(0), [stop])
    with Session.open(tmp_path / "session.sqlite") as session:
        found = session.explain(2)
        assert (found.cause_seq, found.decision, found.grounds) == (1, None, ())
        for seq in (-1, 0, 1, 3, 99):
            with pytest.raises(JournalError, match=f"row {seq} "):
                session.explain(seq)


@pytest.mark.parametrize("missing", ["decision", "outcome", "samples", "order"])
def test_a_broken_chain_of_reasons_is_named(tmp_path: Path, missing: str) -> None:
    message = link.Command(seq=1, level_ua=10, deadline_ns=9, decision=1)
    command = ToGuard(t_ns=3, message=message, decision=1)
    decision = Decision(t_ns=2, decision=1, wanted="open", reason="", evidence=1.0, outcomes=(1,))
    with InlineRecorder(tmp_path / "session.sqlite", META, VirtualClock(), store_samples=True) as recorder:
        if missing != "samples":
            recorder.record(chunk(0))
        outputs: dict[str, list[Any]] = {
            "decision": [outcome(1, 5), command],
            "outcome": [decision, command],
            "samples": [outcome(1, 5), decision, command],
            "order": [decision, outcome(1, 5), command],
        }
        recorder.record(Tick(t_ns=3), outputs[missing])
    with Session.open(tmp_path / "session.sqlite") as session:
        said = {"decision": "decision 1", "samples": "samples 5 to 35"}.get(missing, r"outcomes \[1\]")
        with pytest.raises(JournalError, match=f"{said}.* not in the record before it"):
            session.explain(session.commands.seq[0])


def test_feature_columns_that_change_on_the_way_are_not_glued_together(tmp_path: Path) -> None:
    narrow = features(1)
    with InlineRecorder(tmp_path / "session.sqlite", META, VirtualClock()) as recorder:
        for event, outputs in session_steps(3):
            recorder.record(event, outputs)
        recorder.record(Tick(t_ns=1), [Features(narrow.sample, narrow.t_ns, narrow.values[:, :2], narrow.flags)])
    with (
        Session.open(tmp_path / "session.sqlite") as session,
        pytest.raises(JournalError, match="names 3 feature columns"),
    ):
        _ = session.features
