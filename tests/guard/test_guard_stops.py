"""Stops, resets and late ticks (I03, I07, I08; F41-F49)."""

from __future__ import annotations

import itertools
import math

import msgspec
import pytest
from guard_doubles import (
    CAPABILITIES,
    Bench,
    FakeStimulator,
    make_settings,
    stops,
)

from devices.stimulator import (
    StopClass,
)
from devices.units import NS_PER_MS

# ---- stops (I03, I07, I08)


def test_emergency_stop_cuts_at_once() -> None:
    bench = Bench().to_live(200)
    bench.stop(0, "button")
    assert bench.device.level_ua == 0.0
    assert (bench.phase, bench.reason, bench.level) == ("latched", "button", 0)


def test_the_session_ramp_runs_down_at_the_configured_slope() -> None:
    bench = Bench().to_live(200)
    start_ns = bench.t_ns
    bench.stop(2, "operator")
    bench.wanted_ua = None
    bench.run(6.0, until="safe")
    took_s = (bench.t_ns - start_ns) / 1e9
    assert 200 / (math.pi / 2 * 200 / 5.0) <= took_s <= 5.2
    levels = [level for t_ns, level in bench.device.history if t_ns >= start_ns]
    assert all(after <= before for before, after in zip(levels, levels[1:], strict=False))
    assert all(a - b <= 10.0 + 1.001 for a, b in zip(levels, levels[10:], strict=False))


def test_the_abort_ramp_ends_within_a_second_from_the_highest_level() -> None:
    settings = make_settings(level_ua=2000, ramp_s=32.0, max_charge_uc=2_000_000)
    bench = Bench(settings).to_live(2000)
    start_ns = bench.t_ns
    bench.stop(1)
    bench.wanted_ua = None
    bench.run(1.3, until="stopped")
    down = [(t_ns, level) for t_ns, level in bench.device.history if t_ns >= start_ns]
    assert all(after <= before for (_, before), (_, after) in zip(down, down[1:], strict=False))
    assert min(t_ns for t_ns, level in down if level <= 10.0) - start_ns <= 1_010 * NS_PER_MS


def test_a_device_without_ramps_is_led_down_by_levels() -> None:
    device = FakeStimulator(msgspec.structs.replace(CAPABILITIES, device_ramp=False))
    bench = Bench(device=device).to_live(200)
    bench.stop(1)
    bench.run(0.4, until="stopped")
    assert stops(device) == []
    sent = [call[1] for call in device.calls if call[0] == "set_level"]
    sent = [level for level, _ in itertools.groupby(sent)]
    sent = sent[-10:]
    assert sent == [180, 160, 140, 120, 100, 80, 60, 40, 20, 0]


@pytest.mark.parametrize(
    ("first", "second", "phase"),
    [
        (2, 1, "aborting"),
        (2, 0, "latched"),
        (1, 0, "latched"),
        (1, 2, "aborting"),
        (0, 1, "latched"),
        (0, 2, "latched"),
    ],
)
def test_the_higher_stop_wins(first: int, second: int, phase: str) -> None:
    bench = Bench().to_live(200)
    bench.stop(first, "first")
    bench.stop(second, "second")
    assert bench.phase == phase
    assert bench.reason == ("second" if second < first else "first")


def test_stop_during_ramp_up_has_no_peak() -> None:
    bench = Bench().to_armed()
    bench.reserve()
    bench.wanted_ua = 200
    bench.run(1.0)
    level = bench.level
    assert 50 < level < 150
    bench.stop(2)
    bench.run(0.5)
    assert max(abs(value) for _, value in bench.device.history) <= level


def test_after_any_stop_only_an_operators_reset_and_a_new_arming_bring_current_back() -> None:
    bench = Bench().to_live(100)
    bench.stop(0)
    bench.arm()
    assert bench.phase == "latched"
    bench.run(0.2)
    bench.reset()
    bench.run(0.5, until="safe")
    assert ("reset_fault",) in bench.device.calls
    bench.run(0.2)
    assert bench.level == 0
    bench.to_live(20)


def test_an_abort_needs_a_reset_too() -> None:
    bench = Bench().to_live(100)
    bench.stop(1)
    bench.run(0.4, until="stopped")
    bench.wanted_ua = None
    bench.arm()
    assert bench.phase == "stopped"
    bench.reset()
    bench.run(0.5, until="safe")


def test_reset_is_refused_while_current_flows() -> None:
    bench = Bench().to_live(100)
    bench.device.stuck = True
    bench.stop(0)
    bench.run(0.3)
    bench.reset()
    assert bench.phase == "latched"
    assert bench.refusals[-1] == "not reset: zero current is not confirmed"


def test_reset_right_after_the_cut_waits_for_a_fresh_readback() -> None:
    bench = Bench().to_live(100)
    bench.stop(0)
    bench.reset()
    assert bench.phase == "latched"


def test_there_is_nothing_to_reset_in_a_healthy_session() -> None:
    bench = Bench().to_live()
    bench.reset()
    assert bench.phase == "live"
    assert bench.refusals == ["nothing to reset: the guard is live"]


def test_an_abort_at_zero_current_needs_a_reset() -> None:
    bench = Bench().to_live()
    bench.stop(1, "recorder lost")
    assert (bench.phase, bench.reason) == ("stopped", "recorder lost")


# ---- time (F49)


def test_a_late_tick_latches_before_anything_else() -> None:
    bench = Bench().to_live(100)
    bench.t_ns += 261 * NS_PER_MS
    before = len(bench.device.calls)
    bench.command(200)
    assert bench.device.calls[before:] == [("stop", StopClass.S0_CUT)]
    assert bench.phase == "latched"
    assert bench.reason == "the guard's tick came after 261 ms: suspended or stalled"


def test_a_tick_that_is_260_ms_late_is_not_yet_a_latch() -> None:
    bench = Bench().to_safe()
    bench.tick(after_ns=260 * NS_PER_MS)
    assert bench.phase == "safe"
    bench.tick(after_ns=261 * NS_PER_MS)
    assert bench.phase == "latched"


def test_a_late_tick_counts_what_may_have_flowed() -> None:
    bench = Bench().to_live(100)
    before = bench.report()
    bench.tick(after_ns=3_600_000 * NS_PER_MS)
    after = bench.report()
    assert after.charge_uc - before.charge_uc == pytest.approx(100, abs=1)
    assert after.on_time_ms - before.on_time_ms == 1000


@pytest.mark.parametrize(("stop_class", "phase", "within_s"), [(1, "stopped", 0.35), (2, "safe", 3.6)])
def test_a_stop_that_is_held_takes_no_longer(stop_class: int, phase: str, within_s: float) -> None:
    bench = Bench().to_live(200)
    bench.wanted_ua = None
    bench.stop(stop_class, "first")
    for _ in range(round(within_s * 100)):
        bench.stop(stop_class, "again")
        bench.tick()
    assert (bench.phase, bench.reason) == (phase, "first")


def test_reset_needs_a_readback_from_after_the_latch_even_where_nothing_had_flowed() -> None:
    bench = Bench().to_live()
    bench.stop(0)
    bench.reset()
    assert bench.phase == "latched"
    bench.run(0.15)
    bench.reset()
    assert bench.phase == "zeroing"
