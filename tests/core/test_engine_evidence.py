"""What may be evidence: not stimulated samples, not the future, not bad samples; and the same whatever the chunking."""

from __future__ import annotations

import bisect
from typing import Any

import numpy as np
import pytest
from core_config import configured
from core_play import (
    LABELS,
    PERIOD_NS,
    RATE_HZ,
    SOURCE,
    START_NS,
    Play,
    excited,
    layout,
    noise,
    open_loop,
    with_null,
)

from devices.units import NS_PER_MS, NS_PER_S
from loop.engine import Engine
from loop.events import (
    Chunk,
    Decision,
    Features,
    GateChange,
    Incident,
    Input,
    Marker,
    Outcome,
    Output,
    SegmentStart,
    Tick,
    ToGuard,
)
from loop.gate import Phase

WINDOWS_NS = (600 * NS_PER_MS, 620 * NS_PER_MS)


def columns(outputs: list[Output]) -> dict[str, Any]:
    """All features joined, and all outcomes and decisions."""
    features = [one for one in outputs if isinstance(one, Features)]
    return {
        "sample": np.concatenate([f.sample for f in features]).tobytes(),
        "values": np.concatenate([f.values for f in features]).tobytes(),
        "flags": np.concatenate([f.flags for f in features]).tobytes(),
        "t_ns": np.concatenate([f.t_ns for f in features]).tobytes(),
        "said": [one for one in outputs if isinstance(one, Outcome | Decision)],
    }


def test_samples_during_current_or_settling_are_never_evidence() -> None:
    play = with_null(open_loop())
    for k in range(200):
        play.markers.append((START_NS + round((0.5 + 0.47 * k) * NS_PER_S), "STIM/NOX/100"))
    play.run(95)
    changes = [(change.t_ns, change.after) for change in play.of(GateChange)]
    times = [t_ns for t_ns, _ in changes]

    def phases_of(start_ns: int, stop_ns: int) -> set[str]:
        first = bisect.bisect_right(times, start_ns) - 1
        return {"" if first < 0 else changes[first][1]} | {
            after for t, after in changes if start_ns < t <= stop_ns
        }

    outcomes = play.of(Outcome)
    assert len(outcomes) > 180
    evidence = [outcome for outcome in outcomes if not outcome.reason]
    refused = [outcome for outcome in outcomes if outcome.reason]
    assert len(evidence) > 3
    for outcome in evidence:
        assert phases_of(outcome.t_ns - WINDOWS_NS[0], outcome.t_ns + WINDOWS_NS[1]) == {"SENSE"}
    assert refused
    with_current = [
        o for o in refused if phases_of(o.t_ns, o.t_ns) & {"RAMP_UP", "HOLD", "RAMP_DOWN", "SETTLE"}
    ]
    assert len(with_current) > 50
    assert all(outcome.excess is None for outcome in refused)


def test_samples_under_current_do_not_teach_the_kernel() -> None:
    plain, wild = open_loop(), open_loop()
    for play in (plain, wild):
        play.until(Phase.RAMP_UP)
        play.run(0.2)
    start = wild.sent_rows
    for play in (plain, wild):
        play.until(Phase.RAMP_DOWN)
    # One channel stays: without any, the gate would be aborted.
    wild.samples[start : wild.sent_rows, 1:] = np.nan
    redo = open_loop()
    redo.samples = wild.samples
    redo.until(Phase.RAMP_DOWN)
    kernels = [play.engine._perception._estimator.kernel for play in (plain, redo)]
    assert np.array_equal(kernels[0].learned, kernels[1].learned)


def test_changing_the_future_changes_nothing_earlier() -> None:
    plays = []
    for change in (0.0, 1e4):
        play = Play()
        play.arm()
        excited(play, 2.0, 60.0, 72.0)
        play.samples[round(65.013 * RATE_HZ) :] += (
            change * noise(len(play.samples), 9)[round(65.013 * RATE_HZ) :]
        )
        play.markers = [
            (t, text if t < START_NS + 65 * NS_PER_S or not change else "STIM/INN/1")
            for t, text in play.markers
        ]
        play.run(72)
        plays.append(play)
    cut_ns = START_NS + 65 * NS_PER_S
    prefix = [[o for o in play.outputs if _time(o) <= cut_ns] for play in plays]
    assert columns(prefix[0]) == columns(prefix[1])
    commands = [[o for o in some if isinstance(o, ToGuard | GateChange)] for some in prefix]
    assert commands[0] == commands[1]
    assert columns(plays[0].outputs) != columns(plays[1].outputs)


def _time(output: Output) -> int:
    return int(output.t_ns[-1]) if isinstance(output, Features) else output.t_ns


def partition(cuts: list[int], rows: np.ndarray, marks: list[tuple[int, str]]) -> list[Input]:
    """The same samples in chunks that end at `cuts`; every marker comes before the chunk that holds its sample."""
    config_events: list[Input] = [
        SegmentStart(t_ns=START_NS, segment=1, layout=layout(), source=SOURCE, clock_offset_ns=0),
        Tick(t_ns=START_NS),
    ]
    waiting = sorted(marks)
    for start, stop in zip([0, *cuts], [*cuts, len(rows)], strict=True):
        if stop <= start:
            continue
        stamps = START_NS + PERIOD_NS * np.arange(start, stop, dtype=np.int64)
        t_ns = int(stamps[-1])
        while waiting and waiting[0][0] <= t_ns:
            stamp_ns, text = waiting.pop(0)
            config_events.append(Marker(t_ns=t_ns, stamp_ns=stamp_ns, text=text))
        config_events.append(Chunk(t_ns, 1, start, stamps, rows[start:stop]))
    return config_events


@pytest.mark.parametrize("seed", range(4))
def test_chunking_is_invariant(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    rows = noise(round(70 * RATE_HZ), seed=5)
    rows[3000:3010, 0] = np.nan
    marks = []
    for k in range(8):
        at_ns = START_NS + round((45 + 2.7 * k) * NS_PER_S) + 1234567
        marks += [(at_ns - 2 * NS_PER_S, "CUE/H" if k % 2 else "CUE/L"), (at_ns, "OUT_DUE")]
        marks += (
            [(at_ns + 1000, "STIM/NOX/80")] if k % 3 else []
        )  # every third one is an omission that nobody announces
    results = []
    sizes = [
        [*range(5, len(rows), 5)],
        sorted(set(rng.integers(1, len(rows), size=[3, 40, 300, 4000][seed]).tolist())),
    ]
    for cuts in sizes:
        engine = Engine(configured("session.arm=feedback_only"))
        results.append(columns([o for event in partition(cuts, rows, marks) for o in engine.step(event)]))
    assert results[0] == results[1]
    texts = [one.text for one in results[0]["said"] if isinstance(one, Outcome)]
    assert sorted(texts) == ["STIM/NOX/80"] * 5 + ["STIM/OMIT"] * 3


def test_an_omission_is_timed_at_the_moment_it_was_due_and_belongs_to_its_cue() -> None:
    play = Play("session.arm=feedback_only")
    due_ns = START_NS + 5 * NS_PER_S
    play.markers = [(due_ns - NS_PER_S, "CUE/H"), (due_ns, "OUT_DUE"), (due_ns + 90 * NS_PER_MS, "CUE/L")]
    play.run(7)
    (outcome,) = play.of(Outcome)
    assert (outcome.text, outcome.t_ns) == ("STIM/OMIT", due_ns)
    assert dict(play.engine._policy.belief) == {"H": 0.375}


def test_a_stimulus_just_before_its_announcement_is_one_outcome() -> None:
    play = Play("session.arm=feedback_only")
    at_ns = START_NS + 5 * NS_PER_S
    play.markers = [(at_ns, "STIM/NOX/50"), (at_ns + 20 * NS_PER_MS, "OUT_DUE")]
    play.run(7)
    assert [outcome.text for outcome in play.of(Outcome)] == ["STIM/NOX/50"]
    assert "out_due_missing" in play.incidents()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_a_burst_of_bad_samples_changes_no_learned_state_and_is_followed_by_a_warm_up(value: float) -> None:
    play = Play("session.arm=feedback_only")
    play.run(10)
    kernel = play.engine._perception._estimator.kernel
    before, seen = kernel.learned, len(play.outputs)
    play.samples[play.sent_rows : play.sent_rows + 100] = value
    play.run(100 / RATE_HZ)
    assert np.array_equal(kernel.learned, before)
    play.run(0.9)
    assert np.array_equal(kernel.learned, before), "no learning during the warm-up"
    play.run(0.5)
    assert not np.array_equal(kernel.learned, before)
    after = [o for o in play.outputs[seen:] if isinstance(o, Features)]
    assert all(flags for f in after[:50] for flags in f.flags)
    assert any(incident.detail == "PO9" for incident in play.of(Incident))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e308, -1e308, 1e155, 5e-324])
@pytest.mark.parametrize("channels", ["all", "one"])
def test_no_sample_value_raises_or_makes_a_level(value: float, channels: str) -> None:
    play = with_null(Play())
    play.arm()
    excited(play, 1.5, 6.0, 12.0, gain_uv=0.0)
    where = slice(None) if channels == "all" else slice(0, 1)
    play.samples[round(5 * RATE_HZ) :, where] = value
    play.run(13)
    assert len(play.of(Outcome)) == 4
    assert play.path() == ["SENSE"]
    assert play.engine.level_ua == 0
    assert np.isfinite(play.engine.evidence)
    assert all(o.index is None or np.isfinite(o.index) for o in play.of(Outcome))


def test_what_is_left_out_does_not_shift_the_numbers_of_samples() -> None:
    play = Play("session.arm=feedback_only")
    play.run(3)
    play.markers = [(play.t_ns + 500 * NS_PER_MS, "STIM/NOX/100")]
    play.tick()
    repeated = play.inputs[-2]
    assert isinstance(repeated, Chunk)
    play.sent_rows += 5
    play.feed(Chunk(play.t_ns, 1, play.sent_rows - 5, repeated.stamps_ns, repeated.samples))
    assert "duplicate" in play.incidents()
    play.run(2)
    chunks = {c.first: c for c in play.inputs if isinstance(c, Chunk)}
    features = play.of(Features)[-1]
    start = max(first for first in chunks if first <= features.sample[-1])
    assert chunks[start].stamps_ns[features.sample[-1] - start] == features.t_ns[-1]
    (outcome,) = play.of(Outcome)
    start = max(first for first in chunks if first <= outcome.sample)
    stamp_ns = int(chunks[start].stamps_ns[outcome.sample - start])
    assert 0 <= stamp_ns - outcome.t_ns < PERIOD_NS


def test_an_outcome_that_a_gap_cuts_short_is_recorded_as_invalid() -> None:
    play = Play("session.arm=feedback_only")
    play.markers = [(START_NS + 5 * NS_PER_S, "STIM/NOX/100")]
    play.run(5.3)
    play.change = lambda _: None
    play.run(0.1)
    play.change = lambda chunk: chunk
    play.run(0.1)
    (outcome,) = play.of(Outcome)
    assert outcome.reason == "100 % of its windows were flagged"
    assert outcome.index is None
    assert dict(play.engine._policy.belief) == {"": 0.625}, "the participant saw it all the same"


@pytest.mark.parametrize("text", ["STIM/NOX/100", "OUT_DUE", "CUE/H"])
def test_a_flood_of_markers_is_bounded_and_named(text: str) -> None:
    play = Play("session.arm=feedback_only")
    play.run(2)
    for _ in range(20):
        for k in range(100):
            play.feed(Marker(t_ns=play.t_ns, stamp_ns=play.t_ns + k * NS_PER_MS, text=text))
        play.run(0.1)
    play.run(2)
    assert "marker_flood" in play.incidents() or text == "OUT_DUE"
    assert len(play.of(Outcome)) < 500
    play.feed(Marker(t_ns=play.t_ns, stamp_ns=play.t_ns + 3600 * NS_PER_S, text=text))
    play.run(1)
    assert set(LABELS) >= set(play.engine.bad_channels)
