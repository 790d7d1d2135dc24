"""A rig with what the checks of pulse stimulators have in common: stepping, arming, firing, and every bound."""

from __future__ import annotations

from typing import Final

from devices.conformance.any_bench import LEASE_MS, SLACK_S, AnyBench
from devices.conformance.pulse_rig import PulseRig
from devices.conformance.rig import require
from devices.pulses import PulseCapabilities, PulseLimits, PulseReadback, PulseState, PulseStimulator, Train
from devices.stimulator import Identity

PATIENCE_S: Final = 4.0
HOLDING: Final = (PulseState.ARMED, PulseState.FIRING)


class PulseBench(AnyBench[PulseReadback]):
    """A rig with what the checks have in common."""

    def __init__(self, rig: PulseRig) -> None:
        super().__init__(rig, lambda: rig.driver, PATIENCE_S)
        self.rig = rig

    @property
    def driver(self) -> PulseStimulator:
        """The driver under test."""
        return self.rig.driver

    @property
    def can(self) -> PulseCapabilities:
        """What it says that it can."""
        return self.rig.driver.capabilities

    # ---- to a state

    def open(self) -> Identity:
        """Open, and wait for a report without a fault."""
        who = self.driver.open()
        first = self.until(lambda _: True, "anything", self.driver.heartbeat)
        if first.fault:
            self.driver.reset_fault()
            self.until(lambda r: not r.fault, "the end of the fault after a reset", self.driver.heartbeat)
        return who

    def limits(self, pulses: int = 100) -> PulseLimits:
        """Limits that the suite latches."""
        return PulseLimits(
            max_intensity_percent=self.rig.intensity_percent, max_pulses=pulses, min_interval_ms=self.can.min_interval_ms
        )

    def arm(self, pulses: int = 100) -> None:
        """Open, arm, wait until it could fire."""
        self.open()
        self.driver.arm(self.limits(pulses))
        self.until(lambda r: r.state in HOLDING and r.ready, "ARMED and ready after arm()", self.driver.heartbeat)

    def train(self, pulses: int = 3) -> Train:
        """A train as fast as the device may."""
        return Train(
            intensity_percent=self.rig.intensity_percent,
            pulses=min(pulses, self.can.max_train_pulses),
            interval_ms=self.can.min_interval_ms,
        )

    def fire(self, pulses: int = 3) -> Train:
        """Fire a train and wait for its first pulse."""
        train, before = self.train(pulses), len(self.rig.pulses())
        self.driver.fire(train, LEASE_MS)
        end_ns = self.rig.now_ns() + round(PATIENCE_S * 1e9)
        while len(self.rig.pulses()) == before:
            require(self.rig.now_ns() < end_ns, f"no pulse within {PATIENCE_S:g} s of fire()")
            self.step(self.driver.heartbeat)
        return train

    def no_pulse_after(self, since_ns: int, bound_s: float, watch_s: float, what: str, *, poll: bool = True) -> None:
        """Watch; no pulse may come later than the bound."""
        end_ns = since_ns + round((bound_s + watch_s) * 1e9)
        act = self.driver.heartbeat if poll else None
        while self.rig.now_ns() < end_ns:
            self.step(act, poll=poll)
        late = [t_ns for t_ns, _ in self.rig.pulses() if t_ns > since_ns + round(bound_s * 1e9)]
        require(not late, f"{what}: {len(late)} pulses came later than {bound_s:.2f} s after it")

    @property
    def latency_s(self) -> float:
        """Bound of a stop."""
        return self.can.command_latency_s + SLACK_S

    @property
    def watch_s(self) -> float:
        """How long to look for a pulse that must not come: two intervals."""
        return 2.2 * self.can.min_interval_ms / 1000.0
