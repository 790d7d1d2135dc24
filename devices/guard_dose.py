"""What the guard of a current counts: what flows, what a way down would still take, and what a gate has used (I04). Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec.structs import replace

from devices.guard_state import MAX_COUNTED_UA, NEVER, Action, Params, Phase, Settle, State, fresh
from devices.units import NS_PER_MS, NS_PER_S


def flowing_ua(params: Params, state: State, t_ns: int) -> int:
    """Current to count (uA): the larger of commanded and measured, rounded up.

    At level 0 a device measures impedances with up to 10 uA; only what is clearly more counts as flowing. During an abort
    that nobody has answered yet the level from which it began is assumed to go on.
    """
    readback = state.readback
    if readback is None or readback.measured_ua is None or not fresh(params, state, t_ns):
        return state.from_ua if state.blind and state.phase is Phase.ABORTING else state.level_ua
    measured_ua = abs(readback.measured_ua)
    if state.level_ua or measured_ua > params.idle_tolerance_ua:
        return max(state.level_ua, math.ceil(min(measured_ua, MAX_COUNTED_UA)))
    return 0


def is_used_up(params: Params, state: State) -> bool:
    """Whether the way down from here would no longer fit into the reservation."""
    if state.level_ua == 0:
        return False
    ramp_ns = state.level_ua * 1000 * NS_PER_S // params.end_slew_na_s
    charge_fc = state.level_ua * (ramp_ns // 2 + params.lag_ns)
    return (
        state.gate_fc + charge_fc > state.reserved_uc * NS_PER_S
        or state.gate_ns + ramp_ns + params.lag_ns > state.reserved_ms * NS_PER_MS
    )


def settle(state: State) -> tuple[State, Sequence[Action]]:
    """At confirmed zero: count what the gate used; refund the rest once it has flowed or can no longer flow."""
    if not (state.flowed or (state.reserved_uc and state.phase not in (Phase.ARMED, Phase.LIVE))):
        return state, []
    used = Settle(-(-state.gate_fc // NS_PER_S), -(-state.gate_ns // NS_PER_MS))
    return replace(
        state,
        used_fc=state.used_fc + state.gate_fc,
        used_ns=state.used_ns + state.gate_ns,
        gate_fc=0,
        gate_ns=0,
        reserved_uc=0,
        reserved_ms=0,
        booking=0,
        booking_ns=NEVER,
        flowed=False,
    ), [used]
