"""How a Magstim is taken over: disarmed, identified, put under remote control, set to zero; the only part that may wait."""

from __future__ import annotations

from typing import Final

from devices import magstim_codec as codec
from devices.magstim_codec import Command, Parameters, Version
from devices.magstim_line import MagstimLine
from devices.stimulator import DeviceRefusedError, DeviceUnfitError, Identity

REFUSALS: Final[dict[str, str]] = {
    "unknown": "it does not know it",
    "bad_data": "it takes no such value",
    "conflict": "it says that it conflicts now",
}
"""What a refusal means, in words."""


def take_over(line: MagstimLine, keep: Command, serial_number: str) -> tuple[Identity, Version, int]:
    """Disarm, identify, take remote control, set the intensity to zero (I09).

    Parameters
    ----------
    line : MagstimLine
        Open.
    keep : Command
        What takes and keeps remote control.
    serial_number : str
        From the configuration: the unit does not tell it.

    Returns
    -------
    identity : Identity
    version : Version
        Firmware.
    percent : int
        The intensity that was found.

    Raises
    ------
    DeviceRefusedError
        If the unit does not take the unlock code, or not the intensity.
    DeviceUnfitError
        If it shows an error.
    DeviceNotFoundError, DeviceLostError, MagstimCodecError
        If nothing answers, the line breaks, or what answers is no such unit.
    """
    line.ask(codec.DISARM)
    version, is_emulator = codec.read_version(line.ask(codec.VERSION))
    firmware = ".".join(map(str, version))
    if line.ask(keep).answer != "done":
        need = "its unlock code" if version >= codec.LONG_VERSION else "no unlock code"
        raise DeviceRefusedError(
            f"{line.name}: the unit (firmware {firmware}) gives no remote control; it wants {need}: see "
            "device.options.unlock_code"
        )
    told = codec.read_parameters(version, line.ask(codec.parameters(version)))
    if told.instrument.error_present or told.instrument.replace_coil:
        raise DeviceUnfitError(f"{line.name}: {fault_of(told)}; it must not be used")
    answer = line.ask(codec.power(0)).answer
    if answer != "done":
        raise DeviceRefusedError(f"{line.name}: the unit does not set its intensity to zero: {REFUSALS[answer]}")
    identity = Identity(
        maker="Magstim" if not is_emulator else "cereloop",
        model="Rapid²" if not is_emulator else "Rapid² emulator",
        serial_number=serial_number,
        firmware=firmware,
        emulator=is_emulator,
    )
    return identity, version, told.power_percent


def fault_of(told: Parameters) -> str:
    """What the unit's status shows that bars its use; empty where nothing does."""
    if told.instrument.error_present:
        return "the unit shows an error"
    if not told.instrument.coil_present:
        return "no coil is connected"
    if told.instrument.replace_coil:
        return "the unit says that the coil must be replaced"
    return ""
