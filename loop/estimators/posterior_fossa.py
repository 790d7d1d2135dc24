"""The posterior-fossa prediction-error index as a plug-in: spatial filters at rest, ridge readout on instructed trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from loop.calibration.file import Calibration, Rest
from loop.config import Config
from loop.estimator import KIND, Estimator
from loop.estimators.protocol import KnownOutcome
from loop.events import Layout
from loop.readout import Readout, fit_readout

Float64s = npt.NDArray[np.float64]


class PosteriorFossa:
    """The estimator of K0 to K9; see `loop.estimator.Estimator`."""

    name: Final = KIND
    summary: Final = "log band power over the posterior fossa against an adaptive forward model (theta, beta; left, right)"
    target: Final = "the told error"
    claim: Final = (
        "The index is a posterior-fossa prediction-error index: a number from scalp EEG. It does not measure the cerebellum."
    )
    needs_calibration: Final = False

    def build(self, config: Config, layout: Layout, calibration: Calibration | None) -> Estimator:
        """Set up the kernel; without a calibration the fallback pair. Raises LayoutError, CalibrationError."""
        return Estimator(config, layout, calibration)

    def learn_rest(self, config: Config, layout: Layout, rest_uv: Float64s) -> Rest:
        """LCMV weights per band for the channels that remain, bad channels, expected sensitivity. Raises CalibrationError."""
        from loop.calibration.posterior_fossa import learn_rest

        return learn_rest(config, layout, rest_uv)

    def target_of(self, outcomes: Sequence[KnownOutcome]) -> Float64s:
        """The error's size where the expectation was told."""
        return np.array([np.nan if one.told is None else abs(one.intensity - one.told) for one in outcomes])

    def fit(self, names: Sequence[str], features: Float64s, outcomes: Sequence[KnownOutcome]) -> Readout:
        """Ridge readout against the error's size where the expectation was told (K9). Raises ReadoutError."""
        return fit_readout(names, features, self.target_of(outcomes))


PLUGIN: Final = PosteriorFossa()


