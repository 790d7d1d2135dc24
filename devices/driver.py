"""What a driver is to cereloop: a name, its modes, its own settings, what it can do in each mode, and how it is built.

A driver is one file with one constant `DRIVER`; the registry (`devices.registry`) finds it by name, the conformance suite
(`devices.conformance`) says whether it keeps its word. The file imports what is heavy inside `build`: a configuration is
checked, and its table of times to zero printed, without opening or importing anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, TypeVar

import msgspec

from devices.pulses import PulseCapabilities, PulseStimulator
from devices.stimulator import Capabilities, Stimulator

OptionsT = TypeVar("OptionsT", bound=msgspec.Struct)


class DriverError(ValueError):
    """No such driver, mode, option or address; one sentence that names the key and what to write."""


class NoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a driver that has no settings of its own: ``[device.options]`` stays empty."""


class Driver(msgspec.Struct, Generic[OptionsT], frozen=True, kw_only=True):
    """A driver of a current stimulator.

    Attributes
    ----------
    name : str
        As ``device.driver`` names it: lower-case letters, digits and underscores, a letter first.
    summary : str
        One line for lists.
    modes : mapping of str to str
        One sentence a mode, by the name in ``device.mode``. Where there is only one, the configuration may leave it out;
        where there are several it must choose, since the mode decides what happens when the host dies.
    options : type
        The strict table ``[device.options]``: a frozen `msgspec.Struct` with ``forbid_unknown_fields=True``. Nothing in it
        that limits or steers current has a default.
    capabilities : callable
        ``(mode, options) -> Capabilities``; pure. What the opened device then claims may only be narrower.
    build : callable
        ``(mode, port, options) -> Stimulator``; touches no device, which `Stimulator.open` does. Raises `DriverError`
        where `port` (``device.port``) is no address for this driver.
    """

    name: str
    summary: str
    modes: Mapping[str, str]
    options: type[OptionsT]
    capabilities: Callable[[str, OptionsT], Capabilities]
    build: Callable[[str, str, OptionsT], Stimulator]


class PulseDriver(msgspec.Struct, Generic[OptionsT], frozen=True, kw_only=True):
    """A driver of a magnetic stimulator; as `Driver`, but what it builds gives pulses."""

    name: str
    summary: str
    modes: Mapping[str, str]
    options: type[OptionsT]
    capabilities: Callable[[str, OptionsT], PulseCapabilities]
    build: Callable[[str, str, OptionsT], PulseStimulator]


AnyDriver = Driver[Any] | PulseDriver[Any]

_HIGHEST_PORT: Final = 65_535


def tcp_address(port: str, usual: int) -> tuple[str, int]:
    """Host and TCP port in `port`, which reads ``HOST``, ``HOST:PORT``, ``[IPV6]`` or ``[IPV6]:PORT``.

    Parameters
    ----------
    port : str
        As in ``device.port``.
    usual : int
        The protocol's own TCP port, for an address that names none.

    Raises
    ------
    DriverError
        If it cannot be read so.
    """
    wrong = DriverError(f"key `device.port` is {port!r}; expected HOST or HOST:PORT, for example 192.168.1.50:{usual}")
    if port.startswith("["):
        host, bracket, rest = port[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise wrong
        number = rest[1:] if rest else str(usual)
    else:
        host, colon, number = port.partition(":")
        number = number if colon else str(usual)
    if not host or any(c.isspace() or c == "/" for c in host) or not (number.isascii() and number.isdigit()):
        raise wrong
    if not 1 <= int(number[:6]) <= _HIGHEST_PORT:
        raise wrong
    return host, int(number)


def serial_path(port: str) -> str:
    """The path of a serial line in `port`.

    Raises
    ------
    DriverError
        If it is empty.
    """
    if not port:
        raise DriverError("key `device.port` is empty; expected the path of a serial line, for example /dev/ttyUSB0")
    return port
