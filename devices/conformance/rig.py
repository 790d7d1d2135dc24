"""What the conformance suite needs of a driver's author: a driver, its emulator, and an independent ammeter."""

from __future__ import annotations

from typing import Protocol

from devices.stimulator import Capabilities, Stimulator


class ConformanceError(AssertionError):
    """The driver or its emulator does not do what the interface or its own capabilities promise."""


class AnyRig(Protocol):
    """What the rigs of both suites can do, on a virtual clock or in real time."""

    def renew(self) -> None:
        """Let go of the line as a host does that dies: without a word. Then make a new driver for the same device."""
        ...

    def now_ns(self) -> int:
        """Time on the clock that `pass_time` moves."""
        ...

    def pass_time(self, seconds: float) -> None:
        """Let time pass, without touching the driver."""
        ...

    def lose_replies(self) -> None:
        """From now on the device hears, and nothing that it says arrives."""
        ...

    def restore_replies(self) -> None:
        """End `lose_replies`."""
        ...

    def break_line(self) -> None:
        """Pull the cable, for good."""
        ...

    def break_device(self) -> bool:
        """Make the device latch or show a fault of its own; False where the emulated device has no such thing."""
        ...


class Rig(AnyRig, Protocol):
    """A driver with its emulator and an independent ammeter, on a virtual clock or in real time.

    Attributes
    ----------
    declared : Capabilities
        What the driver says of this mode before a device is asked.
    level_ua : int
        A level that the suite may use, a multiple of what the emulator's ammeter needs to be exact; 50 .. 200 uA do.
    tolerance_ua : float
        By how much the true current may differ from the level: gain and offset of the emulated output stage.
    """

    declared: Capabilities
    level_ua: int
    tolerance_ua: float

    @property
    def driver(self) -> Stimulator:
        """The driver under test; a new one, not yet opened, after `renew`."""
        ...

    def current_ua(self) -> float:
        """True current at the electrode now, signed, by an ammeter that neither driver nor firmware can reach."""
        ...

    def fail_self_check(self) -> bool:
        """Give the device a defect that its own self-test finds; False where the emulated device has no such test."""
        ...


def require(met: object, sentence: str) -> None:
    """Raise ConformanceError with `sentence` unless `met`."""
    if not met:
        raise ConformanceError(sentence)
