"""What the engine makes of a guard that greets, falls silent or is gone: zero current is never taken for granted."""

from __future__ import annotations

import pytest
from core_play import Play, at, open_loop

from devices import link
from devices.stimulator import Capabilities, Identity
from devices.units import NS_PER_MS, NS_PER_S
from loop.engine import TICK_NS
from loop.events import Device, Finished, GuardLost, Incident, SourceLost, ToGuard
from loop.gate import WITH_CURRENT, Phase


def welcome(host_timeout_s: float, min_transition_s: float = 0.0) -> link.Welcome:
    """The greeting of a guard whose device cuts by itself after `host_timeout_s`."""
    return link.Welcome(
        version=link.LINK_VERSION,
        identity=Identity(maker="Maker", model="Model", serial_number="7", firmware="1", emulator=True),
        capabilities=Capabilities(
            self_expiring_lease=True,
            hardware_watchdog=False,
            measures_current=True,
            unipolar=False,
            device_ramp=False,
            max_level_ua=2000,
            resolution_ua=1.0,
            command_latency_s=0.1,
            host_timeout_s=host_timeout_s,
            min_transition_s=min_transition_s,
            readback_interval_s=0.05,
        ),
        max_level_ua=1500,
        limit_reasons=[],
        arm_code="CODE",
    )


def silence(play: Play) -> int:
    """Let the guard say nothing from now on; returns when it was heard last."""
    play.guard.silent = True
    return max(one.t_ns for one in play.inputs if isinstance(one, Device))


def lose(play: Play) -> int:
    """Kill the guard; returns when."""
    play.guarded = False
    play.feed(GuardLost(t_ns=play.t_ns, reason="killed"))
    return play.t_ns


def test_the_guards_greeting_is_recorded_once() -> None:
    play = Play("session.arm=open_loop")
    for _ in range(2):
        play.feed(Device(t_ns=play.t_ns, message=welcome(0.25)))
    assert [(i.name, i.detail, i.answer) for i in play.of(Incident)] == [("guard_ready", "Maker Model 7", "ceiling 1500 µA")]


@pytest.mark.parametrize("phase", sorted(WITH_CURRENT))
def test_a_silent_guard_under_current_is_an_abort_after_half_a_second(phase: str) -> None:
    play = at(phase)
    heard_ns = silence(play)
    play.run(0.4)
    assert play.messages(link.Stop) == [], "a late report is no fault"
    play.run(0.3)
    sent = [o for o in play.of(ToGuard) if isinstance(o.message, link.Stop)]
    assert len(sent) == 1
    assert 500 * NS_PER_MS < sent[0].t_ns - heard_ns <= 500 * NS_PER_MS + TICK_NS
    assert sent[0].message == link.Stop(stop_class=1, reason="guard_silent: no report for 520 ms")
    assert play.engine.phase is Phase.STOPPED
    assert play.marked()[-1].startswith("TDCS/ABORT/guard_silent_no_report_for_520_ms/")
    play.run(20)
    assert play.engine.phase is Phase.STOPPED
    assert not play.engine.finished, "the session waits for its operator"


def test_a_guard_that_speaks_again_in_time_changes_nothing() -> None:
    play = at("HOLD")
    for _ in range(3):
        play.guard.silent = True
        play.run(0.4)
        play.guard.silent = False
        play.run(0.1)
    assert play.incidents() == []
    assert play.engine.phase is Phase.HOLD


def test_a_guard_that_speaks_again_after_the_abort_needs_reset_and_arming() -> None:
    play = at("HOLD")
    silence(play)
    play.run(0.6)
    play.guard.silent = False
    play.run(20)
    assert play.engine.phase is Phase.STOPPED
    play.operator("reset", "A. Name")
    play.arm()
    play.until(Phase.RAMP_UP, 30)


def test_no_gate_opens_on_an_arming_that_nobody_confirms_any_more() -> None:
    play = open_loop()
    play.until(Phase.SENSE)
    silence(play)
    play.run(5)
    assert play.path() == ["SENSE"]
    assert play.messages(link.Reserve) == []
    assert [i.detail for i in play.of(Incident)] == ["the guard is silent, not armed"]
    play.guard.silent = False
    play.until(Phase.HOLD, 5)


@pytest.mark.parametrize("phase", sorted(WITH_CURRENT))
def test_after_a_lost_guard_zero_is_believed_when_the_device_has_cut(phase: str) -> None:
    play = at(phase)
    lost_ns = lose(play)
    commands = len(play.messages(link.Command))
    play.feed(SourceLost(t_ns=play.t_ns, reason="and the cable too"))
    play.run(1)
    assert len(play.messages(link.Command)) == commands
    finished = play.of(Finished)
    assert [one.reason for one in finished] == ["the guard is gone: killed"]
    assert 500 * NS_PER_MS < finished[0].t_ns - lost_ns <= 500 * NS_PER_MS + 2 * TICK_NS
    assert play.marked()[-1] == "TDCS/OFF/0"


def test_a_zero_reported_before_the_first_level_is_not_believed_after_it() -> None:
    play = open_loop()
    play.until(Phase.RAMP_UP)
    play.tick()
    lost_ns = lose(play)
    play.run(1)
    assert play.of(Finished)[0].t_ns - lost_ns > 500 * NS_PER_MS


@pytest.mark.parametrize("phase", ["SENSE", "SETTLE", "PAUSED"])
def test_a_guard_lost_at_confirmed_zero_ends_the_session_at_once(phase: str) -> None:
    play = open_loop()
    if phase == "PAUSED":
        play.run(0.5)
        play.operator("pause")
    play.until(phase)
    play.run(0.5)
    commands = len(play.messages(link.Command))
    lost_ns = lose(play)
    play.run(0.2)
    assert len(play.messages(link.Command)) == commands
    assert play.of(Finished)[0].reason == "the guard is gone: killed"
    assert play.of(Finished)[0].t_ns - lost_ns <= 2 * TICK_NS


@pytest.mark.parametrize(
    ("host_timeout_s", "min_transition_s", "expected_s"),
    [(0.25, 0.0, 0.5), (2.0, 0.0, 2.2), (0.25, 31.0, 31.45), (float("nan"), 0.0, 0.5), (float("inf"), 0.0, 60.0)],
)
def test_a_slower_device_is_given_the_time_it_declares(
    host_timeout_s: float, min_transition_s: float, expected_s: float
) -> None:
    play = Play("session.arm=open_loop")
    play.feed(Device(t_ns=play.t_ns, message=welcome(host_timeout_s, min_transition_s)))
    play.arm()
    play.until(Phase.HOLD)
    lost_ns = lose(play)
    play.run(expected_s + 0.1)
    assert 0 < play.of(Finished)[0].t_ns - lost_ns - expected_s * NS_PER_S <= 2 * TICK_NS


def test_a_cut_after_the_guard_was_lost_does_not_hold_the_end_up() -> None:
    play = at("HOLD")
    lose(play)
    play.run(0.1)
    play.operator("cut")
    play.run(0.6)
    assert play.engine.finished


def test_a_session_that_ends_on_a_silent_guard_says_that_zero_is_not_confirmed() -> None:
    play = at("HOLD")
    heard_ns = silence(play)
    play.run(1)
    play.operator("stop", "enough")
    play.run(3)
    assert not play.engine.finished
    assert "zero_unconfirmed" not in play.incidents()
    play.run(2)
    last = play.of(Incident)[-1]
    assert (last.name, last.answer) == ("zero_unconfirmed", "switch the stimulator off by hand")
    assert last.detail == "the guard has been silent for 5 s: zero current is NOT confirmed"
    assert 5 * NS_PER_S < last.t_ns - heard_ns <= 5 * NS_PER_S + TICK_NS
    assert play.incidents().count("zero_unconfirmed") == 1
    assert play.of(Finished)[0].reason == "enough"
    assert play.messages(link.Goodbye) == [link.Goodbye(reason="enough")]


def test_a_session_ends_though_the_guard_goes_on_reporting_a_stale_current() -> None:
    """The cable was pulled: the guard talks, but nobody can read zero from the device."""
    play = at("HOLD")
    play.guard.measured_ua = -1001.3
    play.guard.phase, play.guard.reason = "latched", "device lost"
    play.run(1)
    play.operator("stop", "enough")
    play.run(4)
    assert not play.engine.finished
    play.run(2)
    assert play.incidents().count("zero_unconfirmed") == 1
    assert play.of(Finished)[0].reason == "enough"
    assert play.messages(link.Goodbye) == [link.Goodbye(reason="enough")]


def test_a_silent_guard_that_confirms_zero_in_time_ends_the_session_quietly() -> None:
    play = at("HOLD")
    silence(play)
    play.run(1)
    play.operator("stop", "enough")
    play.run(2)
    play.guard.silent = False
    play.run(0.2)
    assert play.of(Finished)[0].reason == "enough"
    assert "zero_unconfirmed" not in play.incidents()


def test_a_current_at_rest_holds_the_end_until_the_guard_falls_silent_for_good() -> None:
    play = at("SENSE", "gate.sense_s=60")
    play.guard.measured_ua = 25.0
    play.run(0.2)
    play.operator("stop")
    play.run(10)
    assert play.engine.phase is Phase.ENDED
    assert not play.engine.finished, "a guard that reports current is believed"
    silence(play)
    play.run(5.1)
    assert play.incidents() == ["zero_unconfirmed"]
    assert play.engine.finished
