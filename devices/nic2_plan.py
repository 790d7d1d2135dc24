"""How a gate becomes commands of NIC2, and what the device then delivers by time; pure.

One online command makes one straight change of 0.1 to 10 s, so a longer ramp is a chain. The vendor's client warns of changes
below 0.061 uA/ms; until a bench test says otherwise this counts for direct current too, so a ramp can be too slow.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from devices.nic2_codec import MAX_TIME_MS, MIN_TIME_MS
from devices.stimulator import GatePlan
from devices.units import NS_PER_MS

LEAST_SLOPE_UA_MS: Final = 0.061


class Leg(msgspec.Struct, frozen=True):
    """One online change: when to send it (ms after the gate's begin), where to (uA, signed), and in which time (ms)."""

    at_ms: int
    to_ua: int
    transition_ms: int


class Course(msgspec.Struct, frozen=True):
    """Levels by time: straight lines between corners (ns, uA signed); the last level goes on."""

    corners: tuple[tuple[int, float], ...]

    def level_ua(self, t_ns: int) -> float:
        """Level at `t_ns`; before the first corner its level."""
        before_ns, before_ua = self.corners[0]
        for at_ns, ua in self.corners:
            if t_ns < at_ns:
                if at_ns == before_ns or t_ns <= before_ns:
                    return before_ua
                return before_ua + (ua - before_ua) * (t_ns - before_ns) / (at_ns - before_ns)
            before_ns, before_ua = at_ns, ua
        return before_ua

    def greatest_ua(self, from_ns: int) -> int:
        """Greatest magnitude from `from_ns` on, rounded up."""
        later = [abs(ua) for at_ns, ua in self.corners if at_ns >= from_ns]
        return math.ceil(max([*later, abs(self.level_ua(from_ns))]) - 1e-9)

    @property
    def end_ns(self) -> int:
        """When the last corner is reached."""
        return self.corners[-1][0]


def course(plan: GatePlan, begin_ns: int) -> Course:
    """What a gate that begins at `begin_ns` is to deliver."""
    up = begin_ns + plan.rise_ms * NS_PER_MS
    down = up + plan.hold_ms * NS_PER_MS
    return Course(((begin_ns, 0.0), (up, plan.level_ua), (down, plan.level_ua), (down + plan.fall_ms * NS_PER_MS, 0.0)))


def why_not(plan: GatePlan, max_level_ua: int, max_slew_ua_s: int, longest_hold_ms: int | None) -> str:
    """Why a device of these limits cannot take `plan`; empty if it can.

    Parameters
    ----------
    plan : GatePlan
        The gate.
    max_level_ua, max_slew_ua_s : int
        As armed.
    longest_hold_ms : int or None
        Where the whole gate is one command: its longest hold, which then bounds the ramps too. None where ramps are chained.
    """
    size = abs(plan.level_ua)
    if not 0 < size <= max_level_ua:
        return f"a level of {plan.level_ua} uA; armed for at most {max_level_ua} uA, and not zero"
    for name, time_ms in (("rise", plan.rise_ms), ("fall", plan.fall_ms)):
        if time_ms < MIN_TIME_MS or (longest_hold_ms is not None and time_ms > MAX_TIME_MS):
            most = f" to {MAX_TIME_MS}" if longest_hold_ms is not None else " or more"
            return f"a {name} of {time_ms} ms; NIC takes {MIN_TIME_MS}{most} ms in this mode"
        if size > max_slew_ua_s * time_ms / 1000.0 + 1e-9:
            return f"a {name} to {size} uA in {time_ms} ms; armed for at most {max_slew_ua_s} uA/s"
        if size < LEAST_SLOPE_UA_MS * time_ms - 1e-9:
            longest = math.floor(size / LEAST_SLOPE_UA_MS / 100.0) / 10.0
            return (
                f"a {name} to {size} uA in {time_ms / 1000:g} s is slower than the {1000 * LEAST_SLOPE_UA_MS:g} uA/s that "
                f"Starstim needs; write at most stimulation.ramp_s = {longest:g}"
            )
    if plan.hold_ms < MIN_TIME_MS or (longest_hold_ms is not None and plan.hold_ms > longest_hold_ms):
        return f"a hold of {plan.hold_ms} ms; this mode takes {MIN_TIME_MS} to {longest_hold_ms or 'any'} ms"
    return ""


def ramp(at_ms: int, from_ua: int, to_ua: int, span_ms: int) -> list[Leg]:
    """A straight ramp as a chain of changes of at most 10 s, as equal as whole milliseconds and microamps allow."""
    count = max(1, -(-span_ms // MAX_TIME_MS))
    legs = []
    begin_ms = 0
    for i in range(1, count + 1):
        end_ms = span_ms * i // count
        level = to_ua if i == count else from_ua + round((to_ua - from_ua) * end_ms / span_ms)
        legs.append(Leg(at_ms + begin_ms, level, max(MIN_TIME_MS, end_ms - begin_ms)))
        begin_ms = end_ms
    return legs


def legs(plan: GatePlan, late_ms: int) -> list[Leg]:
    """All changes of a gate whose rise begins `late_ms` after the gate did: the hold is shorter by that, the end on time."""
    up = ramp(late_ms, 0, plan.level_ua, plan.rise_ms)
    return up + ramp(plan.rise_ms + plan.hold_ms, plan.level_ua, 0, plan.fall_ms)
