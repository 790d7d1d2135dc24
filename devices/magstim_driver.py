"""The driver of a Magstim Rapid² (a `devices.pulses.PulseStimulator`), on the line of `devices.magstim_line`.

The unit tells no count of its pulses. What the driver says is therefore a bound: never fewer than have been given.
"""

from __future__ import annotations

import contextlib
from typing import Final

from devices import magstim_codec as codec
from devices.magstim import MagstimOptions, Mode, capabilities
from devices.magstim_codec import Command, MagstimCodecError, Parameters, Reply
from devices.magstim_handshake import REFUSALS, fault_of, take_over
from devices.magstim_line import BAUD, REPLY_BUDGET_NS, MagstimLine
from devices.magstim_train import HeldCharge, RunningTrain, why_not
from devices.pulses import PulseCapabilities, PulseLimits, PulseReadback, PulseState, Train
from devices.stimulator import (
    DeviceError,
    DeviceLostError,
    DeviceNotFoundError,
    DeviceProtocolError,
    DeviceRefusedError,
    DeviceUncertainError,
    Identity,
    StopClass,
)
from devices.units import NS_PER_MS, NS_PER_S
from devices.wires import Wire

__all__ = ["BAUD", "MagstimRapid"]

STATUS_NS: Final = 100 * NS_PER_MS
TEMPERATURE_NS: Final = NS_PER_S
KEEP_ARMED_NS: Final = 400 * NS_PER_MS
KEEP_DISARMED_NS: Final = 2 * NS_PER_S
_LONG_AGO: Final = -(1 << 62)
_NEEDED: Final = (5, 0, 0)
_QUESTIONS: Final = b"\\F"


class MagstimRapid:
    """Driver of one unit.

    Parameters
    ----------
    wire : Wire
        At `devices.magstim_line.BAUD`, with its request-to-send line low.
    mode : {"train", "single"}
        Who paces the pulses: the unit, or this driver.
    options : MagstimOptions
    """

    def __init__(self, wire: Wire, mode: Mode, options: MagstimOptions) -> None:
        self._line = MagstimLine(wire)
        self._mode = mode
        self._options = options
        self._keep = codec.remote_on(options.unlock_code)
        self._identity: Identity | None = None
        self._version = _NEEDED
        self._begin_session()

    def _begin_session(self) -> None:
        self._now_ns = _LONG_AGO
        self._answered = 0
        self._readbacks: list[PulseReadback] = []
        self._told: Parameters | None = None
        self._told_asked_ns = _LONG_AGO
        self._coil_c: float | None = None
        self._status_ns = self._temperature_ns = self._kept_ns = _LONG_AGO
        self._holds_remote = False
        self._zeroes = False
        self._held = HeldCharge()
        self._limits: PulseLimits | None = None
        self._train: RunningTrain | None = None
        self._given = 0
        self._uncertain = False
        self._proven: set[int] = set()

    @property
    def capabilities(self) -> PulseCapabilities:
        """What the unit can do in this mode."""
        return capabilities(self._mode)

    @property
    def assumed_pulses(self) -> int:
        """Most pulses that may have been given since arming."""
        return self._given + (self._train.most(self._now_ns) if self._train is not None else 0)

    def fileno(self) -> int:
        """Descriptor that turns readable when the unit has sent something; -1 in-process."""
        return self._line.fileno()

    # ---- open and close

    def open(self) -> Identity:
        """Connect, disarm, identify, take remote control, set the intensity to zero (`devices.magstim_handshake`).

        Raises
        ------
        DeviceNotFoundError
            If the line cannot be opened, or nothing on it answers in this protocol.
        DeviceRefusedError
            If the unit does not take the unlock code.
        DeviceUnfitError
            If it shows an error.
        DeviceLostError
            If the line breaks meanwhile.
        """
        if self._identity is not None:
            return self._identity
        self._line.open()
        self._begin_session()
        try:
            self._identity, self._version, percent = take_over(self._line, self._keep, self._options.serial_number)
        except MagstimCodecError as error:
            self._line.close()
            raise DeviceNotFoundError(f"{self._line.name}: what answers there is no Magstim Rapid²: {error}") from error
        except DeviceError:
            self._line.close()
            raise
        self._holds_remote = True
        self._held = HeldCharge(percent)
        self._held.set_to(0, self._now_ns)
        return self._identity

    def close(self) -> None:
        """Disarm, give remote control back, let go of the line."""
        if self._identity is not None:
            with contextlib.suppress(DeviceError):  # the line may be gone: the unit then drops remote control by itself
                self._at_once(codec.DISARM, codec.REMOTE_OFF)
            self._identity = None
        self._line.close()

    # ---- verbs

    def arm(self, limits: PulseLimits) -> None:
        """Latch limits, set the intensity to zero, arm; a report in state ARMED is the unit's yes. Raises DeviceError."""
        self._require_open()
        self._require_certain("arm")
        can = self.capabilities
        if not 1 <= limits.max_intensity_percent <= can.max_intensity_percent or limits.max_pulses < 1:
            raise DeviceRefusedError(
                f"{self._line.name}: limits of {limits.max_intensity_percent} % and {limits.max_pulses} pulses; 1 .. "
                f"{can.max_intensity_percent} % and at least one pulse are needed"
            )
        if limits.min_interval_ms < can.min_interval_ms:
            raise DeviceRefusedError(
                f"{self._line.name}: an interval of {limits.min_interval_ms} ms is below {can.min_interval_ms} ms"
            )
        if self._told is not None and (fault := self._fault()):
            raise DeviceRefusedError(f"{self._line.name}: {fault}; reset it first")
        self._train = None
        self._given = 0
        self._limits = limits
        self._holds_remote = True
        self._kept_ns = self._now_ns
        # What it said before is from another setting. Right behind a train the unit lets nobody alter the next one, so only
        # single mode leaves repetitive mode here.
        self._told = None
        leave_trains = (codec.duration(self._version, 0),) if self._mode == "single" else ()
        self._line.enqueue(self._keep, codec.power(0), *leave_trains, codec.ARM)
        self._flush()

    def disarm(self) -> None:
        """No pulse, and none until armed again. Raises DeviceLostError."""
        self._require_open()
        self._at_once(codec.DISARM)

    def fire(self, train: Train, lease_ms: int) -> None:
        """Ask for one train; it begins once the unit is charged to its intensity, void where the lease ends before.

        Raises
        ------
        DeviceRefusedError
            If it is not armed, a train runs, or the train is beyond a limit.
        DeviceUncertainError
            If a reply is overdue.
        DeviceLostError
            If the line is closed or broken.
        """
        self._require_open()
        self._require_certain("fire")
        why = "one runs already" if self._train is not None else ""
        why = why or why_not(train, self._mode, self._limits, self.capabilities, self._given)
        if why:
            raise DeviceRefusedError(f"{self._line.name}: no train: {why}")
        self._train = RunningTrain(train, self._mode, lease_ms * NS_PER_MS, self._now_ns)
        self._line.enqueue(*self._train.settings(self._version, self._told))
        self._flush()

    def heartbeat(self) -> None:
        """The host lives: repeat the enable command when it is due, renew the lease of the train. Raises DeviceLostError."""
        self._require_open()
        if self._uncertain:
            return
        if self._train is not None:
            self._train.renew(self._now_ns)
        every_ns = KEEP_DISARMED_NS if self._limits is None else KEEP_ARMED_NS
        if self._holds_remote and self._now_ns - self._kept_ns >= every_ns:
            self._kept_ns = self._now_ns
            self._line.enqueue_first(self._keep)
            self._flush()

    def stop(self, stop_class: StopClass) -> None:
        """No further pulse; S0 also gives up remote control. Overtakes all that waits. Raises DeviceLostError."""
        self._require_open()
        if stop_class is StopClass.S0_CUT:
            self._holds_remote = False
            self._at_once(codec.DISARM, codec.REMOTE_OFF)
        else:
            self._at_once(codec.DISARM)

    def reset_fault(self) -> None:
        """Take remote control again, after whatever took it away, and set the intensity to zero. Raises DeviceLostError."""
        self._require_open()
        self._holds_remote = self._zeroes = True
        self._kept_ns = self._now_ns
        self._told = None
        self._line.enqueue(self._keep)
        self._flush()

    # ---- poll

    def poll(self, t_ns: int) -> list[PulseReadback]:
        """Take in replies, pace pulses, ask for status; all reports since the last call, oldest first.

        Raises
        ------
        DeviceLostError
            If the line is closed, hung up or broken.
        DeviceProtocolError
            If the unit answers what was not asked, with a wrong checksum, or has taken on other settings than it was told.
        DeviceRefusedError
            If it refuses a command.
        DeviceUncertainError
            Once, where a reply is overdue; until the unit answers in time again nothing is sent but stops and questions.
        """
        self._require_open()
        if self._now_ns == _LONG_AGO:
            self._line.restamp(t_ns)
            self._held.begin(t_ns)
        self._now_ns = t_ns
        self._line.listen()
        self._take_replies()
        if self._line.is_overdue(t_ns):
            self._miss()
        if self._train is not None and not self._uncertain:
            self._pace(self._train)
        self._inquire()
        self._flush()
        readbacks, self._readbacks = self._readbacks, []
        return readbacks

    def _take_replies(self) -> None:
        try:
            while (answer := self._line.answer()) is not None:
                self._answered += 1
                self._hear(*answer)
        except MagstimCodecError as error:
            self._line.forget()
            if self._uncertain:
                return
            raise DeviceProtocolError(f"{self._line.name}: {error}") from error
        if heard := self._line.take_stray():
            self._proven.clear()
            if not self._uncertain:
                raise DeviceProtocolError(f"{self._line.name}: the unit said {heard[:16].hex(' ')} and was not asked")

    def _hear(self, command: Command, asked_ns: int, reply: Reply) -> None:
        if reply.answer != "done":
            self._refused(command, reply)
            return
        if self._uncertain and command.letter in _QUESTIONS:
            # Two different questions answered in time: an answer that is late cannot look like both. Stops do not count:
            # they are repeated so often that a late answer to one fits the next.
            self._proven.add(command.letter)
            self._uncertain = len(self._proven) < len(_QUESTIONS)
        if command is self._keep and self._zeroes:
            self._zeroes = False
            self._line.enqueue_first(codec.power(0))
        elif command is codec.TEMPERATURE:
            self._coil_c = max(codec.read_temperature(reply))
        elif command.letter == ord("\\"):
            self._told = codec.read_parameters(self._version, reply)
            self._told_asked_ns = asked_ns
            self._held.set_to(self._told.power_percent, self._now_ns)
            self._report(self._told)
        elif command is codec.FIRE and self._train is not None:
            self._train.fired(self._now_ns)
        elif command is codec.DISARM:
            codec.read_instrument(reply)
            if not self._uncertain:  # else it may be the late reply to a fire or arm command, which begins alike
                self._settle_train()
        elif command.letter in b"@BD[":
            if command.letter == ord("@"):
                self._held.set_to(int(command.body[1:]), self._now_ns)
            if self._train is not None:
                self._train.was_set(self._now_ns)

    def _refused(self, command: Command, reply: Reply) -> None:
        # The unlock code is not repeated.
        said = f"{self._line.name} refused {command.body.decode('ascii', 'replace')[:2]}: {REFUSALS[reply.answer]}"
        self._line.drop_waiting()  # what stands behind a refused step was asked for on its strength
        if self._train is None:
            self._limits = None
        if command is codec.FIRE and self._train is not None:
            self._train.not_fired()
            self._settle_train()
        if reply.answer == "unknown":
            raise DeviceProtocolError(said)
        raise DeviceRefusedError(said)

    def _miss(self) -> None:
        """A reply is overdue."""
        self._line.forget()
        self._proven.clear()
        if self._uncertain:
            return
        self._uncertain = True
        self._holds_remote = False  # without the enable command the unit disarms by itself
        self._limits = None
        if self._train is not None:
            self._train.end(self._now_ns)
        self._line.write(codec.DISARM.packet)
        raise DeviceUncertainError(
            f"{self._line.name} has not answered for {REPLY_BUDGET_NS // NS_PER_MS} ms: up to {self.assumed_pulses} pulses may "
            "have been given; check cable and unit"
        )

    def _pace(self, train: RunningTrain) -> None:
        if train.is_void(self._now_ns):
            self._at_once(codec.DISARM)
            return
        wrong = train.mismatch(self._told, self._told_asked_ns)
        if wrong:
            raise DeviceProtocolError(f"{self._line.name}: wrong acknowledgement: {wrong}")
        is_charged = self._held.most(self._now_ns) <= train.train.intensity_percent
        if is_charged and train.wants_pulse(self._now_ns, self._told, self._told_asked_ns) and self._line.is_free:
            train.sent(self._now_ns)
            self._line.enqueue(codec.FIRE)
        elif train.is_over(self._now_ns, self._told, self._told_asked_ns):
            self._settle_train()

    def _settle_train(self) -> None:
        if self._train is not None:
            self._given += self._train.most(self._now_ns)
            self._train = None

    def _inquire(self) -> None:
        if not self._line.is_free:
            return
        asks_status = self._now_ns - self._status_ns >= STATUS_NS
        asks_temperature = self._now_ns - self._temperature_ns >= TEMPERATURE_NS
        if self._uncertain:
            if self._now_ns - max(self._status_ns, self._temperature_ns) < 2 * REPLY_BUDGET_NS:
                return
            asks_temperature = self._status_ns > self._temperature_ns
            asks_status = not asks_temperature
        if asks_temperature:
            self._temperature_ns = self._now_ns
            self._line.enqueue(codec.TEMPERATURE)
        elif asks_status:
            self._status_ns = self._now_ns
            self._line.enqueue(codec.parameters(self._version))

    # ---- reports

    def _fault(self) -> str:
        told = self._told
        if told is None:
            return ""
        if fault := fault_of(told):
            return fault
        if self._holds_remote and not told.instrument.remote and self._told_asked_ns > self._kept_ns:
            return "the unit has left remote control"
        return ""

    def _report(self, told: Parameters) -> None:
        fault = self._fault()
        self._readbacks.append(
            PulseReadback(
                t_ns=self._now_ns,
                state=self._state(told, fault),
                intensity_percent=told.power_percent,
                pulses=self.assumed_pulses,
                ready=told.instrument.ready and told.rapid.coil_ready and not told.rapid.wait and self._is_weak_enough(),
                coil_c=self._coil_c,
                ack_seq=self._answered,
                boot_count=0,
                fault=fault,
            )
        )

    def _is_weak_enough(self) -> bool:
        """Whether the capacitor holds no more than was latched."""
        return self._limits is None or self._held.most(self._now_ns) <= self._limits.max_intensity_percent

    def _state(self, told: Parameters, fault: str) -> PulseState:
        if self._uncertain:
            return PulseState.UNCERTAIN
        if fault:
            return PulseState.FAULT
        if told.rapid.train or (self._train is not None and told.instrument.armed):
            return PulseState.FIRING
        return PulseState.ARMED if told.instrument.armed else PulseState.IDLE

    # ---- the line

    def _require_open(self) -> None:
        if self._identity is None:
            raise DeviceLostError(f"{self._line.name} is not open")

    def _require_certain(self, verb: str) -> None:
        if self._uncertain:
            raise DeviceUncertainError(
                f"{self._line.name}: cannot {verb}: a reply is overdue and up to {self.assumed_pulses} pulses may have been "
                "given; only stops are sent until it answers"
            )

    def _at_once(self, *commands: Command) -> None:
        """What stops waits for no reply; of what waited only the sign of life is still owed."""
        self._limits = None
        if self._train is not None:
            self._train.end(self._now_ns)
        dropped = self._line.at_once(self._now_ns, *commands)
        if self._keep in dropped and self._holds_remote:
            self._line.enqueue(self._keep)

    def _flush(self) -> None:
        if self._keep in self._line.flush(self._now_ns):
            self._kept_ns = self._now_ns
