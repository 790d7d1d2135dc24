"""The driver over the in-process wire, and over wires that misbehave."""

from __future__ import annotations

import os
import termios

import pytest
from stimulator_bench import Bench

from devices import refproto as proto
from devices.clock import VirtualClock
from devices.mock.stimulator import StimulatorModel
from devices.reference import MAX_WAITING_FRAMES, InProcessWire, ReferenceStimulator, SerialWire
from devices.refframe import Decoder, frame_bytes
from devices.stimulator import (
    DeviceLostError,
    DeviceNotFoundError,
    DeviceProtocolError,
    DeviceRefusedError,
    DeviceState,
    Stimulator,
    StopClass,
)
from devices.units import NS_PER_MS, NS_PER_S


class ThinWire(InProcessWire):
    """Takes at most `room` bytes a call, keeps what it took, and can add to what is read."""

    def __init__(self, model: StimulatorModel, clock: VirtualClock) -> None:
        super().__init__(model, clock)
        self.room = 10_000
        self.written = b""
        self.extra = b""

    def write(self, data: bytes) -> int:
        part = data[: self.room]
        self.written += part
        return super().write(part)

    def read(self) -> bytes:
        extra, self.extra = self.extra, b""
        return super().read() + extra

    def messages(self) -> list[proto.HostMessage]:
        return [proto.parse_host(frame) for frame in Decoder().feed(self.written)]


def thin() -> tuple[Bench, ThinWire]:
    bench = Bench()
    wire = ThinWire(bench.model, bench.clock)
    bench.driver = ReferenceStimulator(wire)
    bench.driver.open()
    wire.written = b""
    return bench, wire


def test_it_is_a_stimulator_that_may_close_the_loop() -> None:
    driver: Stimulator = Bench().driver
    can = driver.capabilities
    assert can.self_expiring_lease
    assert can.hardware_watchdog
    assert can.measures_current
    assert (can.max_level_ua, can.host_timeout_s) == (2000, 0.25)
    assert driver.fileno() == -1


def test_open_cuts_first_then_identifies_and_takes_no_virtual_time() -> None:
    bench = Bench()
    wire = ThinWire(bench.model, bench.clock)
    driver = ReferenceStimulator(wire)
    who = driver.open()
    assert who.emulator
    assert who.serial_number == "EMU-1"
    assert wire.messages() == [proto.Stop(StopClass.S0_CUT), proto.Identify(), proto.SelfTest()]
    assert bench.now == 0
    assert driver.open() == who
    assert len(wire.messages()) == 3


def test_a_new_driver_finds_the_device_at_zero_and_disarmed() -> None:
    bench = Bench()
    bench.at(200)
    other = ReferenceStimulator(InProcessWire(bench.model, bench.clock))
    other.open()
    bench.driver = other
    last = bench.run(50)[-1]
    assert last.state is DeviceState.IDLE
    assert abs(bench.model.current_ua) <= 10.0
    assert last.ack_seq == 3


def test_arm_ramp_hold_stop() -> None:
    bench = Bench()
    bench.at(200)
    assert bench.model.current_ua == pytest.approx(200, abs=8)
    bench.driver.stop(StopClass.S2_SESSION_RAMP)
    last = bench.run(1300, bench.driver.heartbeat)[-1]
    assert (last.state, last.commanded_ua) == (DeviceState.IDLE, 0)
    bench.driver.close()
    bench.driver.close()


def test_every_frame_is_acknowledged_within_the_latency_and_a_report() -> None:
    bench = Bench()
    bench.arm()
    sent = bench.driver.last_seq
    assert bench.run(30)[-1].ack_seq == sent


def test_close_cuts() -> None:
    bench = Bench()
    bench.at(200)
    bench.driver.close()
    bench.pass_time(20)
    assert bench.model.current_ua == 0.0
    assert bench.model.firmware.state is DeviceState.IDLE


def test_nothing_works_before_open_and_the_error_says_so() -> None:
    driver = Bench().driver
    for act in (driver.heartbeat, driver.disarm, driver.reset_fault, lambda: driver.poll(0)):
        with pytest.raises(DeviceLostError, match="not open"):
            act()
    driver.close()


@pytest.mark.parametrize(("level", "slew"), [(0, 100), (2001, 100), (100, 0), (100, 201)])
def test_arm_outside_the_protocol_is_refused_here(level: int, slew: int) -> None:
    bench, wire = thin()
    with pytest.raises(DeviceRefusedError, match="outside 1"):
        bench.driver.arm(level, slew)
    assert wire.written == b""


@pytest.mark.parametrize(("level", "lease"), [(2001, 250), (-2001, 250), (2**40, 250), (100, 0), (100, 1001)])
def test_levels_outside_the_protocol_are_refused_here(level: int, lease: int) -> None:
    bench, wire = thin()
    with pytest.raises(DeviceRefusedError, match="outside"):
        bench.driver.set_level(level, lease)
    assert wire.written == b""


def test_the_devices_refusal_comes_from_poll() -> None:
    bench = Bench()
    bench.arm(max_level_ua=100)
    bench.driver.set_level(150, 250)
    with pytest.raises(DeviceRefusedError, match=r"refused SetLevel .*above its limit"):
        bench.run(30)
    bench.driver.arm(100, 100)
    with pytest.raises(DeviceRefusedError, match="disarm it first"):
        bench.run(30)


def test_reports_that_come_with_a_refusal_are_kept_for_the_next_poll() -> None:
    bench, wire = thin()
    bench.driver.disarm()
    refusal = proto.encode(10_001, proto.Ack(bench.driver.last_seq, proto.AckResult.NOT_AT_ZERO))
    wire.extra = report(10_000, 2) + refusal + report(10_002, 3)
    with pytest.raises(DeviceRefusedError, match=r"refused Disarm .*current still flows"):
        bench.driver.poll(1)
    assert [readback.ack_seq for readback in bench.driver.poll(2)] == [2, 3]


def test_a_set_point_after_the_devices_own_stop_is_told_by_its_state() -> None:
    bench = Bench()
    bench.at(200)
    bench.run(300, bench.driver.heartbeat)
    readbacks = bench.hold(200, 100)
    assert {readback.state for readback in readbacks} == {DeviceState.RAMPING_DOWN}


def test_a_latched_fault_is_reset_and_armed_anew() -> None:
    bench = Bench()
    bench.at(200)
    bench.pass_time(300)
    assert bench.run(20)[-1].fault == "host_timeout"
    bench.driver.arm(100, 100)
    with pytest.raises(DeviceRefusedError, match="fault is latched"):
        bench.run(20)
    bench.driver.reset_fault()
    assert bench.run(50)[-1].state is DeviceState.IDLE
    bench.driver.arm(100, 100)
    assert bench.run(50)[-1].state is DeviceState.ARMED


# ---- sending


def test_frames_are_finished_byte_by_byte() -> None:
    bench, wire = thin()
    wire.room = 1
    bench.driver.arm(100, 100)
    for _ in range(40):
        bench.driver.poll(bench.now)
    assert wire.messages() == [proto.Arm(100, 100)]


def test_a_blocked_line_keeps_only_the_newest_set_point() -> None:
    bench, wire = thin()
    bench.driver.arm(100, 100)
    wire.room = 5
    bench.driver.set_level(1, 250)  # partly out: must be finished
    wire.room = 0
    for level in range(2, 60):
        bench.driver.set_level(level, 250)
    wire.room = 10_000
    bench.driver.poll(bench.now)
    assert wire.messages() == [proto.Arm(100, 100), proto.SetLevel(1, 250), proto.SetLevel(59, 250)]


def test_a_stop_overtakes_what_waits() -> None:
    bench, wire = thin()
    wire.room = 0
    bench.driver.arm(100, 100)
    bench.driver.set_level(50, 250)
    bench.driver.stop(StopClass.S0_CUT)
    wire.room = 10_000
    bench.driver.poll(bench.now)
    assert wire.messages() == [proto.Stop(StopClass.S0_CUT)]


def test_a_stop_lets_the_frame_under_way_finish() -> None:
    bench, wire = thin()
    wire.room = 3
    bench.driver.arm(100, 100)
    wire.room = 0
    bench.driver.set_level(50, 250)
    bench.driver.stop(StopClass.S0_CUT)
    wire.room = 10_000
    bench.driver.poll(bench.now)
    assert wire.messages() == [proto.Arm(100, 100), proto.Stop(StopClass.S0_CUT)]


def test_a_line_that_takes_nothing_is_lost_in_the_end() -> None:
    bench, wire = thin()
    wire.room = 0
    for _ in range(MAX_WAITING_FRAMES):
        bench.driver.reset_fault()
    with pytest.raises(DeviceLostError, match="takes no more bytes"):
        bench.driver.reset_fault()


# ---- receiving


def report(seq: int, ack_seq: int, boot_count: int = 1) -> bytes:
    message = proto.Report(DeviceState.IDLE, 0, 0.0, 0, None, ack_seq, boot_count, 0)
    return proto.encode(seq, message)


def test_an_acknowledgement_of_a_frame_never_sent_is_a_protocol_error() -> None:
    bench, wire = thin()
    wire.extra = report(10_000, bench.driver.last_seq)
    assert bench.driver.poll(1)[-1].ack_seq == bench.driver.last_seq
    wire.extra = report(10_001, bench.driver.last_seq + 1)
    with pytest.raises(DeviceProtocolError, match="wrong acknowledgement"):
        bench.driver.poll(2)


def test_old_and_repeated_frames_of_the_device_change_nothing() -> None:
    bench, wire = thin()
    wire.extra = report(10_000, 2) + report(10_000, 1) + report(9_999, 1)
    assert [readback.ack_seq for readback in bench.driver.poll(1)] == [2]


def test_a_restarted_device_counts_its_frames_anew() -> None:
    bench, wire = thin()
    wire.extra = report(10_000, 2) + report(1, 0, boot_count=2) + report(2, 0, boot_count=2)
    assert [r.boot_count for r in bench.driver.poll(1)] == [1, 2, 2]


def test_an_undefined_value_is_a_protocol_error() -> None:
    bench, wire = thin()
    payload = b"\x09" + bytes(23)
    wire.extra = frame_bytes(10_000, proto.Code.REPORT, payload)
    with pytest.raises(DeviceProtocolError, match="state 9"):
        bench.driver.poll(1)


def broken() -> bytes:
    data = bytearray(report(10_000, 1))
    data[-1] ^= 0xFF
    return bytes(data)


def test_two_damaged_frames_in_a_second_are_borne_three_are_not() -> None:
    bench, wire = thin()
    for _ in range(2):
        wire.extra = broken()
        bench.run(10)
    wire.extra = broken()
    with pytest.raises(DeviceProtocolError, match="3 damaged frames"):
        bench.run(10)


def test_damage_spread_over_time_is_borne() -> None:
    bench, wire = thin()
    for _ in range(6):
        wire.extra = broken()
        bench.run(600)


def test_meaningless_bytes_are_a_protocol_error() -> None:
    bench, wire = thin()
    wire.extra = bytes(200)
    with pytest.raises(DeviceProtocolError, match="meaningless bytes"):
        bench.driver.poll(1)


# ---- opening


@pytest.mark.parametrize("fault", ["half_open", "lost_replies", "garbage", "wrong_ack"])
def test_a_device_that_does_not_answer_is_not_found(fault: str) -> None:
    bench = Bench()
    bench.inject(fault)
    bench.pass_time(10)
    with pytest.raises(DeviceNotFoundError, match="no device there answered"):
        bench.driver.open()
    bench.model.clear(fault)
    assert bench.driver.open().emulator


def test_what_the_device_said_to_an_earlier_host_is_no_answer() -> None:
    bench = Bench()
    bench.at(200)  # high numbers, acknowledged in replies that nobody has read yet
    bench.clock.advance_to(bench.now + 100 * NS_PER_MS)
    bench.model.advance(bench.now)
    other = ReferenceStimulator(InProcessWire(bench.model, bench.clock))
    other.open()
    assert all(readback.ack_seq <= other.last_seq for readback in other.poll(bench.now))
    bench.clock.advance_to(bench.now + NS_PER_S)
    assert other.poll(bench.now)[-1].ack_seq == 3


@pytest.mark.parametrize(
    ("path", "words"),
    [("/dev/no-such-line", "does not exist"), ("/dev/null", "cannot be opened as a serial")],
)
def test_a_port_that_is_none_is_named(path: str, words: str) -> None:
    with pytest.raises(DeviceNotFoundError, match=f"{path} {words}"):
        ReferenceStimulator(SerialWire(path)).open()


def test_the_line_is_opened_raw_at_115200_8n1_without_flow_control_and_exclusively() -> None:
    master, slave = os.openpty()
    try:
        wire = SerialWire(os.ttyname(slave))
        wire.open()
        iflag, oflag, cflag, lflag, ispeed, ospeed, _ = termios.tcgetattr(wire.fileno())
        assert (ispeed, ospeed) == (termios.B115200, termios.B115200)
        assert cflag & termios.CSIZE == termios.CS8
        assert not cflag & (termios.PARENB | termios.CSTOPB | termios.CRTSCTS)
        assert not iflag & (termios.IXON | termios.IXOFF | termios.ICRNL | termios.ISTRIP)
        assert not oflag & termios.OPOST
        assert not lflag & (termios.ICANON | termios.ECHO | termios.ISIG)
        with pytest.raises(DeviceNotFoundError, match="in use by another program"):
            SerialWire(os.ttyname(slave)).open()
        wire.close()
    finally:
        os.close(master)
        os.close(slave)
