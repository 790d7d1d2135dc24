"""Every move of the gate, exactly: the whole state that follows, the reason that is given, and what is said of a held gate."""

from __future__ import annotations

import pytest

from devices.units import NS_PER_S
from loop import gate
from loop.gate import GateInput, GateParams, GateState, GateStep, Phase, Spell

NOW_NS = 1000 * NS_PER_S
PARAMS = GateParams(
    level_ua=1000,
    ramp_ns=10 * NS_PER_S,
    hold_ns=60 * NS_PER_S,
    settle_ns=5 * NS_PER_S,
    refractory_ns=30 * NS_PER_S,
    max_duty=0.5,
    duty_window_ns=400 * NS_PER_S,
    confirm_ns=2 * NS_PER_S,
)
SPELL = Spell(700 * NS_PER_S, 720 * NS_PER_S)
QUIET = GateInput("live", "", at_zero=True, decision=0, wish="none", reason="because")


def state(phase: Phase, since_s: float = 0.0, **changes: object) -> GateState:
    """A state in which no field has its default, so that one that is dropped or reset shows."""
    full = GateState(
        phase=phase, since_ns=NOW_NS - round(since_s * NS_PER_S), from_ua=3, level_ua=0, shown_ua=0, decision=5,
        opened_ns=900 * NS_PER_S, closed_ns=800 * NS_PER_S, after_zero=Phase.PAUSED, spells=(SPELL,), opened=2, hold_ns=7,
    )  # fmt: skip
    return full._replace(**changes)  # type: ignore[arg-type]


def given(**changes: object) -> GateInput:
    return QUIET._replace(**changes)  # type: ignore[arg-type]


def moved(before: GateState, reason: str, **changes: object) -> GateStep:
    return GateStep(before._replace(**changes), reason, "")  # type: ignore[arg-type]


UP = state(Phase.RAMP_UP, 4.0, level_ua=300, shown_ua=300, hold_ns=60 * NS_PER_S)
HOLD = state(Phase.HOLD, 4.0, level_ua=1000, shown_ua=1000, hold_ns=60 * NS_PER_S)
DOWN = state(Phase.RAMP_DOWN, 5.0, level_ua=600, shown_ua=600, from_ua=1000)
CLOSED = dict(
    since_ns=NOW_NS, from_ua=0, level_ua=0, shown_ua=0, closed_ns=NOW_NS, spells=(SPELL, Spell(900 * NS_PER_S, NOW_NS))
)

MOVES = [
    # what stops, and what it says
    (state(Phase.ENDED), given(decision=1, guard="latched"), moved(state(Phase.ENDED), "")),
    (HOLD, given(guard="latched", guard_reason="cut"), moved(HOLD, "cut", phase=Phase.STOPPED, **CLOSED)),
    (HOLD, given(guard="aborting"), moved(HOLD, "aborting", phase=Phase.STOPPED, **CLOSED)),
    (state(Phase.SENSE, 3, level_ua=9, shown_ua=8), given(guard="stopped"),
     moved(state(Phase.SENSE), "stopped", phase=Phase.STOPPED)),
    # the guard ends the session, the operator pauses or ends
    (HOLD, given(guard="ending"),
     moved(HOLD, "the guard ends the session", phase=Phase.RAMP_DOWN, since_ns=NOW_NS, from_ua=1000, after_zero=Phase.ENDED)),
    (UP, given(guard="ending", guard_reason="dose"),
     moved(UP, "dose", phase=Phase.RAMP_DOWN, since_ns=NOW_NS, from_ua=300, after_zero=Phase.ENDED)),
    (DOWN, given(guard="ending"), moved(DOWN, "", level_ua=500, shown_ua=500, after_zero=Phase.ENDED)),
    (HOLD, given(wish="pause"),
     moved(HOLD, "because", phase=Phase.RAMP_DOWN, since_ns=NOW_NS, from_ua=1000, after_zero=Phase.PAUSED)),
    (HOLD, given(wish="end"),
     moved(HOLD, "because", phase=Phase.RAMP_DOWN, since_ns=NOW_NS, from_ua=1000, after_zero=Phase.ENDED)),
    (DOWN._replace(after_zero=Phase.SETTLE), given(wish="pause"),
     moved(DOWN, "", level_ua=500, shown_ua=500, after_zero=Phase.PAUSED)),
    (DOWN._replace(after_zero=Phase.ENDED), given(wish="pause"),
     moved(DOWN, "", level_ua=500, shown_ua=500, after_zero=Phase.ENDED)),
    (DOWN, given(wish="end"), moved(DOWN, "", level_ua=500, shown_ua=500, after_zero=Phase.ENDED)),
    # the cycle itself
    (UP, given(), moved(UP, "", level_ua=345, shown_ua=345)),
    (UP._replace(since_ns=NOW_NS, level_ua=0, shown_ua=0), given(), moved(UP, "", since_ns=NOW_NS, level_ua=0, shown_ua=0)),
    (UP._replace(since_ns=NOW_NS - PARAMS.ramp_ns), given(),
     moved(UP, "full level", phase=Phase.HOLD, since_ns=NOW_NS, level_ua=1000, shown_ua=1000)),
    (HOLD, given(), moved(HOLD, "")),
    (HOLD._replace(since_ns=NOW_NS - HOLD.hold_ns), given(),
     moved(HOLD, "hold time over", phase=Phase.RAMP_DOWN, since_ns=NOW_NS, from_ua=1000, after_zero=Phase.SETTLE)),
    (DOWN._replace(since_ns=NOW_NS - 12 * NS_PER_S), given(),
     moved(DOWN, "zero confirmed", **{**CLOSED, "phase": Phase.PAUSED})),
    (DOWN._replace(since_ns=NOW_NS - 12 * NS_PER_S + 1), given(),
     moved(DOWN, "", since_ns=NOW_NS - 12 * NS_PER_S + 1, level_ua=0, shown_ua=0)),
    (DOWN._replace(since_ns=NOW_NS - 12 * NS_PER_S), given(at_zero=False),
     moved(DOWN, "", since_ns=NOW_NS - 12 * NS_PER_S, level_ua=0, shown_ua=0)),
    # at zero
    (state(Phase.SENSE, 3), given(wish="end"), moved(state(Phase.ENDED), "because")),
    (state(Phase.STOPPED, 3), given(wish="end", guard="safe"), moved(state(Phase.ENDED), "because")),
    (state(Phase.STOPPED, 3), given(wish="end", guard="safe", at_zero=False), moved(state(Phase.STOPPED, 3), "")),
    (state(Phase.SENSE, 3), given(wish="pause", decision=1), moved(state(Phase.PAUSED), "because")),
    (state(Phase.SETTLE, 3), given(wish="pause"), moved(state(Phase.PAUSED), "because")),
    (state(Phase.IDLE, 3), given(guard=""), moved(state(Phase.SENSE), "started")),
    (state(Phase.IDLE, 3), given(guard="armed"), moved(state(Phase.SENSE), "started")),
    (state(Phase.IDLE, 3), given(guard="live"), moved(state(Phase.SENSE), "started")),
    (state(Phase.IDLE, 3), given(guard="safe"), moved(state(Phase.IDLE, 3), "")),
    (state(Phase.STOPPED, 3), given(guard="armed"), moved(state(Phase.SETTLE), "armed again")),
    (state(Phase.STOPPED, 3), given(guard="live"), moved(state(Phase.SETTLE), "armed again")),
    (state(Phase.PAUSED, 3), given(wish="resume"), moved(state(Phase.SETTLE), "because")),
    (state(Phase.PAUSED, 3), given(), moved(state(Phase.PAUSED, 3), "")),
    (state(Phase.SETTLE, 4.999), given(), moved(state(Phase.SETTLE, 4.999), "")),
    (state(Phase.SETTLE, 5.0), given(), moved(state(Phase.SENSE), "settled")),
    (state(Phase.SENSE, 3), given(), moved(state(Phase.SENSE, 3), "")),
]  # fmt: skip
OPENED = dict(
    phase=Phase.RAMP_UP, since_ns=NOW_NS, level_ua=0, shown_ua=0, from_ua=0, decision=9, opened_ns=NOW_NS,
    after_zero=Phase.SETTLE, opened=3,
)  # fmt: skip
MOVES += [
    (state(Phase.SENSE, 3, level_ua=8, shown_ua=8), given(decision=9, guard=guard, hold_ns=asked_ns),
     moved(state(Phase.SENSE), "because", **OPENED, hold_ns=hold_ns))
    for guard in ("armed", "live")
    for asked_ns, hold_ns in ((None, PARAMS.hold_ns), (20 * NS_PER_S, 20 * NS_PER_S), (61 * NS_PER_S, PARAMS.hold_ns))
]  # fmt: skip


@pytest.mark.parametrize(("before", "said", "expected"), MOVES)
def test_a_step_gives_exactly_this(before: GateState, said: GateInput, expected: GateStep) -> None:
    result = gate.step(PARAMS, before, NOW_NS, said)
    assert result == expected
    assert isinstance(result.state.level_ua, int)


@pytest.mark.parametrize(("from_ua", "lasts_ns"), [(1000, 10 * NS_PER_S), (333, 3_330_000_000), (0, 1), (1, 10_000_000)])
def test_a_ramp_down_lasts_in_proportion_in_whole_nanoseconds(from_ua: int, lasts_ns: int) -> None:
    result = gate.down_ns(PARAMS, from_ua)
    assert result == lasts_ns
    assert isinstance(result, int)


def test_a_sham_leaves_full_level_by_the_same_ramp() -> None:
    params = PARAMS._replace(plateau="released")
    levels = []
    before = HOLD
    for second in (0, 5, 10, 11):
        before = gate.step(params, before._replace(since_ns=NOW_NS - second * NS_PER_S), NOW_NS, given()).state
        assert (before.phase, before.shown_ua) == (Phase.HOLD, 1000)
        levels.append(before.level_ua)
    assert levels == [1000, 500, 0, 0]


@pytest.mark.parametrize(
    ("changes", "said", "words"),
    [
        (dict(), dict(guard="safe"), "the guard is safe, not armed"),
        (dict(), dict(guard=""), "the guard is absent, not armed"),
        (dict(), dict(guard="armed"), ""),
        (dict(closed_ns=NOW_NS - 30 * NS_PER_S), dict(), ""),
        (dict(closed_ns=NOW_NS - 18 * NS_PER_S), dict(), "refractory for another 12 s"),
        (dict(closed_ns=None), dict(), ""),
        # A gate lasts at most 80 s, so of 200 s a window of 400 s may hold 120 s before it, counted back from the gate's end.
        (dict(spells=(Spell(700 * NS_PER_S, 820 * NS_PER_S),)), dict(), ""),
        (dict(spells=(Spell(700 * NS_PER_S, 820 * NS_PER_S + 1),)), dict(), "duty limit: 120 s of the last 400 s had current"),
        (dict(spells=(Spell(600 * NS_PER_S, 800 * NS_PER_S),)), dict(), ""),
        (dict(spells=(Spell(600 * NS_PER_S, 801 * NS_PER_S),)), dict(), "duty limit: 121 s of the last 400 s had current"),
        (dict(spells=(Spell(1, 2), Spell(700 * NS_PER_S, 820 * NS_PER_S))), dict(), ""),
    ],
)
def test_a_held_gate_says_exactly_why(changes: dict[str, object], said: dict[str, object], words: str) -> None:
    before = state(Phase.SENSE, 3, **changes)
    wanted = given(decision=9, **said)
    assert gate.held_closed(PARAMS, before, NOW_NS, wanted) == words
    result = gate.step(PARAMS, before, NOW_NS, wanted)
    assert result.held == words
    if words:
        assert result == GateStep(before, "", words)


def test_a_spell_is_forgotten_when_no_window_reaches_it_any_more() -> None:
    edge = NOW_NS - PARAMS.duty_window_ns
    spells = (Spell(1, edge - 1), Spell(1, edge), Spell(1, edge + 1))
    after = gate.step(PARAMS, HOLD._replace(spells=spells), NOW_NS, given(guard="latched")).state
    assert after.spells == (Spell(1, edge + 1), Spell(HOLD.opened_ns, NOW_NS))
