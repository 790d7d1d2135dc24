"""Steps DAC0 over a resistor and reads both monitors: what an output calibration is fitted to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from devices import labjack_registers as reg
from devices.labjack_calibration import Point
from devices.labjack_line import Line
from devices.stimulator import DeviceProtocolError

READINGS: Final = 20
SETTLE_S: Final = 0.4


def stepped(line: Line, volts: Sequence[float], pause: Callable[[float], None]) -> Iterator[Point]:
    """One point a step; DAC0 is at 0 V before and after, however it ends.

    Parameters
    ----------
    line : Line
        Opened by `devices.labjack_line.open_line`, with a resistor in place of a head.
    volts : sequence of float
        What DAC0 is told, 0 to 5 V.
    pause : callable
        Lets so many seconds pass.

    Raises
    ------
    DeviceError
        If the LabJack is lost or answers nonsense.
    """
    try:
        for step_v in volts:
            line.put(reg.DAC0, step_v)
            pause(SETTLE_S)
            sums = [0.0, 0.0]
            for _ in range(READINGS):
                words = line.exchange(reg.AIN0, 2)
                try:
                    readings = reg.value_of(reg.AIN0, words[:2]), reg.value_of(reg.AIN1, words[2:])
                except reg.RegisterError as error:
                    raise DeviceProtocolError(f"{line.name}: {error}") from error
                sums = [total + one for total, one in zip(sums, readings, strict=True)]
            yield Point(step_v, sums[0] / READINGS, sums[1] / READINGS)
    finally:
        line.put(reg.DAC0, 0.0)
