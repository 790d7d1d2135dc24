"""What a stimulator driver must provide: a protocol of few verbs, what it can do, what it reports, how it fails."""

from __future__ import annotations

import enum
from typing import Literal, Protocol

import msgspec


class StopClass(enum.IntEnum):
    """The three stops; the smaller number is the higher stop and wins (I08)."""

    S0_CUT = 0
    S1_ABORT_RAMP = 1
    S2_SESSION_RAMP = 2


class DeviceState(enum.IntEnum):
    """What the device says of itself; UNCERTAIN is what the driver says where a reply is overdue."""

    IDLE = 0
    ARMED = 1
    ACTIVE = 2
    RAMPING_DOWN = 3
    FAULT = 4
    UNCERTAIN = 5


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who answers on the line. An emulator says so of itself (I30)."""

    maker: str
    model: str
    serial_number: str
    firmware: str
    emulator: bool


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a driver can do in one mode; decides what is allowed with it, and its time-to-zero table.

    Attributes
    ----------
    self_expiring_lease : bool
        Whether the device itself ends a current that is not renewed, even where the host lives on and says nothing.
    hardware_watchdog : bool
        Whether the device itself ends a current when the host is silent for `host_timeout_s`. Without this and without a
        lease nothing may be armed.
    measures_current : bool
        Whether `Readback.measured_ua` comes from an ammeter.
    unipolar : bool
        Whether it makes currents of one direction only; the leads then give the polarity.
    leads : {"anodal", "cathodal"}
        That polarity, at the target electrode; it says nothing of a device that can do both.
    device_ramp : bool
        Whether `stop` of S1 and S2 ramps by itself. If not, the guard sends the ramp as falling levels.
    max_level_ua, resolution_ua : int, float
        Greatest magnitude, and the smallest step of the output.
    command_latency_s : float
        From a call to its effect at the electrode.
    host_timeout_s : float
        Longest time that a current goes on after the host's last sign of life, however it then ends: watchdog, lease or end
        of a programme. 0 where nothing ends it.
    min_transition_s, max_transition_s : float
        Shortest and longest change that one command can make; None for any. The shortest also delays every cut.
    readback_interval_s : float
        Between two reports.
    whole_gate : bool
        Whether it takes one gate as a whole (`GateStimulator.run_gate`) and no single levels. The guard then follows the
        plan that it has sent; leases still say whether it may go on.
    max_hold_s : float or None
        Longest hold of such a gate; None for any.
    caveat : str
        What about this is not proven on hardware, in one sentence that the operator is shown; empty if nothing.
    """

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
    max_transition_s: float | None = None
    whole_gate: bool = False
    max_hold_s: float | None = None
    caveat: str = ""
    leads: Literal["anodal", "cathodal"] = "anodal"


class GatePlan(msgspec.Struct, frozen=True, kw_only=True):
    """One gate for a device that takes it whole: straight up, hold, straight down; the level is signed, microamps."""

    level_ua: int
    rise_ms: int
    hold_ms: int
    fall_ms: int


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


class DeviceUnfitError(DeviceError):
    """The device's own self-test found a defect: for example an ammeter that does not see the test current."""


class DeviceUncertainError(DeviceError):
    """A reply is overdue, so nobody knows which of two levels flows: the larger is assumed, only query and stop are allowed.

    `poll` raises it once when the state begins, `set_level` (except towards zero), `arm` and `run_gate` as long as it lasts.
    It lasts until the device has answered for everything sent.
    """


class Stimulator(Protocol):
    """A driver. Never blocks except in `open`; every level is signed integer microamps at the electrode over the target.

    Every call but `open`, `close`, `capabilities`, `fileno` and `assumed_ua` raises DeviceLostError before `open` and after
    the line has broken. Out of whatever error, nothing is sent by itself but stops.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What this driver, in this mode, can do."""
        ...

    @property
    def assumed_ua(self) -> int:
        """Largest magnitude that may flow as far as the driver knows: the level last confirmed or any sent since."""
        ...

    def fileno(self) -> int:
        """Descriptor that turns readable when the device has sent something; -1 for an in-process device."""
        ...

    def open(self) -> Identity:
        """Connect, drop everything to zero, identify, let the device test itself where it can. Idempotent.

        Raises DeviceUnfitError where that test finds a defect, other DeviceErrors where there is no such device.
        """
        ...

    def arm(self, max_level_ua: int, max_slew_ua_s: int) -> None:
        """Latch limits in the device and allow current; a report in state ARMED is its yes. Raises DeviceError."""
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
        """Stop: S0 cuts and opens the relay, S1 and S2 let the device ramp down by itself at their slopes.

        Where there is no `Capabilities.device_ramp` every stop cuts. Nothing but `arm` brings current back. Overtakes what
        has not been sent yet, and is sent also while the driver is uncertain.
        """
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


class GateStimulator(Stimulator, Protocol):
    """A driver whose device takes one gate as a whole; see `Capabilities.whole_gate`."""

    def run_gate(self, plan: GatePlan) -> None:
        """Begin one gate now. From here on `Readback.commanded_ua` follows the plan. Raises DeviceError.

        `set_level` is then called with 0 only. A `stop` ends the gate by its class; a second `run_gate` is refused until
        the first is over.
        """
        ...
