"""The Magstim's driver where the suite of all drivers does not reach: what it finds, what is refused, what is late."""

from __future__ import annotations

import pytest

from devices.magstim import Mode
from devices.mock.pulse_rigs import VirtualMagstimRig
from devices.pulses import PulseLimits, PulseReadback, PulseState, Train
from devices.stimulator import DeviceError, DeviceRefusedError, DeviceUncertainError, StopClass

LEASE_MS = 250
LIMITS = PulseLimits(max_intensity_percent=30, max_pulses=20, min_interval_ms=1000)


class Bench:
    """A driver on the emulated unit, polled every 10 ms as the guard does."""

    def __init__(self, mode: Mode = "train") -> None:
        self.rig = VirtualMagstimRig(mode)
        self.unit, self.driver = self.rig.model, self.rig.driver
        self.readbacks: list[PulseReadback] = []

    def step(self, *, heartbeat: bool = True) -> None:
        self.rig.pass_time(0.01)
        self.readbacks += self.driver.poll(self.rig.now_ns())
        if heartbeat:
            self.driver.heartbeat()

    def run(self, seconds: float, until=lambda: False, *, heartbeat: bool = True) -> bool:
        end_ns = self.rig.now_ns() + round(seconds * 1e9)
        while self.rig.now_ns() < end_ns and not until():
            self.step(heartbeat=heartbeat)
        return until()

    def armed(self) -> Bench:
        self.driver.open()
        self.run(0.3)
        self.driver.arm(LIMITS)
        assert self.run(3.0, lambda: self.readbacks[-1].state is PulseState.ARMED and self.readbacks[-1].ready)
        return self

    def fire(self, pulses: int = 3, interval_ms: int = 1000) -> None:
        self.driver.fire(Train(intensity_percent=30, pulses=pulses, interval_ms=interval_ms), LEASE_MS)

    @property
    def given(self) -> int:
        return len(self.rig.pulses())


def test_open_finds_an_intensity_set_at_the_panel_and_leaves_none() -> None:
    bench = Bench()
    bench.unit.power = 60
    bench.driver.open()
    assert bench.unit.power == 0, "zero before anything else (I09)"
    bench.run(0.3)
    assert {readback.intensity_percent for readback in bench.readbacks} == {0}


@pytest.mark.parametrize("steps", range(12))
def test_a_reset_takes_remote_control_again_whatever_is_under_way(steps: int) -> None:
    bench = Bench().armed()
    bench.driver.stop(StopClass.S0_CUT)
    bench.run(1.0 + 0.01 * steps)
    assert not bench.unit.remote
    bench.unit.power = 60  # somebody was at the panel meanwhile
    bench.driver.reset_fault()
    bench.driver.disarm()  # as the guard does
    bench.run(0.5)
    assert bench.unit.remote and not bench.unit.armed
    assert not bench.readbacks[-1].fault and bench.readbacks[-1].intensity_percent == 0


def test_an_arming_that_the_unit_refuses_is_none() -> None:
    bench = Bench()
    bench.driver.open()
    bench.run(0.3)
    bench.unit.coil_c = 50.0  # the unit takes settings, and will not arm
    bench.driver.arm(LIMITS)
    with pytest.raises(DeviceRefusedError, match="refused EB"):
        bench.run(1.0)
    with pytest.raises(DeviceRefusedError, match="it is not armed"):
        bench.fire()


def test_what_waits_behind_a_refused_command_is_not_sent() -> None:
    bench = Bench().armed()
    bench.fire()
    assert bench.run(3.0, lambda: bench.given == 1)
    bench.rig.inject("runaway")
    bench.driver.disarm()
    bench.run(0.3)
    bench.driver.arm(LIMITS)
    with pytest.raises(DeviceRefusedError, match="refused @0"):
        bench.run(0.5)
    for _ in range(50):
        try:
            bench.step()
        except DeviceRefusedError:
            continue
    assert not bench.unit.armed, "armed at an intensity that could not be set to zero"


@pytest.mark.parametrize("pulses", [1, 2, 3, 5])
def test_a_train_lasts_long_enough_for_its_pulses_at_every_rate(pulses: int) -> None:
    bench = Bench().armed()
    bench.fire(pulses, 1250)
    bench.run(1.25 * pulses + 3.0)
    assert bench.given == bench.driver.assumed_pulses == pulses


def test_a_train_asked_for_right_behind_the_arming_waits_for_it() -> None:
    bench = Bench().armed()
    bench.fire(2)
    bench.run(5.0)
    assert bench.given == 2
    bench.driver.disarm()
    bench.run(1.0)
    bench.driver.arm(LIMITS)
    bench.fire(2)
    bench.run(6.0)
    assert bench.given == 4


def test_a_late_reply_of_another_command_does_not_end_the_count() -> None:
    bench = Bench().armed()
    bench.fire(3)
    assert bench.run(3.0, lambda: bench.given == 1)
    bench.rig.inject("runaway")
    bench.rig.inject("slow_replies:latency_s=0.45")
    with pytest.raises(DeviceUncertainError):
        bench.run(1.0)
    for number in range(400):
        if number % 5 == 0:
            bench.driver.stop(StopClass.S0_CUT)
        try:
            bench.step()
        except DeviceError:
            continue
        assert bench.driver.assumed_pulses >= min(bench.given, 3), "a stop was believed that nobody has confirmed"


def test_no_pulse_while_the_capacitor_falls_from_what_the_panel_had_set() -> None:
    """The unit tells its setting, not what it holds: 100 ms a percent down (I01)."""
    bench = Bench()
    bench.unit.power, bench.unit._from_power = 100, 100
    bench.driver.open()
    bench.step()
    bench.driver.arm(LIMITS)
    begun_ns = bench.rig.now_ns()
    assert bench.run(12.0, lambda: bool(bench.readbacks) and bench.readbacks[-1].ready)
    assert bench.rig.now_ns() - begun_ns > 6e9
    bench.fire(1)
    bench.run(3.0)
    assert [percent for _, percent in bench.rig.pulses()] == [pytest.approx(30.0, abs=0.5)]
