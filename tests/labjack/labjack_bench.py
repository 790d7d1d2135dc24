"""The LabJack's driver on its model, in this process and on a virtual clock."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from devices import labjack_calibration
from devices.clock import VirtualClock
from devices.labjack import LabJackOptions
from devices.labjack_calibration import OutputCalibration, Point
from devices.labjack_driver import LabJackStimulator
from devices.mock.electrodes import ElectrodeParameters
from devices.mock.faults import parse
from devices.mock.labjack import FAULTS, LabJackModel
from devices.mock.labjack_process import resistor
from devices.stimulator import DeviceLostError, Readback
from devices.units import NS_PER_MS

TODAY = dt.date(2026, 11, 24)


class ModelWire:
    """Bytes to and from the model; waiting lets virtual time pass, as a server on a real network does by itself."""

    name = "the emulated LabJack"

    def __init__(self, model: LabJackModel, clock: VirtualClock) -> None:
        self.model = model
        self.clock = clock
        self.is_open = False

    def open(self) -> None:
        self.is_open = True

    def fileno(self) -> int:
        return -1

    def write(self, data: bytes) -> int:
        if self.model.hung_up:
            raise DeviceLostError(f"{self.name}: gone")
        self.model.receive(data, self.clock.now_ns())
        return len(data)

    def read(self) -> bytes:
        self.model.advance(self.clock.now_ns())
        if self.model.hung_up:
            raise DeviceLostError(f"{self.name}: gone")
        return self.model.take_output()

    def wait(self, budget_s: float) -> float:
        self.clock.advance_to(self.clock.now_ns() + NS_PER_MS)
        self.model.advance(self.clock.now_ns())
        return max(0.0, budget_s - 0.001)

    def close(self) -> None:
        self.is_open = False
        self.model.client_gone()


def calibrated(path: Path, seed: int = 1, gain_ma_per_v: float = 1.0) -> OutputCalibration:
    """What `calibrate-output` finds on the model over 1 kOhm; written to `path`."""
    bench = Bench(path, seed, body=resistor(1000.0), calibrate=False)
    points = []
    for step in range(6):
        volts = 0.2 * step
        bench.model.registers["DAC0"] = volts
        bench.clock.advance_to(bench.clock.now_ns() + 300 * NS_PER_MS)
        bench.model.advance(bench.clock.now_ns())
        readings = [bench.model._monitors() for _ in range(50)]
        points.append(Point(volts, *(sum(column) / 50 for column in zip(*readings, strict=True))))
    found = labjack_calibration.fit(
        points, serial_number=str(100 + seed), resistor_ohm=1000.0, voltage_monitor_v_per_v=0.1,
        stated_gain_ma_per_v=gain_ma_per_v, today=TODAY,
    )  # fmt: skip
    labjack_calibration.save(found, path)
    return found


class Bench:
    """Driver, model and clock; a tick is 10 ms."""

    def __init__(
        self,
        calibration: Path,
        seed: int = 1,
        leads: str = "anodal",
        body: ElectrodeParameters | None = None,
        *,
        calibrate: bool = True,
    ) -> None:
        if calibrate and not calibration.exists():
            calibrated(calibration, seed)
        self.clock = VirtualClock()
        self.records: list = []
        self.model = LabJackModel(seed=seed, body=body)
        self.wire = ModelWire(self.model, self.clock)
        options = LabJackOptions(
            gain_ma_per_v=1.0, voltage_monitor_v_per_v=0.1, leads=leads, calibration=str(calibration)  # type: ignore[arg-type]
        )
        self.driver = LabJackStimulator(self.wire, options, TODAY)
        self.readbacks: list[Readback] = []

    def run(self, seconds: float, act=lambda: None, *, poll: bool = True) -> Readback | None:
        for _ in range(round(seconds * 100)):
            act()
            self.clock.advance_to(self.clock.now_ns() + 10 * NS_PER_MS)
            self.model.advance(self.clock.now_ns())
            if poll:
                self.readbacks += self.driver.poll(self.clock.now_ns())
        return self.readbacks[-1] if self.readbacks else None

    def arm(self, most_ua: int = 300) -> None:
        self.driver.open()
        self.run(1.0, self.driver.heartbeat)
        self.driver.arm(most_ua, 100)
        self.run(0.2, self.driver.heartbeat)

    def at(self, level_ua: int) -> None:
        self.arm()
        sign = 1 if level_ua > 0 else -1
        for level in range(0, abs(level_ua) + 1, 2):
            self.driver.set_level(sign * level, 250)
            self.run(0.01)
        self.run(0.3, lambda: self.driver.set_level(level_ua, 250))

    def inject(self, text: str) -> None:
        self.model.inject(parse(text, FAULTS))
