"""What the ledger's tests share: a clock that can be set, books on it, and ledgers with a past."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from guard_doubles import EMULATOR, HARDWARE, make_settings

from devices import ledger
from devices.ledger_book import LedgerBook
from devices.settings import Dose
from devices.units import NS_PER_S

DAY_S = 86_400
START_S = 1_800_000_000


class SetClock:
    """A wall clock that anybody can set, beside one that nobody can."""

    def __init__(self, wall_s: float = START_S, boot_s: float = 10_000.0) -> None:
        self.wall_s = wall_s
        self.boot_s = boot_s

    def wall_ns(self) -> int:
        return round(self.wall_s * NS_PER_S)

    def now_ns(self) -> int:
        return round(self.boot_s * NS_PER_S)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.wall_s += seconds
        self.boot_s += seconds


def book_of(
    path: Path, clock: SetClock, participant: str = "P001", session: str = "s1", *, emulated: bool = False, **dose: Any
) -> LedgerBook:
    """A book on a named ledger, not yet taken."""
    settings = make_settings(participant=participant, session=session, dose=Dose(ledger=str(path), **dose))
    return LedgerBook(settings, path.with_name("apart"), clock)


def taken(path: Path, clock: SetClock, participant: str = "P001", session: str = "s1", **more: Any) -> LedgerBook:
    """A book whose guard has started."""
    book = book_of(path, clock, participant, session, **more)
    book.take(EMULATOR if more.get("emulated") else HARDWARE)
    return book


def gate(book: LedgerBook, clock: SetClock, used_uc: int = 400, used_ms: int = 900) -> None:
    """One gate: reserved, delivered in part, settled."""
    book.reserve(1000, 2000)
    clock.run(2.0)
    book.settle(used_uc, used_ms)


def past(path: Path, clock: SetClock) -> None:
    """A ledger in which P002 has a session, and P001 one that ended more than a day ago."""
    ledger.create(path)
    for who, gates in (("P002", 2), ("P001", 3)):
        book = taken(path, clock, who, f"old-{who}")
        for _ in range(gates):
            gate(book, clock)
        book.finish()
        book.close()
        clock.run(60.0)
    clock.run(1.2 * DAY_S)
