"""Dose, garbage and reports (I04; F31, F54)."""

from __future__ import annotations

import pytest
from guard_doubles import (
    TICK,
    Bench,
    FailingBook,
    make_settings,
)

from devices.guard_core import MemoryDoseBook

# ---- dose (I04, F54)


def test_a_gate_is_booked_before_and_settled_after() -> None:
    bench = Bench().to_live()
    bench.reserve()
    assert bench.book.used() == (3360, 21_000)
    assert bench.report().reserved_uc == 3360
    bench.wanted_ua = 100
    bench.run(3.0)
    bench.wanted_ua = 0
    bench.run(1.5)
    report = bench.report()
    assert (bench.level, report.reserved_uc) == (0, 0)
    assert bench.book.used() == (report.charge_uc, report.on_time_ms)
    true_uc = sum(abs(level) for _, level in bench.device.history) * 0.01
    assert true_uc - 3 <= report.charge_uc <= 1.05 * true_uc + 3
    bench.wanted_ua = 10
    bench.run(0.1)
    assert bench.level == 0
    assert "no dose is reserved" in bench.refusals[0]


def test_the_larger_of_commanded_and_measured_counts() -> None:
    low, high = Bench().to_live(100), Bench().to_live(100)
    low.device.added_ua, high.device.added_ua = -40.0, 40.0
    low.run(0.1)
    high.run(0.1)
    start = (low.report().charge_uc, high.report().charge_uc)
    low.run(5.0)
    high.run(5.0)
    assert low.report().charge_uc - start[0] == pytest.approx(500, abs=2)
    assert high.report().charge_uc - start[1] == pytest.approx(700, abs=2)


def test_a_reservation_that_is_used_up_ends_the_gate_within_it() -> None:
    bench = Bench().to_live()
    bench.reserve(charge_uc=500, on_time_ms=21_000)
    bench.wanted_ua = 100
    bench.run(10.0, until="safe")
    assert bench.reason == "the reserved dose is used up"
    assert bench.report().charge_uc <= 500


def test_a_time_reservation_ends_the_gate_within_it() -> None:
    bench = Bench().to_live()
    bench.reserve(charge_uc=3360, on_time_ms=4000)
    bench.wanted_ua = 100
    bench.run(10.0, until="safe")
    assert bench.report().on_time_ms <= 4000 + 150


def test_the_session_caps_refuse_more() -> None:
    bench = Bench(make_settings(max_charge_uc=3400, max_on_time_s=100.0)).to_live()
    bench.reserve(charge_uc=3401)
    assert bench.refusals[-1] == "dose: 3401 uC asked, 3400 uC left"
    bench.reserve(on_time_ms=100_001)
    assert bench.refusals[-1] == "dose: 100001 ms with current asked, 100000 ms left"
    bench.reserve(charge_uc=0)
    assert bench.refusals[-1] == "an empty reservation"
    assert bench.book.used() == (0, 0)


def test_what_the_ledger_holds_counts_from_the_start() -> None:
    book = MemoryDoseBook()
    book.reserve(97_000, 1000)
    bench = Bench(book=book).to_live()
    bench.reserve()
    assert bench.refusals[-1] == "dose: 3360 uC asked, 3000 uC left"
    book.reserve(100_000, 1000)
    full = Bench(book=book).to_safe()
    full.arm()
    assert full.refusals == ["not armed: the session's dose is used up"]


def test_an_unused_reservation_is_replaced_and_refunded() -> None:
    bench = Bench().to_live()
    bench.reserve()
    bench.reserve(charge_uc=500, on_time_ms=5000)
    assert bench.book.used() == (500, 5000)
    bench.stop(2)
    bench.run(0.1)
    assert bench.book.used() == (0, 0)
    assert bench.report().reserved_uc == 0


def test_no_reservation_while_current_flows_or_while_disarmed() -> None:
    bench = Bench().to_live(50)
    bench.reserve()
    assert "not settled" in bench.refusals[-1]
    safe = Bench().to_safe()
    safe.reserve()
    assert safe.refusals == ["no dose is reserved while safe (started)"]


def test_a_ledger_that_cannot_be_written_lets_nothing_flow() -> None:
    bench = Bench(book=FailingBook()).to_live()
    bench.reserve()
    assert bench.refusals == ["dose: the ledger could not be written: ledger.sqlite: no space left on device"]
    bench.wanted_ua = 10
    bench.run(0.2)
    assert bench.level == 0


def test_dose_left_over_after_a_crash_counts_in_full() -> None:
    book = MemoryDoseBook()
    bench = Bench(book=book).to_live()
    bench.reserve()
    bench.wanted_ua = 100
    bench.run(1.0)
    again = Bench(book=book).to_safe()
    assert again.report().charge_uc == 3360


# ---- link (F31)


def test_garbage_three_times_in_a_second_cuts() -> None:
    bench = Bench().to_live(100)
    bench.bytes(b"\x00")
    bench.run(0.3)
    bench.bytes(b"junk")
    assert bench.phase == "live"
    bench.run(0.3)
    bench.bytes(b"")
    assert bench.phase == "latched"
    assert bench.reason.startswith("garbage from the engine, 3 times in 1 s")


def test_garbage_now_and_then_is_only_counted() -> None:
    bench = Bench().to_live(20)
    for _ in range(5):
        bench.bytes(b"junk")
        bench.run(0.51)
    assert bench.phase == "live"
    assert bench.report().dropped == 5


# ---- reports


def test_reports_come_every_50_ms_and_at_every_change() -> None:
    bench = Bench().to_live()
    start = len(bench.reports)
    bench.run(1.0)
    assert len(bench.reports) - start == 20
    bench.stop(0)
    assert bench.reports[-1].phase == "latched"


def test_a_report_tells_level_lease_and_dose() -> None:
    bench = Bench(make_settings(polarity="cathodal")).to_live(100)
    report = bench.report()
    assert report.level_ua == 100
    assert report.measured_ua == pytest.approx(-100.0)
    assert 200 <= report.lease_left_ms <= 250
    assert report.last_seq == bench.seq
    assert report.impedance_ohm == 5000.0


def test_ticks_are_counted_from_the_first() -> None:
    bench = Bench()
    bench.tick(after_ns=10**12)
    assert bench.phase == "zeroing"
    bench.tick(after_ns=TICK)
    assert bench.phase == "zeroing"


def test_a_gate_that_has_come_down_needs_a_reservation_to_rise_again_even_before_it_is_settled() -> None:
    bench = Bench().to_live(20)
    bench.wanted_ua = 0
    while bench.level:
        bench.tick()
    assert bench.report().reserved_uc > 0
    bench.command(10)
    assert bench.refusals == ["no dose is reserved for this level: send Reserve first"]
    bench.run(0.02)
    assert bench.level == 0


def test_a_new_reservation_waits_for_the_gate_before_to_be_settled() -> None:
    bench = Bench().to_live(20)
    bench.wanted_ua = 0
    while bench.level:
        bench.tick()
    used_uc = bench.report().charge_uc
    bench.reserve()
    assert bench.refusals == ["the gate before is not settled: zero current is not confirmed yet"]
    assert bench.report().charge_uc == used_uc > 0
    bench.run(0.2)
    bench.reserve()
    assert bench.report().reserved_uc == 3360
    assert bench.report().charge_uc == used_uc
