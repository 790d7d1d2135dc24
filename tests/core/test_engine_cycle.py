"""The engine through whole cycles: what opens a gate in each arm, leases, numbers, the operator, and the end."""

from __future__ import annotations

import math

import pytest
from core_play import LABELS, START_NS, Play, excited, layout, open_loop, probed, with_baseline, with_null

from devices import limits, link
from devices.units import NS_PER_MS, NS_PER_S
from loop.engine import TICK_NS
from loop.errors import LayoutError
from loop.events import (
    Decision,
    Device,
    Finished,
    Incident,
    Operator,
    RecorderLost,
    SegmentStart,
    Setup,
    SourceEnded,
    Tick,
    ToGuard,
)
from loop.gate import WITH_CURRENT, Phase

CYCLE = ["SENSE", "RAMP_UP", "HOLD", "RAMP_DOWN", "SETTLE"]


def levels_never_rise_again(play: Play, since: int) -> bool:
    """Whether the levels commanded after the first `since` commands only fall."""
    levels = [command.level_ua for command in play.messages(link.Command)][since:]
    return levels == sorted(levels, reverse=True)


def test_feedback_only_sends_nothing_to_a_guard() -> None:
    play = with_null(Play("session.arm=feedback_only"))
    excited(play, 2.0, 6.0, 14.0)
    for action in ("arm", "reset", "cut"):
        play.operator(action, "X")
    play.run(16)
    assert play.path() == ["SENSE"]
    assert any(decision.wanted == "open" for decision in play.of(Decision))
    play.operator("stop")
    play.run(0.1)
    assert len(play.of(Finished)) == 1
    assert play.of(ToGuard) == []


def test_open_loop_opens_on_schedule_and_goes_round() -> None:
    play = open_loop()
    play.run(30)
    assert play.path() == (CYCLE * 3)[: len(play.path())]
    assert len(play.path()) > 5
    changes = [o for o in play.outputs if getattr(o, "after", None) in ("SENSE", "RAMP_UP")]
    sensing, rising = changes[0], changes[1]
    assert 0 <= rising.t_ns - sensing.t_ns - 2 * NS_PER_S <= TICK_NS  # type: ignore[union-attr]
    plan = "open_loop plan: 2 s of SENSE are over; harm guard sees little: 0 of 30 valid probe trials before the first ON block"
    assert play.of(Decision)[0].reason == plan
    assert play.marked()[:4] == ["TDCS/RAMP_UP/0.1", "TDCS/ON/0.1", "TDCS/RAMP_DOWN/0.1", "TDCS/OFF/0"]


def test_closed_loop_opens_when_evidence_crosses_the_threshold() -> None:
    play = with_baseline(Play())
    play.arm()
    excited(play, 2.0, 60.0, 70.0)
    play.until(Phase.RAMP_UP, 75)
    decision = play.of(Decision)[-1]
    assert decision.wanted == "open"
    assert decision.evidence >= 8.0
    assert len(decision.outcomes) >= 2
    commands = [o for o in play.of(ToGuard) if isinstance(o.message, link.Reserve)]
    assert commands[-1].decision == decision.decision


def test_closed_loop_without_outcomes_stays_closed_and_says_why() -> None:
    play = Play()
    play.arm()
    play.run(65)
    assert play.path() == ["SENSE"]
    reasons = [decision.reason for decision in play.of(Decision)]
    assert len(reasons) == 1
    assert reasons[0].startswith("no outcomes for 60 s: closed_loop needs STIM/NOX")
    assert play.of(Decision)[0].wanted == "closed"


def test_after_a_gate_evidence_above_the_release_level_opens_again_below_the_threshold() -> None:
    play = with_baseline(Play("policy.refractory_s=0", "policy.max_duty=1.0"))
    play.arm()
    excited(play, 2.0, 60.0, 66.0)
    play.until(Phase.SETTLE, 90)
    play.engine._policy = play.engine._policy._replace(evidence=7.0)
    excited(play, 2.0, play.sent_rows / 250 + 7.0, play.sent_rows / 250 + 10.5, gain_uv=6.0)
    opened = len(play.messages(link.Reserve))
    play.until(Phase.SENSE)
    probed(play, 10)
    play.run(9)
    last = [decision for decision in play.of(Decision) if len(decision.outcomes) >= 2][-1]
    assert 4.0 < last.evidence < 8.0
    assert last.reason.endswith("still above the release level 4")
    assert len(play.messages(link.Reserve)) == opened + 1


def test_each_command_carries_a_lease_of_250_ms_and_numbers_rise_by_one() -> None:
    play = open_loop()
    play.run(25)
    sent = [o for o in play.of(ToGuard) if isinstance(o.message, link.Command)]
    assert sent
    for one in sent:
        assert isinstance(one.message, link.Command)
        assert one.message.deadline_ns == one.t_ns + 250 * NS_PER_MS
    numbers = [o.message.seq for o in play.of(ToGuard) if not isinstance(o.message, link.Stop | link.Goodbye)]
    assert numbers == list(range(1, len(numbers) + 1))
    times = [o.t_ns for o in sent if isinstance(o.message, link.Command) and o.message.level_ua]
    first = [b - a for a, b in zip(times, times[1:], strict=False) if b - a < NS_PER_S]
    assert set(first) == {TICK_NS}


def test_the_level_follows_a_raised_cosine_up_to_the_configured_level() -> None:
    play = open_loop()
    play.until(Phase.HOLD)
    levels = [command.level_ua for command in play.messages(link.Command)]
    assert max(levels) == 100
    assert max(b - a for a, b in zip(levels, levels[1:], strict=False)) <= math.pi / 2 * 100 / 2 * 0.02 + 1


def test_the_dose_of_the_gate_is_reserved_before_the_first_level() -> None:
    play = open_loop()
    play.until(Phase.HOLD)
    assert play.engine._config.stimulation is not None
    dose = limits.gate_dose(play.engine._config.stimulation)
    kinds = [
        type(o.message).__name__
        for o in play.of(ToGuard)
        if not (isinstance(o.message, link.Command) and not o.message.level_ua)
    ]
    assert kinds[:3] == ["Arm", "Reserve", "Command"]
    assert play.messages(link.Reserve)[0] == link.Reserve(
        seq=play.messages(link.Reserve)[0].seq, charge_uc=dose.charge_uc, on_time_ms=dose.on_time_ms
    )


def test_a_refused_reservation_costs_its_sense_window_only() -> None:
    play = open_loop("policy.refractory_s=10")
    play.guard.refuses = "dose: 1200 uC asked, 3 uC left"
    play.run(30)
    asked = [o.t_ns for o in play.of(ToGuard) if isinstance(o.message, link.Reserve)]
    assert len(asked) == play.incidents().count("guard_refused") == 3
    assert min(b - a for a, b in zip(asked, asked[1:], strict=False)) >= 10 * NS_PER_S, "no faster than real gates"
    assert play.path() == (["SENSE", "RAMP_UP", "RAMP_DOWN", "SETTLE"] * 4)[: len(play.path())]
    assert not any(command.level_ua for command in play.messages(link.Command))
    play.guard.refuses = ""
    play.until(Phase.HOLD)


def test_a_refusal_that_comes_late_ramps_down_from_the_present_level() -> None:
    play = open_loop()
    play.until(Phase.RAMP_UP)
    play.run(1)
    top, since = play.engine.level_ua, len(play.messages(link.Command))
    assert top > 20
    play.feed(Device(t_ns=play.t_ns, message=link.Refused(seq=1, reason="the ledger could not be written")))
    assert play.engine.phase is Phase.RAMP_DOWN
    play.until(Phase.SETTLE, 2)
    levels = [command.level_ua for command in play.messages(link.Command)][since:]
    assert [top, *levels] == sorted([top, *levels], reverse=True)
    assert play.marked()[-2:] == [f"TDCS/RAMP_DOWN/{top / 1000:g}", "TDCS/OFF/0"]
    assert play.messages(link.Stop) == [], "a refusal is no abort"


def test_nothing_starts_before_the_guard_is_armed() -> None:
    play = Play("session.arm=open_loop")
    play.run(5)
    assert play.path() == []
    play.arm()
    play.run(1)
    assert play.path() == ["SENSE"]


@pytest.mark.parametrize("phase", ["SENSE", "RAMP_UP", "HOLD", "RAMP_DOWN", "SETTLE"])
def test_a_pause_ends_at_zero_and_only_resuming_goes_on(phase: str) -> None:
    play = open_loop()
    play.until(phase)
    play.run(0.5)
    since = len(play.messages(link.Command))
    play.operator("pause")
    play.until(Phase.PAUSED, 5)
    assert levels_never_rise_again(play, since)
    play.run(20)
    assert play.engine.phase is Phase.PAUSED
    play.operator("resume")
    play.until(Phase.SETTLE, 1)
    play.until(Phase.RAMP_UP, 40)


@pytest.mark.parametrize("phase", ["SENSE", "RAMP_UP", "HOLD", "RAMP_DOWN", "SETTLE", "PAUSED"])
def test_an_ordinary_stop_ramps_down_and_finishes(phase: str) -> None:
    play = open_loop()
    if phase == "PAUSED":
        play.operator("pause")
        play.run(0.2)
        play.operator("pause")
    play.until(phase)
    play.run(0.5)
    since = len(play.messages(link.Command))
    play.operator("stop", "enough")
    play.run(3)
    assert play.of(Finished)[0].reason == "enough"
    assert levels_never_rise_again(play, since)
    assert play.messages(link.Stop) == [], "an ordinary stop is no abort"
    assert play.messages(link.Goodbye) == [link.Goodbye(reason="enough")]
    assert play.tick() == [], "nothing follows"


@pytest.mark.parametrize("phase", ["SENSE", "RAMP_UP", "HOLD", "RAMP_DOWN", "SETTLE"])
def test_a_cut_stops_at_once_and_latches(phase: str) -> None:
    play = open_loop()
    play.until(phase)
    play.run(0.5)
    since = len(play.messages(link.Command))
    out = play.operator("cut")
    assert link.Stop(stop_class=0, reason="emergency stop by the operator") in [
        o.message for o in out if isinstance(o, ToGuard)
    ]
    assert play.engine.phase is Phase.STOPPED
    play.run(20)
    assert play.engine.phase is Phase.STOPPED
    assert len(play.messages(link.Command)) == since, "no command of any kind after a cut"
    play.operator("arm", "CODE")
    play.run(1)
    assert play.engine.phase is Phase.STOPPED, "arming without a reset changes nothing"
    play.operator("reset", "A. Name")
    play.operator("arm", "CODE")
    play.until(Phase.SETTLE, 1)


def test_resume_cannot_undo_a_stop() -> None:
    play = open_loop()
    play.until(Phase.HOLD)
    play.operator("stop")
    play.operator("resume")
    play.operator("pause")
    play.run(5)
    assert play.engine.finished
    assert play.of(Finished)[0].reason == "stopped by the operator"


def test_the_session_ends_after_its_duration_by_a_ramp() -> None:
    play = open_loop("session.duration_s=5")
    play.run(10)
    assert play.path() == ["SENSE", "RAMP_UP", "HOLD", "RAMP_DOWN", "ENDED"]
    assert play.of(Finished)[0].reason == "the configured duration is over"


def test_the_end_of_a_recording_and_a_lost_record_end_the_session() -> None:
    for event, reason in [
        (SourceEnded(t_ns=START_NS + 2 * NS_PER_S), "the source has no more samples"),
        (
            RecorderLost(t_ns=START_NS + 2 * NS_PER_S, reason="disk full"),
            "the record cannot be written: disk full",
        ),
    ]:
        play = open_loop()
        play.run(2)
        play.feed(event)
        play.run(1)
        assert play.of(Finished)[0].reason == reason


@pytest.mark.parametrize("phase", ["RAMP_UP", "HOLD", "RAMP_DOWN"])
def test_when_the_guard_ends_the_session_the_gate_follows(phase: str) -> None:
    play = open_loop()
    play.until(phase)
    play.run(0.3)
    play.guard.phase, play.guard.level_ua, play.guard.reason = "ending", 50, "the reserved dose is used up"
    play.run(3)
    assert play.engine.phase is Phase.RAMP_DOWN, "zero is not confirmed yet"
    play.guard.phase, play.guard.level_ua, play.guard.reason = "safe", 0, "zero"
    play.run(0.1)
    assert play.of(Finished)[0].reason == "the reserved dose is used up"


def test_no_zero_is_believed_while_the_ammeter_reads_more() -> None:
    play = open_loop()
    play.until(Phase.RAMP_DOWN)
    play.guard.measured_ua = -25.0
    play.run(5)
    assert play.engine.level_ua == play.guard.level_ua == 0
    assert play.engine.phase is Phase.RAMP_DOWN
    play.guard.measured_ua, play.guard.next_ns = -10.0, 0
    play.tick()
    assert play.engine.phase is Phase.SETTLE


def test_a_held_gate_says_once_why() -> None:
    play = open_loop("policy.refractory_s=30")
    play.run(30)
    held = [incident for incident in play.of(Incident) if incident.name == "gate_held"]
    assert len(held) == 1
    assert held[0].detail.startswith("refractory for another")


def test_a_first_layout_without_a_posterior_pair_is_an_error_that_names_it() -> None:
    play = Play()
    other = SegmentStart(
        t_ns=0,
        segment=1,
        layout=layout(("Fp1", "Fp2", "Cz")),
        source=play.inputs[0].source,
        clock_offset_ns=0,
    )  # type: ignore[union-attr]
    fresh = type(play.engine)(play.engine._config)
    with pytest.raises(LayoutError, match="needs PO9 and PO10"):
        fresh.step(other)


def test_the_setup_names_columns_and_channels() -> None:
    setup = Play().of(Setup)[0]
    assert setup.estimator == "fallback: average-referenced PO9/PO10, not calibrated"
    assert "L.PFT_L" in setup.columns
    assert set(LABELS[:2]) <= set(setup.estimator.replace("/", " ").replace(",", " ").split())


def test_between_gates_only_zero_is_commanded() -> None:
    play = open_loop()
    for _ in range(1500):
        out = play.tick()
        levels = [
            o.message.level_ua for o in out if isinstance(o, ToGuard) and isinstance(o.message, link.Command)
        ]
        if play.engine.phase not in WITH_CURRENT:
            assert not any(levels)
        assert all(0 <= level <= 100 for level in levels)


def test_late_ticks_do_not_shorten_a_ramp_below_its_slope() -> None:
    play = open_loop()
    play.until(Phase.RAMP_UP)
    play.run(0.5)
    before = play.engine.level_ua
    play.feed(Tick(t_ns=play.t_ns + 100 * NS_PER_MS))
    assert 0 <= play.engine.level_ua - before <= math.pi / 2 * 100 / 2 * 0.1 + 1


def test_a_note_changes_nothing() -> None:
    play = open_loop()
    play.run(3)
    assert play.feed(Operator(t_ns=play.t_ns, action="note", detail="cough")) == []
