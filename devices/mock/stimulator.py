"""The mock stimulator: firmware, output stage, contact and meter on one 1 ms grid; bytes in, bytes out.

Nothing here reads a clock. The result depends on the seed and on the sequence of (time, bytes) alone, not on
how often `advance` is called. At rest the model jumps from event to event, so virtual minutes at zero current
cost little.
"""

from __future__ import annotations

import math
import random
from collections import deque
from typing import Any, Final

import msgspec

from devices.mock import electrodes
from devices.mock.electrodes import SOUND, ElectrodeParameters, ElectrodeState
from devices.mock.faults import ActiveFaults, Injection
from devices.mock.firmware import Firmware
from devices.mock.meter import Meter
from devices.mock.output import OutputParameters, OutputStage, Sensed
from devices.refframe import MAX_HOST_PAYLOAD, MAX_SEQ, Decoder, Frame
from devices.refproto import (
    MINOR,
    Ack,
    AckResult,
    Arm,
    DeviceMessage,
    FrameError,
    HostMessage,
    Identify,
    IdentityReply,
    Query,
    Report,
    SelfTest,
    SelfTestResult,
    encode,
    parse_host,
)
from devices.stimulator import Identity
from devices.units import NS_PER_MS

MAX_OUTPUT_BYTES: Final = 65_536
LIMITS_EVERY: Final = 10


class _Due(msgspec.Struct, frozen=True, gc=False):
    k: int
    arrived_k: int
    seq: int
    message: HostMessage | None


class StimulatorModel:
    """A device that speaks the reference serial protocol, with a body at its electrodes.

    Parameters
    ----------
    start_ns : int
        Time of power-up, ns; index 0 of the 1 ms grid.
    seed : int
        Draws gain and offset error, latencies and noise.
    body : ElectrodeParameters, optional
        Skin and contact.
    output : OutputParameters, optional
        Converters and output stage.
    meter : Meter, optional
        Ammeter at the electrode; one without a sink is made if none is given.

    Attributes
    ----------
    meter : Meter
        What truly flowed.
    faults : ActiveFaults
        Faults in force.
    firmware : Firmware
        What the device believes.
    current_ua, voltage_v : float
        Truth at the electrode at the newest grid point.
    boot_count : int
        Power-ups so far.
    """

    def __init__(
        self,
        start_ns: int = 0,
        seed: int = 0,
        body: ElectrodeParameters | None = None,
        output: OutputParameters | None = None,
        meter: Meter | None = None,
    ) -> None:
        self.meter = meter or Meter(start_ns)
        self.faults = ActiveFaults()
        self.current_ua = 0.0
        self.voltage_v = 0.0
        self.boot_count = 1
        self._body = body or ElectrodeParameters()
        self._parameters = output or OutputParameters()
        self._stage = OutputStage(self._parameters, self.faults, seed)
        self._latency = random.Random(f"latency {seed}")
        self._line = random.Random(f"line {seed}")
        self._identity = Identity(
            maker="cereloop",
            model="reference stimulator, emulated",
            serial_number=f"EMU-{seed}"[:32],
            firmware="reference serial 1",
            emulator=True,
        )
        self._start_ns = start_ns
        self._newest_ns = start_ns
        self._k = -1
        self._state = ElectrodeState()
        self._injections: list[tuple[int, Injection]] = []
        self._off_until_k: int | None = None
        self._outbox: deque[tuple[int, bytes]] = deque()
        self._outbox_bytes = 0
        self._power_up()

    def _power_up(self) -> None:
        self.firmware = Firmware()
        self._decoder = Decoder(MAX_HOST_PAYLOAD)
        self._inbox: deque[_Due] = deque()
        self._seq = 0
        self._revision = 0
        self._reports = 0
        self._report_k = self._k + 1
        self._resting = False

    # ---- what the host and the time base do

    @property
    def relay_closed(self) -> bool:
        """Whether the output relay lets current through."""
        return self._stage.relay_closed

    @property
    def dac_ua(self) -> float:
        """What the converter was told, uA."""
        return self._stage.dac_ua

    @property
    def now_ns(self) -> int:
        """Newest time that `advance` or `receive` has brought, ns."""
        return self._newest_ns

    def receive(self, data: bytes, t_ns: int) -> None:
        """Take bytes from the host, all of which have arrived at `t_ns`.

        Raises
        ------
        ValueError
            If `t_ns` is before `now_ns`.
        """
        self.advance(t_ns)
        if "half_open" in self.faults or self._off_until_k is not None:
            return
        arrived = -(-(t_ns - self._start_ns) // NS_PER_MS)
        for frame in self._decoder.feed(data):
            message = _understood(frame)
            if isinstance(message, Identify):
                # Answered at once, and what still waited is void: a host on a virtual clock can open without
                # time passing, and the numbering of an earlier host is gone.
                self._inbox.clear()
                self._take(_Due(self._k, arrived, frame.seq, message))
                self._resting = False
                continue
            if isinstance(message, SelfTest):
                # Likewise, behind what waits: real hardware takes up to 200 ms.
                while self._inbox:
                    self._take(self._inbox.popleft())
                self._take(_Due(self._k, arrived, frame.seq, message))
                self._resting = False
                continue
            due = arrived + self._latency.randint(*self._parameters.latency_ms)
            if self._inbox:
                due = max(due, self._inbox[-1].k)
            self._inbox.append(_Due(due, arrived, frame.seq, message))

    def advance(self, t_ns: int) -> None:
        """Let time run up to `t_ns`.

        Raises
        ------
        ValueError
            If `t_ns` is before `now_ns`.
        """
        if t_ns < self._newest_ns:
            raise ValueError(f"the model is at {self._newest_ns} ns already; {t_ns} ns is in its past")
        self._newest_ns = t_ns
        last = (t_ns - self._start_ns) // NS_PER_MS
        while True:
            k = self._next_event() if self._resting else self._k + 1
            if k > last:
                return
            self._step(k)

    def take_output(self) -> bytes:
        """Bytes that have left the device up to now."""
        now_k = (self._newest_ns - self._start_ns) // NS_PER_MS
        parts = []
        while self._outbox and self._outbox[0][0] <= now_k:
            parts.append(self._outbox.popleft()[1])
        data = b"".join(parts)
        self._outbox_bytes -= len(data)
        return data

    # ---- what a test does

    def inject(self, fault: Injection) -> int:
        """Put a fault in force at `fault.at_s` (from `start_ns`), or at the next grid point.

        Returns
        -------
        int
            The time at which it begins, ns.
        """
        first = (self._newest_ns - self._start_ns) // NS_PER_MS + 1
        k = first if fault.at_s is None else max(first, math.ceil(fault.at_s * 1000.0))
        self._injections.append((k, fault))
        self._injections.sort(key=lambda item: item[0])
        return self._start_ns + k * NS_PER_MS

    def clear(self, name: str) -> None:
        """End fault `name` now, if it is in force.

        Raises
        ------
        FaultError
            If there is no fault of that name.
        """
        self.faults.end(name)
        self._stage.thaw(name)

    def status(self) -> dict[str, Any]:
        """State, fault and truth at the electrode now, for the control channel."""
        return {
            "state": self.firmware.state.name,
            "fault": self.firmware.fault.name.lower(),
            "relay_closed": self.relay_closed,
            "current_ua": self.current_ua,
            "peak_ua": self.meter.peak_ua,
            "charge_uc": self.meter.charge_uc,
            "boot_count": self.boot_count,
            "faults": self.faults.names,
        }

    # ---- one grid point

    def _next_event(self) -> int:
        k = self._k + 1
        off = self._off_until_k
        nearest = min(self._stage.next_pulse(k), self._report_k) if off is None else off
        if self._inbox:
            nearest = min(nearest, self._inbox[0].k)
        if self._injections:
            nearest = min(nearest, self._injections[0][0])
        timeout = self.firmware.timeout_k
        if timeout is not None:
            nearest = min(nearest, timeout)
        return max(k, nearest)

    def _step(self, k: int) -> None:
        elapsed_s = (k - self._k) * 1e-3
        self._k = k
        while self._injections and self._injections[0][0] <= k:
            self._begin(self._injections.pop(0)[1])
        if self._off_until_k is not None and k >= self._off_until_k:
            self._off_until_k = None
            self.boot_count += 1
            self._power_up()
        while self._inbox and self._inbox[0].k <= k:
            self._take(self._inbox.popleft())
        firmware, stage = self.firmware, self._stage
        powered = self._off_until_k is None
        firmware.tick(k)
        demand = stage.demand_ua(k, firmware.set_ua, firmware.state) if powered else 0.0
        contact = self.faults.contact(k) if self.faults.touches_contact else SOUND
        self._state, self.current_ua, self.voltage_v = electrodes.step(
            self._body, self._state, contact, demand, self._reach_v(), k * 1e-3, elapsed_s
        )
        self.meter.record(k, self.current_ua)
        if not powered:
            self._resting = True
            return
        pulsing = stage.follow_pulse(k, firmware.state, self.voltage_v, self._state.polarisation_v)
        if k >= self._report_k or firmware.revision != self._revision:
            self._report(k)
        self._resting = not (stage.relay_closed or firmware.relay_wanted or pulsing)

    def _reach_v(self) -> float:
        """Greatest voltage of the output now, V."""
        whole = self._parameters.compliance_v
        return min(whole, self.faults.value("low_supply", "volts", whole)) if self.faults.names else whole

    def _begin(self, fault: Injection) -> None:
        match fault.spec.name:
            case "reset":
                self._off_until_k = self._k + int(fault.values["boot_ms"])
                self.firmware = Firmware()
                self._inbox.clear()
                self._stage.power_off()
                return
            case "emergency_button":
                self.firmware.press_button()
                return
            case "stuck_output":
                self._stage.freeze_dac()
            case "stuck_adc":
                self._stage.freeze_adc(self._sense())
        self.faults.begin(fault, self._k)

    # ---- the line

    def _sense(self) -> Sensed:
        return self._stage.sense(
            self.firmware.state, self.current_ua, self.voltage_v, self._state.polarisation_v
        )

    def _report(self, k: int) -> None:
        firmware = self.firmware
        measured, millivolt, ohm = self._sense()
        firmware.measured_ua = measured
        self._revision = firmware.revision
        every = self._parameters.report_ms
        self._report_k = k - k % every + every
        report = Report(
            firmware.state,
            int(firmware.set_ua),
            measured,
            round(millivolt),
            ohm,
            firmware.ack_seq,
            self.boot_count,
            firmware.fault,
        )
        self._send(report)
        self._reports += 1
        latched = firmware.limits
        if latched is not None and self._reports % LIMITS_EVERY == 0:
            self._send(latched)

    def _take(self, due: _Due) -> None:
        if isinstance(due.message, SelfTest):
            self.firmware.defects = self._stage.defects()
        answer = self.firmware.handle(due.seq, due.message, due.arrived_k)
        if answer is None:
            return
        self._send(answer)
        latched = self.firmware.limits
        match due.message:
            case Identify():
                self._send(IdentityReply(due.seq, MINOR, self._identity))
            case SelfTest() if answer.result is AckResult.OK:
                self._send(SelfTestResult(due.seq, self.firmware.defects))
            case Arm() | Query() if latched is not None:
                self._send(latched)

    def _send(self, message: DeviceMessage) -> None:
        faults = self.faults
        self._seq += 1
        if faults.names:
            if "half_open" in faults or self._line.random() < faults.value("lost_replies", "fraction", 0.0):
                return
            if "wrong_ack" in faults:
                message = _ahead(message, int(faults.value("wrong_ack", "ahead", 0.0)))
        data = encode(self._seq, message)
        if "garbage" in faults and self._line.random() < faults.value("garbage", "fraction", 1.0):
            data = self._line.randbytes(len(data))
        if "truncated" in faults and self._line.random() < faults.value("truncated", "fraction", 1.0):
            data = data[: len(data) // 2]
        if "bit_flip" in faults and self._line.random() < faults.value("bit_flip", "fraction", 1.0):
            at = self._line.randrange(8 * len(data))
            data = bytes(byte ^ (1 << at % 8 if i == at // 8 else 0) for i, byte in enumerate(data))
        if self._outbox_bytes + len(data) > MAX_OUTPUT_BYTES:
            return  # nobody reads: what is new is lost, as on a line without flow control
        due = self._k + int(faults.value("slow_replies", "delay_ms", 0.0))
        if self._outbox:
            due = max(due, self._outbox[-1][0])
        self._outbox.append((due, data))
        self._outbox_bytes += len(data)


def _understood(frame: Frame) -> HostMessage | None:
    try:
        return parse_host(frame)
    except FrameError:
        return None


def _ahead(message: DeviceMessage, frames: int) -> DeviceMessage:
    """Acknowledge a frame that nobody sent."""
    match message:
        case Ack(ack_seq=seq, result=result):
            return Ack(min(seq + frames, MAX_SEQ), result)
        case _:
            return msgspec.structs.replace(message, ack_seq=min(message.ack_seq + frames, MAX_SEQ))
