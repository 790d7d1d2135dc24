"""A whole plug-in in one file, as somebody else would write it: alpha power over Pz before and after an outcome."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import signal

from cext import Kernel, KernelParams
from loop import markers
from loop.calibration.file import Calibration, Rest, check_fit
from loop.config import Config
from loop.errors import LayoutError
from loop.estimators.protocol import KnownOutcome
from loop.events import Layout
from loop.montage import standard_label
from loop.readout import Readout, fit_readout


class AlphaOverPz:
    name = "alpha_pz"
    summary = "alpha power over Pz, before and after an outcome"
    target = "the told error"
    claim = "The index is alpha power over Pz. It is an example."
    needs_calibration = False

    def build(self, config: Config, layout: Layout, calibration: Calibration | None) -> Alpha:
        return Alpha(config, layout, calibration)

    def learn_rest(self, config: Config, layout: Layout, rest_uv: np.ndarray) -> Rest:
        return Rest(notes=("rest taught nothing",))

    def target_of(self, outcomes: Sequence[KnownOutcome]) -> np.ndarray:
        return np.array([np.nan if one.told is None else abs(one.intensity - one.told) for one in outcomes])

    def fit(self, names: Sequence[str], features: np.ndarray, outcomes: Sequence[KnownOutcome]) -> Readout:
        return fit_readout(names, features, self.target_of(outcomes))


class Alpha:
    name = "alpha over Pz"
    notes: tuple[str, ...] = ()
    is_stand_in = False
    learned = ("before", "after")

    def __init__(self, config: Config, layout: Layout, calibration: Calibration | None) -> None:
        if calibration is not None:
            check_fit(calibration, layout, "alpha_pz", (*config.channels.bad, *config.channels.pads))
        labels = [standard_label(label) for label in layout.labels]
        for name in ("Pz", *config.channels.bad):
            if name not in labels:
                raise LayoutError(f"alpha_pz finds no `{name}` in this stream")
        pz = np.arange(len(labels)) == labels.index("Pz")
        high = signal.butter(2, 1.0, "highpass", fs=layout.sfreq_hz, output="sos")
        sections = np.vstack([high, signal.butter(1, (8.0, 12.0), "bandpass", fs=layout.sfreq_hz, output="sos")])
        params = KernelParams(
            sfreq_hz=layout.sfreq_hz,
            n_channels=len(labels),
            used=pz,
            reference=np.zeros(len(labels)),
            projection=pz[None, :].astype(float),
            sos=sections[None],
            n_sections=np.array([len(sections)]),
            smoothing=np.array([math.exp(-1.0 / (0.1 * layout.sfreq_hz))]),
            pooling=np.ones((1, 1)),
            n_learned=0,
            event_stream=np.array([0, 0]),
            windows=np.array([[-25, 0], [10, 40]]),
            baseline=np.array([-25, 0]),
            baseline_weight=0.0,
            warmup_samples=round(config.estimator.warmup_s * layout.sfreq_hz),
            basis_channel=np.array([], dtype=np.int64),
            basis_tau_s=np.array([]),
            freeze_channels=np.arange(len(markers.CHANNELS)),
            freeze_ticks=0,
        )
        self.kernel = Kernel(params)
        self.columns = tuple(params.column_names(["ALPHA"]))
        self.used = pz
        self.scale_uv = np.array(layout.to_uv)
        self.readout = calibration.readout if calibration is not None else None


PLUGIN = AlphaOverPz()
