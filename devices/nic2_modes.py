"""The three modes of Starstim's driver, what each can do, and the driver's own settings."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from devices import nic2_codec as codec
from devices.stimulator import Capabilities

Mode = Literal["peak", "timed", "plain"]

PEAK_MAX_LEVEL_UA: Final = 1000
MAX_HOLD_MS: Final = 10_000
LATENCY_S: Final = 0.5
"""How late the device may follow: radio and program."""

Channel = Annotated[int, Meta(ge=1, le=codec.MAX_CHANNELS)]
ProtocolName = Annotated[str, Meta(pattern=r"^[ -~]{1,64}\Z")]


class Nic2Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[device.options]`` of driver nic2.

    `channels` is how many the Starstim has; `target` and `returns` are channel numbers from 1: the level flows at the target,
    the returns share it equally. `protocol` names a protocol that the operator has made in NIC with 0 uA on all channels: in
    mode timed it lasts one gate, `protocol_s` seconds, otherwise all day. `impedance_protocol` names one that gives current to
    all electrodes in use, which NIC needs to measure their impedance. `accept_unproven_expiry` is the operator's word for mode
    timed: that the protocol ends after this program has died is not proven on hardware.
    """

    channels: Annotated[int, Meta(ge=2, le=codec.MAX_CHANNELS)]
    target: Channel
    returns: Annotated[tuple[Channel, ...], Meta(min_length=1, max_length=codec.MAX_CHANNELS - 1)]
    protocol: ProtocolName
    impedance_protocol: ProtocolName
    protocol_s: Annotated[float, Meta(ge=1.0, le=1260.0)] | None = None
    accept_unproven_expiry: bool = False
    version: Literal["04.07"] = "04.07"

    def __post_init__(self) -> None:
        """Refuse a montage that is none."""
        codec.spread(0, self.target, self.returns, self.channels)


MODES: Final[dict[str, str]] = {
    "peak": "one gate is one self-expiring peak: ramps and hold of at most 10 s each",
    "timed": "levels inside an NIC protocol that lasts one gate, whose end is the coarse lease; needs accept_unproven_expiry",
    "plain": "levels inside an NIC protocol that lasts all day: nothing ends them when this program dies, so it is never armed",
}

_UNPROVEN: Final = {
    "peak": "that a peak completes and ends after this program has died is not proven on hardware; try it on a dummy head, and "
    "keep the operator at NIC's abort button",
    "timed": "that the NIC protocol ends the current after this program has died is not proven on hardware; try it on a dummy "
    "head, and keep the operator at NIC's abort button",
    "plain": "a current set by NIC's online change goes on when this program dies, until somebody presses abort in NIC",
}


def capabilities(mode: str, options: Nic2Options) -> Capabilities:
    """What Starstim can do in `mode`."""
    longest_s = {
        "peak": 3.0 * codec.MAX_TIME_MS / 1000.0,
        "timed": options.protocol_s or 0.0,
    }
    return Capabilities(
        self_expiring_lease=mode in longest_s,
        hardware_watchdog=False,
        measures_current=False,
        unipolar=False,
        device_ramp=True,
        max_level_ua=PEAK_MAX_LEVEL_UA if mode == "peak" else codec.MAX_CHANNEL_UA,
        resolution_ua=1.0,
        command_latency_s=LATENCY_S,
        host_timeout_s=longest_s.get(mode, 0.0),
        min_transition_s=codec.MIN_TIME_MS / 1000.0,
        readback_interval_s=0.25,
        max_transition_s=codec.MAX_TIME_MS / 1000.0,
        whole_gate=mode in longest_s,
        max_hold_s={"peak": MAX_HOLD_MS / 1000.0, "timed": options.protocol_s}.get(mode),
        caveat=_UNPROVEN[mode],
    )
