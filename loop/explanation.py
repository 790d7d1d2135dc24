"""Resolves the chain from a message to the guard back to the samples it rests on (I20)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from loop import events, journal
from loop import session_file as sf
from loop.session_file import JournalError, LogRow

if TYPE_CHECKING:
    from loop.reader import Session


class Ground(msgspec.Struct, frozen=True, kw_only=True):
    """An outcome that a decision rests on, and the rows that hold its feature frames and its samples."""

    seq: int
    outcome: events.Outcome
    feature_rows: tuple[int, ...]
    sample_rows: tuple[int, ...]


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """A message to the guard, the input that triggered it, and the decision behind it, if there is one."""

    seq: int
    message: events.ToGuard
    cause_seq: int
    cause: events.SmallInput | journal.ChunkBody
    decision_seq: int | None
    decision: events.Decision | None
    grounds: tuple[Ground, ...]


def explain(session: Session, seq: int) -> Explanation:
    """See `loop.reader.Session.explain`."""
    row = _row(session, seq)
    if row is None or row.kind != "to_guard":
        found = "does not exist" if row is None else f"is of kind {row.kind}"
        raise JournalError(f"row {seq} {found}; only messages to the guard can be explained")
    message = session.value(row)
    cause_row = None if row.cause is None or row.cause >= seq else _row(session, row.cause)
    if not isinstance(message, events.ToGuard) or cause_row is None or cause_row.kind not in sf.INPUT_KINDS:
        raise JournalError(f"the cause of row {seq} is not in the record before it")
    cause = journal.chunk_body(cause_row.row) if cause_row.kind == "chunk" else session.value(cause_row)
    decision_seq, decision = _decision(session, message.decision, seq)
    return Explanation(
        seq=seq,
        message=message,
        cause_seq=cause_row.seq,
        cause=cause,  # type: ignore[arg-type]
        decision_seq=decision_seq,
        decision=decision,
        grounds=() if decision is None or decision_seq is None else _grounds(session, decision, decision_seq),
    )


def _row(session: Session, seq: int) -> LogRow | None:
    return next(session.rows(after=seq - 1), None) if 0 <= seq <= session.last_seq else None


def _decision(session: Session, number: int, before: int) -> tuple[int | None, events.Decision | None]:
    """The decision of that number; 0 stands for none, as in a stop that no decision asked for."""
    if number == 0:
        return None, None
    decisions = session.decisions
    for seq, decision in zip(decisions.seq, decisions, strict=True):
        if decision.decision == number and seq < before:
            return seq, decision
    raise JournalError(f"row {before} names decision {number}, which is not in the record before it")


def _grounds(session: Session, decision: events.Decision, before: int) -> tuple[Ground, ...]:
    wanted = set(decision.outcomes)
    outcomes = session.outcomes
    found = {
        outcome.event: (seq, outcome)
        for seq, outcome in zip(outcomes.seq, outcomes, strict=True)
        if outcome.event in wanted and seq < before
    }
    missing = sorted(wanted - found.keys())
    if missing:
        raise JournalError(f"decision {decision.decision} rests on outcomes {missing}, which are not in the record before it")
    spans = [(outcome.sample, outcome.decided_sample) for _, outcome in found.values()]
    sample_rows = _sample_rows(session, spans, before)
    feature_rows = _feature_rows(session, spans, before)
    grounds = tuple(
        Ground(seq=seq, outcome=outcome, feature_rows=tuple(features), sample_rows=tuple(samples))
        for (seq, outcome), features, samples in zip(found.values(), feature_rows, sample_rows, strict=True)
    )
    for ground in grounds:
        if not ground.sample_rows:
            span = f"samples {ground.outcome.sample} to {ground.outcome.decided_sample}"
            raise JournalError(f"{span} of outcome {ground.outcome.event} are not in the record before it")
    return grounds


def _sample_rows(session: Session, spans: list[tuple[int, int]], before: int) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in spans]
    if not spans:
        return rows
    for row in session.rows(kinds=("chunk",)):
        if row.seq >= before:
            break
        body = journal.chunk_body(row.row)
        for (first, last), found in zip(spans, rows, strict=True):
            if body.first <= last and first < body.first + body.n:
                found.append(row.seq)
    return rows


def _feature_rows(session: Session, spans: list[tuple[int, int]], before: int) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in spans]
    if not spans:
        return rows
    for row in session.rows(kinds=("features",)):
        if row.seq >= before:
            break
        sample = journal.decode_features(row.row).sample
        for (first, last), found in zip(spans, rows, strict=True):
            if ((sample >= first) & (sample <= last)).any():
                found.append(row.seq)
    return rows
