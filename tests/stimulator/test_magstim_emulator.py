"""The emulated Magstim alone: conflicts, charging, watchdog, auto-disarm, heat; no more lenient than a unit."""

from __future__ import annotations

import time

import pytest

from devices import magstim_codec as codec
from devices.magstim_codec import Command
from devices.mock import faults
from devices.mock.faults import FaultError
from devices.mock.magstim import UNLOCK_CODE, MagstimModel
from devices.mock.magstim_faults import FAULTS
from devices.mock.pulse_meter import MAGIC, PulseMeterFile, PulseRecord, read_pulse_meter
from devices.units import NS_PER_MS, NS_PER_S

V9 = (9, 0, 0)
ENABLE = codec.remote_on(UNLOCK_CODE)


class Host:
    """Asks one thing after the other; time passes only here."""

    def __init__(self, firmware=V9) -> None:
        self.unit = MagstimModel(firmware=firmware)
        self.t_ns = 0

    def ask(self, command: Command) -> codec.Reply:
        self.unit.receive(command.packet, self.t_ns)
        self.t_ns += 60 * NS_PER_MS
        self.unit.advance(self.t_ns)
        reply, rest = codec.take(self.unit.take_output(), command)
        assert reply is not None and not rest
        return reply

    def wait(self, seconds: float, keep: bool = True) -> None:
        for _ in range(round(seconds / 0.5)):
            if keep:
                self.ask(ENABLE if self.unit.firmware >= V9 else codec.remote_on())
            self.t_ns += 440 * NS_PER_MS
            self.unit.advance(self.t_ns)

    def armed(self, percent: int = 20) -> Host:
        assert self.ask(ENABLE).answer == "done"
        assert self.ask(codec.power(percent)).answer == "done"
        assert self.ask(codec.ARM).answer == "done"
        self.wait(1.5)
        return self

    @property
    def pulses(self) -> list[PulseRecord]:
        return self.unit.meter.pulses


def test_what_is_unknown_wrong_or_out_of_place() -> None:
    host = Host()
    assert host.ask(Command(b"Z@", 3)).answer == "unknown"
    assert host.ask(codec.remote_on()).answer == "bad_data", "firmware 9 wants its unlock code"
    assert host.ask(codec.remote_on("wrong")).answer == "bad_data"
    assert host.ask(codec.ARM).answer == "conflict", "no remote control"
    assert host.ask(ENABLE).answer == "done"
    assert host.ask(codec.FIRE).answer == "conflict", "not armed"
    assert host.ask(codec.ARM).answer == "done"
    assert host.ask(codec.ARM).answer == "conflict", "armed already"
    assert host.ask(codec.FIRE).answer == "conflict", "arming takes a second"
    assert not host.pulses


def test_older_firmware_needs_no_code_and_says_less() -> None:
    host = Host((7, 0, 0))
    assert host.ask(codec.remote_on()).answer == "done"
    assert codec.read_parameters((7, 0, 0), host.ask(codec.parameters((7, 0, 0)))).instrument.remote


def test_single_pulses_come_once_a_second_at_most() -> None:
    host = Host().armed()
    assert host.ask(codec.FIRE).answer == "done"
    assert host.ask(codec.FIRE).answer == "conflict", "charging"
    host.wait(0.5)
    assert host.ask(codec.FIRE).answer == "conflict", "single-pulse mode gives 1 Hz"
    host.wait(0.5)
    assert host.ask(codec.FIRE).answer == "done"
    assert [pulse.percent for pulse in host.pulses] == [20.0, 20.0]


def test_the_intensity_follows_faster_up_than_down() -> None:
    host = Host().armed(60)
    host.ask(codec.power(50))
    assert host.ask(codec.FIRE).answer == "done"
    assert 57.0 < host.pulses[-1].percent < 60.0, "100 ms a percent"


def test_a_train_runs_by_itself_then_waits() -> None:
    host = Host().armed()
    for command in (codec.frequency(10), codec.pulses(V9, 3), codec.duration(V9, 30)):
        assert host.ask(command).answer == "done"
    assert host.ask(codec.FIRE).answer == "done"
    assert host.ask(codec.power(10)).answer == "conflict", "a train runs"
    host.wait(2.5)
    assert len(host.pulses) == 3
    host.wait(0.5)
    told = codec.read_parameters(V9, host.ask(codec.parameters(V9)))
    assert told.rapid.wait and not told.rapid.train
    assert host.ask(codec.FIRE).answer == "conflict", "half a second between two trains"
    assert host.ask(codec.pulses(V9, 2)).answer == "conflict", "nor is the train altered in it"
    assert [b.t_ns - a.t_ns for a, b in zip(host.pulses, host.pulses[1:], strict=False)] == [NS_PER_S, NS_PER_S]


def test_disarming_ends_a_train() -> None:
    host = Host().armed()
    for command in (codec.frequency(10), codec.pulses(V9, 5), codec.duration(V9, 50), codec.FIRE, codec.DISARM):
        assert host.ask(command).answer == "done"
    host.wait(3.0)
    assert len(host.pulses) == 1


def test_only_the_enable_command_keeps_an_armed_unit() -> None:
    host = Host().armed()
    for _ in range(20):
        host.ask(codec.parameters(V9))
    assert not host.unit.armed and not host.unit.remote


def test_armed_without_a_pulse_it_disarms_after_a_minute() -> None:
    host = Host().armed()
    host.wait(57.0)
    assert host.unit.armed
    host.wait(3.0)
    assert not host.unit.armed and host.unit.remote


def test_pulses_warm_the_coil_and_a_hot_one_disarms() -> None:
    host = Host().armed(80)
    host.ask(codec.FIRE)
    warmer = host.unit.coil_c
    assert warmer > 22.0
    host.wait(60.0)
    assert host.unit.coil_c < warmer
    host.unit.inject(faults.parse("hot_coil", FAULTS))
    assert codec.read_temperature(host.ask(codec.TEMPERATURE)) == (45.0, 45.0)
    assert host.ask(codec.ARM).answer == "conflict"


def test_a_fault_may_come_later_and_a_foreign_one_is_named() -> None:
    host = Host().armed()
    host.unit.inject(faults.parse("coil_absent@4", FAULTS))
    assert host.unit.armed
    host.wait(3.0)
    assert not host.unit.armed
    with pytest.raises(FaultError, match="open_circuit"):
        faults.parse("open_circuit", FAULTS)


def test_a_command_that_breaks_off_is_forgotten() -> None:
    host = Host()
    host.unit.receive(b"EB", 0)
    host.t_ns = 100 * NS_PER_MS
    assert host.ask(ENABLE).answer == "done"


def test_the_meters_file(tmp_path) -> None:
    path = tmp_path / "pulses"
    file = PulseMeterFile(path)
    record = PulseRecord(5, True, 30.0)
    file(record)
    file.close()
    with path.open("ab") as handle:
        handle.write(b"half")
    assert read_pulse_meter(path) == [record]
    assert path.read_bytes().startswith(MAGIC)


def test_an_endless_unlock_code_is_cut_off_at_once() -> None:
    host = Host()
    begun = time.process_time()
    host.unit.receive(b"Q" + bytes(20_000), 0)  # a zero byte never fits as a checksum
    assert time.process_time() - begun < 0.5
    host.t_ns = 30 * NS_PER_S
    host.unit.advance(host.t_ns)
    assert host.unit.take_output() == b"?"
    assert host.ask(ENABLE).answer == "done"


@pytest.mark.parametrize("wrong", [b"B1001", b"D06001", b"[6001"])
def test_a_number_that_no_unit_can_take_is_bad_data(wrong: bytes) -> None:
    host = Host()
    host.ask(ENABLE)
    assert host.ask(Command(wrong, 4)).answer == "bad_data"


def test_a_train_that_its_duration_cannot_hold_is_a_conflict() -> None:
    host = Host().armed()
    for command in (codec.frequency(8), codec.pulses(V9, 3), codec.duration(V9, 37)):
        assert host.ask(command).answer == "done"
    assert host.ask(codec.FIRE).answer == "conflict", "3.7 s at 0.8 Hz hold two pulses"
    assert not host.pulses
