"""The part of a configuration that limits or makes magnetic pulses, and the ceilings in code that it may only lower (I06).

Every key is mandatory: nothing that limits or steers a pulse has a default. Bounds are engineering choices for a research
system, not clinical claims: low-frequency rTMS, far below what published courses have used.
"""

from __future__ import annotations

import math
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from devices.pulses import PulseCapabilities, PulseLimits
from devices.settings import ChecklistText, Device, Dose, Participant, Settings

MAX_INTENSITY_PERCENT: Final = 80
MAX_PULSES: Final = 1200
MIN_INTERVAL_MS: Final = 1000
MAX_COIL_C: Final = 40.0
GATE_ALLOWANCE_S: Final = 3.0
"""What a gate needs beyond its trains: the unit arms and charges first."""
TRAIN_ALLOWANCE_S: Final = 1.5
"""What a train needs beyond its pulses: the unit's pause, reading back, and asking for the next."""


class PulseStimulation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be given when a gate opens: pulses at `intensity_percent` of the greatest output, `interval_ms` apart.

    They go out in trains of `train_pulses`, so that a gate can pause between and within any two; one gate gives `gate_pulses`.
    """

    intensity_percent: Annotated[int, Meta(ge=1, le=100)]
    interval_ms: Annotated[int, Meta(ge=1000, le=10_000)]
    train_pulses: Annotated[int, Meta(ge=1, le=10)]
    gate_pulses: Annotated[int, Meta(ge=1, le=1200)]


class PulseCeilings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ceilings of this study; each may narrow the ceiling in code, never widen it."""

    max_intensity_percent: Annotated[int, Meta(ge=1)]
    max_pulses: Annotated[int, Meta(ge=1)]
    min_interval_ms: Annotated[int, Meta(ge=1)]
    max_coil_c: Annotated[float, Meta(gt=0.0)]


class PulseSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that the guard of a pulse stimulator needs to know; the rest as in `devices.settings.Settings`."""

    session: str
    pulses: PulseStimulation
    pulse_limits: PulseCeilings
    device: Device
    input_is_simulated: bool
    participant: Participant = ""
    dose: Dose = Dose()
    checklist: ChecklistText = ""
    blinded: bool = False


class PulseLimitError(ValueError):
    """A setting that tries to widen a ceiling, or that no ceiling can hold; the text names the key."""


def decode(data: bytes) -> Settings | PulseSettings:
    """Strictly decode what `devices.settings.encode` wrote, of either kind: the table ``pulses`` tells which.

    Raises
    ------
    msgspec.ValidationError
        If a key is missing, unknown, out of range or of the wrong type; the message names its path.
    msgspec.DecodeError
        If `data` is no JSON.
    """
    tree = msgspec.json.decode(data)
    if isinstance(tree, dict) and "pulses" in tree:
        return msgspec.json.decode(data, type=PulseSettings, strict=True)
    return msgspec.json.decode(data, type=Settings, strict=True)


def check_pulse_settings(stimulation: PulseStimulation, own: PulseCeilings) -> None:
    """Refuse settings that widen a ceiling or that the limits cannot hold. Engine and guard both call this (I06).

    Raises
    ------
    PulseLimitError
        One sentence that names the key, what was found, what is allowed, and what to do.
    """
    most = (
        ("max_intensity_percent", own.max_intensity_percent, MAX_INTENSITY_PERCENT, "%"),
        ("max_pulses", own.max_pulses, MAX_PULSES, "pulses a session"),
        ("max_coil_c", own.max_coil_c, MAX_COIL_C, "degrees Celsius"),
    )
    for key, value, ceiling, unit in most:
        if not math.isfinite(value) or value > ceiling:
            raise PulseLimitError(
                f"pulse_limits.{key} is {value:g}; the ceiling in code is {ceiling:g} {unit} and settings can only lower it: "
                f"write {ceiling:g} or less"
            )
    if own.min_interval_ms < MIN_INTERVAL_MS:
        raise PulseLimitError(
            f"pulse_limits.min_interval_ms is {own.min_interval_ms}; the least in code is {MIN_INTERVAL_MS} ms and settings "
            f"can only lengthen it: write {MIN_INTERVAL_MS} or more"
        )
    if stimulation.intensity_percent > own.max_intensity_percent:
        raise PulseLimitError(
            f"pulses.intensity_percent is {stimulation.intensity_percent}; at most {own.max_intensity_percent} % is allowed "
            "(pulse_limits.max_intensity_percent)"
        )
    if stimulation.interval_ms < own.min_interval_ms:
        raise PulseLimitError(
            f"pulses.interval_ms is {stimulation.interval_ms}; at least {own.min_interval_ms} ms are needed "
            "(pulse_limits.min_interval_ms)"
        )
    if stimulation.gate_pulses > own.max_pulses:
        raise PulseLimitError(
            f"pulses.gate_pulses is {stimulation.gate_pulses}, above the session's {own.max_pulses} "
            "(pulse_limits.max_pulses): no gate could open; give fewer"
        )


def gate_s(stimulation: PulseStimulation) -> float:
    """How long one gate takes at the longest, in seconds."""
    trains = -(-stimulation.gate_pulses // stimulation.train_pulses)
    return stimulation.gate_pulses * stimulation.interval_ms / 1000.0 + trains * TRAIN_ALLOWANCE_S + GATE_ALLOWANCE_S


def pulse_limits(settings: PulseSettings, can: PulseCapabilities) -> tuple[PulseLimits, list[str]]:
    """What is latched in the device, and one sentence a limit for the operator."""
    stim, own = settings.pulses, settings.pulse_limits
    percent = min(stim.intensity_percent, own.max_intensity_percent, can.max_intensity_percent, MAX_INTENSITY_PERCENT)
    pulses = min(own.max_pulses, MAX_PULSES)
    interval_ms = max(own.min_interval_ms, can.min_interval_ms, MIN_INTERVAL_MS)
    said = [
        f"intensity at most {percent} % of the output (pulses.intensity_percent; ceiling in code: {MAX_INTENSITY_PERCENT} %)",
        f"at most {pulses} pulses a session (pulse_limits.max_pulses; ceiling in code: {MAX_PULSES})",
        f"at least {interval_ms} ms between two pulses (ceiling in code: {MIN_INTERVAL_MS} ms)",
        f"coil below {min(own.max_coil_c, MAX_COIL_C):g} degrees Celsius (pulse_limits.max_coil_c)",
    ]
    return PulseLimits(max_intensity_percent=percent, max_pulses=pulses, min_interval_ms=interval_ms), said
