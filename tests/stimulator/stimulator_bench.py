"""A mock stimulator on a virtual clock with its driver and meter: what most tests here stand on."""

from __future__ import annotations

from collections.abc import Callable

from devices.clock import VirtualClock
from devices.mock.electrodes import ElectrodeParameters
from devices.mock.faults import parse
from devices.mock.meter import Meter, MeterRecord
from devices.mock.output import OutputParameters
from devices.mock.stimulator import StimulatorModel
from devices.reference import InProcessWire, ReferenceStimulator
from devices.stimulator import DeviceState, Readback
from devices.units import NS_PER_MS

LEASE_MS = 250
IDEAL = OutputParameters(
    gain_error=0.0, offset_ua=0.0, adc_current_noise_ua=0.0, adc_voltage_noise_mv=0.0, dac_lsb_ua=1.0
)
RESISTOR = ElectrodeParameters(
    bulk_ohm=5000.0,
    skin_initial_ohm=1e-3,
    skin_settled_ohm=1e-3,
    polarisation_v=0.0,
    cardiac_modulation=0.0,
    respiratory_modulation=0.0,
)


class Bench:
    """Clock, model, meter record and driver; time moves in steps of 10 ms, as the guard's does."""

    def __init__(
        self,
        seed: int = 1,
        body: ElectrodeParameters | None = None,
        output: OutputParameters | None = None,
    ) -> None:
        self.clock = VirtualClock()
        self.records: list[MeterRecord] = []
        self.model = StimulatorModel(seed=seed, body=body, output=output, meter=Meter(0, self.records.append))
        self.driver = ReferenceStimulator(InProcessWire(self.model, self.clock))

    @property
    def now(self) -> int:
        """Virtual time, ns."""
        return self.clock.now_ns()

    def run(self, ms: int, act: Callable[[], None] | None = None) -> list[Readback]:
        """Let `ms` pass; `act` is called and the driver polled every 10 ms."""
        readbacks: list[Readback] = []
        for _ in range(ms // 10):
            self.clock.advance_to(self.now + 10 * NS_PER_MS)
            if act is not None:
                act()
            readbacks += self.driver.poll(self.now)
        return readbacks

    def pass_time(self, ms: int) -> None:
        """Let `ms` pass with nobody listening."""
        self.clock.advance_to(self.now + ms * NS_PER_MS)
        self.model.advance(self.now)

    def arm(self, max_level_ua: int = 1000, max_slew_ua_s: int = 200) -> None:
        """Open and arm."""
        self.driver.open()
        self.driver.arm(max_level_ua, max_slew_ua_s)
        assert self.run(50, self.driver.heartbeat)[-1].state is DeviceState.ARMED

    def hold(self, level_ua: int, ms: int) -> list[Readback]:
        """Ask for `level_ua` every 10 ms for `ms`."""
        return self.run(ms, lambda: self.driver.set_level(level_ua, LEASE_MS))

    def at(self, level_ua: int = 200) -> None:
        """Open, arm, ramp to `level_ua` and stay there for some 100 ms."""
        self.arm()
        last = self.hold(level_ua, abs(level_ua) * 5 + 200)[-1]
        assert (last.state, last.commanded_ua) == (DeviceState.ACTIVE, level_ua)

    def inject(self, text: str) -> int:
        """Put a fault in force now; return the time."""
        return self.model.inject(parse(text))
