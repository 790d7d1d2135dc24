"""Which channels of a rest block are bad, and why, in words: dead ones, wild ones, and ones that follow no neighbour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import signal

from loop.calibration.spectrum import above_1_hz, held, welch
from loop.montage import spherical_position

Float64s = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

LEAST_CHANNELS: Final = 8

_FLAT_UV: Final = 0.5
_MOST_FLAT: Final = 0.2
_MOST_LOST: Final = 0.02
_NOISY_Z: Final = 4.0
_NOISY_TIMES: Final = 3.0
_QUIET_TIMES: Final = 6.0
_LEAST_SPREAD: Final = 0.2
_LEAST_ALIKE: Final = 0.3


def find_bad(
    samples_uv: Float64s,
    filled: Float64s,
    sfreq_hz: float,
    labels: Sequence[str],
    candidates: Bools,
    muscle_band_hz: tuple[float, float] | None,
    *,
    rail_uv: float,
    line_hz: float,
) -> dict[str, str]:
    """Bad candidates with the reason: first by what the amplifier shows, then against the rest of the cap.

    Parameters
    ----------
    samples_uv : ndarray, shape (n_times, n_channels)
        As recorded.
    filled : ndarray, shape (n_times, n_channels)
        The same without offsets and with each value that is no number held.
    sfreq_hz : float
    labels : sequence of str
    candidates : ndarray of bool, shape (n_channels,)
    muscle_band_hz : tuple of float or None
        Where muscle shows; None where the rate carries no such band.
    rail_uv : float
        Where the amplifier saturates.
    line_hz : float
        Mains frequency.

    Returns
    -------
    dict
        Reason in words by label, in the channels' order.
    """
    bad = _dead(samples_uv, sfreq_hz, rail_uv, candidates)
    rest = np.array([i for i in np.flatnonzero(candidates) if i not in bad], dtype=np.int64)
    if len(rest) >= LEAST_CHANNELS:
        # The median as a reference: a single wild channel does not reach the others through it.
        eeg = above_1_hz(filled[:, rest] - np.median(filled[:, rest], axis=1, keepdims=True), sfreq_hz)
        near = _neighbours([labels[i] for i in rest])
        reasons = _wild(eeg, sfreq_hz, near, muscle_band_hz, line_hz)
        reasons |= _lonely(eeg, sfreq_hz, near, set(reasons))
        bad |= {int(rest[k]): reason for k, reason in reasons.items()}
    return {labels[i]: bad[i] for i in sorted(bad)}


def _dead(samples_uv: Float64s, sfreq_hz: float, rail_uv: float, candidates: Bools) -> dict[int, str]:
    length = round(sfreq_hz)
    whole = len(samples_uv) // length * length
    bad: dict[int, str] = {}
    for i in np.flatnonzero(candidates):
        values = samples_uv[:, i]
        finite = np.isfinite(values)
        no_number = 1.0 - float(finite.mean())
        railed = float((np.abs(values[finite]) >= rail_uv).mean()) if finite.any() else 0.0
        flat = float((np.ptp(held(values[:whole]).reshape(-1, length), axis=1) < _FLAT_UV).mean())
        if no_number > _MOST_LOST:
            bad[int(i)] = f"no number in {100 * no_number:.0f} % of the samples"
        elif railed > _MOST_LOST:
            bad[int(i)] = f"at the amplifier's rail in {100 * railed:.0f} % of the samples"
        elif flat > _MOST_FLAT:
            bad[int(i)] = f"flat in {100 * flat:.0f} % of the seconds"
    return bad


def _wild(
    eeg: Float64s, sfreq_hz: float, near: list[list[int]], muscle_band_hz: tuple[float, float] | None, line_hz: float
) -> dict[int, str]:
    """Channels whose power stands out from the cap's; near the neck, muscle is judged against neighbours, who share it."""
    frequencies, power = welch(eeg, sfreq_hz)
    step = frequencies[1]
    mains = np.abs(frequencies - line_hz) <= 1.0
    below = (frequencies >= 1.0) & (frequencies <= min(40.0, line_hz - 5.0))
    size, hum = (np.sqrt(power[:, part].sum(axis=1) * step) for part in (below, mains))
    z, times = _against_cap(size)
    hum_z, hum_times = _against_cap(hum)
    reasons: dict[int, str] = {}
    for i in range(len(power)):
        if z[i] > _NOISY_Z and times[i] > _NOISY_TIMES:
            reasons[i] = f"noisy: {times[i]:.1f} times the cap's usual amplitude (1–40 Hz)"
        elif z[i] < -_NOISY_Z and times[i] < 1.0 / _QUIET_TIMES:
            reasons[i] = f"hardly any signal: {times[i]:.2f} times the cap's usual amplitude (1–40 Hz)"
        elif hum_z[i] > _NOISY_Z and hum_times[i] > _NOISY_TIMES and hum[i] > 2.0 * size[i]:
            reasons[i] = f"mains: {hum[i]:.0f} µV, {hum_times[i]:.0f} times what the cap usually has"
    if muscle_band_hz is not None:
        low, high = muscle_band_hz
        away = np.abs(frequencies / line_hz - np.round(frequencies / line_hz)) * line_hz > 2.0
        fast = np.sqrt(power[:, (frequencies >= low) & (frequencies <= high) & away].sum(axis=1) * step)
        fast_z, fast_times = _against_cap(fast)
        for i, others in enumerate(near):
            if i in reasons or fast_z[i] < _NOISY_Z or fast_times[i] < _NOISY_TIMES:
                continue
            beside = fast[i] / max(fast[k] for k in others) if others else 0.0
            if beside > _NOISY_TIMES:
                reasons[i] = f"noisy at {low:.0f}–{high:.0f} Hz: {beside:.1f} times its noisiest neighbour"
    return reasons


def _against_cap(size: Float64s) -> tuple[Float64s, Float64s]:
    """Robust z of log amplitudes, and amplitudes in units of their median; very even caps are not taken at their word."""
    times = np.maximum(size, 1e-9) / max(float(np.median(size)), 1e-9)
    level = np.log(times)
    return level / max(_LEAST_SPREAD, 1.4826 * float(np.median(np.abs(level)))), times


def _neighbours(labels: Sequence[str]) -> list[list[int]]:
    """The four nearest others within 60 degrees of each channel; none where a channel has no known site or few others."""
    sites = [spherical_position(label) for label in labels]
    where = np.array([site if site is not None else (np.nan,) * 3 for site in sites])
    closeness = where @ where.T
    np.fill_diagonal(closeness, np.nan)
    out = []
    for row in closeness:
        within = [int(k) for k in np.argsort(-np.nan_to_num(row, nan=-2.0))[:4] if row[k] > 0.5]
        out.append(within if len(within) >= 3 else [])
    return out


def _lonely(eeg: Float64s, sfreq_hz: float, near: list[list[int]], known: set[int]) -> dict[int, str]:
    """Channels that none of their neighbours resembles (1–30 Hz, median over windows of 4 s); the worst goes first."""
    low = signal.butter(2, 30.0, fs=sfreq_hz, output="sos")
    every = max(1, int(sfreq_hz // 120.0))
    slow = signal.sosfilt(low, eeg, axis=0)[::every]
    length = round(4.0 * sfreq_hz / every)
    windows = slow[: len(slow) // length * length].reshape(-1, length, eeg.shape[1])
    with np.errstate(invalid="ignore"):
        alike = np.nan_to_num(np.median([np.corrcoef(window.T) for window in windows], axis=0))
    reasons: dict[int, str] = {}
    out = set(known)
    while True:
        best = {
            i: max(alike[i, k] for k in left)
            for i, others in enumerate(near)
            if i not in out and (left := [k for k in others if k not in out])
        }
        worst = min(best, key=lambda i: best[i], default=None)
        if worst is None or best[worst] >= _LEAST_ALIKE:
            return reasons
        reasons[worst] = f"does not follow its neighbours (correlation {best[worst]:.2f})"
        out.add(worst)
