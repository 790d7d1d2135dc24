"""The fault vocabulary, and that each fault shows at the meter, in the reports, or on the line."""

from __future__ import annotations

import pytest
from stimulator_bench import Bench

from devices.mock.faults import FAULTS, FaultError, injection, lookup, parse
from devices.mock.meter import time_to_zero
from devices.stimulator import DeviceProtocolError, DeviceState, DeviceUncertainError, Readback, StopClass
from devices.units import NS_PER_MS

LEVEL = 200


def steady(name: str, ms: int = 300) -> tuple[Bench, Readback]:
    """A bench at 0.2 mA into which `name` was injected `ms` ago while the host went on as before."""
    bench = Bench()
    bench.at(LEVEL)
    bench.inject(name)
    return bench, bench.hold(LEVEL, ms)[-1]


# ---- vocabulary


def test_every_fault_says_what_it_does_and_which_hazard_it_plays() -> None:
    for name, spec in FAULTS.items():
        assert spec.name == name
        assert spec.effect
        assert spec.row in {"F16", "F32", "F33", "F34", "F35", "F36", "F37", "F38", "F39", "F40", "F41"}
        assert spec.answer in (StopClass.S0_CUT, StopClass.S1_ABORT_RAMP, None)
        assert all(p.low <= p.default <= p.high and p.unit for p in spec.parameters)
    assert {spec.row for spec in FAULTS.values()} >= {f"F{number}" for number in range(32, 41)}


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(FaultError, match=r"no fault 'bang'.*wrong_ack.*half_open") as caught:
        lookup("bang")
    assert "\n" not in str(caught.value)


def test_faults_are_read_with_numbers_and_a_moment() -> None:
    fault = parse("impedance_rise:factor=3,over_s=0.5@12.5")
    assert (fault.spec.name, fault.values, fault.at_s) == (
        "impedance_rise", {"factor": 3.0, "over_s": 0.5}, 12.5,
    )  # fmt: skip
    assert parse("reset") == injection("reset")
    assert parse("over_current").values == {"extra_ua": 400.0}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gain_x2:ohm=3", "no parameter 'ohm'; it has: gain"),
        ("over_current:extra=3", "it has: extra_ua"),
        ("over_current:extra_ua", "key=value"),
        ("over_current:extra_ua=many", "'many' is no number"),
        ("over_current:extra_ua=nan", "'nan' is no number"),
        ("over_current:extra_ua=-1", "outside 0 .. 5000 uA"),
        ("short@soon", "'soon' is no number"),
        ("short@-1", "outside 0"),
        ("", "no fault ''"),
    ],
)
def test_faults_written_wrongly_are_refused(text: str, words: str) -> None:
    with pytest.raises(FaultError, match=words):
        parse(text)


def test_a_fault_begins_at_its_moment_and_ends_when_cleared() -> None:
    bench = Bench()
    bench.at(LEVEL)
    when = bench.model.inject(parse(f"gain_x2@{bench.now / 1e9 + 0.5}"))
    assert when == bench.now + 500 * NS_PER_MS
    bench.hold(LEVEL, 490)
    assert bench.model.current_ua == pytest.approx(LEVEL, abs=10)
    bench.hold(LEVEL, 200)
    assert bench.model.current_ua == pytest.approx(2 * LEVEL, abs=20)
    bench.model.clear("gain_x2")
    bench.hold(LEVEL, 200)
    assert bench.model.current_ua == pytest.approx(LEVEL, abs=10)
    with pytest.raises(FaultError):
        bench.model.clear("nothing")


# ---- output stage: meter and measurement tell, the set point does not


@pytest.mark.parametrize(
    ("fault", "expected_ua"),
    [
        ("over_current", LEVEL + 400), ("over_current:extra_ua=150", LEVEL + 150), ("gain_x2", 2 * LEVEL),
        ("wrong_polarity", -LEVEL), ("gain_x2:gain=0", 0), ("offset", LEVEL + 200), ("offset:offset_ua=-100", LEVEL - 100),
    ],
)  # fmt: skip
def test_wrong_output_is_seen_by_meter_and_device(fault: str, expected_ua: float) -> None:
    bench, last = steady(fault)
    assert bench.model.current_ua == pytest.approx(expected_ua, abs=12)
    assert last.measured_ua == pytest.approx(expected_ua, abs=16)
    assert last.commanded_ua == LEVEL


def test_over_current_keeps_the_sign() -> None:
    bench = Bench()
    bench.at(-LEVEL)
    bench.inject("over_current")
    bench.hold(-LEVEL, 200)
    assert bench.model.current_ua == pytest.approx(-LEVEL - 400, abs=12)


def test_stuck_output_ignores_the_ramp_and_yields_to_the_relay() -> None:
    bench, _ = steady("stuck_output", 20)
    bench.driver.stop(StopClass.S1_ABORT_RAMP)
    last = bench.run(150, bench.driver.heartbeat)[-1]
    assert bench.model.current_ua == pytest.approx(LEVEL, abs=10)
    assert last.commanded_ua == 0
    assert last.measured_ua == pytest.approx(LEVEL, abs=16)
    cut = bench.now
    bench.driver.stop(StopClass.S0_CUT)
    bench.run(50, bench.driver.heartbeat)
    assert time_to_zero(bench.records, cut) <= 0.012


# ---- contact


@pytest.mark.parametrize("fault", ["open_circuit", "open_circuit:lead_ohm=200000"])
def test_an_open_circuit_shows_in_current_voltage_and_impedance(fault: str) -> None:
    bench, last = steady(fault)
    assert abs(bench.model.current_ua) < 110.0
    assert last.voltage_mv == pytest.approx(20_000, rel=0.02)
    assert last.impedance_ohm is not None
    assert last.impedance_ohm > 100_000


def test_an_open_circuit_shows_before_arming() -> None:
    bench = Bench()
    bench.driver.open()
    bench.inject("open_circuit")
    assert bench.run(600)[-1].impedance_ohm == 1_000_000


def test_impedance_rises_past_the_stop_limit() -> None:
    bench, last = steady("impedance_rise", 1000)
    assert last.impedance_ohm == pytest.approx(8000 * 3.5, rel=0.1)
    assert bench.hold(LEVEL, 1200)[-1].impedance_ohm == pytest.approx(8000 * 5.7, rel=0.1)
    assert bench.model.current_ua == pytest.approx(LEVEL, abs=10)


@pytest.mark.parametrize(("fault", "ohm"), [("short", 60), ("short:ohm=250", 250)])
def test_a_short_shows_in_the_impedance_and_the_voltage(fault: str, ohm: float) -> None:
    bench, last = steady(fault)
    assert last.impedance_ohm == pytest.approx(ohm, abs=60)  # five counts of 2.44 mV at 0.2 mA
    assert bench.model.voltage_v == pytest.approx(ohm * bench.model.current_ua * 1e-6)


def test_a_bridge_lowers_the_impedance_slowly() -> None:
    bench, early = steady("bridge:over_s=2", 300)
    late = bench.hold(LEVEL, 2000)[-1]
    assert early.impedance_ohm is not None
    assert late.impedance_ohm is not None
    assert early.impedance_ohm > 2000
    # 400 ohm of bulk, 1 % of the skin, and what the firmware leaves of the polarisation at 0.2 mA
    assert 440 <= late.impedance_ohm <= 1000


def test_a_low_supply_lets_less_flow_and_the_measurement_shows_it() -> None:
    bench, last = steady("low_supply")
    assert 0.0 < bench.model.current_ua < LEVEL - 60
    assert last.measured_ua == pytest.approx(bench.model.current_ua, abs=8)
    assert bench.model.voltage_v == pytest.approx(1.0, abs=0.05)


def test_a_loose_lead_opens_half_of_the_time() -> None:
    bench, _ = steady("chatter:hz=5", 20)
    since = bench.now
    bench.hold(LEVEL, 2000)
    low = sum(1 for record in bench.records if record.t_ns > since and record.current_ua < LEVEL / 2)
    assert 800 <= low <= 1200


def test_a_moving_head_swings_the_impedance_and_leaves_the_current_alone() -> None:
    bench, _ = steady("motion", 20)
    ohms = [one.impedance_ohm for one in bench.hold(LEVEL, 2000) if one.impedance_ohm is not None]
    assert max(ohms) > 1.4 * min(ohms)
    assert bench.model.current_ua == pytest.approx(LEVEL, abs=10)


# ---- sensors, replies, line


def test_a_stuck_sensor_hides_what_happens() -> None:
    bench, before = steady("stuck_adc", 100)
    bench.driver.stop(StopClass.S1_ABORT_RAMP)
    after = bench.run(400, bench.driver.heartbeat)[-1]
    assert (after.measured_ua, after.voltage_mv) == (before.measured_ua, before.voltage_mv)
    assert abs(bench.model.current_ua) <= 10.0


@pytest.mark.parametrize(
    ("fault", "words"),
    [("wrong_ack", "wrong acknowledgement"), ("garbage", "damaged"), ("truncated", "damaged"), ("bit_flip", "damaged")],
)
def test_false_replies_are_a_protocol_error_within_200_ms(fault: str, words: str) -> None:
    bench = Bench()
    bench.at(LEVEL)
    start = bench.inject(fault)
    with pytest.raises(DeviceProtocolError, match=words):
        bench.hold(LEVEL, 1000)
    assert bench.now - start <= 200 * NS_PER_MS


def test_slow_replies_acknowledge_late() -> None:
    bench = Bench()
    bench.at(LEVEL)
    bench.inject("slow_replies:delay_ms=150")
    assert len(bench.hold(LEVEL, 140)) <= 1
    last = bench.hold(LEVEL, 300)[-1]
    assert 14 <= bench.driver.last_seq - last.ack_seq <= 19


@pytest.mark.parametrize("fault", ["lost_replies", "half_open"])
def test_silence_reaches_the_host(fault: str) -> None:
    bench = Bench()
    bench.at(LEVEL)
    bench.inject(fault)
    assert len(bench.hold(LEVEL, 200)) <= 1


def test_lost_replies_leave_the_device_working_and_half_open_does_not() -> None:
    alive = Bench()
    alive.at(LEVEL)
    alive.inject("lost_replies")
    alive.hold(LEVEL, 200)
    with pytest.raises(DeviceUncertainError, match="up to 200 uA may flow"):
        alive.hold(LEVEL, 50)
    alive.run(150, alive.driver.heartbeat)
    assert alive.model.current_ua == pytest.approx(LEVEL, abs=10)
    dead = Bench()
    dead.at(LEVEL)
    start = dead.inject("half_open")
    dead.hold(LEVEL, 200)
    dead.pass_time(200)
    assert time_to_zero(dead.records, start) <= 0.26
    with pytest.raises(DeviceUncertainError):
        dead.run(10)
    dead.model.clear("half_open")
    assert dead.run(100)[-1].fault == "host_timeout"


def test_some_replies_lost_is_some() -> None:
    bench = Bench()
    bench.at(LEVEL)
    bench.inject("lost_replies:fraction=0.5")
    assert 20 <= len(bench.hold(LEVEL, 2000)) <= 80


# ---- supply, operator


def test_a_brown_out_cuts_restarts_and_forgets() -> None:
    bench = Bench()
    bench.arm()
    bench.hold(LEVEL, 500)  # in mid-ramp
    start = bench.inject("reset")
    readbacks = bench.run(400, bench.driver.heartbeat)
    assert time_to_zero(bench.records, start) <= 0.002
    assert readbacks[-1].boot_count == 2
    assert readbacks[-1].state is DeviceState.IDLE
    assert bench.model.current_ua == 0.0


def test_the_button_cuts_and_latches() -> None:
    bench = Bench()
    bench.at(LEVEL)
    start = bench.inject("emergency_button")
    last = bench.run(100, bench.driver.heartbeat)[-1]
    assert time_to_zero(bench.records, start) <= 0.008
    assert (last.state, last.fault) == (DeviceState.FAULT, "emergency_button")
