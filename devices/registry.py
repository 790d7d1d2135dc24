"""Which drivers there are: the built-ins, and those of others by the entry point group ``cereloop.devices``.

A name of a built-in belongs to the built-in: what another package registers under it is listed with the reason, and never
used. What ``device.driver = "reference"`` drives is thus the same on every machine.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

import msgspec

from devices.driver import AnyDriver, Driver, DriverError, PulseDriver
from devices.pulses import PulseCapabilities, PulseStimulator
from devices.settings import Device
from devices.stimulator import Capabilities, Stimulator

GROUP: Final = "cereloop.devices"
BUILT_IN: Final = {
    "reference": "devices.reference",
    "simulated": "devices.mock.simulated",
    "magstim": "devices.magstim",
}

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
# What somebody else's module can raise while it is loaded, short of ending the process.
_BROKEN: Final = (
    ImportError, SyntaxError, NameError, AttributeError, LookupError, TypeError, ValueError, ArithmeticError, AssertionError,
    OSError, RuntimeError,
)  # fmt: skip


class Entry(msgspec.Struct, frozen=True):
    """One line of a list of drivers; `origin` is ``built in`` or the package, `problem` why it cannot be used, or ""."""

    name: str
    summary: str
    modes: dict[str, str]
    origin: str
    problem: str = ""


class Choice(msgspec.Struct, frozen=True):
    """A driver, its mode and its options, as a configuration chose them; nothing has been opened yet."""

    driver: AnyDriver
    mode: str
    port: str
    options: Any

    @property
    def capabilities(self) -> Capabilities | PulseCapabilities:
        """What the driver can do in this mode, before a device has been asked."""
        return self.driver.capabilities(self.mode, self.options)

    def build(self) -> Stimulator | PulseStimulator:
        """The driver, not yet opened. Raises DriverError."""
        return self.driver.build(self.mode, self.port, self.options)


def choose(device: Device) -> Choice:
    """Look up driver and mode, and decode the driver's own table.

    Raises
    ------
    DriverError
        One sentence that names the key, what was found, and what to write.
    """
    driver = find(device.driver)
    try:
        options = msgspec.convert(device.options, driver.options, strict=True)
    except msgspec.ValidationError as error:
        raise DriverError(_option_words(driver, device.options, str(error))) from error
    return Choice(driver, _mode(driver, device.mode), device.port, options)


def current_choice(device: Device) -> tuple[Stimulator, Capabilities]:
    """The chosen driver of a current stimulator, not yet opened, and what it can do.

    Raises
    ------
    DriverError
        As `choose` and `Choice.build`; also where the driver gives pulses.
    """
    choice = choose(device)
    if not isinstance(choice.driver, Driver):
        raise DriverError(f"key `device.driver` is {device.driver}: it gives pulses, and this session asks for a current")
    return (
        choice.driver.build(choice.mode, choice.port, choice.options),
        choice.driver.capabilities(choice.mode, choice.options),
    )


def pulse_choice(device: Device) -> tuple[PulseStimulator, PulseCapabilities]:
    """The chosen driver of a pulse stimulator, not yet opened, and what it can do.

    Raises
    ------
    DriverError
        As `choose` and `Choice.build`; also where the driver makes a current.
    """
    choice = choose(device)
    if not isinstance(choice.driver, PulseDriver):
        raise DriverError(f"key `device.driver` is {device.driver}: it makes a current, and this session asks for pulses")
    return (
        choice.driver.build(choice.mode, choice.port, choice.options),
        choice.driver.capabilities(choice.mode, choice.options),
    )


def find(name: str) -> AnyDriver:
    """The driver of a name.

    Raises
    ------
    DriverError
        If there is none of that name, or it cannot be used.
    """
    if name in BUILT_IN:
        return _built_in(name)
    points = _points()
    named = [point for point in points if point.name == name]
    if not named:
        known = sorted({*BUILT_IN, *(point.name for point in points)})
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
        raise DriverError(f"key `device.driver` is {name!r}, which is no driver here; {hint}")
    driver, problem = _load(named[0], points)
    if driver is None:
        raise DriverError(f"key `device.driver`: {name} of {_origin(named[0])} cannot be used: {problem}")
    return driver


def available() -> list[Entry]:
    """All drivers, built-ins first; those that cannot be used with the reason."""
    entries = []
    for name in BUILT_IN:
        driver = _built_in(name)
        entries.append(Entry(driver.name, driver.summary, dict(driver.modes), "built in"))
    points = _points()
    for point in points:
        other, problem = _load(point, points)
        if other is None:
            entries.append(Entry(point.name, "", {}, _origin(point), problem))
        else:
            entries.append(Entry(point.name, other.summary, dict(other.modes), _origin(point)))
    return entries


def _built_in(name: str) -> AnyDriver:
    driver: AnyDriver = importlib.import_module(BUILT_IN[name]).DRIVER
    return driver


def _mode(driver: AnyDriver, mode: str) -> str:
    if mode in driver.modes:
        return mode
    known = "; ".join(f"{name}: {words}" for name, words in driver.modes.items())
    if mode:
        raise DriverError(f"key `device.mode` is {mode!r}; driver {driver.name} has {known}")
    if len(driver.modes) > 1:
        raise DriverError(f"key `device.mode` is missing: driver {driver.name} has several, and none is the default; {known}")
    return next(iter(driver.modes))


def _option_words(driver: AnyDriver, options: Mapping[str, Any], message: str) -> str:
    """One sentence from msgspec's message: the key first, then what is wrong with it, and the nearest known key."""
    what, _, place = message.partition(" - at ")
    path = place.strip("`").removeprefix("$")
    known = [field.name for field in msgspec.structs.fields(driver.options)]
    if what.startswith("Object contains unknown field"):
        key = what.split("`")[1]
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
        hint = f"did you mean `{near[0]}`?" if near else f"driver {driver.name} knows {', '.join(known) or 'none'}"
        return f"unknown key `device.options{path}.{key}`; {hint}"
    if what.startswith("Object missing required field"):
        key = what.split("`")[1]
        return f"key `device.options{path}.{key}` is missing: driver {driver.name} needs it, and it has no default"
    got = options.get(path.removeprefix("."))
    return f"key `device.options{path}`: {what[0].lower()}{what[1:]}" + (f" (it is {got!r})" if got is not None else "")


def _points() -> list[EntryPoint]:
    return sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value))


def _origin(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value


def _load(point: EntryPoint, points: list[EntryPoint]) -> tuple[AnyDriver | None, str]:
    """The driver of an entry point, or the reason why it cannot be used."""
    if point.name in BUILT_IN:
        return None, f"`{point.name}` is the name of a built-in, which is never replaced; its author must choose another"
    if not _NAME.fullmatch(point.name):
        return None, "its name must be lower-case letters, digits and underscores, a letter first"
    others = [other for other in points if other.name == point.name and other is not point]
    if others:
        return None, f"{', '.join(map(_origin, others))} registers the same name; uninstall one of them"
    try:
        driver = point.load()
    except _BROKEN as error:
        words = str(error).strip().splitlines()
        return None, f"it fails to load ({type(error).__name__}{': ' + words[0] if words else ''})"
    problem = _shortcomings(point.name, driver)
    return (None, problem) if problem else (driver, "")


def _shortcomings(name: str, driver: Any) -> str:
    if not isinstance(driver, Driver | PulseDriver):
        return f"its entry point names a {type(driver).__name__}; name an instance of devices.driver.Driver or PulseDriver"
    if driver.name != name:
        return f"it calls itself `{driver.name}`, but is registered as `{name}`"
    if not driver.modes or not all(isinstance(mode, str) and mode for mode in driver.modes):
        return "it has no modes, or one without a name; see devices.driver.Driver"
    if not (isinstance(driver.options, type) and issubclass(driver.options, msgspec.Struct)):
        return "its `options` is no msgspec.Struct; see devices.driver.Driver"
    if not driver.options.__struct_config__.forbid_unknown_fields:
        return "its `options` takes unknown keys; declare it with forbid_unknown_fields=True"
    return ""
