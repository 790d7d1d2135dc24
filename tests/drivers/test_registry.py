"""Drivers by name: built-ins, others by entry point, and what a configuration may say to them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from devices import registry
from devices.driver import Driver, DriverError, NoOptions, serial_path, tcp_address
from devices.reference import CAPABILITIES, ReferenceStimulator
from devices.settings import Device

GOOD = """
import msgspec
from devices.driver import Driver
from devices.reference import CAPABILITIES, InProcessWire, ReferenceStimulator

class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    gain_ma_per_v: float
    channels: list[int] = []

class Loose(msgspec.Struct, frozen=True):
    anything: int = 0

def driver(name="lab", options=Options, **more):
    fields = dict(summary="a lab's own", modes={"watchdog": "ends after 1 s", "bare": "nothing ends it"},
        capabilities=lambda mode, options: CAPABILITIES, build=lambda mode, port, options: ReferenceStimulator(port))
    return Driver(name=name, options=options, **(fields | more))

DRIVER = driver()
OTHER_NAME = driver("something")
LOOSE = driver("loose", Loose)
NO_MODES = driver("nomodes", modes={})
CLASS = Options
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Install a distribution with these entry points, for the length of a test."""

    def install(**points: str) -> None:
        info = tmp_path / "labware-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: labware\nVersion: 1.2\n")
        lines = [f"{name} = {value}" for name, value in points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[cereloop.devices]", *lines]))
        (tmp_path / "labware_driver.py").write_text(GOOD)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "labware_driver", raising=False)

    return install


def device(driver: str = "reference", port: str = "/dev/ttyUSB0", **more: Any) -> Device:
    return msgspec.convert({"driver": driver, "port": port, **more}, Device, strict=True)


def test_the_reference_driver_is_found_built_and_not_opened() -> None:
    choice = registry.choose(device())
    assert (choice.mode, choice.port, choice.capabilities) == ("lease", "/dev/ttyUSB0", CAPABILITIES)
    assert isinstance(choice.build(), ReferenceStimulator)


def test_every_built_in_is_whole() -> None:
    for name in registry.BUILT_IN:
        driver = registry.find(name)
        assert driver.name == name
        assert registry._shortcomings(name, driver) == ""
        assert driver.summary
        assert all(driver.modes.values())


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (dict(driver="refrence"), r"`device.driver` is 'refrence'.*did you mean reference\?"),
        (dict(driver="zzz"), r"'zzz', which is no driver here; there are labjack, magstim, nic2, reference, simulated"),
        (dict(mode="bare"), r"`device.mode` is 'bare'; driver reference has lease: "),
        (dict(options={"gain": 1.0}), r"unknown key `device.options.gain`; driver reference knows none"),
        (dict(port=""), r"`device.port` is empty; expected the path of a serial line"),
        (dict(driver="simulated", port=""), r"device.driver = simulated: .*virtual clock only"),
    ],
)
def test_what_cannot_be_chosen_is_said_in_one_sentence(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(DriverError, match=words) as error:
        registry.choose(device(**asked)).build()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bad", [{"driver": "Reference"}, {"driver": "a b"}, {"driver": ""}, {"port": 3}, {"mode": 1},
                                 {"options": {"a": None}}, {"options": {"a": [[1]]}}, {"speed": 9600}])  # fmt: skip
def test_the_table_itself_is_strict(bad: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        device(**bad)


def test_anothers_driver_is_found_by_entry_point_with_its_own_strict_table(plugins: Any) -> None:
    plugins(lab="labware_driver:DRIVER")
    choice = registry.choose(device("lab", mode="bare", options={"gain_ma_per_v": 1.5, "channels": [1, 2]}))
    assert (choice.options.gain_ma_per_v, choice.options.channels) == (1.5, [1, 2])
    for asked, words in [
        (dict(options={}, mode="bare"), r"`device.options.gain_ma_per_v` is missing: driver lab needs it"),
        (dict(options={"gain_ma_per_v": "2"}, mode="bare"), r"`device.options.gain_ma_per_v`: expected `float`.*'2'"),
        (dict(options={"gain_ma_perv": 2.0}, mode="bare"), r"did you mean `gain_ma_per_v`\?"),
        (dict(options={"gain_ma_per_v": 2.0}), r"`device.mode` is missing: driver lab has several.*watchdog: ends after 1 s"),
    ]:
        with pytest.raises(DriverError, match=words):
            registry.choose(device("lab", **asked))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("reference", "labware_driver:DRIVER", "name of a built-in, which is never replaced"),
        ("Lab", "labware_driver:DRIVER", "lower-case letters"),
        ("lab", "labware_driver:OTHER_NAME", "calls itself `something`, but is registered as `lab`"),
        ("loose", "labware_driver:LOOSE", "takes unknown keys"),
        ("nomodes", "labware_driver:NO_MODES", "has no modes"),
        ("lab", "labware_driver:CLASS", "names a StructMeta; name an instance"),
        ("lab", "labware_driver:MISSING", r"fails to load \(AttributeError"),
        ("lab", "no_such_module:X", r"fails to load \(ModuleNotFoundError"),
    ],
)
def test_what_cannot_be_used_is_listed_with_the_reason_and_never_used(
    plugins: Any, name: str, value: str, words: str
) -> None:
    plugins(**{name: value})
    (entry,) = [entry for entry in registry.available() if entry.origin == "labware 1.2"]
    assert entry.name == name
    with pytest.raises(AssertionError if name in registry.BUILT_IN else DriverError, match=words):
        registry.find(name)
        raise AssertionError(entry.problem)
    if name in registry.BUILT_IN:
        assert registry.find(name).build.__module__ == "devices.reference"


def test_pulses_are_no_current() -> None:
    from devices.driver import PulseDriver

    pulses = PulseDriver(name="p", summary="p", modes={"m": "m"}, options=NoOptions,
                         capabilities=lambda _m, _o: None, build=lambda _m, _p, _o: None)  # type: ignore[arg-type, return-value]  # fmt: skip
    assert not isinstance(pulses, Driver)


@pytest.mark.parametrize(
    ("port", "address"),
    [("10.0.0.5:502", ("10.0.0.5", 502)), ("nic.local", ("nic.local", 9)), ("[::1]:7", ("::1", 7)), ("[::1]", ("::1", 9))],
)
def test_addresses(port: str, address: tuple[str, int]) -> None:
    assert tcp_address(port, 9) == address


@pytest.mark.parametrize(
    "port", ["", ":1", "a:", "a:b", "a:0", "a:65536", "a:1:2", "a b:1", "/dev/ttyUSB0", "[::1", "[::1]x", "a:١"]
)
def test_no_addresses(port: str) -> None:
    with pytest.raises(DriverError, match=r"key `device.port` .*expected HOST or HOST:PORT"):
        tcp_address(port, 1235)


def test_a_serial_path() -> None:
    assert serial_path("/dev/ttyACM0") == "/dev/ttyACM0"
