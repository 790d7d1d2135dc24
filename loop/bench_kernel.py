"""The kernel beside the same work written with NumPy and SciPy, and the replay beside real time."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import signal

from cext.kernel import Kernel
from cext.params import KernelParams
from loop import config as configuration
from loop.estimator import Estimator
from loop.events import Block, Layout, SourceInfo
from loop.presets import preset_path

CHANNELS: Final = 64
SFREQ_HZ: Final = 1000.0
_SECONDS: Final = 20
_REPLAY_SECONDS: Final = 300
_ROUNDS: Final = 5
_LABELS: Final = (  # noqa: SIM905  # sixty-four quotation marks would not be clearer
    "Fp1 Fpz Fp2 AF7 AF3 AFz AF4 AF8 F7 F5 F3 F1 Fz F2 F4 F6 F8 FT7 FC5 FC3 FC1 FCz FC2 FC4 FC6 FT8 T7 C5 C3 C1 Cz C2 C4 C6 "
    "T8 TP7 CP5 CP3 CP1 CPz CP2 CP4 CP6 TP8 TP9 TP10 P7 P5 P3 P1 Pz P2 P4 P6 P8 PO7 POz PO8 PO9 PO10 O1 Oz O2 Iz"
).split()


class KernelBench(msgspec.Struct, frozen=True, kw_only=True):
    """Wall times in microseconds; `ratio` is NumPy/SciPy over kernel: the median over blocks done in turn."""

    channels: int
    sfreq_hz: float
    chains: int
    kernel_us_per_sample: float
    numpy_us_per_sample: float
    ratio: float
    ratio_low: float
    ratio_high: float
    one_sample_call_us: float


class ReplayBench(msgspec.Struct, frozen=True, kw_only=True):
    """Estimate, decide and record; `times_real_time` in seconds of recording a second."""

    channels: int
    sfreq_hz: float
    recorded_s: float
    took_s: float
    times_real_time: float
    cpu_s: float
    file_mb: float


def bench_layout() -> Layout:
    """Sixty-four channels at 1 kHz."""
    return Layout(labels=tuple(_LABELS), units=("microvolts",) * CHANNELS, to_uv=(1.0,) * CHANNELS, sfreq_hz=SFREQ_HZ)


def bench_kernel() -> KernelBench:
    """Measure the full feature set on random samples, alternating kernel and NumPy/SciPy."""
    config = configuration.load(preset_path("replay"), ["source.path='-'"])
    params = Estimator(config, bench_layout()).params
    n = int(SFREQ_HZ) * _SECONDS
    samples = np.random.default_rng(1).normal(0.0, 10.0, (n, CHANNELS))
    exclude = np.zeros(n, dtype=np.uint8)
    impulses = np.empty((0, 3), dtype=np.int64)
    kernel = Kernel(params)
    plain = NumpyWork(params)
    block = 1000
    ours, theirs = [], []
    # Block by block in turn, so that a machine whose speed drifts drifts for both.
    for i in range(0, _ROUNDS * n, block):
        piece = samples[i % n : i % n + block]
        ours.append(_us(partial(kernel.process, piece, exclude[:block], impulses)) / block)
        theirs.append(_us(partial(plain.process, piece)) / block)
    ratios = np.array(theirs) / np.array(ours)
    single = samples[:1]
    one = _us(lambda: [kernel.process(single, exclude[:1], impulses) for _ in range(n)]) / n
    return KernelBench(
        channels=CHANNELS,
        sfreq_hz=SFREQ_HZ,
        chains=params.n_chains,
        kernel_us_per_sample=float(np.median(ours)),
        numpy_us_per_sample=float(np.median(theirs)),
        ratio=float(np.median(ratios)),
        ratio_low=float(np.quantile(ratios, 0.1)),
        ratio_high=float(np.quantile(ratios, 0.9)),
        one_sample_call_us=one,
    )


class NumpyWork:
    """What a careful user would write without a kernel: matrix product, `sosfilt`, `lfilter`, and a loop over ticks."""

    def __init__(self, params: KernelParams) -> None:
        self._p = params
        self._sos = [p_sos[: int(n)].copy() for p_sos, n in zip(params.sos, params.n_sections, strict=True)]
        self._filter_state = [np.zeros((int(n), 2)) for n in params.n_sections]
        self._power_state = np.zeros((params.n_chains, 1))
        n_basis = params.n_basis
        self._weights = np.zeros((params.n_learned, n_basis + 1))
        self._phi = np.zeros(n_basis + 1)
        self._phi[-1] = params.bias
        self._s1, self._s2 = np.zeros(n_basis), np.zeros(n_basis)
        self._decay = np.exp(-1.0 / (params.basis_tau_s * params.feature_rate_hz))
        self._gain = math.e / (params.basis_tau_s * params.feature_rate_hz)
        self._muscle_weights = np.zeros((params.n_streams, 2))
        self._muscle_doubt = np.diag(params.muscle_variance_start)
        self._covariance = np.eye(params.n_learned)
        self._step = round(params.sfreq_hz / params.feature_rate_hz)

    def process(self, samples: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """K0 to K7 on samples (n_times, n_channels); returns z (n_ticks, n_learned)."""
        p = self._p
        bad = ~np.isfinite(samples)
        bad |= np.abs(samples) >= p.rail_uv
        bad |= self._flat(samples)
        referenced = samples - (samples @ p.reference)[:, None]
        projected = referenced @ p.projection.T
        power = np.empty_like(projected)
        for v in range(p.n_chains):
            sections = self._sos[v]
            filtered, self._filter_state[v] = signal.sosfilt(sections, projected[:, v], zi=self._filter_state[v])
            a = p.smoothing[v]
            power[:, v], self._power_state[v] = signal.lfilter([1.0 - a], [1.0, -a], filtered**2, zi=self._power_state[v])
        at = np.arange(self._step - 1, len(samples), self._step)
        streams = np.log(power[at] + p.floor_uv2) @ p.pooling.T
        z = np.empty((len(at), p.n_learned))
        for i, level in enumerate(streams):
            z[i] = self._tick(level)
        return z

    def _flat(self, samples: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Where a channel has not changed for `flat_samples`: the number of changes is the same at both ends."""
        n = self._p.flat_samples
        changes = np.zeros(samples.shape, dtype=np.int32)
        np.cumsum(samples[1:] != samples[:-1], axis=0, out=changes[1:])
        flat = np.zeros(samples.shape, dtype=np.bool_)
        flat[n:] = changes[n:] == changes[:-n]
        return flat

    def _tick(self, level: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        p = self._p
        self._s1 *= self._decay
        self._s2 = self._decay * self._s2 + self._s1
        phi = self._phi
        phi[:-1] = self._s2 * self._gain
        error = self._without_muscle(level)[: p.n_learned] - self._weights @ phi
        z: npt.NDArray[np.float64] = error / np.sqrt(np.diag(self._covariance))
        error @ np.linalg.solve(self._covariance, error)
        self._weights += p.learning_rate * np.outer(error, phi) / (1.0 + phi @ phi)
        self._covariance += p.variance_rate * (np.outer(error, error) - self._covariance)
        return z

    def _without_muscle(self, level: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """K4: recursive least squares on offset and muscle stream."""
        keep = 1.0 - self._p.muscle_rate
        q = np.array([1.0, level[self._p.muscle_stream]])
        residual: npt.NDArray[np.float64] = level - self._muscle_weights @ q
        seen = self._muscle_doubt @ q
        gain = seen / (keep + q @ seen)
        self._muscle_weights += np.outer(residual, gain)
        self._muscle_doubt = (self._muscle_doubt - np.outer(gain, seen)) / keep
        return residual


class Noise:
    """A recording of random samples, made once and played in a circle; implements `Playback`."""

    def __init__(self, seconds: int) -> None:
        self.layout = bench_layout()
        self.n_samples: int | None = int(seconds * SFREQ_HZ)
        self.info = SourceInfo(kind="recording", identity="noise", simulated=True, dtype="float32")
        self._samples = np.random.default_rng(2).normal(0.0, 10.0, (int(10 * SFREQ_HZ), CHANNELS)).astype(np.float32)
        self._first = 0

    def read(self, n: int, _current_ua: float) -> Block | None:
        """The next samples, and an outcome every 4 s."""
        assert self.n_samples is not None
        first = self._first
        count = min(n, self.n_samples - first, len(self._samples) - first % len(self._samples))
        if count <= 0:
            return None
        self._first += count
        stamps = np.arange(first, first + count) * round(1e9 / SFREQ_HZ)
        at = first % len(self._samples)
        every = int(4 * SFREQ_HZ)
        due = [k for k in range(-(-first // every) * every, first + count, every) if k]
        markers = [(k * round(1e9 / SFREQ_HZ), "STIM/NOX/60") for k in due]
        return Block(first, stamps, self._samples[at : at + count], markers)


def bench_replay() -> ReplayBench:
    """Replay five minutes of 64 channels at 1 kHz with recording on, into a temporary folder."""
    from loop.run import play

    config = configuration.load(preset_path("replay"), ["source.path='-'"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "replay.sqlite"
        start_s, cpu_s = time.perf_counter(), time.process_time()
        play(config, Noise(_REPLAY_SECONDS), "replay", path)
        took_s, cpu_s = time.perf_counter() - start_s, time.process_time() - cpu_s
        size = path.stat().st_size
    return ReplayBench(
        channels=CHANNELS,
        sfreq_hz=SFREQ_HZ,
        recorded_s=float(_REPLAY_SECONDS),
        took_s=took_s,
        times_real_time=_REPLAY_SECONDS / took_s,
        cpu_s=cpu_s,
        file_mb=size / 1e6,
    )


def _us(act: Callable[[], Any]) -> float:
    start_ns = time.perf_counter_ns()
    act()
    return (time.perf_counter_ns() - start_ns) / 1e3
