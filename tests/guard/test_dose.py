"""Dose over sessions and days: intervals, crashes, clocks, two guards at once (I04, F54)."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest
from guard_doubles import EMULATOR, Bench, make_settings
from hypothesis import given
from hypothesis import strategies as st
from ledger_rig import DAY_S, SetClock, book_of, gate, taken

from devices import ledger
from devices.dose import Entry, Moment, elapsed_ns, fold
from devices.dose_book import DoseBookError, MemoryDoseBook, ThreadClerk
from devices.guard_core import GuardCore
from devices.guard_state import Book, Booked, BookFailed, Settle
from devices.ledger import Ledger
from devices.ledger_book import LedgerBook, sessions_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    ledger.create(tmp_path / "dose.sqlite")
    return tmp_path / "dose.sqlite"


# ---- one session in 24 h


def test_one_session_in_24_hours_counted_from_its_last_current(path: Path) -> None:
    clock = SetClock()
    book = taken(path, clock, session="first")
    gate(book, clock)
    book.finish()
    book.close()
    clock.run(DAY_S - 61)
    with pytest.raises(DoseBookError, match=r"dose of P001: the last session \(first\) is 23 h 58 min ago and 24 h"):
        taken(path, clock)
    clock.run(61)
    assert taken(path, clock).used() == (0, 0)


def test_the_configuration_may_lengthen_the_interval_and_end_a_course(path: Path) -> None:
    clock = SetClock()
    book = taken(path, clock)
    gate(book, clock)
    book.finish()
    book.close()
    clock.run(1.5 * DAY_S)
    with pytest.raises(DoseBookError, match="48 h 00 min must lie between two"):
        taken(path, clock, min_interval_h=48.0)
    with pytest.raises(DoseBookError, match=r"1 sessions are on record and dose\.max_sessions allows 1"):
        taken(path, clock, max_sessions=1)
    taken(path, clock, max_sessions=2).close()


def test_the_interval_cannot_be_shortened() -> None:
    from devices.settings import decode, encode

    data = encode(make_settings()).replace(b'"min_interval_h":24.0', b'"min_interval_h":23.9')
    with pytest.raises(msgspec.ValidationError, match=r"min_interval_h"):
        decode(data)


def test_looking_and_reserving_without_current_use_up_no_session(path: Path) -> None:
    clock = SetClock()
    taken(path, clock).close()
    assert Ledger(path).next_seq == 0, "a guard that books nothing leaves no trace"
    book = taken(path, clock)
    book.reserve(1000, 2000)
    book.settle(0, 0)
    book.finish()
    book.close()
    assert taken(path, clock).used() == (0, 0)


def test_sham_counts_as_what_it_delivered(path: Path) -> None:
    """The guard counts current, not arms: two short ramps are a session with a small charge."""
    clock = SetClock()
    book = taken(path, clock)
    gate(book, clock, used_uc=20, used_ms=400)
    book.finish()
    book.close()
    (session,) = sessions_of(Ledger(path), "P001", emulated=False)
    assert (session.counted_uc, session.counted_ms, session.counts) == (20, 400, True)
    with pytest.raises(DoseBookError, match="wait another 24 h"):
        taken(path, clock)


def test_participants_do_not_block_each_other_and_small_letters_are_no_other_person(path: Path) -> None:
    clock = SetClock()
    book, other = taken(path, clock, "P001"), taken(path, clock, "P002")
    gate(book, clock)
    gate(other, clock)
    gate(book, clock)
    for one in (book, other):
        one.finish()
        one.close()
    assert [s.counted_uc for s in sessions_of(Ledger(path), "P001", emulated=False)] == [800]
    with pytest.raises(DoseBookError, match="dose of P001"):
        taken(path, clock, "p001")


# ---- crashes


def test_after_a_crash_the_same_session_goes_on_with_the_remaining_dose_only(path: Path) -> None:
    clock = SetClock()
    book = taken(path, clock, session="first")
    gate(book, clock)
    book.reserve(1000, 2000)
    book.close()  # killed under current: never settled
    clock.run(600)
    again = taken(path, clock, session="second")
    assert again.used() == (1400, 2900)
    assert again.notes()[1] == "session first was cut short and goes on with what is left of its dose"
    gate(again, clock, used_uc=100, used_ms=100)
    again.close()
    third = taken(path, clock, session="third")
    assert third.used() == (1500, 3000)
    third.reserve(10, 10)
    third.settle(0, 0)
    third.finish()
    third.close()
    with pytest.raises(DoseBookError, match=r"the last session \(first\)"):
        taken(path, clock, session="fourth")
    assert [s.name for s in sessions_of(Ledger(path), "P001", emulated=False)] == ["first"]


def test_many_crashes_never_add_up_to_more_than_one_session(path: Path) -> None:
    """F54: many short sessions, each killed: the guard refuses more once the session's dose is reserved."""
    clock = SetClock()
    settings = make_settings(max_charge_uc=10_000, max_on_time_s=600.0)
    flowed = 0
    for _ in range(20):
        bench = Bench(settings, book=book_of(path, clock))  # type: ignore[arg-type]
        bench.to_safe()
        bench.arm()
        if bench.phase != "armed":
            assert bench.refusals == ["not armed: the session's dose is used up"]
            break
        bench.run(0.1)
        bench.reserve()
        if any("dose:" in refusal for refusal in bench.refusals):
            break
        bench.wanted_ua = 100
        bench.run(3.0)
        flowed += bench.report().charge_uc
        bench.book.close()  # type: ignore[attr-defined]
        clock.run(60)
    else:
        pytest.fail("it was never refused")
    assert 0 < flowed <= 10_000
    (session,) = sessions_of(Ledger(path), "P001", emulated=True)
    assert session.counted_uc <= 10_000


def test_a_crashed_session_does_not_go_on_forever(path: Path) -> None:
    clock = SetClock()
    book = taken(path, clock)
    book.reserve(1000, 2000)
    book.close()
    clock.run(DAY_S + 1)
    later = taken(path, clock)
    assert later.used() == (1000, 2000), "until the reservation's own end is a day ago"
    later.close()
    clock.run(2)
    assert taken(path, clock).used() == (0, 0)


def test_a_refund_that_could_not_be_written_is_written_with_the_next_booking(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SetClock()
    book = taken(path, clock)
    book.reserve(1000, 2000)
    with monkeypatch.context() as full:
        full.setattr(Ledger, "put", _disk_full)
        with pytest.raises(DoseBookError, match="full"):
            book.settle(400, 900)
    book.reserve(500, 700)
    (session,) = sessions_of(Ledger(path), "P001", emulated=False)
    assert (session.charge_uc, session.open_uc) == (400, 500)


def _disk_full(*_: object) -> None:
    raise DoseBookError("dose.sqlite: database or disk is full")


# ---- clocks


def test_a_wall_clock_before_the_last_entry_is_refused(path: Path) -> None:
    clock = SetClock()
    book = taken(path, clock)
    gate(book, clock)
    clock.wall_s -= 3600
    with pytest.raises(DoseBookError, match=r"3600\.0 s behind the last entry .* set this computer's clock right"):
        book.reserve(10, 10)
    book.close()
    with pytest.raises(DoseBookError, match="behind the last entry"):
        taken(path, clock)


def test_a_clock_set_back_under_current_makes_that_current_no_older(path: Path) -> None:
    clock = SetClock()
    book = taken(path, clock)
    book.reserve(1000, 2000)
    clock.wall_s -= 5000
    book.settle(400, 900)
    (session,) = sessions_of(Ledger(path), "P001", emulated=False)
    assert session.counted_uc == 400
    assert session.last.wall_ns == session.began.wall_ns


def test_a_clock_set_forward_gains_nothing_within_one_boot(path: Path) -> None:
    clock = SetClock()
    book = taken(path, clock)
    gate(book, clock)
    book.finish()
    book.close()
    clock.wall_s += 3 * DAY_S
    with pytest.raises(DoseBookError, match="wait another 24 h"):
        taken(path, clock)
    clock.boot_s += 2 * DAY_S
    taken(path, clock).close()


def test_time_between_two_boots_is_the_wall_clocks() -> None:
    assert elapsed_ns(Moment(0, "a", 90), Moment(100, "b", 5)) == 100
    assert elapsed_ns(Moment(0, "a", 90), Moment(100, "a", 120)) == 30
    assert elapsed_ns(Moment(0, "", 90), Moment(100, "", 120)) == 100


# ---- two guards at once


def test_a_second_guard_of_the_same_participant_is_refused(path: Path) -> None:
    clock = SetClock()
    book = taken(path, clock)
    with pytest.raises(DoseBookError, match="another guard is at work for participant P001"):
        taken(path, clock)
    with pytest.raises(DoseBookError, match="another guard is at work for participant P001"):
        taken(path, clock, "p001")
    book.close()
    taken(path, clock).close()


def test_a_lock_goes_with_a_killed_process(path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path; from ledger_rig import SetClock, taken;"
        "book = taken(Path(sys.argv[1]), SetClock()); book.reserve(1000, 2000); print('taken', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(path), str(Path(__file__).parent)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "taken\n"
    with pytest.raises(DoseBookError, match="another guard is at work"):
        taken(path, SetClock())
    holder.kill()
    holder.communicate()
    assert taken(path, SetClock()).used() == (1000, 2000)


def test_two_guards_whose_lock_was_deleted_never_spend_the_same_dose_twice(path: Path) -> None:
    clock = SetClock()
    first = taken(path, clock)
    first.reserve(1000, 2000)
    for lock in path.parent.glob("*.lock"):
        lock.unlink()
    second = taken(path, clock, session="s2")
    assert second.used() == (1000, 2000)
    second.reserve(500, 500)
    with pytest.raises(DoseBookError, match="another guard has booked a dose for participant P001 meanwhile"):
        first.reserve(1000, 2000)
    with pytest.raises(DoseBookError, match="another guard has booked"):
        first.settle(400, 900)
    (session,) = sessions_of(Ledger(path), "P001", emulated=False)
    assert session.counted_uc == 1500


def test_many_guards_of_many_participants_write_at_once(path: Path) -> None:
    clock = SetClock()
    books = [taken(path, clock, f"P{number}") for number in range(6)]

    def work(book: LedgerBook) -> None:
        for _ in range(4):
            book.reserve(1000, 2000)
            book.settle(100, 200)

    threads = [threading.Thread(target=work, args=(book,)) for book in books]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    whole = Ledger(path)
    assert [sessions_of(whole, f"P{n}", emulated=False)[0].counted_uc for n in range(6)] == [400] * 6


# ---- emulators


def test_an_emulators_dose_is_kept_apart_and_goes_when_its_session_has_ended(tmp_path: Path) -> None:
    clock, apart = SetClock(), tmp_path / "s.dose.sqlite"
    for _ in range(2):
        book = LedgerBook(make_settings(), apart, clock)
        book.take(EMULATOR)
        gate(book, clock)
        assert apart.exists()
        book.finish()
        assert list(tmp_path.iterdir()) == []
    crashed = LedgerBook(make_settings(), apart, clock)
    crashed.take(EMULATOR)
    gate(crashed, clock)
    crashed.close()
    again = LedgerBook(make_settings(), apart, clock)
    again.take(EMULATOR)
    assert again.used() == (400, 900)


def test_an_emulator_on_a_named_ledger_blocks_emulated_sessions_alone(path: Path) -> None:
    clock = SetClock()
    book = taken(path, clock, emulated=True)
    gate(book, clock)
    book.finish()
    book.close()
    with pytest.raises(DoseBookError, match="wait another 24 h"):
        taken(path, clock, emulated=True)
    assert taken(path, clock).used() == (0, 0)


def test_nobodys_dose_is_never_counted(path: Path) -> None:
    with pytest.raises(DoseBookError, match="no participant is named"):
        book_of(path, SetClock(), "").take(EMULATOR)


# ---- what the entries may be


def test_entries_that_no_guard_writes_are_refused() -> None:
    at = Moment(0, "", 0)
    base = Entry(seq=0, participant="P", emulated=False, kind="begin", session=0, run="r", at=at)
    change = msgspec.structs.replace
    for wrong in (
        [change(base, kind="reserve")],
        [change(base, session=3)],
        [base, base],
        [base, change(base, seq=1, kind="settle", charge_uc=-5)],
        [base, change(base, seq=1, kind="close"), change(base, seq=2, kind="reserve", charge_uc=1)],
    ):
        with pytest.raises(ValueError, match="cannot stand there"):
            fold(wrong)


KINDS = st.sampled_from(["reserve", "settle", "resume"])


@given(st.lists(st.tuples(KINDS, st.integers(0, 1000), st.integers(0, 1000)), max_size=30))
def test_what_counts_is_never_less_than_what_was_settled_or_stands_open(steps: list[tuple[str, int, int]]) -> None:
    at = Moment(0, "", 0)
    entries = [Entry(seq=0, participant="P", emulated=False, kind="begin", session=0, run="r", at=at)]
    least = open_uc = 0
    for kind, charge_uc, on_time_ms in steps:
        given_uc = 0 if kind == "resume" else charge_uc
        entries.append(
            Entry(seq=len(entries), participant="P", emulated=False, kind=kind, session=0, run="r", at=at,  # type: ignore[arg-type]
                  charge_uc=given_uc, on_time_ms=0 if kind == "resume" else on_time_ms)
        )
        least += charge_uc if kind == "settle" else open_uc if kind == "resume" else 0
        open_uc = charge_uc if kind == "reserve" else 0
        (session,) = fold(entries)
        assert session.counted_uc == least + open_uc


# ---- the guard and its clerk


class SlowBook(MemoryDoseBook):
    """A ledger on a disk that takes its time."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.done = threading.Event()

    def reserve(self, charge_uc: int, on_time_ms: int) -> None:
        self.go.wait(10)
        super().reserve(charge_uc, on_time_ms)
        self.done.set()


class SlowBench(Bench):
    """A bench whose bookings are done in a thread, as the guard process does them."""

    def __init__(self) -> None:
        super().__init__(book=SlowBook())
        self.clerk: ThreadClerk | None = None

        def clerk(book: object) -> ThreadClerk:
            self.clerk = ThreadClerk(book)  # type: ignore[arg-type]
            return self.clerk

        self.core = GuardCore(self.settings, self.device, b"test", self.book, clerk)


def test_nothing_rises_before_the_reservation_is_on_disk() -> None:
    bench = SlowBench().to_armed()
    bench.reserve()
    bench.wanted_ua = 50
    bench.run(0.5)
    assert (bench.phase, bench.level, bench.report().reserved_uc) == ("live", 0, 0)
    bench.book.go.set()  # type: ignore[attr-defined]
    assert bench.book.done.wait(10)  # type: ignore[attr-defined]
    assert bench.clerk is not None
    assert bench.clerk.close()
    bench.run(1.0)
    assert bench.level == 50
    assert bench.report().reserved_uc == 3360


def test_a_ledger_that_hangs_is_given_up_and_the_reservation_refunded() -> None:
    bench = SlowBench().to_armed()
    bench.reserve()
    bench.wanted_ua = 50
    bench.run(1.5)
    assert bench.refusals[0] == "dose: the ledger has not committed within 1000 ms"
    assert bench.level == 0
    bench.book.go.set()  # type: ignore[attr-defined]
    assert bench.clerk is not None
    assert bench.clerk.close()
    assert bench.book.used() == (0, 0)
    bench.run(0.5)
    assert bench.level == 0


def test_the_clerk_answers_every_reservation_once_and_keeps_their_order() -> None:
    book = MemoryDoseBook()
    clerk = ThreadClerk(book)
    for job in (Book(1, 10, 10), Settle(3, 3), Book(2, 20, 20)):
        clerk.take(job)
    assert clerk.close()
    assert clerk.results() == [Booked(1), Booked(2)]
    assert clerk.results() == []
    assert book.used() == (23, 23)
    failing = ThreadClerk(_Failing())
    failing.take(Book(7, 1, 1))
    assert failing.close()
    assert failing.results() == [BookFailed(7, "no room")]


class _Failing(MemoryDoseBook):
    def reserve(self, charge_uc: int, on_time_ms: int) -> None:
        raise DoseBookError("no room")
