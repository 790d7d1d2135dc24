"""Verdicts on channels and units: held for a second, in words, and lenient with every plausible EEG."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from loop.quality import ChannelWatch, UnitWatch, Verdict

LABELS = ("PO9", "PO10", "Cz")
NONFINITE, RAILED, FLAT = 1, 2, 4


def frames(n: int, **bits: int) -> npt.NDArray[np.uint8]:
    """`n` frames of channel flags, the named channels flagged throughout."""
    flags = np.zeros((n, len(LABELS)), dtype=np.uint8)
    for label, value in bits.items():
        flags[:, LABELS.index(label)] = value
    return flags


@pytest.mark.parametrize(
    ("bits", "name"),
    [
        (NONFINITE, "non_finite"),
        (RAILED, "railed"),
        (FLAT, "flat"),
        (NONFINITE | FLAT, "non_finite"),
        (RAILED | FLAT, "railed"),
    ],
)
def test_a_flag_turns_a_channel_bad_at_once_and_names_the_gravest(bits: int, name: str) -> None:
    watch = ChannelWatch(LABELS)
    assert watch.take(frames(1, Cz=bits)) == [Verdict("Cz", name, bad=True)]
    assert watch.bad == {"Cz": name}


def test_a_channel_is_good_again_only_after_a_second_without_a_flag() -> None:
    watch = ChannelWatch(LABELS)
    watch.take(frames(3, Cz=RAILED))
    assert watch.take(frames(49)) == []
    assert watch.take(frames(1, Cz=RAILED)) == [], "still the same verdict"
    assert watch.take(frames(49)) == []
    assert watch.bad == {"Cz": "railed"}
    assert watch.take(frames(1)) == [Verdict("Cz", "railed", bad=False)]
    assert watch.bad == {}


def test_a_flickering_channel_gives_one_verdict() -> None:
    watch = ChannelWatch(LABELS)
    verdicts = [v for k in range(500) for v in watch.take(frames(1, PO9=FLAT if k % 40 == 0 else 0))]
    assert verdicts == [Verdict("PO9", "flat", bad=True)]


def test_verdicts_do_not_depend_on_the_cut_into_chunks() -> None:
    flags = (np.random.default_rng(3).random((600, 3)) < 0.01).astype(np.uint8) * RAILED
    whole, single = ChannelWatch(LABELS), ChannelWatch(LABELS)
    assert whole.take(flags) == [v for row in flags for v in single.take(row[None])]
    assert whole.bad == single.bad


def test_each_channel_is_judged_on_its_own() -> None:
    watch = ChannelWatch(LABELS)
    assert watch.take(frames(1, PO9=FLAT, Cz=NONFINITE)) == [
        Verdict("PO9", "flat", bad=True),
        Verdict("Cz", "non_finite", bad=True),
    ]
    assert watch.take(frames(50, PO9=FLAT)) == [Verdict("Cz", "non_finite", bad=False)]
    assert watch.bad == {"PO9": "flat"}


def eeg(sfreq: float, seconds: float = 3.0, scale_uv: float = 10.0) -> npt.NDArray[np.float64]:
    """Noise with a 1/f spectrum, shape (n_times, 3)."""
    n = int(sfreq * seconds)
    spectrum = np.fft.rfft(np.random.default_rng(4).normal(size=(n, 3)), axis=0)
    frequency = np.fft.rfftfreq(n, 1 / sfreq)[:, None]
    shaped = np.fft.irfft(spectrum / np.maximum(frequency, 0.5), n=n, axis=0)
    return shaped / shaped.std() * scale_uv


def verdict(
    samples: npt.NDArray[np.float64],
    sfreq: float = 500.0,
    chunk: int = 10,
    used: tuple[bool, ...] = (True,) * 3,
) -> str | None:
    """The one sentence of a segment's first seconds, or None."""
    watch = UnitWatch(sfreq)
    said = [watch.take(samples[k : k + chunk], np.array(used)) for k in range(0, len(samples), chunk)]
    sentences = [sentence for sentence in said if sentence is not None]
    assert len(sentences) <= 1
    return sentences[0] if sentences else None


@pytest.mark.parametrize("sfreq", [128.0, 500.0, 4096.0])
@pytest.mark.parametrize("scale_uv", [1.0, 10.0, 300.0])
def test_plausible_eeg_passes(sfreq: float, scale_uv: float) -> None:
    assert verdict(eeg(sfreq, scale_uv=scale_uv), sfreq) is None


@pytest.mark.parametrize("offset_uv", [-150_000.0, 80_000.0])
def test_a_large_offset_passes(offset_uv: float) -> None:
    assert verdict(eeg(500.0) + offset_uv) is None


@pytest.mark.parametrize("step_uv", [0.05, 0.5, 10.0])
def test_quantised_samples_pass(step_uv: float) -> None:
    assert verdict(np.round(eeg(500.0) / step_uv) * step_uv) is None


@pytest.mark.parametrize("sfreq", [128.0, 500.0])
def test_volts_declared_as_microvolts_are_found(sfreq: float) -> None:
    sentence = verdict(eeg(sfreq) * 1e-6, sfreq)
    assert sentence is not None
    assert "10^6 too small" in sentence


@pytest.mark.parametrize("sfreq", [128.0, 500.0])
def test_microvolts_declared_as_volts_are_found(sfreq: float) -> None:
    sentence = verdict(eeg(sfreq) * 1e6, sfreq)
    assert sentence is not None
    assert "10^6 too large" in sentence


def test_unused_channels_have_no_say() -> None:
    samples = eeg(500.0)
    samples[:, 1:] *= 1e6
    assert verdict(samples, used=(True, False, False)) is None
    assert verdict(samples, used=(False, True, True)) is not None


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 1e308])
def test_samples_without_information_give_no_verdict_and_no_error(value: float) -> None:
    assert verdict(np.full((1500, 3), value)) is None


def test_a_few_wild_samples_do_not_sway_the_verdict() -> None:
    samples = eeg(500.0)
    samples[::50] = np.nan
    samples[7::90] = 1e9
    assert verdict(samples) is None
