"""Driver for stimulators that speak the reference serial protocol: serial line, pty or in-process."""

from __future__ import annotations

from typing import Final

from devices import refproto
from devices.driver import Driver, NoOptions, serial_path
from devices.outstanding import Outstanding
from devices.reference_hello import Greeting
from devices.reference_line import MAX_WAITING_FRAMES, Line
from devices.reference_watch import DamageWatch, LatchWatch
from devices.refframe import Frame
from devices.refproto import MAX_LEASE_MS, AckResult, FrameError, HostMessage
from devices.stimulator import (
    Capabilities,
    DeviceError,
    DeviceLostError,
    DeviceProtocolError,
    DeviceRefusedError,
    DeviceState,
    DeviceUncertainError,
    Identity,
    Readback,
    StopClass,
)
from devices.units import NS_PER_MS
from devices.wires import InProcessWire, SerialWire, Wire

__all__ = ["CAPABILITIES", "DRIVER", "MAX_WAITING_FRAMES", "InProcessWire", "ReferenceStimulator", "SerialWire", "Wire"]

MAX_ASKED: Final = 256
# Line, device and one report take 60 ms; what is not acknowledged after this may have been taken or lost.
REPLY_BUDGET_NS: Final = 200 * NS_PER_MS

CAPABILITIES: Final = Capabilities(
    self_expiring_lease=True,
    hardware_watchdog=True,
    measures_current=True,
    unipolar=False,
    device_ramp=True,
    max_level_ua=refproto.MAX_LEVEL_UA,
    resolution_ua=1.2,
    command_latency_s=0.03,  # line and device 10 ms, analogue stage 20 ms
    host_timeout_s=refproto.HOST_TIMEOUT_MS / 1000.0,
    min_transition_s=0.0,
    readback_interval_s=0.05,
)

_HOLDING: Final = (DeviceState.ARMED, DeviceState.ACTIVE)

_REFUSALS: Final = {
    AckResult.NOT_ARMED: "it is not armed",
    AckResult.NOT_IDLE: "it is armed or carries current already; disarm it first",
    AckResult.OVER_LIMIT: "the value is above its limit",
    AckResult.FAULT_LATCHED: "a fault is latched in it; reset the fault first",
    AckResult.BAD_LEASE: f"a lease lasts 1 to {MAX_LEASE_MS} ms",
    AckResult.NOT_AT_ZERO: "current still flows",
    AckResult.NOT_UNDERSTOOD: "it does not know this command",
}


class ReferenceStimulator:
    """Driver of the reference serial protocol; implements `devices.stimulator.Stimulator`.

    Parameters
    ----------
    wire : Wire
        `SerialWire` or `InProcessWire`.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._identity: Identity | None = None
        self._begin_session(0)

    def _begin_session(self, last_seq: int) -> None:
        self._line = Line(self._wire, last_seq)
        self._readbacks: list[Readback] = []
        self._device_seq = 0
        self._boot_count: int | None = None
        self._damage = DamageWatch()
        self._asked: dict[int, str] = {}
        self._latch = LatchWatch()
        self._owed = Outstanding(REPLY_BUDGET_NS, last_seq)

    @property
    def capabilities(self) -> Capabilities:
        """What the protocol guarantees."""
        return CAPABILITIES

    @property
    def assumed_ua(self) -> int:
        """Largest magnitude that may flow: the device's set point as reported last, or any sent since and not reported."""
        return self._owed.assumed_ua

    @property
    def last_seq(self) -> int:
        """Number of the newest frame sent; `Readback.ack_seq` catches up with it."""
        return self._line.last_seq

    def fileno(self) -> int:
        """Descriptor that turns readable when the device has sent something; -1 in-process."""
        return self._wire.fileno()

    def open(self) -> Identity:
        """Connect, cut, identify, have the device test itself; each asked again every 0.3 s, for 3 s at most.

        Returns
        -------
        Identity
            Who answered. If already open, who answered then: nothing is sent.

        Raises
        ------
        DeviceNotFoundError
            If the line cannot be opened, or nothing on it answers in this protocol.
        DeviceRefusedError
            If the device speaks an older minor version.
        DeviceUnfitError
            If its self-test finds a defect.
        DeviceLostError
            If the line breaks meanwhile.
        """
        if self._identity is not None:
            return self._identity
        self._wire.open()
        self._begin_session(self._line.last_seq)
        try:
            greeting = Greeting(self._wire, self._line, self._send)
            self._identity = greeting.greet()
        except DeviceError:
            self._wire.close()
            raise
        self._device_seq = greeting.device_seq
        self._damage.forget(self._line.decoder)
        return self._identity

    def arm(self, max_level_ua: int, max_slew_ua_s: int) -> None:
        """Ask the device to latch limits and allow current; a report in state ARMED is its yes.

        What it has then latched it says in a message of its own; `poll` raises where that differs from what was asked,
        or does not come.

        Raises
        ------
        DeviceRefusedError
            If a limit is below 1 or above the device's own. The device's own refusal comes from `poll`.
        DeviceUncertainError
            If a reply is overdue.
        DeviceLostError
            If the line is closed, broken, or takes no more bytes.
        """
        if not 1 <= max_level_ua <= CAPABILITIES.max_level_ua:
            raise DeviceRefusedError(
                f"{self._wire.name}: a greatest level of {max_level_ua} uA is outside "
                f"1 .. {CAPABILITIES.max_level_ua} uA"
            )
        if not 1 <= max_slew_ua_s <= refproto.MAX_SLEW_UA_S:
            raise DeviceRefusedError(
                f"{self._wire.name}: a greatest slew of {max_slew_ua_s} uA/s is outside "
                f"1 .. {refproto.MAX_SLEW_UA_S} uA/s"
            )
        self._require_open()
        self._require_certain("arm")
        self._command(refproto.Arm(max_level_ua, max_slew_ua_s))
        self._latch.asked(self._line.last_seq, max_level_ua, max_slew_ua_s)

    def disarm(self) -> None:
        """Zero at once, and no current until armed again. Raises DeviceLostError."""
        self._command(refproto.Disarm())

    def set_level(self, level_ua: int, lease_ms: int) -> None:
        """Send one set point with a lease.

        Parameters
        ----------
        level_ua : int
            Signed, uA.
        lease_ms : int
            1 .. 1000 ms; afterwards the device ramps to zero by itself and disarms.

        Raises
        ------
        DeviceRefusedError
            If a number is out of range. The device's own refusal comes from `poll`.
        DeviceUncertainError
            If a reply is overdue; but a level nearer to zero than all that may flow is still sent.
        DeviceLostError
            If the line is closed, broken, or takes no more bytes.
        """
        if not -CAPABILITIES.max_level_ua <= level_ua <= CAPABILITIES.max_level_ua:
            raise DeviceRefusedError(
                f"{self._wire.name}: a level of {level_ua} uA is outside +-{CAPABILITIES.max_level_ua} uA"
            )
        if not 1 <= lease_ms <= MAX_LEASE_MS:
            raise DeviceRefusedError(
                f"{self._wire.name}: a lease of {lease_ms} ms is outside 1 .. {MAX_LEASE_MS} ms"
            )
        self._require_open()
        if level_ua and abs(level_ua) >= self.assumed_ua:
            self._require_certain("set a level")
        self._command(refproto.SetLevel(level_ua, lease_ms))

    def heartbeat(self) -> None:
        """Tell the device that the host lives, without renewing any lease. Raises DeviceLostError."""
        self._command(refproto.Heartbeat())

    def stop(self, stop_class: StopClass) -> None:
        """Stop by class; overtakes everything that still waits to be sent. Raises DeviceLostError."""
        self._command(refproto.Stop(stop_class))

    def reset_fault(self) -> None:
        """Clear a latched device fault; its own refusal comes from `poll`. Raises DeviceLostError."""
        self._command(refproto.ResetFault())

    def poll(self, t_ns: int) -> list[Readback]:
        """All reports that have arrived since the last call, oldest first.

        Parameters
        ----------
        t_ns : int
            Now; the stamp of what is returned.

        Raises
        ------
        DeviceLostError
            If the line is closed, hung up or broken.
        DeviceProtocolError
            If the device acknowledged a frame never sent, sent a value that is not defined, or more damage
            came within a second than a line causes by itself.
        DeviceUncertainError
            Once, where the device has acknowledged nothing of what was sent `REPLY_BUDGET_NS` ago. Until it has
            acknowledged everything its reports then carry the state UNCERTAIN.
        DeviceRefusedError
            If the device refused a command; but not where a set point came after the device had stopped by
            itself: that its state and fault tell.

        Notes
        -----
        After a protocol error or a refusal the reports that came with it are returned by the next call.
        """
        self._require_open()
        self._line.flush()
        trouble: DeviceError | None = None
        for frame in self._line.frames():
            try:
                self._take(frame, t_ns)
            except DeviceError as error:
                trouble = _worse(trouble, error)
        damage = self._damage.judge(self._line.decoder, t_ns)
        if damage:
            trouble = _worse(trouble, DeviceProtocolError(f"{self._wire.name}: {damage}"))
        if self._owed.overdue(t_ns) and trouble is None:
            trouble = DeviceUncertainError(
                f"{self._wire.name} has acknowledged nothing for {self._owed.budget_ms} ms: up to "
                f"{self.assumed_ua} uA may flow; check cable and device"
            )
        if trouble is not None:
            raise trouble
        readbacks, self._readbacks = self._readbacks, []
        return readbacks

    def close(self) -> None:
        """Cut, disarm, let go of the line."""
        if self._identity is not None:
            self._identity = None
            try:
                self._send(refproto.Stop(StopClass.S0_CUT))
                self._send(refproto.Disarm())
            except DeviceError:
                pass  # the line is gone: the device's own host timeout ends the current
        self._wire.close()

    # ---- sending

    def _require_open(self) -> None:
        if self._identity is None:
            raise DeviceLostError(f"{self._wire.name} is not open")

    def _require_certain(self, verb: str) -> None:
        if self._owed.uncertain:
            raise DeviceUncertainError(
                f"{self._wire.name}: cannot {verb}: a reply is overdue and up to {self.assumed_ua} uA may flow; "
                "only stops are sent until it answers"
            )

    def _command(self, message: HostMessage) -> None:
        self._require_open()
        self._send(message)

    def _send(self, message: HostMessage) -> None:
        seq = self._line.queue(message)
        self._owed.sent(seq, message.level_ua if isinstance(message, refproto.SetLevel) else None)
        self._asked[seq] = type(message).__name__
        if len(self._asked) > MAX_ASKED:
            del self._asked[next(iter(self._asked))]
        self._line.flush()

    # ---- receiving

    def _take(self, frame: Frame, t_ns: int) -> None:
        try:
            message = refproto.parse_device(frame)
        except FrameError as error:
            raise DeviceProtocolError(f"{self._wire.name}: {error}") from error
        if isinstance(message, refproto.Report) and self._boot_count not in (None, message.boot_count):
            self._device_seq = 0  # it has restarted, and counts its frames anew
        if frame.seq <= self._device_seq:
            return
        self._device_seq = frame.seq
        self._owed.answered(message.ack_seq)
        if message.ack_seq > self._line.last_seq:
            raise DeviceProtocolError(
                f"{self._wire.name}: wrong acknowledgement, of frame {message.ack_seq}; "
                f"only {self._line.last_seq} were sent"
            )
        match message:
            case refproto.Ack(ack_seq=seq, result=result):
                asked = self._asked.pop(seq, None)
                if result != AckResult.OK:
                    self._latch.refused(seq)
                # A set point that crossed with the device's own stop is no news: the reports name the cause.
                crossed = asked == "SetLevel" and result in (AckResult.NOT_ARMED, AckResult.FAULT_LATCHED)
                if result != AckResult.OK and asked is not None and not crossed:
                    raise DeviceRefusedError(
                        f"{self._wire.name} refused {asked} (frame {seq}): {_REFUSALS[result]}"
                    )
            case refproto.Limits():
                self._wrong(self._latch.latched(message))
            case refproto.Report():
                self._boot_count = message.boot_count
                self._wrong(self._latch.reported(armed=message.state in _HOLDING))
                self._owed.confirmed(message.ack_seq, message.set_ua, holds=message.state in _HOLDING)
                state = DeviceState.UNCERTAIN if self._owed.uncertain else message.state
                self._readbacks.append(_readback(message, state, t_ns))

    def _wrong(self, what: str) -> None:
        if what:
            raise DeviceProtocolError(f"{self._wire.name}: {what}")


def _build(_mode: str, port: str, _options: NoOptions) -> ReferenceStimulator:
    return ReferenceStimulator(SerialWire(serial_path(port)))


DRIVER: Final = Driver(
    name="reference",
    summary="any stimulator that speaks the reference serial protocol, on a serial line or a pty",
    modes={"lease": "every set point is a lease of at most 1 s, and the device ends 250 ms of silence"},
    options=NoOptions,
    capabilities=lambda _mode, _options: CAPABILITIES,
    build=_build,
)


def _worse(one: DeviceError | None, other: DeviceError | None) -> DeviceError | None:
    """The error to raise when a poll meets two: a protocol error outranks a refusal."""
    if one is None or (isinstance(one, DeviceRefusedError) and isinstance(other, DeviceProtocolError)):
        return other
    return one


def _readback(report: refproto.Report, state: DeviceState, t_ns: int) -> Readback:
    return Readback(
        t_ns=t_ns,
        state=state,
        commanded_ua=report.set_ua,
        measured_ua=report.measured_ua,
        voltage_mv=report.voltage_mv,
        impedance_ohm=report.impedance_ohm,
        ack_seq=report.ack_seq,
        boot_count=report.boot_count,
        fault=refproto.FAULT_NAMES.get(report.fault, f"device fault {report.fault}"),
    )
