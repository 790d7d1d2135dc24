"""The LabJack's driver on its model: set-up, levels, watchdog, read-back, and everything that can be wrong with it."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import msgspec
import pytest
from labjack_bench import TODAY, Bench, calibrated

from devices import labjack_calibration
from devices.guard_core import GuardCore, MemoryDoseBook
from devices.labjack import DRIVER, LabJackOptions, capabilities
from devices.labjack_calibration import OutputCalibrationError, Point
from devices.labjack_driver import LabJackStimulator
from devices.stimulator import (
    DeviceLostError,
    DeviceProtocolError,
    DeviceRefusedError,
    DeviceState,
    DeviceUncertainError,
    StopClass,
)
from devices.units import NS_PER_MS


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    return tmp_path / "output.json"


def test_opening_sets_zero_first_and_the_watchdog_up(calibration: Path) -> None:
    bench = Bench(calibration)
    bench.model.registers["DAC0"] = 1.5
    identity = bench.driver.open()
    assert (identity.model, identity.serial_number, identity.emulator) == ("T7, emulated", "101", True)
    registers = bench.model.registers
    assert (registers["DAC0"], registers["WATCHDOG_ENABLE_DEFAULT"]) == (0.0, 0)
    assert (registers["WATCHDOG_TIMEOUT_S_DEFAULT"], registers["WATCHDOG_STRICT_ENABLE_DEFAULT"]) == (1, 1)
    assert (registers["WATCHDOG_DAC0_ENABLE_DEFAULT"], registers["WATCHDOG_DAC0_DEFAULT"]) == (1, 0.0)
    assert registers["WATCHDOG_STRICT_KEY_DEFAULT"] != 0


def test_the_impedance_is_known_before_arming_and_its_pulses_count_as_zero(calibration: Path) -> None:
    bench = Bench(calibration)
    bench.driver.open()
    last = bench.run(1.5, bench.driver.heartbeat)
    assert last is not None
    assert last.impedance_ohm == pytest.approx(8000, rel=0.15)
    assert all(readback.commanded_ua == 0 for readback in bench.readbacks)
    assert bench.model.meter.peak_ua <= 10.0


@pytest.mark.parametrize("leads", ["anodal", "cathodal"])
def test_levels_flow_are_measured_and_have_the_sign_of_the_leads(calibration: Path, leads: str) -> None:
    bench = Bench(calibration, leads=leads)
    sign = 1 if leads == "anodal" else -1
    bench.at(200 * sign)
    last = bench.readbacks[-1]
    assert bench.model.current_ua == pytest.approx(200, abs=3)
    assert (last.commanded_ua, last.state) == (200 * sign, DeviceState.ACTIVE)
    assert last.measured_ua == pytest.approx(200 * sign, abs=4)
    assert last.impedance_ohm is not None
    with pytest.raises(DeviceRefusedError, match=f"the leads give {leads} current only"):
        bench.driver.set_level(-10 * sign, 250)


def test_a_dead_host_is_cut_by_the_watchdog_within_its_declared_time(calibration: Path) -> None:
    for phase_ms in (0, 250, 500, 750, 990):
        bench = Bench(calibration)
        bench.at(200)
        bench.run(phase_ms / 1000, lambda bench=bench: bench.driver.set_level(200, 250))
        start_ns = bench.clock.now_ns()
        while bench.model.current_ua > 10.0:
            bench.run(0.01, poll=False)
            assert bench.clock.now_ns() - start_ns <= 2200 * NS_PER_MS
        assert bench.model.trips == 1


def test_a_current_that_is_renewed_never_trips(calibration: Path) -> None:
    bench = Bench(calibration)
    bench.at(100)
    bench.run(20.0, lambda: bench.driver.set_level(100, 250))
    assert bench.model.trips == 0
    assert bench.model.current_ua == pytest.approx(100, abs=3)


def test_after_the_watchdog_has_cut_nothing_flows_until_a_reset(calibration: Path) -> None:
    bench = Bench(calibration)
    bench.at(200)
    bench.run(2.5, poll=False)
    assert bench.model.current_ua < 10.0
    last = bench.run(0.2)
    assert last is not None
    assert (last.state, "watchdog" in last.fault) == (DeviceState.FAULT, True)
    with pytest.raises(DeviceRefusedError, match="reset it first"):
        bench.driver.arm(200, 100)
    bench.driver.reset_fault()
    bench.run(0.2, bench.driver.heartbeat)
    assert bench.readbacks[-1].state is DeviceState.IDLE


@pytest.mark.parametrize("stop_class", list(StopClass))
def test_every_stop_is_zero_at_once(calibration: Path, stop_class: StopClass) -> None:
    bench = Bench(calibration)
    bench.at(200)
    bench.driver.stop(stop_class)
    bench.run(0.15)
    assert bench.model.current_ua < 10.0
    with pytest.raises(DeviceRefusedError, match="not armed"):
        bench.driver.set_level(10, 250)


def test_lost_replies_make_it_uncertain_and_only_stops_go_out(calibration: Path) -> None:
    bench = Bench(calibration)
    bench.at(200)
    bench.inject("lost_replies")
    with pytest.raises(DeviceUncertainError):
        bench.run(1.0, lambda: bench.driver.set_level(200, 250))
    assert bench.driver.assumed_ua >= 200
    with pytest.raises(DeviceUncertainError):
        bench.driver.set_level(210, 250)
    bench.driver.set_level(150, 250)  # nearer to zero is always sent
    bench.driver.stop(StopClass.S1_ABORT_RAMP)
    bench.run(0.2, poll=False)
    assert bench.model.current_ua < 10.0


@pytest.mark.parametrize(("fault", "error"), [("garbage", DeviceProtocolError), ("reset", DeviceLostError)])
def test_a_line_that_lies_or_breaks_is_told(calibration: Path, fault: str, error: type[Exception]) -> None:
    bench = Bench(calibration)
    bench.at(200)
    bench.inject(fault)
    with pytest.raises(error):
        bench.run(1.0, lambda: bench.driver.set_level(200, 250))


def test_something_else_at_that_address_is_not_found(calibration: Path) -> None:
    bench = Bench(calibration)
    bench.model.registers["TEST"] = 0x33221100
    with pytest.raises(Exception, match="no T-series LabJack"):
        bench.driver.open()


# ---- calibration of the output


def test_the_calibration_finds_gain_offset_and_monitor(calibration: Path) -> None:
    found = calibrated(calibration)
    model = Bench(calibration).model
    assert found.gain_ma_per_v == pytest.approx(model._gain, rel=0.003)
    assert found.offset_ua == pytest.approx(model._offset_ua, abs=1.5)
    assert found.monitor_v_per_ma == pytest.approx(1.0, rel=0.01)
    assert found.dac_v(0) == 0.0
    assert found.level_ua(found.dac_v(500.0)) == pytest.approx(500.0)
    assert labjack_calibration.load(calibration) == found


STRAIGHT = [Point(v / 10, v / 10, v * 10 * 1e-2) for v in range(6)]


@pytest.mark.parametrize(
    ("points", "change", "words"),
    [
        (STRAIGHT[:4], {}, "4 steps"),
        ([Point(v / 10, 0, 0) for v in range(6)], {}, "hardly changed"),
        ([*STRAIGHT[:5], Point(0.5, 0.5, 0.3)], {}, "are no line"),
        (STRAIGHT, {"stated_gain_ma_per_v": 2.0}, "the configuration says 2"),
        ([point._replace(voltage_v=point.voltage_v + 0.05) for point in STRAIGHT], {}, "at 0 V; trim its offset"),
        ([point._replace(current_v=0.0) for point in STRAIGHT], {}, "does not follow the current"),
    ],
)
def test_steps_that_are_no_calibration_are_refused(points: list[Point], change: dict, words: str) -> None:
    given = {"serial_number": "1", "resistor_ohm": 1000.0, "voltage_monitor_v_per_v": 1.0, "stated_gain_ma_per_v": 1.0}
    with pytest.raises(OutputCalibrationError, match=words):
        labjack_calibration.fit(points, **{**given, **change}, today=TODAY)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"serial_number": "470012345"}, "was calibrated on LabJack 470012345"),
        ({"expires": "2026-11-23"}, "expired on 2026-11-23"),
        ({"expires": "soon"}, "no date"),
        ({"gain_ma_per_v": 2.0}, "belongs to another source"),
    ],
)
def test_a_calibration_that_does_not_fit_keeps_the_device_closed(calibration: Path, change: dict, words: str) -> None:
    bench = Bench(calibration)
    labjack_calibration.save(msgspec.structs.replace(labjack_calibration.load(calibration), **change), calibration)
    with pytest.raises(DeviceRefusedError, match=words):
        bench.driver.open()
    assert not bench.wire.is_open


def test_a_missing_calibration_says_how_to_make_one(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "none.json", calibrate=False)
    with pytest.raises(DeviceRefusedError, match="calibrate-output"):
        bench.driver.open()


def test_it_expires_after_three_months(calibration: Path) -> None:
    found = calibrated(calibration)
    labjack_calibration.check(found, "101", 1.0, TODAY + dt.timedelta(days=90))
    with pytest.raises(OutputCalibrationError, match="expired"):
        labjack_calibration.check(found, "101", 1.0, TODAY + dt.timedelta(days=91))


# ---- as a driver


def test_the_options_are_strict_and_nothing_that_steers_current_has_a_default() -> None:
    assert not any(field.required is False for field in msgspec.structs.fields(LabJackOptions))
    options = LabJackOptions(gain_ma_per_v=0.2, voltage_monitor_v_per_v=0.1, leads="anodal", calibration="x")
    can = capabilities("watchdog", options)
    assert (can.max_level_ua, can.hardware_watchdog, can.unipolar, can.device_ramp) == (1000, True, True, False)
    assert DRIVER.build("watchdog", "192.168.1.2", options).capabilities == can


def test_the_guard_drives_it_through_a_gate_and_its_dose_is_that_of_the_meter(calibration: Path) -> None:
    from guard_doubles import make_settings

    from devices import link

    bench = Bench(calibration)
    settings = make_settings(level_ua=200, ramp_s=5.0, hold_s=10.0, polarity="anodal", max_charge_uc=100_000)
    book = MemoryDoseBook()
    core = GuardCore(settings, bench.driver, b"test", book)
    seq = 0

    def tick(level: int | None = None) -> None:
        nonlocal seq
        bench.clock.advance_to(bench.clock.now_ns() + 10 * NS_PER_MS)
        now_ns = bench.clock.now_ns()
        bench.model.advance(now_ns)
        if level is not None:
            seq += 1
            core.handle(now_ns, link.Command(seq=seq, level_ua=level, deadline_ns=now_ns + 250 * NS_PER_MS, decision=1))
        core.tick(now_ns)

    for _ in range(200):
        tick()
    seq += 1
    core.handle(bench.clock.now_ns(), link.Arm(seq=seq, code=core.welcome().arm_code))
    for _ in range(50):
        tick(0)
    assert core.phase == "live", core.state.reason
    seq += 1
    core.handle(bench.clock.now_ns(), link.Reserve(seq=seq, charge_uc=10_000, on_time_ms=40_000))
    for _ in range(1000):
        tick(200)
    assert bench.model.current_ua == pytest.approx(200, abs=3)
    for _ in range(500):
        tick(0)
    assert (core.phase, core.state.level_ua) == ("live", 0), core.state.reason
    assert bench.model.meter.peak_ua <= 210
    # The current stops being renewed: S1 by falling levels, since the device has no ramp of its own.
    seq += 1
    core.handle(bench.clock.now_ns(), link.Reserve(seq=seq, charge_uc=10_000, on_time_ms=40_000))
    for _ in range(600):
        tick(200)
    assert bench.model.current_ua == pytest.approx(200, abs=3)
    start_ns = bench.clock.now_ns()
    while bench.model.current_ua > 10.0:
        tick()
        assert bench.clock.now_ns() - start_ns <= 1400 * NS_PER_MS
    assert core.phase in ("aborting", "stopped")


def test_a_driver_that_is_not_open_takes_nothing(calibration: Path) -> None:
    driver: LabJackStimulator = Bench(calibration).driver
    for verb in (lambda: driver.arm(100, 100), driver.disarm, lambda: driver.set_level(0, 250), driver.heartbeat):
        with pytest.raises(DeviceLostError):
            verb()
