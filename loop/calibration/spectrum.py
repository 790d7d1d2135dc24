"""Filters and spectra of recorded channels that several judgements on a rest block share."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import signal

Float64s = npt.NDArray[np.float64]

_WINDOW_S: Final = 2.0


def held(samples_uv: Float64s) -> Float64s:
    """A copy with each value that is no number replaced by the one before it (the first ones by the first number, or 0)."""
    out = np.array(samples_uv, dtype=np.float64)
    columns = out.reshape(len(out), -1)
    for i in np.flatnonzero(~np.isfinite(columns).all(axis=0)):
        column = columns[:, i]
        finite = np.flatnonzero(np.isfinite(column))
        if len(finite) == 0:
            column[:] = 0.0
            continue
        last = np.searchsorted(finite, np.arange(len(column)), side="right") - 1
        column[:] = column[finite[np.maximum(last, 0)]]
    return out


def above_1_hz(values: Float64s, sfreq_hz: float) -> Float64s:
    """Values (n_times, ...) behind a causal high-pass of 1 Hz."""
    high = signal.butter(2, 1.0, "highpass", fs=sfreq_hz, output="sos")
    return np.asarray(signal.sosfilt(high, values, axis=0), dtype=np.float64)


def welch(values: Float64s, sfreq_hz: float) -> tuple[Float64s, Float64s]:
    """Spectra by Welch's method, with the median over windows of 2 s.

    Parameters
    ----------
    values : ndarray, shape (n_times, n_channels)
        In µV.
    sfreq_hz : float

    Returns
    -------
    frequencies_hz : ndarray, shape (n_frequencies,)
    power_uv2_hz : ndarray, shape (n_channels, n_frequencies)
    """
    length = round(_WINDOW_S * sfreq_hz)
    frequencies, power = signal.welch(values, fs=sfreq_hz, nperseg=length, average="median", axis=0)
    return np.asarray(frequencies), np.asarray(power.T)


def noise_bandwidth_hz(sos: Float64s, sfreq_hz: float) -> float:
    """Bandwidth through which white noise would have the power that it has behind these sections, in Hz."""
    _, response = signal.sosfreqz(sos, worN=1 << 14, fs=sfreq_hz)
    return float(np.mean(np.abs(response) ** 2) * sfreq_hz / 2.0)
