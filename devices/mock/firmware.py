"""The device's own program in the mock: reference protocol in, set point and relay out; counts milliseconds.

It knows nothing of what the output stage then makes of its set point: that is for the meter to tell.
"""

from __future__ import annotations

from typing import Final

from devices.refproto import (
    DOWN_SLEW_UA_S,
    HOST_TIMEOUT_MS,
    MAX_LEASE_MS,
    MAX_LEVEL_UA,
    MAX_SLEW_UA_S,
    ZERO_UA,
    Ack,
    AckResult,
    Arm,
    Defect,
    Disarm,
    FaultCode,
    Heartbeat,
    HostMessage,
    Identify,
    Limits,
    Query,
    ResetFault,
    SelfTest,
    SetLevel,
    Stop,
)
from devices.stimulator import DeviceState, StopClass

SETTLE_MS: Final = 100  # the relay opens only when the analogue stage has followed the set point down

# Local names: a look-up in an enumeration costs as much as the rest of `tick`.
_IDLE: Final = DeviceState.IDLE
_ARMED: Final = DeviceState.ARMED
_ACTIVE: Final = DeviceState.ACTIVE
_RAMPING_DOWN: Final = DeviceState.RAMPING_DOWN
_FAULT: Final = DeviceState.FAULT


class Firmware:
    """State from power-up on.

    Attributes
    ----------
    state : DeviceState
        As reported.
    fault : FaultCode
        As reported; latched.
    set_ua : float
        Set point of the converter, uA, signed, already limited in slew.
    ack_seq : int
        Greatest frame number taken.
    revision : int
        Counts changes of state or fault, and QUERY: each is owed a report.
    dropped : int
        Frames ignored because their number was old.
    measured_ua : float
        What the device's own ammeter read last, uA; the output stage sets it.
    defects : Defect
        What a self-test would find now; the output stage sets it.
    """

    def __init__(self) -> None:
        self.state = _IDLE
        self.fault = FaultCode.NONE
        self.set_ua = 0.0
        self.ack_seq = 0
        self.revision = 0
        self.dropped = 0
        self.measured_ua = 0.0
        self.defects = Defect(0)
        self._target_ua = 0
        self._max_level_ua = 0
        self._latched_ua_s = 0
        self._rise_ua_ms = 0.0
        self._fall_ua_ms = DOWN_SLEW_UA_S / 1000.0
        self._heard_k = 0
        self._lease_k = 0
        self._zero_ms = 0

    @property
    def relay_wanted(self) -> bool:
        """Whether the output relay is to be closed."""
        return self.state is _ACTIVE or self.state is _RAMPING_DOWN

    @property
    def timeout_k(self) -> int | None:
        """Index (ms) at which silence of the host trips; None while the timer is off."""
        return None if self.state in (_IDLE, _FAULT) else self._heard_k + HOST_TIMEOUT_MS

    @property
    def limits(self) -> Limits | None:
        """What is latched; None while disarmed."""
        if self.state is _IDLE or self.state is _FAULT:
            return None
        return Limits(self.ack_seq, self._max_level_ua, self._latched_ua_s, HOST_TIMEOUT_MS, MAX_LEASE_MS)

    def press_button(self) -> None:
        """The emergency button on the case."""
        self._latch(FaultCode.EMERGENCY_BUTTON)

    def handle(self, seq: int, message: HostMessage | None, k: int) -> Ack | None:
        """Take one frame.

        Parameters
        ----------
        seq : int
            Its number.
        message : HostMessage or None
            What it says; None if it could not be understood.
        k : int
            Index (ms) at which its last byte arrived.

        Returns
        -------
        Ack or None
            The answer; None for an old frame.
        """
        if isinstance(message, Identify):
            self.ack_seq = seq
        fresh = seq > self.ack_seq or isinstance(message, Identify)
        if not fresh and not isinstance(message, Stop):
            self.dropped += 1
            return None
        if fresh:
            self.ack_seq = seq
            self._heard_k = k
        return Ack(seq, self._obey(message, k))

    def tick(self, k: int) -> None:
        """One millisecond: timers, then the set point."""
        state = self.state
        if state is _IDLE or state is _FAULT:
            return
        if k - self._heard_k >= HOST_TIMEOUT_MS:
            self._latch(FaultCode.HOST_TIMEOUT)
            return
        if state is _ARMED:
            return
        if state is _ACTIVE and k >= self._lease_k and (self._target_ua or self.set_ua):
            self._ramp_down(DOWN_SLEW_UA_S)
        self._move()
        if self.set_ua or self._target_ua:
            self._zero_ms = 0
            return
        self._zero_ms += 1
        if self._zero_ms >= SETTLE_MS:
            self._enter(_ARMED if self.state is _ACTIVE else _IDLE)

    def _obey(self, message: HostMessage | None, k: int) -> AckResult:
        match message:
            case SetLevel(level_ua=level, lease_ms=lease):
                return self._set_level(level, lease, k)
            case Heartbeat():
                pass
            case Stop(stop_class=stop_class):
                self._stop(stop_class)
            case Identify() | Disarm():
                self._zero()
            case Arm(max_level_ua=level, max_slew_ua_s=slew):
                return self._arm(level, slew)
            case ResetFault():
                return self._reset_fault()
            case Query():
                self.revision += 1
            case SelfTest():
                return self._test_itself()
            case None:
                return AckResult.NOT_UNDERSTOOD
        return AckResult.OK

    def _arm(self, level_ua: int, slew_ua_s: int) -> AckResult:
        if self.state is _FAULT:
            return AckResult.FAULT_LATCHED
        if self.state is not _IDLE:
            return AckResult.NOT_IDLE
        if not (1 <= level_ua <= MAX_LEVEL_UA and 1 <= slew_ua_s <= MAX_SLEW_UA_S):
            return AckResult.OVER_LIMIT
        self._max_level_ua = level_ua
        self._latched_ua_s = slew_ua_s
        self._rise_ua_ms = slew_ua_s / 1000.0
        self._enter(_ARMED)
        return AckResult.OK

    def _set_level(self, level_ua: int, lease_ms: int, k: int) -> AckResult:
        if self.state is _FAULT:
            return AckResult.FAULT_LATCHED
        if self.state not in (_ARMED, _ACTIVE):
            return AckResult.NOT_ARMED
        if abs(level_ua) > self._max_level_ua:
            return AckResult.OVER_LIMIT
        if not 1 <= lease_ms <= MAX_LEASE_MS:
            return AckResult.BAD_LEASE
        self._target_ua = level_ua
        self._lease_k = k + lease_ms
        self._fall_ua_ms = DOWN_SLEW_UA_S / 1000.0
        if level_ua and self.state is _ARMED:
            self._enter(_ACTIVE)
        return AckResult.OK

    def _stop(self, stop_class: StopClass) -> None:
        if stop_class == StopClass.S0_CUT or self.state is _ARMED:
            self._zero()
        elif self.relay_wanted:
            self._ramp_down(
                DOWN_SLEW_UA_S if stop_class == StopClass.S1_ABORT_RAMP else self._rise_ua_ms * 1000.0
            )

    def _test_itself(self) -> AckResult:
        if self.state is not _IDLE and self.state is not _FAULT:
            return AckResult.NOT_IDLE
        if self.defects:
            self.fault = FaultCode.SELF_TEST
            self._latch(FaultCode.SELF_TEST)
        elif self.fault == FaultCode.SELF_TEST:
            self.fault = FaultCode.NONE
            self._enter(_IDLE)
        return AckResult.OK

    def _reset_fault(self) -> AckResult:
        if abs(self.measured_ua) > ZERO_UA:
            return AckResult.NOT_AT_ZERO
        if self.fault == FaultCode.SELF_TEST:
            return AckResult.FAULT_LATCHED
        if self.state is _FAULT:
            self.fault = FaultCode.NONE
            self._enter(_IDLE)
        return AckResult.OK

    def _ramp_down(self, slope_ua_s: float) -> None:
        # A slower stop never undoes a faster one that already runs.
        already = self._fall_ua_ms if self.state is _RAMPING_DOWN else 0.0
        self._fall_ua_ms = max(already, slope_ua_s / 1000.0)
        self._target_ua = 0
        self._zero_ms = 0
        if self.state is not _RAMPING_DOWN:
            self._enter(_RAMPING_DOWN)

    def _move(self) -> None:
        now, target = self.set_ua, float(self._target_ua)
        if now == target:
            return
        if now * target < 0.0 or abs(target) < abs(now):
            floor = target if now * target > 0.0 else 0.0
            step = self._fall_ua_ms
            self.set_ua = floor if abs(now - floor) <= step else now + (step if now < floor else -step)
        else:
            step = self._rise_ua_ms
            self.set_ua = target if abs(target - now) <= step else now + (step if now < target else -step)

    def _latch(self, fault: FaultCode) -> None:
        self.set_ua, self._target_ua = 0.0, 0
        if self.fault == FaultCode.NONE:
            self.fault = fault
        self._enter(_FAULT)

    def _zero(self) -> None:
        self.set_ua, self._target_ua = 0.0, 0
        if self.state is not _FAULT:
            self._enter(_IDLE)

    def _enter(self, state: DeviceState) -> None:
        self.state = state
        self._zero_ms = 0
        self.revision += 1
