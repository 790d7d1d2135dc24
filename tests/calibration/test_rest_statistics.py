"""Rest: what is bad is found and named, what is good is left alone, and the covariance is that of clean samples."""

from __future__ import annotations

import numpy as np
import pytest
from calibration_rest import ALL, RECORDINGS, SFREQ_HZ, judge, rest_of, without
from scipy import signal

from devices.mock.patient_settings import LABELS, PatientSettings
from loop.calibration.errors import CalibrationError
from loop.calibration.rest import held, noise_bandwidth_hz, rest_statistics, spectra
from loop.estimator import design

CP1 = LABELS.index("CP1")
LINE = 50.0


def spoilt(rest_uv: np.ndarray, kind: str, i: int) -> np.ndarray:
    samples, rng = np.array(rest_uv), np.random.default_rng(5)
    n = len(samples)
    white = rng.normal(size=n)
    if kind == "flat":
        samples[n // 2 :, i] = samples[n // 2, i]
    elif kind == "rail":
        samples[: n // 10, i] = -187_500.0
    elif kind == "no number":
        samples[: n // 10, i] = np.nan
    elif kind == "noisy:":
        samples[:, i] += 60.0 * signal.lfilter([1.0], [1.0, -0.9], white)
    elif kind == "hardly any signal":
        samples[:, i] = np.median(samples, axis=1) + 0.3 * white
    elif kind == "mains":
        samples[:, i] += 200.0 * np.sin(2.0 * np.pi * LINE * np.arange(n) / SFREQ_HZ)
    elif kind == "noisy at":
        high = signal.butter(4, 55.0, "highpass", fs=SFREQ_HZ, output="sos")
        samples[:, i] += 24.0 * signal.sosfilt(high, white)
    elif kind == "does not follow":
        other = rest_of(PatientSettings(seed=77, rest_s=72.0, duration_s=76.0, sfreq_hz=SFREQ_HZ, blink_uv=0.0))
        samples[:, i] = other[:, i]
    return samples


def test_a_sound_cap_has_no_bad_channel_and_most_of_it_is_clean(rest_uv: np.ndarray) -> None:
    found = judge(rest_uv)
    assert found.bad == {}
    assert found.good.all()
    assert 0.4 * len(rest_uv) < found.clean.sum() < len(rest_uv)
    assert found.clean_s == found.clean.sum() / SFREQ_HZ
    assert found.muscle_z_limit >= 4.0
    assert (found.amplitude_limit_uv > 5.0).all()
    assert (found.amplitude_limit_uv < 150.0).all()


@pytest.mark.parametrize(
    ("kind", "label"),
    [
        ("flat", "CP1"),
        ("rail", "PO10"),
        ("no number", "CP1"),
        ("noisy:", "PO10"),
        ("hardly any signal", "CP1"),
        ("mains", "Fp1"),
        ("noisy at", "CP1"),
        ("noisy at", "PO10"),
        ("does not follow", "CP1"),
        ("does not follow", "PO10"),
    ],
)
def test_a_bad_channel_is_found_named_and_alone(rest_uv: np.ndarray, kind: str, label: str) -> None:
    found = judge(spoilt(rest_uv, kind, LABELS.index(label)))
    assert list(found.bad) == [label], found.bad
    assert kind in found.bad[label]
    assert not found.good[LABELS.index(label)]
    assert not found.covariance_theta[LABELS.index(label)].any()
    assert not found.covariance_beta[:, LABELS.index(label)].any()


def test_tense_neck_muscles_are_not_bad_electrodes() -> None:
    tense = PatientSettings(seed=3, group="CC", muscle_uv=6.0, rest_s=72.0, duration_s=76.0, sfreq_hz=SFREQ_HZ)
    assert judge(rest_of(tense)).bad == {}


def test_two_bad_neighbours_do_not_hide_each_other(rest_uv: np.ndarray) -> None:
    samples, rng = np.array(rest_uv), np.random.default_rng(1)
    pair = ("P3", "CP1")
    for label in pair:
        samples[:, LABELS.index(label)] = 25.0 * signal.lfilter([0.3], [1.0, -0.95], rng.normal(size=len(samples)))
    assert set(judge(samples).bad) == set(pair)


def test_covariance_is_that_of_the_kernels_sections_on_clean_average_referenced_samples(rest_uv: np.ndarray) -> None:
    found = judge(rest_uv)
    eeg = rest_uv - np.median(rest_uv, axis=0)
    eeg = eeg - eeg.mean(axis=1, keepdims=True)
    for sections, got, sd in (
        (design(SFREQ_HZ, LINE).theta, found.covariance_theta, found.sd_theta_uv),
        (design(SFREQ_HZ, LINE).beta, found.covariance_beta, found.sd_beta_uv),
    ):
        filtered = signal.sosfilt(sections, eeg, axis=0)[found.clean]
        np.testing.assert_allclose(got, filtered.T @ filtered / len(filtered), rtol=0.0, atol=1e-10)
        np.testing.assert_allclose(sd, np.sqrt((filtered**2).mean(axis=0)), rtol=1e-10)
        assert abs(got.sum(axis=0)).max() < 1e-9


def test_bursts_are_kept_out_of_the_covariance(rest_uv: np.ndarray) -> None:
    samples = np.array(rest_uv)
    times = np.arange(len(samples)) / SFREQ_HZ
    for start_s in (20.0, 41.0, 62.0):
        inside = (times >= start_s) & (times < start_s + 1.5)
        samples[inside, CP1] += 150.0 * np.sin(2.0 * np.pi * 20.0 * times[inside])
    before, after = judge(rest_uv), judge(samples)
    for start_s in (20.0, 41.0, 62.0):
        assert not after.clean[(times >= start_s) & (times < start_s + 1.5)].any()
    assert after.clean.sum() > before.clean.sum() - 3 * 3.0 * SFREQ_HZ
    np.testing.assert_allclose(after.sd_beta_uv, before.sd_beta_uv, rtol=0.1)


def test_short_losses_cost_their_samples_and_not_the_channel(rest_uv: np.ndarray) -> None:
    samples = np.array(rest_uv)
    gap = slice(round(30.0 * SFREQ_HZ), round(30.5 * SFREQ_HZ))
    samples[gap, CP1] = np.nan
    found = judge(samples)
    assert found.bad == {}
    assert not found.clean[gap].any()
    assert np.isfinite(found.covariance_theta).all()


def test_what_lies_under_a_pad_does_not_matter(rest_uv: np.ndarray) -> None:
    under = without("PO10", "I2")
    garbage = np.array(rest_uv)
    garbage[:, ~under] = np.nan
    clean, dirty = judge(rest_uv, under), judge(garbage, under)
    np.testing.assert_array_equal(clean.covariance_beta, dirty.covariance_beta)
    np.testing.assert_array_equal(clean.clean, dirty.clean)
    assert clean.bad == dirty.bad == {}
    assert not clean.sd_beta_uv[~under].any()


def test_electrode_offsets_of_millivolts_change_nothing(rest_uv: np.ndarray) -> None:
    offsets = np.random.default_rng(2).normal(0.0, 20_000.0, len(LABELS))
    np.testing.assert_allclose(judge(rest_uv + offsets).covariance_theta, judge(rest_uv).covariance_theta, atol=1e-5)


def test_the_order_of_channels_does_not_matter(rest_uv: np.ndarray) -> None:
    order = np.random.default_rng(3).permutation(len(LABELS))
    bank = design(SFREQ_HZ, LINE)
    labels = [LABELS[i] for i in order]
    samples = spoilt(rest_uv, "flat", CP1)
    straight = judge(samples)
    shuffled = rest_statistics(samples[:, order], SFREQ_HZ, labels, ALL, bank, rail_uv=187_500.0, line_hz=LINE)
    assert shuffled.bad == straight.bad
    np.testing.assert_allclose(shuffled.covariance_beta, straight.covariance_beta[np.ix_(order, order)], atol=1e-9)


def test_the_floor_is_the_sensors_noise_and_not_the_brains() -> None:
    quiet = PatientSettings(seed=4, sensor_uv=0.6, rest_s=72.0, duration_s=76.0, sfreq_hz=SFREQ_HZ)
    found = judge(rest_of(quiet))
    truth = 0.6 * np.sqrt(noise_bandwidth_hz(design(SFREQ_HZ, LINE).beta, SFREQ_HZ) / (SFREQ_HZ / 2.0))
    ratio = found.floor_beta_uv / truth
    assert 0.8 < np.median(ratio) < 1.6
    assert (found.floor_beta_uv < found.sd_beta_uv).all()


def test_too_little_is_refused_in_one_sentence(rest_uv: np.ndarray) -> None:
    with pytest.raises(CalibrationError, match=r"lasts 20 s, at least 30 s"):
        judge(rest_uv[: round(20.0 * SFREQ_HZ)])
    with pytest.raises(CalibrationError, match=r"lasts 0 s"):
        judge(rest_uv[:0])
    with pytest.raises(CalibrationError, match=r"^7 good EEG channels"):
        judge(rest_uv, np.arange(len(LABELS)) < 7)
    stuttering = np.array(rest_uv)
    stuttering[:: round(SFREQ_HZ), CP1] = np.nan
    with pytest.raises(CalibrationError, match=r"^0 s of the 70 s of rest are clean"):
        judge(stuttering)
    with pytest.raises(CalibrationError, match=r"labels"):
        judge(rest_uv[:, :5])


def test_spectra_show_alpha_over_the_occiput(rest_uv: np.ndarray) -> None:
    found = judge(rest_uv)
    filters = np.zeros((2, len(LABELS)))
    filters[0, LABELS.index("Oz")] = 1.0
    frequencies, power = spectra(rest_uv, found, filters)
    assert power.shape == (2, len(frequencies))
    band = (frequencies >= 2.0) & (frequencies <= 45.0)
    assert 8.5 <= frequencies[band][np.argmax(power[0, band])] <= 11.5
    assert not power[1].any()


def test_a_real_cap_at_rest_is_mostly_good() -> None:
    path = RECORDINGS / "rest_eegmmidb" / "S001R01.edf"
    if not path.exists():
        pytest.skip("the recordings are not here")
    import mne

    raw = mne.io.read_raw_edf(path, preload=True, verbose="ERROR")
    bank = design(raw.info["sfreq"], 60.0)
    everywhere = np.ones(len(raw.ch_names), dtype=np.bool_)
    found = rest_statistics(
        raw.get_data().T * 1e6, raw.info["sfreq"], raw.ch_names, everywhere, bank, rail_uv=187_500.0, line_hz=60.0
    )
    print("\nrest_eegmmidb:", found.bad, f"{found.clean_s:.0f} s clean", found.notes)
    assert len(found.bad) <= 6
    assert not found.clean[-round(0.8 * raw.info["sfreq"]) :].any()


def test_values_that_are_no_number_are_held() -> None:
    nan = np.nan
    table = np.array([[nan, 1.0, nan], [2.0, nan, nan], [nan, 3.0, nan]])
    np.testing.assert_array_equal(held(table), [[2.0, 1.0, 0.0], [2.0, 1.0, 0.0], [2.0, 3.0, 0.0]])
    np.testing.assert_array_equal(held(table[:, 0]), [2.0, 2.0, 2.0])
