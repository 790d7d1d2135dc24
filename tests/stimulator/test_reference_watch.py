"""Limits that the device has latched, its self-test, and its version, as the driver sees them."""

from __future__ import annotations

import struct

import pytest
from stimulator_bench import Bench

from devices import refproto as proto
from devices.clock import VirtualClock
from devices.mock.firmware import Firmware
from devices.mock.stimulator import StimulatorModel
from devices.reference import InProcessWire, ReferenceStimulator
from devices.reference_watch import MAX_UNLATCHED_REPORTS, LatchWatch
from devices.refframe import crc16
from devices.stimulator import DeviceNotFoundError, DeviceProtocolError, DeviceRefusedError, DeviceState, DeviceUnfitError
from devices.units import NS_PER_MS


class Editing(InProcessWire):
    """Changes the device's messages on their way."""

    def __init__(self, model: StimulatorModel, clock: VirtualClock, edit: object) -> None:
        super().__init__(model, clock)
        self._edit = edit

    def read(self) -> bytes:
        return self._edit(super().read())  # type: ignore[operator, no-any-return]


def recode(data: bytes, code: int, change: object) -> bytes:
    """`data` with the payload of every frame of this code changed."""
    out, at = b"", 0
    while at < len(data):
        end = at + 11 + data[at + 3]
        frame = data[at:end]
        if frame[8] == code:
            payload = change(frame[9:-2])  # type: ignore[operator]
            body = frame[2:9] + payload
            frame = frame[:2] + body + struct.pack("<H", crc16(body))
        out, at = out + frame, end
    return out


def edited(code: int, change: object) -> Bench:
    bench = Bench()
    bench.driver = ReferenceStimulator(Editing(bench.model, bench.clock, lambda data: recode(data, code, change)))
    return bench


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ((2000, 100, 250, 1000), "it has latched 2000 uA and 100 uA/s, not what was asked"),
        ((100, 200, 250, 1000), "it has latched 100 uA and 200 uA/s"),
        ((100, 100, 1250, 1000), "it bears 1250 ms of silence"),
        ((100, 100, 250, 60_000), "leases of 60000 ms"),
    ],
)
def test_limits_latched_otherwise_than_asked_are_a_protocol_error(limits: tuple[int, ...], words: str) -> None:
    bench = edited(proto.Code.LIMITS, lambda payload: payload[:4] + struct.pack("<IIHH", *limits))
    bench.driver.open()
    bench.driver.arm(100, 100)
    with pytest.raises(DeviceProtocolError, match=words):
        bench.run(50)


def test_an_armed_device_says_its_limits_again_and_again_so_that_one_may_be_lost() -> None:
    said: list[bytes] = []

    def note(payload: bytes) -> bytes:
        said.append(payload[4:])
        return payload

    bench = edited(proto.Code.LIMITS, note)
    bench.driver.open()
    bench.driver.arm(100, 100)
    bench.run(900, bench.driver.heartbeat)
    assert len(said) >= 4
    assert set(said) == {struct.pack("<IIHH", 100, 100, 250, 1000)}


def test_a_device_that_never_says_its_limits_is_a_protocol_error() -> None:
    watch = LatchWatch()
    watch.asked(1, 100, 100)
    for _ in range(MAX_UNLATCHED_REPORTS):
        assert watch.reported(armed=True) == ""
    assert "does not say which limits" in watch.reported(armed=True)
    for _ in range(2 * MAX_UNLATCHED_REPORTS):
        assert watch.reported(armed=False) == ""


def test_a_refused_arming_leaves_the_limits_before_it() -> None:
    watch = LatchWatch()
    watch.asked(1, 100, 100)
    watch.asked(5, 200, 100)
    watch.refused(5)
    assert watch.latched(proto.Limits(7, 100, 100, 250, 1000)) == ""


# ---- self-test


@pytest.mark.parametrize("fault", ["stuck_adc", "stuck_output", "gain_x2", "wrong_polarity"])
def test_a_defect_is_found_before_anything_flows_and_latches_in_the_device(fault: str) -> None:
    bench = Bench()
    bench.inject(fault)
    bench.pass_time(5)
    with pytest.raises(DeviceUnfitError, match=r"self-test failed \(output and ammeter\); it must not be used"):
        bench.driver.open()
    assert bench.model.firmware.state is DeviceState.FAULT
    assert bench.model.firmware.fault is proto.FaultCode.SELF_TEST
    bench.model.clear(fault)
    bench.driver.open()
    assert bench.run(50)[-1].fault == ""


def test_a_failed_self_test_is_cleared_by_a_passed_one_alone() -> None:
    device = Firmware()
    device.defects = proto.Defect.TIMERS
    assert device.handle(1, proto.SelfTest(), 0) == proto.Ack(1, proto.AckResult.OK)
    assert device.handle(2, proto.ResetFault(), 0) == proto.Ack(2, proto.AckResult.FAULT_LATCHED)
    assert device.handle(3, proto.Arm(100, 100), 0) == proto.Ack(3, proto.AckResult.FAULT_LATCHED)
    device.defects = proto.Defect(0)
    device.handle(4, proto.SelfTest(), 0)
    assert (device.state, device.fault) == (DeviceState.IDLE, proto.FaultCode.NONE)


def test_another_fault_outlives_a_passed_self_test() -> None:
    device = Firmware()
    device.press_button()
    assert device.handle(1, proto.SelfTest(), 0) == proto.Ack(1, proto.AckResult.OK)
    assert device.fault is proto.FaultCode.EMERGENCY_BUTTON


def test_no_self_test_while_armed() -> None:
    bench = Bench()
    bench.arm()
    assert bench.model.firmware.handle(10_000, proto.SelfTest(), 100) == proto.Ack(10_000, proto.AckResult.NOT_IDLE)


# ---- versions


def test_a_device_of_an_older_minor_version_is_refused() -> None:
    bench = edited(proto.Code.IDENTITY, lambda payload: payload[:5] + b"\0" + payload[6:])
    with pytest.raises(DeviceRefusedError, match=r"speaks version 1\.0 .*1\.1 or newer is needed: update its firmware"):
        bench.driver.open()


def test_a_device_of_another_major_version_is_named() -> None:
    def next_version(data: bytes) -> bytes:
        out, at = b"", 0
        while at < len(data):
            end = at + 11 + data[at + 3]
            body = b"\x02" + data[at + 3 : end - 2]
            out, at = out + data[at : at + 2] + body + struct.pack("<H", crc16(body)), end
        return out

    bench = Bench()
    bench.pass_time(100)
    bench.driver = ReferenceStimulator(Editing(bench.model, bench.clock, next_version))
    with pytest.raises(DeviceNotFoundError, match=r"version 1, within 3 s \(it speaks version 2\)"):
        bench.driver.open()
    assert bench.now == 100 * NS_PER_MS
