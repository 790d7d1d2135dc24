"""What a stimulator driver must provide: a protocol of few verbs, what it can do, what it reports, how it fails."""

from __future__ import annotations

import enum
from typing import Protocol

import msgspec


class StopClass(enum.IntEnum):
    """The three stops; the smaller number is the higher stop and wins (I08)."""

    S0_CUT = 0
    S1_ABORT_RAMP = 1
    S2_SESSION_RAMP = 2


class DeviceState(enum.IntEnum):
    """What the device says of itself."""

    IDLE = 0
    ARMED = 1
    ACTIVE = 2
    RAMPING_DOWN = 3
    FAULT = 4


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who answers on the line. An emulator says so of itself (I30)."""

    maker: str
    model: str
    serial_number: str
    firmware: str
    emulator: bool


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What the device can do; decides what is allowed with it, and its time-to-zero table."""

    self_expiring_lease: bool
    hardware_watchdog: bool
    measures_current: bool
    unipolar: bool
    device_ramp: bool
    max_level_ua: int
    resolution_ua: float
    command_latency_s: float
    host_timeout_s: float
    min_transition_s: float
    readback_interval_s: float


class Readback(msgspec.Struct, frozen=True, kw_only=True):
    """One report of the device.

    `commanded_ua` is the device's own set point (signed), `measured_ua` what its ammeter reads (signed, None where it
    has none), `ack_seq` the sequence number of the newest frame the device has accepted, `boot_count` rises when the
    device restarts, `fault` is empty or the device's own word for what is wrong.
    """

    t_ns: int
    state: DeviceState
    commanded_ua: int
    measured_ua: float | None
    voltage_mv: float | None
    impedance_ohm: float | None
    ack_seq: int
    boot_count: int
    fault: str


class DeviceError(Exception):
    """Base of all that can go wrong with a stimulator; the text says what, where and what to do."""


class DeviceNotFoundError(DeviceError):
    """Nothing answers at the configured port, for example ``/dev/ttyUSB0`` with the cable pulled."""


class DeviceRefusedError(DeviceError):
    """The device answered, and said no: for example an arm request above its own ceiling."""


class DeviceLostError(DeviceError):
    """The line broke while open: end of file, an input/output error, a hang-up of the port."""


class DeviceProtocolError(DeviceError):
    """Bytes came that the protocol does not allow: a bad checksum, an unknown command, a wrong acknowledgement."""


class Stimulator(Protocol):
    """A driver. Never blocks except in `open`; every level is signed integer microamps at the electrode over the target."""

    @property
    def capabilities(self) -> Capabilities:
        """What this driver, in this mode, can do."""
        ...

    def fileno(self) -> int:
        """Descriptor that turns readable when the device has sent something; -1 for an in-process device."""
        ...

    def open(self) -> Identity:
        """Connect, drop everything to zero, identify. Idempotent. Raises DeviceError."""
        ...

    def arm(self, max_level_ua: int, max_slew_ua_s: int) -> None:
        """Latch limits in the device and allow current. Raises DeviceError."""
        ...

    def disarm(self) -> None:
        """Zero, and no current until armed again."""
        ...

    def set_level(self, level_ua: int, lease_ms: int) -> None:
        """Send one set point with a lease; after `lease_ms` without another the device ramps to zero by itself."""
        ...

    def heartbeat(self) -> None:
        """Tell the device that the host lives, without renewing any lease."""
        ...

    def stop(self, stop_class: StopClass) -> None:
        """Stop: S0 cuts and opens the relay, S1 and S2 let the device ramp down by itself at their slopes."""
        ...

    def reset_fault(self) -> None:
        """Clear a latched device fault; only at zero current and by an operator's act."""
        ...

    def poll(self, t_ns: int) -> list[Readback]:
        """All reports that have arrived, oldest first, stamped `t_ns`. Raises DeviceError."""
        ...

    def close(self) -> None:
        """Zero, then let go of the line. Idempotent, never raises."""
        ...
