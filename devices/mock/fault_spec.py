"""What an entry of a fault vocabulary says; the vocabularies are data, one a device."""

from __future__ import annotations

from typing import Literal

import msgspec

from devices.stimulator import StopClass

Part = Literal["output", "contact", "sensor", "replies", "line", "supply", "operator"]


class Parameter(msgspec.Struct, frozen=True):
    """One number of a fault, with its unit and range."""

    name: str
    unit: str
    default: float
    low: float
    high: float


class FaultSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One entry: `group` and `row` as in the hazard table, `answer` the stop that the guard owes it (None: it owes none)."""

    name: str
    part: Part
    row: str
    answer: StopClass | None
    effect: str
    group: str = "device"
    parameters: tuple[Parameter, ...] = ()


def by_name(*specs: FaultSpec) -> dict[str, FaultSpec]:
    """A vocabulary, in the order given."""
    return {spec.name: spec for spec in specs}
