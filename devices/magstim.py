"""Magstim Rapid² over its serial line: what the driver is, can do, and is told; the driver itself is in `magstim_driver`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
from msgspec import Meta

from devices.driver import PulseDriver, serial_path
from devices.pulses import PulseCapabilities

if TYPE_CHECKING:
    from devices.magstim_driver import MagstimRapid

Mode = Literal["train", "single"]

MIN_INTERVAL_MS: Final = 1000
MAX_TRAIN_PULSES: Final = 5
HOST_TIMEOUT_S: Final = 1.0
_CAVEAT: Final = (
    "that the unit disarms about 1 s after its host's last word is inferred from how often hosts repeat themselves and must "
    "be seen on a bench; keep the serial plug's quick-fire line unwired, since opening a port raises it for a moment"
)


class MagstimOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[device.options]``: the number on the unit, which it does not tell by itself, and the unlock code of firmware 9."""

    serial_number: Annotated[str, Meta(min_length=1, max_length=64)]
    unlock_code: Annotated[str, Meta(pattern=r"^[A-Za-z0-9]{0,32}\Z")] = ""


def capabilities(mode: str, _options: MagstimOptions | None = None) -> PulseCapabilities:
    """What the unit can do in a mode; numbers of time are those of the line and of the public sources."""
    in_trains = mode == "train"
    return PulseCapabilities(
        self_expiring_lease=True,
        hardware_watchdog=True,
        counts_pulses=False,
        measures_temperature=True,
        max_intensity_percent=100,
        min_interval_ms=MIN_INTERVAL_MS,
        max_train_pulses=MAX_TRAIN_PULSES,
        max_train_s=MAX_TRAIN_PULSES * 10.0,
        min_gap_s=0.5 if in_trains else 0.0,
        arm_s=1.1,
        auto_disarm_s=60.0,
        command_latency_s=0.1,
        host_timeout_s=HOST_TIMEOUT_S,
        readback_interval_s=0.15,
        rate_step_hz=0.1 if in_trains else 0.0,
        caveat=_CAVEAT,
    )


def _build(mode: str, port: str, options: MagstimOptions) -> MagstimRapid:
    from devices.magstim_driver import MagstimRapid
    from devices.magstim_line import BAUD
    from devices.wires import SerialWire

    return MagstimRapid(SerialWire(serial_path(port), BAUD, "low"), "train" if mode == "train" else "single", options)


DRIVER: Final = PulseDriver(
    name="magstim",
    summary="Magstim Rapid² on its serial line: low-frequency rTMS, 1 Hz at most",
    modes={
        "train": f"the unit paces trains of at most {MAX_TRAIN_PULSES} pulses, which end by themselves, 0.5 s apart",
        "single": "the host asks for every single pulse, so a dead host gives none",
    },
    options=MagstimOptions,
    capabilities=capabilities,
    build=_build,
)
