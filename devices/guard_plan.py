"""What a gate that a device takes as a whole costs, and where it must be at a time. Pure."""

from __future__ import annotations

from devices.stimulator import GatePlan
from devices.units import NS_PER_MS


def planned_ua(plan: GatePlan, since_ns: int) -> int:
    """Magnitude (uA, rounded up) of a gate that began `since_ns` ago: straight up, hold, straight down, then 0."""
    rise_ns, hold_ns, fall_ns = (ms * NS_PER_MS for ms in (plan.rise_ms, plan.hold_ms, plan.fall_ms))
    left_ns = rise_ns + hold_ns + fall_ns - since_ns
    if left_ns <= 0:
        return 0
    most = abs(plan.level_ua)
    up = -(-most * since_ns // rise_ns) if rise_ns else most
    down = -(-most * left_ns // fall_ns) if fall_ns else most
    return max(1, min(most, up, down))


def gate_cost(plan: GatePlan) -> tuple[int, int]:
    """Charge (1e-15 C = microamp nanosecond) and time (ns) of the whole gate."""
    ramps_ms = plan.rise_ms + plan.fall_ms
    charge = abs(plan.level_ua) * (ramps_ms + 2 * plan.hold_ms) * NS_PER_MS // 2
    return charge, (ramps_ms + plan.hold_ms) * NS_PER_MS
