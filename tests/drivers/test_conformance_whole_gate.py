"""The suite over a driver that takes whole gates: the reference device, paced by a driver that knows only plans."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from devices.conformance import CHECKS, Rig
from devices.guard_plan import planned_ua
from devices.mock.rigs import VirtualReferenceRig
from devices.reference import CAPABILITIES, ReferenceStimulator
from devices.stimulator import (
    Capabilities,
    DeviceRefusedError,
    DeviceState,
    DeviceUncertainError,
    GatePlan,
    Readback,
    StopClass,
)

PEAKS = replace(CAPABILITIES, whole_gate=True, min_transition_s=0.1, max_transition_s=10.0, max_hold_s=2.0, host_timeout_s=6.0)


class PeakDriver(ReferenceStimulator):
    """One gate at a time, each followed to its end unless it is stopped."""

    def __init__(self, wire: object) -> None:
        super().__init__(wire)  # type: ignore[arg-type]
        self._plan: GatePlan | None = None
        self._began_ns: int | None = None
        self._now_ns = 0
        self._is_armed = False
        self._most_ua = 0

    @property
    def capabilities(self) -> Capabilities:
        return PEAKS

    def arm(self, max_level_ua: int, max_slew_ua_s: int) -> None:
        super().arm(max_level_ua, max_slew_ua_s)
        self._most_ua = max_level_ua

    def run_gate(self, plan: GatePlan) -> None:
        self._require_certain("run a gate")
        if not self._is_armed or self._plan is not None or abs(plan.level_ua) > self._most_ua:
            raise DeviceRefusedError("no gate now: not armed, one runs, or its level is above the latched limit")
        self._plan, self._began_ns = plan, None

    def stop(self, stop_class: StopClass) -> None:
        self._plan = None
        super().stop(stop_class)

    def disarm(self) -> None:
        self._plan = None
        super().disarm()

    def close(self) -> None:
        self._plan, self._is_armed = None, False
        super().close()

    def poll(self, t_ns: int) -> list[Readback]:
        readbacks = super().poll(t_ns)
        if readbacks:
            self._is_armed = readbacks[-1].state in (DeviceState.ARMED, DeviceState.ACTIVE)
        if self._plan is not None:
            self._began_ns = t_ns if self._began_ns is None else self._began_ns
            level = planned_ua(self._plan, t_ns - self._began_ns)
            try:
                super().set_level(int(math.copysign(level, self._plan.level_ua)), 250)
            except DeviceUncertainError:
                self._plan = None
            if not level:
                self._plan = None
        return readbacks


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_whole_gates(check: Callable[[Rig], None]) -> None:
    rig = VirtualReferenceRig(make=PeakDriver)
    rig.declared = PEAKS
    check(rig)
