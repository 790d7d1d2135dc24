"""The estimator: every rate constructs, what a rate or cap cannot carry is said, filters pass what they should."""

from __future__ import annotations

import numpy as np
import pytest
from core_config import configured
from core_play import LABELS, layout
from scipy import signal

from loop.estimator import PAIRS, Estimator, LayoutError, design
from loop.events import Layout

RATES = (128.0, 200.0, 250.0, 256.0, 499.93, 500.0, 512.0, 1000.0, 1024.0, 2000.0, 2048.0, 4096.0)


def gain(sections: np.ndarray, sfreq: float, *hz: float) -> np.ndarray:
    _, response = signal.sosfreqz(sections, worN=np.array(hz), fs=sfreq)
    return np.abs(response)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("line_hz", [50, 60])
def test_every_rate_constructs_and_runs(rate: float, line_hz: int) -> None:
    made = Estimator(configured(f"channels.line_hz={line_hz}"), layout(rate_hz=rate))
    n = int(3 * rate)
    samples = np.random.default_rng(0).normal(0, 10, (n, len(LABELS)))
    out = made.kernel.process(samples, np.zeros(n, np.uint8), np.zeros((0, 3), np.int64))
    assert abs(len(out.frames) - 150) <= 1
    assert out.frames.shape[1] == len(made.columns)
    assert np.isfinite(out.frames[-1][:4]).all()


@pytest.mark.parametrize("rate", [100.0, 127.9, 5000.0, 25_000.0])
def test_a_rate_that_cannot_be_worked_on_is_refused_in_words(rate: float) -> None:
    with pytest.raises(LayoutError, match=f"the stream has {rate:g} samples a second; 128 to 4096"):
        Estimator(configured(), layout(rate_hz=rate))


@pytest.mark.parametrize(
    ("rate", "line_hz", "band", "words"),
    [
        (128.0, 50, None, "no muscle index: 128 Hz"),
        (250.0, 50, (58.0, 100.0), "muscle band moved to 58–100 Hz"),
        (250.0, 60, (68.0, 100.0), "muscle band moved to 68–100 Hz"),
        (1000.0, 50, (100.0, 200.0), None),
    ],
)
def test_a_muscle_band_that_moves_or_is_off_is_said(
    rate: float, line_hz: float, band: object, words: str | None
) -> None:
    bank = design(rate, line_hz)
    assert bank.muscle_band_hz == band
    assert (bank.muscle is None) == (band is None)
    assert bank.notes == () if words is None else bank.notes[0].startswith(words)
    made = Estimator(configured(f"channels.line_hz={line_hz:g}"), layout(rate_hz=rate))
    assert ("L.EMG" in made.columns) == (band is not None)
    assert set(bank.notes) <= set(made.notes)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("line_hz", [50.0, 60.0])
def test_filters_pass_their_band_and_stop_mains_and_drift(rate: float, line_hz: float) -> None:
    bank = design(rate, line_hz)
    bands = {"theta": (bank.theta, (4 * 7) ** 0.5), "beta": (bank.beta, (14 * 30) ** 0.5)}
    if bank.muscle is not None and bank.muscle_band_hz is not None:
        low, high = bank.muscle_band_hz
        bands["muscle"] = (bank.muscle, (low * high) ** 0.5)
    for sections, centre in bands.values():
        assert gain(sections, rate, centre)[0] == pytest.approx(1.0, abs=0.08)
        drift = gain(sections, rate, 1e-6, 0.1)
        assert drift[0] < 1e-6
        assert drift[1] < 0.01
        assert (np.abs(np.roots([1.0, *sections[0, 4:]])) < 1).all()
        if line_hz < 0.45 * rate:
            assert gain(sections, rate, line_hz)[0] < 1e-6
    for sections, edges in ((bank.theta, (4.0, 7.0)), (bank.beta, (14.0, 30.0))):
        np.testing.assert_allclose(gain(sections, rate, *edges), 0.5**0.5, atol=0.05)
    assert gain(design(rate, line_hz).theta[:1], rate, 1.0)[0] == pytest.approx(0.5**0.5, abs=1e-6)


@pytest.mark.parametrize("pair", PAIRS)
def test_the_best_pair_of_the_cap_is_used_and_a_stand_in_says_so(pair: tuple[str, str]) -> None:
    worse = [label for other in PAIRS[PAIRS.index(pair) :] for label in other]
    made = Estimator(configured(), layout((*worse, "Fz", "Cz", "C3", "C4", "F3", "F4", "Fp1", "Fp2")))
    assert f"{pair[0]}/{pair[1]}" in made.name
    said = any("stand in for PO9/PO10" in note for note in made.notes)
    assert said == made.is_stand_in == (pair != PAIRS[0])


def test_makers_spellings_are_understood() -> None:
    made = Estimator(configured(), layout(("EEG Cb1-Ref", "cb2", "OZ..", "T3", "cz", "fz", "C3", "C4")))
    assert "PO9/PO10" in made.name
    assert made.used.all()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ('channels.bad=["Nz", "Cz"]', "channels.bad names `Nz`, which is not in this stream"),
        ('channels.rails_under_current=["P10"]', "channels.rails_under_current names `P10`"),
    ],
)
def test_a_named_channel_that_is_missing_is_an_error_that_names_it(override: str, words: str) -> None:
    with pytest.raises(LayoutError, match=words):
        Estimator(configured(override), layout())


def test_a_chosen_pair_must_be_there_and_good() -> None:
    assert "C3/C4" in Estimator(configured("estimator.left=C3", "estimator.right=C4"), layout()).name
    with pytest.raises(LayoutError, match="estimator.left names `O1`"):
        Estimator(configured("estimator.left=O1", "estimator.right=C4"), layout())
    with pytest.raises(LayoutError, match="estimator.right is `C4`, which is listed as bad"):
        Estimator(configured("estimator.left=C3", "estimator.right=C4", 'channels.bad=["C4"]'), layout())


@pytest.mark.parametrize("labels", [("Fz", "Cz", "C3"), ("1", "2", "3"), ()])
def test_a_cap_without_any_pair_is_refused(labels: tuple[str, ...]) -> None:
    with pytest.raises(LayoutError, match="no posterior pair in this cap"):
        Estimator(configured(), layout(labels))


def test_bad_channels_and_strangers_are_out_of_the_reference() -> None:
    made = Estimator(configured('channels.bad=["Cz", "Oz"]'), layout((*LABELS, "ECG", "Trigger")))
    names = [*LABELS, "ECG", "Trigger"]
    out = [names.index(name) for name in ("Cz", "Oz", "ECG", "Trigger")]
    assert not made.used[out].any()
    assert not made.params.reference[out].any()
    assert not made.params.projection[:, out].any()
    assert made.params.reference.sum() == pytest.approx(1.0)


def test_a_bad_channel_has_no_influence_on_any_estimate() -> None:
    samples = np.random.default_rng(1).normal(0, 10, (1000, len(LABELS)))
    wild = samples.copy()
    wild[:, LABELS.index("Cz")] = np.nan
    frames = []
    for rows in (samples, wild):
        made = Estimator(configured('channels.bad=["Cz"]'), layout())
        frames.append(
            made.kernel.process(rows, np.zeros(1000, np.uint8), np.zeros((0, 3), np.int64)).frames.tobytes()
        )
    assert frames[0] == frames[1]


def test_units_are_brought_to_microvolts() -> None:
    made = Estimator(configured(), Layout(labels=LABELS, units=("V",) * 8, to_uv=(1e6,) * 8, sfreq_hz=250.0))
    assert made.scale_uv.tolist() == [1e6] * 8


def test_a_missing_control_channel_and_a_small_cap_are_said() -> None:
    made = Estimator(configured(), layout(("PO9", "PO10", "Cz", "Fz")))
    assert "the average reference rests on only 4 channels" in made.notes
    assert "no occipital control channel (Oz, POz, Pz) in this cap" in made.notes
    assert not any(column.startswith("L.OC") for column in made.columns)
