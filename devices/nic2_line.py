"""The conversation with NIC: requests out, replies matched by their order, and since when one is overdue.

NIC's replies carry no number. So no more is asked than is needed to match them, and what comes unasked is a fault. Once a reply
is overdue, nobody knows which reply the next byte is: the number of channels is asked for, because its answer is the one byte
that cannot be a status, and everything before that answer is dropped.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from devices.nic2_codec import Nic2CodecError, Replies, request
from devices.nic2_table import Op, OpcodeTable, Status
from devices.stimulator import DeviceLostError, DeviceProtocolError
from devices.units import NS_PER_MS
from devices.wires import Wire

REPLY_BUDGET_MS: Final = 1000
MAX_UNSENT_BYTES: Final = 4096
MAX_MARKS: Final = 60

Answer = tuple[Op, Status | int | str]


class Conversation:
    """One connection's worth of requests and replies.

    Parameters
    ----------
    wire : Wire
        The connection, already open.
    table : OpcodeTable
        Version spoken.
    channels : int
        Of the device: the answer that leads out of uncertainty.

    Attributes
    ----------
    uncertain : bool
        Whether a reply is overdue; it stays so until NIC answers again.
    answers : int
        Replies so far.
    """

    def __init__(self, wire: Wire, table: OpcodeTable, channels: int) -> None:
        self.uncertain = False
        self.answers = 0
        self._channels = channels
        self._marks = 0
        self._marked_ns = 0
        self._wire = wire
        self._table = table
        self._replies = Replies(table)
        self._pending: deque[tuple[Op, int]] = deque()
        self._unsent = b""

    @property
    def waits(self) -> bool:
        """Whether a reply is still to come."""
        return bool(self._pending)

    def send(self, data: bytes) -> None:
        """Hand over a request that is not answered. Raises DeviceLostError."""
        if len(self._unsent) + len(data) > MAX_UNSENT_BYTES:
            raise DeviceLostError(f"{self._wire.name} takes no more bytes; check network and NIC")
        self._unsent += data
        self._flush()

    def ask(self, op: Op, now_ns: int, text: str = "") -> None:
        """Hand over a request that is answered. Raises DeviceLostError."""
        self._pending.append((op, now_ns))
        self.send(request(self._table, op, text))

    def pump(self, now_ns: int) -> tuple[list[Answer], bool]:
        """Send what waits, and take the replies that are complete.

        Returns
        -------
        answers : list of tuple
            What each request was answered with, oldest first.
        overdue : bool
            Whether a reply has become overdue: true once, when the uncertainty begins. It ends with the answer to the mark.

        Raises
        ------
        DeviceLostError
            If the connection is closed or broken.
        DeviceProtocolError
            If what came answers nothing, or cannot be the answer.
        """
        self._flush()
        data = self._wire.read()
        if self._marks:
            data = self._seek(data)
        if self.uncertain:
            self._mark(now_ns)
            return [], False
        taken: list[Answer] = []
        try:
            self._replies.feed(data)
            while self._pending and (value := self._replies.take(self._pending[0][0])) is not None:
                taken.append((self._pending.popleft()[0], value))
                self.answers += 1
        except Nic2CodecError as error:
            self._pending.clear()
            self._replies.clear()
            raise DeviceProtocolError(f"{self._wire.name}: {error}") from error
        if len(self._replies) and not self._pending:
            self._replies.clear()
            raise DeviceProtocolError(f"{self._wire.name}: bytes came that answer nothing")
        if self._pending and now_ns - self._pending[0][1] > REPLY_BUDGET_MS * NS_PER_MS:
            self.uncertain = True
            self._mark(now_ns)
        return taken, self.uncertain

    def _mark(self, now_ns: int) -> None:
        """Ask for the mark, and again each second."""
        if self._marks and now_ns - self._marked_ns < REPLY_BUDGET_MS * NS_PER_MS:
            return
        if self._marks >= MAX_MARKS:
            return
        self._marks += 1
        self._marked_ns = now_ns
        self.send(request(self._table, Op.READ_CHANNELS))

    def _seek(self, data: bytes) -> bytes:
        """Drop what came before the first mark, and the marks that were asked for in vain; returns the rest."""
        mark = bytes([self._channels])
        if not self.uncertain:
            self._marks -= data.count(mark)
            return data.replace(mark, b"")
        _, found, rest = data.partition(mark)
        if not found:
            return b""
        self._marks -= 1
        self.uncertain = False
        self._pending.clear()
        self._replies.clear()
        return self._seek(rest) if self._marks else rest

    def since(self, now_ns: int) -> None:
        """Count what is still unanswered from `now_ns`: another clock has begun."""
        self._pending = deque((op, now_ns) for op, _ in self._pending)

    def _flush(self) -> None:
        while self._unsent:
            taken = self._wire.write(self._unsent)
            self._unsent = self._unsent[taken:]
            if not taken:
                return
