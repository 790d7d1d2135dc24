"""Which drivers there are, and what a configuration's ``[device]`` chooses of them.

Those of other packages come by the entry point group ``cereloop.devices``, under the rules of `devices.plugins`: what
``device.driver = "reference"`` drives is the same on every machine.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from devices.driver import AnyDriver, Driver, DriverError, PulseDriver
from devices.plugins import Plugins
from devices.pulses import PulseCapabilities, PulseStimulator
from devices.settings import Device
from devices.stimulator import Capabilities, Stimulator

GROUP: Final = "cereloop.devices"
BUILT_IN: Final = {
    "reference": "devices.reference",
    "nic2": "devices.nic2",
    "labjack": "devices.labjack",
    "simulated": "devices.mock.simulated",
    "magstim": "devices.magstim",
}


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
    found = _DRIVERS.find(name)
    if found is None:
        near = _DRIVERS.near(name)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(_DRIVERS.names())}"
        raise DriverError(f"key `device.driver` is {name!r}, which is no driver here; {hint}")
    if found.plugin is None:
        raise DriverError(f"key `device.driver`: {name} of {found.origin} cannot be used: {found.problem}")
    return found.plugin


def available() -> list[Entry]:
    """All drivers, built-ins first; those that cannot be used with the reason."""
    entries = []
    for found in _DRIVERS.every():
        driver = found.plugin
        summary, modes = ("", {}) if driver is None else (driver.summary, dict(driver.modes))
        entries.append(Entry(found.name, summary, modes, found.origin, found.problem))
    return entries


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


_DRIVERS: Final[Plugins[AnyDriver]] = Plugins(GROUP, BUILT_IN, "DRIVER", _shortcomings)
