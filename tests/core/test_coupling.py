"""Imaginary coherency: blind to volume conduction, sees a lag and its direction, and is the same for any chunking."""

from __future__ import annotations

import numpy as np
import pytest
from core_config import configured
from core_play import LABELS, RATE_HZ, layout

from loop import coupling
from loop.coupling import PAIRS, CouplingWatch, imaginary_coherency
from loop.estimator import Estimator

N = 500
LAG = 10
FRONTAL_THETA_LEFT = PAIRS.index("PF_L–frontal theta")


def plan(labels: tuple[str, ...] = LABELS) -> coupling.Plan:
    stream = layout(labels)
    made = coupling.plan_for(Estimator(configured(), stream), stream)
    assert made is not None
    return made


def band(seed: int, n: int) -> np.ndarray:
    """A rhythm of 5.5 Hz whose phase wanders, (n,)."""
    rng = np.random.default_rng(seed)
    phase = 2 * np.pi * 5.5 * np.arange(n) / RATE_HZ + 0.02 * np.cumsum(rng.normal(size=n))
    return 10.0 * np.cos(phase)


def mean_over_epochs(samples: np.ndarray) -> np.ndarray:
    """Mean figure of each pair over epochs of (n, n_channels)."""
    epochs = [imaginary_coherency(plan(), part) for part in samples.reshape(-1, N, len(LABELS))]
    return np.mean(epochs, axis=0)


def noise(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, 2.0, (n, len(LABELS)))


def test_what_one_source_sends_to_all_electrodes_at_once_is_not_seen_though_envelopes_correlate() -> None:
    x = noise(40 * N)
    source = band(1, len(x)) * (1.0 + 0.8 * np.sin(2 * np.pi * 0.3 * np.arange(len(x)) / RATE_HZ))
    x += source[:, None] * np.array([1.0, 0.8, 0.5, 0.1, 0.7, 0.2, 0.1, 0.1])
    assert np.abs(mean_over_epochs(x)).max() < 0.05
    left, frontal = x[:, 0] - x.mean(axis=1), x[:, LABELS.index("Fz")] - x.mean(axis=1)
    smooth = np.ones(50) / 50
    envelopes = [np.convolve(one**2, smooth, "valid") for one in (left, frontal)]
    assert np.corrcoef(envelopes)[0, 1] > 0.5


@pytest.mark.parametrize("leads", [True, False])
def test_a_lag_is_seen_with_its_direction_and_in_its_band(leads: bool) -> None:
    x = noise(40 * N)
    source = band(2, len(x) + LAG)
    early, late = source[LAG:], source[:-LAG]
    x[:, 0] += early if leads else late
    x[:, LABELS.index("Fz")] += late if leads else early
    figures = mean_over_epochs(x)
    assert figures[FRONTAL_THETA_LEFT] * (1 if leads else -1) > 0.4
    assert abs(figures[PAIRS.index("PF_L–frontal beta")]) < 0.05


def test_equals_scipys_cross_spectrum() -> None:
    from scipy import signal

    x, made = noise(N, seed=3), plan()
    found = imaginary_coherency(made, x)
    referenced = x - x.mean(axis=1, keepdims=True)
    left, frontal = referenced[:, 0], referenced[:, LABELS.index("Fz")]
    settings = {"fs": RATE_HZ, "window": "hann", "nperseg": N, "noverlap": 0, "detrend": "constant"}
    f, cross = signal.csd(frontal, left, **settings)
    inside = (f >= 4.0) & (f <= 7.0)
    power = [signal.welch(one, **settings)[1][inside].sum() for one in (left, frontal)]
    expected = cross[inside].imag.sum() / np.sqrt(power[0] * power[1])
    assert found[FRONTAL_THETA_LEFT] == pytest.approx(expected, abs=1e-12)


def test_chunking_is_invariant() -> None:
    x = noise(7 * N + 123)
    x_flagged = np.array([2 * N + 77, 5 * N - 1])
    stamps = np.arange(len(x), dtype=np.int64) * 4_000_000
    results = []
    for seed in range(4):
        cuts = sorted(set(np.random.default_rng(seed).integers(1, len(x), [0, 5, 60, 700][seed]).tolist()))
        watch = CouplingWatch(plan())
        found = []
        for start, stop in zip([0, *cuts], [*cuts, len(x)], strict=True):
            inside = x_flagged[(x_flagged >= start) & (x_flagged < stop)]
            watch.take(start, 10, stamps[start:stop], x[start:stop], inside)
            found += watch.finished() if seed % 2 else []
        results.append(found + watch.finished())
    assert results[0] == results[1] == results[2] == results[3]
    assert [epoch.sample for epoch in results[0]] == [10 + k * N for k in (0, 1, 3, 5, 6)]
    assert results[0][1].first_ns == N * 4_000_000
    assert results[0][1].last_ns == (2 * N - 1) * 4_000_000


def test_a_break_loses_the_open_epoch_alone() -> None:
    x, watch = noise(4 * N), CouplingWatch(plan())
    stamps, none = np.arange(len(x), dtype=np.int64), np.zeros(0, dtype=np.int64)
    watch.take(0, 0, stamps[:600], x[:600], none)
    watch.reset()
    watch.take(600, 0, stamps[600:], x[600:], none)
    assert [epoch.sample for epoch in watch.finished()] == [0, 2 * N, 3 * N]


def test_numbers_that_are_none_give_no_epoch_and_silence_gives_zero() -> None:
    watch = CouplingWatch(plan())
    none = np.zeros(0, dtype=np.int64)
    x = noise(2 * N)
    x[3, 0] = np.nan
    x[N:] = 0.0
    watch.take(0, 0, np.arange(2 * N, dtype=np.int64), x, none)
    (silent,) = watch.finished()
    assert silent.imaginary == (0.0,) * 8


def test_a_cap_without_such_channels_has_no_coupling() -> None:
    stream = layout(("PO9", "PO10", "Oz", "Cz"))
    assert coupling.plan_for(Estimator(configured(), stream), stream) is None


def test_bad_channels_are_left_out_of_the_regions() -> None:
    stream = layout()
    made = coupling.plan_for(Estimator(configured('channels.bad=["C3"]'), stream), stream)
    assert made is not None
    assert made.weights[5][LABELS.index("C3")] == 0.0
    assert made.weights[5][LABELS.index("C4")] > 0.8
