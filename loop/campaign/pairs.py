"""Two faults at once: each of five with each of three, up to 0.3 s apart, in either order."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final, NamedTuple

from loop.campaign.rig import Rig
from loop.campaign.rows import PAIR_FIRST, PAIR_SECOND
from loop.campaign.scenes import Case, Scene, emergency
from loop.events import RecorderLost

DEVICE_CUTS_S: Final = 0.42
_APART_S: Final = 0.3


class Half(NamedTuple):
    """One of two faults: what is done, and the bound that it has alone."""

    act: Callable[[Rig, random.Random], None]
    bound_s: float
    stop: str


def _drop(rig: Rig, _rng: random.Random) -> None:
    rig.stream.state = "drops"


HALVES: Final[dict[str, Half]] = {
    "gap": Half(_drop, 1.4, "S1"),
    "SIGSTOP engine": Half(lambda rig, _: rig.freeze("engine"), 1.5, "S1"),
    "disk full": Half(lambda rig, _: rig.feed(RecorderLost(t_ns=rig.t_ns, reason="No space left on device")), 1.4, "S1"),
    "wrong acknowledgement": Half(lambda rig, _: _injected(rig, "wrong_ack"), 0.40, "S0"),
    "emergency stop": Half(emergency, 0.25, "S0"),
    "engine SIGKILL": Half(lambda rig, _: rig.kill("engine"), 1.2, "S1"),
    "guard SIGKILL": Half(lambda rig, _: rig.kill("guard"), DEVICE_CUTS_S, "S0"),
    "impedance rise": Half(lambda rig, _: _injected(rig, "impedance_rise:over_s=0,factor=8"), 1.4, "S1"),
}
_BY_ENGINE: Final = ("gap", "disk full")
"""Faults that the engine must see; once it is dead or frozen, that is the fault which counts."""


def _injected(rig: Rig, text: str) -> None:
    rig.inject(text)


def _pair(first: str, second: str) -> Scene:
    def act(rig: Rig, rng: random.Random) -> Case:
        now_ns = rig.t_ns
        delays = {first: 0.0, second: 0.0}
        delays[rng.choice((first, second))] = rng.choice((0.0, rng.uniform(0.0, _APART_S)))
        at_ns = {name: now_ns + round(1e9 * delay) for name, delay in delays.items()}
        for name in sorted(delays, key=lambda name: delays[name]):
            rig.at(at_ns[name], lambda name=name: HALVES[name].act(rig, rng))  # type: ignore[misc]
        return Case(now_ns, bound_s=bound(first, second, delays), answers=answers(first, second, delays))

    # What is nearly over needs no answer: from 20 uA the ramp takes longer than the device needs to notice a dead guard.
    least_ua = 120.0 if second == "impedance rise" else 20.0
    return Scene(act, "current", least_ua)


def bound(first: str, second: str, delays: dict[str, float]) -> float:
    """The tighter of two bounds, in seconds from the earlier fault.

    A fault whose answerer dies before it has answered is owed nothing by it: what the device does by itself then counts.
    """
    ends = {name: delays[name] + HALVES[name].bound_s for name in delays}
    if second == "guard SIGKILL":
        done_s = ends[first] if delays[first] < delays[second] and ends[first] <= delays[second] else float("inf")
        return min(done_s, ends[second])
    if second == "engine SIGKILL" and first in _BY_ENGINE:
        return ends[second]
    return min(ends.values())


def answers(first: str, second: str, delays: dict[str, float]) -> tuple[str, ...]:
    """The higher of two stops; both where the later fault may come when the earlier has already brought zero."""
    stops = {HALVES[first].stop, HALVES[second].stop}
    if delays[first] == delays[second] and second != "guard SIGKILL":
        return ("S0",) if "S0" in stops else ("S1", "S0")
    return ("S0", "S1")


PAIRS: Final[dict[str, Scene]] = {
    f"F56 {first} + {second}": _pair(first, second) for first in PAIR_FIRST for second in PAIR_SECOND
}
