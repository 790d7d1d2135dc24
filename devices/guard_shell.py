"""What every guard has in common around its decision part: device, link and ledger on one side, `_decided` on the other.

A guard of a current (`devices.guard_core`) and one of pulses (`devices.pulse_core`) differ in what they decide and do, not in
how they are driven. Given times, nothing here reads a clock.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from devices import link
from devices.dose_book import Clerk, DoseBook
from devices.guard_state import (
    Announce,
    Book,
    BookPulses,
    CommonParams,
    CommonState,
    DeviceFailure,
    DeviceStop,
    DisarmDevice,
    EngineGone,
    Exit,
    ExitCode,
    Garbage,
    Heartbeat,
    Phase,
    ResetDevice,
    Send,
    Settle,
    SettlePulses,
    Terminate,
    Tick,
)
from devices.pulses import PulseStimulator
from devices.settings import digest
from devices.stimulator import (
    DeviceError,
    DeviceLostError,
    DeviceRefusedError,
    DeviceUncertainError,
    Stimulator,
    StopClass,
)

TICK: Final = Tick()
_KINDS: Final[dict[type[DeviceError], str]] = {
    DeviceRefusedError: "refused",
    DeviceLostError: "lost",
    DeviceUncertainError: "uncertain",
}


class GuardShell(ABC):
    """A guard without clock, socket or process.

    Parameters
    ----------
    settings : Settings or PulseSettings
        As the guard itself has read them (I06).
    device : Stimulator or PulseStimulator
        The only driver that will ever be called.
    clerk : callable
        Makes what carries out the bookings in `book`.
    book : DoseBook
        The ledger.

    Attributes
    ----------
    params, state : CommonParams, CommonState
        Of the decision part; read them, never write them.
    exit_code : ExitCode or None
        Set once the guard is to end.
    """

    params: CommonParams
    state: CommonState

    def __init__(
        self,
        settings: msgspec.Struct,
        device: Stimulator | PulseStimulator,
        clerk: Callable[[DoseBook], Clerk],
        book: DoseBook,
    ) -> None:
        self._device = device
        self._clerk = clerk(book)
        self.exit_code: ExitCode | None = None
        self._lost = False
        self._hasty = 0
        self._digest = digest(settings)

    # ---- what each kind of guard does in its own way

    @property
    @abstractmethod
    def is_at_rest(self) -> bool:
        """Whether nothing is commanded: only then may a file be touched."""

    @abstractmethod
    def welcome(self) -> link.Welcome:
        """What a fitting Hello is answered with, and what is sent again when the arm code changes."""

    @abstractmethod
    def report(self, t_ns: int) -> link.Report:
        """The state as it would be reported now."""

    @abstractmethod
    def handle(self, t_ns: int, message: link.ToGuard) -> list[link.FromGuard]:
        """Take one message of the engine; returns what to send to it."""

    @abstractmethod
    def _decided(self, t_ns: int, event: Any) -> Sequence[Any]:
        """Let the decision part take one input; the actions that follow."""

    @abstractmethod
    def _give(self, action: Any) -> None:
        """Carry out an action that only this kind of guard knows. Raises DeviceError."""

    # ---- what is the same

    @property
    def phase(self) -> Phase:
        """The present phase."""
        return self.state.phase

    @property
    def forbidden(self) -> str:
        """Why this device must not be armed in this session; empty where it may."""
        return self.params.forbidden

    @property
    def device_lost(self) -> bool:
        """Whether the line to the device has broken; it is then read no more than once a tick."""
        return self._lost

    def device_fileno(self) -> int:
        """Descriptor that turns readable when the device has sent something; -1 where there is none."""
        return self._device.fileno()

    def hello(self, message: link.Hello) -> link.Welcome | link.Refused:
        """Compare versions and settings (I06)."""
        if message.version != link.LINK_VERSION:
            return link.Refused(seq=0, reason=f"link version {message.version}; this guard speaks {link.LINK_VERSION}")
        if message.settings_sha256 != self._digest:
            return link.Refused(seq=0, reason="the engine's settings differ from those that the guard has read")
        return self.welcome()

    def handle_packet(self, t_ns: int, packet: bytes) -> list[link.FromGuard]:
        """Take one packet of the engine; bytes that are no message count as garbage."""
        try:
            message = link.decode_to_guard(packet)
        except link.LinkError as error:
            return self.feed(t_ns, Garbage(str(error)[:200]))
        return self.handle(t_ns, message)

    def tick(self, t_ns: int) -> list[link.FromGuard]:
        """Let time pass, after taking in what the device has sent; call every 10 ms."""
        self._hasty = 0
        out = self.device_ready(t_ns)
        out += self.feed(t_ns, TICK)
        return out

    def device_ready(self, t_ns: int) -> list[link.FromGuard]:
        """Take in what the device has sent."""
        out: list[link.FromGuard] = []
        try:
            readbacks = self._device.poll(t_ns)
        except DeviceError as error:
            self._lost = self._lost or isinstance(error, DeviceLostError)
            return self.feed(t_ns, _failure(error))
        for readback in readbacks:
            out += self.feed(t_ns, readback)
        return out

    def engine_gone(self, t_ns: int) -> list[link.FromGuard]:
        """The engine's connection has ended."""
        return self.feed(t_ns, EngineGone())

    def garbage(self, t_ns: int, what: str) -> list[link.FromGuard]:
        """The engine misused the link."""
        return self.feed(t_ns, Garbage(what))

    def terminate(self, t_ns: int) -> list[link.FromGuard]:
        """The operating system asks the guard to end."""
        return self.feed(t_ns, Terminate())

    def feed(self, t_ns: int, event: Any) -> list[link.FromGuard]:
        """Decide one input and carry out what follows; what the ledger answers becomes an input in turn."""
        out: list[link.FromGuard] = []
        self._decide(t_ns, event, out)
        for result in self._clerk.results():
            self._decide(t_ns, result, out)
        return out

    def _decide(self, t_ns: int, event: Any, out: list[link.FromGuard]) -> None:
        actions = self._decided(t_ns, event)
        if actions:
            failure = self._perform(actions, out)
            if failure is not None:
                # One failure is told; what fails while answering it (a lost line) is repeated by the ticks anyway.
                self._perform(self._decided(t_ns, failure), out)

    def _act(self, action: Any, out: list[link.FromGuard]) -> None:
        device = self._device
        match action:
            case Send():
                out.append(action.message)
            case Heartbeat():
                device.heartbeat()
            case DeviceStop():
                device.stop(action.stop_class)
            case DisarmDevice():
                device.disarm()
            case ResetDevice():
                device.reset_fault()
                device.disarm()
            case Book() | Settle() | BookPulses() | SettlePulses():
                self._clerk.take(action)
            case Announce():
                out.append(self.welcome())
            case Exit():
                self.exit_code = action.code
            case _:
                self._give(action)

    def close(self) -> None:
        """Cut, then let go of the device. Never raises."""
        try:
            self._device.stop(StopClass.S0_CUT)
        except DeviceError:
            pass
        finally:
            self._device.close()

    def _perform(self, actions: Iterable[Any], out: list[link.FromGuard]) -> DeviceFailure | None:
        """Carry out all actions, also those behind one that fails; returns the first failure."""
        failure: DeviceFailure | None = None
        for action in actions:
            try:
                self._act(action, out)
            except DeviceError as error:
                failure = failure or _failure(error)
        return failure


def _failure(error: DeviceError) -> DeviceFailure:
    kind = next((kind for cls, kind in _KINDS.items() if isinstance(error, cls)), "protocol")
    return DeviceFailure(kind, str(error)[:300])
