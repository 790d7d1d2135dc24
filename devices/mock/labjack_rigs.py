"""The rig for the LabJack's driver: the emulated device in a process of its own, over TCP."""

from __future__ import annotations

from pathlib import Path

from devices import labjack_calibration
from devices.driver import tcp_address
from devices.labjack import MODBUS_PORT, LabJackOptions, capabilities
from devices.labjack_calibration import OutputCalibration
from devices.labjack_driver import LabJackStimulator
from devices.mock.rigs import SerialReferenceRig
from devices.stimulator import Stimulator
from devices.tcp_wire import TcpWire


class LabJackProcessRig(SerialReferenceRig):
    """The driver on the emulated LabJack, in real time; its source is taken to be as its manual says.

    Parameters
    ----------
    directory : Path
        For the meter's file and the calibration.
    """

    emulator = ("devices.mock.labjack_process", "--listen", "127.0.0.1:0")

    def __init__(self, directory: Path) -> None:
        path = directory / "output.json"
        nominal = OutputCalibration(
            version=labjack_calibration.VERSION,
            serial_number="100",
            made="2026-01-01",
            expires="9999-12-31",
            resistor_ohm=1000.0,
            gain_ma_per_v=1.0,
            offset_ua=0.0,
            monitor_v_per_ma=1.0,
            monitor_offset_v=0.0,
            residual_ua=0.0,
            points=(),
        )
        labjack_calibration.save(nominal, path)
        self._options = LabJackOptions(
            gain_ma_per_v=1.0, voltage_monitor_v_per_v=0.1, leads="anodal", calibration=str(path)
        )
        super().__init__(directory)
        self.declared = capabilities("watchdog", self._options)
        self.level_ua = 100

    def _new(self) -> Stimulator:
        self._wire = TcpWire(*tcp_address(self.port, MODBUS_PORT))
        return LabJackStimulator(self._wire, self._options)

    def fail_self_check(self) -> bool:
        """A LabJack has no test of its own."""
        return False

    def break_device(self) -> bool:
        """Nor has it a fault of its own to latch: its watchdog bites on silence alone."""
        return False
