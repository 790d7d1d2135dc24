"""The guard's rules one by one, on a virtual clock, with the reason of each outcome."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import msgspec
import pytest
from guard_doubles import (
    CAPABILITIES,
    HARDWARE,
    TICK,
    Bench,
    FailingBook,
    FakeStimulator,
    make_settings,
    stops,
)

from devices import link
from devices.guard_core import MemoryDoseBook
from devices.guard_state import ExitCode
from devices.stimulator import (
    DeviceLostError,
    DeviceNotFoundError,
    DeviceProtocolError,
    DeviceRefusedError,
    DeviceState,
    StopClass,
)
from devices.units import NS_PER_MS

# ---- start


def test_the_first_thing_is_zero() -> None:
    bench = Bench()
    assert bench.device.calls == [("open",)]
    bench.tick()
    assert bench.device.calls[1] == ("disarm",)
    assert bench.phase == "zeroing"
    bench.run(1.0, until="safe")
    assert bench.device.state is DeviceState.IDLE


def test_a_silent_device_latches_at_the_start() -> None:
    bench = Bench()
    bench.device.mute = True
    bench.run(1.2, until="latched")
    assert bench.reason == "the device does not report: zero cannot be confirmed"


def test_a_current_that_nobody_commanded_latches_at_the_start() -> None:
    bench = Bench()
    bench.device.added_ua = 60.0
    bench.run(1.2, until="latched")
    assert bench.reason.startswith("current though none was commanded: 60.0 uA")


def test_a_latched_device_latches_the_guard_at_the_start() -> None:
    bench = Bench()
    bench.device.fault = "host_timeout"
    bench.run(1.2, until="latched")
    assert bench.reason == "device fault: host_timeout"
    bench.run(0.2)
    bench.reset()
    bench.run(1.0, until="safe")


def test_a_device_that_cannot_be_opened_is_told() -> None:
    device = FakeStimulator()
    device.raises["open"] = DeviceNotFoundError("nothing answers at /dev/null")
    with pytest.raises(DeviceNotFoundError, match="nothing answers"):
        Bench(device=device)


# ---- arming (I27, I28, I30)


def test_arming_latches_the_limits_in_the_device() -> None:
    bench = Bench().to_armed()
    assert ("arm", 200, 100) in bench.device.calls


@pytest.mark.parametrize(
    ("impedance", "why"),
    [
        (None, "the impedance is not known"),
        (math.nan, "the impedance is not known"),
        (10_000.0, "impedance 10000 ohm; below 10000 ohm is needed"),
        (50.0, "the electrodes look shorted"),
    ],
)
def test_arming_needs_a_good_impedance(impedance: float | None, why: str) -> None:
    bench = Bench()
    bench.device.impedance_ohm = impedance
    bench.to_safe()
    bench.arm()
    assert bench.phase == "safe"
    assert why in bench.refusals[-1]
    bench.device.impedance_ohm = 9999.0
    bench.run(0.1)
    bench.arm()
    assert bench.phase == "armed"


def test_arming_needs_confirmed_zero() -> None:
    bench = Bench().to_safe()
    bench.device.added_ua = 15.0
    bench.run(0.1)
    bench.arm()
    assert bench.refusals == ["not armed: the device does not confirm zero current"]


def test_a_wrong_code_does_not_arm_and_three_make_a_new_one() -> None:
    bench = Bench().to_safe()
    first = bench.core.welcome().arm_code
    for _ in range(2):
        bench.arm("WRONG")
    assert bench.core.welcome().arm_code == first
    bench.arm("WRONG")
    second = bench.core.welcome().arm_code
    assert second != first
    assert [message.arm_code for message in bench.sent if isinstance(message, link.Welcome)] == [second]
    bench.arm(first)
    assert bench.phase == "safe"
    assert bench.refusals[-1] == "not armed: the code is wrong"
    bench.arm(f" {second.lower()} ")
    assert bench.phase == "armed"


def test_a_code_arms_once() -> None:
    bench = Bench().to_safe()
    code = bench.core.welcome().arm_code
    bench.arm(code)
    bench.stop(2)
    assert bench.phase == "safe"
    bench.run(0.2)
    bench.arm(code)
    assert bench.phase == "safe"
    assert bench.refusals == ["not armed: the code is wrong"]


def test_start_twice_is_refused_with_the_reason() -> None:
    bench = Bench().to_armed()
    bench.arm()
    assert bench.refusals == ["not armed: the guard is armed (armed)"]


def test_arming_expires_after_60_s_without_a_command() -> None:
    bench = Bench().to_armed()
    bench.run(59.8)
    assert bench.phase == "armed"
    bench.run(0.3, until="safe")
    assert bench.reason == "arming expired: no command for 60 s"
    assert bench.device.state is DeviceState.IDLE


def test_simulated_input_never_arms_hardware() -> None:
    bench = Bench(device=FakeStimulator(identity=HARDWARE)).to_safe()
    bench.arm()
    assert bench.phase == "safe"
    assert "simulated input never drives real hardware" in bench.refusals[-1]
    real = Bench(make_settings(input_is_simulated=False), FakeStimulator(identity=HARDWARE)).to_safe()
    real.arm()
    assert real.phase == "armed"


@pytest.mark.parametrize(
    ("changes", "polarity", "why"),
    [
        (
            dict(self_expiring_lease=False, hardware_watchdog=False),
            "anodal",
            "neither a lease nor a watchdog",
        ),
        (dict(unipolar=True), "cathodal", "unipolar"),
    ],
)
def test_an_unfit_device_is_never_armed(changes: dict[str, bool], polarity: str, why: str) -> None:
    device = FakeStimulator(msgspec.structs.replace(CAPABILITIES, **changes))
    bench = Bench(make_settings(polarity=polarity), device).to_safe()
    bench.arm()
    assert bench.phase == "safe"
    assert why in bench.refusals[-1]


def test_a_device_that_refuses_to_be_armed_leaves_the_guard_safe() -> None:
    device = FakeStimulator()
    bench = Bench(device=device).to_safe()
    device.raises["arm"] = DeviceRefusedError("limit too high")
    bench.arm()
    assert bench.phase == "safe"
    assert bench.refusals == ["the device refused: limit too high"]


def test_a_device_that_disarms_itself_ends_the_arming() -> None:
    bench = Bench().to_live()
    bench.device.state = DeviceState.IDLE
    bench.run(0.5, until="safe")
    assert bench.reason == "the device disarmed itself"


# ---- hello (I06)


def test_hello_compares_version_and_settings() -> None:
    bench = Bench()
    good = link.Hello(version=link.LINK_VERSION, settings_sha256=bench.core._digest)
    assert isinstance(bench.core.hello(good), link.Welcome)
    other = bench.core.hello(msgspec.structs.replace(good, settings_sha256="0" * 64))
    assert isinstance(other, link.Refused) and "settings differ" in other.reason
    old = bench.core.hello(msgspec.structs.replace(good, version=99))
    assert isinstance(old, link.Refused) and "link version 99" in old.reason


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


# ---- time (F47-F49)


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


# ---- dose (I04, F54)


def test_a_gate_is_booked_before_and_settled_after() -> None:
    bench = Bench().to_live()
    bench.reserve()
    assert bench.book.used() == (3360, 21_000)
    assert bench.report().reserved_uc == 3360
    bench.wanted_ua = 100
    bench.run(3.0)
    bench.wanted_ua = 0
    bench.run(1.5)
    report = bench.report()
    assert (bench.level, report.reserved_uc) == (0, 0)
    assert bench.book.used() == (report.charge_uc, report.on_time_ms)
    true_uc = sum(abs(level) for _, level in bench.device.history) * 0.01
    assert true_uc - 3 <= report.charge_uc <= 1.05 * true_uc + 3
    bench.wanted_ua = 10
    bench.run(0.1)
    assert bench.level == 0
    assert "no dose is reserved" in bench.refusals[0]


def test_the_larger_of_commanded_and_measured_counts() -> None:
    low, high = Bench().to_live(100), Bench().to_live(100)
    low.device.added_ua, high.device.added_ua = -40.0, 40.0
    low.run(0.1)
    high.run(0.1)
    start = (low.report().charge_uc, high.report().charge_uc)
    low.run(5.0)
    high.run(5.0)
    assert low.report().charge_uc - start[0] == pytest.approx(500, abs=2)
    assert high.report().charge_uc - start[1] == pytest.approx(700, abs=2)


def test_a_reservation_that_is_used_up_ends_the_gate_within_it() -> None:
    bench = Bench().to_live()
    bench.reserve(charge_uc=500, on_time_ms=21_000)
    bench.wanted_ua = 100
    bench.run(10.0, until="safe")
    assert bench.reason == "the reserved dose is used up"
    assert bench.report().charge_uc <= 500


def test_a_time_reservation_ends_the_gate_within_it() -> None:
    bench = Bench().to_live()
    bench.reserve(charge_uc=3360, on_time_ms=4000)
    bench.wanted_ua = 100
    bench.run(10.0, until="safe")
    assert bench.report().on_time_ms <= 4000 + 150


def test_the_session_caps_refuse_more() -> None:
    bench = Bench(make_settings(max_charge_uc=3400, max_on_time_s=100.0)).to_live()
    bench.reserve(charge_uc=3401)
    assert bench.refusals[-1] == "dose: 3401 uC asked, 3400 uC left"
    bench.reserve(on_time_ms=100_001)
    assert bench.refusals[-1] == "dose: 100001 ms with current asked, 100000 ms left"
    bench.reserve(charge_uc=0)
    assert bench.refusals[-1] == "an empty reservation"
    assert bench.book.used() == (0, 0)


def test_what_the_ledger_holds_counts_from_the_start() -> None:
    book = MemoryDoseBook()
    book.reserve(97_000, 1000)
    bench = Bench(book=book).to_live()
    bench.reserve()
    assert bench.refusals[-1] == "dose: 3360 uC asked, 3000 uC left"
    book.reserve(100_000, 1000)
    full = Bench(book=book).to_safe()
    full.arm()
    assert full.refusals == ["not armed: the session's dose is used up"]


def test_an_unused_reservation_is_replaced_and_refunded() -> None:
    bench = Bench().to_live()
    bench.reserve()
    bench.reserve(charge_uc=500, on_time_ms=5000)
    assert bench.book.used() == (500, 5000)
    bench.stop(2)
    bench.run(0.1)
    assert bench.book.used() == (0, 0)
    assert bench.report().reserved_uc == 0


def test_no_reservation_while_current_flows_or_while_disarmed() -> None:
    bench = Bench().to_live(50)
    bench.reserve()
    assert "not settled" in bench.refusals[-1]
    safe = Bench().to_safe()
    safe.reserve()
    assert safe.refusals == ["no dose is reserved while safe (started)"]


def test_a_ledger_that_cannot_be_written_lets_nothing_flow() -> None:
    bench = Bench(book=FailingBook()).to_live()
    bench.reserve()
    assert bench.refusals == ["dose: the ledger could not be written: ledger.sqlite: no space left on device"]
    bench.wanted_ua = 10
    bench.run(0.2)
    assert bench.level == 0


def test_dose_left_over_after_a_crash_counts_in_full() -> None:
    book = MemoryDoseBook()
    bench = Bench(book=book).to_live()
    bench.reserve()
    bench.wanted_ua = 100
    bench.run(1.0)
    again = Bench(book=book).to_safe()
    assert again.report().charge_uc == 3360


# ---- link (F31)


def test_garbage_three_times_in_a_second_cuts() -> None:
    bench = Bench().to_live(100)
    bench.bytes(b"\x00")
    bench.run(0.3)
    bench.bytes(b"junk")
    assert bench.phase == "live"
    bench.run(0.3)
    bench.bytes(b"")
    assert bench.phase == "latched"
    assert bench.reason.startswith("garbage from the engine, 3 times in 1 s")


def test_garbage_now_and_then_is_only_counted() -> None:
    bench = Bench().to_live(20)
    for _ in range(5):
        bench.bytes(b"junk")
        bench.run(0.51)
    assert bench.phase == "live"
    assert bench.report().dropped == 5


# ---- reports


def test_reports_come_every_50_ms_and_at_every_change() -> None:
    bench = Bench().to_live()
    start = len(bench.reports)
    bench.run(1.0)
    assert len(bench.reports) - start == 20
    bench.stop(0)
    assert bench.reports[-1].phase == "latched"


def test_a_report_tells_level_lease_and_dose() -> None:
    bench = Bench(make_settings(polarity="cathodal")).to_live(100)
    report = bench.report()
    assert report.level_ua == 100
    assert report.measured_ua == pytest.approx(-100.0)
    assert 200 <= report.lease_left_ms <= 250
    assert report.last_seq == bench.seq
    assert report.impedance_ohm == 5000.0


def test_ticks_are_counted_from_the_first() -> None:
    bench = Bench()
    bench.tick(after_ns=10**12)
    assert bench.phase == "zeroing"
    bench.tick(after_ns=TICK)
    assert bench.phase == "zeroing"
