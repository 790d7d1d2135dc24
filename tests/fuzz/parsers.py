"""Every parser of cereloop, one line each: what good input looks like, who reads it, and the only errors that may come of it.

A new parser is one line in `PARSERS`, or in `DEVICE_PARSERS` if its bytes come down a line: ``Parser(name, seeds, read,
errors)``, where `seeds` are a few good inputs as bytes.
"""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from device_parsers import DEVICE_PARSERS
from fuzz_parser import Parser, as_file, folder, text, texts

from devices import checklist, ledger, limits, pulse_settings, settings
from devices.dose_book import DoseBookError
from devices.mock import faults, numbers
from devices.mock.magstim_faults import FAULTS as MAGSTIM_FAULTS
from devices.mock.meter import MeterError, read_meter
from devices.mock.pulse_meter import MAGIC, read_pulse_meter
from loop import allocation, config, sealing
from loop import session_file as sf
from loop.calibration import file as calibration
from loop.calibration.errors import CalibrationError
from loop.campaign.rig import base_text, layout
from loop.events import Calibrated, Chunk, Operator, SegmentStart, SourceInfo, Tick
from loop.inline_recorder import InlineRecorder
from loop.journal import Row, decode, encode_input
from loop.markers import canonical, meaning
from loop.operator import OperatorLine
from loop.reader import Session
from loop.session_file import JournalError, SessionMeta
from loop.sources.description import from_xml, layout_of
from loop.sources.errors import SourceError

RTMS = Path(__file__).resolve().parents[2] / "configs" / "live-magstim-mock.toml"


# ---- files


@functools.cache
def _session() -> bytes:
    path = folder() / "seed.sqlite"
    meta = SessionMeta(session="s", mode="live", config_text="{}", config_format="json", versions={"python": "3"}, source="{}")
    with InlineRecorder(path, meta, _Still()) as recorder:
        for row in _events():
            recorder.record(row, [])
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.read_bytes()


class _Still:
    """A clock that stands still."""

    def now_ns(self) -> int:
        return 1

    def wall_ns(self) -> int:
        return 1


def _events() -> list[Any]:
    source = SourceInfo(kind="lsl", identity="x", simulated=True, dtype="float64")
    return [
        SegmentStart(t_ns=3, segment=1, layout=layout(), source=source, clock_offset_ns=0),
        Calibrated(t_ns=3, text="{}"),
        Chunk(3, 1, 0, np.arange(5, dtype=np.int64), np.zeros((5, 8))),
        Tick(t_ns=3),
        Operator(t_ns=3, action="note", detail="x"),
    ]


def _read_session(path: Path) -> None:
    with Session.open(path) as session:
        session.check()
        for _ in session.steps():
            pass


def _ledger() -> list[bytes]:
    path = folder() / "seed-ledger.sqlite"
    path.unlink(missing_ok=True)
    ledger.create(path)
    return [path.read_bytes()]


def _read_ledger(path: Path) -> None:
    ledger.Ledger(path).close()


def _rows() -> list[bytes]:
    return [row.kind.encode() + b"\n" + row.body for event in _events() for row in [encode_input(event, store_samples=True)]]


def _read_row(data: bytes) -> None:
    kind, _, body = data.partition(b"\n")
    name = kind.decode("latin-1")
    decode(Row(3, name, body, body[:64] if name in ("chunk", "features") else None))


def _row_frames() -> list[bytes]:
    return [sf.frame(sf.opening_row(1, 2)), sf.frame(sf.closing_row(9, 3, 4))]


# ---- texts


def _config() -> list[bytes]:
    return [base_text().encode()]


def _tree() -> list[bytes]:
    return [config.encode(config.parse(base_text()))]


def _settings() -> list[bytes]:
    made = config.guard_settings(config.parse(base_text()), "s", input_is_simulated=True)
    return [settings.encode(made)]


def _read_settings(data: bytes) -> None:
    limits.check_settings(settings.decode(data))


def _pulse_settings() -> list[bytes]:
    made = config.pulse_guard_settings(config.parse(RTMS.read_text()), "s", input_is_simulated=True)
    return [settings.encode(made)]


def _read_pulse_settings(data: bytes) -> None:
    made = pulse_settings.decode(data)
    if isinstance(made, pulse_settings.PulseSettings):
        pulse_settings.check_pulse_settings(made.pulses, made.pulse_limits)


def _xml() -> list[bytes]:
    channels = "".join(f"<channel><label>C{n}</label><unit>uV</unit><type>EEG</type></channel>" for n in range(4))
    head = "<name>x</name><type>EEG</type><channel_count>4</channel_count><nominal_srate>250</nominal_srate>"
    return [f"<info>{head}<desc><channels>{channels}</channels></desc></info>".encode()]


def _read_xml(data: bytes) -> None:
    described = from_xml(text(data))
    layout_of(described, len(described.channels), 250.0, "stream", ())


def _allocation() -> list[bytes]:
    entry = {"code": "ABCD", "machine": "AAAA", "officer": "BBBB"}
    return [msgspec.json.encode({"version": 1, "created": "2026-01-01", "arms": ["sham"], "entries": [entry]})]


def _keys() -> list[bytes]:
    return [b"cereloop machine key, keep it secret\n" + b"ab" * 32 + b"\n"]


def _pairs(data: bytes) -> None:
    words = text(data).split("\x00")
    pairs = dict(zip(words[::2], words[1::2], strict=False))
    sf.meta_from_pairs(pairs)


def _meta() -> list[bytes]:
    good = {"session": "s", "mode": "live", "config": "{}", "config_format": "json", "versions": "{}", "source": "{}"}
    good["started_wall_ns"] = "1"
    return ["\x00".join(word for pair in good.items() for word in pair).encode()]


def _read_operator(data: bytes) -> None:
    import os

    read_fd, write_fd = os.pipe()
    try:
        os.write(write_fd, data[:4000])
        with os.fdopen(read_fd, "rb", closefd=False) as stream:
            operator = OperatorLine(stream)  # type: ignore[arg-type]
            operator.read()
            operator.close()
    finally:
        os.close(write_fd)
        os.close(read_fd)


def _calibration() -> list[bytes]:
    return [b'{"format": 2, "participant": "P", "labels": ["PO9"], "rest": {}, "readout": null}']


PARSERS: tuple[Parser, ...] = (
    *DEVICE_PARSERS,
    Parser("configuration", _config, lambda data: config.parse(text(data), "f.toml"), (config.ConfigError,)),
    Parser("recorded configuration", _tree, config.decode, (config.ConfigError,)),
    Parser(
        "an override",
        texts("policy.threshold=6", 'session.arm="sham"'),
        lambda data: config.parse(base_text(), "f", [text(data)]),
        (config.ConfigError,),
    ),
    Parser(
        "the guard's settings",
        _settings,
        _read_settings,
        (msgspec.DecodeError, limits.LimitError, UnicodeDecodeError, RecursionError),
    ),
    Parser(
        "the guard's settings for pulses",
        _pulse_settings,
        _read_pulse_settings,
        (msgspec.DecodeError, pulse_settings.PulseLimitError, UnicodeDecodeError, RecursionError),
    ),
    Parser("session file", lambda: [_session()], as_file("s.sqlite", _read_session), (JournalError,), slow="opens a database"),
    Parser("a row of the session file", _rows, _read_row, (JournalError,)),
    Parser("a row on its way to the recorder", _row_frames, lambda data: sf.unframe(bytearray(data), 0), (JournalError,)),
    Parser("session meta data", _meta, _pairs, (JournalError,)),
    Parser("LSL description", _xml, _read_xml, (SourceError,)),
    Parser(
        "markers",
        texts("CUE/H", "STIM/NOX/60", '{"v":1,"e":"CUE/P75/I2"}'),
        lambda data: meaning(canonical(text(data), {"a": "CUE/H"})),
        (),
    ),
    Parser("calibration file", _calibration, calibration.decode, (CalibrationError,)),
    Parser("allocation file", _allocation, as_file("a.json", allocation.load), (sealing.SealError,)),
    Parser("key file", _keys, as_file("k.key", sealing.read_key), (sealing.SealError,)),
    Parser("sealed text", texts("AAAA"), lambda data: sealing.open_text(text(data), b"\1" * 32, "it"), (sealing.SealError,)),
    Parser(
        "checklist", lambda: [checklist.blank().encode()], lambda data: checklist.parse(text(data)), (checklist.ChecklistError,)
    ),
    Parser("ledger", _ledger, as_file("l.sqlite", _read_ledger), (DoseBookError,), slow="opens a database"),
    Parser("meter file", lambda: [b"CLMETER1" + bytes(48)], as_file("m.meter", read_meter), (MeterError,)),
    Parser("pulse meter file", lambda: [MAGIC + bytes(48)], as_file("p.meter", read_pulse_meter), (MeterError,)),
    Parser(
        "fault of the Magstim on the command line",
        texts("slow_replies:latency_s=0.5@12.5"),
        lambda data: faults.parse(text(data), MAGSTIM_FAULTS),
        (faults.FaultError,),
    ),
    Parser(
        "fault on the command line",
        texts("over_current:extra_ua=300@12.5"),
        lambda data: faults.parse(text(data)),
        (faults.FaultError,),
    ),
    Parser(
        "electrodes on the command line",
        texts(numbers.DEFAULT_PAIR),
        lambda data: numbers.pair_values(text(data)),
        (numbers.NumberError,),
    ),
    Parser("operator's line", texts("arm ABCDE", "note x", "cut"), _read_operator, ()),
)
