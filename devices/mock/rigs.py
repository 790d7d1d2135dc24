"""Rigs for the conformance suite: each built-in driver with its emulator on the real transport, and an independent ammeter.

A third party's rig looks like these: start the emulator, hand out a driver that is not yet opened, read a meter that neither
of them can reach.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar, Final, Literal

from devices.clock import VirtualClock
from devices.conformance import Rig
from devices.mock import faults
from devices.mock.meter import MeterReader
from devices.mock.rig_parts import CableWire, ProcessRig
from devices.mock.stimulator import StimulatorModel
from devices.reference import CAPABILITIES, ReferenceStimulator
from devices.stimulator import Capabilities, Stimulator
from devices.tcp_wire import TcpWire
from devices.units import NS_PER_S
from devices.wires import InProcessWire, SerialWire

MakeDriver = Callable[[str], Stimulator]


class VirtualReferenceRig:
    """The reference driver on the mock stimulator, in this process, on a virtual clock.

    Parameters
    ----------
    seed : int
        Draws gain, offset, latencies and noise of the device.
    make : callable, optional
        Makes the driver from a wire; the built-in one if left out.
    """

    def __init__(self, seed: int = 1, make: Callable[[InProcessWire], Stimulator] = ReferenceStimulator) -> None:
        self.declared: Capabilities = CAPABILITIES
        self.level_ua = 100
        self.tolerance_ua = 10.0
        self._clock = VirtualClock()
        self._model = StimulatorModel(seed=seed)
        self._make = make
        self._wire = CableWire(self._model, self._clock)
        self.driver: Stimulator = make(self._wire)

    def renew(self) -> None:
        """Forget the driver; a new one finds the device as it is."""
        self._wire = CableWire(self._model, self._clock)
        self.driver = self._make(self._wire)

    def now_ns(self) -> int:
        """Virtual time."""
        return self._clock.now_ns()

    def pass_time(self, seconds: float) -> None:
        """Move the clock, and the device with it."""
        self._clock.advance_to(self._clock.now_ns() + round(seconds * NS_PER_S))
        self._model.advance(self._clock.now_ns())

    def current_ua(self) -> float:
        """Truth at the electrode."""
        return self._model.current_ua

    def lose_replies(self) -> None:
        """All replies, from now on."""
        self._model.inject(faults.parse("lost_replies:fraction=1"))

    def restore_replies(self) -> None:
        """They arrive again."""
        self._model.clear("lost_replies")

    def break_line(self) -> None:
        """Pull the cable."""
        self._wire.pulled = True

    def fail_self_check(self) -> bool:
        """An ammeter that does not move."""
        self._model.inject(faults.parse("stuck_adc"))
        self.pass_time(0.01)
        return True

    def break_device(self) -> bool:
        """Press the emergency button on the device."""
        self._model.inject(faults.parse("emergency_button"))
        return True


class SerialReferenceRig(ProcessRig):
    """The reference driver on the mock stimulator as a process of its own, over a pty, in real time.

    Parameters
    ----------
    directory : Path
        For the meter's file.
    make : callable, optional
        Makes the driver from the port's path; the built-in one if left out.
    """

    emulator: ClassVar[tuple[str, ...]] = ("devices.mock.stimulator_process",)
    driver: Stimulator

    def __init__(self, directory: Path, make: MakeDriver | None = None) -> None:
        self.declared: Capabilities = CAPABILITIES
        self.level_ua = 60
        self.tolerance_ua = 10.0
        self._make = make
        meter = directory / "meter"
        super().__init__(*self.emulator, "--meter", str(meter))
        self._meter = MeterReader(meter)
        self._current_ua = 0.0
        self._wire: SerialWire | TcpWire | None = None
        self.driver = self._new()

    def _new(self) -> Stimulator:
        if self._make is not None:
            return self._make(self.port)
        self._wire = SerialWire(self.port)
        return ReferenceStimulator(self._wire)

    def renew(self) -> None:
        """Close the descriptor without a word, as the end of a process does."""
        if self._wire is not None:
            self._wire.close()
        self.driver = self._new()

    def current_ua(self) -> float:
        """Newest record of the meter's file."""
        records = self._meter.read_new()
        if records:
            self._current_ua = records[-1].current_ua
        return self._current_ua

    def lose_replies(self) -> None:
        """All replies, from now on."""
        self.tell("inject lost_replies:fraction=1")

    def fail_self_check(self) -> bool:
        """An ammeter that does not move."""
        self.tell("inject stuck_adc")
        self.pass_time(0.05)
        return True

    def break_device(self) -> bool:
        """Press the emergency button on the device."""
        self.tell("inject emergency_button")
        return True

@contextlib.contextmanager
def mock(_directory: Path) -> Iterator[Rig]:
    """The mock in this process, on a virtual clock."""
    yield VirtualReferenceRig()


@contextlib.contextmanager
def serial(directory: Path) -> Iterator[Rig]:
    """The reference serial protocol over a pty."""
    with contextlib.closing(SerialReferenceRig(directory)) as rig:
        yield rig


@contextlib.contextmanager
def nic2(directory: Path) -> Iterator[Rig]:
    """Starstim through NIC2 over TCP, mode peak."""
    from devices.mock.nic2_rigs import NicProcessRig

    with contextlib.closing(NicProcessRig(directory)) as rig:
        yield rig


@contextlib.contextmanager
def labjack(directory: Path) -> Iterator[Rig]:
    """A current source behind a LabJack, over Modbus TCP."""
    from devices.mock.labjack_rigs import LabJackProcessRig

    with contextlib.closing(LabJackProcessRig(directory)) as rig:
        yield rig


def _virtual_nic2(mode: Literal["peak", "timed", "plain"]) -> Callable[[Path], AbstractContextManager[Rig]]:
    @contextlib.contextmanager
    def rig(_directory: Path) -> Iterator[Rig]:
        from devices.mock.nic2_rigs import VirtualNicRig

        yield VirtualNicRig(mode)

    return rig


RIGS: Final[Mapping[str, Callable[[Path], AbstractContextManager[Rig]]]] = {
    "mock": mock,
    "serial": serial,
    "nic2": nic2,
    "nic2-peak": _virtual_nic2("peak"),
    "nic2-timed": _virtual_nic2("timed"),
    "nic2-plain": _virtual_nic2("plain"),
    "labjack": labjack,
}
"""One line a driver: the conformance suite runs over all of them."""
