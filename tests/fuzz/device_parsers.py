"""The parsers of what comes down a line: link, serial frames, NIC2, Modbus, Magstim; at the host and at the emulated device."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import msgspec
from fuzz_parser import Parser, as_file, in_pieces

from devices import labjack_calibration, link, nic2_codec
from devices import labjack_registers as registers
from devices import magstim_codec as magstim
from devices.magstim import capabilities as magstim_capabilities
from devices.magstim_driver import MagstimRapid
from devices.mock.magstim import UNLOCK_CODE, MagstimModel
from devices.mock.pulse_rigs import options_for
from devices.nic2_codec import Replies, parse_impedances, parse_settings
from devices.nic2_table import V04_07, Op
from devices.pulses import PulseLimits, Train
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
from devices.stimulator import DeviceError, DeviceState, Identity, StopClass
from devices.units import NS_PER_MS

# ---- link and serial line


def _orders() -> list[bytes]:
    orders: list[Any] = [
        link.Hello(version=link.LINK_VERSION, settings_sha256="0" * 64),
        link.Arm(seq=1, code="ABCDE"),
        link.Reserve(seq=2, charge_uc=1000, on_time_ms=2000),
        link.Command(seq=3, level_ua=100, deadline_ns=1 << 50, decision=1),
        link.Stop(stop_class=1, reason="why"),
        link.Reset(seq=4, operator="who"),
        link.ReservePulses(seq=5, pulses=12),
        link.Pulses(seq=6, intensity_percent=30, deadline_ns=1 << 50, decision=1),
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
        link.Welcome(
            version=link.LINK_VERSION,
            identity=identity,
            capabilities=None,
            max_level_ua=0,
            limit_reasons=[],
            arm_code="ABCDE",
            pulse_capabilities=magstim_capabilities("train"),
            max_intensity_percent=30,
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


# ---- Magstim

_V9 = magstim.LONG_VERSION
_FIRES_AT, _POLLS = 130, 240
_ASKED = (
    magstim.DISARM, magstim.VERSION, magstim.remote_on(UNLOCK_CODE), magstim.power(0), magstim.frequency(10),
    magstim.pulses(_V9, 3), magstim.duration(_V9, 30), magstim.TEMPERATURE, magstim.parameters(_V9), magstim.ARM, magstim.FIRE,
    magstim.REMOTE_OFF,
)  # fmt: skip


def _magstim_commands() -> list[bytes]:
    return [command.packet for command in _ASKED] + [b"".join(command.packet for command in _ASKED)]


def _magstim_replies() -> list[bytes]:
    """What the emulated unit says to each question, and to all of them."""
    unit, said = MagstimModel(firmware=_V9), []
    for number, command in enumerate(_ASKED):
        unit.receive(command.packet, 100 * number * NS_PER_MS)
        unit.advance((100 * number + 90) * NS_PER_MS)
        said.append(unit.take_output())
    return [*said, b"".join(said)]


def _magstim_talk() -> list[bytes]:
    """What it says to a driver that arms and fires, poll by poll: a length, then the bytes."""
    wire, unit = _Wire(), MagstimModel(firmware=_V9)
    driver = MagstimRapid(wire, "train", options_for(_V9))
    driver.open()
    wire.hang_up()
    wire.sent.clear()
    talk = bytearray()
    for number in range(_POLLS):
        now_ns = 10 * number * NS_PER_MS
        _turn(driver, number)
        unit.receive(bytes(wire.sent), now_ns)
        wire.sent.clear()
        unit.advance(now_ns)
        wire.heard = unit.take_output()
        talk += bytes((len(wire.heard),)) + wire.heard
    assert unit.firing, "the seed goes as far as a train"
    return [bytes(talk)]


def _turn(driver: MagstimRapid, number: int) -> None:
    """The driver's poll of that number, and what a guard asks of it then."""
    driver.poll((1000 + 10 * number) * NS_PER_MS)
    driver.heartbeat()
    if number == 1:
        driver.arm(PulseLimits(max_intensity_percent=30, max_pulses=10, min_interval_ms=1000))
    if number == _FIRES_AT:
        driver.fire(Train(intensity_percent=30, pulses=3, interval_ms=1000), 250)


class _Wire:
    """A line whose far end answers while it is opened, and then says what the fuzzer says."""

    name = "line"

    def __init__(self) -> None:
        self.sent = bytearray()
        self.heard = b""
        self._unit: MagstimModel | None = MagstimModel(firmware=_V9)
        self._now_ns = 0

    def hang_up(self) -> None:
        self._unit = None

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    def fileno(self) -> int:
        return -1

    def wait(self, budget_s: float) -> float:
        self._now_ns += 50 * NS_PER_MS
        return budget_s - 0.05

    def write(self, data: bytes) -> int:
        self.sent += data
        if self._unit is not None:
            self._unit.receive(data, self._now_ns)
        return len(data)

    def read(self) -> bytes:
        if self._unit is not None:
            self._unit.advance(self._now_ns)
            return self._unit.take_output()
        heard, self.heard = self.heard, b""
        return heard


def _at_the_driver(data: bytes) -> None:
    """Polled while it arms and fires; whatever it makes of the bytes, stops still go out and nothing piles up."""
    wire = _Wire()
    driver = MagstimRapid(wire, "train", options_for(_V9))
    driver.open()
    wire.hang_up()
    failed = ""
    number = at = 0
    while at < len(data):
        wire.heard += data[at + 1 : at + 1 + data[at] % 64]
        at += 1 + data[at] % 64
        try:
            _turn(driver, number)
        except DeviceError as error:
            failed = failed or str(error)
        number += 1
    before = len(wire.sent)
    driver.stop(StopClass.S0_CUT)
    assert bytes(wire.sent[before:]) == magstim.DISARM.packet + magstim.REMOTE_OFF.packet
    assert len(wire.sent) < 400 + 20 * number
    if failed:
        raise DeviceError(failed)


def _by_codec(data: bytes) -> None:
    """As the reply to every question, of every firmware, read as whatever it may be."""
    errors: list[str] = []  # texts: an error kept would keep this frame alive
    readers: tuple[Callable[[magstim.Reply], object], ...] = (
        magstim.read_version,
        magstim.read_instrument,
        magstim.read_temperature,
    )
    for version in ((5, 0, 0), (7, 0, 0), _V9):
        for asked in (*_ASKED, magstim.parameters(version)):
            try:
                reply, _ = magstim.take(data, asked)
            except magstim.MagstimCodecError as error:
                errors.append(str(error))
                continue
            if reply is None:
                continue
            for read in (*readers, functools.partial(magstim.read_parameters, version)):
                try:
                    read(reply)
                except magstim.MagstimCodecError as error:
                    errors.append(str(error))
    if errors:
        raise magstim.MagstimCodecError(errors[0])


def _at_the_unit(data: bytes) -> None:
    """Heard in pieces: every command is answered or forgotten, and no pulse leaves a unit that nobody has charged."""
    unit, t_ns = MagstimModel(firmware=_V9), 0
    for start in range(0, len(data), 7):
        unit.receive(data[start : start + 7], t_ns)
        t_ns += 10 * NS_PER_MS
    unit.advance(t_ns + 2000 * NS_PER_MS)
    said = len(unit.take_output())
    assert said <= 24 * (len(data) + 1)
    assert not unit.meter.pulses, "arming takes a second"


DEVICE_PARSERS: tuple[Parser, ...] = (
    Parser("Magstim replies", _magstim_replies, _by_codec, (magstim.MagstimCodecError,)),
    Parser("Magstim replies at the driver", _magstim_talk, _at_the_driver, (DeviceError,)),
    Parser("Magstim commands at the unit", _magstim_commands, _at_the_unit, ()),
    Parser("NIC2 replies", _lines, _take_replies, (nic2_codec.Nic2CodecError,)),
    Parser("NIC2 requests", _nic2_requests, _by_server, ()),
    Parser("Modbus replies", _modbus_replies, in_pieces(registers.ReplyDecoder), (registers.RegisterError,)),
    Parser("Modbus requests", _modbus_requests, in_pieces(registers.RequestDecoder), (registers.RegisterError,)),
    Parser(
        "output calibration",
        _output_calibration,
        as_file("o.json", labjack_calibration.load),
        (labjack_calibration.OutputCalibrationError,),
    ),
    Parser("link to the guard", _orders, link.decode_to_guard, (link.LinkError,)),
    Parser("link from the guard", _answers, link.decode_from_guard, (link.LinkError,)),
    Parser("serial frames at the host", _frames, _by(parse_device), ()),
    Parser("serial frames at the device", _frames, _by(parse_host, MAX_HOST_PAYLOAD), ()),
)
