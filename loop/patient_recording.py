"""Writes the simulated patient as a recording with markers, and what was true beside it: what ``mock recording`` does.

The recording is what an amplifier and a marker stream would have given; nothing in it tells the truth. The truth lies in a
file of its own, so that anybody's estimator can be judged.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from devices.mock.assumptions import ASSUMPTIONS
from devices.mock.patient import OffsetTruth, Patient, TrialTruth
from devices.mock.patient_settings import PatientSettings
from loop import __version__
from loop.config import ConfigError

ENDINGS: Final = ("_raw.fif", "_eeg.fif")
_STEP_S: Final = 4.0
_VOLTS: Final = 1e-6


class Traits(msgspec.Struct, frozen=True, kw_only=True):
    """Who the patient is: learning rate, p and g of |PE| = g |u - v| + p, and shares of the error that 2 mA take away."""

    alpha: float
    persistence: float
    gain: float
    fast_effect: float
    slow_effect: float


class Truth(msgspec.Struct, frozen=True, kw_only=True):
    """The truth file.

    `source_uv_per_nam` is what the source of the error shows at each electrode, against infinity. Samples count from the
    recording's first.
    """

    about: str
    version: str
    recording: str
    sfreq_hz: float
    n_samples: int
    settings: PatientSettings
    person: Traits
    source_uv_per_nam: dict[str, float]
    outcomes: list[TrialTruth]
    offsets: list[OffsetTruth]
    assumptions: list[dict[str, Any]]


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """What was written where."""

    recording: str
    truth: str
    seconds: float
    channels: int
    markers: int
    outcomes: int
    offsets: int


def truth_path(recording: Path) -> Path:
    """Where the truth of a recording lies: ``NAME_truth.json`` beside ``NAME_raw.fif``."""
    for ending in ENDINGS:
        if recording.name.endswith(ending):
            return recording.with_name(recording.name.removesuffix(ending) + "_truth.json")
    raise ConfigError(f"--out: {recording.name} is no name for a recording; it has to end in {' or '.join(ENDINGS)}")


def write_recording(settings: PatientSettings, out: Path, told: Callable[[float], None]) -> Written:
    """Play a patient from beginning to end, without current, and write recording and truth.

    Parameters
    ----------
    settings : PatientSettings
        Who is simulated, and what they do.
    out : Path
        The recording; no such file may exist yet.
    told : callable
        Told now and then which share is done.

    Returns
    -------
    Written

    Raises
    ------
    ConfigError
        If `out` cannot be written, or the settings cannot be played; one sentence.
    """
    beside = truth_path(out)
    if not out.parent.is_dir():
        raise ConfigError(f"--out: there is no directory {out.parent}")
    for path in (out, beside):
        if path.exists():
            raise ConfigError(f"--out: {path} exists already; name another file")
    try:
        patient = Patient(settings)
    except ValueError as error:
        raise ConfigError(f"table `patient`: {error}") from error
    volts, markers = _played(patient, told)
    # Whoever interrupts finds either both files whole or none.
    part = out.with_name(f".{out.name.removesuffix('.fif')}.part_raw.fif")
    try:
        _write_fif(patient, volts, markers, part)
        beside.write_bytes(msgspec.json.format(msgspec.json.encode(_truth_of(patient, out)), indent=1))
        part.replace(out)
    except BaseException:
        part.unlink(missing_ok=True)
        beside.unlink(missing_ok=True)
        raise
    return Written(
        recording=str(out),
        truth=str(beside),
        seconds=patient.n_samples / settings.sfreq_hz,
        channels=len(settings.labels),
        markers=len(markers),
        outcomes=len(patient.truth),
        offsets=len(patient.offsets),
    )


def _played(patient: Patient, told: Callable[[float], None]) -> tuple[npt.NDArray[np.float64], list[tuple[int, str]]]:
    """All samples (n_channels, n_times) in volts, and all markers."""
    n = patient.n_samples
    volts = np.empty((len(patient.labels), n))
    markers: list[tuple[int, str]] = []
    step = max(1, round(_STEP_S * patient.settings.sfreq_hz))
    for first in range(0, n, step):
        samples, found = patient.advance(step, 0.0)
        volts[:, first : first + len(samples)] = _VOLTS * samples.T.astype(np.float64)
        markers += found
        told(min(1.0, (first + step) / n))
    return volts, markers


def _write_fif(patient: Patient, volts: npt.NDArray[np.float64], markers: list[tuple[int, str]], path: Path) -> None:
    import mne

    sfreq_hz = patient.settings.sfreq_hz
    info = mne.create_info(list(patient.labels), sfreq_hz, "eeg", verbose="ERROR")
    places = {label: np.array(place) for label, place in zip(patient.labels, patient.positions_m, strict=True)}
    info.set_montage(mne.channels.make_dig_montage(places, coord_frame="head"), verbose="ERROR")
    info["description"] = f"simulated participant, cereloop {__version__}"
    raw = mne.io.RawArray(volts, info, verbose="ERROR")
    raw.set_annotations(mne.Annotations([at / sfreq_hz for at, _ in markers], 0.0, [text for _, text in markers]))
    raw.save(path, verbose="ERROR")


def _truth_of(patient: Patient, recording: Path) -> Truth:
    person = patient.person
    shown = zip(patient.labels, patient.error_topography_uv.tolist(), strict=True)
    return Truth(
        about="what was true behind a recording of a simulated participant; for judging estimates, never for making them",
        version=__version__,
        recording=recording.name,
        sfreq_hz=patient.settings.sfreq_hz,
        n_samples=patient.n_samples,
        settings=patient.settings,
        person=Traits(
            alpha=person.alpha,
            persistence=person.persistence,
            gain=person.gain,
            fast_effect=person.response[0],
            slow_effect=person.response[1],
        ),
        source_uv_per_nam={label: float(value) for label, value in shown},
        outcomes=patient.truth,
        offsets=patient.offsets,
        assumptions=[entry._asdict() for entry in ASSUMPTIONS],
    )
