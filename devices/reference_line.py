"""What the reference driver has on its line: frames numbered, in the order in which they may leave, and frames that have come.

A stop overtakes everything that still waits, and of set points and heartbeats only the newest is worth sending.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from devices import refproto
from devices.refframe import Decoder, Frame
from devices.refproto import HostMessage
from devices.stimulator import DeviceLostError
from devices.wires import Wire

MAX_WAITING_FRAMES: Final = 32
MAX_READS: Final = 16

_OVERTAKING: Final = (refproto.Stop, refproto.Disarm)
_PERISHABLE: Final = (refproto.SetLevel, refproto.Heartbeat)


class Line:
    """One session's frames.

    Parameters
    ----------
    wire : Wire
        What carries the bytes.
    last_seq : int
        Number of the newest frame of the session before.

    Attributes
    ----------
    decoder : Decoder
        What has come so far, and what of it made no sense.
    last_seq : int
        Number of the newest frame.
    """

    def __init__(self, wire: Wire, last_seq: int) -> None:
        self.decoder = Decoder()
        self.last_seq = last_seq
        self._wire = wire
        self._partial = b""
        self._waiting: deque[tuple[bytes, HostMessage]] = deque()

    def queue(self, message: HostMessage) -> int:
        """Line a message up for `flush`; returns its number. Raises DeviceLostError if too many wait."""
        if isinstance(message, _OVERTAKING):
            self._waiting.clear()
        elif isinstance(message, _PERISHABLE):
            # A set point that has not left yet is void once there is a newer one (I05).
            self._waiting = deque(item for item in self._waiting if not isinstance(item[1], _PERISHABLE))
        if len(self._waiting) >= MAX_WAITING_FRAMES:
            raise DeviceLostError(
                f"{self._wire.name} takes no more bytes: {MAX_WAITING_FRAMES} frames wait; check the cable"
            )
        self.last_seq += 1
        self._waiting.append((refproto.encode(self.last_seq, message), message))
        return self.last_seq

    def flush(self) -> None:
        """Hand over what waits, as far as the wire takes it. Raises DeviceLostError."""
        while self._partial or self._waiting:
            data = self._partial or self._waiting[0][0]
            taken = self._wire.write(data)
            if taken and not self._partial:
                self._waiting.popleft()  # a frame of which no byte has left may still be overtaken
            if taken:
                self._partial = data[taken:]
            if taken < len(data):
                return

    def frames(self) -> Iterator[Frame]:
        """What has come, oldest first; no more than a flooded line may keep its reader busy with. Raises DeviceLostError."""
        for _ in range(MAX_READS):
            data = self._wire.read()
            if not data:
                return
            yield from self.decoder.feed(data)
