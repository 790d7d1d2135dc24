"""What the suite for pulse stimulators needs of a driver's author: a driver, its emulator, an independent pulse meter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from devices.pulses import PulseCapabilities, PulseStimulator


class PulseRig(Protocol):
    """A driver with its emulator and an independent pulse meter, on a virtual clock or in real time.

    Attributes
    ----------
    declared : PulseCapabilities
        What the driver says of this mode before a device is asked.
    intensity_percent : int
        An intensity that the suite may use; 10 .. 30 do.
    """

    declared: PulseCapabilities
    intensity_percent: int

    @property
    def driver(self) -> PulseStimulator:
        """The driver under test; a new one, not yet opened, after `renew`."""
        ...

    def renew(self) -> None:
        """Let go of the line as a host does that dies: without a word. Then make a new driver for the same device."""
        ...

    def now_ns(self) -> int:
        """Time on the clock that `pass_time` moves."""
        ...

    def pass_time(self, seconds: float) -> None:
        """Let time pass, without touching the driver."""
        ...

    def pulses(self) -> Sequence[tuple[int, float]]:
        """Every pulse so far, (time ns, percent), by a meter that neither driver nor firmware can reach."""
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
        """Make the device show a fault of its own; False where the emulated device has no such thing."""
        ...

    def mend_device(self) -> None:
        """End what `break_device` began."""
        ...
