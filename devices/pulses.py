"""What a driver of a magnetic stimulator must provide: trains of pulses in place of a current, behind the same guard.

A train is to a pulse stimulator what a lease is to a current: it is short, it says itself how long it lasts, and what is not
asked for again does not go on. A dose is a number of pulses at an intensity; zero is *no pulse can leave the coil*.
"""

from __future__ import annotations

import enum
from typing import Protocol

import msgspec

from devices.stimulator import Identity, StopClass


class PulseState(enum.IntEnum):
    """What the device says of itself."""

    IDLE = 0
    ARMED = 1
    FIRING = 2
    FAULT = 4
    UNCERTAIN = 5


class PulseCapabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What the device can do; decides what is allowed with it.

    Attributes
    ----------
    self_expiring_lease : bool
        Whether a train once sent ends by itself in the device, whatever the host does.
    hardware_watchdog : bool
        Whether the device disarms by itself when the host is silent for `host_timeout_s`.
    counts_pulses : bool
        Whether `PulseReadback.pulses` is the device's own count; else it is what the driver has sent.
    measures_temperature : bool
        Whether the coil's temperature is read.
    max_intensity_percent : int
        Of the device's greatest output.
    min_interval_ms : int
        Shortest time from pulse to pulse.
    max_train_pulses, max_train_s : int, float
        Longest train that one command can ask for.
    min_gap_s : float
        Shortest pause between two trains.
    arm_s : float
        From `arm` to a state that can fire.
    auto_disarm_s : float or None
        After how long without a pulse the device disarms by itself; None if never.
    command_latency_s : float
        From a call to its effect in the device: a `stop` that comes later than this before a pulse prevents it.
    host_timeout_s : float
        After how long a silent host is noticed; 0 where `hardware_watchdog` is False.
    readback_interval_s : float
        Between two reports.
    rate_step_hz : float
        Where the device paces its trains: their rate is a multiple of this; 0 where any interval can be given.
    caveat : str
        What about this is not proven on hardware, in one sentence; empty if nothing.
    """

    self_expiring_lease: bool
    hardware_watchdog: bool
    counts_pulses: bool
    measures_temperature: bool
    max_intensity_percent: int
    min_interval_ms: int
    max_train_pulses: int
    max_train_s: float
    min_gap_s: float
    arm_s: float
    auto_disarm_s: float | None
    command_latency_s: float
    host_timeout_s: float
    readback_interval_s: float
    rate_step_hz: float = 0.0
    caveat: str = ""


class PulseLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Latched at arming: no train may exceed them, nor all trains together until armed anew."""

    max_intensity_percent: int
    max_pulses: int
    min_interval_ms: int


class Train(msgspec.Struct, frozen=True, kw_only=True):
    """Equal pulses at equal intervals: 1 Hz is an interval of 1000 ms. It lasts ``pulses * interval_ms``."""

    intensity_percent: int
    pulses: int
    interval_ms: int


class PulseReadback(msgspec.Struct, frozen=True, kw_only=True):
    """One report of the device.

    `intensity_percent` is the device's set point, `pulses` how many it has given since it was armed (never fewer than it
    has), `ready` whether it could fire now (charged, interlocks closed), `coil_c` the coil's temperature in degrees Celsius,
    None where it is not measured; the rest as in `devices.stimulator.Readback`.
    """

    t_ns: int
    state: PulseState
    intensity_percent: int
    pulses: int
    ready: bool
    coil_c: float | None
    ack_seq: int
    boot_count: int
    fault: str


class PulseStimulator(Protocol):
    """A driver. Never blocks except in `open`; errors are those of `devices.stimulator`, UNCERTAIN means the same."""

    @property
    def capabilities(self) -> PulseCapabilities:
        """What this driver, in this mode, can do."""
        ...

    @property
    def assumed_pulses(self) -> int:
        """Most pulses that may have been given since arming, as far as the driver knows: what counts against the dose."""
        ...

    def fileno(self) -> int:
        """Descriptor that turns readable when the device has sent something; -1 for an in-process device."""
        ...

    def open(self) -> Identity:
        """Connect, disarm, identify. Idempotent. Raises DeviceError."""
        ...

    def arm(self, limits: PulseLimits) -> None:
        """Latch limits, set the intensity to zero and allow trains. Raises DeviceError."""
        ...

    def disarm(self) -> None:
        """No pulse, and none until armed again."""
        ...

    def fire(self, train: Train, lease_ms: int) -> None:
        """Ask for one train, which begins at once and is void where it could not begin within `lease_ms`.

        Where the host paces the pulses, each needs the lease renewed by `heartbeat`: a train whose host has fallen silent
        for `lease_ms` ends. Raises DeviceRefusedError while another train runs, or beyond a limit.
        """
        ...

    def heartbeat(self) -> None:
        """Tell the device that the host lives, and renew the lease of the train that runs."""
        ...

    def stop(self, stop_class: StopClass) -> None:
        """No further pulse. S0 also disarms and gives up remote control; S1 and S2 disarm."""
        ...

    def reset_fault(self) -> None:
        """Clear a latched device fault; only while disarmed and by an operator's act."""
        ...

    def poll(self, t_ns: int) -> list[PulseReadback]:
        """All reports that have arrived, oldest first, stamped `t_ns`; also paces what the host must pace."""
        ...

    def close(self) -> None:
        """Disarm, then let go of the line. Idempotent, never raises."""
        ...
