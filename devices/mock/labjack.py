"""The mock LabJack: registers, strict watchdog, DAC0, an isolated current source, the skin and the meter on one 1 ms grid.

Nothing here reads a clock. The source turns DAC0's volts into microamps by its gain, with an offset, a lag and a limit of
voltage; AIN0 and AIN1 read its monitors. Leads are such that positive volts give positive microamps at the meter.
"""

from __future__ import annotations

import math
import random
from collections import deque
from typing import Any, Final

import msgspec

from devices import labjack_registers as reg
from devices.labjack_registers import RegisterError, Request, RequestDecoder
from devices.mock import electrodes
from devices.mock.electrodes import SOUND, ElectrodeParameters, ElectrodeState
from devices.mock.faults import FAULTS as ALL_FAULTS
from devices.mock.faults import ActiveFaults, Injection
from devices.mock.meter import Meter
from devices.units import NS_PER_MS

MAX_OUTPUT_BYTES: Final = 65_536
DAC_STEP_V: Final = 5.0 / 4096  # T7: 12 bit over 5 V
AIN_NOISE_V: Final = 0.0003
REPLY_MS: Final = (1, 3)
ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE = 1, 2, 3
_NAMES: Final = (
    "garbage", "truncated", "over_current", "gain_x2", "offset", "low_supply", "wrong_polarity", "open_circuit", "chatter",
    "motion", "reset", "stuck_output", "stuck_adc", "slow_replies", "lost_replies", "half_open", "impedance_rise", "short",
    "bridge",
)  # fmt: skip
FAULTS: Final = {name: ALL_FAULTS[name] for name in _NAMES}
"""What can be wrong with it; the emergency button is on no LabJack."""


class SourceParameters(msgspec.Struct, frozen=True, kw_only=True):
    """The current source behind DAC0; errors are drawn from the seed within the bounds given here."""

    gain_ma_per_v: float = 1.0
    gain_error: float = 0.01
    offset_ua: float = 1.0
    tau_s: float = 0.020
    compliance_v: float = 20.0
    current_monitor_v_per_ma: float = 1.0
    voltage_monitor_v_per_v: float = 0.1


class LabJackModel:
    """A T7 with a current source and a body behind it.

    Parameters
    ----------
    start_ns : int
        Time of power-up, ns; index 0 of the 1 ms grid.
    seed : int
        Draws gain, offset, latencies and noise.
    source : SourceParameters, optional
    body : ElectrodeParameters, optional
        Skin and contact.
    meter : Meter, optional
        Ammeter at the electrode.

    Attributes
    ----------
    meter : Meter
        What truly flowed.
    faults : ActiveFaults
        Faults in force.
    registers : dict of str to float
        By name; what the LabJack believes.
    current_ua, voltage_v : float
        Truth at the electrode at the newest grid point.
    trips : int
        How often the watchdog has cut.
    hung_up : bool
        Whether it restarts and the connection is to be ended; whoever does so clears this.
    """

    def __init__(
        self,
        start_ns: int = 0,
        seed: int = 0,
        source: SourceParameters | None = None,
        body: ElectrodeParameters | None = None,
        meter: Meter | None = None,
    ) -> None:
        draw = random.Random(f"source {seed}")
        self.meter = meter or Meter(start_ns)
        self.faults = ActiveFaults(FAULTS)
        self.current_ua = self.voltage_v = 0.0
        self.trips = 0
        self.hung_up = False
        self._source = source or SourceParameters()
        self._gain = self._source.gain_ma_per_v * (1.0 + self._source.gain_error * draw.uniform(-1.0, 1.0))
        self._offset_ua = self._source.offset_ua * draw.uniform(-1.0, 1.0)
        self._keep = math.exp(-1e-3 / self._source.tau_s)
        self._latency = random.Random(f"latency {seed}")
        self._line = random.Random(f"line {seed}")
        self._noise = random.Random(f"noise {seed}")
        self._serial = 100 + seed % 900
        self._body = body or ElectrodeParameters()
        self._start_ns = self._newest_ns = start_ns
        self._k = -1
        self._state = ElectrodeState()
        self._made_ua = 0.0
        self._stuck_v: float | None = None
        self._stuck_ain: tuple[float, float] | None = None
        self._off_until_k: int | None = None
        self._injections: list[tuple[int, Injection]] = []
        self._connection = 0
        self._inbox: deque[tuple[int, int, Request]] = deque()
        self._outbox: deque[tuple[int, bytes]] = deque()
        self._outbox_bytes = 0
        self._flash: dict[str, float] = {}
        self._power_up()

    def _power_up(self) -> None:
        self._decoder = RequestDecoder()
        self._inbox.clear()
        self.registers: dict[str, float] = {register.name: 0.0 for register in reg.ALL}
        self.registers |= {
            "TEST": reg.TEST_VALUE, "PRODUCT_ID": 7.0, "FIRMWARE_VERSION": 1.0400, "SERIAL_NUMBER": float(self._serial),
            "WATCHDOG_TIMEOUT_S_DEFAULT": 1.0, **self._flash,
        }  # fmt: skip
        self._fed_k = max(self._k, 0)

    # ---- what the host and the time base do

    @property
    def now_ns(self) -> int:
        """Newest time that `advance` or `receive` has brought, ns."""
        return self._newest_ns

    def receive(self, data: bytes, t_ns: int) -> None:
        """Take bytes from the host, all of which have arrived at `t_ns`; what is no Modbus hangs up."""
        self.advance(t_ns)
        if "half_open" in self.faults or self._off_until_k is not None:
            return
        try:
            requests = self._decoder.feed(data)
        except RegisterError:
            self._decoder = RequestDecoder()
            self.hung_up = True
            return
        for request in requests:
            due = self._k + self._latency.randint(*REPLY_MS)
            if self._inbox:
                due = max(due, self._inbox[-1][0])
            self._inbox.append((due, self._connection, request))

    def client_gone(self) -> None:
        """The connection has ended: what it had asked is still done, the answers are void, the outputs stay as they are."""
        self._connection += 1
        self._decoder = RequestDecoder()
        self._outbox.clear()
        self._outbox_bytes = 0

    def advance(self, t_ns: int) -> None:
        """Let time run up to `t_ns`. Raises ValueError if it is before `now_ns`."""
        if t_ns < self._newest_ns:
            raise ValueError(f"the model is at {self._newest_ns} ns already; {t_ns} ns is in its past")
        self._newest_ns = t_ns
        last = (t_ns - self._start_ns) // NS_PER_MS
        while self._k < last:
            self._step(self._k + 1)

    def take_output(self) -> bytes:
        """Bytes that have left the device up to now."""
        parts = []
        while self._outbox and self._outbox[0][0] <= self._k:
            parts.append(self._outbox.popleft()[1])
        data = b"".join(parts)
        self._outbox_bytes -= len(data)
        return data

    def inject(self, fault: Injection) -> int:
        """Put a fault in force at `fault.at_s` (from `start_ns`), or at the next grid point; returns when, ns."""
        first = (self._newest_ns - self._start_ns) // NS_PER_MS + 1
        k = first if fault.at_s is None else max(first, math.ceil(fault.at_s * 1000.0))
        self._injections.append((k, fault))
        self._injections.sort(key=lambda item: item[0])
        return self._start_ns + k * NS_PER_MS

    def clear(self, name: str) -> None:
        """End fault `name` now, if it is in force. Raises FaultError if there is none of that name."""
        self.faults.end(name)
        if name == "stuck_output":
            self._stuck_v = None
        elif name == "stuck_adc":
            self._stuck_ain = None

    def status(self) -> dict[str, Any]:
        """What it is and does now."""
        return {
            "state": "WATCHED" if self.registers["WATCHDOG_ENABLE_DEFAULT"] else "FREE",
            "fault": "",
            "dac0_v": self.registers["DAC0"],
            "current_ua": self.current_ua,
            "peak_ua": self.meter.peak_ua,
            "charge_uc": self.meter.charge_uc,
            "trips": self.trips,
            "faults": self.faults.names,
        }

    # ---- one grid point

    def _step(self, k: int) -> None:
        self._k = k
        while self._injections and self._injections[0][0] <= k:
            self._begin(self._injections.pop(0)[1])
        if self._off_until_k is not None and k >= self._off_until_k:
            self._off_until_k = None
            self._power_up()
        while self._inbox and self._inbox[0][0] <= k:
            _, connection, request = self._inbox.popleft()
            answer = self._obeyed(request)
            if connection == self._connection:
                self._send(answer)
        self._watch(k)
        demand_ua = self._demand_ua() if self._off_until_k is None else 0.0
        contact = self.faults.contact(k) if self.faults.touches_contact else SOUND
        reach_v = min(self._source.compliance_v, self.faults.value("low_supply", "volts", self._source.compliance_v))
        self._state, self.current_ua, self.voltage_v = electrodes.step(
            self._body, self._state, contact, demand_ua, reach_v, k * 1e-3, 1e-3
        )
        self.meter.record(k, self.current_ua)

    def _watch(self, k: int) -> None:
        """The watchdog: a clock of whole seconds, so that it bites between one timeout and one more second."""
        if not self.registers["WATCHDOG_ENABLE_DEFAULT"] or self._off_until_k is not None:
            return
        fed_s, now_s = self._fed_k // 1000, k // 1000
        if now_s - fed_s > self.registers["WATCHDOG_TIMEOUT_S_DEFAULT"] and self.registers["WATCHDOG_DAC0_ENABLE_DEFAULT"]:
            self.registers["DAC0"] = self.registers["WATCHDOG_DAC0_DEFAULT"]
            self._fed_k = k
            self.trips += 1

    def _demand_ua(self) -> float:
        volts = self.registers["DAC0"] if self._stuck_v is None else self._stuck_v
        volts = min(5.0, max(0.0, math.floor(volts / DAC_STEP_V + 0.5) * DAC_STEP_V))
        made = 1000.0 * self._gain * volts + self._offset_ua if volts > 0.0 else self._offset_ua
        faults = self.faults
        if faults.names:
            made *= faults.value("gain_x2", "gain", 1.0)
            made += faults.value("over_current", "extra_ua", 0.0) if volts > 0.0 else 0.0
            made += faults.value("offset", "offset_ua", 0.0)
            made = -made if "wrong_polarity" in faults else made
        self._made_ua = made + (self._made_ua - made) * self._keep
        return self._made_ua

    def _begin(self, fault: Injection) -> None:
        match fault.spec.name:
            case "reset":
                self._off_until_k = self._k + int(fault.values["boot_ms"])
                self.registers["DAC0"] = 0.0
                self._made_ua = 0.0
                self._inbox.clear()
                self.hung_up = True
                return
            case "stuck_output":
                self._stuck_v = self.registers["DAC0"]
            case "stuck_adc":
                self._stuck_ain = self._monitors()
        self.faults.begin(fault, self._k)

    # ---- registers

    def _obeyed(self, request: Request) -> bytes:
        """Do what is asked; the frame that answers it."""
        words: list[int] = []
        exception = 0
        if request.function == 3:
            for address in range(request.address, request.address + request.n, 2):
                register = reg.BY_ADDRESS.get(address)
                if register is None or request.n % 2:
                    exception = ILLEGAL_ADDRESS
                    break
                words += reg.words_of(register, self._read(register))
        elif request.function == 16:
            register = reg.BY_ADDRESS.get(request.address)
            if register is None or len(request.values) != 2:
                exception = ILLEGAL_ADDRESS
            else:
                exception = self._write(register, request.values)
        else:
            exception = ILLEGAL_FUNCTION
        return reg.reply_frame(request, tuple(words), exception)

    def _read(self, register: reg.Register) -> float:
        if register in (reg.AIN0, reg.AIN1):
            current_v, voltage_v = self._stuck_ain or self._monitors()
            return current_v if register == reg.AIN0 else voltage_v
        return self.registers[register.name]

    def _write(self, register: reg.Register, words: tuple[int, ...]) -> int:
        try:
            value = reg.value_of(register, words)
        except RegisterError:
            return ILLEGAL_VALUE
        if register == reg.WATCHDOG_CLEAR:
            if value != self.registers["WATCHDOG_STRICT_KEY_DEFAULT"]:
                return ILLEGAL_VALUE
            self._fed_k = self._k
        elif register == reg.DAC0:
            self.registers["DAC0"] = min(5.0, max(0.0, value))
        elif register.name.startswith("WATCHDOG"):
            if register != reg.WATCHDOG_ENABLE and self.registers["WATCHDOG_ENABLE_DEFAULT"]:
                return ILLEGAL_VALUE  # it must be disabled before any other of its settings is touched
            if register == reg.WATCHDOG_ENABLE and value:
                self._fed_k = self._k
            self.registers[register.name] = value
            self._flash[register.name] = value
        else:
            return ILLEGAL_ADDRESS
        return 0

    def _monitors(self) -> tuple[float, float]:
        noise = self._noise.gauss
        source = self._source
        current_v = self.current_ua / 1000.0 * source.current_monitor_v_per_ma + noise(0.0, AIN_NOISE_V)
        voltage_v = self.voltage_v * source.voltage_monitor_v_per_v + noise(0.0, AIN_NOISE_V)
        return max(-10.0, min(10.0, current_v)), max(-10.0, min(10.0, voltage_v))

    def _send(self, data: bytes) -> None:
        faults = self.faults
        if faults.names:
            if "half_open" in faults or self._line.random() < faults.value("lost_replies", "fraction", 0.0):
                return
            if self._line.random() < faults.value("garbage", "fraction", 0.0):
                data = self._line.randbytes(len(data))
            if self._line.random() < faults.value("truncated", "fraction", 0.0):
                data = data[: len(data) // 2]
        if self._outbox_bytes + len(data) > MAX_OUTPUT_BYTES:
            return
        due = self._k + int(faults.value("slow_replies", "delay_ms", 0.0))
        if self._outbox:
            due = max(due, self._outbox[-1][0])
        self._outbox.append((due, data))
        self._outbox_bytes += len(data)
