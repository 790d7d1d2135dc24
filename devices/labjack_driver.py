"""The conversation of driver ``labjack``: levels to volts, feeding the watchdog, read-back and impedance."""

from __future__ import annotations

import datetime as dt
import secrets
from collections import deque
from collections.abc import Collection
from typing import Final

from devices import labjack_calibration
from devices import labjack_registers as reg
from devices.labjack import DAC_MAX_V, LabJackOptions, capabilities
from devices.labjack_calibration import OutputCalibration, OutputCalibrationError
from devices.labjack_line import Line, open_line
from devices.outstanding import Outstanding
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
from devices.wires import Wire

MAX_DEVICE_SLEW_UA_S: Final = 200
REPLY_BUDGET_NS: Final = 150 * NS_PER_MS
READ_EVERY_NS: Final = 20 * NS_PER_MS
FEED_EVERY_NS: Final = 100 * NS_PER_MS
WATCHDOG_S: Final = 1
# At rest the impedance is measured by pulses below the 10 uA that count as zero.
TEST_UA: Final = 8.0
TEST_EVERY_NS: Final = 500 * NS_PER_MS
TEST_LENGTH_NS: Final = 100 * NS_PER_MS
TEST_SETTLE_NS: Final = 40 * NS_PER_MS
LEAST_UA_FOR_OHM: Final = 50.0
MOST_OHM: Final = 1_000_000.0


class LabJackStimulator:
    """Driver of a current source behind a LabJack; implements `devices.stimulator.Stimulator`.

    Parameters
    ----------
    wire : Wire
        `TcpWire` to the LabJack.
    options : LabJackOptions
        Source and leads.
    today : datetime.date, optional
        For the calibration's expiry; the system's date when opened unless given.
    """

    def __init__(self, wire: Wire, options: LabJackOptions, today: dt.date | None = None) -> None:
        self._wire = wire
        self._options = options
        self._today = today
        self._capabilities = capabilities("", options)
        self._sign = 1 if options.leads == "anodal" else -1
        self._identity: Identity | None = None
        self._key = secrets.randbits(31) | 1
        self._begin_session()

    def _begin_session(self) -> None:
        self._line = Line(self._wire)
        self._output: OutputCalibration | None = None
        self._owed = Outstanding(REPLY_BUDGET_NS)
        self._now_ns = 0
        self._state = DeviceState.IDLE
        self._arming = False
        self._armed: tuple[int, int] | None = None
        self._fault = ""
        self._level_ua = 0
        self._read_ns: int | None = None
        self._fed_ns: int | None = None
        self._dac_v = self._read_dac_v = 0.0
        self._test_ns: int | None = None
        self._testing = False
        self._tested: list[tuple[float, float]] = []
        self._resting: deque[tuple[float, float]] = deque(maxlen=5)
        self._ohm: float | None = None
        self._readbacks: list[Readback] = []

    # ---- what it is

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        return self._capabilities

    @property
    def assumed_ua(self) -> int:
        """Largest magnitude that may flow: as read back last, or any told since and not answered."""
        return self._owed.assumed_ua

    def fileno(self) -> int:
        """Descriptor that turns readable when the LabJack has answered; -1 while closed."""
        return self._wire.fileno()

    def open(self) -> Identity:
        """Connect, 0 V first of all, identify, check the calibration, set up the watchdog (disabled until armed).

        Raises
        ------
        DeviceNotFoundError
            If nothing answers there, or it is no T-series LabJack.
        DeviceRefusedError
            If the calibration does not belong to it or has expired; the text says which.
        DeviceLostError
            If the connection breaks meanwhile.
        """
        if self._identity is not None:
            return self._identity
        self._begin_session()
        try:
            identity = open_line(self._line)
            today = self._today or dt.datetime.now(tz=dt.UTC).date()
            output = labjack_calibration.load(self._options.calibration)
            labjack_calibration.check(output, identity.serial_number, self._options.gain_ma_per_v, today)
            self._line.set_up_watchdog(self._key, WATCHDOG_S)
        except OutputCalibrationError as error:
            self._wire.close()
            raise DeviceRefusedError(f"{self._wire.name}: {error}") from error
        except DeviceError:
            self._wire.close()
            raise
        self._output = output
        self._owed = Outstanding(REPLY_BUDGET_NS, self._line.last)
        self._identity = identity
        return identity

    # ---- verbs

    def arm(self, max_level_ua: int, max_slew_ua_s: int) -> None:
        """Latch limits here, and start the watchdog; a report in state ARMED says that it runs. Raises DeviceError."""
        self._require_open()
        if not 1 <= max_level_ua <= self._capabilities.max_level_ua:
            raise DeviceRefusedError(
                f"{self._wire.name}: a greatest level of {max_level_ua} uA is outside 1 .. {self._capabilities.max_level_ua} uA"
            )
        if not 1 <= max_slew_ua_s <= MAX_DEVICE_SLEW_UA_S:
            raise DeviceRefusedError(
                f"{self._wire.name}: a slew of {max_slew_ua_s} uA/s is outside 1 .. {MAX_DEVICE_SLEW_UA_S} uA/s"
            )
        self._require_certain("arm")
        if self._fault:
            raise DeviceRefusedError(f"{self._wire.name}: {self._fault}; reset it first")
        if self._state is not DeviceState.IDLE:
            raise DeviceRefusedError(f"{self._wire.name}: it is armed already; disarm it first")
        self._write_dac(0.0)
        self._feed()
        self._write(reg.WATCHDOG_ENABLE, 1)
        self._ask(reg.WATCHDOG_ENABLE, 1)
        self._armed, self._arming = (max_level_ua, max_slew_ua_s), True

    def disarm(self) -> None:
        """Zero at once, and no current until armed again; the watchdog is let go. Raises DeviceLostError."""
        self._require_open()
        self._zero()
        self._write(reg.WATCHDOG_ENABLE, 0)

    def set_level(self, level_ua: int, lease_ms: int) -> None:
        """Send one set point and feed the watchdog. The lease is the watchdog's: `lease_ms` is not finer than that.

        Raises
        ------
        DeviceRefusedError
            If it is not armed, or the level is above the latched limit or of the sign that the leads cannot give.
        DeviceUncertainError
            If a reply is overdue; but a level nearer to zero than all that may flow is still sent.
        DeviceLostError
            If the connection is closed or broken.
        """
        self._require_open()
        if level_ua and self._armed is None:
            raise DeviceRefusedError(f"{self._wire.name}: it is not armed")
        if level_ua * self._sign < 0:
            raise DeviceRefusedError(
                f"{self._wire.name}: {level_ua} uA: the leads give {self._options.leads} current only, and no program turns it "
                "round; change the leads and `device.options.leads`"
            )
        if self._armed is not None and abs(level_ua) > self._armed[0]:
            raise DeviceRefusedError(f"{self._wire.name}: {level_ua} uA; armed for at most {self._armed[0]} uA")
        if lease_ms < 1:
            raise DeviceRefusedError(f"{self._wire.name}: a lease of {lease_ms} ms")
        if level_ua and abs(level_ua) >= self.assumed_ua:
            self._require_certain("set a level")
        self._testing = False
        self._set(abs(level_ua))
        self._feed_in_time()

    def heartbeat(self) -> None:
        """Feed the watchdog. Raises DeviceLostError."""
        self._require_open()
        self._feed_in_time()

    def stop(self, stop_class: StopClass) -> None:
        """Zero at once, whatever the class: there is no ramp in the device, the guard sends its own. Raises DeviceLostError."""
        self._require_open()
        self._zero()
        if stop_class == StopClass.S0_CUT:
            self._write(reg.WATCHDOG_ENABLE, 0)

    def reset_fault(self) -> None:
        """Forget that the watchdog had cut; only at zero current and by an operator's act. Raises DeviceError."""
        self._require_open()
        if self.assumed_ua:
            raise DeviceRefusedError(f"{self._wire.name}: current may still flow")
        self._fault = ""
        self._zero()
        self._write(reg.WATCHDOG_ENABLE, 0)

    def poll(self, t_ns: int) -> list[Readback]:
        """All reports since the last call, oldest first, stamped `t_ns`; also asks for the next.

        Raises
        ------
        DeviceLostError
            If the connection is closed or broken.
        DeviceProtocolError
            If what came is no answer to what was asked.
        DeviceUncertainError
            Once, when an answer has become overdue.
        """
        self._require_open()
        self._now_ns = t_ns
        for asked, words in self._line.take():
            self._owed.answered(asked.number)
            self._hear(asked.register, asked.is_read, words)
        if self._owed.overdue(t_ns):
            raise DeviceUncertainError(
                f"{self._wire.name} has not answered for {self._owed.budget_ms} ms: up to {self.assumed_ua} uA may flow; check "
                "network and device"
            )
        self._test_at_rest()
        if self._read_ns is None or t_ns - self._read_ns >= READ_EVERY_NS:
            self._read_ns = t_ns
            self._ask(reg.DAC0, 1)
            self._ask(reg.AIN0, 2)
        readbacks, self._readbacks = self._readbacks, []
        return readbacks

    def close(self) -> None:
        """0 V, watchdog off, let go of the connection. Idempotent, never raises."""
        if self._identity is not None:
            self._identity = None
            try:
                self._line.write(reg.DAC0, 0.0)
                self._line.write(reg.WATCHDOG_ENABLE, 0)
            except DeviceError:
                pass  # the connection is gone: the watchdog ends the current
        self._wire.close()

    # ---- sending

    def _require_open(self) -> None:
        if self._identity is None:
            raise DeviceLostError(f"{self._wire.name} is not open")

    def _require_certain(self, verb: str) -> None:
        if self._owed.uncertain:
            raise DeviceUncertainError(
                f"{self._wire.name}: cannot {verb}: an answer is overdue and up to {self.assumed_ua} uA may flow; only stops "
                "are sent until it answers"
            )

    def _write(self, register: reg.Register, value: float, level_ua: int | None = None) -> None:
        self._owed.sent(self._line.write(register, value), level_ua)

    def _ask(self, register: reg.Register, n: int) -> None:
        self._owed.sent(self._line.read(register, n))

    def _write_dac(self, volts: float, level_ua: int = 0) -> None:
        self._dac_v = volts
        self._write(reg.DAC0, volts, level_ua)

    def _set(self, level_ua: int) -> None:
        assert self._output is not None
        self._level_ua = level_ua
        self._write_dac(min(self._output.dac_v(level_ua), DAC_MAX_V), level_ua)
        if self._state in (DeviceState.ARMED, DeviceState.ACTIVE):
            self._state = DeviceState.ACTIVE if level_ua else DeviceState.ARMED

    def _zero(self) -> None:
        self._armed, self._arming, self._testing = None, False, False
        self._level_ua = 0
        self._write_dac(0.0)
        self._state = DeviceState.FAULT if self._fault else DeviceState.IDLE

    def _feed(self) -> None:
        self._fed_ns = self._now_ns
        self._write(reg.WATCHDOG_CLEAR, self._key)

    def _feed_in_time(self) -> None:
        if self._fed_ns is None or self._now_ns - self._fed_ns >= FEED_EVERY_NS:
            self._feed()

    # ---- hearing

    def _hear(self, register: reg.Register, is_read: bool, words: tuple[int, ...]) -> None:
        if not is_read:
            return
        try:
            first = reg.value_of(register, words[:2])
            second = reg.value_of(reg.AIN1, words[2:]) if register == reg.AIN0 else 0.0
        except reg.RegisterError as error:
            raise DeviceProtocolError(f"{self._wire.name}: {error}") from error
        if register == reg.WATCHDOG_ENABLE:
            if self._arming and first == 1:
                self._arming = False
                self._state = DeviceState.ARMED
        elif register == reg.DAC0:
            self._judge_dac(first)
        elif register == reg.AIN0:
            self._report(first, second)

    def _judge_dac(self, volts: float) -> None:
        """What DAC0 stands at: the level that is in force, or the watchdog's 0 V where something else was told long ago."""
        assert self._output is not None
        is_ours = abs(volts - self._dac_v) <= 2.0 * DAC_MAX_V / 1024.0
        if volts <= 0.0 < self._level_ua and not self._line.waits_for(reg.DAC0) and not is_ours:
            self._fault = "the watchdog has cut the current: nobody had fed it in time"
            self._zero()
        self._read_dac_v = volts
        level = 0 if self._testing else round(self._output.level_ua(volts))
        self._owed.confirmed(self._line.heard, level, holds=is_ours and self._level_ua > 0)

    def _report(self, current_v: float, voltage_v: float) -> None:
        assert self._output is not None
        measured_ua = self._output.measured_ua(current_v)
        across_v = voltage_v / self._options.voltage_monitor_v_per_v
        at_test = self._testing and self._test_ns is not None and self._now_ns - self._test_ns >= TEST_SETTLE_NS
        if at_test:
            self._tested.append((measured_ua, across_v))
        elif not self._testing:
            self._resting.append((measured_ua, across_v))
        if self._level_ua and abs(measured_ua) >= LEAST_UA_FOR_OHM:
            self._ohm = min(MOST_OHM, abs(across_v / measured_ua) * 1e6)
        elif self._level_ua >= 2.0 * LEAST_UA_FOR_OHM and abs(measured_ua) < LEAST_UA_FOR_OHM / 2.0:
            self._ohm = MOST_OHM
        state = DeviceState.UNCERTAIN if self._owed.uncertain else self._state
        told = 0 if self._testing else round(self._output.level_ua(self._read_dac_v))
        self._readbacks.append(
            Readback(
                t_ns=self._now_ns,
                state=state,
                commanded_ua=self._sign * (self._level_ua if abs(told - self._level_ua) <= 2 else told),
                measured_ua=self._sign * measured_ua,
                voltage_mv=self._sign * across_v * 1e3,
                impedance_ohm=self._ohm,
                ack_seq=self._line.heard,
                boot_count=1,
                fault=self._fault,
            )
        )

    def _test_at_rest(self) -> None:
        """Measure the impedance by short pulses that count as zero; not while a level is wanted or anything is uncertain."""
        assert self._output is not None
        resting = self._state in (DeviceState.IDLE, DeviceState.ARMED) and not self._level_ua and not self._owed.uncertain
        if not resting:
            self._testing = False
            return
        now_ns = self._now_ns
        if self._testing and self._test_ns is not None and now_ns - self._test_ns >= TEST_LENGTH_NS:
            self._testing = False
            self._write_dac(0.0)
            if self._tested and self._resting:
                # By the differences: the electrodes keep a voltage of their own for a while after a current.
                ua, volts = (at - rest for at, rest in zip(_means(self._tested), _means(self._resting), strict=True))
                self._ohm = min(MOST_OHM, abs(volts / ua) * 1e6) if ua > TEST_UA / 4 else MOST_OHM
        elif not self._testing and (self._test_ns is None or now_ns - self._test_ns >= TEST_EVERY_NS):
            self._testing, self._test_ns, self._tested = True, now_ns, []
            self._write_dac(self._output.dac_v(TEST_UA))


def _means(pairs: Collection[tuple[float, float]]) -> tuple[float, float]:
    first, second = zip(*pairs, strict=True)
    return sum(first) / len(pairs), sum(second) / len(pairs)
