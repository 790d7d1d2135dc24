"""A calibration from end to end: made on a patient, written, read, used by a session, and refused where it does not fit."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import msgspec
import numpy as np
import pytest

import loop
from loop.calibration import file
from loop.calibration.errors import CalibrationError
from loop.calibration.inputs import take_of_playback
from loop.calibration.make import Made, make
from loop.calibration.quality import page_of
from loop.calibration.validity import check_date
from loop.config import Config
from loop.estimator import WEIGHTS, Estimator
from loop.sources.patient import patient_for

TODAY = dt.date(2026, 3, 1)
STRONG = [
    "patient.sfreq_hz=250",
    "patient.pe_amplitude_nam=40",
    "patient.startle=0",
    "patient.rest_s=70",
    "patient.duration_s=1030",
    "session.duration_s=1030",
]


def configured(*more: str) -> Config:
    return loop.load_config("calibrate", [*STRONG, *more])


@pytest.fixture(scope="module")
def made() -> Made:
    config = configured()
    return make(take_of_playback(lambda: patient_for(config)), config, TODAY, {}, lambda _: None)


def test_a_strong_error_is_found_and_the_verdict_says_so(made: Made) -> None:
    calibration = made.calibration
    assert calibration.readout is not None
    assert calibration.readout.r_cv > 0.5
    assert calibration.verdict.startswith("go on")
    assert calibration.quality["relative_sensitivity"] == pytest.approx(1.0)
    assert calibration.quality["clean_rest_s"] + 30.0 > 60.0
    for name in WEIGHTS:
        assert np.linalg.norm(calibration.rest.coefficients[name].array) == pytest.approx(1.0)


def test_it_reads_back_to_the_same_bits_and_the_page_tells_the_verdict(made: Made, tmp_path: Path) -> None:
    file.save(made.calibration, tmp_path / "c.json")
    assert file.load(tmp_path / "c.json") == made.calibration
    page = page_of(made, tmp_path / "c.html").read_text()
    assert made.calibration.verdict in page
    assert page.count("data:image/png") == 3


def test_a_session_uses_it_and_verifies(made: Made, tmp_path: Path) -> None:
    file.save(made.calibration, tmp_path / "c.json")
    config = configured(f"estimator.calibration='{tmp_path / 'c.json'}'", "session.duration_s=120", "patient.rest_s=0")
    with loop.simulate(config, out=tmp_path / "s.sqlite") as session:
        assert "calibrated on 2026-03-01" in session.setups[0].estimator
        judged = [outcome for outcome in session.outcomes if outcome.index is not None]
        assert judged
        assert "pseudo-events" not in " ".join(outcome.reason for outcome in session.outcomes)
    (tmp_path / "c.json").unlink()
    assert loop.verify(tmp_path / "s.sqlite").identical


def test_what_does_not_fit_is_refused_in_a_sentence(made: Made, tmp_path: Path) -> None:
    calibration = made.calibration
    layout = calibration.layout
    file.check_fit(calibration, layout, "posterior_fossa", ())
    with pytest.raises(CalibrationError, match="250 samples a second, this one 500"):
        file.check_fit(calibration, msgspec.structs.replace(layout, sfreq_hz=500.0), "posterior_fossa", ())
    with pytest.raises(CalibrationError, match="missing here: Fp1"):
        other = msgspec.structs.replace(layout, labels=("X", *layout.labels[1:]))
        file.check_fit(calibration, other, "posterior_fossa", ())
    with pytest.raises(CalibrationError, match="this session leaves out PO10"):
        file.check_fit(calibration, layout, "posterior_fossa", ("PO10",))
    with pytest.raises(CalibrationError, match="made for estimator posterior_fossa"):
        file.check_fit(calibration, layout, "another", ())
    check_date(calibration, TODAY + dt.timedelta(days=30), "sim")
    with pytest.raises(CalibrationError, match="expired on 2026-03-31"):
        check_date(calibration, TODAY + dt.timedelta(days=31), "sim")
    with pytest.raises(CalibrationError, match="participant sim"):
        check_date(calibration, TODAY, "P002")
    assert calibration.readout is not None
    fewer = msgspec.structs.replace(calibration.readout, names=calibration.readout.names[:4])
    with pytest.raises(CalibrationError, match="this estimator has PFT_L, .* calibrate anew"):
        Estimator(configured(), layout, msgspec.structs.replace(calibration, readout=fewer))
    damaged = file.encode(calibration).replace('"version": 1', '"version": 2')
    with pytest.raises(CalibrationError, match="format 2"):
        file.decode(damaged)


def test_a_recording_without_rest_says_what_to_record() -> None:
    config = configured("patient.rest_s=0", "patient.duration_s=60", "session.duration_s=60")
    with pytest.raises(CalibrationError, match="BLOCK/R/START"):
        make(take_of_playback(lambda: patient_for(config)), config, TODAY, {}, lambda _: None)
