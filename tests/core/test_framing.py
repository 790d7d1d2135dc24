"""Framing: each fault of a stream's timing is named, and each sample is handed on once and in order (I13)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from devices.units import NS_PER_MS, NS_PER_S
from loop.events import Int64s
from loop.framing import Framed, Framer

RATE_HZ = 500.0
PERIOD_NS = 2 * NS_PER_MS
JITTER_NS = 30 * NS_PER_MS
HOUR_NS = 3600 * NS_PER_S
N = 10


def stamps(first: int, n: int = N, offset_ns: int = 0) -> Int64s:
    """Stamps of samples `first` to `first + n` on the regular grid."""
    return (np.arange(first, first + n, dtype=np.int64) * PERIOD_NS) + 100 * HOUR_NS + offset_ns


def take(framer: Framer, chunk: Int64s, late_ns: int = 5 * NS_PER_MS, offset_ns: int = 0) -> Framed:
    """Give one chunk, arriving `late_ns` after its last sample; `offset_ns` is how wrong its clock is."""
    return framer.take(int(chunk[-1]) - offset_ns + late_ns if len(chunk) else 0, chunk)


def started(chunks: int = 5) -> Framer:
    framer = Framer(RATE_HZ, JITTER_NS)
    for k in range(chunks):
        assert take(framer, stamps(k * N)) == Framed(0, N, False, True, ())
    return framer


def names(framed: Framed) -> list[str]:
    return [fault.name for fault in framed.faults]


def test_a_gap_between_chunks_restarts_and_counts_what_is_missing() -> None:
    framed = take(started(), stamps(150))
    assert (framed.start, framed.stop, framed.restart, framed.fresh) == (0, N, True, True)
    assert names(framed) == ["gap"]
    assert framed.faults[0].detail == "100 samples missing (200 ms)"


def test_a_gap_inside_a_chunk_discards_the_chunk_and_restarts() -> None:
    framer = started()
    framed = take(framer, np.concatenate([stamps(50, 5), stamps(155, 5)]))
    assert (framed.start, framed.stop, framed.restart, framed.fresh) == (0, 0, True, False)
    assert names(framed) == ["gap"]
    assert "100 samples missing inside a chunk" in framed.faults[0].detail
    assert take(framer, stamps(160)) == Framed(0, N, False, True, ())


@pytest.mark.parametrize("size", [1, 5, 10, 50])
def test_a_repeated_chunk_is_left_out_whatever_its_length(size: int) -> None:
    framer = Framer(RATE_HZ, JITTER_NS)
    for k in range(6):
        take(framer, stamps(k * size, size))
    framed = take(framer, stamps(5 * size, size))
    assert framed.start == framed.stop == size
    assert not framed.fresh
    assert names(framed) == ["duplicate"]
    assert take(framer, stamps(6 * size, size)) == Framed(0, size, False, True, ())


@pytest.mark.parametrize("old", [1, 5, 9, 40])
def test_of_a_partly_repeated_chunk_only_the_new_samples_are_taken(old: int) -> None:
    framed = take(started(), stamps(50 - old, old + 4))
    assert (framed.start, framed.stop) == (old, old + 4)
    assert framed.fresh
    assert names(framed) == ["duplicate"]


def test_samples_that_come_twice_inside_a_chunk_discard_it() -> None:
    framed = take(started(), np.concatenate([stamps(50, 6), stamps(53, 6)]))
    assert (framed.stop, framed.restart) == (0, True)
    assert names(framed) == ["duplicate"]


def test_samples_that_share_their_stamps_discard_the_chunk() -> None:
    framed = take(started(), np.repeat(stamps(50, 1), N))
    assert (framed.stop, framed.restart) == (0, True)
    assert names(framed) == ["duplicate"]


def test_stamps_that_run_backwards_inside_a_chunk_discard_it() -> None:
    framed = take(started(), np.concatenate([stamps(80, 5), stamps(55, 5)]))
    assert (framed.stop, framed.restart, framed.fresh) == (0, True, False)
    assert names(framed) == ["reorder"]


def test_of_swapped_chunks_the_late_one_is_left_out() -> None:
    framer = started()
    first, second = take(framer, stamps(90, 40)), take(framer, stamps(50, 40))
    assert names(first) == ["gap"]
    assert first.restart
    assert names(second) == ["duplicate"]
    assert second.start == second.stop == 40


def test_old_data_after_a_broken_chunk_is_not_taken_again() -> None:
    framer = started()
    take(framer, np.concatenate([stamps(50, 5), stamps(155, 5)]))
    framed = take(framer, stamps(0, 50))
    assert framed.start == framed.stop
    assert names(framed) == ["duplicate"]


def test_a_burst_of_old_data_is_taken_once_but_is_no_sign_of_life() -> None:
    framer = started()
    burst = [take(framer, stamps(50 + k * N), late_ns=(2000 - k * 20) * NS_PER_MS) for k in range(95)]
    assert [f.stop - f.start for f in burst] == [N] * 95
    assert not any(f.fresh for f in burst[:90])
    assert [name for f in burst for name in names(f)] == ["late_data"], "said once, not a hundred times"
    assert take(framer, stamps(50 + 95 * N)).fresh


@pytest.mark.parametrize("jump_ns", [HOUR_NS, -HOUR_NS])
def test_a_clock_jump_restarts_and_what_follows_is_no_sign_of_life(jump_ns: int) -> None:
    framer = started()
    framed = take(framer, stamps(50, offset_ns=jump_ns), offset_ns=jump_ns)
    assert names(framed) == ["clock_jump", "late_data"]
    assert framed.restart
    later = [take(framer, stamps(60 + k * N, offset_ns=jump_ns), offset_ns=jump_ns) for k in range(20)]
    assert not any(f.fresh or f.restart for f in later)
    back = take(framer, stamps(260))
    assert back.restart
    assert back.fresh
    assert back.stop - back.start == N


@pytest.mark.parametrize("factor", [0.97, 1.03])
def test_a_rate_that_is_off_by_three_percent_is_named(factor: float) -> None:
    framer = Framer(RATE_HZ, JITTER_NS)
    grid = (np.arange(round(12 * RATE_HZ)) * PERIOD_NS / factor).astype(np.int64)
    faults = [f for k in range(0, len(grid), N) for f in take(framer, grid[k : k + N]).faults]
    assert {f.name for f in faults} == {"rate_drift"}
    assert f"{500 * factor:.2f} samples a second instead of 500.00" in faults[0].detail


@pytest.mark.parametrize("factor", [0.99, 1.0, 1.01])
def test_a_rate_within_the_tolerance_is_not_named(factor: float) -> None:
    framer = Framer(RATE_HZ, JITTER_NS)
    grid = (np.arange(round(25 * RATE_HZ)) * PERIOD_NS / factor).astype(np.int64)
    assert not [f for k in range(0, len(grid), N) for f in take(framer, grid[k : k + N]).faults]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([1, 4, 10, 32]),
    rate=st.sampled_from([128.0, 499.93, 2048.0]),
)
def test_jitter_within_the_tolerance_is_no_fault(seed: int, size: int, rate: float) -> None:
    rng = np.random.default_rng(seed)
    framer = Framer(rate, JITTER_NS)
    for k in range(120):
        grid = ((k * size + np.arange(size)) * 1e9 / rate).astype(np.int64)
        shift = int(rng.uniform(-0.45, 0.45) * JITTER_NS)
        framed = framer.take(int(grid[-1]) + JITTER_NS, grid + shift)
        assert framed == Framed(0, size, False, True, ())


def test_an_empty_chunk_changes_nothing() -> None:
    framer = started()
    assert framer.take(0, stamps(0, 0)) == Framed(0, 0, False, False, ())
    assert take(framer, stamps(50)) == Framed(0, N, False, True, ())


CHANGES = ["plain", "plain", "plain", "drop", "repeat", "repeat_old", "overlap", "swap", "broken"]


@settings(max_examples=150, deadline=None)
@given(
    changes=st.lists(st.sampled_from(CHANGES), min_size=1, max_size=40), size=st.sampled_from([1, 3, 10, 40])
)
@example(changes=["plain", "plain", "swap", "plain", "swap"], size=10)
def test_whatever_comes_each_sample_is_handed_on_at_most_once_and_in_order(
    changes: list[str], size: int
) -> None:
    framer, at, sent = Framer(RATE_HZ, JITTER_NS), 0, []
    for change in changes:
        block = stamps(at, size)
        if change == "drop":
            at += 40
            block = stamps(at, size)
        if change == "broken":
            block = np.concatenate([stamps(at, size), stamps(at + 300, size)])
        sent.append(block)
        if change == "repeat":
            sent.append(block)
        if change == "repeat_old":
            sent.append(stamps(max(0, at - 5 * size), size))
        if change == "overlap":
            sent.append(stamps(max(0, at - size // 2), size + size // 2))
        if change == "swap" and len(sent) > 1:
            sent[-1], sent[-2] = sent[-2], sent[-1]
        at += size
    handed: list[int] = []
    for block in sent:
        framed = take(framer, block)
        rows = block[framed.start : framed.stop].tolist()
        # From the newest sample so far: a chunk that came late, within the tolerated jitter, opens no gap behind it.
        if handed and rows and rows[0] - max(handed) > PERIOD_NS + JITTER_NS and not framed.restart:
            assert any(change == "broken" for change in changes), "samples over a gap were joined"
        handed.extend(rows)
    assert len(set(handed)) == len(handed), "no sample twice"
    # Chunks that come late and are shorter than the tolerated jitter cannot be told from jitter.
    least = 1 if size * PERIOD_NS > JITTER_NS else -2 * JITTER_NS
    assert all(b - a >= least for a, b in zip(handed, handed[1:], strict=False)), "none out of order"
    if set(changes) == {"plain"}:
        assert handed == stamps(0, at).tolist()
