"""What one to two minutes of rest tell: how the good channels vary together in each band, and what is an artefact.

Everything rests on the same causal sections that the kernel will use, on the average of the good channels as reference, and on
medians where a few bad seconds must not decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import signal

from loop.calibration.bad_channels import LEAST_CHANNELS, find_bad
from loop.calibration.errors import CalibrationError
from loop.calibration.spectrum import above_1_hz, held, noise_bandwidth_hz, welch
from loop.estimator import RING, TAU_MUSCLE_S, Bank
from loop.montage import standard_label

__all__ = ["LEAST_CHANNELS", "RestStatistics", "held", "noise_bandwidth_hz", "rest_statistics", "spectra"]

Float64s = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

LEAST_CLEAN_S: Final = 30.0
WANTED_CLEAN_S: Final = 60.0
LEAST_MUSCLE_Z: Final = 4.0

_BLOCK_S: Final = 0.5
_WARM_UP_S: Final = 3.0
# How many times a channel's median power a block may reach. The fewer degrees of freedom a band has in half a second (theta
# 3, beta 16, muscle 100), the more its power varies by itself.
_MOST_POWER: Final = {"theta": 10.0, "beta": 6.0, "muscle": 4.0}
_MOST_STILL: Final = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class RestStatistics:
    """What rest told about one cap.

    Attributes
    ----------
    labels : tuple of str
    sfreq_hz : float
    good : ndarray of bool, shape (n_channels,)
        Candidates that are not bad; the average reference is taken over them.
    bad : dict
        Candidates that were found bad, with the reason in words.
    covariance_theta, covariance_beta : ndarray, shape (n_channels, n_channels)
        µV² of the band-passed, average-referenced clean samples; zero in rows and columns of channels that are not good.
    sd_theta_uv, sd_beta_uv : ndarray, shape (n_channels,)
        Square roots of their diagonals.
    floor_theta_uv, floor_beta_uv : ndarray, shape (n_channels,)
        What of it white noise of sensor and amplifier would make, judged by what no other channel explains high in the
        spectrum. Zero where not good.
    amplitude_limit_uv : ndarray, shape (n_channels,)
        Suggested limit of a good sample above 1 Hz: twice what 99.5 % of the clean ones stay below. Zero where not good.
    muscle_z_limit : float
        Suggested limit of the muscle index in standard deviations of the clean samples: what 99.5 % of them stay below, at
        least 4; 4 where the rate carries no muscle band.
    clean : ndarray of bool, shape (n_times,)
        Samples that the above rests on.
    clean_s : float
    notes : tuple of str
        For the reader.
    """

    labels: tuple[str, ...]
    sfreq_hz: float
    good: Bools
    bad: dict[str, str]
    covariance_theta: Float64s
    covariance_beta: Float64s
    sd_theta_uv: Float64s
    sd_beta_uv: Float64s
    floor_theta_uv: Float64s
    floor_beta_uv: Float64s
    amplitude_limit_uv: Float64s
    muscle_z_limit: float
    clean: Bools
    clean_s: float
    notes: tuple[str, ...]


def rest_statistics(
    samples_uv: Float64s,
    sfreq_hz: float,
    labels: Sequence[str],
    candidates: Bools,
    bank: Bank,
    *,
    rail_uv: float,
    line_hz: float,
) -> RestStatistics:
    """Judge channels and samples of a rest block, and measure what the spatial filters need.

    Parameters
    ----------
    samples_uv : ndarray, shape (n_times, n_channels)
        Rest without task and without current, in microvolts; 60 to 120 s are wanted.
    sfreq_hz : float
    labels : sequence of str
        One a channel, in any spelling; a bad channel is named as here.
    candidates : ndarray of bool, shape (n_channels,)
        Scalp channels that are to be used: not under a pad, not known to be bad.
    bank : loop.estimator.Bank
        Sections of the kernel for this rate.
    rail_uv : float
        Where the amplifier saturates.
    line_hz : float
        Mains frequency.

    Returns
    -------
    RestStatistics

    Raises
    ------
    CalibrationError
        If there are fewer than 8 good channels or less than 30 s of clean samples.
    """
    n, n_channels = samples_uv.shape
    if n_channels != len(labels) or n_channels != len(candidates):
        raise CalibrationError(f"the rest block has {n_channels} channels, {len(labels)} labels and {len(candidates)} marks")
    if n < LEAST_CLEAN_S * sfreq_hz:
        raise CalibrationError(
            f"the rest block lasts {n / sfreq_hz:.0f} s, at least {LEAST_CLEAN_S:.0f} s are needed: record one to two minutes "
            "without task and current between BLOCK/R/START and BLOCK/R/END"
        )
    # Constant offsets are taken away first: the filters would need seconds to forget millivolts.
    finite = np.isfinite(samples_uv)
    filled = held(samples_uv)
    filled -= np.median(filled, axis=0)
    usable = finite & (np.abs(np.where(finite, samples_uv, 0.0)) < rail_uv)
    bad = find_bad(samples_uv, filled, sfreq_hz, labels, candidates, bank.muscle_band_hz, rail_uv=rail_uv, line_hz=line_hz)
    good = candidates & np.array([label not in bad for label in labels])
    if good.sum() < LEAST_CHANNELS:
        found = f"; bad: {', '.join(list(bad)[:8])}" if bad else ""
        raise CalibrationError(
            f"{int(good.sum())} good EEG channels, spatial filters need at least {LEAST_CHANNELS}: improve the contacts{found}"
        )

    eeg = filled[:, good]
    eeg = eeg - eeg.mean(axis=1, keepdims=True)
    bands = {"theta": signal.sosfilt(bank.theta, eeg, axis=0), "beta": signal.sosfilt(bank.beta, eeg, axis=0)}
    if bank.muscle is not None:
        bands["muscle"] = signal.sosfilt(bank.muscle, eeg, axis=0)
    clean = _clean_samples(bands, eeg, np.asarray(usable[:, good].all(axis=1)), sfreq_hz)
    clean_s = float(clean.sum() / sfreq_hz)
    if clean_s < LEAST_CLEAN_S:
        raise CalibrationError(
            f"{clean_s:.0f} s of the {n / sfreq_hz:.0f} s of rest are clean, {LEAST_CLEAN_S:.0f} s are needed: let the "
            "participant rest longer, with relaxed jaw and neck and few blinks"
        )

    notes = []
    if clean_s < WANTED_CLEAN_S:
        notes.append(f"only {clean_s:.0f} s of clean rest: the spatial filters are less sure than with {WANTED_CLEAN_S:.0f} s")
    n_candidates = int(candidates.sum())
    if len(bad) > n_candidates / 5:
        notes.append(f"{len(bad)} of {n_candidates} channels are bad: look after the contacts before going on")

    def spread(values: Float64s) -> Float64s:
        out = np.zeros((n_channels, *[n_channels] * (values.ndim - 1)))
        out[np.ix_(*[good] * values.ndim)] = values
        return out

    kept = [label for label, one in zip(labels, good, strict=True) if one]
    theta, beta = (_covariance(bands[name][clean]) for name in ("theta", "beta"))
    density = _white_density(filled[:, good], clean, sfreq_hz)
    limit = _amplitude_limit(eeg, clean, sfreq_hz)
    return RestStatistics(
        labels=tuple(labels),
        sfreq_hz=sfreq_hz,
        good=good,
        bad=bad,
        covariance_theta=spread(theta),
        covariance_beta=spread(beta),
        sd_theta_uv=spread(np.sqrt(np.diag(theta))),
        sd_beta_uv=spread(np.sqrt(np.diag(beta))),
        floor_theta_uv=spread(np.sqrt(density * noise_bandwidth_hz(bank.theta, sfreq_hz))),
        floor_beta_uv=spread(np.sqrt(density * noise_bandwidth_hz(bank.beta, sfreq_hz))),
        amplitude_limit_uv=spread(limit),
        muscle_z_limit=_muscle_z_limit(bands.get("muscle"), kept, clean, sfreq_hz),
        clean=clean,
        clean_s=clean_s,
        notes=tuple(notes),
    )


def spectra(samples_uv: Float64s, rest: RestStatistics, filters: Float64s) -> tuple[Float64s, Float64s]:
    """Spectra of spatially filtered rest.

    Parameters
    ----------
    samples_uv : ndarray, shape (n_times, n_channels)
        The rest block again.
    rest : RestStatistics
        Says what is good and clean.
    filters : ndarray, shape (n_filters, n_channels)
        Weights on average-referenced channels, zero where a channel is not good.

    Returns
    -------
    frequencies_hz : ndarray, shape (n_frequencies,)
    power_uv2_hz : ndarray, shape (n_filters, n_frequencies)
        Welch's method with the median over windows of 2 s, of clean samples above 1 Hz.
    """
    eeg = held(samples_uv[:, rest.good])
    eeg -= np.median(eeg, axis=0)
    eeg -= eeg.mean(axis=1, keepdims=True)
    projected = above_1_hz(eeg @ filters[:, rest.good].T, rest.sfreq_hz)
    return welch(projected[rest.clean], rest.sfreq_hz)


def _clean_samples(bands: dict[str, Float64s], eeg: Float64s, usable: Bools, sfreq_hz: float) -> Bools:
    """Samples in blocks of half a second in which no channel's power stands out; the block after one that does is out too."""
    n = len(eeg)
    length = round(_BLOCK_S * sfreq_hz)
    n_blocks = n // length
    whole = n_blocks * length

    def blocks(values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        return values[:whole].reshape(n_blocks, length, *values.shape[1:])

    out = ~blocks(usable).all(axis=1)
    # A recording that was padded or paused: nothing moves on most channels.
    still = np.diff(eeg, axis=0, prepend=eeg[:1]) == 0.0
    out |= np.asarray(blocks(still)).mean(axis=(1, 2)) > _MOST_STILL
    started = round(_WARM_UP_S / _BLOCK_S)
    for name, values in bands.items():
        power = (np.asarray(blocks(values), dtype=np.float64) ** 2).mean(axis=1)
        usual = np.median(power[started:], axis=0)
        out |= (power > _MOST_POWER[name] * usual).any(axis=1)
    # The filters ring on after what upset them.
    out[1:] |= out[:-1].copy()
    out[:started] = True
    clean = np.zeros(n, dtype=np.bool_)
    clean[:whole] = np.repeat(~out, length)
    return clean


def _covariance(values: Float64s) -> Float64s:
    return np.asarray(values.T @ values / len(values), dtype=np.float64)


def _white_density(own: Float64s, clean: Bools, sfreq_hz: float) -> Float64s:
    """Power density (n_good,) in µV²/Hz, high in the spectrum, of what in each channel no combination of the others explains.

    The diagonal of the inverse covariance holds the inverse of that power. `own` has the recording's own reference: what the
    reference adds to all is explained, whereas averaging would leave the covariance without an inverse. The upper tenth below
    the Nyquist frequency is left to the amplifier's anti-aliasing filter.
    """
    sos = signal.butter(4, (0.25 * sfreq_hz, 0.4 * sfreq_hz), "bandpass", fs=sfreq_hz, output="sos")
    high = signal.sosfilt(sos, own, axis=0)[clean]
    covariance = _covariance(high)
    # A channel that is the recording's own reference, or a copy of another, has no noise of its own.
    covariance += 1e-9 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    return np.asarray(1.0 / np.diag(np.linalg.inv(covariance)) / noise_bandwidth_hz(sos, sfreq_hz), dtype=np.float64)


def _amplitude_limit(eeg: Float64s, clean: Bools, sfreq_hz: float) -> Float64s:
    return np.asarray(2.0 * np.quantile(np.abs(above_1_hz(eeg, sfreq_hz)[clean]), 0.995, axis=0))


def _muscle_z_limit(muscle: Float64s | None, labels: Sequence[str], clean: Bools, sfreq_hz: float) -> float:
    if muscle is None:
        return LEAST_MUSCLE_Z
    ring = [i for i, label in enumerate(labels) if standard_label(label) in RING] or [len(labels) - 1]
    a = np.exp(-1.0 / (TAU_MUSCLE_S * sfreq_hz))
    power = signal.lfilter([1.0 - a], [1.0, -a], (muscle[:, ring] ** 2).mean(axis=1))
    level = np.log(power[clean] + 1e-6)
    z = (level - level.mean()) / max(float(level.std()), 1e-9)
    return max(LEAST_MUSCLE_Z, float(np.quantile(z, 0.995)))
