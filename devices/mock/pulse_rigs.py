"""Rigs for the conformance suite of pulse stimulators: driver, emulator and an independent pulse meter."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from devices.clock import VirtualClock
from devices.conformance import PulseRig
from devices.magstim import MagstimOptions, Mode, capabilities
from devices.magstim_codec import LONG_VERSION, Version
from devices.magstim_driver import BAUD, MagstimRapid
from devices.mock import faults
from devices.mock.magstim import UNLOCK_CODE, MagstimModel
from devices.mock.magstim_faults import FAULTS
from devices.mock.pulse_meter import read_pulse_meter
from devices.mock.rig_parts import CableWire, ProcessRig
from devices.pulses import PulseCapabilities, PulseStimulator
from devices.units import NS_PER_MS, NS_PER_S
from devices.wires import SerialWire


def options_for(firmware: Version) -> MagstimOptions:
    """What a configuration would say of the emulator."""
    return MagstimOptions("emulator-1", UNLOCK_CODE if firmware >= LONG_VERSION else "")


class VirtualLine(CableWire):
    """An in-process wire whose cable can be pulled; waiting on it moves the virtual clock.

    Parameters
    ----------
    model : MagstimModel
    clock : VirtualClock
    """

    def __init__(self, model: MagstimModel, clock: VirtualClock) -> None:
        super().__init__(model, clock)
        self._moved = clock

    def wait(self, budget_s: float) -> float:
        """Let 5 ms pass."""
        self._moved.advance_to(self._moved.now_ns() + 5 * NS_PER_MS)
        return budget_s - 0.005


class VirtualMagstimRig:
    """The driver on the emulated unit, in this process, on a virtual clock.

    Parameters
    ----------
    mode : {"train", "single"}
    firmware : Version
    """

    def __init__(self, mode: Mode = "train", firmware: Version = (9, 0, 0)) -> None:
        self.declared: PulseCapabilities = capabilities(mode)
        self.intensity_percent = 20
        self.clock = VirtualClock()
        self.model = MagstimModel(firmware=firmware)
        self._mode: Mode = mode
        self._firmware = firmware
        self.renew()

    def renew(self) -> None:
        """Forget the driver; a new one finds the unit as it is."""
        self.line = VirtualLine(self.model, self.clock)
        self.driver: PulseStimulator = MagstimRapid(self.line, self._mode, options_for(self._firmware))

    def now_ns(self) -> int:
        """Virtual time."""
        return self.clock.now_ns()

    def pass_time(self, seconds: float) -> None:
        """Move the clock, and the unit with it."""
        self.clock.advance_to(self.clock.now_ns() + round(seconds * NS_PER_S))
        self.model.advance(self.clock.now_ns())

    def pulses(self) -> Sequence[tuple[int, float]]:
        """Truth at the coil."""
        return [(record.t_ns, record.percent) for record in self.model.meter.pulses]

    def inject(self, fault: str) -> None:
        """A fault by its name."""
        self.model.inject(faults.parse(fault, FAULTS))

    def lose_replies(self) -> None:
        """All replies, from now on."""
        self.inject("lost_replies")

    def restore_replies(self) -> None:
        """They arrive again."""
        self.model.clear("lost_replies")

    def break_line(self) -> None:
        """Pull the cable."""
        self.line.pulled = True

    def break_device(self) -> bool:
        """The unit shows an error."""
        self.inject("error")
        return True

    def mend_device(self) -> None:
        """The error is gone."""
        self.model.clear("error")


class SerialMagstimRig(ProcessRig):
    """The driver on the emulated unit as a process of its own, over a pty, in real time.

    Parameters
    ----------
    directory : Path
        For the meter's file.
    mode : {"train", "single"}
    firmware : str
        As for ``--firmware``.
    """

    driver: PulseStimulator

    def __init__(self, directory: Path, mode: Mode, firmware: str = "9") -> None:
        self.declared: PulseCapabilities = capabilities(mode)
        self.intensity_percent = 20
        self._mode: Mode = mode
        self._options = options_for((int(firmware), 0, 0))
        self._meter = directory / "pulses"
        super().__init__("devices.mock.magstim_process", "--meter", str(self._meter), "--firmware", firmware)
        self._wire: SerialWire | None = None
        self.renew()

    def renew(self) -> None:
        """Close the descriptor without a word, as the end of a process does."""
        if self._wire is not None:
            self._wire.close()
        self._wire = SerialWire(self.port, BAUD, "low")
        self.driver = MagstimRapid(self._wire, self._mode, self._options)

    def pulses(self) -> Sequence[tuple[int, float]]:
        """What the meter's file says."""
        return [(record.t_ns, record.percent) for record in read_pulse_meter(self._meter) if record.is_pulse]

    def lose_replies(self) -> None:
        """All replies, from now on."""
        self.tell("inject lost_replies")

    def break_device(self) -> bool:
        """The unit shows an error."""
        self.tell("inject error")
        return True

    def mend_device(self) -> None:
        """The error is gone."""
        self.tell("clear error")


@contextlib.contextmanager
def magstim_train(directory: Path) -> Iterator[PulseRig]:
    """Trains paced by the unit, over a pty."""
    with contextlib.closing(SerialMagstimRig(directory, "train")) as rig:
        yield rig


@contextlib.contextmanager
def magstim_single(directory: Path) -> Iterator[PulseRig]:
    """Single pulses, over a pty, with firmware 7."""
    with contextlib.closing(SerialMagstimRig(directory, "single", "7")) as rig:
        yield rig


PULSE_RIGS: Final[Mapping[str, Callable[[Path], AbstractContextManager[PulseRig]]]] = {
    "magstim, train": magstim_train,
    "magstim, single": magstim_single,
}
"""One line a driver and mode: the conformance suite for pulse stimulators runs over all of them."""
