"""Levels, leases and the engine's silence (I01-I03, I05, I10, I12; F20-F27)."""

from __future__ import annotations

import math

import msgspec
import pytest
from guard_doubles import (
    Bench,
    make_settings,
    stops,
)

from devices import link
from devices.guard_state import ExitCode
from devices.stimulator import (
    StopClass,
)
from devices.units import NS_PER_MS

# ---- commands (I01, I02, I03, I05, I10)


def test_a_level_reaches_the_device_signed_and_leased_at_every_tick() -> None:
    bench = Bench(make_settings(polarity="cathodal")).to_live(50)
    bench.wanted_ua = None
    before = len(bench.device.calls)
    bench.run(0.1)
    assert bench.device.calls[before:] == [("set_level", -50, 250)] * 10


def test_a_level_acts_when_it_comes_and_a_flood_of_levels_does_not_fill_the_line() -> None:
    bench = Bench().to_live(50)
    bench.wanted_ua = None
    bench.t_ns += 12 * NS_PER_MS
    before = len(bench.device.calls)
    bench.command(49)
    assert bench.device.calls[before:] == [("set_level", 50 - 1, 250)]
    for _ in range(1000):
        bench.command(48)
    assert len(bench.device.calls) - before == 2
    bench.tick()
    bench.command(48)
    bench.command(48, seq=1)
    assert len(bench.device.calls) - before == 4


def test_at_zero_the_device_hears_a_sign_of_life() -> None:
    bench = Bench().to_live()
    before = len(bench.device.calls)
    bench.run(1.0)
    assert set(bench.device.calls[before:]) == {("heartbeat",)}
    assert len(bench.device.calls) - before == 20


def test_a_late_command_is_dropped_and_counted() -> None:
    bench = Bench().to_armed()
    bench.command(0, deadline_ms=0.0)
    assert bench.phase == "armed"
    assert bench.report().dropped == 1
    assert bench.refusals == ["the command came 0 ms after its deadline"]


def test_a_far_deadline_is_cut_to_the_lease() -> None:
    bench = Bench().to_live(20)
    bench.wanted_ua = None
    bench.command(20, deadline_ms=1e6)
    bench.run(0.24)
    assert bench.phase == "live"
    bench.run(0.02, until="aborting")


def test_duplicates_and_old_numbers_change_nothing() -> None:
    bench = Bench().to_live(20)
    state = bench.core.state
    bench.command(40, seq=bench.seq)
    bench.command(40, seq=1)
    assert bench.core.state == msgspec.structs.replace(state, dropped=state.dropped + 2)
    bench.arm("x")
    for duplicate in (
        link.Arm(seq=1, code="x"),
        link.Reserve(seq=1, charge_uc=1, on_time_ms=1),
        link.Reset(seq=1, operator="x"),
    ):
        before = bench.core.state
        bench.send(duplicate)
        assert bench.core.state == msgspec.structs.replace(before, dropped=before.dropped + 1)


def test_a_level_above_the_limit_is_refused_and_renews_nothing() -> None:
    bench = Bench().to_live(20)
    bench.wanted_ua = 201
    bench.run(0.4, until="aborting")
    assert "level 201 uA is above the limit of 200 uA" in bench.refusals
    assert max(abs(call[1]) for call in bench.device.calls if call[0] == "set_level") == 20


@pytest.mark.parametrize("level", [math.nan, math.inf, None, 1e300, -1, 2**63, "20", True])
def test_what_is_no_level_is_garbage(level: object) -> None:
    bench = Bench().to_live(20)
    packet = msgspec.msgpack.encode(
        {
            "m": "command",
            "seq": bench.next_seq(),
            "level_ua": level,
            "deadline_ns": bench.t_ns + 10**8,
            "decision": 0,
        }
    )
    bench.bytes(packet)
    assert bench.core.state.target_ua == 20
    assert bench.report().dropped == 1


def test_the_rise_is_limited_however_large_the_step() -> None:
    bench = Bench().to_armed()
    bench.reserve()
    bench.wanted_ua = 200
    bench.run(2.2)
    levels = [abs(level) for _, level in bench.device.history]
    for first, second in zip(levels, levels[10:], strict=False):
        assert second - first <= 0.1 * 100 + 1.001
    assert 195 <= bench.level <= 200


def test_a_late_tick_earns_no_jump() -> None:
    bench = Bench().to_live(50)
    bench.wanted_ua = None
    bench.command(200)
    bench.tick(after_ns=200 * NS_PER_MS)
    assert bench.level <= 52


def test_an_ordinary_fall_is_limited_too() -> None:
    bench = Bench().to_live(100)
    bench.wanted_ua = 0
    bench.run(0.5)
    assert 48 <= bench.level <= 52
    assert bench.phase == "live"


def test_a_level_needs_a_reservation() -> None:
    bench = Bench().to_live()
    bench.wanted_ua = 10
    bench.run(0.1)
    assert bench.level == 0
    assert bench.refusals[0] == "no dose is reserved for this level: send Reserve first"


def test_a_level_needs_a_device_that_says_armed() -> None:
    bench = Bench().to_safe()
    bench.arm()
    bench.reserve()
    bench.command(10)
    assert bench.refusals == ["the device is not armed (it says IDLE)"]


def test_a_level_needs_a_device_that_reports_and_an_impedance_below_the_stop_limit() -> None:
    bench = Bench().to_live()
    bench.reserve()
    bench.device.impedance_ohm = 20_001.0
    bench.run(0.06)
    bench.command(10)
    assert bench.refusals == ["impedance 20001 ohm, above the stop limit of 20000 ohm"]
    bench.device.mute = True
    bench.run(0.3)
    bench.command(10)
    assert bench.refusals[-1] == "the device does not report"


def test_commands_are_refused_in_every_other_phase() -> None:
    bench = Bench().to_safe()
    bench.command(10)
    assert bench.refusals == ["no level while safe (started)"]
    bench.stop(0, "test")
    bench.run(0.1)
    bench.command(10)
    assert bench.refusals[-1] == "no level while latched (test)"


def test_refusals_of_a_stream_of_commands_are_bounded() -> None:
    bench = Bench().to_safe()
    for _ in range(500):
        bench.command(10)
    assert len(bench.refusals) == 1
    assert bench.report().dropped == 500


# ---- lease and engine (I05, I12, F20-F27)


def test_silence_of_the_engine_ends_in_an_abort_ramp() -> None:
    bench = Bench().to_live(200)
    bench.wanted_ua = None
    start_ns = bench.t_ns
    bench.run(0.3, until="aborting")
    assert bench.t_ns - start_ns <= 260 * NS_PER_MS
    assert bench.reason == "the lease expired: the engine is silent"
    bench.run(0.4, until="stopped")
    assert bench.device.level_ua == 0.0
    assert stops(bench.device) == [StopClass.S1_ABORT_RAMP]


def test_a_lease_that_ends_at_zero_only_waits() -> None:
    bench = Bench().to_live()
    bench.wanted_ua = None
    bench.run(0.3)
    assert bench.phase == "armed"
    bench.wanted_ua = 0
    bench.run(0.1)
    assert bench.phase == "live"


def test_a_new_command_does_not_revive_an_abort() -> None:
    bench = Bench().to_live(200)
    bench.wanted_ua = None
    bench.run(0.3, until="aborting")
    bench.wanted_ua = 200
    previous = bench.level
    while bench.phase == "aborting":
        bench.tick()
        assert bench.level <= previous
        previous = bench.level
    assert bench.phase == "stopped"
    bench.run(1.0)
    assert bench.level == 0


def test_engine_death_under_current_ramps_at_once_and_exits_at_zero() -> None:
    bench = Bench().to_live(200)
    bench.engine_gone()
    assert bench.phase == "aborting"
    assert bench.reason == "the engine has gone"
    bench.wanted_ua = None
    bench.run(0.3)
    assert bench.core.exit_code is ExitCode.ENGINE_LOST
    assert bench.device.level_ua == 0.0
    assert bench.reports[-1].phase == "stopped"


def test_engine_death_at_zero_exits() -> None:
    bench = Bench().to_live()
    bench.engine_gone()
    bench.run(0.2)
    assert bench.core.exit_code is ExitCode.ENGINE_LOST
    assert bench.device.calls[-1] == ("disarm",)


def test_goodbye_under_current_takes_the_session_ramp_even_when_the_engine_then_goes() -> None:
    bench = Bench().to_live(100)
    bench.send(link.Goodbye(reason="end"))
    bench.engine_gone()
    assert bench.phase == "ending"
    bench.wanted_ua = None
    bench.run(4.0)
    assert bench.core.exit_code is ExitCode.ENDED
    assert stops(bench.device) == []


def test_engine_death_during_the_session_ramp_is_an_abort() -> None:
    bench = Bench().to_live(100)
    bench.stop(2)
    bench.engine_gone()
    assert bench.phase == "aborting"


def test_a_signal_aborts_and_exits() -> None:
    bench = Bench().to_live(100)
    bench.terminate()
    assert (bench.phase, bench.reason) == ("aborting", "the guard was asked to end")
    bench.run(0.4)
    assert bench.core.exit_code is ExitCode.ENGINE_LOST


def test_exit_without_confirmed_zero_says_so() -> None:
    bench = Bench().to_safe()
    bench.device.mute = True
    bench.run(0.3)
    bench.engine_gone()
    bench.run(5.5)
    assert bench.core.exit_code is ExitCode.ZERO_UNCONFIRMED


def test_a_guard_whose_device_still_reports_current_keeps_cutting() -> None:
    bench = Bench().to_live(100)
    bench.device.stuck = True
    bench.stop(0)
    bench.engine_gone()
    bench.run(8.0)
    assert bench.core.exit_code is None
    assert stops(bench.device).count(StopClass.S0_CUT) > 100
    assert bench.report().reason.startswith("ALARM, zero is not confirmed")
    bench.terminate()
    bench.run(5.2)
    assert bench.core.exit_code is ExitCode.ZERO_UNCONFIRMED


def test_nothing_happens_after_the_exit() -> None:
    bench = Bench().to_safe()
    bench.engine_gone()
    bench.run(0.2)
    assert bench.core.exit_code is not None
    calls = list(bench.device.calls)
    bench.run(1.0)
    bench.arm()
    assert bench.device.calls == calls


def test_a_goodbye_after_a_signal_does_not_make_the_end_an_orderly_one() -> None:
    bench = Bench().to_live(100)
    bench.terminate()
    bench.send(link.Goodbye(reason="end"))
    assert bench.phase == "aborting"
    bench.run(0.4)
    assert bench.core.exit_code is ExitCode.ENGINE_LOST


def test_asking_again_does_not_put_off_the_end() -> None:
    bench = Bench().to_safe()
    bench.device.mute = True
    bench.run(0.3)
    for _ in range(11):
        bench.terminate()
        bench.run(0.5)
    assert bench.core.exit_code is ExitCode.ZERO_UNCONFIRMED
