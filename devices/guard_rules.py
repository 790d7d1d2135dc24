"""The rules that the guard of a current and the guard of pulses have in common, each written once. Pure.

What a rule needs to know of the device, such as whether zero is confirmed, it is told; `own` are the fields that one guard
alone sets beside the common ones. Where a rule calls for a stop it says which and why, and the guard enters it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from msgspec.structs import replace

from devices import link
from devices.guard_state import (
    GARBAGE_ALLOWED,
    NEVER,
    WRONG_CODES_ALLOWED,
    Announce,
    Booked,
    BookFailed,
    CommonParams,
    CommonState,
    DeviceFailure,
    DeviceStop,
    DisarmDevice,
    EngineGone,
    Exit,
    ExitCode,
    Garbage,
    Leaving,
    Phase,
    ResetDevice,
    Send,
    Terminate,
    arm_code,
    fresh,
)
from devices.stimulator import StopClass
from devices.units import NS_PER_MS, NS_PER_S


class Numbered(Protocol):
    """A request of the engine."""

    @property
    def seq(self) -> int:
        """Its number."""
        ...


P = TypeVar("P", bound=CommonParams)
S = TypeVar("S", bound=CommonState)
E = TypeVar("E", bound=Numbered)
CommonAction = DeviceStop | DisarmDevice | ResetDevice | Send | Announce | Exit
Result = tuple[S, Sequence[CommonAction]]
Stopping = tuple[S, StopClass | None, str]
"""The state, the stop that is called for (None: none), and why."""
End = link.Stop | link.Goodbye | Garbage | EngineGone | Terminate


# ---- requests


def numbered(
    decide: Callable[[P, S, int, E], tuple[S, Sequence[Any]]],
) -> Callable[[P, S, int, E], tuple[S, Sequence[Any]]]:
    """Let `decide` see only requests whose number rises: a duplicate changes nothing (I10)."""

    def take(params: P, state: S, t_ns: int, event: E) -> tuple[S, Sequence[Any]]:
        if event.seq <= state.last_seq:
            return replace(state, dropped=state.dropped + 1), []
        return decide(params, replace(state, last_seq=event.seq), t_ns, event)

    return take


def refuse(state: S, seq: int, reason: str) -> Result[S]:
    """Say no to a request, and change nothing."""
    return state, [Send(link.Refused(seq=seq, reason=reason))]


def drop(params: CommonParams, state: S, t_ns: int, seq: int, reason: str) -> Result[S]:
    """Drop a wish for output (I05): it renews no lease. Wishes come every 20 ms, so that not every drop is told."""
    state = replace(state, dropped=state.dropped + 1)
    if t_ns - state.refused_ns < params.slow_ns:
        return state, []
    return refuse(replace(state, refused_ns=t_ns), seq, reason)


def not_in_session(state: CommonState, what: str) -> str:
    """Why there is `what` ("no level") outside an armed session; empty within one."""
    if state.phase in (Phase.ARMED, Phase.LIVE):
        return ""
    return f"{what} while {state.phase.value} ({state.reason})"[:500]


def too_late(t_ns: int, deadline_ns: int) -> str:
    """Why a lease that is over is none (I05); empty while it runs."""
    return f"the command came {(t_ns - deadline_ns) // NS_PER_MS} ms after its deadline" if deadline_ns <= t_ns else ""


def why_not_arm(params: CommonParams, state: CommonState, t_ns: int) -> str:
    """Why nothing may be armed, whatever dose and device say; empty where they decide."""
    if state.phase is not Phase.SAFE:
        return f"the guard is {state.phase.value} ({state.reason})"[:400]
    if state.leaving:
        return "the guard is about to end"
    if params.forbidden:
        return params.forbidden
    if t_ns >= params.arm_until_ns:
        return "the pre-arm checklist is out of date: the day that it was filled in for is over"
    return ""


def arm(params: CommonParams, state: S, t_ns: int, event: link.Arm, why_not: str, *tell: Any) -> tuple[S, Sequence[Any]]:
    """Arm on the operator's code, unless something speaks against it, and `tell` the device; three wrong codes make a new."""
    if why_not:
        return refuse(state, event.seq, f"not armed: {why_not}")
    if event.code.strip().upper() != arm_code(params, state):
        wrong = state.wrong_codes + 1
        if wrong < WRONG_CODES_ALLOWED:
            return refuse(replace(state, wrong_codes=wrong), event.seq, "not armed: the code is wrong")
        state = replace(state, wrong_codes=0, code_index=state.code_index + 1)
        state, actions = refuse(state, event.seq, "not armed: the code was wrong three times; there is a new code")
        return state, [*actions, Announce()]
    index = state.code_index + 1
    state = replace(state, phase=Phase.ARMED, phase_ns=t_ns, reason="armed", wrong_codes=0, code_index=index)
    return state, [*tell, Announce()]


def reset(state: S, t_ns: int, event: link.Reset, unconfirmed: str, **own: Any) -> Result[S]:
    """Leave a latch or an abort, by an operator, at confirmed zero; arming is needed anew (I07)."""
    if state.phase not in (Phase.STOPPED, Phase.LATCHED):
        return refuse(state, event.seq, f"nothing to reset: the guard is {state.phase.value}")
    if state.leaving:
        return refuse(state, event.seq, "the guard is about to end")
    if unconfirmed:
        return refuse(state, event.seq, f"not reset: {unconfirmed}")
    return replace(
        state,
        phase=Phase.ZEROING,
        stop_class=None,
        reason=f"reset by {event.operator}",
        phase_ns=t_ns,
        boot_count=None,
        blind=False,
        garbage_ns=(),
        **own,
    ), [ResetDevice()]


# ---- the ledger


def booked(params: P, state: S, t_ns: int, event: Booked, report: Callable[[P, S, int], link.Report]) -> Result[S]:
    """The reservation is on disk: what it is for may be given."""
    if event.seq != state.booking:
        return state, []
    state = replace(state, booking=0, booking_ns=NEVER)
    return state, [Send(report(params, state, t_ns))]


def book_failed(state: S, event: BookFailed, **own: Any) -> Result[S]:
    """The ledger did not take the reservation, so nothing may be given."""
    if event.seq != state.booking:
        return state, []
    state = replace(state, booking=0, booking_ns=NEVER, **own)
    return refuse(state, event.seq, f"dose: the ledger could not be written: {event.what}"[:500])


def wait_for_ledger(params: CommonParams, state: S, t_ns: int, **own: Any) -> Result[S]:
    """Nothing is given before the reservation is on disk; a ledger that takes too long is waited for no longer."""
    if t_ns - state.booking_ns <= params.book_ns:
        return state, []
    reason = f"dose: the ledger has not committed within {params.book_ns // NS_PER_MS} ms"
    # To be settled like a gate that was given: refunded at confirmed zero, and nothing is given or reserved before.
    given_up = replace(state, booking=0, booking_ns=NEVER, flowed=True, **own)
    return refuse(given_up, state.booking, reason)


# ---- stops: the highest wins, none is ever downgraded (I08)


def latch(state: S, t_ns: int, reason: str, **own: Any) -> Result[S]:
    """S0 from any phase. A latch keeps its first reason, and the cut is repeated."""
    cut = [DeviceStop(StopClass.S0_CUT)]
    if state.phase is Phase.LATCHED:
        return state, cut
    return replace(
        state,
        phase=Phase.LATCHED,
        stop_class=StopClass.S0_CUT,
        reason=reason,
        lease_ns=NEVER,
        phase_ns=t_ns,
        **own,
    ), cut


def stopped_phase(state: CommonState, stop_class: StopClass, *, is_on: bool) -> Phase | None:
    """Where S1 or S2 leads; None where one as high or higher is in force, or before arming, where there is nothing to stop.

    While the device `is_on` it must first be brought to zero. From zero S1 leads to `stopped`, which needs a reset, S2 to
    `safe`.
    """
    if state.stop_class is not None and state.stop_class <= stop_class:
        return None
    if state.phase in (Phase.ZEROING, Phase.SAFE):
        return None
    abort = stop_class is StopClass.S1_ABORT_RAMP
    if is_on or state.phase is Phase.ENDING:
        return Phase.ABORTING if abort else Phase.ENDING
    return Phase.STOPPED if abort else Phase.SAFE


def stalled(params: CommonParams, state: CommonState, t_ns: int) -> str:
    """Why this input comes too late after the last tick (S0 before anything else); empty where it does not."""
    if state.tick_ns == NEVER or t_ns - state.tick_ns <= params.tick_ns + params.late_ns:
        return ""
    return f"the guard's tick came after {(t_ns - state.tick_ns) // NS_PER_MS} ms: suspended or stalled"


def arming_expired(params: CommonParams, state: CommonState, t_ns: int) -> str:
    """Why an armed guard is so no longer (I27); empty while it may wait."""
    if t_ns - state.phase_ns < params.arm_valid_ns:
        return ""
    return f"arming expired: no command for {params.arm_valid_ns // NS_PER_S} s"


def silenced(state: S, why: str) -> tuple[S, StopClass, str]:
    """The device is silent while it is on: S1, and S0 for the second time."""
    state = replace(state, silences=state.silences + 1, blind=True)
    if state.silences > 1:
        return state, StopClass.S0_CUT, f"{why}, for the second time"
    return state, StopClass.S1_ABORT_RAMP, why


def uncertain(state: S, event: DeviceFailure, *, is_on: bool) -> Stopping[S]:
    """A reply is overdue: the most is assumed, and nothing but stops goes out until the device answers."""
    if is_on:
        return silenced(state, event.what)
    if state.phase in (Phase.ARMED, Phase.LIVE):
        return state, StopClass.S2_SESSION_RAMP, f"the device is silent: {event.what}"[:500]
    return replace(state, blind=state.blind or state.phase is Phase.ABORTING), None, ""


def ended(params: CommonParams, state: S, t_ns: int, event: End) -> Stopping[S]:
    """Stop, goodbye, garbage, and the ends of the engine and of the process."""
    match event:
        case link.Stop():
            return state, StopClass(event.stop_class), event.reason or "stop"
        case link.Goodbye():
            return _leaving(state, t_ns, Leaving.GOODBYE), StopClass.S2_SESSION_RAMP, f"goodbye: {event.reason}"[:500]
        case Garbage():
            return _garbage(params, state, t_ns, event)
        case EngineGone():
            if state.leaving is Leaving.GOODBYE:
                return state, None, ""
            return _leaving(state, t_ns, Leaving.ENGINE_GONE), StopClass.S1_ABORT_RAMP, "the engine has gone"
        case Terminate():
            return _leaving(state, t_ns, Leaving.TERMINATED), StopClass.S1_ABORT_RAMP, "the guard was asked to end"


def _garbage(params: CommonParams, state: S, t_ns: int, event: Garbage) -> Stopping[S]:
    recent = (*(t for t in state.garbage_ns if t_ns - t < params.garbage_ns), t_ns)[-GARBAGE_ALLOWED:]
    state = replace(state, garbage_ns=recent, dropped=state.dropped + 1)
    if len(recent) < GARBAGE_ALLOWED:
        return state, None, ""
    return state, StopClass.S0_CUT, f"garbage from the engine, {GARBAGE_ALLOWED} times in 1 s: {event.what}"[:500]


def _leaving(state: S, t_ns: int, why: Leaving) -> S:
    return state if state.leaving >= why else replace(state, leaving=why, leaving_ns=t_ns)


def leave(params: P, state: S, t_ns: int, report: Callable[[P, S, int], link.Report], *, is_zero: bool) -> Result[S]:
    """End the process once zero is confirmed; or, to be told that it is not, after having waited long enough."""
    if state.phase not in (Phase.SAFE, Phase.STOPPED, Phase.LATCHED):
        return state, []
    if is_zero:
        code = ExitCode.ENDED if state.leaving is Leaving.GOODBYE else ExitCode.ENGINE_LOST
        return replace(state, exited=True), [DisarmDevice(), Send(report(params, state, t_ns)), Exit(code)]
    waited_ns = t_ns - max(state.leaving_ns, state.phase_ns)
    if waited_ns > params.give_up_ns and (state.leaving is Leaving.TERMINATED or not fresh(params, state, t_ns)):
        return replace(state, exited=True), [
            DeviceStop(StopClass.S0_CUT),
            Send(report(params, state, t_ns)),
            Exit(ExitCode.ZERO_UNCONFIRMED),
        ]
    return state, []
