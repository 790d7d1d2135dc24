"""The device's own rules: numbers, arming, leases, stops, host timeout (I05, I07, I08, I10)."""

from __future__ import annotations

import itertools

import pytest

from devices.mock.firmware import SETTLE_MS, Firmware
from devices.refproto import (
    AckResult,
    Arm,
    Disarm,
    FaultCode,
    Heartbeat,
    HostMessage,
    Identify,
    Query,
    ResetFault,
    SetLevel,
    Stop,
)
from devices.stimulator import DeviceState, StopClass

S0, S1, S2 = StopClass


class Device:
    """Firmware with a counter of frames and milliseconds."""

    def __init__(self) -> None:
        self.firmware = Firmware()
        self.seq = 0
        self.k = 0

    def say(self, message: HostMessage | None) -> AckResult:
        self.seq += 1
        ack = self.firmware.handle(self.seq, message, self.k)
        assert ack is not None
        assert ack.ack_seq == self.seq
        return ack.result

    def tick(self, ms: int, message: HostMessage | None = None) -> None:
        for _ in range(ms):
            self.k += 1
            if message is not None and self.k % 50 == 0:
                self.say(message)
            self.firmware.tick(self.k)

    def at(self, level_ua: int, slew_ua_s: int = 200) -> Device:
        self.say(Arm(2000, slew_ua_s))
        self.say(SetLevel(level_ua, 1000))
        self.tick(abs(level_ua) * 1000 // slew_ua_s + 10, SetLevel(level_ua, 1000))
        assert self.firmware.set_ua == level_ua
        return self


def test_armed_only_within_the_devices_own_ceilings() -> None:
    assert Device().say(Arm(2001, 100)) == AckResult.OVER_LIMIT
    assert Device().say(Arm(2000, 201)) == AckResult.OVER_LIMIT
    assert Device().say(Arm(0, 100)) == AckResult.OVER_LIMIT
    device = Device()
    assert device.say(Arm(2000, 200)) == AckResult.OK
    assert device.say(Arm(100, 100)) == AckResult.NOT_IDLE


def test_no_level_without_arming_and_none_above_the_latched_limit() -> None:
    device = Device()
    assert device.say(SetLevel(10, 250)) == AckResult.NOT_ARMED
    device.say(Arm(300, 100))
    assert device.say(SetLevel(301, 250)) == AckResult.OVER_LIMIT
    assert device.say(SetLevel(-301, 250)) == AckResult.OVER_LIMIT
    assert device.say(SetLevel(300, 0)) == AckResult.BAD_LEASE
    assert device.say(SetLevel(300, 1001)) == AckResult.BAD_LEASE
    assert device.firmware.state is DeviceState.ARMED
    device.tick(100, Heartbeat())
    assert device.firmware.set_ua == 0.0


def test_old_and_repeated_numbers_change_nothing() -> None:
    device = Device().at(100)
    for seq in (device.seq, device.seq - 1, 1):
        assert device.firmware.handle(seq, SetLevel(200, 1000), device.k) is None
        assert device.firmware.handle(seq, Disarm(), device.k) is None
    device.tick(40)
    assert device.firmware.set_ua == 100.0
    assert device.firmware.dropped == 6
    assert device.firmware.ack_seq == device.seq


def test_old_frames_do_not_keep_the_host_alive() -> None:
    device = Device().at(100)
    heard = device.k - device.k % 50
    while device.firmware.state is DeviceState.ACTIVE:
        device.firmware.handle(1, Heartbeat(), device.k)
        device.tick(1)
    assert device.k - heard == 250
    assert device.firmware.fault is FaultCode.HOST_TIMEOUT


def test_a_stop_is_obeyed_whatever_its_number() -> None:
    device = Device().at(100)
    ack = device.firmware.handle(1, Stop(S0), device.k)
    assert ack is not None
    assert (device.firmware.state, device.firmware.set_ua) == (DeviceState.IDLE, 0.0)
    assert device.firmware.ack_seq == device.seq


def test_identify_zeroes_and_restarts_the_numbering() -> None:
    device = Device().at(100)
    device.firmware.handle(3, Identify(), device.k)
    assert (device.firmware.state, device.firmware.set_ua) == (DeviceState.IDLE, 0.0)
    assert device.firmware.ack_seq == 3
    assert device.firmware.handle(3, Arm(10, 10), device.k) is None
    assert device.firmware.handle(4, Arm(10, 10), device.k) is not None


@pytest.mark.parametrize("slew", [100, 200])
def test_rise_at_the_latched_slew(slew: int) -> None:
    device = Device()
    device.say(Arm(2000, slew))
    device.say(SetLevel(1000, 1000))
    device.tick(500, SetLevel(1000, 1000))
    assert device.firmware.set_ua == pytest.approx(slew * 0.5)


def test_lease_ends_in_a_ramp_of_2_ma_a_second_and_a_disarmed_device() -> None:
    device = Device().at(400)
    device.say(SetLevel(400, 250))
    start = device.k
    device.tick(249, Heartbeat())
    assert device.firmware.set_ua == 400.0
    device.tick(1, Heartbeat())
    assert device.firmware.state is DeviceState.RAMPING_DOWN
    assert device.say(SetLevel(400, 250)) == AckResult.NOT_ARMED
    device.tick(99, Heartbeat())
    assert device.firmware.set_ua == pytest.approx(400.0 - 100 * 2.0)
    device.tick(100, Heartbeat())
    assert device.firmware.set_ua == 0.0
    assert device.k - start == 449
    device.tick(SETTLE_MS, Heartbeat())
    assert device.firmware.relay_wanted is False
    assert device.say(SetLevel(400, 250)) == AckResult.NOT_ARMED


def test_a_lease_at_zero_level_needs_no_renewal() -> None:
    device = Device()
    device.say(Arm(2000, 100))
    device.say(SetLevel(0, 100))
    device.tick(1000, Heartbeat())
    assert device.firmware.state is DeviceState.ARMED


def test_ordinary_descent_ends_armed() -> None:
    device = Device().at(100)
    device.tick(50 + 50 + SETTLE_MS + 50, SetLevel(0, 1000))
    assert (device.firmware.state, device.firmware.set_ua) == (DeviceState.ARMED, 0.0)


def test_polarity_changes_through_zero() -> None:
    device = Device().at(100)
    device.tick(100, SetLevel(-100, 1000))
    seen = []
    for _ in range(500):
        device.tick(1, SetLevel(-100, 1000))
        seen.append(device.firmware.set_ua)
    assert seen[-1] == pytest.approx(-100.0)
    assert all(later <= earlier for earlier, later in itertools.pairwise(seen))


@pytest.mark.parametrize(("stop_class", "ms"), [(S0, 0), (S1, 100), (S2, 1000)])
def test_stops_take_their_time_and_disarm(stop_class: StopClass, ms: int) -> None:
    device = Device().at(200)
    device.say(Stop(stop_class))
    device.tick(max(0, ms - 1), Heartbeat())
    assert (device.firmware.set_ua == 0.0) is (ms == 0)
    device.tick(2, Heartbeat())
    assert device.firmware.set_ua == 0.0
    device.tick(SETTLE_MS, Heartbeat())
    assert device.firmware.state is DeviceState.IDLE
    assert device.say(SetLevel(10, 250)) == AckResult.NOT_ARMED


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(StopClass, 2)))
def test_the_higher_of_two_stops_wins(first: StopClass, second: StopClass) -> None:
    device = Device().at(200)
    device.say(Stop(first))
    device.tick(1, None)
    device.say(Stop(second))
    alone = Device().at(200)
    alone.say(Stop(min(first, second)))
    device.tick(20)
    alone.tick(20)
    assert device.firmware.set_ua <= alone.firmware.set_ua + 2.0


@pytest.mark.parametrize("state", [DeviceState.ARMED, DeviceState.ACTIVE, DeviceState.RAMPING_DOWN])
def test_silence_of_250_ms_cuts_and_latches_from_every_live_state(state: DeviceState) -> None:
    device = Device()
    if state is DeviceState.ARMED:
        device.say(Arm(100, 100))
    else:
        device.at(1000)
        device.say(Heartbeat())
    if state is DeviceState.RAMPING_DOWN:
        device.say(Stop(S2))
    device.tick(249)
    assert device.firmware.state is state
    device.tick(1)
    assert (device.firmware.state, device.firmware.set_ua) == (DeviceState.FAULT, 0.0)
    assert not device.firmware.relay_wanted
    assert device.say(Arm(100, 100)) == AckResult.FAULT_LATCHED
    assert device.say(SetLevel(1, 250)) == AckResult.FAULT_LATCHED
    device.say(Identify())
    assert device.firmware.state is DeviceState.FAULT


def test_an_idle_device_does_not_mind_silence() -> None:
    device = Device()
    device.tick(1000)
    assert device.firmware.state is DeviceState.IDLE


def test_a_fault_is_reset_only_at_zero_and_then_needs_arming() -> None:
    device = Device()
    device.firmware.press_button()
    device.firmware.measured_ua = 10.5
    assert device.say(ResetFault()) == AckResult.NOT_AT_ZERO
    device.firmware.measured_ua = -3.0
    assert device.say(ResetFault()) == AckResult.OK
    assert (device.firmware.state, device.firmware.fault) == (DeviceState.IDLE, FaultCode.NONE)
    assert device.say(SetLevel(1, 250)) == AckResult.NOT_ARMED


def test_what_is_not_understood_is_said_and_does_nothing() -> None:
    device = Device().at(100)
    assert device.say(None) == AckResult.NOT_UNDERSTOOD
    assert device.firmware.set_ua == 100.0


def test_query_is_owed_a_report() -> None:
    device = Device()
    before = device.firmware.revision
    device.say(Query())
    assert device.firmware.revision == before + 1
