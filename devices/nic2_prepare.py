"""Brings NIC to where a gate can begin: impedance, the protocol of zero current, and its start; one step after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from devices.nic2_codec import request
from devices.nic2_table import Op, OpcodeTable, Status
from devices.units import NS_PER_MS

STEP_BUDGET_MS: Final = 10_000
IMPEDANCE_BUDGET_MS: Final = 60_000
# The vendor's client pauses so long between the opcode and its parameter.
IMPEDANCE_PAUSE_MS: Final = 1000

RESTING: Final = frozenset({
    Status.REMOTE_CONTROL_ALLOWED, Status.IDLE, Status.PROTOCOL_NOT_LOADED, Status.PROTOCOL_LOADED, Status.PROTOCOL_ERROR,
    Status.PROTOCOL_FINISHED, Status.PROTOCOL_ABORTED, Status.CHECK_IMPEDANCE_FINISHED, Status.CHECK_IMPEDANCE_ABORTED,
})  # fmt: skip
"""Statuses of NIC in which no protocol runs, whatever the stimulation is said to be: (STIMULATION_FULL, one of these) is the
trap that an impedance check leaves behind."""


class Step(msgspec.Struct, frozen=True):
    """One request and the status that ends it; without `until` its reply does. `pause_ms` lies before the parameter."""

    op: Op
    text: str = ""
    until: frozenset[Status] = frozenset()
    full: bool = False
    budget_ms: int = STEP_BUDGET_MS
    pause_ms: int = 0


_UNLOAD: Final = Step(Op.UNLOAD_PROTOCOL, until=frozenset({Status.PROTOCOL_NOT_LOADED}))
_ABORT: Final = Step(Op.ABORT_PROTOCOL, until=RESTING)


def _load(name: str) -> Step:
    return Step(Op.LOAD_PROTOCOL, name, until=frozenset({Status.PROTOCOL_LOADED}))


START: Final = Step(Op.START_PROTOCOL, until=frozenset({Status.PROTOCOL_RUNNING}), full=True)


def steps(main: Status | None, protocol: str, impedance_protocol: str | None, *, start: bool) -> list[Step]:
    """All that must be done from status `main` on.

    Parameters
    ----------
    main : Status or None
        NIC's status now.
    protocol : str
        The protocol of zero current that a session needs.
    impedance_protocol : str or None
        The one that gives current to all electrodes in use, for a check; None skips the check.
    start : bool
        Whether the protocol is to run already.
    """
    out = []
    if main not in RESTING:
        out.append(_ABORT)
    out.append(_UNLOAD)
    if impedance_protocol is not None:
        check = frozenset({Status.CHECK_IMPEDANCE_FINISHED})
        out += [
            _load(impedance_protocol),
            Step(Op.CHECK_IMPEDANCE, "DC", check, budget_ms=IMPEDANCE_BUDGET_MS, pause_ms=IMPEDANCE_PAUSE_MS),
            Step(Op.GET_IMPEDANCE),
            _UNLOAD,
        ]
    out.append(_load(protocol))
    if start:
        out.append(START)
    return out


class Preparation:
    """Walks through steps; told the time and every pair of statuses.

    Parameters
    ----------
    table : OpcodeTable
        Version spoken.
    todo : list of Step
        What to do.
    send : callable
        Takes bytes that are not answered.
    ask : callable
        Takes an opcode that is.

    Attributes
    ----------
    problem : str
        Why it cannot go on; empty while it can.
    """

    def __init__(
        self, table: OpcodeTable, todo: list[Step], send: Callable[[bytes], None], ask: Callable[[Op], None]
    ) -> None:
        self.problem = ""
        self._table = table
        self._todo = deque(todo)
        self._send = send
        self._ask = ask
        self._begun_ns: int | None = None
        self._rest = b""
        self._rest_ns = 0

    @property
    def done(self) -> bool:
        """Whether all steps are behind."""
        return not self._todo

    @property
    def in_request(self) -> bool:
        """Whether NIC waits for a parameter: whatever is sent now would be taken for it."""
        return bool(self._rest)

    def cancel(self) -> None:
        """Leave it; NIC is not left waiting for a parameter."""
        if self._rest:
            self._rest = b""
            self._send(b"\x00")

    def tick(self, now_ns: int) -> None:
        """Send what is due, and notice what takes too long."""
        if not self._todo or self.problem:
            return
        step = self._todo[0]
        if self._begun_ns is None:
            self._begin(step, now_ns)
            return
        if self._rest and now_ns >= self._rest_ns:
            self._send(self._rest)
            self._rest = b""
        if now_ns - self._begun_ns > step.budget_ms * NS_PER_MS:
            what = f"{step.op.name} {step.text}".strip()
            self.problem = f"NIC did not finish {what} within {step.budget_ms / 1000:g} s; look at NIC's window"

    def statuses(self, main: Status, phase: Status) -> None:
        """Both statuses, asked for after the step's request went out."""
        if not self._todo or self._begun_ns is None or self.problem or self._rest:
            return
        step = self._todo[0]
        if main in step.until and (not step.full or phase in (Status.STIMULATION_FULL, Status.EEG_ON)):
            self._next()
        elif main is Status.PROTOCOL_ERROR and step.op in (Op.LOAD_PROTOCOL, Op.START_PROTOCOL):
            self.problem = f"NIC reports an error on {step.op.name} {step.text}: is there a protocol of this name in NIC?"

    def replied(self, op: Op) -> None:
        """The step's own reply has come."""
        if self._todo and self._todo[0].op is op and not self._todo[0].until:
            self._next()

    def _begin(self, step: Step, now_ns: int) -> None:
        self._begun_ns = now_ns
        if not step.until:
            self._ask(step.op)
            return
        data = request(self._table, step.op, step.text)
        if step.pause_ms:
            self._rest, self._rest_ns = data[1:], now_ns + step.pause_ms * NS_PER_MS
            data = data[:1]
        self._send(data)

    def _next(self) -> None:
        self._todo.popleft()
        self._begun_ns = None
