"""What the guard asks of a ledger, a ledger in memory, and the clerk who carries out its bookings: at once or in a thread."""

from __future__ import annotations

import queue
import threading
from collections import deque
from typing import Final, Protocol, cast

from devices.guard_state import Book, Booked, BookFailed, BookPulses, Settle, SettlePulses
from devices.stimulator import Identity

_END_S: Final = 5.0


class DoseBookError(Exception):
    """The ledger refuses, could not be read or not committed; the text says why in one sentence."""


class DoseBook(Protocol):
    """Where dose is written before it flows. A reservation that is never settled counts in full (I04)."""

    def take(self, identity: Identity) -> None:
        """The device is open and says who it is; whatever stands against a session with it raises DoseBookError."""
        ...

    def used(self) -> tuple[int, int]:
        """Charge (microcoulomb) and time (milliseconds) that count against this session already."""
        ...

    def notes(self) -> list[str]:
        """Sentences for the operator, told with the limits in force."""
        ...

    def reserve(self, charge_uc: int, on_time_ms: int) -> None:
        """Commit a reservation; on return it survives a crash. Replaces one that is open. Raises DoseBookError."""
        ...

    def settle(self, charge_uc: int, on_time_ms: int) -> None:
        """Replace the open reservation, if any, by what was used. Raises DoseBookError."""
        ...


class PulseBook(DoseBook, Protocol):
    """A dose book that also counts magnetic pulses."""

    def used_pulses(self) -> int:
        """Pulses that count against this session already."""
        ...

    def reserve_pulses(self, pulses: int, on_time_ms: int) -> None:
        """As `reserve`."""
        ...

    def settle_pulses(self, pulses: int, on_time_ms: int) -> None:
        """As `settle`."""
        ...


Job = Book | Settle | BookPulses | SettlePulses


class MemoryDoseBook:
    """A dose book that lives as long as the process: for simulations, whose record is the session file."""

    def __init__(self) -> None:
        self.charge_uc = 0
        self.on_time_ms = 0
        self.open_uc = 0
        self.open_ms = 0
        self.pulses = 0
        self.open_pulses = 0

    def take(self, identity: Identity) -> None:
        """Nobody's dose is on record here."""

    def used(self) -> tuple[int, int]:
        """Settled dose plus the open reservation."""
        return self.charge_uc + self.open_uc, self.on_time_ms + self.open_ms

    def notes(self) -> list[str]:
        """Nothing to tell."""
        return []

    def reserve(self, charge_uc: int, on_time_ms: int) -> None:
        """Open a reservation."""
        self.open_uc, self.open_ms = charge_uc, on_time_ms

    def settle(self, charge_uc: int, on_time_ms: int) -> None:
        """Close the reservation with what was used."""
        self.charge_uc += charge_uc
        self.on_time_ms += on_time_ms
        self.open_uc = self.open_ms = 0

    def used_pulses(self) -> int:
        """Settled pulses plus the open reservation."""
        return self.pulses + self.open_pulses

    def reserve_pulses(self, pulses: int, on_time_ms: int) -> None:
        """Open a reservation."""
        self.open_pulses, self.open_ms = pulses, on_time_ms

    def settle_pulses(self, pulses: int, on_time_ms: int) -> None:
        """Close the reservation with what was given."""
        self.pulses += pulses
        self.on_time_ms += on_time_ms
        self.open_pulses = self.open_ms = 0


class Clerk(Protocol):
    """Carries out the guard's bookings in their order, and says what became of each reservation."""

    def take(self, job: Job) -> None:
        """Take one booking; never blocks, never raises."""
        ...

    def results(self) -> list[Booked | BookFailed]:
        """What has become of reservations since the last call."""
        ...


class InlineClerk:
    """Books at once: for virtual time, and for ledgers that no disk can hold up.

    Parameters
    ----------
    book : DoseBook
    """

    def __init__(self, book: DoseBook) -> None:
        self._book = book
        self._results: deque[Booked | BookFailed] = deque()

    def take(self, job: Job) -> None:
        """Book now."""
        result = carry_out(self._book, job)
        if result is not None:
            self._results.append(result)

    def results(self) -> list[Booked | BookFailed]:
        """What has become of reservations since the last call."""
        return [self._results.popleft() for _ in range(len(self._results))]


class ThreadClerk(InlineClerk):
    """Books in a thread of its own: a disk that takes a second to commit delays a gate, never a tick of the guard.

    Parameters
    ----------
    book : DoseBook
        Used by the thread alone until `close`.
    """

    def __init__(self, book: DoseBook) -> None:
        super().__init__(book)
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)
        self._thread.start()

    def take(self, job: Job) -> None:
        """Hand it to the thread."""
        self._jobs.put(job)

    def close(self) -> bool:
        """Let the thread finish what it has taken; whether it did so in 5 s."""
        self._jobs.put(None)
        self._thread.join(_END_S)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            super().take(job)


def carry_out(book: DoseBook, job: Job) -> Booked | BookFailed | None:
    """Book one job. A refund that fails is no failure of the guard's: what was reserved then counts in full."""
    try:
        match job:
            case Book():
                book.reserve(job.charge_uc, job.on_time_ms)
                return Booked(job.seq)
            case BookPulses():
                cast("PulseBook", book).reserve_pulses(job.pulses, job.on_time_ms)
                return Booked(job.seq)
            case Settle():
                book.settle(job.charge_uc, job.on_time_ms)
            case SettlePulses():
                cast("PulseBook", book).settle_pulses(job.pulses, job.on_time_ms)
    except DoseBookError as error:
        return BookFailed(job.seq, str(error)[:300]) if isinstance(job, Book | BookPulses) else None
    return None
