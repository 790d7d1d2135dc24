"""Binds the guard's decision part to one stimulator, one ledger and nothing else; given times, it reads no clock.

The guard process drives it on the system's clock, simulation and replay on a virtual one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, assert_never, cast

from msgspec.structs import replace

from devices import link
from devices.dose_book import Clerk, DoseBook, DoseBookError, InlineClerk, MemoryDoseBook
from devices.guard import step
from devices.guard_params import make_params
from devices.guard_shell import TICK, GuardShell
from devices.guard_state import (
    FOREVER,
    LEASE_MS,
    Action,
    ArmDevice,
    CurrentAction,
    Input,
    Params,
    RunGate,
    SetLevel,
    State,
    arm_code,
    initial,
    report,
)
from devices.limits import LimitError, effective
from devices.settings import Settings
from devices.stimulator import (
    GateStimulator,
    Stimulator,
)
from devices.units import NS_PER_MS, NS_PER_S

__all__ = ["DoseBook", "DoseBookError", "GuardCore", "MemoryDoseBook", "guard_core"]

MAX_HASTY: Final = 2


class GuardCore(GuardShell):
    """The guard of a current, without clock, socket or process.

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
    clerk : callable
        Makes what carries out the bookings in `book`; at once unless given.
    arm_until_ns : int
        When the pre-arm checklist runs out, on the lease clock.

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
        If the ledger cannot be read, or speaks against a session now.
    """

    def __init__(
        self,
        settings: Settings,
        stimulator: Stimulator,
        arm_secret: bytes,
        book: DoseBook,
        clerk: Callable[[DoseBook], Clerk] = InlineClerk,
        arm_until_ns: int = FOREVER,
    ) -> None:
        self._stimulator = stimulator
        self.identity = stimulator.open()
        self.capabilities = stimulator.capabilities
        try:
            params = make_params(settings, self.capabilities, self.identity, arm_secret, arm_until_ns=arm_until_ns)
            if not params.forbidden:
                # Whom this device must not be used on at all needs no ledger, and leaves no trace in one.
                book.take(self.identity)
            used_uc, used_ms = book.used()
        except (DoseBookError, LimitError):
            stimulator.close()
            raise
        self.params: Params = replace(params, used_fc=used_uc * NS_PER_S, used_ns=used_ms * NS_PER_MS)
        super().__init__(settings, stimulator, clerk, book)
        self.state: State = initial(self.params)
        self._limit_reasons = [*effective(settings, self.capabilities).sentences(), *book.notes()]

    @property
    def is_at_rest(self) -> bool:
        """Whether no current is commanded: only then may a file be touched."""
        return self.state.level_ua == 0 and self.state.target_ua == 0 and not self.state.flowed

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

    def report(self, t_ns: int) -> link.Report:
        """The state as it would be reported now."""
        return report(self.params, self.state, t_ns)

    def handle(self, t_ns: int, message: link.ToGuard) -> list[link.FromGuard]:
        """Take one message of the engine; returns what to send to it."""
        if isinstance(message, link.Hello):
            return [self.hello(message)]
        if isinstance(message, link.Pulses | link.ReservePulses):
            return [link.Refused(seq=message.seq, reason="pulses were asked for, and this guard's device makes a current")]
        dropped = self.state.dropped
        out = self.feed(t_ns, message)
        taken = isinstance(message, link.Command) and self.state.dropped == dropped
        if taken and self._hasty < MAX_HASTY and not self.is_at_rest:
            # A level acts when it comes, not with the next tick: half a tick of latency would be most of all there
            # is. Bounded, because a flood of levels on a slow line would stand between a stop and the device.
            self._hasty += 1
            out += self.feed(t_ns, TICK)
        return out

    def _decided(self, t_ns: int, event: Input) -> list[Action]:
        self.state, actions = step(self.params, self.state, t_ns, event)
        return actions

    def _give(self, action: CurrentAction) -> None:
        device = self._stimulator
        match action:
            case SetLevel():
                device.set_level(action.level_ua, LEASE_MS)
            case RunGate():
                cast("GateStimulator", device).run_gate(action.plan)
            case ArmDevice():
                device.arm(action.max_level_ua, action.max_slew_ua_s)
            case _:
                assert_never(action)


def guard_core(settings: Settings, stimulator: Stimulator, arm_secret: bytes = b"simulation") -> GuardCore:
    """A guard on a dose book in memory, for simulation and replay."""
    return GuardCore(settings, stimulator, arm_secret, MemoryDoseBook())
