"""Each fault of a stream, one by one: it is recognised, it is named in the output, and it is answered as it should be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from core_play import (
    CHUNK,
    LABELS,
    PERIOD_NS,
    RATE_HZ,
    SOURCE,
    START_NS,
    Play,
    at,
    excited,
    layout,
    open_loop,
    with_baseline,
    with_null,
)

from devices import link
from devices.units import NS_PER_MS, NS_PER_S
from loop.events import Chunk, Features, Incident, Outcome, SegmentStart, SourceLost, ToGuard
from loop.gate import WITH_CURRENT, Phase

Fault = Callable[[Chunk], Chunk | None]


def shifted(first: int, by_ns: int) -> Callable[[], Fault]:
    """The next chunk's stamps from row `first` on lie elsewhere; what follows is as before."""

    def make() -> Fault:
        left = [by_ns]

        def change(chunk: Chunk) -> Chunk:
            stamps = chunk.stamps_ns.copy()
            stamps[first:] += left.pop() if left else 0
            return Chunk(chunk.t_ns, chunk.segment, chunk.first, stamps, chunk.samples)

        return change

    return make


def jumped(by_ns: int) -> Callable[[], Fault]:
    """The stream's clock is another from now on."""
    return lambda: lambda chunk: Chunk(chunk.t_ns, chunk.segment, chunk.first, chunk.stamps_ns + by_ns, chunk.samples)


def missing() -> Fault:
    left = [None] * 3
    return lambda chunk: left.pop() if left else chunk


def at_rate(factor: float) -> Callable[[], Fault]:
    """An amplifier that samples `factor` times as fast as it says, with honest stamps."""

    def make() -> Fault:
        next_ns: list[float] = []
        rows = [0]

        def change(chunk: Chunk) -> Chunk | None:
            if not next_ns:
                next_ns.append(float(chunk.stamps_ns[0]))
                rows[0] = chunk.first
            stamps = []
            while next_ns[0] <= chunk.stamps_ns[-1]:
                stamps.append(round(next_ns[0]))
                next_ns[0] += PERIOD_NS / factor
            first, rows[0] = rows[0], rows[0] + len(stamps)
            samples = np.resize(chunk.samples, (len(stamps), len(LABELS)))
            return Chunk(chunk.t_ns, chunk.segment, first, np.array(stamps, dtype=np.int64), samples) if stamps else None

        return change

    return make


# Samples that have lain in a buffer come two seconds late, all of them.
burst = jumped(-2 * NS_PER_S)


# The fault, what it is called, words of its detail, how long it takes to be recognised in s.
TIMING: dict[str, tuple[Callable[[], Fault], str, str, float]] = {
    "gap": (missing, "gap", "15 samples missing (60 ms)", 0.2),
    "duplicate": (shifted(0, -CHUNK * PERIOD_NS), "duplicate", "5 of 5 samples had come before: left out", 0.1),
    "reorder": (shifted(2, -100 * NS_PER_MS), "reorder", "stamps run backwards inside a chunk", 0.1),
    "clock jump": (jumped(3600 * NS_PER_S), "clock_jump", "stamps jumped ahead by 3600.0", 0.1),
    "clock jump back": (jumped(-3600 * NS_PER_S), "clock_jump", "stamps jumped back by 3600.0", 0.1),
    "slow": (at_rate(0.97), "rate_drift", "samples a second instead of 250.00", 21.0),
    "fast": (at_rate(1.03), "rate_drift", "samples a second instead of 250.00", 21.0),
}


def named(play: Play, name: str) -> Incident:
    """The first incident of that name."""
    return next(incident for incident in play.of(Incident) if incident.name == name)


def stops(play: Play) -> list[int]:
    return [stop.stop_class for stop in play.messages(link.Stop)]


@pytest.mark.parametrize("fault", TIMING)
def test_a_fault_of_timing_is_named_with_what_it_was_and_what_is_done(fault: str) -> None:
    make, name, words, within_s = TIMING[fault]
    play = Play("session.arm=feedback_only")
    play.run(1)
    assert play.incidents() == []
    play.change = make()
    play.run(within_s)
    incident = named(play, name)
    assert words in incident.detail
    assert incident.answer == "sense window discarded"
    assert {*play.incidents()} <= {name, "late_data", "stale", "fresh_again"}


@pytest.mark.parametrize("fault", TIMING)
def test_a_fault_of_timing_at_zero_current_discards_the_window(fault: str) -> None:
    make, name, _, within_s = TIMING[fault]
    play = with_null(Play("policy.min_outcomes=9"))
    play.arm()
    excited(play, 1.5, 6.0, 9.0)
    play.run(10)
    assert len(play.engine._policy.window) == 2
    play.change = make()
    play.run(within_s)
    assert name in play.incidents()
    assert play.engine._policy.window == ()
    assert stops(play) == []
    assert play.engine.phase is Phase.SENSE


@pytest.mark.parametrize("fault", TIMING)
def test_a_fault_of_timing_under_current_is_an_abort_by_its_name(fault: str) -> None:
    make, name, _, within_s = TIMING[fault]
    play = at("HOLD", "stimulation.hold_s=24")
    play.change = make()
    play.run(within_s)
    assert stops(play) == [1]
    assert named(play, "abort").detail == name
    assert play.engine.phase is Phase.STOPPED


def test_a_burst_of_old_data_is_named_and_discards_the_window() -> None:
    play = with_null(Play("policy.min_outcomes=9"))
    play.arm()
    excited(play, 1.5, 6.0, 9.0)
    play.run(10)
    play.streaming = False
    play.run(2)
    play.streaming = True
    play.change = burst()
    play.run(0.5)
    late = named(play, "late_data")
    assert late.detail == "samples are 2002 ms old on arrival"
    assert late.answer == "noted"
    assert named(play, "stale").answer == "sense window discarded"
    assert "fresh_again" not in play.incidents(), "old samples are no sign of life"
    assert play.engine._policy.window == ()
    assert stops(play) == []


def test_a_burst_of_old_data_under_current_is_named_and_an_abort() -> None:
    play = at("HOLD")
    play.streaming = False
    play.run(0.1)
    play.streaming = True
    play.t_ns += 2 * NS_PER_S
    play.change = burst()
    play.tick()
    assert "late_data" in play.incidents()
    play.run(0.5)
    assert stops(play) == [1]
    assert play.engine.phase is Phase.STOPPED


@pytest.mark.parametrize("phase", [Phase.SENSE, Phase.HOLD])
def test_a_swapped_layout_is_named_and_refused(phase: Phase) -> None:
    play = at(phase, "gate.sense_s=5")
    play.feed(SourceLost(t_ns=play.t_ns, reason="restart"))
    swapped = layout(("PO10", "PO9", *LABELS[2:]))
    play.feed(SegmentStart(t_ns=play.t_ns, segment=2, layout=swapped, source=SOURCE, clock_offset_ns=0))
    changed = named(play, "layout_changed")
    assert "channels, order, units or rate differ" in changed.detail
    assert changed.answer == "segment refused"
    opened = len(play.messages(link.Reserve))
    play.run(20)
    assert stops(play) == ([1] if phase in WITH_CURRENT else [])
    assert len(play.messages(link.Reserve)) == opened, "no gate opens on it"


@pytest.mark.parametrize(("factor", "words"), [(1e-6, "10^6 too small"), (1e6, "10^6 too large")])
def test_a_unit_wrong_by_a_million_is_named_and_its_outcomes_are_no_evidence(factor: float, words: str) -> None:
    # A converter whose rails lie far out: samples that are merely railed are named for that.
    play = with_baseline(with_null(Play("channels.rail_uv=1e7" if factor < 1.0 else "channels.rail_uv=9.9e6")))
    excited(play, 2.0, 6.0, 12.0)
    play.samples *= factor
    play.arm()
    play.run(14)
    incident = named(play, "unit_implausible")
    assert words in incident.detail
    assert incident.answer == "no outcome of this session is evidence"
    outcomes = play.of(Outcome)
    assert len(outcomes) == 3
    assert {outcome.reason for outcome in outcomes} == {"the unit of the samples is implausible"}
    assert play.engine.evidence == 0.0
    assert play.path() == ["SENSE"]


# What the samples of a bad channel are, and what that is called.
CHANNELS: dict[str, tuple[float, str]] = {
    "railed": (187_500.0, "channel_railed"),
    "railed below": (-200_000.0, "channel_railed"),
    "flat": (3.0, "channel_flat"),
    "not a number": (np.nan, "channel_non_finite"),
    "infinite": (np.inf, "channel_non_finite"),
}


def spoilt(play: Play, value: float, channels: tuple[str, ...], from_s: float, to_s: float) -> None:
    columns = [LABELS.index(label) for label in channels]
    play.samples[round(from_s * RATE_HZ) : round(to_s * RATE_HZ), columns] = value


@pytest.mark.parametrize("fault", CHANNELS)
def test_a_bad_channel_is_named_and_its_recovery_too(fault: str) -> None:
    value, name = CHANNELS[fault]
    play = Play("session.arm=feedback_only")
    spoilt(play, value, ("PO9",), 2.0, 3.0)
    play.run(6)
    said = [(i.name, i.detail, i.answer) for i in play.of(Incident)]
    assert said == [
        (name, "PO9", "its samples are left out"),
        ("channel_recovered", "PO9", "in use again after warm-up"),
    ]


@pytest.mark.parametrize("fault", CHANNELS)
def test_samples_of_a_bad_channel_are_left_out_and_no_evidence(fault: str) -> None:
    value, name = CHANNELS[fault]
    play = with_baseline(with_null(Play()))
    play.arm()
    excited(play, 2.0, 6.0, 12.0)
    spoilt(play, value, ("PO9",), 5.0, 14.0)
    play.run(13)
    assert name in play.incidents()
    late = [features for features in play.of(Features) if features.t_ns[0] > START_NS + 6 * NS_PER_S]
    flagged = [flags for features in late for flags in features.flags]
    assert flagged
    assert all(flagged)
    assert {outcome.reason for outcome in play.of(Outcome)} == {"100 % of its windows were flagged"}
    assert play.engine.evidence == 0.0
    assert play.path() == ["SENSE"]
    assert stops(play) == []


@pytest.mark.parametrize("fault", CHANNELS)
def test_a_channel_that_turns_bad_under_current_is_named_and_one_that_may_rail_is_not(fault: str) -> None:
    value, name = CHANNELS[fault]
    play = at("HOLD", 'channels.rails_under_current=["PO10"]')
    now_s = play.sent_rows / RATE_HZ
    spoilt(play, value, ("PO9", "PO10"), now_s, now_s + 1.0)
    play.run(1.0)
    assert [(i.name, i.detail) for i in play.of(Incident) if i.name.startswith("channel_")] == [(name, "PO9")]
    assert stops(play) == []
    assert play.engine.phase is Phase.HOLD


@pytest.mark.parametrize("fault", CHANNELS)
def test_samples_of_which_no_channel_is_valid_are_none_under_current(fault: str) -> None:
    value, _ = CHANNELS[fault]
    play = at("HOLD", 'channels.rails_under_current=["PO10"]')
    rows = play.sent_rows
    spoilt(play, value, tuple(label for label in LABELS if label != "PO10"), rows / RATE_HZ, 100.0)
    play.run(1.0)
    stop = next(o for o in play.of(ToGuard) if isinstance(o.message, link.Stop))
    noticed_s = 0.25 if fault == "flat" else 0.0
    assert (stop.t_ns - START_NS) / NS_PER_S - rows / RATE_HZ <= noticed_s + 0.2 + 0.06
    assert stops(play) == [1]
    detail = named(play, "abort").detail
    assert detail.startswith("stale: no valid sample for 2")
    assert detail.endswith("every channel is flat, railed or not finite")
    assert play.marked()[-1].startswith("TDCS/")
    assert play.engine.phase is Phase.STOPPED


def test_where_every_channel_may_rail_under_current_rails_are_no_fault() -> None:
    play = at("HOLD", f"channels.rails_under_current={list(LABELS)}".replace("'", '"'))
    spoilt(play, 187_500.0, LABELS, play.sent_rows / RATE_HZ, 100.0)
    play.run(1.0)
    assert play.engine.phase is Phase.HOLD


def test_no_gate_opens_while_no_channel_is_valid_and_one_does_afterwards() -> None:
    play = open_loop()
    spoilt(play, 0.0, LABELS, 0.5, 10.0)
    play.run(9)
    assert "stale" in play.incidents()
    assert play.path() == ["SENSE"]
    play.until(Phase.RAMP_UP, 5)
    assert "fresh_again" in play.incidents()
