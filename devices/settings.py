"""The part of a configuration that limits or makes current: what the guard reads by itself (I06).

Every key is mandatory: nothing that limits or steers current has a default.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Scalar = bool | int | float | str
Option = Scalar | list[Scalar] | dict[str, Scalar]
"""What a driver's own table may hold: what TOML and JSON write alike."""
Participant = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{0,32}\Z")]
"""The code under which the dose is counted."""
ChecklistText = Annotated[str, Meta(max_length=16_384)]
"""The text of the pre-arm form."""


class Stimulation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to flow when a gate opens.

    `level_ua` is a magnitude; `polarity` alone gives the sign at the electrode over the target.
    Ramps are raised cosines, so their steepest slope is pi/2 * level / duration.
    """

    polarity: Literal["anodal", "cathodal"]
    electrode: Literal["pad", "hd"]
    contact_area_cm2: Annotated[float, Meta(gt=0.0, le=200.0)]
    level_ua: Annotated[int, Meta(ge=10, le=2000)]
    ramp_s: Annotated[float, Meta(ge=1.0, le=60.0)]
    hold_s: Annotated[float, Meta(ge=1.0, le=1200.0)]


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ceilings of this study; each may lower the ceiling in code, never raise it."""

    max_level_ua: Annotated[int, Meta(ge=1)]
    max_density_ua_cm2: Annotated[float, Meta(gt=0.0)]
    max_slew_ua_s: Annotated[int, Meta(ge=1)]
    max_charge_uc: Annotated[int, Meta(ge=1)]
    max_on_time_s: Annotated[float, Meta(gt=0.0)]
    arm_below_ohm: Annotated[int, Meta(ge=1)]
    stop_above_ohm: Annotated[int, Meta(ge=1)]


class Device(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which stimulator, how it is driven, and where it is.

    `driver` is a name that `devices.registry.available` lists: ``reference`` (the reference serial protocol), ``simulated``
    (the mock, in-process, on the virtual clock only), or another's. `mode` is one of the driver's modes; it may be left out
    only where there is one. `port` is the path of a serial line such as ``/dev/ttyUSB0`` or that ``cereloop mock
    stimulator`` prints, or ``HOST:PORT`` of a device on the network; empty for ``simulated``. `options` is the driver's own
    table, which `devices.registry.choose` decodes as strictly as all others.
    """

    driver: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,63}\Z")]
    port: Annotated[str, Meta(max_length=1000)]
    mode: Annotated[str, Meta(max_length=64)] = ""
    options: dict[str, Option] = msgspec.field(default_factory=dict)


class Dose(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The dose ledger over sessions and days.

    `ledger` is its file; empty: the user's own (``$XDG_DATA_HOME/cereloop/dose.sqlite``), and for an emulator one of the
    session's own, so that rehearsals never block one another. From the last current of a session to the first of the next at
    least `min_interval_h` hours pass: 24 by the ceiling in code, which may only be lengthened. `max_sessions` ends a course.
    """

    ledger: Annotated[str, Meta(max_length=4096)] = ""
    min_interval_h: Annotated[float, Meta(ge=24.0, le=8760.0)] = 24.0
    max_sessions: Annotated[int, Meta(ge=1, le=10_000)] | None = None


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that the guard needs to know; written by the engine's shell, read back by the guard itself.

    `input_is_simulated` says that the EEG comes from a patient model, a mock amplifier or a recording: such input never
    drives a device that is not an emulator (I30). `participant` is the code under which the dose is counted, `checklist` the
    text of the pre-arm form (`devices.checklist`); a device that is no emulator needs both. Of a `blinded` session nobody is
    told how much flowed.
    """

    session: str
    stimulation: Stimulation
    limits: Limits
    device: Device
    input_is_simulated: bool
    participant: Participant = ""
    dose: Dose = Dose()
    checklist: ChecklistText = ""
    blinded: bool = False


def encode(settings: msgspec.Struct) -> bytes:
    """Canonical bytes of a guard's settings, of whichever kind; what both processes hash."""
    return msgspec.json.encode(settings, order="deterministic")


def decode(data: bytes) -> Settings:
    """Strictly decode what `encode` wrote.

    Raises
    ------
    msgspec.ValidationError
        If a key is missing, unknown, out of range or of the wrong type; the message names its path.
    msgspec.DecodeError
        If `data` is no JSON.
    """
    return msgspec.json.decode(data, type=Settings, strict=True)


def digest(settings: msgspec.Struct) -> str:
    """SHA-256 of the canonical bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(encode(settings)).hexdigest()
