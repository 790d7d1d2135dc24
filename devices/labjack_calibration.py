"""Calibration of a LabJack's output through its current source: fitted over a known resistor, tied to a serial number, dated.

I = gain * DAC0 + offset, and current and voltage monitor are straight lines as well. Two things are known for sure while it is
made: the resistor (by a multimeter) and the voltage across it.
"""

from __future__ import annotations

import datetime as dt
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta

VERSION: Final = 1
LASTS_DAYS: Final = 90
MAX_BYTES: Final = 100_000
LEAST_POINTS: Final = 5
# Greatest departure of one point from the line, of the greatest current.
MOST_RESIDUAL: Final = 0.01
MOST_GAIN_ERROR: Final = 0.1
MOST_OFFSET_UA: Final = 20.0


class OutputCalibrationError(ValueError):
    """A calibration that cannot be made or used; one sentence says why and what to do."""


class Point(NamedTuple):
    """One step: what DAC0 was told, and what the two monitors read, all in volts."""

    dac_v: float
    current_v: float
    voltage_v: float


class OutputCalibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was found, when, with which device and resistor.

    `current_ua(v)` of the monitor is ``(v - monitor_offset_v) / monitor_v_per_ma * 1000``; `residual_ua` is the greatest
    departure of a step from the line.
    """

    version: int
    serial_number: str
    made: str
    expires: str
    resistor_ohm: Annotated[float, Meta(gt=0.0)]
    gain_ma_per_v: Annotated[float, Meta(gt=0.0)]
    offset_ua: float
    monitor_v_per_ma: float
    monitor_offset_v: float
    residual_ua: float
    points: tuple[tuple[float, float, float], ...]

    def dac_v(self, level_ua: float) -> float:
        """Volts at DAC0 for a magnitude in microamps; never below zero."""
        return max(0.0, (level_ua - self.offset_ua) / (1000.0 * self.gain_ma_per_v)) if level_ua else 0.0

    def level_ua(self, dac_v: float) -> float:
        """Microamps that DAC0 at so many volts asks for; at zero volts none."""
        return 1000.0 * self.gain_ma_per_v * dac_v + self.offset_ua if dac_v > 0.0 else 0.0

    def measured_ua(self, monitor_v: float) -> float:
        """Microamps that the current monitor reads."""
        return (monitor_v - self.monitor_offset_v) / self.monitor_v_per_ma * 1000.0


def fit(
    points: Sequence[Point],
    *,
    serial_number: str,
    resistor_ohm: float,
    voltage_monitor_v_per_v: float,
    stated_gain_ma_per_v: float,
    today: dt.date,
) -> OutputCalibration:
    """Fit lines to the steps over a resistor.

    Parameters
    ----------
    points : sequence of Point
        At least five, from 0 V upwards.
    serial_number : str
        Of the LabJack.
    resistor_ohm : float
        As measured.
    voltage_monitor_v_per_v : float
        Share of the voltage that the monitor shows.
    stated_gain_ma_per_v : float
        As the configuration has it; a fit that is far from it means another source or wiring.
    today : datetime.date

    Raises
    ------
    OutputCalibrationError
        If the steps are too few, no line, or not what the configuration says.
    """
    if len(points) < LEAST_POINTS:
        raise OutputCalibrationError(f"{len(points)} steps; a calibration needs at least {LEAST_POINTS}")
    dac_v = [point.dac_v for point in points]
    flowed_ua = [point.voltage_v / voltage_monitor_v_per_v / resistor_ohm * 1e6 for point in points]
    most_ua = max(flowed_ua)
    if most_ua - min(flowed_ua) < 50.0:
        raise OutputCalibrationError(
            f"the voltage over the resistor hardly changed ({most_ua:.0f} uA at most): check source, resistor and AIN1"
        )
    line = statistics.linear_regression(dac_v, flowed_ua)
    monitor = statistics.linear_regression([one / 1000.0 for one in flowed_ua], [point.current_v for point in points])
    residual_ua = max(abs(one - line.slope * v - line.intercept) for v, one in zip(dac_v, flowed_ua, strict=True))
    gain = line.slope / 1000.0
    if residual_ua > MOST_RESIDUAL * most_ua:
        raise OutputCalibrationError(
            f"the steps are no line: one is {residual_ua:.1f} uA off; check contacts, or the source's limit of voltage"
        )
    if not abs(gain / stated_gain_ma_per_v - 1.0) <= MOST_GAIN_ERROR:
        raise OutputCalibrationError(
            f"{gain:.3f} mA/V were measured, the configuration says {stated_gain_ma_per_v:g}: check `gain_ma_per_v`, the "
            "source's setting and the resistor"
        )
    if abs(line.intercept) > MOST_OFFSET_UA:
        raise OutputCalibrationError(f"the source gives {line.intercept:.1f} uA at 0 V; trim its offset first")
    if abs(monitor.slope) < 0.01:
        raise OutputCalibrationError("the current monitor does not follow the current: check AIN0")
    return OutputCalibration(
        version=VERSION,
        serial_number=serial_number,
        made=today.isoformat(),
        expires=(today + dt.timedelta(days=LASTS_DAYS)).isoformat(),
        resistor_ohm=resistor_ohm,
        gain_ma_per_v=gain,
        offset_ua=line.intercept,
        monitor_v_per_ma=monitor.slope,
        monitor_offset_v=monitor.intercept,
        residual_ua=residual_ua,
        points=tuple((point.dac_v, point.current_v, point.voltage_v) for point in points),
    )


def save(calibration: OutputCalibration, path: Path) -> None:
    """Write a file; an older one is replaced once the new one is whole. Raises OutputCalibrationError."""
    draft = path.with_name(f".{path.name}.part")
    try:
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(calibration), indent=1))
        draft.replace(path)
    except OSError as error:
        raise OutputCalibrationError(f"{path}: {(error.strerror or str(error)).lower()}; name another file") from error


def load(path: str | Path) -> OutputCalibration:
    """Read a file.

    Raises
    ------
    OutputCalibrationError
        If it cannot be read or holds none.
    """
    hint = "make one with `cereloop calibrate-output`"
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES)
        calibration = msgspec.json.decode(data, type=OutputCalibration, strict=True)
    except OSError as error:
        raise OutputCalibrationError(f"{path}: {(error.strerror or str(error)).lower()}; {hint}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise OutputCalibrationError(f"{path} is no output calibration: {error}; {hint}") from error
    if calibration.version != VERSION:
        raise OutputCalibrationError(f"{path} has format {calibration.version}, this software reads {VERSION}; {hint}")
    return calibration


def check(calibration: OutputCalibration, serial_number: str, stated_gain_ma_per_v: float, today: dt.date) -> None:
    """Refuse a calibration of another device, of another source, or one that has expired.

    Raises
    ------
    OutputCalibrationError
        Saying which.
    """
    again = "calibrate anew with `cereloop calibrate-output`"
    if calibration.serial_number != serial_number:
        raise OutputCalibrationError(
            f"the output was calibrated on LabJack {calibration.serial_number}, this is {serial_number}; {again}"
        )
    try:
        expires = dt.date.fromisoformat(calibration.expires)
    except ValueError as error:
        raise OutputCalibrationError(f"the output calibration expires on {calibration.expires!r}, which is no date") from error
    if today > expires:
        raise OutputCalibrationError(f"the output calibration expired on {calibration.expires}; {again}")
    if not abs(calibration.gain_ma_per_v / stated_gain_ma_per_v - 1.0) <= MOST_GAIN_ERROR:
        raise OutputCalibrationError(
            f"the output calibration has {calibration.gain_ma_per_v:.3f} mA/V, `gain_ma_per_v` says {stated_gain_ma_per_v:g}; "
            "one of them belongs to another source"
        )
