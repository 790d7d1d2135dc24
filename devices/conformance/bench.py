"""A rig with what the conformance checks have in common: stepping, ramping, watching the ammeter, and every bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, cast

from devices.conformance.any_bench import LEASE_MS, SLACK_S, AnyBench
from devices.conformance.rig import Rig, require
from devices.limits import ABORT_SLEW_UA_S
from devices.stimulator import (
    Capabilities,
    DeviceState,
    GatePlan,
    GateStimulator,
    Identity,
    Readback,
    Stimulator,
    StopClass,
)

ZERO_UA: Final = 10.0
SLEW_UA_S: Final = 100
PATIENCE_S: Final = 3.0
HOLDING: Final = (DeviceState.ARMED, DeviceState.ACTIVE)


class Bench(AnyBench[Readback]):
    """A rig with what the checks have in common: stepping, ramping, watching."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(rig, lambda: rig.driver, PATIENCE_S)
        self.rig = rig
        self.peak_ua = 0.0

    @property
    def driver(self) -> Stimulator:
        """The driver under test."""
        return self.rig.driver

    @property
    def can(self) -> Capabilities:
        """What it says that it can."""
        return self.rig.driver.capabilities

    @property
    def level_ua(self) -> int:
        """The level that the rig allows."""
        return self.rig.level_ua

    def step(self, act: Callable[[], None] | None = None, *, poll: bool = True) -> list[Readback]:
        """Ten milliseconds: act, wait, poll, look at the ammeter."""
        fresh = super().step(act, poll=poll)
        self.peak_ua = max(self.peak_ua, abs(self.rig.current_ua()))
        return fresh

    def until_zero(self, bound_s: float, what: str, act: Callable[[], None] | None = None, *, poll: bool = True) -> None:
        """Step until the true current is zero; it must be so within the bound, and must not have risen on the way."""
        start_ns = self.rig.now_ns()
        start_ua = abs(self.rig.current_ua())
        while abs(self.rig.current_ua()) > ZERO_UA:
            since_s = (self.rig.now_ns() - start_ns) / 1e9
            require(since_s <= bound_s, f"{what}: {self.rig.current_ua():.0f} uA still flow after {since_s:.2f} s; "
                    f"the capabilities promise zero within {bound_s:.2f} s")  # fmt: skip
            self.step(act, poll=poll)
            most_ua = start_ua + self.rig.tolerance_ua
            require(abs(self.rig.current_ua()) <= most_ua, f"{what}: the current rose from {start_ua:.0f} uA")

    def at_zero(self, what: str) -> None:
        """The true current is zero now."""
        flows = self.rig.current_ua()
        require(abs(flows) <= ZERO_UA, f"{what}: {flows:.0f} uA flow")

    # ---- to a state

    def open(self) -> Identity:
        """Open; a device that has latched its host's silence is reset, as an operator does."""
        who = self.driver.open()
        first = self.until(lambda _: True, "anything")
        if first.fault or first.state is DeviceState.FAULT:
            self.driver.reset_fault()
            self.until(lambda r: not r.fault and r.state is DeviceState.IDLE, "the end of the fault after a reset")
        return who

    def arm(self, max_level_ua: int | None = None) -> None:
        """Open and arm."""
        self.open()
        self.driver.arm(max_level_ua or self.level_ua, SLEW_UA_S)
        self.until(lambda r: r.state in HOLDING, "ARMED after arm()", self.driver.heartbeat)

    def ask(self, level_ua: int) -> None:
        """Ask for a level in the way of this device: one set point, or one gate of a second."""
        if not self.can.whole_gate:
            self.driver.set_level(level_ua, LEASE_MS)
            return
        way_ms = max(1000, round(self.can.min_transition_s * 1000))
        plan = GatePlan(level_ua=level_ua, rise_ms=way_ms, hold_ms=1000, fall_ms=way_ms)
        cast("GateStimulator", self.driver).run_gate(plan)

    def begin(self, sign: int = 1) -> Callable[[], None]:
        """Begin to rise to the level; returns what goes on with it when called every step."""
        level = sign * self.level_ua
        if self.can.whole_gate:
            hold_ms = round(1000 * min(self.can.max_hold_s or 10.0, 10.0))
            way_ms = round(1000 * self.ramp_s)
            plan = GatePlan(level_ua=level, rise_ms=way_ms, hold_ms=hold_ms, fall_ms=way_ms)
            cast("GateStimulator", self.driver).run_gate(plan)
            return self.driver.heartbeat
        start_ns = self.rig.now_ns()

        def climb() -> None:
            so_far_ua = (self.rig.now_ns() - start_ns) / 1e9 * SLEW_UA_S
            self.driver.set_level(sign * min(self.level_ua, math.ceil(so_far_ua)), LEASE_MS)

        return climb

    def rise(self, sign: int = 1) -> Callable[[], None]:
        """From ARMED to the level; returns what keeps it there when called every step."""
        keep = self.begin(sign)
        level = sign * self.level_ua
        self.until(lambda r: r.commanded_ua == level, f"a set point of {level} uA", keep, self.ramp_s + PATIENCE_S)
        self.run(self.settle_s, keep)
        return keep

    def hold(self, sign: int = 1) -> Callable[[], None]:
        """From closed to holding the level."""
        self.arm()
        return self.rise(sign)

    # ---- what the capabilities promise

    @property
    def ramp_s(self) -> float:
        """Duration of the suite's own ramps."""
        return max(self.level_ua / SLEW_UA_S, self.can.min_transition_s)

    @property
    def settle_s(self) -> float:
        """From a set point to a report of it."""
        return self.can.command_latency_s + self.can.min_transition_s + self.can.readback_interval_s + 0.1

    @property
    def cut_s(self) -> float:
        """Bound of a cut."""
        return self.can.command_latency_s + self.can.min_transition_s + SLACK_S

    def stop_s(self, stop_class: StopClass) -> float:
        """Bound of a stop from the level."""
        if stop_class is StopClass.S0_CUT or not self.can.device_ramp:
            return self.cut_s
        slew_ua_s = ABORT_SLEW_UA_S if stop_class is StopClass.S1_ABORT_RAMP else SLEW_UA_S
        return self.cut_s + (self.level_ua + self.rig.tolerance_ua) / slew_ua_s

    @property
    def silence_s(self) -> float:
        """Bound of the current after the host has fallen silent."""
        return self.can.host_timeout_s + self.level_ua / ABORT_SLEW_UA_S + self.cut_s
