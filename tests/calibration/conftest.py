"""Rest of a simulated participant, made once: 70 s at 256 Hz on the full cap."""

from __future__ import annotations

import numpy as np
import pytest
from calibration_rest import SFREQ_HZ, rest_of

from devices.mock.patient_settings import PatientSettings


@pytest.fixture(scope="session")
def rest_uv() -> np.ndarray:
    samples = rest_of(PatientSettings(seed=11, rest_s=72.0, duration_s=76.0, sfreq_hz=SFREQ_HZ))
    samples.flags.writeable = False
    return samples
