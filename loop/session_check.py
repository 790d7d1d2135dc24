"""Walks the hash chain of a session file and says how much of it can be believed (I21)."""

from __future__ import annotations

import itertools

import msgspec

from loop import session_file as sf
from loop.log_file import LogFile, RowError
from loop.session_file import LogRow


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `Session.check` found.

    `valid_rows` rows from the start are as they were written. If `problem` is not empty it says what is
    wrong; `seq`, `kind` and `column` say where, as far as can be told. `closed` is whether the session was
    closed in order: if not, and there is no problem, the record ends where its writer was stopped.
    `last_hash` is the hash of the last valid row; kept elsewhere, it proves later that nothing was changed.
    `notes` lists what else was seen, such as tables that others have added.
    """

    valid_rows: int
    closed: bool
    problem: str = ""
    seq: int | None = None
    kind: str | None = None
    column: str | None = None
    last_hash: str = ""
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all that is in the file is as it was written."""
        return not self.problem


def check(log: LogFile, meta: sf.SessionMeta) -> CheckReport:
    """Verify every row against the chain, then the views and the file's own structure.

    Parameters
    ----------
    log : LogFile
        The file.
    meta : SessionMeta
        What its table `meta` was read as.
    """
    walk = _Walk(sf.meta_digest(list(log.meta_pairs.items())))
    try:
        for row, link in log.rows():
            walk.take(row, link)
    except RowError as error:
        seq, kind, column = _blame(log, walk, error)
        return walk.report(problem=str(error), seq=seq, kind=kind, column=column)
    return _check_rest(log, meta, walk)


class _Walk:
    def __init__(self, root: bytes) -> None:
        self.hash = root
        self.rows = 0
        self.cause = -1
        self.closed = False

    def take(self, row: LogRow, link: bytes) -> None:
        expected = sf.chain(self.hash, sf.frame(row))
        if link != expected:
            raise RowError(f"row {row.seq} ({row.kind}) does not match its hash", row.seq, row.kind)
        fault = self._order_fault(row)
        if fault:
            raise RowError(f"row {row.seq} ({row.kind}) {fault}", row.seq, row.kind, "cause")
        if row.kind in sf.INPUT_KINDS:
            self.cause = row.seq
        self.closed = row.kind == sf.CLOSED
        self.hash = link
        self.rows += 1

    def _order_fault(self, row: LogRow) -> str:
        if self.closed:
            return "comes after the session was closed"
        if (row.kind == sf.OPENED) != (row.seq == 0):
            return "is not where a session opens"
        if row.kind in sf.OUTPUT_KINDS:
            return "" if row.cause == self.cause else f"has the cause {row.cause}; the input before it is {self.cause}"
        return "" if row.cause is None else "has a cause, which only outputs have"

    def report(
        self,
        *,
        problem: str = "",
        seq: int | None = None,
        kind: str | None = None,
        column: str | None = None,
        notes: tuple[str, ...] = (),
    ) -> CheckReport:
        return CheckReport(
            valid_rows=self.rows,
            closed=self.closed,
            problem=problem,
            seq=seq,
            kind=kind,
            column=column,
            last_hash=self.hash.hex() if self.rows else "",
            notes=notes,
        )


def _blame(log: LogFile, walk: _Walk, error: RowError) -> tuple[int | None, str | None, str | None]:
    """Tell whether a row that does not match its hash was changed, or the hash itself: the next row knows."""
    if error.column is not None or error.seq is None or error.kind is None:
        return error.seq, error.kind, error.column
    try:
        pair = list(itertools.islice(log.rows(after=error.seq - 1), 2))
    except RowError:
        return error.seq, error.kind, None
    (row, link), (following, following_link) = pair[0], pair[-1]
    if len(pair) == 2:
        packed = sf.frame(following)
        if sf.chain(sf.chain(walk.hash, sf.frame(row)), packed) == following_link:
            return error.seq, error.kind, "hash"
        if row.seq == 0 and sf.chain(link, packed) == following_link:
            plain = sf.opening_row(row.t_ns, row.wall_ns)
            return error.seq, error.kind, "meta" if row == plain else "body"
    return error.seq, error.kind, _odd_column(row)


def _odd_column(row: LogRow) -> str | None:
    """A column that contradicts the others of its row, if one does."""
    try:
        body = msgspec.json.decode(row.body)
    except (ValueError, RecursionError):
        return "body"
    if not isinstance(body, dict):
        return "body"
    if "t_ns" in body and body["t_ns"] != row.t_ns:
        return "t_ns"
    if "kind" in body and body["kind"] != row.kind:
        return "kind"
    return None


def _check_rest(log: LogFile, meta: sf.SessionMeta, walk: _Walk) -> CheckReport:
    if walk.rows == 0:
        return walk.report(problem="the log has no rows", seq=0)
    if log.meta_pairs.get("config_sha256") != meta.config_sha256:
        return walk.report(problem="the hash of the configuration in table meta is not that of its text", column="meta")
    present = log.schema()
    expected = sf.TABLES | sf.VIEWS
    for name, sql in expected.items():
        if present.get(name) != sql:
            said = "differs from its definition" if name in present else "is missing"
            return walk.report(problem=f"view {name} {said}; the rows are not affected")
    fault = log.structure_fault()
    if fault:
        return walk.report(problem=f"the file's pages are damaged, though every row could be read: {fault}")
    notes = tuple(f"{name} was added by others" for name in present if name not in expected)
    return walk.report(notes=notes)
