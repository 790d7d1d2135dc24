"""The fault vocabulary of the mock stimulator, as data: name, effect, row of the hazard table.

A fault is written ``NAME``, ``NAME:key=value,key=value`` or, where a moment is wanted, ``NAME...@SECONDS``:
``over_current:extra_ua=300@12.5``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from devices.mock.electrodes import SOUND, Contact
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


class Injection(msgspec.Struct, frozen=True, kw_only=True):
    """A fault with its numbers filled in; `at_s` is seconds after the model's start, None for at once."""

    spec: FaultSpec
    values: dict[str, float]
    at_s: float | None = None


class FaultError(ValueError):
    """A fault that does not exist or was written wrongly; the text says what exists."""


_S0, _S1 = StopClass.S0_CUT, StopClass.S1_ABORT_RAMP

FAULTS: Final[dict[str, FaultSpec]] = {
    spec.name: spec
    for spec in (
        FaultSpec(
            name="wrong_ack",
            part="replies",
            row="F32",
            answer=_S0,
            effect="replies acknowledge frames that were never sent",
            parameters=(Parameter("ahead", "frames", 100_000, 1, 1e9),),
        ),
        FaultSpec(
            name="garbage",
            part="replies",
            row="F32",
            answer=_S0,
            effect="random bytes come in place of replies",
            parameters=(Parameter("fraction", "1", 1.0, 0.0, 1.0),),
        ),
        FaultSpec(
            name="truncated",
            part="replies",
            row="F32",
            answer=_S0,
            effect="replies end in the middle",
            parameters=(Parameter("fraction", "1", 1.0, 0.0, 1.0),),
        ),
        FaultSpec(
            name="bit_flip",
            part="replies",
            row="F32",
            answer=_S0,
            effect="one bit of a reply is wrong",
            parameters=(Parameter("fraction", "1", 1.0, 0.0, 1.0),),
        ),
        FaultSpec(
            name="over_current",
            part="output",
            row="F33",
            answer=_S0,
            effect="the output stage adds current of the same sign while its relay is closed",
            parameters=(Parameter("extra_ua", "uA", 400.0, 0.0, 5000.0),),
        ),
        FaultSpec(
            name="gain_x2",
            part="output",
            row="F33",
            answer=_S0,
            effect="the output stage delivers a multiple of its set point",
            parameters=(Parameter("gain", "1", 2.0, 0.0, 10.0),),
        ),
        FaultSpec(
            name="offset",
            part="output",
            row="F33",
            answer=_S0,
            effect="the output stage adds current of fixed sign while its relay is closed",
            parameters=(Parameter("offset_ua", "uA", 200.0, -5000.0, 5000.0),),
        ),
        FaultSpec(
            name="low_supply",
            part="supply",
            row="F35",
            answer=_S0,
            effect="the supply sags: the output reaches only so many volts, and less current than it was set to",
            parameters=(Parameter("volts", "V", 1.0, 0.0, 40.0),),
        ),
        FaultSpec(
            name="wrong_polarity",
            part="output",
            row="F34",
            answer=_S0,
            effect="the output stage delivers the opposite sign",
        ),
        FaultSpec(
            name="open_circuit",
            part="contact",
            row="F35",
            answer=_S0,
            effect="a lead is off",
            parameters=(Parameter("lead_ohm", "ohm", 5e6, 1e4, 1e9),),
        ),
        FaultSpec(
            name="chatter",
            part="contact",
            row="F35",
            answer=_S0,
            effect="a loose lead opens and closes",
            parameters=(Parameter("hz", "Hz", 10.0, 0.5, 100.0), Parameter("lead_ohm", "ohm", 5e6, 1e4, 1e9)),
        ),
        FaultSpec(
            name="motion",
            part="contact",
            row="F16",
            answer=None,
            effect="the head moves: the skin's resistance swings by a share, back and forth in a second",
            parameters=(Parameter("share", "1", 0.3, 0.0, 0.9),),
        ),
        FaultSpec(
            name="reset",
            part="supply",
            row="F36",
            answer=_S0,
            effect="brown-out: the device loses its supply, restarts, and has forgotten everything",
            parameters=(Parameter("boot_ms", "ms", 150.0, 1.0, 60_000.0),),
        ),
        FaultSpec(
            name="stuck_output",
            part="output",
            row="F37",
            answer=_S0,
            effect="the converter keeps its present value; only the relay can end the current",
        ),
        FaultSpec(
            name="stuck_adc",
            part="sensor",
            row="F37",
            answer=_S0,
            effect="measured current, voltage and impedance stay as they are",
        ),
        FaultSpec(
            name="slow_replies",
            part="replies",
            row="F38",
            answer=_S1,
            effect="replies come late",
            parameters=(Parameter("delay_ms", "ms", 500.0, 1.0, 60_000.0),),
        ),
        FaultSpec(
            name="lost_replies",
            part="replies",
            row="F38",
            answer=_S1,
            effect="replies do not come",
            parameters=(Parameter("fraction", "1", 1.0, 0.0, 1.0),),
        ),
        FaultSpec(
            name="half_open",
            part="line",
            row="F39",
            answer=_S1,
            effect="the line stays open but carries nothing, either way",
        ),
        FaultSpec(
            name="impedance_rise",
            part="contact",
            row="F40",
            answer=_S1,
            effect="the skin under the pad dries out quickly",
            parameters=(Parameter("factor", "1", 6.0, 1.0, 100.0), Parameter("over_s", "s", 2.0, 0.0, 600.0)),
        ),
        FaultSpec(
            name="short",
            part="contact",
            row="F40",
            answer=_S1,
            effect="the electrodes or their leads touch",
            parameters=(Parameter("ohm", "ohm", 60.0, 1.0, 300.0),),
        ),
        FaultSpec(
            name="bridge",
            part="contact",
            row="F40",
            answer=_S1,
            effect="saline runs from pad to pad: below 500 ohm in the end",
            parameters=(Parameter("over_s", "s", 5.0, 0.0, 600.0),),
        ),
        FaultSpec(
            name="emergency_button",
            part="operator",
            row="F41",
            answer=_S0,
            effect="the button on the device is pressed: it cuts by itself and latches",
        ),
    )
}


def lookup(name: str, among: Mapping[str, FaultSpec] = FAULTS) -> FaultSpec:
    """The entry called `name`, in the vocabulary of this device or of another.

    Raises
    ------
    FaultError
        If there is none; the text lists all names.
    """
    if name not in among:
        raise FaultError(f"there is no fault {name!r}; the names are: {', '.join(among)}")
    return among[name]


def injection(
    name: str, values: dict[str, float] | None = None, at_s: float | None = None, among: Mapping[str, FaultSpec] = FAULTS
) -> Injection:
    """Fault `name` with `values`, and defaults for the rest.

    Raises
    ------
    FaultError
        If the fault or a parameter does not exist, or a value is out of range.
    """
    spec = lookup(name, among)
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


def parse(text: str, among: Mapping[str, FaultSpec] = FAULTS) -> Injection:
    """Read ``NAME[:key=value,...][@SECONDS]``.

    Raises
    ------
    FaultError
        If the text is written wrongly, or for the reasons of `injection`.
    """
    body, _, moment = text.strip().partition("@")
    name, _, listed = body.partition(":")
    lookup(name, among)
    values: dict[str, float] = {}
    for item in filter(None, listed.split(",")):
        key, equals, number = item.partition("=")
        if not equals:
            raise FaultError(f"fault {text!r}: {item!r} should read key=value")
        values[key.strip()] = _number(number, text)
    return injection(name, values, _number(moment, text) if "@" in text else None, among)


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

    Attributes
    ----------
    names : list of str
        Names in force, oldest first.
    touches_contact : bool
        Whether any fault in force changes the contact.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.touches_contact = False
        self._since: dict[str, tuple[int, dict[str, float]]] = {}

    def begin(self, fault: Injection, k: int) -> None:
        """Put `fault` in force from grid index `k`; one already in force starts anew."""
        self._since[fault.spec.name] = (k, fault.values)
        self._list()

    def end(self, name: str) -> None:
        """Take `name` back, if it is in force."""
        self._since.pop(lookup(name).name, None)
        self._list()

    def __contains__(self, name: str) -> bool:
        return name in self._since

    def value(self, name: str, key: str, otherwise: float) -> float:
        """Parameter `key` of `name` if it is in force, else `otherwise`."""
        return self._since[name][1][key] if name in self._since else otherwise

    def _list(self) -> None:
        self.names = list(self._since)
        self.touches_contact = any(FAULTS[name].part == "contact" for name in self._since)

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
