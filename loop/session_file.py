"""The format of a session file: tables, views, what a row is, and the hash that chains the rows.

One SQLite file a session. `meta` says what the session was; `log` holds every input and output of the engine,
in order, one row each, never changed. A finished file is a single plain file; while the session runs, or
after a crash, SQLite's ``-wal`` file beside it belongs to it and must be copied with it.

The chain: ``hash[-1] = SHA-256(meta)`` and ``hash[seq] = SHA-256(hash[seq - 1] + frame(row))``, where `frame`
is the packed form of all other columns (also what travels to the recording process). The first row is
``opened``; a session that was closed in order ends with ``closed``. The chain shows damage and careless
edits. It holds no secret: who wants proof against forgery must keep the last hash elsewhere.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any, Final, Literal, NamedTuple

import msgspec

APPLICATION_ID: Final = 0x43455245  # "CERE"
SCHEMA_VERSION: Final = 1
PAGE_BYTES: Final = 4096
MAX_ROW_BYTES: Final = 64 * 1024 * 1024
"""Greatest body or data of a row; bounds what a damaged or hostile file can make a reader allocate (I29)."""

OPENED: Final = "opened"
CLOSED: Final = "closed"
INPUT_KINDS: Final = (
    "calibration",
    "allotted",
    "chunk",
    "segment",
    "marker",
    "clock_offset",
    "tick",
    "device",
    "operator",
    "source_lost",
    "source_ended",
    "recorder_lost",
    "guard_lost",
)
OUTPUT_KINDS: Final = (
    "features",
    "setup",
    "outcome",
    "stimulus_end",
    "coupling",
    "decision",
    "gate",
    "incident",
    "to_guard",
    "marker_out",
    "finished",
)
KINDS: Final = frozenset((OPENED, CLOSED, *INPUT_KINDS, *OUTPUT_KINDS))

Mode = Literal["live", "replay", "simulate"]


class JournalError(Exception):
    """A session file cannot be written, read or believed; one sentence says which, where and why."""


class Row(NamedTuple):
    """What the codec makes of an event: time on the engine's clock, kind, JSON, bytes of arrays or None."""

    t_ns: int
    kind: str
    body: bytes
    data: bytes | None


class LogRow(NamedTuple):
    """One row of `log` without its hash; `cause` is the input's seq for an output, None for an input."""

    seq: int
    t_ns: int
    wall_ns: int
    kind: str
    cause: int | None
    body: bytes
    data: bytes | None

    @property
    def row(self) -> Row:
        """The part of the row that the codec decodes."""
        return Row(self.t_ns, self.kind, self.body, self.data)


class SessionMeta(msgspec.Struct, frozen=True, kw_only=True):
    """What a session is, written once before its first row.

    `config_text` is the configuration as read (TOML or JSON, `config_format`), `versions` maps software to
    version, `source` is free text, by convention the JSON of a `SourceInfo`, or empty. `started_wall_ns` is
    set by the recorder. `sealed` names the allocation (its digest) under which the rows that would tell the arm are sealed;
    empty in a session that hides nothing. `checklist` is the text of the pre-arm form; empty where there was none.
    """

    session: str
    mode: Mode
    config_text: str
    config_format: Literal["toml", "json"] = "toml"
    versions: dict[str, str] = {}
    source: str = ""
    started_wall_ns: int = 0
    sealed: str = ""
    checklist: str = ""

    @property
    def config_sha256(self) -> str:
        """SHA-256 of the UTF-8 configuration text, as hexadecimal digits."""
        return hashlib.sha256(self.config_text.encode()).hexdigest()


_HEADER = struct.Struct("<qqqqIIq")
HEADER_BYTES: Final = _HEADER.size


def frame(row: LogRow) -> bytes:
    """Pack all columns of a row but its hash into unambiguous bytes, little-endian.

    Layout: seq, t_ns, wall_ns, cause (-1 for none) as int64; length of kind and of body as uint32; length of
    data as int64 (-1 for none); then kind, body and data.

    Raises
    ------
    JournalError
        If a number exceeds 64 bits or a part exceeds `MAX_ROW_BYTES`.
    """
    seq, t_ns, wall_ns, kind, cause, body, data = row
    name = kind.encode()
    size = -1 if data is None else len(data)
    if len(body) > MAX_ROW_BYTES or size > MAX_ROW_BYTES:
        raise JournalError(f"a row of kind {kind} has {max(len(body), size)} bytes; at most {MAX_ROW_BYTES} are allowed")
    try:
        header = _HEADER.pack(seq, t_ns, wall_ns, -1 if cause is None else cause, len(name), len(body), size)
    except struct.error as error:
        raise JournalError(f"a row of kind {kind} holds a number that does not fit 64 bits: {error}") from error
    return b"".join((header, name, body)) if data is None else b"".join((header, name, body, data))


def unframe(buffer: bytearray, start: int) -> tuple[LogRow, bytes] | None:
    """Take one row out of a received buffer.

    Parameters
    ----------
    buffer : bytearray
        Bytes received so far.
    start : int
        Where the row's header begins.

    Returns
    -------
    tuple of LogRow and bytes, or None
        The row and its frame; None if the buffer does not hold all of it yet.

    Raises
    ------
    JournalError
        If the bytes are no row.
    """
    if len(buffer) - start < HEADER_BYTES:
        return None
    seq, t_ns, wall_ns, cause, n_kind, n_body, n_data = _HEADER.unpack_from(buffer, start)
    if n_kind > 64 or n_body > MAX_ROW_BYTES or not -1 <= n_data <= MAX_ROW_BYTES:
        raise JournalError("the recording process received bytes that are no row")
    end = start + HEADER_BYTES + n_kind + n_body + max(n_data, 0)
    if len(buffer) < end:
        return None
    packed = bytes(memoryview(buffer)[start:end])
    at_body = HEADER_BYTES + n_kind
    at_data = at_body + n_body
    row = LogRow(
        seq,
        t_ns,
        wall_ns,
        packed[HEADER_BYTES:at_body].decode("ascii", "replace"),
        None if cause == -1 else cause,
        packed[at_body:at_data],
        None if n_data == -1 else packed[at_data:],
    )
    return row, packed


def opening_row(t_ns: int, wall_ns: int) -> LogRow:
    """The first row: what the engine's clock read at a wall time."""
    return LogRow(0, t_ns, wall_ns, OPENED, None, b"{}", None)


def closing_row(seq: int, t_ns: int, wall_ns: int) -> LogRow:
    """The last row of a session that was closed in order; says how many rows there are, itself included."""
    return LogRow(seq, t_ns, wall_ns, CLOSED, None, msgspec.json.encode({"rows": seq + 1}), None)


def chain(previous: bytes, packed: bytes) -> bytes:
    """SHA-256 of the previous row's hash and this row's frame (32 bytes)."""
    return hashlib.sha256(previous + packed).digest()


def meta_pairs(meta: SessionMeta) -> list[tuple[str, str]]:
    """The rows of table `meta`, sorted by key."""
    optional = {"sealed": meta.sealed, "checklist": meta.checklist}
    return sorted(
        {
            **{name: text for name, text in optional.items() if text},
            "config": meta.config_text,
            "config_format": meta.config_format,
            "config_sha256": meta.config_sha256,
            "mode": meta.mode,
            "schema_version": str(SCHEMA_VERSION),
            "session": meta.session,
            "source": meta.source,
            "started_wall_ns": str(meta.started_wall_ns),
            "versions": msgspec.json.encode(meta.versions, order="sorted").decode(),
        }.items()
    )


def meta_from_pairs(pairs: dict[str, str]) -> SessionMeta:
    """Read table `meta`.

    Raises
    ------
    JournalError
        If a key is missing or its value is not what it must be.
    """
    try:
        fields: dict[str, Any] = {
            "session": pairs["session"],
            "mode": pairs["mode"],
            "config_text": pairs["config"],
            "config_format": pairs["config_format"],
            "versions": msgspec.json.decode(pairs["versions"], type=dict[str, str]),
            "source": pairs["source"],
            "started_wall_ns": int(pairs["started_wall_ns"]),
            "sealed": pairs.get("sealed", ""),
            "checklist": pairs.get("checklist", ""),
        }
        return msgspec.convert(fields, SessionMeta)
    except KeyError as error:
        raise JournalError(f"table meta has no entry {error.args[0]!r}") from error
    except (ValueError, RecursionError) as error:
        raise JournalError(f"table meta holds an entry that cannot be read: {error}") from error


def meta_digest(pairs: list[tuple[str, str]]) -> bytes:
    """SHA-256 over the sorted rows of `meta`, each text after its length: the chain's root (32 bytes)."""
    digest = hashlib.sha256(b"session file\0")
    for pair in sorted(pairs):
        for text in pair:
            raw = text.encode("utf-8", "surrogateescape")
            digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.digest()


def _view(name: str, kind: str, fields: dict[str, str], where: str = "", *, caused: bool = True) -> str:
    columns = ["seq", *(["cause"] if caused else []), "t_ns"]
    columns += [f"json_extract(body, '$.{path}') AS {column}" for column, path in fields.items()]
    columns.append("strftime('%Y-%m-%dT%H:%M:%fZ', wall_ns / 1e9, 'unixepoch') AS wall")
    text = ",\n  ".join(columns)
    return f"CREATE VIEW {name} AS SELECT\n  {text}\nFROM log WHERE kind = '{kind}'{where}"


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


def _message(*names: str) -> dict[str, str]:
    return {name: f"message.{name}" for name in names}


TABLES: Final[dict[str, str]] = {
    "meta": "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "log": "CREATE TABLE log (\n  seq INTEGER PRIMARY KEY,\n  t_ns INTEGER NOT NULL,\n"
    "  wall_ns INTEGER NOT NULL,\n  kind TEXT NOT NULL,\n  cause INTEGER,\n  body TEXT NOT NULL,\n"
    "  data BLOB,\n  hash BLOB NOT NULL\n)",
}

_GUARD_MESSAGE = {"message": "message.m", "number": "message.seq", "level_ua": "message.level_ua"}
_REPORT = _message("phase", "reason", "level_ua", "measured_ua", "voltage_mv", "impedance_ohm", "last_seq")
_DOSE = _message("reserved_uc", "charge_uc", "on_time_ms", "dropped", "lease_left_ms")

VIEWS: Final[dict[str, str]] = {
    "samples": _view(
        "samples",
        "chunk",
        _same("segment", "first", "n", "channels", "dtype", "stored", "current_ua"),
        caused=False,
    ),
    "segments": _view(
        "segments",
        "segment",
        {
            "segment": "segment",
            "sfreq_hz": "layout.sfreq_hz",
            "labels": "layout.labels",
            "source": "source.kind",
            "identity": "source.identity",
            "clock_offset_ns": "clock_offset_ns",
        },
        caused=False,
    ),
    "markers": _view("markers", "marker", _same("stamp_ns", "text"), caused=False),
    "ticks": _view("ticks", "tick", {}, caused=False),
    "operator_actions": _view("operator_actions", "operator", _same("action", "detail"), caused=False),
    "device_reports": _view(
        "device_reports",
        "device",
        _REPORT | _DOSE,
        " AND json_extract(body, '$.message.m') = 'report'",
        caused=False,
    ),
    "features": _view("features", "features", {"n": "n", "columns": "k"}),
    "setups": _view("setups", "setup", _same("estimator", "columns", "learned", "notes")),
    "outcomes": _view(
        "outcomes",
        "outcome",
        _same("event", "text", "sample", "decided_sample")
        | {"error_index": "index"}
        | _same("surprise", "expected", "excess", "evidence", "invalid", "reason", "features")
        | _same("cue", "intensity", "told", "d_rescorla_wagner", "d_kalman", "d_ehgf", "kalman_nis", "fused", "fused_sd"),
    ),
    "stimulus_ends": _view(
        "stimulus_ends",
        "stimulus_end",
        _same("event", "text", "sample", "decided_sample") | {"error_index": "index"} | _same("invalid", "reason", "features"),
    ),
    "coupling": _view("coupling", "coupling", _same("sample", "imaginary")),
    "decisions": _view("decisions", "decision", _same("decision", "wanted", "evidence", "reason", "outcomes")),
    "gates": _view("gates", "gate", {"before_state": "before", "after_state": "after", **_same("decision", "reason")}),
    "incidents": _view("incidents", "incident", _same("name", "detail", "answer")),
    "commands": _view(
        "commands",
        "to_guard",
        {
            "command": "message.seq",
            "level_ua": "message.level_ua",
            "deadline_ns": "message.deadline_ns",
            "decision": "decision",
        },
        " AND json_extract(body, '$.message.m') = 'command'",
    ),
    "guard_messages": _view(
        "guard_messages", "to_guard", {**_GUARD_MESSAGE, "reason": "message.reason", "decision": "decision"}
    ),
    "markers_out": _view("markers_out", "marker_out", _same("text")),
}
