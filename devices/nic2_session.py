"""One connection's worth of NIC: what it is told, what its statuses then mean, and what goes on by itself from there.

NIC's word for full current is no proof of it (it comes early, and an impedance check leaves it behind): changes are timed by
our own clock, and status is used to notice an end, never a level. What is refused to the guard is `devices.nic2_driver`'s part.
"""

from __future__ import annotations

from typing import Final

import msgspec

from devices import nic2_codec as codec
from devices.nic2_abort import Abort
from devices.nic2_codec import Change, Nic2CodecError, Peak
from devices.nic2_expected import LATENCY_NS, Expected
from devices.nic2_line import Conversation
from devices.nic2_modes import Mode, Nic2Options
from devices.nic2_plan import Course, Leg, course, legs
from devices.nic2_prepare import RESTING, START, Preparation, steps
from devices.nic2_table import TABLES, Op, Status
from devices.stimulator import DeviceProtocolError, DeviceState, DeviceUncertainError, GatePlan, Readback
from devices.units import NS_PER_MS, NS_PER_S
from devices.wires import Wire

ASK_EVERY_MS: Final = 100
START_BUDGET_MS: Final = 5000
CUT_MS: Final = 100
_LATENCY_MS: Final = LATENCY_NS // NS_PER_MS


class _Gate(msgspec.Struct):
    """The gate under way: what it should deliver, and what is still to be sent (ms after `begun_ns`)."""

    plan: GatePlan
    course: Course
    begun_ns: int
    todo: list[Leg]
    started: bool = False


class Session:
    """What the driver knows of one connection; nothing here waits.

    Parameters
    ----------
    wire : Wire
        The connection, already open.
    mode : {"peak", "timed", "plain"}
        How a current is made.
    options : Nic2Options
        Montage and protocols.
    boot_count : int
        How often the driver has connected.

    Attributes
    ----------
    now_ns : int
        The time; whoever calls moves it first.
    armed : tuple of int, or None
        Greatest level (uA) and slew (uA/s) allowed; None while no current is.
    ready : bool
        Whether NIC is where a gate or a change can begin.
    fault : str
        Why no current is allowed until a reset; empty if it is.
    left_alone : bool
        Whether somebody at NIC ended the protocol: nothing is prepared until a reset.
    readbacks : list of Readback
        Not yet fetched, oldest first.
    """

    def __init__(self, wire: Wire, mode: Mode, options: Nic2Options, boot_count: int) -> None:
        self.line = Conversation(wire, TABLES[options.version], options.channels)
        self.now_ns = 0
        self.armed: tuple[int, int] | None = None
        self.ready = False
        self.fault = ""
        self.left_alone = False
        self.readbacks: list[Readback] = []
        self._wire = wire
        self._mode = mode
        self._options = options
        self._table = TABLES[options.version]
        self._boot_count = boot_count
        self._main: Status | None = None
        self._asked_ns = -NS_PER_S
        self._round = 0
        self._fresh_after = 0
        self._prepare: Preparation | None = None
        self._gate: _Gate | None = None
        self._expected = Expected()
        self._abort = Abort()
        self._impedance_ohm: float | None = None

    def begin(self, main: Status | None, now_ns: int) -> None:
        """The connection stands, and NIC's status is `main`: prepare it, with an impedance check."""
        self._main, self.now_ns = main, now_ns
        self.prepare(with_impedance=True)

    def restart_clock(self) -> None:
        """Time now comes from another clock, which may be anywhere; what was reported before is dropped."""
        self.readbacks.clear()
        self.now_ns = 0
        self._asked_ns = -NS_PER_S
        self.line.since(0)

    # ---- what is known

    @property
    def commanded_ua(self) -> int:
        """What the device should deliver now, signed."""
        return self._expected.commanded_ua(self.now_ns)

    @property
    def assumed_ua(self) -> int:
        """Largest magnitude that may flow: what was told and not yet surely over."""
        return self._expected.assumed_ua(self.now_ns, abort_asked=self._abort.asked)

    @property
    def may_flow(self) -> bool:
        """Whether a gate runs, or the device was told a level that is not zero."""
        return self._gate is not None or self._expected.greatest_ua(self.now_ns) > 0

    @property
    def has_gate(self) -> bool:
        """Whether a gate runs."""
        return self._gate is not None

    @property
    def is_changing(self) -> bool:
        """Whether a change is under way, or an abort: another change would be lost or would jump."""
        return self._abort.planned or self._expected.is_moving(self.now_ns)

    @property
    def is_aborting(self) -> bool:
        """Whether an abort is planned or asked for."""
        return self._abort.planned

    @property
    def is_preparing(self) -> bool:
        """Whether NIC is being brought to where a gate can begin."""
        return self._prepare is not None

    @property
    def changes_heard(self) -> bool:
        """Whether NIC surely obeys an online change now: not while a peak runs, nor before the protocol is at full current."""
        return self._mode == "plain" or (self._mode == "timed" and self._gate is not None and self._gate.started)

    # ---- what it can be told

    def prepare(self, *, with_impedance: bool) -> None:
        """Bring NIC to where a gate or a change can begin, from wherever it is."""
        self._stop_preparing()  # NIC may still wait for a parameter, and would take the next request for it
        options = self._options
        todo = steps(
            self._main,
            options.protocol,
            options.impedance_protocol if with_impedance else None,
            start=self._mode != "timed",
        )
        self.ready = False
        self._prepare = Preparation(self._table, todo, self._send_step, lambda op: self.line.ask(op, self.now_ns))

    def run_gate(self, plan: GatePlan) -> None:
        """Begin a gate now; none runs."""
        path = course(plan, self.now_ns)
        self._gate = _Gate(plan, path, self.now_ns, [])
        self._follow(path)
        if self._mode == "peak":
            whole = Peak(self._currents(plan.level_ua), plan.rise_ms, plan.hold_ms, plan.fall_ms)
            self.line.send(codec.peak(self._table, whole))
            self._gate.started = True
        else:
            self.line.send(codec.request(self._table, START.op))
        self._fresh_after = self._round

    def change(self, level_ua: int, span_ms: int) -> None:
        """Go to `level_ua` in `span_ms` by one online change; what was left of a gate is dropped."""
        self.line.send(codec.change(self._table, Change(self._currents(level_ua), span_ms)))
        begin = (self.now_ns, float(self.commanded_ua))
        self._follow(Course((begin, (self.now_ns + span_ms * NS_PER_MS, float(level_ua)))))
        if self._gate is not None:
            self._gate.todo.clear()

    def ramp_down(self, span_ms: int) -> None:
        """Change to zero in `span_ms`, then abort; nothing if an abort comes sooner anyway."""
        if self._abort.is_sooner(self.now_ns + span_ms * NS_PER_MS):
            self.change(0, span_ms)
            self.abort(span_ms + _LATENCY_MS)

    def cut(self) -> None:
        """S0. Where a change is surely heard it is the fastest way to zero; the abort follows either way."""
        self._stop_preparing()
        if self.changes_heard and self.may_flow:
            if self._abort.is_sooner(self.now_ns + 2 * CUT_MS * NS_PER_MS):
                self.change(0, CUT_MS)
                self.abort(CUT_MS + _LATENCY_MS)
        elif self._main not in RESTING or self._gate is not None:
            self.abort(0)

    def abort(self, after_ms: int) -> None:
        """Have NIC abort its protocol `after_ms` from now, and again until its status says so."""
        self._abort.plan(self.now_ns + after_ms * NS_PER_MS)
        self.ready = False
        self._stop_preparing()
        self._send_abort()

    def work(self) -> None:
        """Take what has come, send what is due, and ask for the next statuses.

        Raises
        ------
        DeviceLostError
            If the connection is closed or broken.
        DeviceProtocolError
            If NIC sent what the protocol does not allow, or another status than the session can be in.
        DeviceUncertainError
            Once, when a reply has become overdue.
        """
        answers, overdue = self.line.pump(self.now_ns)
        for op, value in answers:
            self._take(op, value)
        if overdue:
            raise DeviceUncertainError(
                f"{self._wire.name}: NIC has not answered for a second; up to {self.assumed_ua} uA may flow"
            )
        self._send_abort()
        if not self.line.uncertain:
            if self._prepare is not None:
                self._go_on_preparing(self._prepare)
            self._go_on_with_gate()
            self._ask_next()

    # ---- sending

    def _currents(self, level_ua: int) -> tuple[int, ...]:
        return codec.spread(level_ua, self._options.target, self._options.returns, self._options.channels)

    def _follow(self, path: Course) -> None:
        self._expected.follow(path, self.now_ns, abort_asked=self._abort.asked)

    def _send_step(self, data: bytes) -> None:
        self.line.send(data)
        self._fresh_after = self._round

    def _send_abort(self) -> None:
        if not self._abort.is_due(self.now_ns):
            return
        self.line.send(codec.request(self._table, Op.ABORT_PROTOCOL))
        if not self._abort.asked:
            self._fresh_after = self._round
        self._abort.note_asked(self.now_ns)

    def _stop_preparing(self) -> None:
        if self._prepare is not None:
            self._prepare.cancel()
            self._prepare = None

    # ---- what goes on by itself

    def _go_on_preparing(self, preparation: Preparation) -> None:
        preparation.tick(self.now_ns)
        if preparation.problem:
            self.fault = preparation.problem
            self._prepare = None
        elif preparation.done:
            self._prepare = None
            self.ready = not self.fault

    def _go_on_with_gate(self) -> None:
        gate = self._gate
        if gate is None or self._abort.planned:
            return
        while gate.todo and self.now_ns >= gate.begun_ns + gate.todo[0].at_ms * NS_PER_MS:
            leg = gate.todo.pop(0)
            self.line.send(codec.change(self._table, Change(self._currents(leg.to_ua), leg.transition_ms)))
        if self.now_ns < gate.course.end_ns + LATENCY_NS:
            return
        self._gate = None
        self._expected.drop_course()
        if self._mode == "timed":
            self.abort(0)  # the protocol must not go on without a gate

    def _ask_next(self) -> None:
        if self.line.waits or self.now_ns - self._asked_ns < ASK_EVERY_MS * NS_PER_MS:
            return
        if self._prepare is not None and self._prepare.in_request:
            return
        self._asked_ns = self.now_ns
        self._round += 1
        self.line.ask(Op.QUERY_STATUS, self.now_ns)
        self.line.ask(Op.QUERY_STATUS_PROTOCOL, self.now_ns)

    # ---- what NIC says

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
            self.fault = (
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
        elif self._abort.asked:
            if main in RESTING:
                self._over()
            elif self._abort.is_deaf(self.now_ns):
                self.fault = "NIC does not abort: press abort in NIC's window now, or switch the Starstim off"
        elif self._mode == "timed" and self._gate is not None and not self._gate.started:
            self._judge_start(main, phase)
        elif main is not Status.PROTOCOL_RUNNING and (self._gate is not None or (self.ready and self._mode != "timed")):
            if main is Status.PROTOCOL_ABORTING:
                self._leave_alone()
                self.abort(0)
            elif main in RESTING:
                if main is Status.PROTOCOL_ERROR:
                    self.fault = "NIC's protocol ended in an error"
                if self._gate is None or self.now_ns < self._gate.course.end_ns:
                    self._leave_alone()
                self._over()

    def _judge_start(self, main: Status, phase: Status) -> None:
        gate = self._gate
        assert gate is not None
        late_ms = (self.now_ns - gate.begun_ns) // NS_PER_MS
        if main is Status.PROTOCOL_RUNNING and phase in (Status.STIMULATION_FULL, Status.EEG_ON):
            if late_ms > gate.plan.hold_ms - codec.MIN_TIME_MS:
                self.fault = "NIC's protocol started so late that nothing is left of the gate"
                self.abort(0)
                return
            gate.started = True
            gate.todo = legs(gate.plan, late_ms)
        elif late_ms > START_BUDGET_MS:
            self.fault = f"NIC's protocol {self._options.protocol} did not start within {START_BUDGET_MS / 1000:g} s"
            self.abort(0)

    def _leave_alone(self) -> None:
        """Somebody at NIC ended it, and may have had a reason: only an operator's reset goes on."""
        self.armed = None
        self.left_alone = True

    def _over(self) -> None:
        """NIC's protocol has ended: nothing flows, and nothing can until it is prepared anew."""
        self._gate = None
        self._expected.note_over()
        self._abort.note_over()
        self.ready = False
        if self.armed is not None:
            self.prepare(with_impedance=False)

    def _report(self) -> None:
        flowing = self._gate is not None or self._expected.follows
        if self.line.uncertain:
            state = DeviceState.UNCERTAIN
        elif self.fault:
            state = DeviceState.FAULT
        elif self._abort.asked and flowing:
            state = DeviceState.RAMPING_DOWN
        elif self.may_flow:
            state = DeviceState.ACTIVE
        else:
            state = DeviceState.ARMED if self.armed is not None else DeviceState.IDLE
        self.readbacks.append(
            Readback(
                t_ns=self.now_ns,
                state=state,
                commanded_ua=self.commanded_ua,
                measured_ua=None,
                voltage_mv=None,
                impedance_ohm=None if flowing else self._impedance_ohm,
                ack_seq=self.line.answers,
                boot_count=self._boot_count,
                fault=self.fault,
            )
        )
