"""Every fault of the mock stimulator meets the stop that it is owed, in time, on the virtual clock (I24, F32-F41)."""

from __future__ import annotations

import pytest
from guard_doubles import START_NS, TICK, Bench, make_settings

from devices.clock import VirtualClock
from devices.guard_core import GuardCore, MemoryDoseBook
from devices.mock import faults
from devices.mock.meter import Meter, MeterRecord, time_to_zero
from devices.mock.stimulator import StimulatorModel
from devices.reference import InProcessWire, ReferenceStimulator
from devices.stimulator import StopClass

LEVEL = 300
BOUND_S = {StopClass.S0_CUT: 0.40, StopClass.S1_ABORT_RAMP: 1.4}
PHASES = {StopClass.S0_CUT: "latched", StopClass.S1_ABORT_RAMP: "aborting"}
# What is stuck is right while the level holds; it shows when the level moves, and is sudden for the rest.
SHOWS_WHEN_MOVING = ("stuck_output", "stuck_adc")
SUDDEN = {"impedance_rise": "impedance_rise:over_s=0", "bridge": "bridge:over_s=0"}


class MockBench(Bench):
    """The bench with the real driver and the mock stimulator instead of the double."""

    def __init__(self, seed: int) -> None:
        self.settings = make_settings(level_ua=LEVEL, ramp_s=5.0, hold_s=60.0, polarity="cathodal", max_charge_uc=100_000)
        self.clock = VirtualClock(START_NS)
        self.records: list[MeterRecord] = []
        self.model = StimulatorModel(START_NS, seed, meter=Meter(START_NS, self.records.append))
        self.book = MemoryDoseBook()
        self.core = GuardCore(self.settings, ReferenceStimulator(InProcessWire(self.model, self.clock)), b"test", self.book)
        self.t_ns = START_NS
        self.seq = 0
        self.sent = []
        self.wanted_ua = None

    def tick(self, after_ns: int = TICK) -> None:
        self.clock.advance_to(self.t_ns + after_ns)
        super().tick(after_ns)

    def to_hold(self) -> None:
        """Hold the level."""
        self.run(1.0)
        self.arm()
        self.run(0.2)
        self.reserve()
        self.wanted_ua = LEVEL
        self.run(4.0)
        assert (self.phase, self.level) == ("live", LEVEL), self.reason


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", [name for name, spec in faults.FAULTS.items() if spec.answer is None])
def test_what_is_no_danger_stops_nothing(name: str, seed: int) -> None:
    bench = MockBench(seed)
    bench.to_hold()
    bench.model.inject(faults.parse(name))
    bench.run(5.0)
    assert (bench.phase, bench.level) == ("live", LEVEL), bench.reason


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", [name for name, spec in faults.FAULTS.items() if spec.answer is not None])
def test_a_fault_meets_its_stop_in_time(name: str, seed: int) -> None:
    bench = MockBench(seed)
    bench.to_hold()
    answer = faults.FAULTS[name].answer
    assert answer is not None
    from_ns = bench.model.inject(faults.parse(SUDDEN.get(name, name)))
    if name in SHOWS_WHEN_MOVING:
        bench.run(1.0)
        bench.wanted_ua = 0
        while bench.phase == "live":
            assert bench.level > LEVEL - 120
            from_ns = bench.t_ns
            bench.tick()
    bench.run(1.0, until=PHASES[answer])
    bench.run(2.0)
    since = [record for record in bench.records if record.t_ns >= from_ns]
    assert time_to_zero(since, from_ns) <= BOUND_S[answer]
    assert bench.level == 0


@pytest.mark.parametrize("hz", [3.0, 6.0, 10.0, 20.0, 45.0])
def test_a_loose_lead_is_cut_however_fast_it_chatters(hz: float) -> None:
    bench = MockBench(1)
    bench.to_hold()
    from_ns = bench.model.inject(faults.parse(f"chatter:hz={hz}"))
    bench.run(1.0, until="latched")
    bench.run(0.5)
    assert time_to_zero([record for record in bench.records if record.t_ns >= from_ns], from_ns) <= 0.40


def test_a_lead_that_opens_just_too_briefly_for_one_opening_to_count_is_cut_at_the_second() -> None:
    for step in range(40):
        bench = MockBench(1)
        bench.to_hold()
        bench.run(0.001 * (step % 7))
        from_ns = bench.model.inject(faults.parse(f"chatter:hz={4.2 + 0.03 * step}"))
        bench.run(1.0, until="latched")
        bench.run(0.5)
        assert time_to_zero([record for record in bench.records if record.t_ns >= from_ns], from_ns) <= 0.40


def test_an_undisturbed_gate_meets_no_stop_and_its_dose_is_that_of_the_meter() -> None:
    bench = MockBench(3)
    bench.to_hold()
    bench.run(20.0)
    bench.wanted_ua = 0
    bench.run(5.0)
    assert (bench.phase, bench.reason, bench.refusals) == ("live", "armed", [])
    true_uc = bench.model.meter.charge_uc
    assert true_uc <= bench.report().charge_uc <= 1.02 * true_uc + 10
    assert bench.model.meter.peak_ua <= 1.02 * LEVEL + 10
    assert bench.model.meter.max_rise_ua_s <= 200
    assert bench.model.meter.max_fall_ua_s <= 200
