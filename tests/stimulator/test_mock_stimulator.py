"""The whole mock on its time base: ramps and stops at the meter, converters, impedance, determinism, cost."""

from __future__ import annotations

import itertools
import math
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stimulator_bench import IDEAL, RESISTOR, Bench

from devices import refproto as proto
from devices.mock.electrodes import ElectrodeParameters
from devices.mock.meter import Meter, MeterRecord, time_to_zero
from devices.mock.outbox import MAX_OUTPUT_BYTES
from devices.mock.output import OutputParameters
from devices.mock.stimulator import StimulatorModel
from devices.reference import InProcessWire, ReferenceStimulator
from devices.refframe import Decoder
from devices.stimulator import DeviceState, StopClass
from devices.units import NS_PER_MS, NS_PER_S


def test_ramp_rises_at_the_latched_slew_and_reaches_the_level() -> None:
    bench = Bench(body=RESISTOR, output=IDEAL)
    bench.arm(max_level_ua=1000, max_slew_ua_s=100)
    bench.hold(200, 2500)
    assert bench.model.meter.max_rise_ua_s == pytest.approx(100.0, abs=11.0)  # one 1 uA step in the window
    assert bench.model.current_ua == pytest.approx(200.0, abs=1e-6)
    assert bench.model.meter.peak_ua <= 200.0


def test_charge_of_a_trapezoid_by_hand() -> None:
    """0.4 mA: 2 s up, 3 s plateau, 0.2 s down at 2 mA/s: 400 + 1200 + 40 uC."""
    bench = Bench(body=RESISTOR, output=IDEAL)
    bench.arm()
    before = bench.model.meter.charge_uc
    bench.hold(400, 5000)
    bench.driver.stop(StopClass.S1_ABORT_RAMP)
    bench.run(500, bench.driver.heartbeat)
    assert bench.model.meter.charge_uc - before == pytest.approx(1640.0, rel=0.01)


def test_dac_steps_are_whole_lsbs_and_never_above_the_set_point() -> None:
    bench = Bench(seed=4)
    bench.arm()
    seen = set()
    for _ in range(100):
        bench.hold(100, 10)
        seen.add(bench.model.dac_ua)
        assert bench.model.dac_ua <= bench.model.firmware.set_ua
    assert all(math.isclose(value / 1.2, round(value / 1.2), abs_tol=1e-9) for value in seen)
    assert max(seen) == pytest.approx(1.2 * 83)
    assert len(seen) > 40


def test_gain_and_offset_stay_within_their_bounds_and_differ_by_seed() -> None:
    finals = []
    for seed in range(6):
        bench = Bench(seed=seed)
        bench.at(600)
        finals.append(bench.model.current_ua)
        assert abs(bench.model.current_ua - 600.0) <= 6.0 + 5.0
    assert len({round(value, 3) for value in finals}) == 6


def test_analogue_stage_lags_by_20_ms() -> None:
    bench = Bench(body=RESISTOR, output=IDEAL)
    bench.at(200)
    bench.driver.stop(StopClass.S1_ABORT_RAMP)
    bench.run(90, bench.driver.heartbeat)
    # Behind a ramp of slope s it lags by s tau (1 - exp(-t/tau)).
    assert bench.model.current_ua - bench.model.dac_ua == pytest.approx(
        2.0 * 20.0 * (1.0 - math.exp(-85.0 / 20.0)), abs=2.0
    )


@pytest.mark.parametrize(("compliance_v", "limit_ua"), [(20.0, 1000.0), (4.0, 800.0)])
def test_compliance_clips_the_current(compliance_v: float, limit_ua: float) -> None:
    output = OutputParameters(
        gain_error=0.0, offset_ua=0.0, compliance_v=compliance_v, dac_lsb_ua=1.0, adc_voltage_noise_mv=0.0
    )
    bench = Bench(body=RESISTOR, output=output)
    bench.arm()
    last = bench.hold(1000, 5500)[-1]
    assert bench.model.current_ua == pytest.approx(limit_ua, rel=1e-3)
    assert last.commanded_ua == 1000
    assert last.measured_ua == pytest.approx(limit_ua, abs=6.0)


def test_cut_is_zero_within_command_latency_and_relay_time() -> None:
    bench = Bench()
    bench.at(1000)
    start = bench.now
    bench.driver.stop(StopClass.S0_CUT)
    bench.run(100)
    assert 0.002 <= time_to_zero(bench.records, start) <= 0.012
    assert not bench.model.relay_closed


@pytest.mark.parametrize("level_ua", [200, 1000])
def test_abort_ramp_is_monotonic_and_ends_within_its_second(level_ua: int) -> None:
    bench = Bench()
    bench.at(level_ua)
    start = bench.now
    bench.driver.stop(StopClass.S1_ABORT_RAMP)
    bench.run(1000, bench.driver.heartbeat)
    flow = [r.current_ua for r in bench.records if r.t_ns >= start + 10 * NS_PER_MS and r.current_ua > 10]
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(flow))
    assert time_to_zero(bench.records, start) <= level_ua / 2000.0 + 0.1
    assert bench.model.meter.max_fall_ua_s <= 2000.0 * 1.02


def test_expired_lease_ramps_down_by_itself() -> None:
    bench = Bench()
    bench.at(400)
    start = bench.now
    readbacks = bench.run(700, bench.driver.heartbeat)
    assert 0.25 + 0.19 <= time_to_zero(bench.records, start) <= 0.25 + 0.2 + 0.1
    states = [readback.state for readback in readbacks]
    assert states.index(DeviceState.RAMPING_DOWN) > states.index(DeviceState.ACTIVE)
    assert states[-1] is DeviceState.IDLE


def test_silent_host_is_cut_within_250_ms_and_the_grid() -> None:
    bench = Bench()
    bench.at(400)
    start = bench.now
    bench.pass_time(400)
    assert 0.244 <= time_to_zero(bench.records, start) <= 0.250 + 0.007
    assert bench.run(20)[-1].fault == "host_timeout"


def test_reports_come_every_20_ms_and_at_every_change_of_state() -> None:
    bench = Bench()
    bench.driver.open()
    bench.driver.poll(bench.now)
    decoder = Decoder()
    times: list[int] = []
    for ms in range(1, 201):
        if ms == 105:
            bench.driver.arm(100, 100)
        bench.model.advance(ms * NS_PER_MS)
        bench.clock.advance_to(ms * NS_PER_MS)
        frames = decoder.feed(bench.model.take_output())
        times += [ms for frame in frames if isinstance(proto.parse_device(frame), proto.Report)]
    on_grid = [ms for ms in times if ms % 20 == 0]
    assert on_grid == list(range(20, 201, 20))
    assert [ms for ms in times if ms % 20] in ([1, 106], [1, 107], [1, 108], [1, 109])


def test_impedance_is_known_before_arming_from_less_than_10_ua() -> None:
    bench = Bench()
    bench.driver.open()
    last = bench.run(1100)[-1]
    assert last.impedance_ohm == pytest.approx(8000.0, rel=0.08)
    assert bench.model.meter.peak_ua < 10.0
    flow = [record.current_ua for record in bench.records if record.kind == 1]
    assert sum(flow) == pytest.approx(8.0 * 20)  # three pulses: + - +
    assert min(flow) == pytest.approx(-8.0)


def test_impedance_falls_while_current_flows_and_is_unknown_when_cut() -> None:
    bench = Bench(body=ElectrodeParameters(decay_charge_uc=2000.0))
    bench.arm()
    early = next(r.impedance_ohm for r in bench.hold(1000, 2000) if (r.measured_ua or 0) > 100)
    late = bench.hold(1000, 10_000)[-1].impedance_ohm
    assert early is not None
    assert late is not None
    assert late == pytest.approx(5000.0, rel=0.1)
    assert late < early
    bench.pass_time(300)
    assert bench.run(20)[-1].impedance_ohm is None


def test_polarisation_left_by_a_gate_does_not_spoil_the_impedance_at_rest() -> None:
    bench = Bench(body=ElectrodeParameters(decay_charge_uc=2000.0, polarisation_tau_s=5.0))
    bench.arm()
    bench.hold(1000, 15_000)
    assert bench.model.voltage_v > 6.0  # 1 mA over 5 kOhm, and more than a volt of polarisation
    bench.hold(0, 1000)
    last = bench.run(1000, bench.driver.heartbeat)[-1]
    assert last.state is DeviceState.ARMED
    assert last.impedance_ohm == pytest.approx(5000.0, rel=0.1)


def scripted(seed: int, partition: random.Random | None) -> tuple[bytes, list[MeterRecord], float]:
    """One session of scripted bytes; `partition` asks for more calls of `advance` in between."""
    records: list[MeterRecord] = []
    model = StimulatorModel(seed=seed, meter=Meter(0, records.append))
    output, t_ns = b"", 0
    script: list[tuple[int, proto.HostMessage]] = [(700, proto.Identify()), (5, proto.Arm(500, 200))]
    script += [(30, proto.SetLevel(60, 200))] * 25 + [(30, proto.Heartbeat())] * 20
    script += [(3, proto.ResetFault()), (900, proto.Arm(500, 200))]
    for seq, (wait_ms, message) in enumerate(script, start=1):
        goal = t_ns + wait_ms * NS_PER_MS + 137_000
        while partition is not None and partition.random() < 0.8:
            t_ns = partition.randint(t_ns, goal)
            model.advance(t_ns)
            output += model.take_output()
        t_ns = goal
        model.receive(proto.encode(seq, message), t_ns)
    model.advance(t_ns + 2 * NS_PER_S)
    output += model.take_output()
    return output, records, model.voltage_v


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 3), st.integers(0, 2**32))
def test_results_do_not_depend_on_how_time_is_cut(seed: int, partition: int) -> None:
    assert scripted(seed, random.Random(partition)) == scripted(seed, None)


def test_results_depend_on_the_seed() -> None:
    assert scripted(0, None)[0] != scripted(1, None)[0]


def test_time_never_runs_backwards() -> None:
    model = StimulatorModel()
    model.advance(5 * NS_PER_MS)
    with pytest.raises(ValueError, match="in its past"):
        model.advance(4 * NS_PER_MS)
    with pytest.raises(ValueError, match="in its past"):
        model.receive(b"", 4 * NS_PER_MS)


def test_output_that_nobody_takes_is_bounded() -> None:
    model = StimulatorModel()
    model.advance(300 * NS_PER_S)
    assert len(model.take_output()) <= MAX_OUTPUT_BYTES


def test_time_at_rest_is_cheap_and_current_is_affordable() -> None:
    """A second at rest costs less than half a second with current, measured in the same run."""
    bench = Bench()
    bench.at(500)
    start = time.perf_counter()
    bench.hold(500, 4000)
    flowing_s = time.perf_counter() - start
    bench.hold(0, 1000)
    bench.driver.disarm()
    bench.run(100)
    start = time.perf_counter()
    for _ in range(60):
        bench.pass_time(1000)
        bench.model.take_output()
    resting_s = time.perf_counter() - start
    assert resting_s / 60.0 < 0.5 * flowing_s / 4.0


def test_polarisation_is_mostly_compensated_at_low_current() -> None:
    """After 1 mA for long, at 60 uA: over a volt of polarisation alone would read as 20 kOhm."""
    bench = Bench(body=ElectrodeParameters(decay_charge_uc=2000.0, polarisation_tau_s=5.0))
    bench.arm()
    bench.hold(1000, 15_000)
    last = bench.hold(60, 800)[-1]
    assert bench.model.voltage_v / 60e-6 > 20_000.0
    assert last.impedance_ohm is not None
    assert 5000 <= last.impedance_ohm <= 8000


def test_host_timeout_trips_on_its_millisecond_at_rest_too() -> None:
    bench = Bench()
    bench.driver.open()
    bench.run(33 * 10)
    bench.clock.advance_to(bench.now + 7 * NS_PER_MS)
    bench.driver.arm(100, 100)
    bench.pass_time(249)
    assert bench.model.firmware.timeout_k is not None
    bench.pass_time(1)
    assert bench.model.firmware.state is DeviceState.FAULT


def test_what_an_earlier_host_sent_last_does_not_disturb_the_next_ones_numbering() -> None:
    bench = Bench()
    bench.arm()
    bench.driver.set_level(100, 250)  # still on its way through the device when the next host opens
    other = ReferenceStimulator(InProcessWire(bench.model, bench.clock))
    other.open()
    bench.driver = other
    last = bench.run(100)[-1]
    assert (last.ack_seq, last.state, last.commanded_ua) == (other.last_seq, DeviceState.IDLE, 0)
