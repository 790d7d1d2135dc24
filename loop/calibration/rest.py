"""What one to two minutes of rest tell: which channels are good, how they vary together in each band, and what is an artefact.

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

from loop.calibration.errors import CalibrationError
from loop.estimator import RING, TAU_MUSCLE_S, Bank
from loop.montage import spherical_position, standard_label

Float64s = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

LEAST_CHANNELS: Final = 8
LEAST_CLEAN_S: Final = 30.0
WANTED_CLEAN_S: Final = 60.0
LEAST_MUSCLE_Z: Final = 4.0

_BLOCK_S: Final = 0.5
_WARM_UP_S: Final = 3.0
# How many times a channel's median power a block may reach. The fewer degrees of freedom a band has in half a second (theta
# 3, beta 16, muscle 100), the more its power varies by itself.
_MOST_POWER: Final = {"theta": 10.0, "beta": 6.0, "muscle": 4.0}
_SPECTRUM_S: Final = 2.0

_FLAT_UV: Final = 0.5
_MOST_FLAT: Final = 0.2
_MOST_STILL: Final = 0.2
_MOST_LOST: Final = 0.02
_NOISY_Z: Final = 4.0
_NOISY_TIMES: Final = 3.0
_QUIET_TIMES: Final = 6.0
_LEAST_SPREAD: Final = 0.2
_LEAST_ALIKE: Final = 0.3


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
    bad = _find_bad(samples_uv, filled, sfreq_hz, labels, candidates, bank.muscle_band_hz, rail_uv=rail_uv, line_hz=line_hz)
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
    projected = _above_1_hz(eeg @ filters[:, rest.good].T, rest.sfreq_hz)
    return _welch(projected[rest.clean], rest.sfreq_hz)


def noise_bandwidth_hz(sos: Float64s, sfreq_hz: float) -> float:
    """Bandwidth through which white noise would have the power that it has behind these sections, in Hz."""
    _, response = signal.sosfreqz(sos, worN=1 << 14, fs=sfreq_hz)
    return float(np.mean(np.abs(response) ** 2) * sfreq_hz / 2.0)


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


def _above_1_hz(values: Float64s, sfreq_hz: float) -> Float64s:
    high = signal.butter(2, 1.0, "highpass", fs=sfreq_hz, output="sos")
    return np.asarray(signal.sosfilt(high, values, axis=0), dtype=np.float64)


def _welch(values: Float64s, sfreq_hz: float) -> tuple[Float64s, Float64s]:
    length = round(_SPECTRUM_S * sfreq_hz)
    frequencies, power = signal.welch(values, fs=sfreq_hz, nperseg=length, average="median", axis=0)
    return np.asarray(frequencies), np.asarray(power.T)


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
    return np.asarray(2.0 * np.quantile(np.abs(_above_1_hz(eeg, sfreq_hz)[clean]), 0.995, axis=0))


def _muscle_z_limit(muscle: Float64s | None, labels: Sequence[str], clean: Bools, sfreq_hz: float) -> float:
    if muscle is None:
        return LEAST_MUSCLE_Z
    ring = [i for i, label in enumerate(labels) if standard_label(label) in RING] or [len(labels) - 1]
    a = np.exp(-1.0 / (TAU_MUSCLE_S * sfreq_hz))
    power = signal.lfilter([1.0 - a], [1.0, -a], (muscle[:, ring] ** 2).mean(axis=1))
    level = np.log(power[clean] + 1e-6)
    z = (level - level.mean()) / max(float(level.std()), 1e-9)
    return max(LEAST_MUSCLE_Z, float(np.quantile(z, 0.995)))


# ---- channels


def _find_bad(
    samples_uv: Float64s,
    filled: Float64s,
    sfreq_hz: float,
    labels: Sequence[str],
    candidates: Bools,
    muscle_band_hz: tuple[float, float] | None,
    *,
    rail_uv: float,
    line_hz: float,
) -> dict[str, str]:
    """Bad candidates with the reason: first by what the amplifier shows, then against the rest of the cap."""
    bad = _dead(samples_uv, sfreq_hz, rail_uv, candidates)
    rest = np.array([i for i in np.flatnonzero(candidates) if i not in bad], dtype=np.int64)
    if len(rest) >= LEAST_CHANNELS:
        # The median as a reference: a single wild channel does not reach the others through it.
        eeg = _above_1_hz(filled[:, rest] - np.median(filled[:, rest], axis=1, keepdims=True), sfreq_hz)
        near = _neighbours([labels[i] for i in rest])
        reasons = _wild(eeg, sfreq_hz, near, muscle_band_hz, line_hz)
        reasons |= _lonely(eeg, sfreq_hz, near, set(reasons))
        bad |= {int(rest[k]): reason for k, reason in reasons.items()}
    return {labels[i]: bad[i] for i in sorted(bad)}


def _dead(samples_uv: Float64s, sfreq_hz: float, rail_uv: float, candidates: Bools) -> dict[int, str]:
    length = round(sfreq_hz)
    whole = len(samples_uv) // length * length
    bad: dict[int, str] = {}
    for i in np.flatnonzero(candidates):
        values = samples_uv[:, i]
        finite = np.isfinite(values)
        no_number = 1.0 - float(finite.mean())
        railed = float((np.abs(values[finite]) >= rail_uv).mean()) if finite.any() else 0.0
        flat = float((np.ptp(held(values[:whole]).reshape(-1, length), axis=1) < _FLAT_UV).mean())
        if no_number > _MOST_LOST:
            bad[int(i)] = f"no number in {100 * no_number:.0f} % of the samples"
        elif railed > _MOST_LOST:
            bad[int(i)] = f"at the amplifier's rail in {100 * railed:.0f} % of the samples"
        elif flat > _MOST_FLAT:
            bad[int(i)] = f"flat in {100 * flat:.0f} % of the seconds"
    return bad


def _wild(
    eeg: Float64s, sfreq_hz: float, near: list[list[int]], muscle_band_hz: tuple[float, float] | None, line_hz: float
) -> dict[int, str]:
    """Channels whose power stands out from the cap's; near the neck, muscle is judged against neighbours, who share it."""
    frequencies, power = _welch(eeg, sfreq_hz)
    step = frequencies[1]
    mains = np.abs(frequencies - line_hz) <= 1.0
    below = (frequencies >= 1.0) & (frequencies <= min(40.0, line_hz - 5.0))
    size, hum = (np.sqrt(power[:, part].sum(axis=1) * step) for part in (below, mains))
    z, times = _against_cap(size)
    hum_z, hum_times = _against_cap(hum)
    reasons: dict[int, str] = {}
    for i in range(len(power)):
        if z[i] > _NOISY_Z and times[i] > _NOISY_TIMES:
            reasons[i] = f"noisy: {times[i]:.1f} times the cap's usual amplitude (1–40 Hz)"
        elif z[i] < -_NOISY_Z and times[i] < 1.0 / _QUIET_TIMES:
            reasons[i] = f"hardly any signal: {times[i]:.2f} times the cap's usual amplitude (1–40 Hz)"
        elif hum_z[i] > _NOISY_Z and hum_times[i] > _NOISY_TIMES and hum[i] > 2.0 * size[i]:
            reasons[i] = f"mains: {hum[i]:.0f} µV, {hum_times[i]:.0f} times what the cap usually has"
    if muscle_band_hz is not None:
        low, high = muscle_band_hz
        away = np.abs(frequencies / line_hz - np.round(frequencies / line_hz)) * line_hz > 2.0
        fast = np.sqrt(power[:, (frequencies >= low) & (frequencies <= high) & away].sum(axis=1) * step)
        fast_z, fast_times = _against_cap(fast)
        for i, others in enumerate(near):
            if i in reasons or fast_z[i] < _NOISY_Z or fast_times[i] < _NOISY_TIMES:
                continue
            beside = fast[i] / max(fast[k] for k in others) if others else 0.0
            if beside > _NOISY_TIMES:
                reasons[i] = f"noisy at {low:.0f}–{high:.0f} Hz: {beside:.1f} times its noisiest neighbour"
    return reasons


def _against_cap(size: Float64s) -> tuple[Float64s, Float64s]:
    """Robust z of log amplitudes, and amplitudes in units of their median; very even caps are not taken at their word."""
    times = np.maximum(size, 1e-9) / max(float(np.median(size)), 1e-9)
    level = np.log(times)
    return level / max(_LEAST_SPREAD, 1.4826 * float(np.median(np.abs(level)))), times


def _neighbours(labels: Sequence[str]) -> list[list[int]]:
    """The four nearest others within 60 degrees of each channel; none where a channel has no known site or few others."""
    sites = [spherical_position(label) for label in labels]
    where = np.array([site if site is not None else (np.nan,) * 3 for site in sites])
    closeness = where @ where.T
    np.fill_diagonal(closeness, np.nan)
    out = []
    for row in closeness:
        within = [int(k) for k in np.argsort(-np.nan_to_num(row, nan=-2.0))[:4] if row[k] > 0.5]
        out.append(within if len(within) >= 3 else [])
    return out


def _lonely(eeg: Float64s, sfreq_hz: float, near: list[list[int]], known: set[int]) -> dict[int, str]:
    """Channels that none of their neighbours resembles (1–30 Hz, median over windows of 4 s); the worst goes first."""
    low = signal.butter(2, 30.0, fs=sfreq_hz, output="sos")
    every = max(1, int(sfreq_hz // 120.0))
    slow = signal.sosfilt(low, eeg, axis=0)[::every]
    length = round(4.0 * sfreq_hz / every)
    windows = slow[: len(slow) // length * length].reshape(-1, length, eeg.shape[1])
    with np.errstate(invalid="ignore"):
        alike = np.nan_to_num(np.median([np.corrcoef(window.T) for window in windows], axis=0))
    reasons: dict[int, str] = {}
    out = set(known)
    while True:
        best = {
            i: max(alike[i, k] for k in left)
            for i, others in enumerate(near)
            if i not in out and (left := [k for k in others if k not in out])
        }
        worst = min(best, key=lambda i: best[i], default=None)
        if worst is None or best[worst] >= _LEAST_ALIKE:
            return reasons
        reasons[worst] = f"does not follow its neighbours (correlation {best[worst]:.2f})"
        out.add(worst)


def held(samples_uv: Float64s) -> Float64s:
    """A copy with each value that is no number replaced by the one before it (the first ones by the first number, or 0)."""
    out = np.array(samples_uv, dtype=np.float64)
    columns = out.reshape(len(out), -1)
    for i in np.flatnonzero(~np.isfinite(columns).all(axis=0)):
        column = columns[:, i]
        finite = np.flatnonzero(np.isfinite(column))
        if len(finite) == 0:
            column[:] = 0.0
            continue
        last = np.searchsorted(finite, np.arange(len(column)), side="right") - 1
        column[:] = column[finite[np.maximum(last, 0)]]
    return out
