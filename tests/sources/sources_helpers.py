"""Blocks of samples for mock amplifiers."""

from __future__ import annotations

import numpy as np


class Part:
    """A block of samples for the mock amplifier."""

    def __init__(self, first: int, samples: np.ndarray, markers: list[tuple[int, str]], sfreq_hz: float) -> None:
        self.stamps_ns = np.rint(np.arange(first, first + len(samples)) * 1e9 / sfreq_hz).astype(np.int64)
        self.samples = samples
        self.markers = markers


def counting(n: int, n_channels: int, sfreq_hz: float = 500.0, dtype: str = "float32") -> list[Part]:
    """Blocks of ten samples whose values tell their place, with a marker every hundred samples."""
    values = np.arange(n * n_channels).reshape(n, n_channels).astype(dtype)
    out = []
    for first in range(0, n, 10):
        markers = [(round(first * 1e9 / sfreq_hz) + 1_000, f"CUE/{first}")] if first % 100 == 0 else []
        out.append(Part(first, values[first : first + 10], markers, sfreq_hz))
    return out


def drain(playback: object, n: int) -> tuple[np.ndarray, np.ndarray, list[tuple[int, str]]]:
    """Stamps, samples and markers of all blocks of a playback."""
    blocks = []
    while (block := playback.read(n, 0.0)) is not None:
        blocks.append(block)
    markers = [marker for block in blocks for marker in block.markers]
    return np.concatenate([b.stamps_ns for b in blocks]), np.concatenate([b.samples for b in blocks]), markers
