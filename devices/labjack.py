"""Driver ``labjack``: LabJack T4, T7 and T8 over Modbus TCP, driving a calibrated isolated current source from DAC0.

The hardware watchdog in strict mode is the dead man's switch: it counts whole seconds, is fed by a keyed write alone, and sets
DAC0 to 0 V when it is not. DAC0 is unipolar, so no program can turn the current round: the leads give the polarity. AIN0 reads
the source's current monitor, AIN1 its voltage monitor. A drop to 0 V is a step, not a ramp: put a slew limiter behind DAC0.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from devices.driver import Driver, DriverError, tcp_address
from devices.stimulator import Capabilities, Stimulator
from devices.tcp_wire import TcpWire

MODBUS_PORT: Final = 502
DAC_MAX_V: Final = 5.0
MAX_LEVEL_UA: Final = 2000
# A counter of whole seconds may take nearly one more than it is told.
WATCHDOG_LATEST_S: Final = 2.0


class LabJackOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[device.options]`` of driver labjack.

    `gain_ma_per_v` is the current source's, as its manual and setting say; `calibration` the file that
    ``cereloop calibrate-output`` wrote for this LabJack and source. `leads` says which polarity the target electrode has when
    current flows. `voltage_monitor_v_per_v` is the share of the output voltage that AIN1 sees.
    """

    gain_ma_per_v: Annotated[float, Meta(gt=0.0, le=10.0)]
    voltage_monitor_v_per_v: Annotated[float, Meta(gt=0.0, le=1.0)]
    leads: Literal["anodal", "cathodal"]
    calibration: Annotated[str, Meta(min_length=1)]


def capabilities(_mode: str, options: LabJackOptions) -> Capabilities:
    """What a T-series device can do with this source."""
    reach_ua = int(1000.0 * options.gain_ma_per_v * DAC_MAX_V)
    return Capabilities(
        self_expiring_lease=False,
        hardware_watchdog=True,
        measures_current=True,
        unipolar=True,
        device_ramp=False,
        max_level_ua=max(1, min(MAX_LEVEL_UA, reach_ua)),
        resolution_ua=1000.0 * options.gain_ma_per_v * DAC_MAX_V / 4096.0,
        command_latency_s=0.05,
        host_timeout_s=WATCHDOG_LATEST_S,
        min_transition_s=0.0,
        readback_interval_s=0.05,
        leads=options.leads,
        caveat="the watchdog ends a current by a step to zero, and only after one to two seconds",
    )


def _build(_mode: str, port: str, options: LabJackOptions) -> Stimulator:
    address = tcp_address(port, MODBUS_PORT)
    try:
        from devices.labjack_driver import LabJackStimulator
    except ImportError as error:
        raise DriverError("driver labjack needs pymodbus, which is not installed; pip install 'cereloop[labjack]'") from error
    return LabJackStimulator(TcpWire(*address), options)


DRIVER: Final = Driver(
    name="labjack",
    summary="LabJack T4, T7 or T8 (Modbus TCP) driving a calibrated isolated current source, with its hardware watchdog",
    modes={"watchdog": "host ramps; the strict hardware watchdog sets 0 V one to two seconds after the host's death"},
    options=LabJackOptions,
    capabilities=capabilities,
    build=_build,
)
