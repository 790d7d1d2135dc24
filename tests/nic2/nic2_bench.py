"""The driver on the emulated NIC in virtual time, stepped as the guard does: what the tests here stand on."""

from __future__ import annotations

from collections.abc import Callable

from devices.mock.meter import Meter, MeterRecord
from devices.mock.nic2_rigs import VirtualNicRig
from devices.nic2_modes import Mode, Nic2Options
from devices.stimulator import GatePlan, Readback

PLAN = GatePlan(level_ua=-200, rise_ms=3000, hold_ms=6000, fall_ms=3000)


class Bench:
    """A rig, what was sent, the meter's records; time moves in steps of 10 ms."""

    def __init__(self, mode: Mode = "peak", *faults: str, seed: int = 1, given: Nic2Options | None = None) -> None:
        self.rig = VirtualNicRig(mode, seed, given)
        self.model = self.rig.model
        self.driver = self.rig.driver
        self.records: list[MeterRecord] = []
        self.model.meter = Meter(0, self.records.append)
        self.sent: list[bytes] = []
        write = self.rig.wire.write

        def noted(data: bytes) -> int:
            self.sent.append(data)
            return write(data)

        self.rig.wire.write = noted
        for text in faults:
            self.rig.inject(text)

    def run(self, ms: int, act: Callable[[], None] | None = None) -> list[Readback]:
        readbacks: list[Readback] = []
        for _ in range(ms // 10):
            if act is not None:
                act()
            self.rig.pass_time(0.01)
            readbacks += self.driver.poll(self.rig.now_ns())
        return readbacks

    def arm(self, max_level_ua: int = 1000, max_slew_ua_s: int = 100) -> None:
        self.driver.open()
        self.run(500)
        self.driver.arm(max_level_ua, max_slew_ua_s)
        self.run(500)

    def gate(self, plan: GatePlan = PLAN) -> None:
        self.arm()
        self.driver.run_gate(plan)

    @property
    def current_ua(self) -> float:
        return self.model.current_ua

    @property
    def meter(self) -> Meter:
        return self.model.meter
