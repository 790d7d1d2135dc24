"""What a host has sent and not seen answered: how much may flow, and since when nobody can say.

A lost reply leaves two possible truths. The larger current is assumed, and until everything is answered a driver sends
nothing but stops.
"""

from __future__ import annotations

from collections import deque

from devices.units import NS_PER_MS


class Outstanding:
    """Bookkeeping of one session with one device; numbers rise with every message sent, times come from the caller.

    Parameters
    ----------
    budget_ns : int
        Longest time for an answer.
    first_seq : int
        Number of the newest message of the session before.

    Attributes
    ----------
    uncertain : bool
        Whether an answer is overdue; it stays so until everything sent has been answered.
    """

    def __init__(self, budget_ns: int, first_seq: int = 0) -> None:
        self.uncertain = False
        self._budget_ns = budget_ns
        self._sent_seq = self._heard_seq = self._noted_seq = first_seq
        self._confirmed_ua = 0
        self._levels: deque[tuple[int, int]] = deque()
        self._waiting: deque[tuple[int, int]] = deque()

    @property
    def assumed_ua(self) -> int:
        """Largest magnitude that may flow: the set point confirmed last, and every level sent that it may not show yet."""
        return max(self._confirmed_ua, max((level_ua for _, level_ua in self._levels), default=0))

    @property
    def budget_ms(self) -> int:
        """Longest time for an answer, ms."""
        return self._budget_ns // NS_PER_MS

    def sent(self, seq: int, level_ua: int | None = None) -> None:
        """Message `seq` has been sent, and asks for `level_ua` (signed), or for no level."""
        self._sent_seq = seq
        if level_ua is not None:
            self._levels.append((seq, abs(level_ua)))

    def answered(self, seq: int) -> None:
        """Everything up to message `seq` has been taken."""
        self._heard_seq = max(self._heard_seq, seq)
        while self._waiting and self._waiting[0][0] <= seq:
            self._waiting.popleft()
        if self._heard_seq >= self._sent_seq:
            self.uncertain = False

    def confirmed(self, seq: int, set_ua: int, *, holds: bool) -> None:
        """The device reports a set point (signed), having taken message `seq`.

        `holds` says whether it is still on its way to, or at, the newest level that it has taken.
        """
        self._confirmed_ua = abs(set_ua)
        while len(self._levels) > 1 and self._levels[1][0] <= seq:
            self._levels.popleft()
        if not holds and self._levels and self._levels[0][0] <= seq:
            self._levels.popleft()

    def overdue(self, t_ns: int) -> bool:
        """Whether an answer has become overdue by `t_ns`: true once, when the uncertainty begins.

        What has been sent since the last call counts from now: call it with every poll.
        """
        if self._sent_seq > max(self._heard_seq, self._noted_seq):
            self._noted_seq = self._sent_seq
            self._waiting.append((self._sent_seq, t_ns))
        if self.uncertain or not self._waiting or t_ns - self._waiting[0][1] <= self._budget_ns:
            return False
        self.uncertain = True
        return True
