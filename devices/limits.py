"""Hard ceilings in code, merged with configuration and device: the most restrictive wins and says why.

A limit is a value that may only be narrowed. It keeps its first value, every reason given, and which one binds.
Bounds are engineering choices for a research system (SAFETY), not clinical claims.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import msgspec

from devices.settings import Settings, Stimulation
from devices.stimulator import Capabilities

MAX_LEVEL_UA: Final = 2000
MAX_DENSITY_UA_CM2: Final = {"pad": 100.0, "hd": 700.0}
MAX_SLEW_UA_S: Final = 100
NEVER_ABOVE_SLEW_UA_S: Final = 200
ABORT_SLEW_UA_S: Final = 2000
MAX_ON_TIME_S: Final = 1200.0
MAX_CHARGE_UC: Final = 2_400_000
ARM_BELOW_OHM: Final = 10_000
STOP_ABOVE_OHM: Final = 20_000
SHORT_BELOW_OHM: Final = 800
OPEN_ABOVE_OHM: Final = 200_000

# What an honest gate may use beyond the plan: an ammeter that reads 5 % high, and a second of scheduling.
CHARGE_ALLOWANCE: Final = 0.05
TIME_ALLOWANCE_S: Final = 1.0


class LimitError(ValueError):
    """A setting that tries to raise a ceiling or that no ceiling can hold; the text names the key."""


class Limit(msgspec.Struct, frozen=True):
    """One upper limit: the value in force, where it began, and why it is what it is.

    Attributes
    ----------
    name, unit : str
        What is limited, and in which unit `value` counts.
    original : float
        The ceiling in code, before any narrowing.
    value : float
        The value in force; never above `original`.
    binding : str
        The reason whose value is in force.
    reasons : tuple of str
        Every reason given, in the order of narrowing, also those that did not bind.
    """

    name: str
    unit: str
    original: float
    value: float
    binding: str
    reasons: tuple[str, ...]

    def narrowed(self, value: float, reason: str) -> Limit:
        """A limit that is at most `value`, remembering `reason`; an equal or larger `value` changes nothing else.

        Raises
        ------
        LimitError
            If `value` is not a finite number of at least 0.
        """
        if not (math.isfinite(value) and value >= 0.0):
            raise LimitError(f"{self.name}: {reason} gives {value!r}; a finite number of at least 0 is needed")
        said = f"{reason}: {value:.9g} {self.unit}"
        reasons = (*self.reasons, said)
        if value < self.value:
            return msgspec.structs.replace(self, value=value, binding=said, reasons=reasons)
        return msgspec.structs.replace(self, reasons=reasons)


def ceiling(name: str, unit: str, value: float) -> Limit:
    """A limit at the ceiling that the code sets."""
    said = f"ceiling in code: {value:.9g} {unit}"
    return Limit(name, unit, value, value, said, (said,))


class EffectiveLimits(msgspec.Struct, frozen=True, kw_only=True):
    """All limits in force for one session and device; levels are magnitudes."""

    level_ua: Limit
    slew_ua_s: Limit
    charge_uc: Limit
    on_time_s: Limit
    arm_below_ohm: Limit
    stop_above_ohm: Limit

    def sentences(self) -> list[str]:
        """One sentence a limit, in a fixed order: value, unit, and what binds."""
        return [f"{x.name} at most {x.value:.9g} {x.unit} ({x.binding})" for x in self]

    def __iter__(self) -> Iterator[Limit]:
        """Every limit, in a fixed order."""
        return iter(
            (
                self.level_ua,
                self.slew_ua_s,
                self.charge_uc,
                self.on_time_s,
                self.arm_below_ohm,
                self.stop_above_ohm,
            )
        )


class GateDose(msgspec.Struct, frozen=True):
    """The greatest charge (microcoulomb) and time with current (milliseconds) of one gate."""

    charge_uc: int
    on_time_ms: int


def ramp_peak_slope_ua_s(level_ua: float, ramp_s: float) -> float:
    """Steepest slope of a raised-cosine ramp, in microamps a second: pi/2 * level / duration."""
    return math.pi / 2.0 * level_ua / ramp_s


def gate_dose(stimulation: Stimulation) -> GateDose:
    """What one gate (ramp, hold, ramp) can need at most, rounded up; what `Reserve` is to carry.

    A raised-cosine ramp delivers exactly half of level times duration, so the two ramps count as one at full level.
    `CHARGE_ALLOWANCE` and `TIME_ALLOWANCE_S` cover an ammeter that reads high (the larger of commanded and measured is
    counted) and late scheduling; what is not used is refunded at zero.
    """
    on_time_s = 2.0 * stimulation.ramp_s + stimulation.hold_s + TIME_ALLOWANCE_S
    full_s = stimulation.ramp_s + stimulation.hold_s + TIME_ALLOWANCE_S
    charge_uc = stimulation.level_ua * full_s * (1.0 + CHARGE_ALLOWANCE)
    return GateDose(math.ceil(charge_uc - 1e-6), math.ceil(on_time_s * 1000.0 - 1e-6))


def effective(settings: Settings, capabilities: Capabilities | None) -> EffectiveLimits:
    """Merge ceilings, settings and, where one is known, the device.

    Parameters
    ----------
    settings : Settings
        The configuration that limits or makes current.
    capabilities : Capabilities or None
        What the device can do; None before it has been opened.
    """
    own, stim = settings.limits, settings.stimulation
    area = stim.contact_area_cm2
    level = ceiling("level", "uA", MAX_LEVEL_UA)
    level = level.narrowed(own.max_level_ua, "limits.max_level_ua")
    hard_density = MAX_DENSITY_UA_CM2[stim.electrode]
    level = level.narrowed(
        math.floor(hard_density * area),
        f"ceiling of {hard_density:g} uA/cm2 under stimulation.electrode = {stim.electrode} on {area:g} cm2",
    )
    level = level.narrowed(
        math.floor(own.max_density_ua_cm2 * area),
        f"limits.max_density_ua_cm2 = {own.max_density_ua_cm2:g} on {area:g} cm2",
    )
    level = level.narrowed(stim.level_ua, "stimulation.level_ua")
    if capabilities is not None:
        level = level.narrowed(capabilities.max_level_ua, "device")
    return EffectiveLimits(
        level_ua=level,
        slew_ua_s=ceiling("slew", "uA/s", MAX_SLEW_UA_S).narrowed(own.max_slew_ua_s, "limits.max_slew_ua_s"),
        charge_uc=ceiling("charge", "uC", MAX_CHARGE_UC).narrowed(own.max_charge_uc, "limits.max_charge_uc"),
        on_time_s=ceiling("time with current", "s", MAX_ON_TIME_S).narrowed(own.max_on_time_s, "limits.max_on_time_s"),
        arm_below_ohm=ceiling("impedance to arm", "ohm", ARM_BELOW_OHM).narrowed(own.arm_below_ohm, "limits.arm_below_ohm"),
        stop_above_ohm=ceiling("impedance", "ohm", STOP_ABOVE_OHM).narrowed(own.stop_above_ohm, "limits.stop_above_ohm"),
    )


def check_settings(settings: Settings) -> None:
    """Refuse settings that raise a ceiling or that the limits cannot hold. Engine and guard both call this (I06).

    Raises
    ------
    LimitError
        One sentence that names the key, what was found, what is allowed, and what to do.
    """
    own, stim = settings.limits, settings.stimulation
    hard: tuple[tuple[str, float, float, str], ...] = (
        ("max_level_ua", own.max_level_ua, MAX_LEVEL_UA, "uA"),
        (
            "max_density_ua_cm2",
            own.max_density_ua_cm2,
            MAX_DENSITY_UA_CM2[stim.electrode],
            f"uA/cm2 under electrode {stim.electrode}",
        ),
        ("max_slew_ua_s", own.max_slew_ua_s, MAX_SLEW_UA_S, "uA/s"),
        ("max_charge_uc", own.max_charge_uc, MAX_CHARGE_UC, "uC"),
        ("max_on_time_s", own.max_on_time_s, MAX_ON_TIME_S, "s"),
        ("arm_below_ohm", own.arm_below_ohm, ARM_BELOW_OHM, "ohm"),
        ("stop_above_ohm", own.stop_above_ohm, STOP_ABOVE_OHM, "ohm"),
    )
    for key, value, most, unit in hard:
        if not math.isfinite(value) or value > most:
            raise LimitError(
                f"limits.{key} is {value:.9g}; the ceiling in code is {most:.9g} {unit} and settings can "
                f"only lower it: write {most:.9g} or less"
            )
    if not math.isfinite(stim.contact_area_cm2):
        raise LimitError("stimulation.contact_area_cm2 is not a finite number; write the area in cm2")
    if own.arm_below_ohm > own.stop_above_ohm:
        raise LimitError(
            f"limits.arm_below_ohm is {own.arm_below_ohm}, above limits.stop_above_ohm "
            f"({own.stop_above_ohm}): a session could be armed that must stop at once"
        )
    limits = effective(settings, None)
    if stim.level_ua > limits.level_ua.value:
        raise LimitError(
            f"stimulation.level_ua is {stim.level_ua}; at most {limits.level_ua.value:g} uA is allowed "
            f"({limits.level_ua.binding})"
        )
    slope, slew = ramp_peak_slope_ua_s(stim.level_ua, stim.ramp_s), limits.slew_ua_s
    if slope > slew.value:
        least = math.ceil(math.pi / 2.0 * stim.level_ua / slew.value * 10.0) / 10.0
        raise LimitError(
            f"stimulation.ramp_s is {stim.ramp_s:g}: a raised-cosine ramp to {stim.level_ua} uA then rises "
            f"by {slope:.1f} uA/s at its steepest, above {slew.value:g} uA/s ({slew.binding}); "
            f"write {least:g} or more"
        )
    dose = gate_dose(stim)
    if dose.charge_uc > limits.charge_uc.value:
        raise LimitError(
            f"stimulation.hold_s is {stim.hold_s:g}: one gate can need {dose.charge_uc} uC, above the "
            f"session's {limits.charge_uc.value:.9g} uC ({limits.charge_uc.binding}); shorten it"
        )
    if dose.on_time_ms > limits.on_time_s.value * 1000.0:
        raise LimitError(
            f"stimulation.hold_s is {stim.hold_s:g}: one gate can need {dose.on_time_ms / 1000:g} s with "
            f"current, above the session's {limits.on_time_s.value:g} s ({limits.on_time_s.binding}); "
            "shorten it"
        )
