"""What the engine answers to faults: an abort ramp under current, a discarded window at zero, never the last output."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from core_play import PERIOD_NS, RATE_HZ, SOURCE, Play, at, excited, layout, open_loop, report, with_baseline, with_null

from devices import link
from devices.units import NS_PER_MS, NS_PER_S
from loop.engine import TICK_NS
from loop.events import (
    Chunk,
    ClockOffset,
    Device,
    Finished,
    GateChange,
    Incident,
    Input,
    Layout,
    Outcome,
    RecorderLost,
    SegmentStart,
    SourceLost,
    Tick,
    ToGuard,
)
from loop.gate import WITH_CURRENT, Phase

HOUR_NS = 3600 * NS_PER_S


def moved(shift_ns: int) -> Callable[[Chunk], Chunk]:
    return lambda chunk: Chunk(
        chunk.t_ns, chunk.segment, chunk.first, chunk.stamps_ns + shift_ns, chunk.samples
    )


def once(change: Callable[[Chunk], Chunk | None]) -> Callable[[Chunk], Chunk | None]:
    """Change one chunk, then let all others pass."""
    left = [change]
    return lambda chunk: left.pop()(chunk) if left else chunk


def backwards(chunk: Chunk) -> Chunk:
    stamps = chunk.stamps_ns.copy()
    stamps[2:] -= 100 * NS_PER_MS
    return Chunk(chunk.t_ns, chunk.segment, chunk.first, stamps, chunk.samples)


def hole(chunk: Chunk) -> Chunk:
    stamps = chunk.stamps_ns.copy()
    stamps[:2] -= 60 * NS_PER_MS
    return Chunk(chunk.t_ns, chunk.segment, chunk.first, stamps, chunk.samples)


def stops(play: Play) -> list[link.Stop]:
    return play.messages(link.Stop)


def test_a_stale_stream_under_current_is_aborted_within_the_stale_time_and_a_tick() -> None:
    play = at("HOLD")
    last_ns = play.t_ns
    play.streaming = False
    play.run(0.3)
    sent = [o for o in play.of(ToGuard) if isinstance(o.message, link.Stop)]
    assert len(sent) == 1
    assert sent[0].message.stop_class == 1  # type: ignore[union-attr]
    assert 200 * NS_PER_MS < sent[0].t_ns - last_ns <= 200 * NS_PER_MS + TICK_NS
    assert play.marked()[-1] == "TDCS/ABORT/stale_no_new_sample_for_220_ms/0.1"
    assert play.engine.phase is Phase.STOPPED
    assert play.engine.level_ua == 0


@pytest.mark.parametrize("phase", sorted(WITH_CURRENT))
def test_after_an_abort_nothing_rises_before_reset_and_arming(phase: str) -> None:
    play = at(phase)
    play.feed(SourceLost(t_ns=play.t_ns, reason="cable"))
    commands = len(play.messages(link.Command))
    # A report that the guard had sent before it took the stop must not look like a new arming.
    play.feed(Device(t_ns=play.t_ns, message=report(play.t_ns, "live", 100)))
    play.feed(Tick(t_ns=play.t_ns))
    assert play.engine.phase is Phase.STOPPED
    play.run(0.1)
    assert play.path()[-1] == "STOPPED"
    play.feed(SegmentStart(t_ns=play.t_ns, segment=2, layout=layout(), source=SOURCE, clock_offset_ns=0))
    play.run(20)
    assert play.engine.phase is Phase.STOPPED
    assert len(play.messages(link.Command)) == commands
    assert len(stops(play)) == 1, "one fault, one stop"
    play.operator("reset", "A. Name")
    play.arm()
    play.run(0.1)
    assert play.engine.phase is Phase.SETTLE
    play.until(Phase.RAMP_UP, 30)


FAULTS: dict[str, Callable[[Chunk], Chunk | None]] = {
    "gap": hole,
    "reorder": backwards,
    "clock_jump": moved(HOUR_NS),
    "clock_jump back": moved(-HOUR_NS),
    "duplicate": lambda chunk: Chunk(
        chunk.t_ns, chunk.segment, chunk.first, chunk.stamps_ns - 5 * PERIOD_NS, chunk.samples
    ),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("phase", sorted(WITH_CURRENT))
def test_a_fault_of_timing_under_current_is_an_abort(name: str, phase: str) -> None:
    play = at(phase)
    play.change = once(FAULTS[name])
    out = play.tick()
    assert name.split(maxsplit=1)[0] in play.incidents()
    assert [stop.stop_class for stop in stops(play)] == [1]
    assert play.engine.phase is Phase.STOPPED
    stop = next(i for i, o in enumerate(out) if isinstance(o, ToGuard) and isinstance(o.message, link.Stop))
    cause = next(i for i, o in enumerate(out) if isinstance(o, Incident))
    assert cause < stop, "the cause is recorded before the command (I20)"


def test_a_missing_chunk_under_current_is_an_abort() -> None:
    play = at("HOLD")
    play.change = lambda _: None
    play.run(0.1)
    play.change = lambda chunk: chunk
    play.tick()
    assert "gap" in play.incidents()
    assert [stop.stop_class for stop in stops(play)] == [1]


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_timing_at_zero_current_discards_the_window_and_goes_on(name: str) -> None:
    play = with_baseline(with_null(Play()))
    play.arm()
    excited(play, 2.0, 6.0, 7.0)
    play.run(8)
    assert len(play.engine._policy.window) == 1
    play.change = once(FAULTS[name])
    play.tick()
    assert play.engine._policy.window == ()
    assert stops(play) == []
    excited(play, 2.0, 12.0, 15.0)
    play.run(8)
    assert play.engine.phase is Phase.RAMP_UP or name.startswith("clock_jump")
    assert play.engine.phase in (Phase.SENSE, Phase.RAMP_UP)


@pytest.mark.parametrize(
    "event",
    [
        SourceLost(t_ns=0, reason="cable"),
        RecorderLost(t_ns=0, reason="disk full"),
        ClockOffset(t_ns=0, offset_ns=HOUR_NS),
        SegmentStart(t_ns=0, segment=2, layout=layout(), source=SOURCE, clock_offset_ns=0),
        SegmentStart(t_ns=0, segment=2, layout=layout(rate_hz=500.0), source=SOURCE, clock_offset_ns=0),
    ],
    ids=["source_lost", "recorder_lost", "clock_offset", "same_layout", "other_layout"],
)
def test_what_interrupts_stream_or_record_under_current_is_an_abort(event: Input) -> None:
    play = at("HOLD")
    out = play.feed(msgspec.structs.replace(event, t_ns=play.t_ns))  # type: ignore[type-var]
    assert [
        o.message.stop_class for o in out if isinstance(o, ToGuard) and isinstance(o.message, link.Stop)
    ] == [1]
    assert play.engine.phase is Phase.STOPPED
    assert play.marked()[-1].startswith("TDCS/ABORT/")


@pytest.mark.parametrize(
    "other",
    [
        layout(("PO10", "PO9", "Oz", "Cz", "Fz", "Pz", "C3", "C4")),
        layout(("PO9", "PO10", "Oz", "Cz", "Fz", "Pz", "C3")),
        layout(rate_hz=500.0),
        Layout(labels=layout().labels, units=("V",) * 8, to_uv=(1e6,) * 8, sfreq_hz=RATE_HZ),
    ],
    ids=["swapped", "fewer", "rate", "unit"],
)
def test_a_changed_layout_is_refused_and_its_samples_are_not_looked_at(other: Layout) -> None:
    play = open_loop()
    play.run(1)
    state = play.engine._perception.state()
    play.feed(SourceLost(t_ns=play.t_ns, reason="restart"))
    play.feed(SegmentStart(t_ns=play.t_ns, segment=2, layout=other, source=SOURCE, clock_offset_ns=0))
    assert "layout_changed" in play.incidents()
    play.run(20)
    assert play.engine._perception.state() == state
    assert play.path() == ["SENSE"], "no gate opens on a stream that is not looked at (I15)"
    play.feed(SegmentStart(t_ns=play.t_ns, segment=3, layout=layout(), source=SOURCE, clock_offset_ns=0))
    play.until(Phase.RAMP_UP, 5)


@pytest.mark.parametrize("lost", ["never came", "lost", "stale"])
def test_no_arm_opens_without_a_stream(lost: str) -> None:
    play = open_loop()
    if lost == "never came":
        play = Play("session.arm=open_loop")
        play.engine = type(play.engine)(play.engine._config)
        play.arm()
    play.streaming = False
    if lost == "lost":
        play.run(0.5)
        play.feed(SourceLost(t_ns=play.t_ns, reason="cable"))
    play.run(20)
    assert play.path() == ["SENSE"]
    assert play.messages(link.Reserve) == []


def test_a_stale_stream_at_zero_is_said_once_and_its_return_too() -> None:
    play = at("SENSE", "gate.sense_s=60")
    play.streaming = False
    play.run(2)
    play.streaming = True
    play.run(1)
    assert [name for name in play.incidents() if name in ("stale", "fresh_again")] == ["stale", "fresh_again"]


@pytest.mark.parametrize("phase", ["aborting", "stopped", "latched"])
def test_a_guard_that_stops_stops_the_gate(phase: str) -> None:
    play = at("HOLD")
    play.guard.phase, play.guard.reason, play.guard.level_ua = phase, "impedance 25000 ohm", 0
    play.guard.top_ua, play.guard.next_ns = 0, 0
    play.run(0.04)
    assert play.engine.phase is Phase.STOPPED
    commands = len(play.messages(link.Command))
    play.run(20)
    assert len(play.messages(link.Command)) == commands
    change = next(o for o in play.of(GateChange) if o.after == "STOPPED")
    assert change.reason == "impedance 25000 ohm"


def test_a_lost_record_ends_the_session_only_after_the_abort_has_reached_zero() -> None:
    play = at("HOLD")
    play.feed(RecorderLost(t_ns=play.t_ns, reason="disk full"))
    play.tick()
    assert play.engine.phase is Phase.STOPPED
    assert not play.engine.finished
    play.run(0.3)
    assert play.of(Finished)[0].reason == "the record cannot be written: disk full"
    assert play.marked()[-1] == "TDCS/OFF/0"


def test_a_unit_that_cannot_be_right_makes_no_evidence() -> None:
    play = with_baseline(with_null(Play()))
    play.samples *= 1e-6
    play.arm()
    excited(play, 2.0, 6.0, 16.0, gain_uv=6e-3)
    play.run(20)
    assert len(play.of(Outcome)) == 5
    assert "unit_implausible" in play.incidents()
    assert play.path() == ["SENSE"]
    assert play.engine.evidence == 0.0


def test_a_burst_of_old_data_is_not_a_sign_of_life() -> None:
    play = at("HOLD")
    play.change = moved(-2 * NS_PER_S)
    play.run(0.3)
    assert play.engine.phase is Phase.STOPPED
    assert np.sum([stop.stop_class == 1 for stop in stops(play)]) == 1
