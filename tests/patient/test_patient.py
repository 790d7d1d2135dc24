"""The simulated participant: the same whoever asks how, known answers, errors only where there are some."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from devices.mock import ongoing
from devices.mock.patient import Patient
from devices.mock.patient_settings import PatientSettings
from loop.sources.patient import PatientPlayback, patient_from_identity

# What belief and current do needs no background, and is then made much faster.
STILL = PatientSettings(
    rest_s=0.0, labels=("PO10",), background_uv=0.0, alpha_uv=0.0, muscle_uv=0.0, sensor_uv=0.0, blink_uv=0.0
)


def record(given: PatientSettings, current_ua: float = 0.0) -> tuple[np.ndarray, list[tuple[int, str]], Patient]:
    patient = Patient(given)
    samples, markers = patient.advance(patient.n_samples, current_ua)
    return samples.astype(np.float64), markers, patient


SHORT = PatientSettings(duration_s=24.0, rest_s=1.0, seed=3)


@pytest.fixture(scope="module")
def whole() -> tuple[bytes, list[tuple[int, str]], list[object]]:
    """The short session under current from 6 to 12 s, in three calls."""
    patient = Patient(SHORT)
    parts = [patient.advance(n, ua) for n, ua in ((3000, 0.0), (3000, -1500.0), (6000, 0.0))]
    return b"".join(x.tobytes() for x, _ in parts), [m for _, ms in parts for m in ms], list(patient.truth)


@given(cuts=st.lists(st.integers(0, 12_000), max_size=60), small=st.integers(1, 40))
@settings(max_examples=8, deadline=None)
def test_chunking_is_invariant(whole: tuple[bytes, list[object], list[object]], cuts: list[int], small: int) -> None:
    patient = Patient(SHORT)
    places = sorted({0, 3000, 6000, 12_000, *cuts, *range(0, 12_000, small * 100)})
    out, markers = [], []
    for a, b in zip(places, places[1:], strict=False):
        samples, found = patient.advance(b - a, -1500.0 if 3000 <= a < 6000 else 0.0)
        assert len(samples) == b - a
        assert all(a <= sample < b for sample, _ in found)
        out.append(samples.tobytes())
        markers += found
    assert (b"".join(out), markers, list(patient.truth)) == whole
    assert patient.advance(5, 0.0)[0].shape == (0, len(SHORT.labels))


def test_the_seed_decides_everything() -> None:
    code = (
        "import hashlib; from devices.mock.patient import Patient, PatientSettings;"
        "x, m = Patient(PatientSettings(duration_s=24.0, rest_s=1.0, seed=3)).advance(12000, 0.0);"
        "print(hashlib.sha256(x.tobytes() + repr(m).encode()).hexdigest())"
    )
    samples, markers = Patient(SHORT).advance(12_000, 0.0)
    ours = hashlib.sha256(samples.tobytes() + repr(markers).encode()).hexdigest()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ours
    other = Patient(msgspec.structs.replace(SHORT, seed=4)).advance(12_000, 0.0)
    assert not np.array_equal(other[0], samples)
    assert other[1] != markers


LONG = msgspec.structs.replace(STILL, duration_s=1800.0, rest_s=60.0, blocks=("I", "A", "P", "V"))


@pytest.fixture(scope="module")
def session() -> tuple[np.ndarray, list[tuple[int, str]], Patient]:
    return record(LONG)


def test_every_trial_follows_the_paradigm(session: tuple[np.ndarray, list[tuple[int, str]], Patient]) -> None:
    _, markers, patient = session
    assert markers[0] == (0, "SESSION/START")
    assert markers[-1] == (patient.n_samples - 51, "SESSION/END")
    assert [m[0] for m in markers] == sorted(m[0] for m in markers)
    grammar = re.compile(
        r"SESSION/(START|END)|BLOCK/[RIAPV]/(START|END)|TRIAL/\d+|CUE/[HLN]|CUE/P(0|25|50|75|100)/I[12]|OUT_DUE"
        r"|STIM/(NOX|INN)/\d+|STIM/OMIT|RATE/(PAIN|EXPECT)/\d{1,3}|RESP/AWARE/[01]"
    )
    assert [text for _, text in markers if not grammar.fullmatch(text)] == []
    cues = [m for m in markers if m[1].startswith("CUE/")]
    due = [m for m in markers if m[1] == "OUT_DUE"]
    stimuli = [m for m in markers if m[1].startswith("STIM/")]
    assert len(cues) == len(due) == len(stimuli) == len(patient.truth) > 150
    for cue, out, stimulus, truth in zip(cues, due, stimuli, patient.truth, strict=True):
        assert out[0] - cue[0] == (1300 if truth.late else 1000)
        assert stimulus[0] == out[0] == truth.outcome_sample
        assert cue == (truth.cue_sample, f"CUE/{truth.cue}")
        assert truth.noxious == stimulus[1].startswith("STIM/NOX/")
    assert sum(t.late for t in patient.truth if t.block == "I") == 8
    gaps = np.diff([m[0] for m in cues]) / 500.0
    assert gaps.min() > 2.0 + 1.5 + 4.0 + 0.5 - 0.5
    assert 9.0 < gaps.mean() < 12.0
    starts = [text for _, text in markers if text.startswith("BLOCK/")]
    assert starts == [f"BLOCK/{b}/{w}" for b in ("R", "I", "A", "P", "V")[: len(starts) // 2] for w in ("START", "END")]


def test_cues_predict_as_they_should() -> None:
    _, _, patient = record(msgspec.structs.replace(STILL, sfreq_hz=128.0, blocks=("A", "P", "V"), duration_s=2400.0))
    share: dict[tuple[str, str], list[bool]] = {}
    for truth in patient.truth[:160]:
        share.setdefault((truth.block, truth.cue), []).append(truth.noxious)
    means = {key: float(np.mean(values)) for key, values in share.items()}
    assert means[("A", "H")] == 1.0 == means[("V", "L")]
    assert means[("A", "L")] == 0.0 == means[("V", "H")]
    assert means[("P", "H")] == pytest.approx(0.75, abs=0.03)
    assert means[("P", "L")] == pytest.approx(0.25, abs=0.03)
    assert means[("P", "N")] == pytest.approx(0.5, abs=0.03)


def test_a_stated_probability_is_what_is_expected(
    session: tuple[np.ndarray, list[tuple[int, str]], Patient],
) -> None:
    told = [t for t in session[2].truth if t.block == "I"]
    assert len(told) == 80
    for truth in told:
        percent, grade = re.fullmatch(r"P(\d+)/I(\d)", truth.cue).groups()  # type: ignore[union-attr]
        assert truth.expected == pytest.approx(int(percent) / 100.0 * {"1": 0.6, "2": 1.0}[grade])


def sources_only(given: PatientSettings) -> tuple[np.ndarray, Patient]:
    """What the prediction-error sources add: the session less the same one without them."""
    with_them, _, patient = record(given)
    without, _, _ = record(msgspec.structs.replace(given, pe_amplitude_nam=0.0))
    return with_them - without, patient


def test_the_error_source_is_where_when_and_as_large_as_it_should_be() -> None:
    added, patient = sources_only(
        msgspec.structs.replace(
            STILL, duration_s=500.0, group="HC", pe_amplitude_nam=16.0, labels=PatientSettings().labels, timing_error=0.0
        )
    )
    labels = patient.labels
    sizes, errors = [], []
    quiet = np.ones(len(added), dtype=bool)
    for truth in patient.truth:
        at = truth.outcome_sample
        quiet[at : at + 500] = False
        sizes.append(added[at + 30 : at + 250].std(axis=0))
        errors.append(truth.pe)
    assert np.abs(added[quiet]).max() <= 1.0 / 32.0
    # What an outcome evokes goes on where one block of background ends and the next begins.
    page = 2000
    crossed = [(t.outcome_sample // page + 1) * page for t in patient.truth if 1850 < t.outcome_sample % page < 1930]
    assert crossed
    assert min(np.abs(added[at : at + 30, labels.index("PO10")]).max() for at in crossed) > 2.0 / 32.0
    table = np.array(sizes)
    by_channel = dict(zip(labels, table.mean(axis=0), strict=True))
    assert max(by_channel, key=by_channel.__getitem__) == "PO10"
    assert by_channel["PO10"] > 1.2 * by_channel["PO9"] > 2.0 * by_channel["FCz"]
    assert np.corrcoef(table[:, labels.index("PO10")], errors)[0, 1] > 0.6
    # 8 nAm give about 1.4 microvolts at |PE| = 1; this is twice that.
    at_one = table[:, labels.index("PO10")] / np.array(errors)
    assert 1.4 < float(np.median(at_one)) < 5.0
    peak = np.mean(
        [added[t.outcome_sample : t.outcome_sample + 500, labels.index("PO10")] ** 2 for t in patient.truth],
        axis=0,
    )
    assert 0.1 < float(np.sum(peak * np.arange(500)) / np.sum(peak)) / 500.0 < 0.35


def test_without_the_source_there_is_none_whatever_the_error() -> None:
    quiet = msgspec.structs.replace(STILL, duration_s=60.0, sensory_nam=0.0)
    other, _ = sources_only(quiet)
    none, _, _ = record(msgspec.structs.replace(quiet, pe_amplitude_nam=0.0, anticipation_nam=0.0, startle=0.0))
    still, _, patient = record(msgspec.structs.replace(quiet, pe_amplitude_nam=0.0, plasticity="null"))
    # The error itself is as it was: only its source is gone.
    assert other.any()
    assert len(none) == len(still)
    assert min(t.pe for t in patient.truth) > 0.0
    beta = signal.butter(2, (14.0, 30.0), "bandpass", fs=500.0, output="sos")
    quiet_uv = signal.sosfiltfilt(beta, none[:, 0])
    for truth in patient.truth[:4]:
        at = truth.outcome_sample
        assert quiet_uv[at + 30 : at + 130].std() < 3.0 * quiet_uv[at - 500 : at - 100].std()


def test_groups_differ_in_what_the_hypothesis_says() -> None:
    late = {}
    for group in ("HC", "FM"):
        sizes = []
        for seed in range(6):
            settings = msgspec.structs.replace(STILL, sfreq_hz=128.0, duration_s=460.0, group=group, blocks=("A",), seed=seed)
            _, _, patient = record(settings)
            sizes += [t.pe for t in patient.truth[20:40]]
        late[group] = float(np.mean(sizes))
    # After the same lesson, errors for expected outcomes persist in FM.
    assert late["FM"] > 1.3 * late["HC"]


@pytest.mark.parametrize(("plasticity", "direction"), [("paper", 1), ("reversed", -1), ("null", 0)])
def test_current_changes_the_error_as_the_hypothesis_says(plasticity: str, direction: int) -> None:
    settings = msgspec.structs.replace(STILL, duration_s=300.0, plasticity=plasticity, seed=2)
    cathodal = [t.effect for t in record(settings, -2000.0)[2].truth]
    anodal = [t.effect for t in record(settings, 2000.0)[2].truth]
    none = [t.effect for t in record(settings, 0.0)[2].truth]
    assert set(none) == {0.0}
    assert [np.sign(e) for e in cathodal[-5:]] == [direction] * 5
    assert cathodal == pytest.approx([-e for e in anodal])
    if direction:
        assert abs(cathodal[-1]) > abs(cathodal[0])


def test_the_effect_scales_the_error_and_the_learning() -> None:
    settings = msgspec.structs.replace(STILL, duration_s=200.0, seed=2, blocks=("I",))
    pairs = zip(record(settings, -2000.0)[2].truth, record(settings)[2].truth, strict=True)
    for changed, plain in pairs:
        assert changed.effect > 0.0
        assert changed.pe == pytest.approx(plain.pe * (1.0 - changed.effect))
    settings = msgspec.structs.replace(settings, blocks=("A",))
    one, other = (record(settings, ua)[2].truth for ua in (-2000.0, 0.0))
    repeat = next(k for k in range(1, len(one)) if one[k].cue == one[0].cue)
    assert one[0].expected == other[0].expected == 0.5
    # The same lesson moved the belief further, by the share that the effect gives.
    assert (one[repeat].expected - other[repeat].expected) / one[0].delta > 0.0


def test_the_slow_effect_outlasts_the_current_and_fades() -> None:
    settings = msgspec.structs.replace(STILL, duration_s=900.0, seed=2)
    patient = Patient(settings)
    patient.advance(150_000, -2000.0)
    on = patient.truth[-1].effect
    patient.advance(300_000, 0.0)
    after = [t.effect for t in patient.truth if t.outcome_sample > 150_000 + 15_000]
    assert 0.0 < after[-1] < after[0] < on


def test_the_artefact_is_an_offset_near_the_pad_that_saturates() -> None:
    settings = PatientSettings(duration_s=20.0, rest_s=20.0)
    quiet, _, patient = record(settings)
    labels = list(patient.labels)
    for ua in (-500.0, 500.0):
        offset = (record(settings, ua)[0] - quiet)[:, :].mean(axis=0)
        near, far = offset[labels.index("PO10")], offset[labels.index("Fp1")]
        assert np.sign(near) == np.sign(ua)
        assert 70_000.0 < abs(near) < 85_000.0
        assert 6_000.0 < abs(far) < 12_000.0
    railed = record(settings, 2000.0)[0]
    assert set(railed[:, labels.index("PO10")].tolist()) == {187_500.0}
    assert np.unique(railed[:, labels.index("Fp1")]).size > 100


def test_after_the_current_only_the_crept_offset_remains_and_goes() -> None:
    settings = msgspec.structs.replace(STILL, duration_s=300.0, rest_s=300.0)
    quiet, _, _ = record(settings)
    patient = Patient(settings)
    patient.advance(10_000, -1000.0)
    left = patient.advance(140_000, 0.0)[0].astype(np.float64)[:, 0] - quiet[10_000:, 0]
    # The corner itself swings the other way, and is over in a second.
    assert 0.0 < left[0] - left[500] < 9_000.0
    assert -10_000.0 < left[1000] < -5_000.0
    assert np.all(np.diff(left[1000::1000]) > 0.0)
    assert abs(left[-1]) < 5.0


def band_uv(samples: np.ndarray, low: float, high: float, fs: float = 500.0) -> float:
    f, power = signal.welch(samples, fs, nperseg=1000)
    return float(np.sqrt(power[(f >= low) & (f <= high)].sum() * (f[1] - f[0])))


def test_the_background_has_the_sizes_it_is_given() -> None:
    settings = PatientSettings(duration_s=120.0, rest_s=120.0, group="HC", blink_uv=0.0)
    samples, _, patient = record(settings)
    channel = dict(zip(patient.labels, samples.T, strict=True))
    assert 6.0 < np.median([np.std(x) for x in channel.values()]) < 14.0
    assert band_uv(channel["Oz"], 8.5, 11.5) > 2.5 * band_uv(channel["Fz"], 8.5, 11.5)
    assert 5.0 < band_uv(channel["Oz"], 8.5, 11.5) < 11.0
    assert max(band_uv(x, 100.0, 200.0) for x in channel.values()) < 6.0
    assert band_uv(channel["Iz"], 100.0, 200.0) > 1.5 * band_uv(channel["Cz"], 100.0, 200.0)
    assert 0.5 < np.median([band_uv(x, 49.5, 50.5) for x in channel.values()]) < 3.0
    f, power = signal.welch(channel["C3"], 500.0, nperseg=2000)
    inside = (f > 1.5) & (f < 7.5)
    slope = np.polyfit(np.log(f[inside]), np.log(power[inside]), 1)[0]
    assert -1.8 < slope < -0.8


def test_blinks_are_frontal() -> None:
    settings = PatientSettings(duration_s=60.0, rest_s=60.0, labels=("Fp1", "Cz", "Oz"))
    with_them, _, _ = record(settings)
    without, _, _ = record(msgspec.structs.replace(settings, blink_uv=0.0))
    peaks = (with_them - without).max(axis=0)
    assert 90.0 < peaks[0] < 250.0
    assert peaks[1] < 0.3 * peaks[0]
    frontal = (with_them - without)[:, 0]
    assert 6 <= len(signal.find_peaks(frontal, height=60.0)[0]) <= 20


def test_sampling_rates_other_than_the_usual_work() -> None:
    for rate in (128.0, 250.0, 1000.0):
        samples, markers, patient = record(PatientSettings(duration_s=20.0, rest_s=2.0, sfreq_hz=rate))
        assert len(samples) == round(20.0 * rate)
        assert np.isfinite(samples).all()
        truth = patient.truth[0]
        assert truth.outcome_sample - truth.cue_sample == round(2.0 * rate)
        assert (truth.outcome_sample, "OUT_DUE") in markers


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"seed": -1}', "seed"),
        ('{"group": "XX"}', "group"),
        ('{"pe_amplitude": 8}', "unknown field `pe_amplitude`"),
        ('{"sfreq_hz": 100}', "sfreq_hz"),
        ('{"duration_s": "60"}', "duration_s"),
        ('{"labels": []}', "labels"),
    ],
)
def test_settings_are_strict(text: str, why: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=why):
        patient_from_identity(text)


def test_labels_without_a_place_are_refused() -> None:
    with pytest.raises(ValueError, match="no places of the 10-05 system: XX"):
        Patient(PatientSettings(labels=("Cz", "XX")))
    with pytest.raises(ValueError, match="at nan microamperes"):
        Patient(SHORT).advance(1, float("nan"))


def test_a_playback_can_be_made_again_from_its_identity() -> None:
    first = PatientPlayback(SHORT)
    again = patient_from_identity(first.info.identity)
    assert first.info == again.info
    assert first.layout == again.layout
    assert first.info.simulated
    a, b = first.read(3000, -200.0), again.read(3000, -200.0)
    assert a is not None
    assert b is not None
    assert np.array_equal(a.samples, b.samples)
    assert a.markers == b.markers
    assert a.stamps_ns.tolist()[:3] == [0, 2_000_000, 4_000_000]
    assert first.truth == again.truth


def test_a_playback_ends_once() -> None:
    playback = PatientPlayback(msgspec.structs.replace(SHORT, duration_s=3.0))
    lengths = []
    while (block := playback.read(700, 0.0)) is not None:
        assert block.first == sum(lengths)
        lengths.append(len(block.samples))
    assert lengths == [700, 700, 100]
    assert playback.read(700, 0.0) is None
    assert playback.n_samples == 1500


def test_a_patient_costs_little_more_than_its_noise(capsys: pytest.CaptureFixture[str]) -> None:
    """Against a calibration run on the same machine: to draw, filter and mix 60 noise sources on 34 channels for as long.

    34 channels at 500 Hz, 10 samples a call, under current; prints how many times faster than real time that is.
    """
    seconds, fs, labels = 40.0, 500.0, PatientSettings().labels[:34]
    sections = ongoing.sloped(1.3, fs)

    def noise_alone() -> None:
        rng = np.random.default_rng(0)
        for _ in range(int(seconds / ongoing.BLOCK_S)):
            n = round(ongoing.BLOCK_S * fs)
            brain = signal.sosfilt(sections, rng.standard_normal((60, n)), axis=1)
            np.rint(brain.T @ np.ones((60, len(labels))) + rng.standard_normal((n, len(labels))))

    def cpu_s(work: Callable[[], object]) -> float:
        began = time.process_time()
        work()
        return time.process_time() - began

    patient = Patient(PatientSettings(duration_s=200.0, rest_s=10.0, labels=labels))

    def play() -> None:
        for _ in range(round(seconds * fs / 10)):
            patient.advance(10, -1000.0)

    pairs = [(cpu_s(noise_alone), cpu_s(play)) for _ in range(4)]
    ratio = min(played for _, played in pairs) / min(alone for alone, _ in pairs)
    with capsys.disabled():
        print(f"\npatient: {seconds / min(played for _, played in pairs):.0f} x real time, {ratio:.1f} x its noise alone")
    assert ratio < 6.0
