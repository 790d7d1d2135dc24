"""Binds the guard's decision part to one stimulator, one ledger and nothing else; given times, it reads no clock.

The guard process drives it on the system's clock, simulation and replay on a virtual one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol, cast

from devices import link
from devices.guard import step
from devices.guard_state import (
    LEASE_MS,
    Action,
    Announce,
    ArmDevice,
    Book,
    BookFailed,
    DeviceFailure,
    DeviceStop,
    DisarmDevice,
    EngineGone,
    Exit,
    ExitCode,
    Garbage,
    Heartbeat,
    Input,
    Params,
    Phase,
    ResetDevice,
    RunGate,
    Send,
    SetLevel,
    Settle,
    State,
    Terminate,
    Tick,
    arm_code,
    initial,
    make_params,
    report,
)
from devices.limits import effective
from devices.settings import Settings, digest
from devices.stimulator import (
    DeviceError,
    DeviceLostError,
    DeviceRefusedError,
    DeviceUncertainError,
    GateStimulator,
    Stimulator,
    StopClass,
)

MAX_HASTY: Final = 2
_TICK: Final = Tick()
_KINDS: Final[dict[type[DeviceError], str]] = {
    DeviceRefusedError: "refused",
    DeviceLostError: "lost",
    DeviceUncertainError: "uncertain",
}


class DoseBookError(Exception):
    """The ledger could not be read or committed; the text says why."""


class DoseBook(Protocol):
    """Where dose is written before it flows. A reservation that is never settled counts in full (I04)."""

    def used(self) -> tuple[int, int]:
        """Charge (microcoulomb) and time (milliseconds) that count against this session already."""
        ...

    def reserve(self, charge_uc: int, on_time_ms: int) -> None:
        """Commit a reservation; on return it survives a crash. Replaces one that is open. Raises DoseBookError."""
        ...

    def settle(self, charge_uc: int, on_time_ms: int) -> None:
        """Replace the open reservation, if any, by what was used. Raises DoseBookError."""
        ...


class MemoryDoseBook:
    """A dose book that lives as long as the process: for simulations, whose record is the session file."""

    def __init__(self) -> None:
        self.charge_uc = 0
        self.on_time_ms = 0
        self.open_uc = 0
        self.open_ms = 0

    def used(self) -> tuple[int, int]:
        """Settled dose plus the open reservation."""
        return self.charge_uc + self.open_uc, self.on_time_ms + self.open_ms

    def reserve(self, charge_uc: int, on_time_ms: int) -> None:
        """Open a reservation."""
        self.open_uc, self.open_ms = charge_uc, on_time_ms

    def settle(self, charge_uc: int, on_time_ms: int) -> None:
        """Close the reservation with what was used."""
        self.charge_uc += charge_uc
        self.on_time_ms += on_time_ms
        self.open_uc = self.open_ms = 0


class GuardCore:
    """The guard without clock, socket or process.

    Construction opens the device, which drops it to zero before anything else (I09).

    Parameters
    ----------
    settings : Settings
        As the guard itself has read them (I06).
    stimulator : Stimulator
        The only driver that will ever be called; opened here.
    arm_secret : bytes
        1 to 64 bytes from which arm codes are derived.
    book : DoseBook
        The ledger.

    Attributes
    ----------
    state : State
        Of the decision part; read it, never write it.
    exit_code : ExitCode or None
        Set once the guard is to end.

    Raises
    ------
    DeviceError
        If the device cannot be opened.
    limits.LimitError
        If the settings raise a ceiling.
    DoseBookError
        If the ledger cannot be read.
    """

    def __init__(self, settings: Settings, stimulator: Stimulator, arm_secret: bytes, book: DoseBook) -> None:
        self._stimulator = stimulator
        self._book = book
        self.identity = stimulator.open()
        self.capabilities = stimulator.capabilities
        self.params: Params = make_params(settings, self.capabilities, self.identity, arm_secret, *book.used())
        self.state: State = initial(self.params)
        self.exit_code: ExitCode | None = None
        self._lost = False
        self._hasty = 0
        self._limit_reasons = effective(settings, self.capabilities).sentences()
        self._digest = digest(settings)

    @property
    def phase(self) -> Phase:
        """The present phase."""
        return self.state.phase

    @property
    def is_at_rest(self) -> bool:
        """Whether no current is commanded: only then may a file be touched."""
        return self.state.level_ua == 0 and self.state.target_ua == 0 and not self.state.flowed

    @property
    def device_lost(self) -> bool:
        """Whether the line to the device has broken; it is then read no more than once a tick."""
        return self._lost

    def device_fileno(self) -> int:
        """Descriptor that turns readable when the device has sent something; -1 where there is none."""
        return self._stimulator.fileno()

    def welcome(self) -> link.Welcome:
        """What a fitting Hello is answered with, and what is sent again when the arm code changes."""
        return link.Welcome(
            version=link.LINK_VERSION,
            identity=self.identity,
            capabilities=self.capabilities,
            max_level_ua=self.params.max_level_ua,
            limit_reasons=self._limit_reasons,
            arm_code=arm_code(self.params, self.state),
        )

    def hello(self, message: link.Hello) -> link.Welcome | link.Refused:
        """Compare versions and settings (I06)."""
        if message.version != link.LINK_VERSION:
            return link.Refused(seq=0, reason=f"link version {message.version}; this guard speaks {link.LINK_VERSION}")
        if message.settings_sha256 != self._digest:
            return link.Refused(seq=0, reason="the engine's settings differ from those that the guard has read")
        return self.welcome()

    def report(self, t_ns: int) -> link.Report:
        """The state as it would be reported now."""
        return report(self.params, self.state, t_ns)

    def handle_packet(self, t_ns: int, packet: bytes) -> list[link.FromGuard]:
        """Take one packet of the engine; bytes that are no message count as garbage."""
        try:
            message = link.decode_to_guard(packet)
        except link.LinkError as error:
            return self.feed(t_ns, Garbage(str(error)[:200]))
        return self.handle(t_ns, message)

    def handle(self, t_ns: int, message: link.ToGuard) -> list[link.FromGuard]:
        """Take one message of the engine; returns what to send to it."""
        if isinstance(message, link.Hello):
            return [self.hello(message)]
        dropped = self.state.dropped
        out = self.feed(t_ns, message)
        taken = isinstance(message, link.Command) and self.state.dropped == dropped
        if taken and self._hasty < MAX_HASTY and not self.is_at_rest:
            # A level acts when it comes, not with the next tick: half a tick of latency would be most of all there
            # is. Bounded, because a flood of levels on a slow line would stand between a stop and the device.
            self._hasty += 1
            out += self.feed(t_ns, _TICK)
        return out

    def tick(self, t_ns: int) -> list[link.FromGuard]:
        """Let time pass, after taking in what the device has sent; call every 10 ms."""
        self._hasty = 0
        out = self.device_ready(t_ns)
        out += self.feed(t_ns, _TICK)
        return out

    def device_ready(self, t_ns: int) -> list[link.FromGuard]:
        """Take in what the device has sent."""
        out: list[link.FromGuard] = []
        try:
            readbacks = self._stimulator.poll(t_ns)
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

    def feed(self, t_ns: int, event: Input) -> list[link.FromGuard]:
        """Decide one input and carry out what follows; failures of the device become inputs in turn."""
        out: list[link.FromGuard] = []
        self.state, actions = step(self.params, self.state, t_ns, event)
        if actions:
            failure = self._perform(actions, out)
            if failure is not None:
                # One failure is told; what fails while answering it (a lost line) is repeated by the ticks anyway.
                self.state, actions = step(self.params, self.state, t_ns, failure)
                self._perform(actions, out)
        return out

    def close(self) -> None:
        """Cut, then let go of the device. Never raises."""
        try:
            self._stimulator.stop(StopClass.S0_CUT)
        except DeviceError:
            pass
        finally:
            self._stimulator.close()

    def _perform(self, actions: Iterable[Action], out: list[link.FromGuard]) -> DeviceFailure | BookFailed | None:
        """Carry out all actions, also those behind one that fails; returns the first failure."""
        failure: DeviceFailure | BookFailed | None = None
        for action in actions:
            try:
                self._act(action, out)
            except DeviceError as error:
                failure = failure or _failure(error)
            except DoseBookError as error:
                if isinstance(action, Book):
                    failure = failure or BookFailed(action.seq, str(error)[:300])
        return failure

    def _act(self, action: Action, out: list[link.FromGuard]) -> None:
        device = self._stimulator
        match action:
            case SetLevel():
                device.set_level(action.level_ua, LEASE_MS)
            case RunGate():
                cast("GateStimulator", device).run_gate(action.plan)
            case Send():
                out.append(action.message)
            case Heartbeat():
                device.heartbeat()
            case DeviceStop():
                device.stop(action.stop_class)
            case ArmDevice():
                device.arm(action.max_level_ua, action.max_slew_ua_s)
            case DisarmDevice():
                device.disarm()
            case ResetDevice():
                device.reset_fault()
                device.disarm()
            case Book():
                self._book.reserve(action.charge_uc, action.on_time_ms)
            case Settle():
                self._book.settle(action.charge_uc, action.on_time_ms)
            case Announce():
                out.append(self.welcome())
            case Exit():
                self.exit_code = action.code


def _failure(error: DeviceError) -> DeviceFailure:
    kind = next((kind for cls, kind in _KINDS.items() if isinstance(error, cls)), "protocol")
    return DeviceFailure(kind, str(error)[:300])


def guard_core(settings: Settings, stimulator: Stimulator, arm_secret: bytes = b"simulation") -> GuardCore:
    """A guard on a dose book in memory, for simulation and replay."""
    return GuardCore(settings, stimulator, arm_secret, MemoryDoseBook())
