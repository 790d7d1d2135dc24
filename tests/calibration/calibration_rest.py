"""How the tests of calibration come by rest, and how they judge it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from devices.mock.patient_settings import LABELS, PatientSettings
from loop.calibration.rest import RestStatistics, rest_statistics
from loop.estimator import design
from loop.sources.patient import PatientPlayback

SFREQ_HZ = 256.0
REST_S = 70.0
ALL = np.ones(len(LABELS), dtype=np.bool_)
RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "recordings"


def rest_of(settings: PatientSettings) -> npt.NDArray[np.float64]:
    playback = PatientPlayback(settings)
    block = playback.read(round(REST_S * settings.sfreq_hz), 0.0)
    assert block is not None
    return np.asarray(block.samples, dtype=np.float64) * np.array(playback.layout.to_uv)


def judge(samples_uv: npt.NDArray[np.float64], candidates: npt.NDArray[np.bool_] = ALL) -> RestStatistics:
    bank = design(SFREQ_HZ, 50.0)
    return rest_statistics(samples_uv, SFREQ_HZ, LABELS, candidates, bank, rail_uv=187_500.0, line_hz=50.0)


def without(*labels: str) -> npt.NDArray[np.bool_]:
    return np.array([label not in labels for label in LABELS])
