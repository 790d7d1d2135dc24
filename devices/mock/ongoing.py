"""What a head gives off without being asked: background, alpha, muscle, blinks, mains and sensor noise.

Made in blocks of fixed length from random streams of their own, so that how it is read cannot change it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import signal

from devices.mock import head

if TYPE_CHECKING:
    from devices.mock.patient_settings import PatientSettings

Float64s = npt.NDArray[np.float64]

BLOCK_S: Final = 4.0
_SETTLE_BLOCKS: Final = 5
_N_DIPOLES: Final = 60
_SLOWEST_HZ: Final = 0.3
_MUSCLE_HZ: Final = (25.0, 200.0)
_MUSCLE_REACH_M: Final = 0.035
_MUSCLE_HEAD_MM: Final = ((-45.0, -85.0, -25.0), (45.0, -85.0, -25.0), (0.0, -95.0, -20.0))
_BURSTS_MIN: Final = 4.0
_BLINKS_MIN: Final = 12.0
_EYES: Final = (0.0, 1.0, -0.25)


def unit_power(sos: Float64s) -> Float64s:
    """The same sections, scaled so that white noise of power 1 comes out with power 1."""
    _, response = signal.sosfreqz(sos, worN=1 << 15)
    scaled = np.array(sos, dtype=np.float64)
    scaled[0, :3] /= math.sqrt(float(np.mean(np.abs(response) ** 2)))
    return scaled


class Filter:
    """A recursive filter with memory, over the last axis of arrays of a given shape before it."""

    def __init__(self, sos: Float64s, shape: tuple[int, ...]) -> None:
        self._sos = sos
        self._state = np.zeros((len(sos), *shape, 2))

    def __call__(self, white: Float64s) -> Float64s:
        """Filter the next samples along the last axis."""
        out, self._state = signal.sosfilt(self._sos, white, axis=-1, zi=self._state)
        return np.asarray(out, dtype=np.float64)


def band(low_hz: float, high_hz: float, sfreq_hz: float) -> Float64s:
    """Sections of a Butterworth band-pass of unit power; its upper edge stays below the Nyquist frequency."""
    high_hz = min(high_hz, 0.45 * sfreq_hz)
    return unit_power(np.asarray(signal.butter(2, (low_hz, high_hz), "bandpass", fs=sfreq_hz, output="sos")))


def sloped(exponent: float, sfreq_hz: float) -> Float64s:
    """First-order sections whose power falls as f^-exponent: poles and zeros evenly spaced in log frequency."""
    top_hz = 0.45 * sfreq_hz
    n = math.ceil(math.log2(top_hz / _SLOWEST_HZ) / 2.0)
    ratio = (top_hz / _SLOWEST_HZ) ** (1.0 / n)
    sections = []
    for k in range(n):
        pole_hz = _SLOWEST_HZ * ratio**k
        zero_hz = pole_hz * ratio ** (exponent / 2.0)
        pole, zero = (math.exp(-2.0 * math.pi * f / sfreq_hz) for f in (pole_hz, zero_hz))
        sections.append([1.0, -zero, 0.0, 1.0, -pole, 0.0])
    return unit_power(np.array(sections))


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Float64s:
    """Normal numbers, drawn in single precision: twice as fast, and finer than the converter by far."""
    return rng.standard_normal(shape, dtype=np.float32).astype(np.float64)


def gaussian(t_s: Float64s, centre_s: float, sd_s: float) -> Float64s:
    """Bell of height 1."""
    return np.asarray(np.exp(-0.5 * ((t_s - centre_s) / sd_s) ** 2), dtype=np.float64)


def unit_peak(values: Float64s) -> Float64s:
    """Scaled so that the largest is 1."""
    return np.asarray(values / values.max(), dtype=np.float64)


def muscle_topographies(directions: Float64s) -> Float64s:
    """Shares (n, 3) of neck muscle left, right and middle; it lies outside the sphere and just fades."""
    centre_mm = np.array(head.CENTRE_M) * 1e3
    return np.stack(
        [head.fading(directions, np.array(place) - centre_mm, _MUSCLE_REACH_M) for place in _MUSCLE_HEAD_MM],
        axis=1,
    )


class Ongoing(NamedTuple):
    """One block; `eeg` is (n, n_channels) in microvolts, the rest (n,) in units of their own.

    `blink` is part of `eeg` already and given again because current changes its gain; `heart`, `breath` and
    `contact` only show where current flows.
    """

    eeg: Float64s
    blink: Float64s
    heart: Float64s
    breath: Float64s
    contact: Float64s


class Generator:
    """Yields one block after another; the same settings give the same blocks.

    Parameters
    ----------
    settings : PatientSettings
        Sizes and seed.
    alpha_uv, muscle_uv : float
        Sizes after what the group does to them.
    """

    def __init__(self, settings: PatientSettings, *, alpha_uv: float, muscle_uv: float) -> None:
        fs = settings.sfreq_hz
        self._fs = fs
        self._n = round(BLOCK_S * fs)
        # A stream of random numbers for each part, so that leaving one out leaves the others as they are.
        parts = ("plan", "brain", "own", "alpha", "muscle", "contact", "sensor")
        self._rng = {part: np.random.default_rng([settings.seed, 2, k]) for k, part in enumerate(parts)}
        directions = head.electrode_directions(settings.labels)
        self.blink_topography = head.fading(directions, np.array(_EYES), 0.04)
        self._settings = settings
        self._brain = self._dipoles(directions, settings.background_uv)
        self._own = 4.0 * np.stack(
            [head.radial_dipole(directions, head.from_mni(p)) for p in (head.CRUS_LEFT, head.CRUS_RIGHT)]
        )
        self._visual = alpha_uv * unit_peak(head.radial_dipole(directions, head.from_mni(head.VISUAL)))
        self._muscle = muscle_uv * muscle_topographies(directions).T
        self._slope = Filter(sloped(1.3, fs), (_N_DIPOLES,))
        self._pink = Filter(sloped(1.0, fs), (2,))
        self._alpha = Filter(band(9.0, 11.0, fs), ())
        self._waxing = Filter(unit_power(np.asarray(signal.butter(1, 0.05, fs=fs, output="sos"))), ())
        self._muscular = Filter(band(*_MUSCLE_HZ, fs), (3,))
        n_channels = len(settings.labels)
        plan = self._rng["plan"]
        phase = plan.uniform(0.0, 2.0 * math.pi, n_channels)
        size = settings.line_uv * math.sqrt(2.0) * plan.uniform(0.5, 1.5, n_channels)
        self._line = np.stack([size * np.cos(phase), size * np.sin(phase)])
        self._blinks, self._bursts, self._beats = self._episodes(settings.duration_s + 60.0)
        self._first = 0
        for _ in range(_SETTLE_BLOCKS):  # until the slowest filters have forgotten their start
            self._noise()

    def _dipoles(self, directions: Float64s, total_uv: float) -> Float64s:
        """Topographies (60, n_channels) of dipoles all over the brain, turned anyhow, together `total_uv` on average."""
        out: list[Float64s] = []
        rng = self._rng["plan"]
        while len(out) < _N_DIPOLES:
            place = rng.uniform(-0.85, 0.85, 3)
            if 0.45 < float(np.linalg.norm(place)) < 0.85 and place[2] > -0.45:
                moment = rng.standard_normal(3)
                out.append(head.dipole(directions, place, moment / float(np.linalg.norm(moment))))
        table = np.stack(out)
        return np.asarray(table * (total_uv / math.sqrt(float(np.mean(np.sum(table**2, axis=0))))))

    def _episodes(self, duration_s: float) -> tuple[Float64s, Float64s, Float64s]:
        """Times of blinks; (start, length, gain, which) of muscle bursts; times of heartbeats; in seconds."""
        rng = self._rng["plan"]
        blinks = np.cumsum(rng.gamma(4.0, 60.0 / _BLINKS_MIN / 4.0, int(duration_s / 60.0 * _BLINKS_MIN * 1.5) + 8))
        n = int(duration_s / 60.0 * _BURSTS_MIN * 1.5) + 8
        bursts = np.stack(
            [
                np.cumsum(rng.exponential(60.0 / _BURSTS_MIN, n)),
                rng.uniform(0.4, 2.0, n),
                rng.uniform(2.0, 6.0, n),
                rng.integers(0, 3, n).astype(np.float64),
            ],
            axis=1,
        )
        beats = np.cumsum(rng.normal(0.86, 0.04, int(duration_s / 0.8) + 8))
        return blinks, bursts, beats

    def _noise(self) -> tuple[Float64s, Float64s, Float64s]:
        """EEG (n, n_channels) that is noise, muscle (3, n) before its bursts, and contact noise (n,).

        What has no size is not made; it costs most of the time.
        """
        n, rng, s = self._n, self._rng, self._settings
        eeg = self._pink(rng["own"].standard_normal((2, n))).T @ self._own
        if s.background_uv > 0.0:
            eeg += self._slope(_normal(rng["brain"], (_N_DIPOLES, n))).T @ self._brain
        if s.alpha_uv > 0.0:
            alpha = self._alpha(rng["alpha"].standard_normal(n))
            waxing = self._waxing(rng["alpha"].standard_normal(n))
            eeg += (alpha * np.exp(0.5 * waxing - 0.25))[:, None] * self._visual
        if s.sensor_uv > 0.0:
            eeg += s.sensor_uv * _normal(rng["sensor"], eeg.shape)
        muscle = np.zeros((3, n))
        if s.muscle_uv > 0.0:
            muscle = self._muscular(rng["muscle"].standard_normal((3, n)))
        return eeg, muscle, rng["contact"].standard_normal(n)

    def _pulses(self, times_s: Float64s, shape_s: float, lead_s: float) -> Float64s:
        """Bells of height 1 and standard deviation `shape_s` at `times_s`, over the present block."""
        out = np.zeros(self._n)
        start_s = self._first / self._fs
        reach = round(5.0 * shape_s * self._fs)
        near = times_s[(times_s > start_s - 1.0) & (times_s < start_s + BLOCK_S + 1.0)]
        for time_s in near:
            centre = round((time_s + lead_s - start_s) * self._fs)
            a, b = max(0, centre - reach), min(self._n, centre + reach)
            if a < b:
                out[a:b] += gaussian((np.arange(a, b) - centre) / self._fs, 0.0, shape_s)
        return out

    def next(self) -> Ongoing:
        """The next block."""
        n, fs = self._n, self._fs
        eeg, muscle, contact = self._noise()
        t_s = (self._first + np.arange(n)) / fs
        for start_s, length_s, gain, which in self._bursts:
            if start_s < t_s[-1] and start_s + length_s > t_s[0]:
                muscle[int(which), (t_s >= start_s) & (t_s < start_s + length_s)] *= gain
        blink = self._settings.blink_uv * self._pulses(self._blinks, 0.07, 0.0)
        turn = 2.0 * math.pi * self._settings.line_hz * t_s
        eeg += muscle.T @ self._muscle
        eeg += blink[:, None] * self.blink_topography
        eeg += np.stack([np.sin(turn), np.cos(turn)], axis=1) @ self._line
        heart = self._pulses(self._beats, 0.03, 0.0) - 0.4 * self._pulses(self._beats, 0.08, 0.25)
        breath = np.sin(2.0 * math.pi * 0.25 * t_s)
        self._first += n
        return Ongoing(eeg, blink, heart, breath, contact)
