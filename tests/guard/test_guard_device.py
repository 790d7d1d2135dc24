"""What the device says of itself, and what the guard makes of it (I11; F32-F40)."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import pytest
from guard_doubles import (
    Bench,
    FakeStimulator,
    make_settings,
    stops,
)

from devices.stimulator import (
    DeviceLostError,
    DeviceProtocolError,
    DeviceRefusedError,
    DeviceState,
    StopClass,
)
from devices.units import NS_PER_MS

# ---- the device (I11, F32-F40)


def _over_current(device: FakeStimulator) -> None:
    device.added_ua = 200.0


def _wrong_sign(device: FakeStimulator) -> None:
    device.gain = -1.0


def _stuck_adc(device: FakeStimulator) -> None:
    device.measured = lambda _: 0.0


def _leak(device: FakeStimulator) -> None:
    device.added_ua = -60.0


def _nan(device: FakeStimulator) -> None:
    device.measured = lambda _: math.nan


def _blind(device: FakeStimulator) -> None:
    device.measured = lambda _: None


def _wrong_ack(device: FakeStimulator) -> None:
    device.commanded = lambda level: round(level) + 60


def _wild_ack(device: FakeStimulator) -> None:
    device.commanded = lambda _: 201


def _wrong_sign_ack(device: FakeStimulator) -> None:
    device.commanded = lambda level: -round(level)


def _reboot(device: FakeStimulator) -> None:
    device.boot_count += 1


def _fault(device: FakeStimulator) -> None:
    device.fault = "compliance"


def _fault_state(device: FakeStimulator) -> None:
    device.state = DeviceState.FAULT


def _open(device: FakeStimulator) -> None:
    device.impedance_ohm = 1_000_000.0


@pytest.mark.parametrize(
    ("lie", "most_ms", "why"),
    [
        (_over_current, 60, "over-current: 300 uA measured, above 250 uA"),
        (_wrong_sign, 60, "wrong polarity: -100 uA measured"),
        (_stuck_adc, 170, "read-back off: 0 uA measured where 100 uA was commanded"),
        (_leak, 170, "read-back off: 40 uA measured"),
        (_nan, 60, "the device measures nan uA, which is no number"),
        (_blind, 170, "the device no longer measures its current"),
        (_wrong_ack, 170, "wrong acknowledgement: set point 160 uA where 100 uA"),
        (_wild_ack, 60, "wrong acknowledgement: set point 201 uA is above 200 uA"),
        (_wrong_sign_ack, 60, "wrong acknowledgement: set point -100 uA has the wrong sign"),
        (_reboot, 60, "the device restarted (boot 1 -> 2)"),
        (_fault, 60, "device fault: compliance"),
        (_fault_state, 60, "device fault: unnamed"),
        (_open, 170, "open circuit: impedance 1000000 ohm"),
    ],
)
def test_a_lying_device_is_cut_and_latched(lie: Callable[[FakeStimulator], None], most_ms: int, why: str) -> None:
    bench = Bench().to_live(100)
    lie(bench.device)
    start_ns = bench.t_ns
    bench.run(0.5, until="latched")
    assert bench.t_ns - start_ns <= most_ms * NS_PER_MS
    assert bench.reason.startswith(why)
    assert stops(bench.device)[-1] is StopClass.S0_CUT


def test_a_readback_within_the_tolerance_is_no_fault() -> None:
    bench = Bench().to_live(100)
    bench.device.added_ua = -49.0
    bench.run(5.0)
    assert bench.phase == "live"
    assert bench.reason == "armed"


def test_a_short_deviation_is_no_fault() -> None:
    bench = Bench().to_live(100)
    bench.device.added_ua = -60.0
    bench.run(0.09)
    bench.device.added_ua = 0.0
    bench.run(1.0)
    assert bench.phase == "live"


def test_short_deviations_that_come_again_are_a_fault() -> None:
    bench = Bench().to_live(100)
    bench.device.added_ua = -60.0
    bench.run(0.09)
    bench.device.added_ua = 0.0
    bench.run(0.2)
    assert bench.phase == "live"
    bench.device.added_ua = -60.0
    bench.run(0.05, until="latched")


def test_current_though_none_is_commanded_latches_in_every_phase_at_zero() -> None:
    for prepare in (Bench.to_safe, Bench.to_armed, Bench.to_live):
        bench = prepare(Bench())
        bench.device.added_ua = 30.0
        bench.run(0.3, until="latched")
        assert bench.reason == "current though none was commanded: 30 uA measured where 0 uA was commanded"


def test_impedance_above_the_stop_limit_is_an_abort() -> None:
    bench = Bench().to_live(100)
    bench.device.impedance_ohm = 20_500.0
    bench.run(0.3, until="aborting")
    assert bench.reason == "impedance 20500 ohm, above the stop limit of 20000 ohm"


def test_one_impedance_spike_is_no_abort() -> None:
    bench = Bench().to_live(100)
    bench.device.impedance_ohm = 25_000.0
    bench.run(0.05)
    bench.device.impedance_ohm = 5_000.0
    bench.run(0.5)
    assert bench.phase == "live"


def test_impedance_that_no_longer_is_a_number_is_an_abort() -> None:
    bench = Bench().to_live(100)
    bench.device.impedance_ohm = math.nan
    bench.run(0.3, until="aborting")


def test_a_short_under_current_is_an_abort() -> None:
    bench = Bench().to_live(100)
    bench.device.impedance_ohm = 20.0
    bench.run(0.3, until="aborting")
    assert "shorted" in bench.reason


def test_a_device_that_ramps_down_by_itself_is_an_abort() -> None:
    bench = Bench().to_live(100)
    bench.device.state, bench.device.target_ua = DeviceState.RAMPING_DOWN, 0.0
    bench.run(0.1, until="aborting")
    assert bench.reason.startswith("the device left the session by itself")


def test_silence_of_the_device_is_an_abort_and_the_second_time_a_cut() -> None:
    bench = Bench().to_live(100)
    bench.device.mute = True
    bench.run(0.3, until="aborting")
    assert bench.reason == "no read-back for 200 ms"
    bench.device.mute = False
    bench.wanted_ua = None
    bench.run(0.5, until="stopped")
    bench.reset()
    bench.run(0.5, until="safe")
    bench.run(0.2)
    bench.to_live(50)
    bench.device.mute = True
    bench.run(0.3, until="latched")
    assert bench.reason == "no read-back for 200 ms, for the second time"


def test_a_device_that_takes_no_frames_is_an_abort() -> None:
    bench = Bench().to_live(100)
    bench.device.deaf = True
    bench.device.host_ns = bench.t_ns + 10**12
    bench.device.lease_ns = bench.t_ns + 10**12
    bench.run(0.3, until="aborting")
    assert bench.reason == "the device has acknowledged nothing for 200 ms"


def test_late_replies_do_not_turn_an_abort_into_a_cut() -> None:
    settings = make_settings(level_ua=2000, ramp_s=32.0, max_charge_uc=2_000_000)
    bench = Bench(settings).to_live(1500)
    bench.device.mute = True
    bench.run(0.3, until="aborting")
    bench.device.mute = False
    bench.device.measured = lambda _: 1500.0
    bench.device.commanded = lambda _: 1500
    bench.wanted_ua = None
    bench.run(0.6)
    assert bench.phase == "aborting"
    bench.device.measured, bench.device.commanded = lambda truth: truth, round
    bench.run(0.5, until="stopped")


def test_an_abort_that_the_device_does_not_follow_is_cut() -> None:
    bench = Bench().to_live(200)
    bench.stop(1)
    bench.device.state, bench.device.target_ua = DeviceState.ACTIVE, 200.0
    bench.device.lease_ns = bench.t_ns + 10**12
    bench.device.deaf = True
    bench.device.host_ns = bench.t_ns + 10**12
    bench.run(0.5, until="latched")
    assert "where" in bench.reason


def test_a_silent_device_after_an_abort_is_cut() -> None:
    bench = Bench().to_live(200)
    bench.device.mute = True
    bench.run(0.3, until="aborting")
    bench.run(1.0, until="latched")
    assert bench.reason.startswith("zero was not confirmed after the abort ramp")


def test_a_silent_device_after_the_session_ramp_is_cut() -> None:
    bench = Bench().to_live(2)
    bench.stop(2)
    bench.device.mute = True
    bench.run(1.0, until="latched")
    assert bench.reason.startswith("zero was not confirmed after the ramp")


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (DeviceLostError("the cable is out"), "device lost: the cable is out"),
        (DeviceProtocolError("wrong acknowledgement"), "device protocol: wrong acknowledgement"),
        (DeviceRefusedError("no"), "device refused: no"),
    ],
)
@pytest.mark.parametrize("where", ["poll", "set_level"])
def test_errors_of_the_driver_under_current_latch(error: Exception, why: str, where: str) -> None:
    bench = Bench().to_live(100)
    bench.device.raises[where] = error  # type: ignore[assignment]
    bench.run(0.1, until="latched")
    assert bench.reason == why


def test_a_lost_line_does_not_stop_the_guard_from_trying() -> None:
    bench = Bench().to_live(100)
    for name in ("poll", "set_level", "stop", "heartbeat", "disarm"):
        bench.device.raises[name] = DeviceLostError("gone")
    bench.run(2.0)
    assert bench.phase == "latched"
    assert len(stops(bench.device)) > 20


def test_an_old_readback_changes_nothing() -> None:
    bench = Bench().to_live(100)
    old = msgspec.structs.replace(bench.device.readback(bench.t_ns - 10**9), measured_ua=2000.0)
    bench.core.feed(bench.t_ns, old)
    assert bench.phase == "live"
