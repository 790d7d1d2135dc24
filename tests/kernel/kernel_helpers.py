"""Parameters and recordings for the kernel's tests, small enough for the slow oracle."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, iirnotch, tf2sos

from cext import NO_IMPULSES, Kernel, KernelParams, Output
from cext.reference import ReferenceKernel

IDENTITY = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
Either = Kernel | ReferenceKernel


def design(sfreq: float, band: tuple[float, float]) -> NDArray[np.float64]:
    """High-pass 1 Hz, notch 50 Hz, band of order 1 (SCIENCE K2); shape (3, 6)."""
    high = butter(2, 1.0, "highpass", fs=sfreq, output="sos")
    notch = tf2sos(*iirnotch(50.0, 30.0, fs=sfreq))
    return np.vstack([high, notch, butter(1, band, "bandpass", fs=sfreq, output="sos")])


def make_params(seed: int = 0, **changes: Any) -> KernelParams:
    """Make sensible parameters: 5 channels, 4 learned streams (two bands, two sides), 1 muscle stream."""
    rng = np.random.default_rng(seed)
    sfreq = changes.get("sfreq_hz", 250.0)
    n_ch = changes.get("n_channels", 5)
    bands = [(4.0, 7.0)] * 2 + [(14.0, 30.0)] * 2 + [(0.3 * sfreq, 0.4 * sfreq)]
    projection = rng.normal(size=(5, n_ch))
    projection[4] = 0.0
    projection[4, 0] = 1.0
    taus = [0.12, 0.12, 0.05, 0.05, 0.05]
    values: dict[str, Any] = {
        "sfreq_hz": sfreq,
        "n_channels": n_ch,
        "used": np.ones(n_ch, bool),
        "reference": np.full(n_ch, 1.0 / n_ch),
        "projection": projection,
        "sos": np.stack([design(sfreq, band) for band in bands]),
        "n_sections": np.full(5, 3),
        "smoothing": np.array([math.exp(-1.0 / (tau * sfreq)) for tau in taus]),
        "pooling": np.eye(5),
        "n_learned": 4,
        "muscle_stream": 4,
        "warmup_samples": 25,
        "windows": np.array([[3, 8], [3, 8], [2, 5], [2, 5]]),
        "baseline": np.array([-6, -1]),
        "basis_channel": np.array([0, 0, 1]),
        "basis_tau_s": np.array([0.1, 0.4, 0.05]),
        "history_ticks": 32,
        "rail_uv": np.full(n_ch, 1e5),
        "flat_samples": 4,
    }
    return KernelParams(**(values | changes))


def plain_params(**changes: Any) -> KernelParams:
    """Make the smallest useful parameters: 1 channel, 1 chain without filter, power = last sample squared."""
    values: dict[str, Any] = {
        "sfreq_hz": 200.0,
        "n_channels": 1,
        "used": np.array([True]),
        "reference": np.zeros(1),
        "projection": np.ones((1, 1)),
        "sos": np.array([[IDENTITY]]),
        "n_sections": np.array([0]),
        "smoothing": np.zeros(1),
        "pooling": np.ones((1, 1)),
        "n_learned": 1,
        "muscle_stream": -1,
        "warmup_samples": 0,
        "windows": np.array([[1, 3]]),
        "baseline": np.array([-2, 0]),
        "basis_channel": np.array([0]),
        "basis_tau_s": np.array([0.1]),
        "history_ticks": 16,
        "rail_uv": np.full(1, np.inf),
        "flat_samples": 0,
    }
    return KernelParams(**(values | changes))


def recording(n: int, n_ch: int = 5, seed: int = 0) -> NDArray[np.float64]:
    """Make white noise of 10 microvolts, shape (n, n_ch)."""
    return np.random.default_rng(seed).normal(0.0, 10.0, size=(n, n_ch))


def run(kernel: Either, samples: NDArray[np.float64], impulses: Any = (), exclude: Any = None) -> Output:
    """Process one chunk."""
    skip = np.zeros(len(samples), np.uint8) if exclude is None else np.asarray(exclude, np.uint8)
    rows = np.array(impulses, np.int64).reshape(-1, 3) if len(impulses) else NO_IMPULSES
    return kernel.process(np.ascontiguousarray(samples), skip, rows)


def arrays(out: Output) -> list[NDArray[Any]]:
    """List the arrays of a result."""
    return list(out)


def joined(parts: list[Output]) -> Output:
    """Concatenate what several calls returned."""
    return Output(*(np.concatenate(column) for column in zip(*map(arrays, parts), strict=True)))


def same_bytes(a: Output, b: Output) -> bool:
    """Tell whether two results are equal in every bit, NaN included."""
    pairs = zip(arrays(a), arrays(b), strict=True)
    return all(x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in pairs)
