"""The serial line of a Magstim: one question at a time, replies matched to what was asked, stops that wait for no reply.

It knows no more of the unit than how long a reply to a command is; what a reply means is for `devices.magstim_driver`.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from devices import magstim_codec as codec
from devices.magstim_codec import Command, MagstimCodecError, Reply
from devices.stimulator import DeviceLostError, DeviceNotFoundError
from devices.units import NS_PER_MS
from devices.wires import Wire

BAUD: Final = 9600
OPEN_BUDGET_S: Final = 3.0
ASK_EVERY_S: Final = 0.3
REPLY_BUDGET_NS: Final = 300 * NS_PER_MS
_MOST_UNSENT: Final = 256


class MagstimLine:
    """What has been asked, what waits to be asked, and what has come back.

    Parameters
    ----------
    wire : Wire
        At `BAUD`, with its request-to-send line low.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._begin()

    def _begin(self) -> None:
        self._heard = self._unsent = b""
        self._waiting: deque[Command] = deque()
        self._asked: deque[tuple[Command, int]] = deque()

    @property
    def name(self) -> str:
        """How an error text calls it."""
        return self._wire.name

    @property
    def is_free(self) -> bool:
        """Whether nothing is asked and nothing waits to be."""
        return not self._asked and not self._waiting

    def fileno(self) -> int:
        """Descriptor to wait on, -1 if there is none."""
        return self._wire.fileno()

    def open(self) -> None:
        """Get hold of the line; all that was before is forgotten. Raises DeviceNotFoundError."""
        self._wire.open()
        self._begin()

    def close(self) -> None:
        """Let go of it. Idempotent, never raises."""
        self._wire.close()

    def ask(self, command: Command) -> Reply:
        """Send and wait for the answer, again and again within the budget; only opening may wait.

        Raises
        ------
        DeviceNotFoundError
            If none comes.
        DeviceLostError
            If the line breaks.
        """
        heard = b""
        for _ in range(round(OPEN_BUDGET_S / ASK_EVERY_S)):
            self.write(command.packet)
            left, heard = ASK_EVERY_S, b""
            while left > 0.0:
                left = self._wire.wait(left)
                if self._unsent:
                    self.write(b"")
                heard += self._wire.read()
                try:
                    reply, heard = codec.take(heard, command)
                except MagstimCodecError:
                    heard = b""  # an answer to an earlier host may still be on the line
                    continue
                if reply is not None:
                    return reply
        raise DeviceNotFoundError(
            f"{self.name} can be opened, but no Magstim there answered `{chr(command.letter)}` within "
            f"{OPEN_BUDGET_S:g} s; check port, cable and power"
        )

    # ---- out

    def enqueue(self, *commands: Command) -> None:
        """To be sent one after the other, each when the one before is answered; `flush` begins."""
        self._waiting.extend(commands)

    def enqueue_first(self, command: Command) -> None:
        """As `enqueue`, before all that waits."""
        self._waiting.appendleft(command)

    def at_once(self, t_ns: int, *commands: Command) -> list[Command]:
        """Send now, whatever is still to be answered; what waited is dropped and returned. Raises DeviceLostError."""
        dropped = self.drop_waiting()
        for command in commands:
            self._asked.append((command, t_ns))
            self.write(command.packet)
        return dropped

    def drop_waiting(self) -> list[Command]:
        """What waits is not sent; returns it."""
        dropped = list(self._waiting)
        self._waiting.clear()
        return dropped

    def flush(self, t_ns: int) -> list[Command]:
        """Send on what may be sent; returns what has been. Raises DeviceLostError."""
        if self._unsent:
            self.write(b"")
        sent: list[Command] = []
        while self._waiting and not self._asked and not self._unsent:
            command = self._waiting.popleft()
            sent.append(command)
            self._asked.append((command, t_ns))
            self.write(command.packet)
        return sent

    def write(self, data: bytes) -> None:
        """Send bytes to which no answer is expected. Raises DeviceLostError."""
        data = self._unsent + data
        if len(data) > _MOST_UNSENT:
            raise DeviceLostError(f"{self.name} takes no more bytes; check the cable")
        self._unsent = data[self._wire.write(data) :]

    # ---- in

    def listen(self) -> None:
        """Take in what has arrived. Raises DeviceLostError."""
        self._heard += self._wire.read()

    def answer(self) -> tuple[Command, int, Reply] | None:
        """The next question that is answered: what was asked, when, and the reply; None while there is none.

        Raises
        ------
        MagstimCodecError
            If what came is no reply to what was asked.
        """
        if not self._heard or not self._asked:
            return None
        command, asked_ns = self._asked[0]
        reply, self._heard = codec.take(self._heard, command)
        if reply is None:
            return None
        self._asked.popleft()
        return command, asked_ns, reply

    def take_stray(self) -> bytes:
        """What came although nothing is asked; it is forgotten."""
        if self._asked:
            return b""
        heard, self._heard = self._heard, b""
        return heard

    def is_overdue(self, t_ns: int) -> bool:
        """Whether the oldest question has waited for longer than any answer takes."""
        return bool(self._asked) and t_ns - self._asked[0][1] > REPLY_BUDGET_NS

    def restamp(self, t_ns: int) -> None:
        """What is asked counts from now."""
        self._asked = deque((command, t_ns) for command, _ in self._asked)

    def forget(self) -> None:
        """Drop what was asked, what waits, and what came."""
        self._heard = b""
        self._asked.clear()
        self._waiting.clear()
