"""What every outcome's record says of beliefs and fusion, and that nothing of it, nor the end of a stimulus, moves the gate."""

from __future__ import annotations

import pytest
from core_play import START_NS, Play, excited, open_loop, with_null

from devices.units import NS_PER_MS, NS_PER_S
from loop import beliefs
from loop.events import CouplingEpoch, Decision, GateChange, Outcome, StimulusEnd
from loop.fusion import fuse
from loop.gate import Phase
from loop.readout import Readout

READOUT = Readout(
    names=("PFT_L", "PFT_R", "PFB_L", "PFB_R"), median=(0.0,) * 4, scale=(1.0,) * 4, weights=(0.1, 0.1, 0.2, 0.2),
    intercept=0.2, sigma=0.3, b0=0.05, b1=0.7, n_trials=80, r_cv=0.4,
)  # fmt: skip


def trial(play: Play, at_s: float, cue: str, stimulus: str, off_after_s: float = 0.0) -> None:
    """Cue, outcome a second later, and the end of the stimulus."""
    stamp_ns = START_NS + round(at_s * NS_PER_S)
    play.markers += [(stamp_ns - NS_PER_S, f"CUE/{cue}"), (stamp_ns, "OUT_DUE"), (stamp_ns, stimulus)]
    if off_after_s:
        play.markers.append((stamp_ns + round(off_after_s * NS_PER_S), "STIM_OFF"))
    play.markers.sort()


def calibrated(play: Play) -> Play:
    play.engine._perception._estimator.readout = READOUT
    return play


def test_every_outcome_carries_the_error_of_each_model() -> None:
    play = Play("session.arm=feedback_only", "markers.full_intensity=80")
    plan = [("H", "STIM/NOX/80"), ("H", "STIM/NOX/40"), ("L", "STIM/INN/20"), ("H", "STIM/OMIT"), ("P75/I1", "STIM/NOX/48")]
    for k, (cue, stimulus) in enumerate(plan):
        trial(play, 4.0 + 2.0 * k, cue, stimulus)
    play.run(15)
    outcomes = play.of(Outcome)
    assert [one.cue for one in outcomes] == ["H", "H", "L", "H", "P75/I1"]
    assert [one.intensity for one in outcomes] == pytest.approx([1.0, 0.5, 0.0, 0.0, 0.6])
    assert [one.told for one in outcomes] == [None, None, None, None, pytest.approx(0.45)]
    held: beliefs.Beliefs = ()
    for one in outcomes:
        seen = beliefs.Trial(one.cue, one.intensity, one.told, 0.75 if one.told is not None else None)
        assert (one.d_rescorla_wagner, one.d_kalman, one.d_ehgf, one.kalman_nis) == tuple(beliefs.errors_of(held, seen))
        held = beliefs.learn(held, seen)
    assert outcomes[-1].d_ehgf == pytest.approx(0.25)
    assert [one.fused for one in outcomes] == [None] * 5


def test_only_a_calibrated_readout_is_fused_with_the_markers() -> None:
    play = calibrated(Play("session.arm=feedback_only"))
    for k in range(6):
        trial(play, 4.0 + 2.0 * k, "H", "STIM/NOX/100")
    play.samples[round(8.1 * 250) : round(8.3 * 250)] = 1e6
    play.run(17)
    outcomes = play.of(Outcome)
    assert [one.fused is None for one in outcomes] == [one.index is None for one in outcomes]
    assert 1 <= sum(one.fused is None for one in outcomes) <= 3
    for one in outcomes:
        if one.fused is not None:
            assert (one.fused, one.fused_sd) == fuse(READOUT, one.surprise, READOUT.apply(one.features))
            assert one.fused != one.surprise
            assert one.index == pytest.approx((READOUT.apply(one.features) - READOUT.b0) / READOUT.sigma)


def test_the_end_of_a_stimulus_is_recorded_and_moves_nothing() -> None:
    plays = []
    for off_after_s in (0.0, 2.0):
        play = with_null(Play())
        play.arm()
        excited(play, 4.0, 6.0, 20.0)
        if off_after_s:
            play.markers += [(t_ns + 2 * NS_PER_S, "STIM_OFF") for t_ns, text in play.markers if text.startswith("STIM")]
            play.markers.sort()
        play.run(26)
        plays.append(play)
    without, with_ends = plays
    for kind in (Outcome, Decision, GateChange, CouplingEpoch):
        assert with_ends.of(kind) == without.of(kind)
    assert with_ends.engine._policy == without.engine._policy
    ends = with_ends.of(StimulusEnd)
    assert without.of(StimulusEnd) == []
    assert [end.event for end in ends] == [1, 2, 3, 4]
    assert [end.t_ns for end in ends] == [one.t_ns + 2 * NS_PER_S for one in with_ends.of(Outcome)]
    assert all(end.index is not None and not end.reason for end in ends)
    assert max(end.index for end in ends) < min(one.index for one in with_ends.of(Outcome))


def test_the_end_of_a_stimulus_under_current_does_not_count() -> None:
    play = with_null(open_loop("stimulation.hold_s=10"))
    play.until(Phase.HOLD)
    play.markers.append((play.t_ns + NS_PER_S, "STIM_OFF"))
    play.run(3)
    (end,) = play.of(StimulusEnd)
    assert (end.index, end.reason) == (None, "overlaps HOLD")


def test_without_a_null_the_end_of_a_stimulus_says_so() -> None:
    play = Play("session.arm=feedback_only")
    play.markers.append((play.t_ns + 4 * NS_PER_S, "STIM_OFF"))
    play.run(6)
    (end,) = play.of(StimulusEnd)
    assert (end.index, end.reason) == (None, "the null has too few pseudo-events")


def test_no_epoch_of_coupling_reaches_out_of_sense_or_holds_a_flagged_sample() -> None:
    play = open_loop("gate.sense_s=9", "policy.max_duty=1.0")
    play.samples[round(4.5 * 250)] = 1e6
    play.run(60)
    epochs = play.of(CouplingEpoch)
    assert len(epochs) >= 4
    changes = [(change.t_ns, change.after) for change in play.of(GateChange)]
    for epoch in epochs:
        first_ns = epoch.t_ns - 2 * NS_PER_S
        before = [after for t_ns, after in changes if t_ns <= first_ns]
        assert before[-1] == "SENSE"
        assert not [after for t_ns, after in changes if first_ns < t_ns < epoch.t_ns]
        assert not epoch.t_ns - 2 * NS_PER_S <= START_NS + 4.5 * NS_PER_S - 50 * NS_PER_MS <= epoch.t_ns
    assert all(len(epoch.imaginary) == 8 and max(map(abs, epoch.imaginary)) <= 1.0 for epoch in epochs)
