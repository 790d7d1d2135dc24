"""The dose book of one session on the ledger: who it is for, whether the session may begin, and its reservations on disk.

Real current goes into the site's ledger. Current of an emulator, which no body receives, is kept apart: in a ledger of that
session alone, unless the configuration names one; there it is counted among emulated sessions and blocks no other.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import msgspec

from devices import ledger
from devices.clock import Clock
from devices.dose import NS_PER_H, DoseSession, Entry, Kind, Moment, Standing, fold, standing
from devices.dose_book import DoseBookError
from devices.ledger import Ledger, LedgerError
from devices.pulse_settings import PulseSettings
from devices.settings import Settings
from devices.stimulator import Identity

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def moment(clock: Clock) -> Moment:
    """Now, on both clocks of a ledger."""
    try:
        boot = _BOOT_ID.read_text().strip()[:36]
    except OSError:
        boot = ""
    return Moment(clock.wall_ns(), boot, clock.now_ns())


def key(participant: str) -> str:
    """A participant's code as the ledger writes it: in capitals, so that p001 is no stranger to P001."""
    return participant.upper()


def sessions_of(book: Ledger, participant: str, *, emulated: bool) -> tuple[DoseSession, ...]:
    """One participant's sessions. Raises LedgerError."""
    try:
        return fold(e for e in book.entries if e.participant == key(participant) and e.emulated is emulated)
    except ValueError as error:
        raise LedgerError(f"{book.path} is damaged ({error}): put back a whole copy of the ledger") from error


class LedgerBook:
    """The ledger as the guard of one session sees it.

    Parameters
    ----------
    settings : Settings or PulseSettings
        Names participant, session, ledger and what the study narrows.
    apart : Path
        Where an emulator's dose goes if the settings name no ledger.
    clock : Clock
        For the wall clock, and the one that nobody can set.
    """

    def __init__(self, settings: Settings | PulseSettings, apart: Path, clock: Clock) -> None:
        self._settings = settings
        self._apart = apart
        self._clock = clock
        self._run = secrets.token_hex(8)
        self._emulated = False
        self._device = ""
        self._ledger: Ledger | None = None
        self._lock = -1
        self._standing: Standing | None = None
        self._owed: tuple[int, int, int] | None = None

    @property
    def path(self) -> Path:
        """The file in use; known once the device is."""
        named = self._settings.dose.ledger
        if named:
            return Path(named).expanduser()
        return self._apart if self._emulated else ledger.default_path()

    # ---- before anything flows

    def take(self, identity: Identity) -> None:
        """Lock out every other guard of this participant, verify the ledger, and see whether a session may begin or go on.

        Raises
        ------
        DoseBookError
            If another guard is at work, the ledger is missing or damaged, the clock wrong, or the interval not over.
        """
        self._emulated = identity.emulator
        self._device = f"{identity.maker} {identity.model} {identity.serial_number}"
        if not self._settings.participant:
            raise DoseBookError("no participant is named, so nobody's dose can be counted; set session.participant")
        if self._is_apart and not self.path.exists():
            ledger.create(self.path)
        self._ledger = Ledger(self.path)
        try:
            self._claim()
            # What the guard before us wrote last is read under our lock; and a disk that takes nothing is found out now.
            with self._ledger.writing():
                pass
            self._stand(self._ledger, moment(self._clock))
        except DoseBookError:
            self.close()
            raise

    def used(self) -> tuple[int, int]:
        """What counts against this session already: all of it, where a crashed session goes on."""
        return (0, 0) if self._standing is None else (self._standing.used_uc, self._standing.used_ms)

    def notes(self) -> list[str]:
        """Where the dose is written, and whether a session goes on."""
        if self._standing is None:
            return []
        who = key(self._settings.participant)
        if self._is_apart:
            where = "the dose of this emulator is kept apart: it counts for nobody"
        else:
            where = f"the dose of {who} is written to {self.path}" + (" among emulated sessions" if self._emulated else "")
        old = self._standing.goes_on
        if old is None:
            return [where]
        # No amount: it would tell the arm of a blinded session to everybody who sees the screen.
        return [where, f"session {old.name} was cut short and goes on with what is left of its dose"]

    # ---- the guard's bookings

    def used_pulses(self) -> int:
        """As `used`, of magnetic pulses."""
        old = self._standing.goes_on if self._standing is not None else None
        return 0 if old is None else old.counted_pulses

    def reserve(self, charge_uc: int, on_time_ms: int) -> None:
        """Commit a reservation, and with it what an earlier gate still owes."""
        self._reserve(charge_uc, on_time_ms, 0)

    def reserve_pulses(self, pulses: int, on_time_ms: int) -> None:
        """Commit a reservation of magnetic pulses."""
        self._reserve(0, on_time_ms, pulses)

    def settle(self, charge_uc: int, on_time_ms: int) -> None:
        """Commit what a gate used; where that fails, the next booking commits both."""
        self._settle(charge_uc, on_time_ms, 0)

    def settle_pulses(self, pulses: int, on_time_ms: int) -> None:
        """Commit how many pulses a gate gave."""
        self._settle(0, on_time_ms, pulses)

    def _reserve(self, charge_uc: int, on_time_ms: int, pulses: int) -> None:
        with self._writing() as book:
            now = moment(self._clock)
            book.check_clock(now)
            self._pay(book, now)
            self._put(book, "reserve", now, charge_uc, on_time_ms, pulses)
        self._owed = None

    def _settle(self, charge_uc: int, on_time_ms: int, pulses: int) -> None:
        owed = self._owed or (0, 0, 0)
        self._owed = (owed[0] + charge_uc, owed[1] + on_time_ms, owed[2] + pulses)
        with self._writing() as book:
            self._pay(book, moment(self._clock))
        self._owed = None

    # ---- the end

    def finish(self) -> None:
        """The session has ended in order: it does not go on, and an emulator's own ledger has served. Raises DoseBookError."""
        if self._ledger is not None and self._session(self._ledger) is not None:
            with self._writing() as book:
                now = moment(self._clock)
                self._pay(book, now)
                self._put(book, "close", now)
            self._owed = None
        if self._is_apart:
            self.close()
            for path in (self.path, self._lock_path):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of file and lock. Idempotent."""
        if self._ledger is not None:
            self._ledger.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # ---- inside

    @property
    def _is_apart(self) -> bool:
        return self._emulated and not self._settings.dose.ledger

    @property
    def _lock_path(self) -> Path:
        kind = ".emulated" if self._emulated else ""
        return self.path.with_name(f"{self.path.name}.{key(self._settings.participant)}{kind}.lock")

    def _claim(self) -> None:
        """One guard a participant: the lock goes with the process, however that ends."""
        try:
            self._lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DoseBookError(
                f"another guard is at work for participant {key(self._settings.participant)} ({self._lock_path} is locked): "
                "end that session first"
            ) from error
        except OSError as error:
            raise DoseBookError(f"{self._lock_path}: {(error.strerror or str(error)).lower()}") from error

    def _stand(self, book: Ledger, now: Moment) -> None:
        book.check_clock(now)
        who, dose = key(self._settings.participant), self._settings.dose
        sessions = sessions_of(book, who, emulated=self._emulated)
        self._standing = standing(sessions, now, round(dose.min_interval_h * NS_PER_H), dose.max_sessions)
        if self._standing.refusal:
            raise DoseBookError(f"dose of {who}: {self._standing.refusal}")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Ledger]:
        book = self._ledger
        if book is None:
            raise DoseBookError("the ledger is not open")
        known = book.next_seq
        with book.writing():
            self._refuse_strangers(book, known)
            yield book

    def _refuse_strangers(self, book: Ledger, known: int) -> None:
        """A lock file can be deleted; what another guard has booked for the same participant meanwhile cannot be overlooked."""
        who = key(self._settings.participant)
        for entry in book.entries[known:]:
            if entry.participant == who and entry.emulated is self._emulated and entry.run != self._run:
                raise DoseBookError(f"another guard has booked a dose for participant {who} meanwhile: end one of the sessions")

    def _pay(self, book: Ledger, now: Moment) -> None:
        if self._owed is not None:
            self._put(book, "settle", now, *self._owed)

    def _put(self, book: Ledger, kind: Kind, now: Moment, charge_uc: int = 0, on_time_ms: int = 0, pulses: int = 0) -> None:
        """Add a row of this session, which begins, or goes on, with the first that this guard writes."""
        # A clock that was set back while current flowed must not make that current look older.
        now = msgspec.structs.replace(now, wall_ns=max(now.wall_ns, book.newest_ns))
        session = self._session(book)
        if session is None:
            old = self._standing.goes_on if self._standing is not None else None
            session = book.next_seq if old is None else old.number
            self._put_row(book, session, "begin" if old is None else "resume", now, 0, 0, 0)
        self._put_row(book, session, kind, now, charge_uc, on_time_ms, pulses)

    def _session(self, book: Ledger) -> int | None:
        """Number of the session that this guard writes to; None before its first row. The file knows, whatever failed."""
        return next((entry.session for entry in reversed(book.entries) if entry.run == self._run), None)

    def _put_row(
        self, book: Ledger, session: int, kind: Kind, now: Moment, charge_uc: int, on_time_ms: int, pulses: int
    ) -> None:
        starts = kind in ("begin", "resume")
        entry = Entry(
            seq=book.next_seq,
            participant=key(self._settings.participant),
            emulated=self._emulated,
            kind=kind,
            session=session,
            run=self._run,
            name=self._settings.session if starts else "",
            device=self._device if starts else "",
            blinded=starts and self._settings.blinded,
            at=now,
            charge_uc=charge_uc,
            on_time_ms=on_time_ms,
            pulses=pulses,
        )
        book.put(entry)
