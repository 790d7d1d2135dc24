"""The interleaved cycle SENSE → RAMP_UP → HOLD → RAMP_DOWN → SETTLE as a pure state machine.

Direct current and EEG do not mix: evidence is gathered at zero current only. `step` is a pure function of parameters,
state, time and what is known of guard and operator; it says which level is wanted now and what changed.
"""

from __future__ import annotations

import enum
import math
from typing import Final, Literal, NamedTuple

from devices.units import NS_PER_S

Wish = Literal["none", "pause", "resume", "end"]


class Phase(enum.StrEnum):
    """Where in the cycle the session is."""

    IDLE = "IDLE"
    SENSE = "SENSE"
    RAMP_UP = "RAMP_UP"
    HOLD = "HOLD"
    RAMP_DOWN = "RAMP_DOWN"
    SETTLE = "SETTLE"
    PAUSED = "PAUSED"
    STOPPED = "STOPPED"
    ENDED = "ENDED"


WITH_CURRENT: Final = frozenset({Phase.RAMP_UP, Phase.HOLD, Phase.RAMP_DOWN})
_STOPPED_GUARD: Final = frozenset({"aborting", "stopped", "latched"})


class GateParams(NamedTuple):
    """Times in nanoseconds, level in microamps.

    `plateau` is ``held``, or ``released`` in sham: full level is left again at once by the same ramp, and the rest of HOLD and
    RAMP_DOWN passes at zero, so that everything but the current, its timing above all, is as in a real gate. `confirm_ns` after
    a ramp the guard has confirmed zero: no gate closes before, since a real one would close later than a sham, and tell.
    """

    level_ua: int
    ramp_ns: int
    hold_ns: int
    settle_ns: int
    refractory_ns: int
    max_duty: float
    duty_window_ns: int
    plateau: Literal["held", "released"] = "held"
    confirm_ns: int = 0


class Spell(NamedTuple):
    """A stretch of time during which current flowed."""

    start_ns: int
    stop_ns: int


class GateState(NamedTuple):
    """State of the cycle; `spells` are the gates so far.

    `level_ua` is what is wanted now, `shown_ua` what it would be in a real gate (the same, unless this is a sham), `from_ua`
    the shown level at which the present ramp began.

    `after_zero` is what follows a ramp-down: SETTLE in the ordinary cycle, PAUSED or ENDED when asked for. `hold_ns` is this
    gate's own plateau.
    """

    phase: Phase = Phase.IDLE
    since_ns: int = 0
    from_ua: int = 0
    level_ua: int = 0
    shown_ua: int = 0
    decision: int = 0
    opened_ns: int = 0
    closed_ns: int | None = None
    after_zero: Phase = Phase.SETTLE
    spells: tuple[Spell, ...] = ()
    opened: int = 0
    hold_ns: int = 0


class GateInput(NamedTuple):
    """What is known at a tick.

    `guard` is the guard's phase ("" where there is none, "silent" where it says nothing any more), `at_zero` that it has
    confirmed zero, `decision` is above 0 when the policy wants the gate open, `hold_ns` how long it then wants it held (None:
    as configured, which also is the longest).
    """

    guard: str
    guard_reason: str
    at_zero: bool
    decision: int
    wish: Wish
    reason: str
    hold_ns: int | None = None


class GateStep(NamedTuple):
    """Result of a step; `reason` is empty where the phase did not change, `held` says why a wanted gate stays closed."""

    state: GateState
    reason: str
    held: str


def ramp_level_ua(from_ua: int, to_ua: int, elapsed_ns: int, ramp_ns: int) -> int:
    """Raised cosine from one level to another, whole microamps (K2: corners of a linear ramp ring in the EEG)."""
    if elapsed_ns >= ramp_ns:
        return to_ua
    share = 0.5 - 0.5 * math.cos(math.pi * max(elapsed_ns, 0) / ramp_ns)
    return from_ua + round((to_ua - from_ua) * share)


def down_ns(params: GateParams, from_ua: int) -> int:
    """Duration of a ramp-down: as steep as the whole ramp at most, so shorter from a lower level."""
    return max(1, params.ramp_ns * from_ua // params.level_ua)


def ramp_down(state: GateState, t_ns: int, after: Phase) -> GateState:
    """Begin the ramp from the present level to zero; `after` follows once zero is confirmed."""
    return state._replace(phase=Phase.RAMP_DOWN, since_ns=t_ns, from_ua=state.shown_ua, after_zero=after)


def step(params: GateParams, state: GateState, t_ns: int, given: GateInput) -> GateStep:
    """One step of the cycle.

    Parameters
    ----------
    params : GateParams
    state : GateState
    t_ns : int
        Now; never before the last step's.
    given : GateInput

    Returns
    -------
    GateStep
        A level above zero only in RAMP_UP, HOLD and RAMP_DOWN; in RAMP_DOWN it never rises (I07).
    """
    if state.phase is Phase.ENDED:
        return GateStep(state, "", "")
    if given.guard in _STOPPED_GUARD and state.phase is not Phase.STOPPED:
        return GateStep(_stopped(params, state, t_ns), given.guard_reason or given.guard, "")
    if state.phase in WITH_CURRENT:
        return _with_current(params, state, t_ns, given)
    return _at_zero(params, state, t_ns, given)


def _with_current(params: GateParams, state: GateState, t_ns: int, given: GateInput) -> GateStep:
    if given.guard == "ending":
        # Dose or time used up: the guard ramps by itself, the gate follows and the session ends at zero.
        if state.phase is not Phase.RAMP_DOWN:
            return GateStep(ramp_down(state, t_ns, Phase.ENDED), given.guard_reason or "the guard ends the session", "")
        state = state._replace(after_zero=Phase.ENDED)
    if given.wish in ("pause", "end"):
        after = Phase.PAUSED if given.wish == "pause" else Phase.ENDED
        if state.phase is not Phase.RAMP_DOWN:
            return GateStep(ramp_down(state, t_ns, after), given.reason, "")
        if after is Phase.ENDED or state.after_zero is Phase.SETTLE:
            state = state._replace(after_zero=after)
    elapsed_ns = t_ns - state.since_ns
    if state.phase is Phase.RAMP_UP:
        level = ramp_level_ua(0, params.level_ua, elapsed_ns, params.ramp_ns)
        if elapsed_ns >= params.ramp_ns:
            return GateStep(state._replace(phase=Phase.HOLD, since_ns=t_ns, level_ua=level, shown_ua=level), "full level", "")
        level = max(level, state.level_ua)
        return GateStep(state._replace(level_ua=level, shown_ua=level), "", "")
    if state.phase is Phase.HOLD:
        if elapsed_ns >= state.hold_ns:
            return GateStep(ramp_down(state, t_ns, Phase.SETTLE), "hold time over", "")
        if params.plateau == "released":
            level = ramp_level_ua(params.level_ua, 0, elapsed_ns, params.ramp_ns)
            return GateStep(state._replace(level_ua=min(level, state.level_ua)), "", "")
        return GateStep(state._replace(level_ua=params.level_ua), "", "")
    whole_ns = down_ns(params, state.from_ua)
    level = min(ramp_level_ua(state.from_ua, 0, elapsed_ns, whole_ns), state.shown_ua)
    state = state._replace(level_ua=min(level, state.level_ua), shown_ua=level)
    if state.level_ua == 0 and given.at_zero and elapsed_ns >= whole_ns + params.confirm_ns:
        return GateStep(_closed(params, state, t_ns, state.after_zero), "zero confirmed", "")
    return GateStep(state, "", "")


def _at_zero(params: GateParams, state: GateState, t_ns: int, given: GateInput) -> GateStep:
    if given.wish == "end" and (given.at_zero or state.phase is not Phase.STOPPED):
        return GateStep(state._replace(phase=Phase.ENDED, since_ns=t_ns), given.reason, "")
    if given.wish == "pause" and state.phase in (Phase.SENSE, Phase.SETTLE):
        return GateStep(state._replace(phase=Phase.PAUSED, since_ns=t_ns), given.reason, "")
    if state.phase is Phase.IDLE and given.guard in ("", "armed", "live"):
        return GateStep(state._replace(phase=Phase.SENSE, since_ns=t_ns), "started", "")
    if state.phase is Phase.STOPPED and given.guard in ("armed", "live"):
        return GateStep(state._replace(phase=Phase.SETTLE, since_ns=t_ns), "armed again", "")
    if state.phase is Phase.PAUSED and given.wish == "resume":
        return GateStep(state._replace(phase=Phase.SETTLE, since_ns=t_ns), given.reason, "")
    if state.phase is Phase.SETTLE and t_ns - state.since_ns >= params.settle_ns:
        return GateStep(state._replace(phase=Phase.SENSE, since_ns=t_ns), "settled", "")
    if state.phase is Phase.SENSE and given.decision:
        held = held_closed(params, state, t_ns, given)
        if held:
            return GateStep(state, "", held)
        opened = state._replace(
            phase=Phase.RAMP_UP,
            since_ns=t_ns,
            level_ua=0,
            shown_ua=0,
            from_ua=0,
            decision=given.decision,
            opened_ns=t_ns,
            after_zero=Phase.SETTLE,
            opened=state.opened + 1,
            hold_ns=params.hold_ns if given.hold_ns is None else min(given.hold_ns, params.hold_ns),
        )
        return GateStep(opened, given.reason, "")
    return GateStep(state, "", "")


def held_closed(params: GateParams, state: GateState, t_ns: int, given: GateInput) -> str:
    """Why a gate that the policy wants open must stay closed; empty where nothing speaks against it."""
    if given.guard not in ("armed", "live"):
        return f"the guard is {given.guard or 'absent'}, not armed"
    if state.closed_ns is not None and t_ns - state.closed_ns < params.refractory_ns:
        left = (params.refractory_ns - (t_ns - state.closed_ns)) / NS_PER_S
        return f"refractory for another {left:.0f} s"
    gate_ns = 2 * params.ramp_ns + params.hold_ns
    begin = t_ns + gate_ns - params.duty_window_ns
    used = sum(max(0, spell.stop_ns - max(spell.start_ns, begin)) for spell in state.spells)
    if used + gate_ns > params.max_duty * params.duty_window_ns:
        return f"duty limit: {used / NS_PER_S:.0f} s of the last {params.duty_window_ns / NS_PER_S:.0f} s had current"
    return ""


def _stopped(params: GateParams, state: GateState, t_ns: int) -> GateState:
    if state.phase in WITH_CURRENT:
        return _closed(params, state, t_ns, Phase.STOPPED)
    return state._replace(phase=Phase.STOPPED, since_ns=t_ns, level_ua=0, shown_ua=0)


def _closed(params: GateParams, state: GateState, t_ns: int, after: Phase) -> GateState:
    # By age, not by number: every spell that a duty window can still reach must be kept.
    recent = [spell for spell in state.spells if spell.stop_ns > t_ns - params.duty_window_ns]
    spells = (*recent, Spell(state.opened_ns, t_ns))
    return state._replace(phase=after, since_ns=t_ns, level_ua=0, shown_ua=0, from_ua=0, closed_ns=t_ns, spells=spells)
