"""Rigs for the driver of Starstim: the emulated NIC in a process of its own over TCP, or in this process in virtual time."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from devices.clock import VirtualClock
from devices.driver import tcp_address
from devices.mock.faults import parse
from devices.mock.nic2 import Nic2Model, NicSettings
from devices.mock.nic2_faults import NIC2_FAULTS
from devices.mock.rigs import SerialReferenceRig
from devices.nic2 import NIC_PORT, Nic2Stimulator
from devices.nic2_modes import Mode, Nic2Options, capabilities
from devices.stimulator import Capabilities, DeviceLostError, Stimulator
from devices.tcp_wire import TcpWire
from devices.units import NS_PER_MS, NS_PER_S

GATE_S: Final = 12.0
_LOOK_NS: Final = 5 * NS_PER_MS


def options(mode: Mode) -> Nic2Options:
    """Eight channels, the target first, two returns, and the protocols that the emulated operator has made."""
    return Nic2Options(
        channels=8,
        target=1,
        returns=(2, 3),
        protocol="cereloop-gate" if mode == "timed" else "cereloop-zero",
        impedance_protocol="cereloop-impedance",
        protocol_s=GATE_S if mode == "timed" else None,
        accept_unproven_expiry=mode == "timed",
    )


class VirtualWire:
    """A connection within this process; waiting moves the virtual clock.

    Parameters
    ----------
    model : Nic2Model
        The emulated NIC.
    clock : VirtualClock
        Of driver and model.
    """

    def __init__(self, model: Nic2Model, clock: VirtualClock) -> None:
        self.cut = False
        self._model = model
        self._clock = clock
        self._come = b""

    @property
    def name(self) -> str:
        """Says that this is no hardware."""
        return "the emulated NIC"

    def open(self) -> None:
        """Connect: whoever was connected before is gone."""
        self._model.client_gone()
        self._come = b""

    def fileno(self) -> int:
        """There is none."""
        return -1

    def write(self, data: bytes) -> int:
        """Deliver now. Raises DeviceLostError once the connection is cut."""
        self._check()
        self._model.receive(data, self._clock.now_ns())
        return len(data)

    def read(self) -> bytes:
        """What has come by now. Raises DeviceLostError once the connection is cut."""
        self._check()
        self._look()
        data, self._come = self._come, b""
        return data

    def wait(self, budget_s: float) -> float:
        """Let virtual time pass until something has come, at most `budget_s`; returns what is left."""
        end_ns = self._clock.now_ns() + round(budget_s * NS_PER_S)
        self._look()
        while not self._come and self._clock.now_ns() < end_ns:
            self._clock.advance_to(min(end_ns, self._clock.now_ns() + _LOOK_NS))
            self._look()
        return (end_ns - self._clock.now_ns()) / NS_PER_S

    def close(self) -> None:
        """End the connection."""
        self._model.client_gone()

    def _look(self) -> None:
        self._model.advance(self._clock.now_ns())
        self._come += self._model.take_output()
        if self._model.hung_up:
            self._model.hung_up = False
            self.cut = True

    def _check(self) -> None:
        if self.cut:
            raise DeviceLostError(f"{self.name}: the connection is cut")


class VirtualNicRig:
    """The driver on the emulated NIC in this process, on a virtual clock.

    Parameters
    ----------
    mode : {"peak", "timed", "plain"}
        Of the driver.
    seed : int
        Draws gain, offset and latencies.
    given : Nic2Options, optional
        Other than `options` of the mode.
    """

    def __init__(self, mode: Mode = "peak", seed: int = 1, given: Nic2Options | None = None) -> None:
        self.options = given or options(mode)
        self.declared: Capabilities = capabilities(mode, self.options)
        self.level_ua = 100
        # What a ramp still rises between a stop and its effect, behind a radio link.
        self.tolerance_ua = 30.0
        self.clock = VirtualClock()
        self.model = Nic2Model(seed=seed, settings=NicSettings(gate_s=self.options.protocol_s or 60.0))
        self._mode = mode
        self.wire = VirtualWire(self.model, self.clock)
        self.driver: Stimulator = Nic2Stimulator(self.wire, mode, self.options)

    def renew(self) -> None:
        """Forget the driver; a new one finds NIC as it is."""
        self.wire.close()
        self.wire = VirtualWire(self.model, self.clock)
        self.driver = Nic2Stimulator(self.wire, self._mode, self.options)

    def now_ns(self) -> int:
        """Virtual time."""
        return self.clock.now_ns()

    def pass_time(self, seconds: float) -> None:
        """Move the clock, and the device with it."""
        self.clock.advance_to(self.clock.now_ns() + round(seconds * NS_PER_S))
        self.model.advance(self.clock.now_ns())

    def current_ua(self) -> float:
        """Truth at the electrode."""
        return self.model.current_ua

    def inject(self, text: str) -> int:
        """Put a fault in force now; returns the time, ns."""
        return self.model.inject(parse(text, NIC2_FAULTS))

    def lose_replies(self) -> None:
        """All replies, from now on."""
        self.inject("lost_replies:fraction=1")

    def restore_replies(self) -> None:
        """They arrive again."""
        self.model.clear("lost_replies")

    def break_line(self) -> None:
        """Cut the connection."""
        self.wire.cut = True
        self.model.client_gone()

    def fail_self_check(self) -> bool:
        """NIC has no test of its own but the impedance check."""
        return False

    def break_device(self) -> bool:
        """NIC's protocol ends in an error."""
        self.inject("protocol_error")
        return True


class NicProcessRig(SerialReferenceRig):
    """The driver in mode peak on the emulated NIC as a process of its own, over TCP, in real time."""

    emulator = ("devices.mock.nic2_process", "--listen", "127.0.0.1:0")

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.declared = capabilities("peak", options("peak"))
        self.level_ua = 100
        self.tolerance_ua = 30.0

    def _new(self) -> Stimulator:
        self._wire = TcpWire(*tcp_address(self.port, NIC_PORT))
        return Nic2Stimulator(self._wire, "peak", options("peak"))

    def fail_self_check(self) -> bool:
        """NIC has no test of its own but the impedance check."""
        return False

    def break_device(self) -> bool:
        """NIC's protocol ends in an error."""
        self.tell("inject protocol_error")
        return True
