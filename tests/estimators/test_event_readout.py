"""event_readout: its features against SciPy, what it learns from, which channels it reads, and when it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from scipy import signal

from cext import NO_IMPULSES
from loop.calibration import file
from loop.calibration.errors import CalibrationError
from loop.errors import LayoutError, SessionError
from loop.estimators import event_readout, registry
from loop.estimators.discriminant import fit_discriminant
from loop.estimators.event_readout import channels_of
from loop.estimators.protocol import KnownOutcome
from loop.estimators.testkit import Subject
from loop.estimators.testkit_recording import configuration, layout_of
from loop.readout import ReadoutError

PLUGIN = registry.find("event_readout")
MUSE = ("TP9", "AF7", "AF8", "TP10")


@pytest.fixture(scope="module")
def muse() -> Subject:
    return Subject(PLUGIN, MUSE, 256.0)


def test_features_are_those_of_scipys_filters(muse: Subject) -> None:
    """The waveform in each window is the mean of its 20 ms samples of a causal 1–20 Hz filter, no baseline taken off."""
    samples, _ = muse.stretch
    estimator = muse.built()
    kernel = estimator.kernel
    at = round(5.0 * 256.0)
    out = kernel.process(samples, np.zeros(len(samples), np.uint8), np.array([[at, -1, 1]]))
    high = signal.butter(2, 1.0, "highpass", fs=256.0, output="sos")
    notch = signal.tf2sos(*signal.iirnotch(50.0, 30.0, fs=256.0))
    sections = np.vstack([high, notch, signal.butter(2, 20.0, fs=256.0, output="sos")])
    start = signal.sosfilt_zi(sections)[:, :, None] * samples[0]
    waveform = signal.sosfilt(sections, samples, axis=0, zi=start)[0][out.frame_sample]
    np.testing.assert_allclose(out.frames[:, :4], waveform, atol=1e-9)
    origin = int(np.searchsorted(out.frame_sample, at))
    for name, value in zip(estimator.learned, out.event_features[0], strict=True):
        kind, label, first, last = name.split("_")
        if kind == "WAVE":
            ticks = slice(origin + int(first) // 20, origin + int(last.removesuffix("ms")) // 20)
            assert value == pytest.approx(waveform[ticks, MUSE.index(label)].mean(), abs=1e-9)
    assert len(estimator.learned) == 4 * 12
    assert out.event_tick_sample[0] - at <= round(0.72 * 256.0)


def test_it_says_what_it_is_and_claims_no_posterior_fossa(muse: Subject) -> None:
    estimator = muse.built()
    assert "event readout" in estimator.name
    assert "no posterior-fossa index" in " ".join(estimator.notes)
    assert "no posterior-fossa index" in PLUGIN.claim
    assert not estimator.is_stand_in


def test_applying_needs_no_scikit_learn(muse: Subject, tmp_path: Path) -> None:
    """A session with a fitted discriminant runs where scikit-learn cannot be imported; fitting one says what to install."""
    file.save(muse.calibration, tmp_path / "c.json")
    program = f"""
import sys
sys.modules["sklearn"] = sys.modules["sklearn.discriminant_analysis"] = sys.modules["threadpoolctl"] = None
import numpy as np
from loop.calibration.file import load
from loop.errors import SessionError
from loop.estimators import registry
from loop.estimators.testkit_recording import configuration, noise_uv
plugin, calibration = registry.find("event_readout"), load({str(tmp_path / "c.json")!r})
estimator = plugin.build(configuration("event_readout"), calibration.layout, calibration)
samples = noise_uv(calibration.layout, 6.0, 1)
out = estimator.kernel.process(samples, np.zeros(len(samples), np.uint8), np.array([[1100, -1, 1]]))
assert np.isfinite(estimator.readout.apply(out.event_features[0].tolist()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_fitting_without_scikit_learn_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.discriminant_analysis", None)
    with pytest.raises(SessionError, match=r"pip install 'cereloop\[lda\]'"):
        fit_discriminant(["a"], np.random.default_rng(0).normal(size=(60, 1)), np.arange(60) % 2 == 0, np.arange(60) / 60.0)


def test_the_discriminant_finds_what_is_there_and_nothing_in_noise() -> None:
    rng = np.random.default_rng(3)
    is_first = rng.random(400) < 0.2
    noise = rng.normal(size=(400, 30))
    target = np.where(is_first, 0.8, 0.2)
    nothing = fit_discriminant([str(i) for i in range(30)], noise, is_first, target)
    assert abs(nothing.r_cv) < 0.15
    assert nothing.b1 >= 0.0
    features = noise + np.outer(is_first, np.linspace(0.0, 1.0, 30))
    features[5, 3], features[7] = np.nan, 1e6
    found = fit_discriminant([str(i) for i in range(30)], features, is_first, target)
    assert found.r_cv > 0.6
    assert found.n_trials == 399
    scores = np.array([found.apply(row) for row in features.tolist()])
    sound = np.isfinite(features).all(axis=1)
    residual = (scores - found.b0 - found.b1 * target)[sound]
    assert 0.7 < residual.std() / found.sigma < 1.1
    assert found.apply([1e6] * 30) == found.apply([1e9] * 30)  # a wild trial is clipped


@pytest.mark.parametrize(("nox", "inn"), [(9, 200), (15, 20), (200, 0)])
def test_too_few_of_a_kind_are_refused(nox: int, inn: int) -> None:
    n = nox + inn
    with pytest.raises(ReadoutError, match=rf"{nox} usable STIM/NOX and {inn} STIM/INN; .* at least 40 in all and 10 of each"):
        fit_discriminant(["a"], np.zeros((n, 1)), np.arange(n) < nox, np.linspace(0.0, 1.0, n))


def test_its_target_is_the_learners_surprise_and_omissions_teach_nothing() -> None:
    outcomes = [KnownOutcome("INN", "", 0.0, None)] * 20 + [
        KnownOutcome("NOX", "", 1.0, None),
        KnownOutcome("OMIT", "", 0.0, None),
        KnownOutcome("NOX", "P75/I2", 1.0, 0.75),
    ]
    target = PLUGIN.target_of(outcomes)
    assert target[0] == 0.5
    assert target[19] < 0.01
    assert target[20] > 0.99
    assert np.isnan(target[21])
    assert target[22] == 0.25


def test_a_large_cap_is_read_at_few_sites_and_pads_are_left_out() -> None:
    from devices.ten_five import NAMES

    cap = layout_of([*NAMES[:40], *[site for site in event_readout.SITES if site not in NAMES[:40]]], 500.0)
    config = configuration("event_readout", ["channels.pads=['Cz']", "channels.bad=['Pz']"])
    read = {cap.labels[i] for i in channels_of(config, cap, {"Fz": "flat"})}
    assert read == set(event_readout.SITES) - {"Cz", "Pz", "Fz"}
    few = layout_of(MUSE, 256.0)
    assert channels_of(configuration("event_readout"), few, {}) == [0, 1, 2, 3]
    with pytest.raises(LayoutError, match="channels.bad or channels.pads names `Q9`"):
        channels_of(configuration("event_readout", ["channels.bad=['Q9']"]), few, {})
    with pytest.raises(LayoutError, match="no EEG channel is left"):
        channels_of(configuration("event_readout", [f"channels.bad={list(MUSE)}"]), few, {})


def test_an_average_reference_needs_a_cap(muse: Subject) -> None:
    assert not muse.built().params.reference.any()  # type: ignore[attr-defined]
    assert "the recording's own is kept" in " ".join(muse.built().notes)


def test_a_calibration_that_found_nothing_never_closes_a_loop(muse: Subject) -> None:
    doubtful = msgspec.structs.replace(muse.calibration, verdict=file.DO_NOT_GO_ON)
    assert PLUGIN.build(muse.config, muse.layout, doubtful)
    for arm in ("closed_loop", "allotted", "sham"):  # a refusal that knew the allotted arm would give it away
        session = msgspec.structs.replace(muse.config.session, arm=arm, sham_follows="closed_loop")
        with pytest.raises(CalibrationError, match="a gate would follow noise"):
            PLUGIN.build(msgspec.structs.replace(muse.config, session=session), muse.layout, doubtful)
    empty = msgspec.structs.replace(muse.calibration, readout=None, verdict="go on with care")
    with pytest.raises(CalibrationError, match="no readout"):
        PLUGIN.build(muse.config, muse.layout, empty)


def test_rest_is_used_where_it_can_tell(muse: Subject) -> None:
    assert "4 channels cannot tell" in muse.calibration.rest.notes[0]
    cap = Subject(PLUGIN)
    spoilt = cap.recording.rest_uv.copy()
    spoilt[:, 3] = np.random.default_rng(0).normal(0.0, 300.0, len(spoilt))
    rest = PLUGIN.learn_rest(cap.config, cap.layout, spoilt)
    assert list(rest.bad) == ["Oz"]
    assert rest.figures["channels"] == len(cap.layout.labels) - 1


def test_an_empty_call_gives_nothing(muse: Subject) -> None:
    out = muse.built().kernel.process(np.empty((0, 4)), np.empty(0, np.uint8), NO_IMPULSES)
    assert len(out.frames) == len(out.event_id) == 0
