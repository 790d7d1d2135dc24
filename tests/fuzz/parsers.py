"""Every parser of cereloop, one line each: what good input looks like, who reads it, and the only errors that may come of it.

A new parser is one line in `PARSERS`: ``Parser(name, seeds, read, errors)``, where `seeds` are a few good inputs as bytes.
"""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from devices import checklist, labjack_calibration, ledger, limits, link, nic2_codec, settings
from devices import labjack_registers as registers
from devices.dose_book import DoseBookError
from devices.mock import faults, numbers
from devices.mock.meter import MeterError, read_meter
from devices.nic2_codec import Replies, parse_impedances, parse_settings
from devices.nic2_table import V04_07, Op
from devices.reference import CAPABILITIES
from devices.refframe import MAX_HOST_PAYLOAD, Decoder
from devices.refproto import (
    Ack,
    AckResult,
    Arm,
    FrameError,
    Heartbeat,
    Identify,
    Report,
    SetLevel,
    encode,
    parse_device,
    parse_host,
)
from devices.stimulator import DeviceState, Identity
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


class Parser(NamedTuple):
    """One parser; `read` takes bytes and may raise `errors` only. A `slow` one opens files, and gets a tenth of the inputs."""

    name: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    slow: str = ""


def text(data: bytes) -> str:
    """Any text, also such as no file could hold."""
    return data.decode("utf-8", "surrogateescape")


# ---- link and serial line


def _orders() -> list[bytes]:
    orders: list[Any] = [
        link.Hello(version=link.LINK_VERSION, settings_sha256="0" * 64),
        link.Arm(seq=1, code="ABCDE"),
        link.Reserve(seq=2, charge_uc=1000, on_time_ms=2000),
        link.Command(seq=3, level_ua=100, deadline_ns=1 << 50, decision=1),
        link.Stop(stop_class=1, reason="why"),
        link.Reset(seq=4, operator="who"),
    ]
    return [link.encode(order) for order in orders]


def _answers() -> list[bytes]:
    identity = Identity(maker="m", model="x", serial_number="1", firmware="1", emulator=True)
    answers: list[Any] = [
        link.Refused(seq=1, reason="no"),
        link.Welcome(
            version=link.LINK_VERSION,
            identity=identity,
            capabilities=CAPABILITIES,
            max_level_ua=2000,
            limit_reasons=["a", "b"],
            arm_code="ABCDE",
        ),
    ]
    return [link.encode(answer) for answer in answers]


def _frames() -> list[bytes]:
    report = Report(DeviceState.ACTIVE, 100, 99.5, 1200, 5000, 7, 1, 0)  # type: ignore[arg-type]
    sent: list[Any] = [Identify(), Arm(2000, 100), SetLevel(100, 250), Heartbeat(), Ack(3, AckResult.OK)]
    made = [encode(number + 1, message) for number, message in enumerate(sent)]
    with contextlib.suppress(Exception):
        made.append(encode(9, report))
    return made


def _by(parse: Callable[[Any], object], size: int | None = None) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        decoder = Decoder() if size is None else Decoder(size)
        for start in range(0, len(data), 7):
            for frame in decoder.feed(data[start : start + 7]):
                with contextlib.suppress(FrameError):
                    parse(frame)
        assert decoder.pending < 1024

    return read


# ---- files


@functools.cache
def _folder() -> Path:
    """One folder of this process, gone with it."""
    folder = tempfile.TemporaryDirectory(prefix="cereloop-fuzz-")
    _kept.append(folder)
    return Path(folder.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []


def _as_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], None]:
    def by_file(data: bytes) -> None:
        path = _folder() / name
        for old in _folder().glob(f"{name}*"):
            old.unlink()
        path.write_bytes(data)
        read(path)

    return by_file


@functools.cache
def _session() -> bytes:
    path = _folder() / "seed.sqlite"
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
    path = _folder() / "seed-ledger.sqlite"
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


def texts(*good: str) -> Callable[[], list[bytes]]:
    """Seeds that are texts."""
    return lambda: [one.encode() for one in good]


# ---- NIC2 and Modbus


def _lines() -> list[bytes]:
    return [b"\x00\x01\x08 100 200 300\n5000 5000 0 0\r\nfirmware\t00:11\tbluetooth\tStarstim 8\n"]


def _take_replies(data: bytes) -> None:
    """What a client makes of a server's bytes, for every opcode in turn."""
    waiting = Replies(V04_07)
    for start in range(0, len(data), 11):
        waiting.feed(data[start : start + 11])
        for op in Op:
            answer = waiting.take(op)
            if isinstance(answer, str):
                parse_settings(answer) if answer.count("\t") == 3 else parse_impedances(answer, 4)


def _nic2_requests() -> list[bytes]:
    zeros = (0,) * 8
    return [nic2_codec.hello(V04_07), nic2_codec.request(V04_07, Op.QUERY_STATUS), b"\x92" + b"0;" * 30 + b"\n", bytes(zeros)]


def _by_server(data: bytes) -> None:
    for asked in nic2_codec.RequestDecoder(V04_07).feed(data):
        nic2_codec.parse_numbers(asked.text, 16)


def _modbus_requests() -> list[bytes]:
    return [registers.read_frame(1, registers.AIN0, 2), registers.write_frame(2, registers.DAC0, 1.5)]


def _modbus_replies() -> list[bytes]:
    asked = registers.RequestDecoder().feed(b"".join(_modbus_requests()))
    return [
        registers.reply_frame(asked[0], (1, 2, 3, 4)),
        registers.reply_frame(asked[1]),
        registers.reply_frame(asked[0], exception=2),
    ]


def _in_pieces(make: Callable[[], Any]) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        decoder = make()
        for start in range(0, len(data), 7):
            decoder.feed(data[start : start + 7])

    return read


def _output_calibration() -> list[bytes]:
    numbers_ = {
        "resistor_ohm": 1000.0,
        "gain_ma_per_v": 0.4,
        "offset_ua": 1.0,
        "monitor_v_per_ma": 1.0,
        "monitor_offset_v": 0.0,
    }
    days = {"version": 1, "serial_number": "470", "made": "2026-11-24", "expires": "2027-11-24"}
    return [msgspec.json.encode({**days, **numbers_, "residual_ua": 0.5, "points": [[0.0, 0.0, 0.0], [1.0, 0.4, 0.4]]})]


PARSERS: tuple[Parser, ...] = (
    Parser("NIC2 replies", _lines, _take_replies, (nic2_codec.Nic2CodecError,)),
    Parser("NIC2 requests", _nic2_requests, _by_server, ()),
    Parser("Modbus replies", _modbus_replies, _in_pieces(registers.ReplyDecoder), (registers.RegisterError,)),
    Parser("Modbus requests", _modbus_requests, _in_pieces(registers.RequestDecoder), (registers.RegisterError,)),
    Parser(
        "output calibration",
        _output_calibration,
        _as_file("o.json", labjack_calibration.load),
        (labjack_calibration.OutputCalibrationError,),
    ),
    Parser("link to the guard", _orders, link.decode_to_guard, (link.LinkError,)),
    Parser("link from the guard", _answers, link.decode_from_guard, (link.LinkError,)),
    Parser("serial frames at the host", _frames, _by(parse_device), ()),
    Parser("serial frames at the device", _frames, _by(parse_host, MAX_HOST_PAYLOAD), ()),
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
    Parser("session file", lambda: [_session()], _as_file("s.sqlite", _read_session), (JournalError,), slow="opens a database"),
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
    Parser("allocation file", _allocation, _as_file("a.json", allocation.load), (sealing.SealError,)),
    Parser("key file", _keys, _as_file("k.key", sealing.read_key), (sealing.SealError,)),
    Parser("sealed text", texts("AAAA"), lambda data: sealing.open_text(text(data), b"\1" * 32, "it"), (sealing.SealError,)),
    Parser(
        "checklist", lambda: [checklist.blank().encode()], lambda data: checklist.parse(text(data)), (checklist.ChecklistError,)
    ),
    Parser("ledger", _ledger, _as_file("l.sqlite", _read_ledger), (DoseBookError,), slow="opens a database"),
    Parser("meter file", lambda: [b"CLMETER1" + bytes(48)], _as_file("m.meter", read_meter), (MeterError,)),
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
