"""What the suite for pulse stimulators needs of a driver's author: a driver, its emulator, an independent pulse meter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from devices.conformance.rig import AnyRig
from devices.pulses import PulseCapabilities, PulseStimulator


class PulseRig(AnyRig, Protocol):
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

    def pulses(self) -> Sequence[tuple[int, float]]:
        """Every pulse so far, (time ns, percent), by a meter that neither driver nor firmware can reach."""
        ...

    def mend_device(self) -> None:
        """End what `break_device` began."""
        ...
