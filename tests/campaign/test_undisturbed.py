"""Long undisturbed sessions, here short: no false stop, gates open, and a process that grows is found out (I25)."""

from __future__ import annotations

import random

import pytest

from loop.campaign import endurance
from loop.campaign.endurance import endure, growth, sentence


def test_an_undisturbed_session_meets_no_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endurance, "_FEW_GATES", ("gate.sense_s=60", "session.duration_s=86400"))
    found = endure("virtual", 240.0, lambda _: None, lambda: False)
    assert (found.stops, found.complete, found.done_s) == ([], True, pytest.approx(240.0, abs=10.0))
    assert found.gates == 3
    assert "0 false stops (at most 0)" in sentence(found)


def test_a_false_stop_is_told_and_is_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endurance, "_FEW_GATES", ("gate.sense_s=2", "session.duration_s=86400"))
    monkeypatch.setattr("loop.steering.LEASE_NS", 10_000_000)
    found = endure("virtual", 20.0, lambda _: None, lambda: False)
    assert any("lease expired" in reason for reason in found.stops)
    assert not found.well


def test_a_process_that_grows_is_told_from_one_that_scatters() -> None:
    rng = random.Random(1)
    scatter = [100_000.0 + rng.gauss(0.0, 200.0) for _ in range(24)]
    assert growth("flat", scatter).flat
    assert not growth("leak", [kib + 100.0 * n for n, kib in enumerate(scatter)]).flat
    stepped = [100_000.0 + 3.0 * n + (300.0 if n >= 10 else 0.0) for n in range(24)]
    assert growth("first touched late", stepped).flat
    assert not growth("slow leak", [100_000.0 + 8.0 * n for n in range(24)]).flat
    # Steps that the slope does not see, each larger than any that is none.
    for blocks in ([300.0 * (n // 5) for n in range(24)], [1000.0 * (n // 9) for n in range(24)]):
        assert not growth("leak in blocks", [100_000.0 + kib for kib in blocks]).flat
    assert growth("short", [5.0]).flat
    assert growth("still", [5.0] * 24).flat
