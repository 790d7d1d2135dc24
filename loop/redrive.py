"""Re-drives the fold from a session file: same inputs, same outputs, byte for byte; or the first divergence by name (I19)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from loop import config as configuration
from loop.calibration.errors import CalibrationError
from loop.engine import Engine
from loop.errors import LayoutError
from loop.estimators.errors import EstimatorError
from loop.events import Chunk, Features, Output, Playback, SourceInfo
from loop.journal import Samples, encode_output
from loop.raw_export import samples_from
from loop.reader import Session, Step
from loop.sealing import SealedError
from loop.session_file import JournalError

_PROGRESS_STEPS = 2000


class Redriven(NamedTuple):
    """How far `verify` is."""

    done_s: float
    total_s: float | None
    phase: str
    level_ua: int
    evidence: float


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What `verify` found.

    `identical` is True only if the record is undamaged, was closed in order, and every output came out again byte for byte.
    `divergence` names the first difference, `damage` what the hash chain says, either empty where there is nothing to say.
    """

    session: str
    identical: bool
    closed: bool
    inputs: int
    outputs: int
    samples: int
    divergence: str
    damage: str
    sentence: str


def verify(
    path: str | Path,
    recording: str | Path | None = None,
    progress: Callable[[Redriven], None] | None = None,
    key: bytes | str | Path | None = None,
) -> Verdict:
    """Replay a session from its own file and compare everything that comes out.

    Parameters
    ----------
    path : str or Path
        A session file of any mode.
    recording : str or Path, optional
        The recording that the session was made from, where it has moved.
    progress : callable, optional
        Called now and then.
    key : bytes, str or Path, optional
        The session computer's key, for a blinded session.

    Returns
    -------
    Verdict

    Raises
    ------
    JournalError
        If the file is no session file, or is blinded and no key was given.
    SourceError
        If the recording is not where the session says, or is not the one whose hash it recorded.
    """
    with Session.open(path, key) as session:
        if session.is_sealed:
            raise SealedError(f"{path} is blinded: what would tell its arm is sealed; give the machine's key with --key")
        report = session.check()
        damage = report.problem
        closed = report.closed
        source = samples_of(session, recording)
        count = _Count()
        try:
            divergence = _compare(session, source, count, progress, closed=closed)
        except JournalError as error:
            divergence, damage = "", damage or str(error)
        identical = not divergence and not damage and closed
        return Verdict(
            session=str(path),
            identical=identical,
            closed=closed,
            inputs=count.inputs,
            outputs=count.outputs,
            samples=count.samples,
            divergence=divergence,
            damage=damage,
            sentence=_sentence(count, divergence, damage, closed),
        )


def samples_of(session: Session, recording: str | Path | None = None) -> Samples | None:
    """What makes a session's samples again where it does not store them.

    Parameters
    ----------
    session : Session
    recording : str or Path, optional
        Instead of the path that the session recorded.

    Returns
    -------
    callable or None
        ``samples(first, n, current_ua)``; to be asked in order. None where the session stores its samples itself.

    Raises
    ------
    SourceError
        If the recording is missing or is another one.
    """
    if session.mode == "live" or not session.meta.source:
        return None
    try:
        info = msgspec.json.decode(session.meta.source, type=SourceInfo)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise JournalError(f"{session.path}: table meta does not say where the samples came from: {error}") from error
    playback: Playback
    if info.kind == "patient":
        from loop.sources.patient import patient_from_identity

        try:
            playback = patient_from_identity(info.identity)
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
            raise JournalError(f"{session.path}: its source is a patient who cannot be made again: {error}") from error
    else:
        from loop.sources.errors import SourceError
        from loop.sources.recording import open_recording

        where = str(recording or info.path)
        if not where:
            raise SourceError(
                f"{session.path} was made from data in memory, not from a file; save it and give it with --recording"
            )
        playback = open_recording(Path(where))
        if playback.info.sha256 != info.sha256:
            raise SourceError(
                f"{where} is not the recording that {session.path} was made from: its SHA-256 is "
                f"{playback.info.sha256[:12]}…, recorded was {info.sha256[:12]}…; give the right one with --recording"
            )
    return samples_from(playback)


def own_samples(session: Session) -> Samples:
    """Like `samples_of`, but the source is looked for only when a sample is asked for that the session does not store."""
    source: Samples | None = None

    def samples(first: int, n: int, current_ua: float) -> npt.NDArray[Any]:
        nonlocal source
        if source is None:
            source = samples_of(session)
        if source is None:
            raise JournalError(f"{session.path} says nothing of where its samples came from; give the source")
        return source(first, n, current_ua)

    return samples


class _Count:
    def __init__(self) -> None:
        self.inputs = 0
        self.outputs = 0
        self.samples = 0


def _compare(
    session: Session,
    source: Samples | None,
    count: _Count,
    progress: Callable[[Redriven], None] | None,
    *,
    closed: bool,
) -> str:
    """Drive a fresh engine through all inputs; the first difference in words, or nothing."""
    engine = Engine(configuration.decode(session.config_text, f"{session.path}: recorded config"))
    last = session.last_seq
    first_ns: int | None = None
    for step in session.steps(source):
        if first_ns is None:
            first_ns = step.event.t_ns
        count.inputs += 1
        if isinstance(step.event, Chunk):
            count.samples += len(step.event.stamps_ns)
        try:
            again = engine.step(step.event)
        except (LayoutError, CalibrationError, EstimatorError) as error:
            return f"row {step.seq}: the estimator refuses the recorded layout: {error}"
        count.outputs += len(again)
        ends_here = not closed and step.seq + len(step.outputs) == last
        # A record that breaks off may do so within a step: what is there must agree, the rest was never written.
        found = _difference(step, again[: len(step.outputs)] if ends_here else again)
        if found:
            return found
        if progress is not None and count.inputs % _PROGRESS_STEPS == 0:
            share = step.seq / max(last, 1)
            progress(Redriven(share, 1.0, engine.phase, engine.level_ua, engine.evidence))
    return ""


def _difference(step: Step, again: list[Output]) -> str:
    for number, (recorded, made) in enumerate(zip(step.outputs, again, strict=False), step.seq + 1):
        old, new = encode_output(recorded), encode_output(made)
        if old != new:
            return f"row {number} ({old.kind}, from the {_kind(step.event)} in row {step.seq}): {_field(recorded, made)}"
    if len(step.outputs) != len(again):
        return (
            f"row {step.seq} ({_kind(step.event)}): {len(step.outputs)} outputs were recorded, {len(again)} came out again"
        )
    return ""


def _field(recorded: Output, made: Output) -> str:
    """The first field that differs, with both values."""
    if type(recorded) is not type(made):
        return f"recorded was a {_kind(recorded)}, now it is a {_kind(made)}"
    if isinstance(recorded, Features) and isinstance(made, Features):
        return _features_field(recorded, made)
    for name in recorded.__struct_fields__:  # type: ignore[union-attr]
        old, new = getattr(recorded, name), getattr(made, name)
        if old != new:
            return f"{name} was {old!r}, now it is {new!r}"
    return "the same fields in other bytes"


def _features_field(recorded: Features, made: Features) -> str:
    for name in ("sample", "t_ns", "flags", "values"):
        old, new = getattr(recorded, name), getattr(made, name)
        if old.shape != new.shape:
            return f"{len(old)} frames were recorded, {len(new)} came out again"
        if old.tobytes() != new.tobytes():
            same = np.equal(old, new) if name != "values" else np.isclose(old, new, rtol=0.0, atol=0.0, equal_nan=True)
            differs = np.argwhere(~same)
            if len(differs):
                at = tuple(differs[0])
                frame = int(recorded.sample[at[0]])
                return f"{name}{list(at[1:]) or ''} at sample {frame} was {old[at]!r}, now it is {new[at]!r}"
            return f"{name}: the same numbers in other bytes"
    return "the same fields in other bytes"


def _kind(value: Any) -> str:
    config = getattr(type(value), "__struct_config__", None)
    return str(config.tag) if config is not None else type(value).__name__.lower()


def _sentence(count: _Count, divergence: str, damage: str, closed: bool) -> str:
    amount = f"{count.inputs} inputs with {count.samples} samples gave {count.outputs} outputs again"
    if divergence and damage:
        return f"DIFFERS: {divergence}. The record itself was changed: {damage}."
    if divergence:
        return f"DIFFERS: {divergence}."
    if damage:
        return f"DAMAGED: {damage}. Up to there, {amount}, byte for byte."
    if not closed:
        return f"identical as far as it goes, but the session was not closed in order: {amount}, byte for byte."
    return f"identical: {amount}, byte for byte."
