"""Devices that take one gate as a whole, and replies that are lost."""

from __future__ import annotations

import math
from typing import Any

import pytest
from guard_doubles import CAPABILITIES, EMULATOR, Bench, FakeStimulator, make_settings, stops
from msgspec.structs import replace

from devices.guard_params import make_params
from devices.guard_plan import gate_cost, planned_ua
from devices.stimulator import DeviceUncertainError, GatePlan, Identity, StopClass
from devices.units import NS_PER_MS, NS_PER_S

PEAKS = replace(
    CAPABILITIES, whole_gate=True, measures_current=False, min_transition_s=0.1, max_transition_s=10.0, max_hold_s=10.0
)
SETTINGS = make_settings(ramp_s=5.0, hold_s=10.0)


class PeakStimulator(FakeStimulator):
    """Takes a gate as a whole, follows it by itself, and measures nothing."""

    def __init__(self) -> None:
        super().__init__(PEAKS)
        self.plan: GatePlan | None = None
        self.began_ns = 0
        self.measured = lambda _: None

    def run_gate(self, plan: GatePlan) -> None:
        if self._call("run_gate", plan):
            self.plan, self.began_ns = plan, self.now_ns

    def set_level(self, level_ua: int, lease_ms: int) -> None:
        raise AssertionError("a single level")

    def stop(self, stop_class: StopClass) -> None:
        self.plan = None
        super().stop(stop_class)

    def advance(self, t_ns: int) -> None:
        super().advance(t_ns)
        if self.plan is not None:
            self.level_ua = math.copysign(planned_ua(self.plan, t_ns - self.began_ns), self.plan.level_ua)
            self.state = type(self.state).ACTIVE if self.level_ua else type(self.state).ARMED
            self.target_ua, self.slew_ua_s, self.lease_ns = self.level_ua, 2000.0, t_ns + NS_PER_S
            if not self.level_ua:
                self.plan = None


def play(bench: Bench, seconds: float) -> None:
    """What the engine asks during a gate of 5, 10 and 5 s: raised-cosine ramps."""
    start_ns = bench.t_ns
    for _ in range(round(seconds * 100)):
        at_s = (bench.t_ns - start_ns) / 1e9
        part = min(at_s, 20.0 - at_s, 5.0) / 5.0
        bench.wanted_ua = max(1, round(200 * (1.0 - math.cos(math.pi * part)) / 2.0)) if part > 0.0 else 0
        bench.tick()


def armed(**changes: Any) -> Bench:
    bench = Bench(make_settings(ramp_s=5.0, hold_s=10.0, **changes), PeakStimulator()).to_armed()
    bench.wanted_ua = 0
    bench.run(0.1)
    return bench


@pytest.mark.parametrize(("polarity", "level"), [("anodal", 200), ("cathodal", -200)])
def test_one_gate_is_one_command_and_its_dose_is_settled(polarity: str, level: int) -> None:
    bench = armed(polarity=polarity)
    bench.reserve()
    play(bench, 21.0)
    gates = [call[1] for call in bench.device.calls if call[0] == "run_gate"]
    assert gates == [GatePlan(level_ua=level, rise_ms=5000, hold_ms=10_000, fall_ms=5000)]
    assert bench.phase == "live"
    assert bench.level == 0
    assert bench.book.used()[0] == pytest.approx(200 * 15.0, rel=0.01)
    assert bench.book.used()[1] == pytest.approx(20_000, abs=100)
    assert stops(bench.device) == []
    bench.wanted_ua = 100
    bench.run(0.1)
    assert "no dose is reserved" in bench.refusals[-1]
    assert len([call for call in bench.device.calls if call[0] == "run_gate"]) == 1


def test_a_reservation_too_small_for_the_whole_is_refused_before_anything_flows() -> None:
    bench = armed()
    bench.reserve(charge_uc=2900, on_time_ms=21_000)
    play(bench, 1.0)
    assert "does not cover the gate as a whole" in bench.refusals[0]
    assert not any(call[0] == "run_gate" for call in bench.device.calls)


def test_a_silent_engine_ends_the_gate_that_runs() -> None:
    bench = armed()
    bench.reserve()
    play(bench, 8.0)
    bench.wanted_ua = None
    bench.run(1.0)
    assert bench.phase == "stopped"
    assert "the lease expired" in bench.reason
    assert bench.device.level_ua == 0.0


def test_an_engine_that_wants_less_ends_the_gate_that_runs() -> None:
    bench = armed()
    bench.reserve()
    play(bench, 8.0)
    bench.wanted_ua = 100
    bench.run(8.0, until="safe")
    assert bench.reason == "less is wanted than the gate that runs will give"
    assert stops(bench.device)[0] is StopClass.S2_SESSION_RAMP


@pytest.mark.parametrize(
    ("changes", "capabilities", "words"),
    [
        (dict(hold_s=11.0), PEAKS, "stimulation.hold_s is 11; double holds for at most 10 s"),
        (dict(ramp_s=12.0), PEAKS, "stimulation.ramp_s is 12; double ramps in 0.1 to 10 s"),
        ({}, replace(PEAKS, device_ramp=False), "cannot end one by a ramp of its own"),
        (
            {},
            replace(CAPABILITIES, self_expiring_lease=False, hardware_watchdog=False),
            "double has neither a lease nor a watchdog: a dead guard would leave current on, so no loop may drive it",
        ),
    ],
)
def test_a_gate_or_a_mode_that_cannot_be_is_refused_in_one_sentence(changes: Any, capabilities: Any, words: str) -> None:
    settings = make_settings(**({"ramp_s": 5.0, "hold_s": 10.0} | changes))
    who: Identity = EMULATOR
    forbidden = make_params(settings, capabilities, who, b"x").forbidden
    assert words in forbidden
    assert "\n" not in forbidden


def test_the_plan_is_a_trapezoid_whose_cost_is_its_area() -> None:
    plan = GatePlan(level_ua=-200, rise_ms=400, hold_ms=300, fall_ms=200)
    at = [planned_ua(plan, ms * NS_PER_MS) for ms in range(1000)]
    assert (at[0], at[200], at[400], at[700], at[800], at[899], at[900]) == (1, 100, 200, 200, 100, 1, 0)
    charge, time_ns = gate_cost(plan)
    assert time_ns == 900 * NS_PER_MS
    assert charge == pytest.approx(sum(at) * NS_PER_MS, rel=0.01)


def test_a_slow_device_gets_the_time_that_it_declares_to_confirm_zero() -> None:
    slow = replace(CAPABILITIES, command_latency_s=0.5, readback_interval_s=0.5, min_transition_s=0.1)
    params = make_params(SETTINGS, slow, EMULATOR, b"x")
    quick = make_params(SETTINGS, CAPABILITIES, EMULATOR, b"x")
    assert params.lag_ns == round(1.6 * NS_PER_S)
    assert params.confirm_ns >= params.lag_ns + 2 * round(0.5 * NS_PER_S)
    assert params.zeroing_ns >= params.confirm_ns
    assert (quick.confirm_ns, quick.zeroing_ns) == (400 * NS_PER_MS, NS_PER_S)


# ---- lost replies


def test_doubt_under_current_aborts_and_the_level_before_it_counts_until_the_device_answers() -> None:
    bench = Bench().to_live()
    bench.reserve()
    bench.wanted_ua = 200
    bench.run(3.0)
    before = bench.report().charge_uc
    bench.device.mute = True
    bench.device.raises["poll"] = DeviceUncertainError("line: nothing acknowledged for 200 ms")
    bench.tick()
    assert bench.phase == "aborting"
    assert "nothing acknowledged" in bench.reason
    bench.run(0.05)
    assert stops(bench.device)[0] is StopClass.S1_ABORT_RAMP
    bench.run(0.25)
    assert bench.level == 0
    assert bench.report().charge_uc - before >= 200 * 0.15
    del bench.device.raises["poll"]
    bench.device.mute = False
    bench.run(1.0, until="stopped")
    assert bench.report().level_ua == 0


def test_doubt_a_second_time_latches() -> None:
    bench = Bench().to_live()
    bench.reserve()
    bench.wanted_ua = 100
    bench.run(2.0)
    bench.device.raises["poll"] = DeviceUncertainError("silent")
    bench.tick()
    del bench.device.raises["poll"]
    bench.wanted_ua = None
    bench.run(2.0, until="stopped")
    bench.reset()
    bench.to_armed()
    bench.wanted_ua = 0
    bench.run(0.1)
    bench.reserve()
    bench.wanted_ua = 100
    bench.run(2.0)
    bench.device.raises["poll"] = DeviceUncertainError("silent")
    bench.tick()
    assert bench.phase == "latched"
    assert bench.reason == "silent, for the second time"


def test_doubt_while_armed_at_zero_needs_a_new_arming() -> None:
    bench = Bench().to_armed()
    bench.device.raises["poll"] = DeviceUncertainError("silent")
    bench.tick()
    assert (bench.phase, bench.reason) == ("safe", "the device is silent: silent")
