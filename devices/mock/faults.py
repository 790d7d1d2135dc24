"""How a fault is written, and which faults are in force; which ones there are, `reference_faults` and its neighbours say.

A fault is written ``NAME``, ``NAME:key=value,key=value`` or, where a moment is wanted, ``NAME...@SECONDS``:
``over_current:extra_ua=300@12.5``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from devices.mock.electrodes import SOUND, Contact
from devices.mock.fault_spec import FaultSpec, Parameter
from devices.mock.reference_faults import FAULTS

__all__ = ["FAULTS", "ActiveFaults", "FaultError", "FaultSpec", "Injection", "Parameter", "injection", "lookup", "parse"]


class Injection(msgspec.Struct, frozen=True, kw_only=True):
    """A fault with its numbers filled in; `at_s` is seconds after the model's start, None for at once."""

    spec: FaultSpec
    values: dict[str, float]
    at_s: float | None = None


class FaultError(ValueError):
    """A fault that does not exist or was written wrongly; the text says what exists."""


def lookup(name: str, known: Mapping[str, FaultSpec] = FAULTS) -> FaultSpec:
    """The entry called `name` in the vocabulary `known`.

    Raises
    ------
    FaultError
        If there is none; the text lists all names.
    """
    if name not in known:
        raise FaultError(f"there is no fault {name!r}; the names are: {', '.join(known)}")
    return known[name]


def injection(
    name: str,
    values: dict[str, float] | None = None,
    at_s: float | None = None,
    vocabulary: Mapping[str, FaultSpec] = FAULTS,
) -> Injection:
    """Fault `name` with `values`, and defaults for the rest.

    Raises
    ------
    FaultError
        If the fault or a parameter does not exist, or a value is out of range.
    """
    spec = lookup(name, vocabulary)
    known = {parameter.name: parameter for parameter in spec.parameters}
    filled = {parameter.name: parameter.default for parameter in spec.parameters}
    for key, value in (values or {}).items():
        if key not in known:
            raise FaultError(f"fault {name} has no parameter {key!r}; it has: {', '.join(known) or 'none'}")
        if not known[key].low <= value <= known[key].high:
            what = known[key]
            raise FaultError(
                f"fault {name}: {key} = {value} is outside {what.low:g} .. {what.high:g} {what.unit}"
            )
        filled[key] = value
    if at_s is not None and not 0.0 <= at_s <= 1e6:
        raise FaultError(f"fault {name}: the moment {at_s} s is outside 0 .. 1e6 s")
    return Injection(spec=spec, values=filled, at_s=at_s)


def parse(text: str, vocabulary: Mapping[str, FaultSpec] = FAULTS) -> Injection:
    """Read ``NAME[:key=value,...][@SECONDS]``.

    Raises
    ------
    FaultError
        If the text is written wrongly, or for the reasons of `injection`.
    """
    body, _, moment = text.strip().partition("@")
    name, _, listed = body.partition(":")
    lookup(name, vocabulary)
    values: dict[str, float] = {}
    for item in filter(None, listed.split(",")):
        key, equals, number = item.partition("=")
        if not equals:
            raise FaultError(f"fault {text!r}: {item!r} should read key=value")
        values[key.strip()] = _number(number, text)
    return injection(name, values, _number(moment, text) if "@" in text else None, vocabulary)


def _number(word: str, text: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise FaultError(f"fault {text!r}: {word!r} is no number")
    return value


class ActiveFaults:
    """The faults in force, with the grid index (ms) at which each began.

    Parameters
    ----------
    vocabulary : mapping
        Which faults there are.

    Attributes
    ----------
    names : list of str
        Names in force, oldest first.
    touches_contact : bool
        Whether any fault in force changes the contact.
    """

    def __init__(self, vocabulary: Mapping[str, FaultSpec] = FAULTS) -> None:
        self._vocabulary = vocabulary
        self.names: list[str] = []
        self.touches_contact = False
        self._since: dict[str, tuple[int, dict[str, float]]] = {}

    def begin(self, fault: Injection, k: int) -> None:
        """Put `fault` in force from grid index `k`; one already in force starts anew."""
        self._since[fault.spec.name] = (k, fault.values)
        self._list()

    def end(self, name: str) -> None:
        """Take `name` back, if it is in force."""
        self._since.pop(lookup(name, self._vocabulary).name, None)
        self._list()

    def __contains__(self, name: str) -> bool:
        return name in self._since

    def value(self, name: str, key: str, otherwise: float) -> float:
        """Parameter `key` of `name` if it is in force, else `otherwise`."""
        return self._since[name][1][key] if name in self._since else otherwise

    def _list(self) -> None:
        self.names = list(self._since)
        self.touches_contact = any(self._vocabulary[name].part == "contact" for name in self._since)

    def contact(self, k: int) -> Contact:
        """The contact at grid index `k`."""
        lead, skin, direct = SOUND.lead_ohm, SOUND.skin_scale, SOUND.direct_ohm
        for name, (since, values) in self._since.items():
            over_ms = values.get("over_s", 0.0) * 1000.0
            share = 1.0 if over_ms <= 0.0 else min(1.0, (k - since) / over_ms)
            if name == "open_circuit":
                lead += values["lead_ohm"]
            elif name == "impedance_rise":
                skin *= 1.0 + (values["factor"] - 1.0) * share
            elif name == "bridge":
                skin *= 0.01**share
            elif name == "chatter" and (k - since) * values["hz"] % 1000.0 < 500.0:
                lead += values["lead_ohm"]
            elif name == "motion":
                skin *= 1.0 + values["share"] * math.sin(2e-3 * math.pi * (k - since))
            elif name == "short":
                direct = values["ohm"]
        return Contact(lead, skin, direct)
