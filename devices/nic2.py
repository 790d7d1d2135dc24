"""Driver for Neuroelectrics Starstim through NIC2's remote stimulation server (TCP 1235).

NIC tells no current. What is reported here as commanded is what the device was told and should deliver by now; what is assumed
to flow is never less. NIC's word for full current is no proof of it (it comes early, and an impedance check leaves it behind):
changes are timed by our own clock, and status is used to notice an end, never a level.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from devices import nic2_codec as codec
from devices.driver import Driver, DriverError, tcp_address
from devices.nic2_codec import Change, Nic2CodecError, Peak
from devices.nic2_hello import Greeting
from devices.nic2_line import Conversation
from devices.nic2_modes import LATENCY_S, MAX_HOLD_MS, MODES, Mode, Nic2Options, capabilities
from devices.nic2_plan import Course, Leg, course, legs, why_not
from devices.nic2_prepare import RESTING, START, Preparation, steps
from devices.nic2_table import TABLES, Op, Status
from devices.stimulator import (
    Capabilities,
    DeviceError,
    DeviceLostError,
    DeviceNotFoundError,
    DeviceProtocolError,
    DeviceRefusedError,
    DeviceState,
    DeviceUncertainError,
    GatePlan,
    Identity,
    Readback,
    StopClass,
)
from devices.tcp_wire import TcpWire
from devices.units import NS_PER_MS, NS_PER_S
from devices.wires import Wire

NIC_PORT: Final = 1235
ASK_EVERY_MS: Final = 100
ABORT_AGAIN_MS: Final = 500
ABORT_DEAF_MS: Final = 2000
START_BUDGET_MS: Final = 5000
CUT_MS: Final = 100
CLOSE_BUDGET_MS: Final = 2000
ABORT_SLEW_UA_MS: Final = 2.0
MAX_DEVICE_SLEW_UA_S: Final = 200
PROTOCOL_SPARE_S: Final = 5.0

class _Gate(msgspec.Struct):
    """The gate under way: what it should deliver, and what is still to be sent (ms after `begun_ns`)."""

    plan: GatePlan
    course: Course
    begun_ns: int
    todo: list[Leg]
    started: bool = False


class Nic2Stimulator:
    """Driver of a Starstim behind NIC2; implements `devices.stimulator.GateStimulator`.

    Parameters
    ----------
    wire : Wire
        `TcpWire` to NIC.
    mode : {"peak", "timed", "plain"}
        How a current is made, and what ends it when this program dies.
    options : Nic2Options
        Montage and protocols.
    """

    def __init__(self, wire: Wire, mode: Mode, options: Nic2Options) -> None:
        self._wire = wire
        self._mode: Mode = mode
        self._options = options
        self._table = TABLES[options.version]
        self._capabilities = capabilities(mode, options)
        self._identity: Identity | None = None
        self._boots = 0
        self._begin_session()

    def _begin_session(self) -> None:
        self._line = Conversation(self._wire, self._table, self._options.channels)
        self._now_ns = 0
        self._main: Status | None = None
        self._asked_ns = -NS_PER_S
        self._round = 0
        self._fresh_after = 0
        self._lost = ""
        self._fault = ""
        self._armed: tuple[int, int] | None = None
        self._prepare: Preparation | None = None
        self._ready = False
        self._left_alone = False
        self._gate: _Gate | None = None
        self._follow: Course | None = None
        self._assumed_until_ns = 0
        self._assumed_ua = 0
        self._abort_at_ns: int | None = None
        self._abort_sent_ns: int | None = None
        self._abort_first_ns: int | None = None
        self._impedance_ohm: float | None = None
        self._readbacks: list[Readback] = []

    # ---- what it is

    @property
    def capabilities(self) -> Capabilities:
        """What it can do in this mode."""
        return self._capabilities

    @property
    def assumed_ua(self) -> int:
        """Largest magnitude that may flow: what was told and not yet surely over."""
        if self._abort_first_ns is not None or self._now_ns < self._assumed_until_ns:
            return self._assumed_ua
        return 0 if self._follow is None else self._follow.greatest_ua(self._now_ns)

    def fileno(self) -> int:
        """Descriptor that turns readable when NIC has sent something; -1 while closed."""
        return self._wire.fileno()

    # ---- opening

    def open(self) -> Identity:
        """Connect, agree on the version, wait for the operator's consent, measure impedance, start the zero-current protocol.

        Returns
        -------
        Identity
            Who answered. If already open, who answered then.

        Raises
        ------
        DeviceNotFoundError
            If nothing answers there, or not in this version.
        DeviceRefusedError
            If the operator does not consent within 20 s, or NIC does not do what is needed; the text says what.
        DeviceLostError
            If the connection breaks meanwhile.
        """
        if self._identity is not None:
            return self._identity
        self._wire.open()
        self._begin_session()
        self._boots += 1
        try:
            greeting = Greeting(self._wire, self._line, self._table)
            identity, self._main = greeting.greet(self._options)
            self._now_ns = greeting.now_ns
            self._start_preparation(with_impedance=True)
            while not self._ready:
                self._wait(ASK_EVERY_MS / 2000.0)
                self._work()
                if self._fault:
                    raise DeviceRefusedError(f"{self._wire.name}: {self._fault}")
        except DeviceProtocolError as error:
            self._wire.close()
            raise DeviceNotFoundError(str(error)) from error
        except DeviceError:
            self._wire.close()
            raise
        self._readbacks.clear()
        self._now_ns = 0
        self._asked_ns = -NS_PER_S
        self._line.since(0)
        self._identity = identity
        return identity

    def _wait(self, budget_s: float) -> None:
        left_s = self._wire.wait(budget_s)
        self._now_ns += max(1, round((budget_s - left_s) * NS_PER_S))

    # ---- verbs

    def arm(self, max_level_ua: int, max_slew_ua_s: int) -> None:
        """Latch limits and allow current; NIC itself knows no arming. Raises DeviceError."""
        self._require_open()
        if not 1 <= max_level_ua <= self._capabilities.max_level_ua:
            raise DeviceRefusedError(
                f"{self._wire.name}: a greatest level of {max_level_ua} uA is outside 1 .. {self._capabilities.max_level_ua} uA"
            )
        if not 1 <= max_slew_ua_s <= MAX_DEVICE_SLEW_UA_S:
            raise DeviceRefusedError(
                f"{self._wire.name}: a slew of {max_slew_ua_s} uA/s is outside 1 .. {MAX_DEVICE_SLEW_UA_S} uA/s"
            )
        self._require_certain()
        if self._fault:
            raise DeviceRefusedError(f"{self._wire.name}: {self._fault}; reset first")
        if not self._ready or self._gate is not None:
            raise DeviceRefusedError(f"{self._wire.name}: NIC is not ready yet; arm again in a few seconds")
        self._armed = (max_level_ua, max_slew_ua_s)

    def disarm(self) -> None:
        """Zero at once, and no current until armed again. Raises DeviceLostError."""
        self._require_open()
        self._armed = None
        if self._may_flow:
            self._cut()
        elif not self._ready and self._prepare is None and not self._left_alone and not self._aborting:
            self._start_preparation(with_impedance=False)

    def run_gate(self, plan: GatePlan) -> None:
        """Begin one gate now.

        Raises
        ------
        DeviceRefusedError
            If it is not armed, one runs already, or the plan is outside the limits of the mode; the text says which.
        DeviceUncertainError, DeviceLostError
            If nobody knows what NIC does.
        """
        limits = self._require_armed()
        if self._mode == "plain":
            raise DeviceRefusedError(f"{self._wire.name}: mode plain takes levels, no gates")
        if self._gate is not None:
            raise DeviceRefusedError(f"{self._wire.name}: a gate runs already")
        why = why_not(plan, *limits, MAX_HOLD_MS if self._mode == "peak" else None) or self._why_not_timed(plan)
        if why:
            raise DeviceRefusedError(f"{self._wire.name}: {why}")
        path = course(plan, self._now_ns)
        self._gate = _Gate(plan, path, self._now_ns, [])
        self._expect(path)
        if self._mode == "peak":
            whole = Peak(self._currents(plan.level_ua), plan.rise_ms, plan.hold_ms, plan.fall_ms)
            self._line.send(codec.peak(self._table, whole))
            self._gate.started = True
        else:
            self._line.send(codec.request(self._table, START.op))
        self._fresh_after = self._round

    def _why_not_timed(self, plan: GatePlan) -> str:
        if self._mode != "timed":
            return ""
        gate_s = (plan.rise_ms + plan.hold_ms + plan.fall_ms) / 1000.0
        lasts_s = self._options.protocol_s or 0.0
        if gate_s <= lasts_s <= gate_s + PROTOCOL_SPARE_S:
            return ""
        return (
            f"a gate of {gate_s:g} s; the NIC protocol is to last as long, or up to {PROTOCOL_SPARE_S:g} s longer, and "
            f"`device.options.protocol_s` is {lasts_s:g}"
        )

    def set_level(self, level_ua: int, lease_ms: int) -> None:  # noqa: ARG002 - NIC knows no leases
        """In mode plain: go to `level_ua` by one online change, no faster than armed; otherwise only 0, where no gate runs.

        Raises
        ------
        DeviceRefusedError
            If a level other than 0 is not allowed here.
        DeviceUncertainError, DeviceLostError
            If nobody knows what NIC does.
        """
        self._require_open()
        if self._mode != "plain":
            if level_ua:
                raise DeviceRefusedError(f"{self._wire.name}: mode {self._mode} takes whole gates, no levels")
            return
        if level_ua:
            limits = self._require_armed()
            if abs(level_ua) > limits[0]:
                raise DeviceRefusedError(f"{self._wire.name}: {level_ua} uA; armed for at most {limits[0]} uA")
        now_ua = self._commanded()
        if level_ua == now_ua or self._aborting or (self._follow is not None and self._now_ns < self._follow.end_ns):
            return  # the change before is under way; the next call goes on from where it ends
        rises = self._armed is not None and (abs(level_ua) > abs(now_ua) or level_ua * now_ua < 0)
        slew = self._armed[1] / 1000.0 if rises and self._armed is not None else ABORT_SLEW_UA_MS
        span_ms = math.ceil(abs(level_ua - now_ua) / slew)
        self._change(level_ua, min(max(codec.MIN_TIME_MS, span_ms), codec.MAX_TIME_MS))

    def heartbeat(self) -> None:
        """NIC knows none. Raises DeviceLostError."""
        self._require_open()

    def stop(self, stop_class: StopClass) -> None:
        """Stop. Mode peak: always by NIC's abort; else by a change to zero (S0 0.1 s, S1 2 mA/s, S2 as armed), then abort.

        Raises
        ------
        DeviceLostError
            If the connection is closed or broken: then press abort in NIC.
        """
        self._require_open()
        if stop_class == StopClass.S0_CUT:
            self._armed = None
            self._cut()
            return
        if not self._may_flow:
            self._armed = None
            return
        if self._mode == "peak" or not self._changes_heard:
            self._abort(0)
        else:
            size = abs(self._commanded())
            slew = ABORT_SLEW_UA_MS
            if stop_class == StopClass.S2_SESSION_RAMP and self._armed is not None:
                slew = self._armed[1] / 1000.0
            span_ms = min(max(codec.MIN_TIME_MS, math.ceil(size / slew)), codec.MAX_TIME_MS)
            if self._abort_at_ns is None or self._now_ns + span_ms * NS_PER_MS < self._abort_at_ns:
                self._change(0, span_ms)
                self._abort(span_ms + round(LATENCY_S * 1000.0))
        self._armed = None

    def reset_fault(self) -> None:
        """Prepare NIC anew, with an impedance check; only at zero current and by an operator's act. Raises DeviceLostError."""
        self._require_open()
        if self._may_flow or self._aborting:
            raise DeviceRefusedError(f"{self._wire.name}: current may still flow; press abort in NIC")
        self._fault = ""
        self._left_alone = False
        self._start_preparation(with_impedance=True)

    def poll(self, t_ns: int) -> list[Readback]:
        """All reports since the last call, oldest first.

        Parameters
        ----------
        t_ns : int
            Now; the stamp of what is returned.

        Raises
        ------
        DeviceLostError
            If the connection is closed or broken.
        DeviceProtocolError
            If NIC sent what the protocol does not allow, or another status than the session can be in.
        DeviceUncertainError
            Once, when a reply has become overdue.
        """
        self._require_open()
        self._now_ns = t_ns
        try:
            self._work()
        except DeviceLostError as error:
            self._lost = str(error)
            raise
        readbacks, self._readbacks = self._readbacks, []
        return readbacks

    def close(self) -> None:
        """Zero, wait at most 2 s for NIC to confirm the abort, let go of the connection. Idempotent, never raises."""
        if self._identity is not None:
            self._identity = None
            try:
                self._cut()
                end_ns = self._now_ns + CLOSE_BUDGET_MS * NS_PER_MS
                while self._aborting and self._now_ns < end_ns:
                    self._wait(ASK_EVERY_MS / 5000.0)
                    self._work()
            except DeviceError:
                pass  # the connection is gone: the peak or the protocol ends by itself, or somebody presses abort
        self._wire.close()

    # ---- currents

    @property
    def _may_flow(self) -> bool:
        return self._gate is not None or (self._follow is not None and self._follow.greatest_ua(self._now_ns) > 0)

    @property
    def _changes_heard(self) -> bool:
        """Whether NIC surely obeys an online change now: not while a peak runs, nor before the protocol is at full current."""
        return self._mode == "plain" or (self._mode == "timed" and self._gate is not None and self._gate.started)

    def _currents(self, level_ua: int) -> tuple[int, ...]:
        return codec.spread(level_ua, self._options.target, self._options.returns, self._options.channels)

    def _commanded(self) -> int:
        return 0 if self._follow is None else round(self._follow.level_ua(self._now_ns))

    def _expect(self, path: Course) -> None:
        """From now on the device is to deliver `path`; what it delivered until now may linger for the latency."""
        self._assumed_ua = max(self.assumed_ua, path.greatest_ua(self._now_ns))
        self._follow = path
        self._assumed_until_ns = path.end_ns + round(LATENCY_S * NS_PER_S)

    def _change(self, level_ua: int, span_ms: int) -> None:
        self._line.send(codec.change(self._table, Change(self._currents(level_ua), span_ms)))
        begin = (self._now_ns, float(self._commanded()))
        self._expect(Course((begin, (self._now_ns + span_ms * NS_PER_MS, float(level_ua)))))
        if self._gate is not None:
            self._gate.todo.clear()

    def _cut(self) -> None:
        """S0. Where a change is surely heard it is the fastest way to zero; the abort follows either way."""
        self._stop_preparing()
        if self._changes_heard and self._may_flow:
            if self._abort_at_ns is None or self._abort_at_ns > self._now_ns + 2 * CUT_MS * NS_PER_MS:
                self._change(0, CUT_MS)
                self._abort(CUT_MS + round(LATENCY_S * 1000.0))
        elif self._main not in RESTING or self._gate is not None:
            self._abort(0)

    def _stop_preparing(self) -> None:
        if self._prepare is not None:
            self._prepare.cancel()
            self._prepare = None

    def _abort(self, after_ms: int) -> None:
        """Have NIC abort its protocol `after_ms` from now, and again until its status says so."""
        at_ns = self._now_ns + after_ms * NS_PER_MS
        if self._abort_at_ns is None or at_ns < self._abort_at_ns:
            self._abort_at_ns = at_ns
        self._ready = False
        self._stop_preparing()
        self._send_abort()

    @property
    def _aborting(self) -> bool:
        return self._abort_at_ns is not None

    def _send_abort(self) -> None:
        now_ns, at_ns = self._now_ns, self._abort_at_ns
        if at_ns is None or now_ns < at_ns:
            return
        if self._abort_sent_ns is not None and now_ns - self._abort_sent_ns < ABORT_AGAIN_MS * NS_PER_MS:
            return
        self._line.send(codec.request(self._table, Op.ABORT_PROTOCOL))
        self._abort_sent_ns = now_ns
        if self._abort_first_ns is None:
            self._abort_first_ns = now_ns
            self._fresh_after = self._round

    # ---- what goes on by itself

    def _work(self) -> None:
        answers, overdue = self._line.pump(self._now_ns)
        for op, value in answers:
            self._take(op, value)
        if overdue:
            raise DeviceUncertainError(
                f"{self._wire.name}: NIC has not answered for a second; up to {self.assumed_ua} uA may flow"
            )
        self._send_abort()
        if not self._line.uncertain:
            if self._prepare is not None:
                self._go_on_preparing(self._prepare)
            self._go_on_with_gate()
            self._ask_next()

    def _ask_next(self) -> None:
        if self._line.waits or self._now_ns - self._asked_ns < ASK_EVERY_MS * NS_PER_MS:
            return
        if self._prepare is not None and self._prepare.in_request:
            return
        self._asked_ns = self._now_ns
        self._round += 1
        self._line.ask(Op.QUERY_STATUS, self._now_ns)
        self._line.ask(Op.QUERY_STATUS_PROTOCOL, self._now_ns)

    def _take(self, op: Op, value: Status | int | str) -> None:
        if op is Op.QUERY_STATUS:
            assert isinstance(value, Status)
            self._main = value
        elif op is Op.QUERY_STATUS_PROTOCOL:
            assert isinstance(value, Status)
            assert self._main is not None
            if self._round > self._fresh_after:
                self._judge(self._main, value)
            self._report()
        elif op is Op.GET_IMPEDANCE:
            self._take_impedance(str(value))
            if self._prepare is not None:
                self._prepare.replied(op)

    def _take_impedance(self, line: str) -> None:
        try:
            ohms = codec.parse_impedances(line, self._options.channels)
        except Nic2CodecError as error:
            raise DeviceProtocolError(f"{self._wire.name}: {error}") from error
        used = [ohms[channel - 1] for channel in (self._options.target, *self._options.returns)]
        if not all(used):
            self._fault = (
                f"NIC measured no impedance at an electrode in use; give it current in the protocol "
                f"{self._options.impedance_protocol}"
            )
            return
        # The level flows through the target and, shared, through the returns: the worst way there and back.
        self._impedance_ohm = used[0] + max(used[1:])

    def _judge(self, main: Status, phase: Status) -> None:
        """What both statuses, asked after the newest request, say."""
        if self._prepare is not None:
            self._prepare.statuses(main, phase)
        elif self._abort_first_ns is not None:
            if main in RESTING:
                self._over()
            elif self._now_ns - self._abort_first_ns > ABORT_DEAF_MS * NS_PER_MS:
                self._fault = "NIC does not abort: press abort in NIC's window now, or switch the Starstim off"
        elif self._mode == "timed" and self._gate is not None and not self._gate.started:
            self._judge_start(main, phase)
        elif main is not Status.PROTOCOL_RUNNING and (self._gate is not None or (self._ready and self._mode != "timed")):
            if main is Status.PROTOCOL_ABORTING:
                self._leave_alone()
                self._abort(0)
            elif main in RESTING:
                if main is Status.PROTOCOL_ERROR:
                    self._fault = "NIC's protocol ended in an error"
                if self._gate is None or self._now_ns < self._gate.course.end_ns:
                    self._leave_alone()
                self._over()

    def _judge_start(self, main: Status, phase: Status) -> None:
        gate = self._gate
        assert gate is not None
        late_ms = (self._now_ns - gate.begun_ns) // NS_PER_MS
        if main is Status.PROTOCOL_RUNNING and phase in (Status.STIMULATION_FULL, Status.EEG_ON):
            if late_ms > gate.plan.hold_ms - codec.MIN_TIME_MS:
                self._fault = "NIC's protocol started so late that nothing is left of the gate"
                self._abort(0)
                return
            gate.started = True
            gate.todo = legs(gate.plan, late_ms)
        elif late_ms > START_BUDGET_MS:
            self._fault = f"NIC's protocol {self._options.protocol} did not start within {START_BUDGET_MS / 1000:g} s"
            self._abort(0)

    def _leave_alone(self) -> None:
        """Somebody at NIC ended it, and may have had a reason: only an operator's reset goes on."""
        self._armed = None
        self._left_alone = True

    def _over(self) -> None:
        """NIC's protocol has ended: nothing flows, and nothing can until it is prepared anew."""
        self._gate, self._follow = None, None
        self._assumed_until_ns, self._assumed_ua = 0, 0
        self._abort_at_ns = self._abort_sent_ns = self._abort_first_ns = None
        self._ready = False
        if self._armed is not None:
            self._start_preparation(with_impedance=False)

    def _start_preparation(self, *, with_impedance: bool) -> None:
        self._stop_preparing()  # NIC may still wait for a parameter, and would take the next request for it
        options = self._options
        todo = steps(
            self._main,
            options.protocol,
            options.impedance_protocol if with_impedance else None,
            start=self._mode != "timed",
        )
        self._ready = False
        self._prepare = Preparation(
            self._table, todo, self._send_step, lambda op: self._line.ask(op, self._now_ns)
        )

    def _send_step(self, data: bytes) -> None:
        self._line.send(data)
        self._fresh_after = self._round

    def _go_on_preparing(self, preparation: Preparation) -> None:
        preparation.tick(self._now_ns)
        if preparation.problem:
            self._fault = preparation.problem
            self._prepare = None
        elif preparation.done:
            self._prepare = None
            self._ready = not self._fault

    def _go_on_with_gate(self) -> None:
        gate = self._gate
        if gate is None or self._aborting:
            return
        while gate.todo and self._now_ns >= gate.begun_ns + gate.todo[0].at_ms * NS_PER_MS:
            leg = gate.todo.pop(0)
            self._line.send(codec.change(self._table, Change(self._currents(leg.to_ua), leg.transition_ms)))
        if self._now_ns < gate.course.end_ns + round(LATENCY_S * NS_PER_S):
            return
        self._gate, self._follow = None, None
        if self._mode == "timed":
            self._abort(0)  # the protocol must not go on without a gate

    def _report(self) -> None:
        flowing = self._gate is not None or self._follow is not None
        if self._line.uncertain:
            state = DeviceState.UNCERTAIN
        elif self._fault:
            state = DeviceState.FAULT
        elif self._abort_first_ns is not None and flowing:
            state = DeviceState.RAMPING_DOWN
        elif self._may_flow:
            state = DeviceState.ACTIVE
        else:
            state = DeviceState.ARMED if self._armed is not None else DeviceState.IDLE
        self._readbacks.append(
            Readback(
                t_ns=self._now_ns,
                state=state,
                commanded_ua=self._commanded(),
                measured_ua=None,
                voltage_mv=None,
                impedance_ohm=None if flowing else self._impedance_ohm,
                ack_seq=self._line.answers,
                boot_count=self._boots,
                fault=self._fault,
            )
        )

    # ---- what a call needs

    def _require_open(self) -> None:
        if self._identity is None:
            raise DeviceLostError(f"{self._wire.name} is not open")
        if self._lost:
            raise DeviceLostError(self._lost)

    def _require_certain(self) -> None:
        if self._line.uncertain:
            raise DeviceUncertainError(f"{self._wire.name}: NIC has not answered yet; only stops are sent")

    def _require_armed(self) -> tuple[int, int]:
        self._require_open()
        self._require_certain()
        if self._armed is None:
            raise DeviceRefusedError(f"{self._wire.name}: it is not armed")
        if not self._ready or self._aborting:
            raise DeviceRefusedError(f"{self._wire.name}: NIC is not ready yet; wait a few seconds")
        return self._armed


def _build(mode: str, port: str, options: Nic2Options) -> Nic2Stimulator:
    host, number = tcp_address(port, NIC_PORT)
    if mode == "timed" and options.protocol_s is None:
        raise DriverError("key `device.options.protocol_s` is missing: mode timed needs the duration of the NIC protocol")
    if mode == "timed" and not options.accept_unproven_expiry:
        raise DriverError(
            "key `device.options.accept_unproven_expiry` is not true: mode timed rests on NIC ending its protocol after this "
            "program has died, which is not proven on hardware; accept it in words, or choose mode peak"
        )
    chosen: dict[str, Mode] = {"peak": "peak", "timed": "timed", "plain": "plain"}
    return Nic2Stimulator(TcpWire(host, number), chosen[mode], options)


DRIVER: Final = Driver(
    name="nic2",
    summary="Neuroelectrics Starstim through NIC2's remote stimulation server (TCP 1235)",
    modes=MODES,
    options=Nic2Options,
    capabilities=capabilities,
    build=_build,
)
