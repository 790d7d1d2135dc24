"""A background made once: patients over it are the patients they would be alone, to the byte."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from scipy import signal

from devices.mock.background import Background, BackgroundAhead
from devices.mock.patient import Patient
from devices.mock.patient_settings import PatientSettings

BASE = PatientSettings(seed=9, duration_s=44.0, rest_s=2.0, sfreq_hz=250.0, labels=("Fp1", "Cz", "PO9", "PO10", "Iz"))
CHANGES: list[dict[str, object]] = [
    {},
    {"pe_amplitude_nam": 0.0},
    {"pe_amplitude_nam": 16.0, "pe_site": "V1", "profile": "plain"},
    {"group": "CC", "muscle_uv": 6.0, "alpha_uv": 0.0, "blink_uv": 0.0},
    {"startle": 3.0, "blocks": ("T", "O"), "rest_s": 0.0},
    {"blocks": ("R",), "duration_s": 30.0},
]


@pytest.fixture(scope="module")
def background() -> Background:
    return Background(BASE)


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_it_gives_the_same_bytes_as_none(background: Background, change: dict[str, object]) -> None:
    settings = msgspec.structs.replace(BASE, **change)
    alone, laid = Patient(settings), Patient(settings, background)
    for n, current_ua in ((4000, 0.0), (3000, -900.0), (4000, 0.0)):
        one, markers = alone.advance(n, current_ua)
        other, same = laid.advance(n, current_ua)
        assert one.tobytes() == other.tobytes()
        assert markers == same
    assert alone.truth == laid.truth


@pytest.mark.parametrize(
    "change", [{"seed": 10}, {"sfreq_hz": 500.0}, {"labels": ("Cz",)}, {"sensor_uv": 1.0}, {"duration_s": 90.0}], ids=str
)
def test_what_it_does_not_fit_is_refused(background: Background, change: dict[str, object]) -> None:
    name = next(iter(change))
    with pytest.raises(ValueError, match=rf"{name} is .* but the background was made"):
        Patient(msgspec.structs.replace(BASE, **change), background)


def test_only_the_source_differs_between_sizes(background: Background) -> None:
    eeg = {}
    for size in (0.0, 8.0, 16.0):
        patient = Patient(msgspec.structs.replace(BASE, pe_amplitude_nam=size, vertex_pe_uv=0.0), background)
        eeg[size] = patient.advance(patient.n_samples, 0.0)[0].astype(np.float64)
    one, two = eeg[8.0] - eeg[0.0], eeg[16.0] - eeg[0.0]
    assert np.abs(one).max() > 0.5
    assert np.abs(two - 2.0 * one).max() <= 0.1


def test_what_is_done_in_rest_is_seen() -> None:
    settings = PatientSettings(
        seed=2, group="HC", blocks=("R",), rounds=1, rest_s=0.0, duration_s=310.0, sfreq_hz=250.0, labels=("Fp1", "Oz", "Iz")
    )
    patient = Patient(settings)
    samples, markers = patient.advance(patient.n_samples, 0.0)
    at = {text: sample for sample, text in markers}

    def size_uv(channel: int, low_hz: float, high_hz: float, first: int, stop: int) -> float:
        sos = signal.butter(2, (low_hz, high_hz), "bandpass", fs=250.0, output="sos")
        return float(np.std(signal.sosfiltfilt(sos, samples[first:stop, channel].astype(np.float64))))

    opened = (at["NOTE/eyes_open"], at["NOTE/eyes_closed"] - 1750)
    closed = (at["NOTE/eyes_closed"], at["ART/clench/ON"] - 1750)
    clench, blink = ((at[f"ART/{kind}/ON"], at[f"ART/{kind}/OFF"]) for kind in ("clench", "blink"))
    assert 1.5 < size_uv(1, 8.0, 12.0, *closed) / size_uv(1, 8.0, 12.0, *opened) < 2.5
    assert size_uv(2, 60.0, 110.0, *clench) > 4.0 * size_uv(2, 60.0, 110.0, *opened)
    frontal = samples[:, 0].astype(np.float64)
    smooth = signal.sosfiltfilt(signal.butter(2, 6.0, fs=250.0, output="sos"), frontal)
    blinks = [len(signal.find_peaks(smooth[slice(*span)], height=70.0)[0]) for span in (opened, closed, blink)]
    assert 10 < blinks[0] < 45
    assert blinks[1] == 0
    assert 10 <= blinks[2] <= 20


def test_made_ahead_in_a_thread_it_gives_the_same_bytes() -> None:
    settings = PatientSettings(seed=3, duration_s=20.0)
    alone, ahead = Patient(settings), Patient(settings, BackgroundAhead(settings))
    while len(samples := alone.advance(700, 0.0)[0]):
        assert samples.tobytes() == ahead.advance(700, 0.0)[0].tobytes()


def test_made_ahead_it_is_asked_for_in_order() -> None:
    ahead = BackgroundAhead(PatientSettings(duration_s=20.0))
    ahead.block(0)
    with pytest.raises(ValueError, match="block 5 was asked for where 1 follows"):
        ahead.block(5)
