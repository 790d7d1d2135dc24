"""How the guard enters a stop: the highest wins, none is ever downgraded (I08)."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from devices import guard_rules as rules
from devices.guard_state import NEVER, Action, DeviceStop, DisarmDevice, Params, Phase, State
from devices.stimulator import StopClass

Result = tuple[State, Sequence[Action]]


def latch(state: State, t_ns: int, reason: str) -> Result:
    """S0 from any phase: zero now, latched. A latch keeps its first reason, and the cut is repeated."""
    return rules.latch(
        state,
        t_ns,
        reason,
        level_ua=0,
        target_ua=0,
        credit=0,
        run_ns=NEVER,
        from_ua=state.level_ua,
        zero_ns=t_ns,
        off_ns=NEVER,
        ohm_ns=NEVER,
    )


def stop(params: Params, state: State, t_ns: int, stop_class: StopClass, reason: str) -> Result:
    """Enter the stop `stop_class`, unless one as high or higher is in force.

    Under current S1 and S2 ramp down from the present level. At zero current S1 leads to `stopped` (needs a reset) and S2
    to `safe`; before arming there is nothing for them to stop.
    """
    if stop_class is StopClass.S0_CUT:
        return latch(state, t_ns, reason)
    phase = rules.stopped_phase(state, stop_class, is_on=state.level_ua > 0)
    if phase is None:
        return state, []
    actions: list[Action] = [DisarmDevice()]
    if phase in (Phase.ABORTING, Phase.ENDING):
        by_device = params.device_ramp if phase is Phase.ABORTING else params.plan is not None
        actions = [DeviceStop(stop_class)] if by_device else []
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
