"""How the guard enters a stop: the highest wins, none is ever downgraded (I08)."""

from __future__ import annotations

from msgspec.structs import replace

from devices.guard_state import NEVER, Action, DeviceStop, DisarmDevice, Params, Phase, State
from devices.stimulator import StopClass


def latch(state: State, t_ns: int, reason: str) -> tuple[State, list[Action]]:
    """S0 from any phase: zero now, latched. A latch keeps its first reason, and the cut is repeated."""
    if state.phase is Phase.LATCHED:
        return state, [DeviceStop(StopClass.S0_CUT)]
    return replace(
        state,
        phase=Phase.LATCHED,
        stop_class=StopClass.S0_CUT,
        reason=reason,
        level_ua=0,
        target_ua=0,
        credit=0,
        lease_ns=NEVER,
        run_ns=NEVER,
        from_ua=state.level_ua,
        phase_ns=t_ns,
        zero_ns=t_ns,
        off_ns=NEVER,
        ohm_ns=NEVER,
    ), [DeviceStop(StopClass.S0_CUT)]


def stop(params: Params, state: State, t_ns: int, stop_class: StopClass, reason: str) -> tuple[State, list[Action]]:
    """Enter the stop `stop_class`, unless one as high or higher is in force.

    Under current S1 and S2 ramp down from the present level. At zero current S1 leads to `stopped` (needs a reset) and S2
    to `safe`; before arming there is nothing for them to stop.
    """
    if stop_class is StopClass.S0_CUT:
        return latch(state, t_ns, reason)
    if state.stop_class is not None and state.stop_class <= stop_class:
        return state, []
    if state.phase in (Phase.ZEROING, Phase.SAFE):
        return state, []
    abort = stop_class is StopClass.S1_ABORT_RAMP
    phase: Phase
    actions: list[Action]
    if state.level_ua or state.phase is Phase.ENDING:
        phase = Phase.ABORTING if abort else Phase.ENDING
        by_device = params.device_ramp if abort else params.plan is not None
        actions = [DeviceStop(stop_class)] if by_device else []
    else:
        phase = Phase.STOPPED if abort else Phase.SAFE
        actions = [DisarmDevice()]
    return replace(
        state,
        phase=phase,
        stop_class=None if phase is Phase.SAFE else stop_class,
        reason=reason,
        target_ua=0,
        credit=0,
        lease_ns=NEVER,
        run_ns=NEVER,
        from_ua=state.level_ua,
        phase_ns=t_ns,
        off_ns=NEVER,
        ohm_ns=NEVER,
    ), actions
