"""The harm guard inside the loop: what it is fed, what it holds back, and that nothing measured under current reaches it."""

from __future__ import annotations

import pytest
from core_play import START_NS, Play, excited, open_loop, probed, with_baseline, with_null

from devices import link
from devices.units import NS_PER_S
from loop import harm
from loop.events import Decision, Incident, Outcome
from loop.gate import Phase


def probing(play: Play) -> harm.Probing:
    state = play.engine._harm._state
    assert isinstance(state, harm.Probing)
    return state


def rated(play: Play, at_s: float, rating: int, stimulus: str = "STIM/NOX/100", after_s: float = 2.0) -> None:
    """A stimulus at a time after the start, and its rating."""
    stamp_ns = START_NS + round(at_s * NS_PER_S)
    play.markers += [(stamp_ns, "OUT_DUE"), (stamp_ns, stimulus)]
    play.markers.append((stamp_ns + round(after_s * NS_PER_S), f"RATE/PAIN/{rating}"))
    play.markers.sort()


def test_no_first_current_before_thirty_probe_trials_though_the_evidence_is_there() -> None:
    play = with_null(Play())
    probed(play, 20)
    play.arm()
    excited(play, 2.0, 6.0, 14.0)
    play.run(16)
    held = play.of(Decision)[-1]
    assert held.wanted == "closed"
    assert "reached the threshold 8, but 24 of 30 valid probe trials before the first ON block" in held.reason
    assert play.messages(link.Reserve) == []
    probed(play, 6)
    excited(play, 2.0, 18.0, 20.0)
    play.until(Phase.RAMP_UP)


def test_after_an_on_block_ten_more_are_needed() -> None:
    play = with_baseline(with_null(Play("policy.refractory_s=0", "policy.max_duty=1.0")))
    play.arm()
    excited(play, 2.0, 6.0, 12.0)
    play.until(Phase.SETTLE)
    play.until(Phase.SENSE)
    at_s = play.sent_rows / 250
    excited(play, 2.0, at_s + 1.0, at_s + 30.0)
    play.run(19.5)
    assert "of 10 valid probe trials after ON block 1" in play.of(Decision)[-1].reason
    assert len(play.messages(link.Reserve)) == 1


@pytest.mark.parametrize("arm", ["closed_loop", "open_loop"])
def test_a_session_that_got_worse_is_locked_in_every_arm_and_says_so_once(arm: str) -> None:
    play = with_baseline(with_null(Play(f"session.arm={arm}", "policy.refractory_s=0", "policy.max_duty=1.0")))
    play.arm()
    excited(play, 2.0, 6.0, 12.0)
    play.until(Phase.SETTLE)
    play.until(Phase.SENSE)
    probed(play, 40, level=2.5)
    at_s = play.sent_rows / 250
    excited(play, 2.0, at_s + 1.0, at_s + 20.0)
    play.run(25)
    assert play.incidents().count("harm_lockout") == 1
    incident = next(one for one in play.of(Incident) if one.name == "harm_lockout")
    assert "index higher by" in incident.detail
    assert incident.answer == "no further current in this session"
    assert len(play.messages(link.Reserve)) == 1
    assert play.engine.phase is Phase.SENSE
    assert "locked out for this session" in play.of(Decision)[-1].reason
    assert play.engine._harm.locked


def test_ratings_of_full_stimuli_at_zero_current_count_and_no_others() -> None:
    play = with_null(Play())
    play.arm()
    rated(play, 4.0, 30)
    rated(play, 8.0, 40)
    rated(play, 12.0, 90, stimulus="STIM/NOX/50")
    rated(play, 16.0, 90, stimulus="STIM/INN/10")
    rated(play, 20.0, 90, stimulus="STIM/OMIT")
    stamp_ns = START_NS + 24 * NS_PER_S
    play.markers += [(stamp_ns, "OUT_DUE"), (stamp_ns + 2 * NS_PER_S, "RATE/PAIN/90")]
    rated(play, 30.0, 90, after_s=14.0)
    play.run(46)
    moments = probing(play).probes[-1].ratings
    assert (moments.n, moments.mean_y) == (2, 35.0)


def test_a_rating_that_comes_before_its_outcome_is_judged_is_not_lost() -> None:
    play = with_null(Play())
    play.arm()
    rated(play, 4.0, 30, after_s=0.2)
    play.run(6)
    assert probing(play).probes[-1].ratings.n == 1


def test_nothing_that_happens_under_current_reaches_the_guard() -> None:
    play = with_baseline(open_loop("stimulation.hold_s=10"))
    play.until(Phase.HOLD)
    before = play.engine._harm._state
    assert isinstance(before, harm.Stimulating)
    at_s = play.sent_rows / 250
    excited(play, 2.0, at_s + 0.5, at_s + 8.0)
    for k in range(3):
        rated(play, at_s + 1.5 + 2 * k, 100, after_s=0.4)
    play.run(9)
    assert len(play.of(Outcome)) >= 4
    assert play.engine._harm._state == before


def test_a_stimulus_before_the_ramp_that_is_rated_under_current_does_not_count() -> None:
    play = open_loop("gate.sense_s=6", "policy.max_duty=1.0")
    rated(play, 4.0, 90, after_s=3.0)
    play.until(Phase.HOLD)
    play.run(2)
    play.until(Phase.SENSE)
    assert all(probe.ratings.n == 0 for probe in probing(play).probes)
    assert [block.polarity for block in probing(play).blocks] in ([], ["cathodal"])


def test_a_gate_that_the_guard_refused_is_no_on_block() -> None:
    play = with_baseline(open_loop())
    play.guard.refuses = "dose: nothing left"
    play.until(Phase.SETTLE)
    play.until(Phase.SENSE)
    assert probing(play).blocks == ()
    assert probing(play).probes[-1].indices.n == 30


def test_without_current_there_is_nothing_to_judge() -> None:
    play = with_null(Play("session.arm=feedback_only"))
    excited(play, 2.0, 6.0, 14.0)
    play.run(16)
    assert play.of(Decision)[-1].wanted == "open"
    assert "harm" not in play.of(Decision)[-1].reason
