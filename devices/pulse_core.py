"""Binds the pulse guard's decision part to one stimulator and one ledger; as `devices.guard_core` for a current."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from msgspec.structs import replace

from devices import link
from devices.dose_book import Clerk, DoseBookError, InlineClerk, MemoryDoseBook, PulseBook
from devices.guard_shell import GuardShell
from devices.guard_state import (
    FOREVER,
    LEASE_MS,
    NEVER,
    arm_code,
)
from devices.pulse_guard import step
from devices.pulse_guard_state import (
    ArmPulses,
    FireTrain,
    PulseAction,
    PulseGuardState,
    PulseInput,
    PulseParams,
    TrainAction,
    initial,
    make_pulse_params,
    report,
)
from devices.pulse_settings import PulseLimitError, PulseSettings, pulse_limits
from devices.pulses import PulseStimulator


class PulseGuardCore(GuardShell):
    """The guard of pulses, without clock, socket or process; parameters and errors as in `devices.guard_core.GuardCore`.

    Attributes
    ----------
    state : PulseGuardState
        Of the decision part; read it, never write it.
    """

    def __init__(
        self,
        settings: PulseSettings,
        stimulator: PulseStimulator,
        arm_secret: bytes,
        book: PulseBook,
        clerk: Callable[..., Clerk] = InlineClerk,
        arm_until_ns: int = FOREVER,
    ) -> None:
        self._stimulator = stimulator
        self.identity = stimulator.open()
        self.capabilities = stimulator.capabilities
        try:
            params = make_pulse_params(settings, self.capabilities, self.identity, arm_secret, arm_until_ns)
            if not params.forbidden:
                book.take(self.identity)
            used = book.used_pulses()
        except (DoseBookError, PulseLimitError):
            stimulator.close()
            raise
        self.params: PulseParams = replace(params, used_pulses=used)
        super().__init__(settings, stimulator, clerk, book)
        self.state: PulseGuardState = initial(self.params)
        self._limit_reasons = [*pulse_limits(settings, self.capabilities)[1], *book.notes()]

    @property
    def is_at_rest(self) -> bool:
        """Whether no pulse can be commanded: only then may a file be touched."""
        return self.state.armed_ns == NEVER and not self.state.wanted_percent and not self.state.flowed

    def welcome(self) -> link.Welcome:
        """What a fitting Hello is answered with, and what is sent again when the arm code changes."""
        return link.Welcome(
            version=link.LINK_VERSION,
            identity=self.identity,
            capabilities=None,
            max_level_ua=0,
            limit_reasons=self._limit_reasons,
            arm_code=arm_code(self.params, self.state),
            pulse_capabilities=self.capabilities,
            max_intensity_percent=self.params.limits.max_intensity_percent,
        )

    def report(self, t_ns: int) -> link.Report:
        """The state as it would be reported now."""
        return report(self.params, self.state, t_ns)

    def handle(self, t_ns: int, message: link.ToGuard) -> list[link.FromGuard]:
        """Take one message of the engine; returns what to send to it."""
        if isinstance(message, link.Hello):
            return [self.hello(message)]
        if isinstance(message, link.Command | link.Reserve):
            return [link.Refused(seq=message.seq, reason="a current was asked for, and this guard's device gives pulses")]
        return self.feed(t_ns, message)

    def _decided(self, t_ns: int, event: PulseInput) -> list[PulseAction]:
        self.state, actions = step(self.params, self.state, t_ns, event)
        return actions

    def _give(self, action: TrainAction) -> None:
        match action:
            case FireTrain():
                self._stimulator.fire(action.train, LEASE_MS)
            case ArmPulses():
                self._stimulator.arm(action.limits)
            case _:
                assert_never(action)


def pulse_guard_core(
    settings: PulseSettings, stimulator: PulseStimulator, arm_secret: bytes = b"simulation", book: PulseBook | None = None
) -> PulseGuardCore:
    """A pulse guard on a dose book in memory, for simulation and replay."""
    return PulseGuardCore(settings, stimulator, arm_secret, book or MemoryDoseBook())
