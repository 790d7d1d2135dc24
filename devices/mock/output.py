"""Output stage of the mock stimulator: converters, relay, impedance pulses, sensors."""

from __future__ import annotations

import math
import random
from typing import Final

import msgspec

from devices.mock import numbers
from devices.mock.faults import ActiveFaults
from devices.refproto import IMPEDANCE_OVER_RANGE_OHM, Defect
from devices.stimulator import DeviceState

_MIN_IMPEDANCE_UA: Final = 50.0
_STAGE: Final = numbers.values("output")

Sensed = tuple[float, float, int | None]


class OutputParameters(msgspec.Struct, frozen=True, kw_only=True):
    """Converters, output stage and timing; range and provenance of each number are in ``numbers.toml``."""

    dac_lsb_ua: float = _STAGE["dac_lsb_ua"]
    gain_error: float = _STAGE["gain_error"]
    offset_ua: float = _STAGE["offset_ua"]
    tau_s: float = _STAGE["tau_s"]
    compliance_v: float = _STAGE["compliance_v"]
    adc_current_lsb_ua: float = _STAGE["adc_current_lsb_ua"]
    adc_voltage_lsb_mv: float = _STAGE["adc_voltage_lsb_mv"]
    adc_current_noise_ua: float = _STAGE["adc_current_noise_ua"]
    adc_voltage_noise_mv: float = _STAGE["adc_voltage_noise_mv"]
    polarisation_residual: float = _STAGE["polarisation_residual"]
    latency_ms: tuple[int, int] = (2, 5)  # least and greatest from last byte to effect, per frame; assumed
    relay_ms: int = 5  # to open or close; assumed
    report_ms: int = 20  # reference serial protocol
    test_ua: float = _STAGE["test_ua"]
    test_period_ms: int = 500
    test_pulse_ms: int = 20  # the second half is averaged


class OutputStage:
    """From set point to the current asked of the electrodes, and from the electrodes to what is measured.

    Parameters
    ----------
    parameters : OutputParameters
        What it is built of.
    faults : ActiveFaults
        What is wrong with it.
    seed : int
        Draws gain error, offset and sensor noise.

    Attributes
    ----------
    dac_ua : float
        What the converter was told, uA.
    relay_closed : bool
        Whether the output reaches the electrodes.
    """

    def __init__(self, parameters: OutputParameters, faults: ActiveFaults, seed: int) -> None:
        draw = random.Random(f"build {seed}")
        self.dac_ua = 0.0
        self.relay_closed = False
        self._parameters = parameters
        self._faults = faults
        self._gain = 1.0 + parameters.gain_error * draw.uniform(-1.0, 1.0)
        self._offset_ua = parameters.offset_ua * draw.uniform(-1.0, 1.0)
        self._keep = math.exp(-1e-3 / parameters.tau_s)
        self._noise = random.Random(f"noise {seed}")
        self._analog_ua = 0.0
        self._relay_k: int | None = None
        self._stuck_dac_ua: float | None = None
        self._stuck_adc: Sensed | None = None
        self._impedance_ohm: int | None = None
        self._pulse_mv: list[float] | None = None
        self._pulse_base_mv = 0.0

    def defects(self) -> Defect:
        """What a test into the internal resistor finds: whether converter, output stage and ammeter agree."""
        names = self._faults.names
        wrong = any(name in names for name in ("stuck_output", "stuck_adc", "gain_x2", "wrong_polarity", "over_current"))
        return Defect.OUTPUT_AND_AMMETER if wrong else Defect(0)

    def power_off(self) -> None:
        """Lose the supply: the relay falls open, nothing is remembered."""
        self.relay_closed, self._relay_k = False, None
        self._analog_ua = 0.0
        self._impedance_ohm, self._pulse_mv = None, None

    def freeze_dac(self) -> None:
        """Keep the converter's present value whatever it is told."""
        self._stuck_dac_ua = self.dac_ua

    def freeze_adc(self, sensed: Sensed) -> None:
        """Measure `sensed` from now on."""
        self._stuck_adc = sensed

    def thaw(self, fault: str) -> None:
        """End what `freeze_dac` or `freeze_adc` began, if `fault` names it."""
        if fault == "stuck_output":
            self._stuck_dac_ua = None
        elif fault == "stuck_adc":
            self._stuck_adc = None

    def demand_ua(self, k: int, set_ua: float, state: DeviceState) -> float:
        """Current that the stage tries to drive at grid index `k` (ms), uA.

        Parameters
        ----------
        k : int
            Index, each in turn while current can flow.
        set_ua : float
            The firmware's set point, uA.
        state : DeviceState
            The firmware's state; the relay follows it.
        """
        lsb = self._parameters.dac_lsb_ua
        self.dac_ua = int(set_ua / lsb) * lsb if self._stuck_dac_ua is None else self._stuck_dac_ua
        wanted = state is DeviceState.ACTIVE or state is DeviceState.RAMPING_DOWN
        if wanted == self.relay_closed:
            self._relay_k = None
        elif self._relay_k is None:
            self._relay_k = k + self._parameters.relay_ms
        elif k >= self._relay_k:
            self.relay_closed, self._relay_k = wanted, None
        if not self.relay_closed:
            self._analog_ua = 0.0
            return self._test_ua(k, state)
        made = self.dac_ua * self._gain + self._offset_ua
        faults = self._faults
        if faults.names:
            made *= faults.value("gain_x2", "gain", 1.0)
            made += math.copysign(faults.value("over_current", "extra_ua", 0.0), made)
            made += faults.value("offset", "offset_ua", 0.0)
            made = -made if "wrong_polarity" in faults else made
        self._analog_ua = made + (self._analog_ua - made) * self._keep
        return self._analog_ua

    def follow_pulse(self, k: int, state: DeviceState, voltage_v: float, polarisation_v: float) -> bool:
        """Take part in an impedance pulse at `k`, if there is one; tell whether it goes on after `k`."""
        if self.relay_closed or self._test_ua(k, state) == 0.0:
            self._pulse_mv = None
            return False
        phase, last = k % self._parameters.test_period_ms, self._parameters.test_pulse_ms - 1
        if phase == 0:
            self._pulse_mv = []
            self._pulse_base_mv = polarisation_v * 1e3
        elif self._pulse_mv is not None and phase > last // 2:
            self._pulse_mv.append(self._adc_mv(voltage_v))
            if phase == last:
                millivolt = abs(sum(self._pulse_mv) / len(self._pulse_mv) - self._pulse_base_mv)
                self._impedance_ohm = _capped(millivolt * 1e3 / self._parameters.test_ua)
        return phase < last

    def next_pulse(self, k: int) -> int:
        """First index from `k` on that belongs to an impedance pulse."""
        period = self._parameters.test_period_ms
        return k if k % period < self._parameters.test_pulse_ms else -(-k // period) * period

    def sense(self, state: DeviceState, current_ua: float, voltage_v: float, polarisation_v: float) -> Sensed:
        """Measure.

        Parameters
        ----------
        state : DeviceState
            The firmware's state: it says where the impedance comes from.
        current_ua, voltage_v, polarisation_v : float
            The truth at the electrode.

        Returns
        -------
        tuple
            Current (uA), voltage (mV), impedance (ohm, None where it cannot be known).
        """
        if self._stuck_adc is not None:
            return self._stuck_adc
        parameters = self._parameters
        lsb = parameters.adc_current_lsb_ua
        noise = self._noise.gauss(0.0, parameters.adc_current_noise_ua)
        measured = round((current_ua + noise) / lsb) * lsb
        millivolt = self._adc_mv(voltage_v)
        if state in (DeviceState.IDLE, DeviceState.ARMED):
            return measured, millivolt, self._impedance_ohm
        if state == DeviceState.FAULT:
            return measured, millivolt, None
        if abs(measured) >= _MIN_IMPEDANCE_UA:
            known_mv = (1.0 - parameters.polarisation_residual) * polarisation_v * 1e3
            return measured, millivolt, _capped(abs((millivolt - known_mv) * 1e3 / measured))
        clipped = abs(millivolt) >= 950.0 * parameters.compliance_v
        return measured, millivolt, IMPEDANCE_OVER_RANGE_OHM if clipped else None

    def _test_ua(self, k: int, state: DeviceState) -> float:
        parameters = self._parameters
        if k % parameters.test_period_ms >= parameters.test_pulse_ms:
            return 0.0
        if state is not DeviceState.IDLE and state is not DeviceState.ARMED:
            return 0.0
        return parameters.test_ua if (k // parameters.test_period_ms) % 2 == 0 else -parameters.test_ua

    def _adc_mv(self, voltage_v: float) -> float:
        lsb = self._parameters.adc_voltage_lsb_mv
        noise = self._noise.gauss(0.0, self._parameters.adc_voltage_noise_mv)
        return round((voltage_v * 1e3 + noise) / lsb) * lsb


def _capped(ohm: float) -> int:
    return min(IMPEDANCE_OVER_RANGE_OHM, round(ohm))
