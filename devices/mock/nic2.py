"""The mock Starstim: NIC2's program, the output stage, the skin and the meter on one 1 ms grid; bytes in, bytes out.

Nothing here reads a clock. The radio link between computer and device delays what changes the current; the meter sits at the
target electrode. Tags as in the mock stimulator: [V] read in the source named, [M] to be measured.
"""

from __future__ import annotations

import math
import random
from collections import deque
from typing import Any, Final

import msgspec

from devices.mock import electrodes
from devices.mock.electrodes import SOUND, ElectrodeParameters, ElectrodeState
from devices.mock.faults import NIC2_FAULTS, ActiveFaults, Injection
from devices.mock.meter import Meter
from devices.mock.nic2_program import NicProgram, NicProtocol
from devices.mock.output import OutputParameters, OutputStage
from devices.nic2_codec import Request, RequestDecoder
from devices.nic2_table import V04_07, Op, OpcodeTable
from devices.stimulator import DeviceState
from devices.units import NS_PER_MS

MAX_OUTPUT_BYTES: Final = 65_536

# Starstim: 15 V at each electrode [M]; whole microamps [V]; radio and device 50-200 ms [M].
STARSTIM: Final = OutputParameters(
    dac_lsb_ua=1.0, gain_error=0.01, offset_ua=0.4, compliance_v=30.0, latency_ms=(50, 200)
)
REPLY_MS: Final = (5, 25)
_AT_ONCE: Final = frozenset({
    Op.VERSION, Op.QUERY_STATUS, Op.QUERY_STATUS_PROTOCOL, Op.READ_CHANNELS, Op.READ_MATNIC_VERSION, Op.GET_IMPEDANCE,
    Op.READ_DEVICE_SETTINGS,
})  # fmt: skip


class NicSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator has set up in NIC.

    `target` is the channel (from 1) under which the meter sits. The protocols: one of 0 uA that lasts all day, one of 0 uA that
    lasts one gate (`gate_s`), one with current on all channels for the impedance check.
    """

    channels: int = 8
    target: int = 1
    gate_s: float = 60.0
    zero_protocol: str = "cereloop-zero"
    gate_protocol: str = "cereloop-gate"
    impedance_protocol: str = "cereloop-impedance"


class Nic2Model:
    """NIC2 with a Starstim and a body at its electrodes.

    Parameters
    ----------
    start_ns : int
        Time of index 0 of the 1 ms grid, ns.
    seed : int
        Draws gain and offset error, latencies and noise.
    settings : NicSettings, optional
        What has been set up in NIC.
    body : ElectrodeParameters, optional
        Skin and contact of the pair.
    meter : Meter, optional
        Ammeter at the target electrode.
    table : OpcodeTable
        Version spoken.

    Attributes
    ----------
    meter : Meter
        What truly flowed.
    faults : ActiveFaults
        Faults in force.
    program : NicProgram
        What NIC believes.
    current_ua : float
        Truth at the electrode at the newest grid point.
    imbalance_ua : float
        Greatest sum of all channels so far, either sign: what left by the reference electrodes.
    hung_up : bool
        Whether NIC wants to end the connection; the transport closes it and clears this.
    """

    def __init__(
        self,
        start_ns: int = 0,
        seed: int = 0,
        settings: NicSettings | None = None,
        body: ElectrodeParameters | None = None,
        meter: Meter | None = None,
        table: OpcodeTable = V04_07,
    ) -> None:
        chosen = settings or NicSettings()
        self.meter = meter or Meter(start_ns)
        self.faults = ActiveFaults(NIC2_FAULTS)
        self.current_ua = 0.0
        self.imbalance_ua = 0.0
        self.hung_up = False
        self._settings = chosen
        self._table = table
        self._body = body or ElectrodeParameters()
        self._stage = OutputStage(STARSTIM, self.faults, seed)
        self._latency = random.Random(f"latency {seed}")
        self._line = random.Random(f"line {seed}")
        self._start_ns = start_ns
        self._newest_ns = start_ns
        self._k = -1
        self._state = ElectrodeState()
        self._injections: list[tuple[int, Injection]] = []
        self._decoder = RequestDecoder(table)
        self._inbox: deque[tuple[int, Request | None]] = deque()
        self._orders: deque[tuple[int, Request]] = deque()
        self._outbox: deque[tuple[int, bytes]] = deque()
        self._outbox_bytes = 0
        self._still = 0
        self._leaving = 0
        day = NicProtocol(duration_ms=86_400_000)
        self.program = NicProgram(
            table,
            chosen.channels,
            {
                chosen.zero_protocol: day,
                chosen.gate_protocol: NicProtocol(duration_ms=round(chosen.gate_s * 1000.0)),
                chosen.impedance_protocol: NicProtocol(duration_ms=day.duration_ms, has_current=True),
            },
            self.faults,
            self._ohms,
        )

    @property
    def now_ns(self) -> int:
        """Newest time that `advance` or `receive` has brought, ns."""
        return self._newest_ns

    # ---- what the host and the time base do

    def client_gone(self) -> None:
        """The client's connection has ended; what it had said before is still carried out."""
        self._decoder = RequestDecoder(self._table)
        self._outbox.clear()
        self._outbox_bytes = 0
        self._leaving += 1
        self._inbox.append((self._inbox[-1][0] if self._inbox else self._k + 1, None))

    def receive(self, data: bytes, t_ns: int) -> None:
        """Take bytes from the client, all of which have arrived at `t_ns`. Raises ValueError if that is in the past."""
        self.advance(t_ns)
        if "half_open" in self.faults:
            return
        arrived = -(-(t_ns - self._start_ns) // NS_PER_MS)
        for request in self._decoder.feed(data):
            due = arrived + self._latency.randint(*REPLY_MS)
            if self._inbox:
                due = max(due, self._inbox[-1][0])
            self._inbox.append((due, request))

    def advance(self, t_ns: int) -> None:
        """Let time run up to `t_ns`. Raises ValueError if that is in the past."""
        if t_ns < self._newest_ns:
            raise ValueError(f"the model is at {self._newest_ns} ns already; {t_ns} ns is in its past")
        self._newest_ns = t_ns
        last = (t_ns - self._start_ns) // NS_PER_MS
        while (k := self._next_event()) <= last:
            self._step(k)

    def take_output(self) -> bytes:
        """Bytes that have left NIC up to now."""
        now_k = (self._newest_ns - self._start_ns) // NS_PER_MS
        parts = []
        while self._outbox and self._outbox[0][0] <= now_k:
            parts.append(self._outbox.popleft()[1])
        data = b"".join(parts)
        self._outbox_bytes -= len(data)
        return data

    # ---- what a test does

    def inject(self, fault: Injection) -> int:
        """Put a fault in force at `fault.at_s` (from the start), or at the next grid point; returns when, ns."""
        first = (self._newest_ns - self._start_ns) // NS_PER_MS + 1
        k = first if fault.at_s is None else max(first, math.ceil(fault.at_s * 1000.0))
        self._injections.append((k, fault))
        self._injections.sort(key=lambda item: item[0])
        return self._start_ns + k * NS_PER_MS

    def clear(self, name: str) -> None:
        """End fault `name` now, if it is in force. Raises FaultError if there is none of that name."""
        self.faults.end(name)
        self._stage.thaw(name)

    def status(self) -> dict[str, Any]:
        """What NIC says, what flows, and what left by the reference electrodes, for the control channel."""
        program = self.program
        return {
            "state": program.main.name,
            "phase": program.phase.name,
            "relay_closed": self._stage.relay_closed,
            "current_ua": self.current_ua,
            "peak_ua": self.meter.peak_ua,
            "charge_uc": self.meter.charge_uc,
            "imbalance_ua": self.imbalance_ua,
            "refused": program.refused,
            "faults": self.faults.names,
        }

    # ---- one grid point

    def _next_event(self) -> int:
        k = self._k + 1
        if self._stage.relay_closed or self._still < STARSTIM.relay_ms + 1:
            return k
        own = self.program.nothing_until(k)
        waiting = [own] if own is not None else []
        waiting += [queue[0][0] for queue in (self._inbox, self._orders, self._injections) if queue]
        # The meter shows every 100 ms that it lives.
        return max(k, min([*waiting, k - k % 100 + 100]))

    def _step(self, k: int) -> None:
        elapsed_s = (k - self._k) * 1e-3
        self._k = k
        while self._injections and self._injections[0][0] <= k:
            self._begin(self._injections.pop(0)[1])
        while self._inbox and self._inbox[0][0] <= k:
            self._take(self._inbox.popleft()[1])
        while self._orders and self._orders[0][0] <= k:
            self.program.obey(self._orders.popleft()[1], k)
        program = self.program
        program.tick(k)
        runs = program.runs
        self._still = 0 if runs else self._still + 1
        wanted = program.currents_ua[self._settings.target - 1]
        if runs:
            self.imbalance_ua = max(self.imbalance_ua, abs(sum(program.currents_ua)))
        demand = self._stage.demand_ua(k, wanted, DeviceState.ACTIVE if runs else DeviceState.FAULT)
        contact = self.faults.contact(k) if self.faults.touches_contact else SOUND
        self._state, self.current_ua, _ = electrodes.step(
            self._body, self._state, contact, demand, STARSTIM.compliance_v, k * 1e-3, elapsed_s
        )
        self.meter.record(k, self.current_ua)

    def _begin(self, fault: Injection) -> None:
        match fault.spec.name:
            case "hang_up":
                self.hung_up = True
                return
            case "nic_abort":
                self.program.press_abort(self._k)
                return
            case "protocol_error":
                self.program.fail(self._k)
                return
            case "stuck_output":
                self._stage.freeze_dac()
        self.faults.begin(fault, self._k)

    def _ohms(self) -> tuple[float, ...]:
        """Half of the pair's impedance, at every channel."""
        contact = self.faults.contact(self._k)
        if contact.direct_ohm is not None:
            pair = contact.direct_ohm + contact.lead_ohm
        else:
            skin = electrodes.skin_ohm(self._body, self._state.charge_uc, self._k * 1e-3) * contact.skin_scale
            pair = self._body.bulk_ohm + contact.lead_ohm + skin
        return (pair / 2.0,) * self._settings.channels

    # ---- the line

    def _take(self, request: Request | None) -> None:
        if request is None:
            self._leaving -= 1
            self.program.client_gone()
            return
        if request.op in _AT_ONCE or request.op is None:
            self._send(self.program.handle(request, self._k))
            return
        if not self.program.admits(request):
            return
        due = self._k + self._latency.randint(*STARSTIM.latency_ms)
        if self._orders:
            due = max(due, self._orders[-1][0])
        self._orders.append((due, request))

    def _send(self, data: bytes) -> None:
        if not data or self._leaving:
            return
        faults = self.faults
        if faults.names:
            if "half_open" in faults or self._line.random() < faults.value("lost_replies", "fraction", 0.0):
                return
            if "garbage" in faults and self._line.random() < faults.value("garbage", "fraction", 1.0):
                data = self._line.randbytes(len(data))
        if self._outbox_bytes + len(data) > MAX_OUTPUT_BYTES:
            return
        due = self._k + int(faults.value("slow_replies", "delay_ms", 0.0))
        if self._outbox:
            due = max(due, self._outbox[-1][0])
        self._outbox.append((due, data))
        self._outbox_bytes += len(data)
