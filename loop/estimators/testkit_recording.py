"""The recording that the test kit plays: noise as a head would mix it, rest first, then stimuli that evoke something."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from loop import config as configurations
from loop.calibration import file
from loop.calibration.file import Calibration, Rest
from loop.config import Config
from loop.estimators.protocol import KnownOutcome
from loop.events import Layout, SourceInfo
from loop.markers import CHANNELS
from loop.montage import spherical_position
from loop.presets import preset_path

Float64s = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]

CAP: Final = ("Fz", "Cz", "Pz", "Oz", "O1", "O2", "P7", "P8", "PO7", "PO8", "PO9", "PO10", "Iz")
RATES_HZ: Final = (128.0, 160.0, 256.0, 499.93, 512.0, 1000.0, 2048.0, 4096.0)
REST_S: Final = 64.0
_TRIALS: Final = 64
_TRIAL_S: Final = 1.4
_FIRST_S: Final = 3.5
_MIXING_RAD: Final = 0.6
_SOURCES: Final = 24
_EVOKED_UV: Final = 6.0


class Recording(NamedTuple):
    """Rest and trials in microvolts, (n, n_channels); impulses (k, 3) as a kernel takes them; outcomes in order of event id."""

    layout: Layout
    rest_uv: Float64s
    trials_uv: Float64s
    impulses: Int64s
    outcomes: tuple[KnownOutcome, ...]

    @classmethod
    def make(cls, layout: Layout) -> Recording:
        """The same one each time: a cue, half a second later a stimulus of one of two kinds, 64 times."""
        rng = np.random.default_rng(7)
        sfreq_hz = layout.sfreq_hz
        trials_uv = noise_uv(layout, _FIRST_S + _TRIALS * _TRIAL_S + 1.0, seed=2)
        outcomes, impulses = [], []
        time_s = np.arange(round(0.8 * sfreq_hz)) / sfreq_hz
        evoked = np.exp(-0.5 * ((time_s - 0.3) / 0.06) ** 2)[:, None] * np.linspace(1.0, 0.3, len(layout.labels))
        for k in range(_TRIALS):
            cue = round((_FIRST_S + k * _TRIAL_S) * sfreq_hz)
            at = cue + round(0.5 * sfreq_hz)
            stated = (25, 75)[int(rng.integers(2))]
            nox = bool(rng.random() < stated / 100.0)
            error = abs(float(nox) - stated / 100.0)
            trials_uv[at : at + len(evoked)] += _EVOKED_UV * (float(nox) + error) * evoked
            impulses += [(cue, CHANNELS.index("CUE_H" if stated > 50 else "CUE_L"), -1), (at, -1, k)]
            impulses.append((at, CHANNELS.index("NOX" if nox else "INN"), -1))
            outcomes.append(KnownOutcome("NOX" if nox else "INN", f"P{stated}/I2", float(nox), stated / 100.0))
        return cls(layout, noise_uv(layout, REST_S, seed=1), trials_uv, np.array(impulses, dtype=np.int64), tuple(outcomes))


def layout_of(labels: Sequence[str], sfreq_hz: float) -> Layout:
    """A cap in microvolts."""
    return Layout(labels=tuple(labels), units=("uV",) * len(labels), to_uv=(1.0,) * len(labels), sfreq_hz=sfreq_hz)


def noise_uv(layout: Layout, duration_s: float, seed: int) -> Float64s:
    """Pink-like noise of sources all over the head, seen by each channel according to its distance; shape (n, n_channels)."""
    rng = np.random.default_rng(seed)
    n = round(duration_s * layout.sfreq_hz)
    placed = [spherical_position(label) for label in layout.labels]
    sites = np.array([(0.0, 0.0, 1.0) if one is None else one for one in placed])
    sources = np.random.default_rng(0).normal(size=(_SOURCES, 3))
    sources /= np.linalg.norm(sources, axis=1, keepdims=True)
    angle = np.arccos(np.clip(sites @ sources.T, -1.0, 1.0))
    mixing = np.exp(-0.5 * (angle / _MIXING_RAD) ** 2)
    spectrum = np.fft.rfft(rng.normal(size=(n, _SOURCES)), axis=0)
    frequency = np.fft.rfftfreq(n, 1.0 / layout.sfreq_hz)[:, None]
    slow = np.fft.irfft(spectrum / np.sqrt(np.maximum(frequency, 0.5)), n, axis=0)
    mixed = slow @ mixing.T
    mixed *= 10.0 / mixed.std()
    return np.ascontiguousarray(mixed + rng.normal(0.0, 0.5, size=mixed.shape))


def configuration(estimator: str, overrides: Sequence[str] = ()) -> Config:
    """The shipped `calibrate` configuration with this estimator."""
    return configurations.load(preset_path("calibrate"), [f"estimator.kind='{estimator}'", *overrides])


def draft(estimator: str, config: Config, layout: Layout, rest: Rest) -> Calibration:
    """A calibration that has learned from rest and not yet from trials."""
    source = SourceInfo(kind="recording", identity="test kit", simulated=True, dtype="float64")
    return Calibration(
        version=file.VERSION,
        estimator=estimator,
        participant=config.session.participant,
        created="2000-01-01",
        expires="2000-01-31",
        layout=layout,
        layout_sha256=file.montage_digest(layout),
        excluded=(*config.channels.bad, *config.channels.pads),
        rest=rest,
        readout=None,
        quality={},
        verdict=file.DRAFT,
        notes=(),
        source=source,
        config=configurations.encode(config).decode(),
        versions={},
    )
