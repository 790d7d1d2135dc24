"""What the reference driver keeps an eye on: the limits that the device says it has latched, and damage on the line."""

from __future__ import annotations

from collections import deque
from typing import Final

from devices.refframe import Decoder
from devices.refproto import HOST_TIMEOUT_MS, MAX_LEASE_MS, Limits
from devices.units import NS_PER_S

# One bit error a second is what a serial line may do; more is a fault of the line or of the device.
BURST_WINDOW_NS: Final = NS_PER_S
BURST_FRAMES: Final = 3
BURST_BYTES: Final = 128
# An armed device says which limits it has latched with every tenth report.
MAX_UNLATCHED_REPORTS: Final = 25


class LatchWatch:
    """Compares what was asked at arming with what the device says that it has latched."""

    def __init__(self) -> None:
        self._asked: list[tuple[int, tuple[int, int]]] = []
        self._reports = 0

    def asked(self, seq: int, max_level_ua: int, max_slew_ua_s: int) -> None:
        """Frame `seq` asks to arm with these limits."""
        self._asked = [*self._asked[-1:], (seq, (max_level_ua, max_slew_ua_s))]

    def refused(self, seq: int) -> None:
        """Frame `seq` was refused: what was latched before still is."""
        self._asked = [item for item in self._asked if item[0] != seq]

    def reported(self, *, armed: bool) -> str:
        """Count a report; what is wrong, or empty: an armed device must say its limits in time."""
        self._reports = self._reports + 1 if armed else 0
        if self._reports <= MAX_UNLATCHED_REPORTS:
            return ""
        self._reports = 0
        return "it is armed, but does not say which limits it has latched"

    def latched(self, limits: Limits) -> str:
        """Take what the device says; what is wrong with it, or empty."""
        self._reports = 0
        due = [asked for seq, asked in self._asked if seq <= limits.ack_seq]
        if due and due[-1] != (limits.max_level_ua, limits.max_slew_ua_s):
            return f"it has latched {limits.max_level_ua} uA and {limits.max_slew_ua_s} uA/s, not what was asked"
        if limits.host_timeout_ms > HOST_TIMEOUT_MS or limits.max_lease_ms > MAX_LEASE_MS:
            return (
                f"it bears {limits.host_timeout_ms} ms of silence and leases of {limits.max_lease_ms} ms; "
                f"{HOST_TIMEOUT_MS} and {MAX_LEASE_MS} ms are the most"
            )
        return ""


class DamageWatch:
    """Judges how much damage a decoder has seen within a second."""

    def __init__(self) -> None:
        self._events: deque[tuple[int, int, int]] = deque()
        self._seen = (0, 0)

    def forget(self, decoder: Decoder) -> None:
        """What has come up to now was on the line before it was ours."""
        self._seen = (decoder.corrupt, decoder.skipped)

    def judge(self, decoder: Decoder, t_ns: int) -> str:
        """What is wrong by `t_ns`, or empty within what a line does by itself."""
        seen = (decoder.corrupt, decoder.skipped)
        if seen != self._seen:
            self._events.append((t_ns, seen[0] - self._seen[0], seen[1] - self._seen[1]))
            self._seen = seen
        while self._events and t_ns - self._events[0][0] > BURST_WINDOW_NS:
            self._events.popleft()
        frames = sum(item[1] for item in self._events)
        count = sum(item[2] for item in self._events)
        if frames < BURST_FRAMES and count < BURST_BYTES:
            return ""
        self._events.clear()
        return f"{frames} damaged frames and {count} meaningless bytes within a second; check cable and device"
