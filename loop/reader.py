"""Reads session files: what was decided, on what grounds, and everything that is needed to do it again."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar, cast

import msgspec
import numpy as np

from devices import link
from loop import events, explanation, journal, session_check
from loop import session_file as sf
from loop.explanation import Explanation
from loop.journal import Samples
from loop.log_file import LAST_SEQ, LogFile
from loop.sealing import RowSeal, SealedError, is_sealed, read_key
from loop.session_check import CheckReport
from loop.session_file import JournalError, LogRow, SessionMeta
from loop.tables import FeatureTable, Table

if TYPE_CHECKING:
    import mne

    from loop.fragility import Fragility

T = TypeVar("T", bound=msgspec.Struct)


class Step(NamedTuple):
    """One step of the engine: the input's row number and wall time, the input, and what came of it."""

    seq: int
    wall_ns: int
    event: events.Input
    outputs: tuple[events.Output, ...]


class Session:
    """A session file, finished or still being written by another process. Open it with `Session.open`.

    Reading never changes the file. Every property reads anew, so that a running session can be followed; keep
    the result. Reading damaged rows raises `JournalError`; after `check` the session ends for all readers
    where the valid rows end.

    Examples
    --------
    >>> with Session.open("session.sqlite") as session:
    ...     report = session.check()
    ...     frame = session.features.to_frame()
    """

    def __init__(self, log: LogFile, meta: SessionMeta, machine_key: bytes = b"") -> None:
        self._log = log
        self._meta = meta
        self._seal = RowSeal(machine_key, meta) if machine_key else None
        self._upto = LAST_SEQ

    @classmethod
    def open(cls, path: str | Path, key: bytes | str | Path | None = None) -> Self:
        """Open a session file for reading.

        Parameters
        ----------
        path : str or Path
            The file. After a crash its ``-wal`` file must lie beside it.
        key : bytes, str or Path, optional
            The session computer's key, or its file: opens what is sealed in a blinded session.

        Raises
        ------
        JournalError
            If there is no such file, or it is empty, no SQLite file, of another application, of a newer
            schema, or damaged where it says what it is.
        SealError
            If the key cannot be read.
        """
        machine_key = b"" if key is None else key if isinstance(key, bytes) else read_key(key)
        log = LogFile(Path(path))
        try:
            return cls(log, sf.meta_from_pairs(log.meta_pairs), machine_key)
        except JournalError as error:
            log.close()
            raise JournalError(f"{path}: {error}") from error

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # ---- what the session is

    @property
    def path(self) -> Path:
        """The file."""
        return self._log.path

    @property
    def meta(self) -> SessionMeta:
        """Session, mode, configuration, versions, source and start."""
        return self._meta

    @property
    def is_sealed(self) -> bool:
        """Whether it is blinded and no key was given: reading its gates, decisions, commands or currents raises SealedError."""
        return bool(self._meta.sealed) and self._seal is None

    @property
    def mode(self) -> sf.Mode:
        """``live``, ``replay`` or ``simulate``."""
        return self._meta.mode

    @property
    def config_text(self) -> str:
        """The configuration exactly as it was read."""
        return self._meta.config_text

    @property
    def last_seq(self) -> int:
        """Number of the newest row; grows while the session runs."""
        return min(self._log.last_seq(), self._upto)

    @property
    def closed(self) -> bool:
        """Whether the last row says that the session was closed in order."""
        last = self.last_seq
        return any(row.kind == sf.CLOSED for row in self.rows(after=last - 1))

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the feature columns, from the newest setup; empty before the first."""
        setups = self.setups
        return setups[-1].columns if setups else ()

    # ---- rows

    def rows(self, after: int = -1, kinds: Collection[str] | None = None) -> Iterator[LogRow]:
        """Rows that follow row `after`, in order; all kinds, or only those named. Decode one with `value`.

        Raises
        ------
        JournalError
            At the first row that is missing or cannot be read.
        """
        return (row for row, _ in self._log.rows(after, self._upto, kinds))

    def value(self, row: LogRow, samples: Samples | None = None) -> events.Input | events.Output:
        """The event or output in a row; `samples` makes again what is not stored. Raises JournalError, SealedError."""
        try:
            if is_sealed(row):
                row = self._opened(row)
            return journal.decode(row.row, samples)
        except SealedError as error:
            raise SealedError(f"{self.path}: {error}") from error
        except JournalError as error:
            raise JournalError(f"{self.path}, row {row.seq}: {error}") from error

    def steps(self, samples: Samples | None = None) -> Iterator[Step]:
        """The steps of the engine in order, each input with its outputs; one pass, constant memory.

        Parameters
        ----------
        samples : Samples, optional
            Makes a chunk's samples again, ``samples(first, n, current_ua)``, where the session does not store
            them.

        Raises
        ------
        JournalError
            At the first row that is missing, cannot be read or does not follow its cause, or if samples are
            not to be had.
        """
        head: LogRow | None = None
        event: events.Input | None = None
        outputs: list[events.Output] = []
        for row in self.rows():
            if row.kind in sf.OUTPUT_KINDS:
                if head is None or row.cause != head.seq:
                    raise JournalError(f"{self.path}, row {row.seq}: an output does not follow its cause, row {row.cause}")
                outputs.append(self._output(row))
                continue
            if head is not None and event is not None:
                yield Step(head.seq, head.wall_ns, event, tuple(outputs))
            head, event, outputs = None, None, []
            if row.kind in sf.INPUT_KINDS:
                head, event = row, self._input(row, samples)
        if head is not None and event is not None:
            yield Step(head.seq, head.wall_ns, event, tuple(outputs))

    def inputs(self, samples: Samples | None = None) -> Iterator[events.Input]:
        """What the engine was given, in order, to be given again; parameters and errors as for `steps`."""
        for row in self.rows():
            if row.kind in sf.INPUT_KINDS:
                yield self._input(row, samples)

    def outputs_of(self, seq: int) -> tuple[events.Output, ...]:
        """What the engine made of the input in row `seq`. Raises JournalError."""
        outputs: list[events.Output] = []
        for row in self.rows(after=seq):
            if row.cause != seq:
                break
            outputs.append(self._output(row))
        return tuple(outputs)

    # ---- tables

    @property
    def features(self) -> FeatureTable:
        """All feature frames as arrays. Raises JournalError, also if the columns change on the way."""
        parts: list[events.Features] = []
        seqs: list[int] = []
        for row in self.rows(kinds=("features",)):
            try:
                parts.append(journal.decode_features(row.row))
            except JournalError as error:
                raise JournalError(f"{self.path}, row {row.seq}: {error}") from error
            seqs.append(row.seq)
        columns = self.columns
        widths = {part.values.shape[1] for part in parts} or {len(columns)}
        if widths != {len(columns)}:
            raise JournalError(f"{self.path} names {len(columns)} feature columns; its frames have {sorted(widths)}")
        empty = np.empty(0, np.int64)
        return FeatureTable(
            t_ns=np.concatenate([empty, *(part.t_ns for part in parts)]),
            sample=np.concatenate([empty, *(part.sample for part in parts)]),
            values=np.concatenate([np.empty((0, len(columns))), *(part.values for part in parts)]),
            flags=np.concatenate([np.empty(0, np.uint32), *(part.flags for part in parts)]),
            seq=np.repeat(np.array(seqs, np.int64), [len(part.t_ns) for part in parts]),
            columns=columns,
        )

    @property
    def setups(self) -> Table[events.Setup]:
        """How the estimator was set up."""
        return self._table("setup", events.Setup)

    @property
    def outcomes(self) -> Table[events.Outcome]:
        """Event features of each outcome and what became of them."""
        return self._table("outcome", events.Outcome)

    @property
    def stimulus_ends(self) -> Table[events.StimulusEnd]:
        """Event features at the end of each stimulus (``STIM_OFF``)."""
        return self._table("stimulus_end", events.StimulusEnd)

    @property
    def coupling(self) -> Table[events.CouplingEpoch]:
        """Imaginary coherency of each epoch of SENSE, in the order of `loop.coupling.PAIRS`."""
        return self._table("coupling", events.CouplingEpoch)

    @property
    def decisions(self) -> Table[events.Decision]:
        """What the policy wanted, and why."""
        return self._table("decision", events.Decision)

    @property
    def gates(self) -> Table[events.GateChange]:
        """Changes of the gate's state."""
        return self._table("gate", events.GateChange)

    @property
    def incidents(self) -> Table[events.Incident]:
        """What went wrong, and what was done."""
        return self._table("incident", events.Incident)

    @property
    def finished(self) -> Table[events.Finished]:
        """How the session ended: one entry, or none if it did not end in order."""
        return self._table("finished", events.Finished)

    @property
    def markers(self) -> Table[events.Marker]:
        """Markers as they came in."""
        return self._table("marker", events.Marker)

    @property
    def segments(self) -> Table[events.SegmentStart]:
        """Handshakes with the stream: layout and source of each segment."""
        return self._table("segment", events.SegmentStart)

    @property
    def ticks(self) -> Table[events.Tick]:
        """Every tick of the engine's time."""
        return self._table("tick", events.Tick)

    @property
    def operator_actions(self) -> Table[events.Operator]:
        """What the operator did."""
        return self._table("operator", events.Operator)

    @property
    def guard_messages(self) -> Table[events.ToGuard]:
        """Everything that was sent to the guard: arming, reservations, commands and stops."""
        return self._table("to_guard", events.ToGuard)

    @property
    def commands(self) -> Table[events.ToGuard]:
        """The levels that were commanded."""
        return self._table("to_guard", events.ToGuard, link.Command)

    @property
    def device_reports(self) -> Table[events.Device]:
        """What guard and device reported of themselves."""
        return self._table("device", events.Device, link.Report)

    def _opened(self, row: LogRow) -> LogRow:
        if self._seal is None:
            raise SealedError(f"row {row.seq} ({row.kind}) is sealed, for the session is blinded; give the machine's key")
        return self._seal.opened(row)

    def _input(self, row: LogRow, samples: Samples | None) -> events.Input:
        return cast("events.Input", self.value(row, samples))

    def _output(self, row: LogRow) -> events.Output:
        return cast("events.Output", self.value(row))

    def _table(self, kind: str, struct: type[T], message: type[Any] | None = None) -> Table[T]:
        items: list[T] = []
        rows: list[LogRow] = []
        for row in self.rows(kinds=(kind,)):
            item = self.value(row)
            if isinstance(item, struct) and (message is None or isinstance(getattr(item, "message", None), message)):
                items.append(item)
                rows.append(row)
        return Table(items, [row.seq for row in rows], [row.cause for row in rows])

    # ---- what follows from them

    def explain(self, seq: int) -> Explanation:
        """Why a message was sent to the guard: its decision, the outcomes, the rows of features and samples.

        Parameters
        ----------
        seq : int
            Row of the message, as in ``session.commands.seq`` or the view `commands`.

        Raises
        ------
        JournalError
            If the row is no message to the guard, or a link of the chain is not in the record before it
            (I20).
        """
        return explanation.explain(self, seq)

    def fragility(self) -> Fragility:
        """Whether the error persists (K12): each figure with its interval, worked out from this session's outcomes.

        Raises
        ------
        JournalError
            If rows cannot be read.
        ConfigError
            If the recorded configuration cannot be.

        Examples
        --------
        >>> with Session.open("session.sqlite") as session:
        ...     late = session.fragility().late_expected
        """
        from loop.config import decode
        from loop.fragility import assess, blocks_of

        config = decode(self.config_text, f"{self.path}: recorded config")
        blocks = blocks_of(self.markers, config.markers.rename)
        levels = (config.policy.threshold, config.policy.release)
        return assess(self.outcomes, self.stimulus_ends, self.coupling, blocks, levels)

    def check(self) -> CheckReport:
        """Verify the whole record; from then on all readers of this object end where the valid rows end.

        Reads the whole file. Never raises for what is wrong in it: the report says so.
        """
        report = session_check.check(self._log, self._meta)
        self._upto = report.valid_rows - 1 if not report.ok else LAST_SEQ
        return report

    def to_raw(self, source: Samples | None = None, segment: int | None = None) -> mne.io.RawArray:
        """The recorded EEG as an MNE object; see `loop.raw_export.to_raw`.

        Samples that the session does not store come from its own source, a recording or a patient, unless `source` is given.
        """
        from loop.raw_export import to_raw
        from loop.redrive import own_samples

        return to_raw(self, source if source is not None else own_samples(self), segment)
