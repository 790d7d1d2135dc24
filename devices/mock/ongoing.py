"""What a head gives off without being asked: background, alpha, muscle, blinks, mains, heartbeat, breath and sensor noise.

Made in blocks of fixed length from random streams of their own, so that how it is read cannot change it; and in parts that
are only scaled and added when it is played, so that one background serves many patients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from scipy import signal

from devices.mock import assumptions as known
from devices.mock import head

if TYPE_CHECKING:
    from devices.mock.patient_settings import PatientSettings

Float64s = npt.NDArray[np.float64]
Float32s = npt.NDArray[np.float32]

BLOCK_S: Final = 4.0
# Until the slowest filters have forgotten their start.
_SETTLE_BLOCKS: Final = 5
_REACH_SD: Final = 5.0


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
    n = math.ceil(math.log2(top_hz / known.SLOWEST_HZ) / 2.0)
    ratio = (top_hz / known.SLOWEST_HZ) ** (1.0 / n)
    sections = []
    for k in range(n):
        pole_hz = known.SLOWEST_HZ * ratio**k
        zero_hz = pole_hz * ratio ** (exponent / 2.0)
        pole, zero = (math.exp(-2.0 * math.pi * f / sfreq_hz) for f in (pole_hz, zero_hz))
        sections.append([1.0, -zero, 0.0, 1.0, -pole, 0.0])
    return unit_power(np.array(sections))


def gaussian(t_s: Float64s, centre_s: float, sd_s: float) -> Float64s:
    """Bell of height 1."""
    return np.asarray(np.exp(-0.5 * ((t_s - centre_s) / sd_s) ** 2), dtype=np.float64)


def unit_peak(values: Float64s) -> Float64s:
    """Scaled so that the largest is 1."""
    return np.asarray(values / values.max(), dtype=np.float64)


def muscle_topographies(directions: Float64s) -> Float64s:
    """Shares (n, 3) of neck muscle left, right and middle; it lies outside the sphere and just fades."""
    x, y, z = known.MUSCLE_LEFT_MM
    centre_mm = np.array(head.CENTRE_M) * 1e3
    places = ((x, y, z), (-x, y, z), known.MUSCLE_MIDDLE_MM)
    return np.stack([head.fading(directions, np.array(place) - centre_mm, known.MUSCLE_REACH_M) for place in places], axis=1)


def blink_topography(directions: Float64s) -> Float64s:
    """Shares (n,) of a blink; 1 at the most frontal electrode."""
    return head.fading(directions, np.array(known.EYES), known.BLINK_REACH_M)


def pulses(times_s: Sequence[float] | Float64s, sd_s: float, first: int, n: int, sfreq_hz: float) -> Float64s:
    """Bells of height 1 at `times_s`, over samples `first` to ``first + n``."""
    out = np.zeros(n)
    start_s = first / sfreq_hz
    reach = round(_REACH_SD * sd_s * sfreq_hz)
    all_s = np.asarray(times_s, dtype=np.float64)
    near = all_s[(all_s > start_s - 1.0) & (all_s < start_s + n / sfreq_hz + 1.0)]
    for time_s in near:
        centre = round((time_s - start_s) * sfreq_hz)
        a, b = max(0, centre - reach), min(n, centre + reach)
        if a < b:
            out[a:b] += gaussian((np.arange(a, b) - centre) / sfreq_hz, 0.0, sd_s)
    return out


class Ongoing(NamedTuple):
    """One block of every part, in single precision.

    `eeg` (n, n_channels) is what no patient changes, in microvolts: brain, mains and sensors. `alpha` (n,) and `muscle` (3, n)
    have power 1 at rest; `blink` (n,) and `heart` (n,) are 1 at their peaks, `breath` (n,) swings by 1, `contact` (n,) has
    power 1.
    """

    eeg: Float32s
    alpha: Float32s
    muscle: Float32s
    blink: Float32s
    heart: Float32s
    breath: Float32s
    contact: Float32s


class Blocks(Protocol):
    """Gives block after block."""

    def block(self, k: int) -> Ongoing:
        """Block `k` of `BLOCK_S` seconds; may have to be asked for in order."""
        ...


class Stream:
    """Blocks, each made when it is asked for and then forgotten; the same settings give the same ones.

    Parameters
    ----------
    settings : PatientSettings
        Seed, cap, rate, and the sizes of background, mains and sensor noise; whether there are alpha and muscle.

    Raises
    ------
    ValueError
        If an electrode's label is no place of the 10-05 system.
    """

    def __init__(self, settings: PatientSettings) -> None:
        fs = settings.sfreq_hz
        self._fs = fs
        self._n = round(BLOCK_S * fs)
        # A stream of random numbers for each part, so that leaving one out leaves the others as they are.
        parts = ("plan", "brain", "own", "alpha", "muscle", "contact", "sensor", "blinks", "bursts", "burst sizes", "beats")
        self._rng = {part: np.random.default_rng([settings.seed, 2, k]) for k, part in enumerate(parts)}
        directions = head.electrode_directions(settings.labels)
        self._settings = settings
        self._brain = self._dipoles(directions, settings.background_uv)
        self._own = known.OWN_NAM * np.stack(
            [head.radial_dipole(directions, head.from_mni(place)) for place in (head.CRUS_LEFT, head.CRUS_RIGHT)]
        )
        self._slope = Filter(sloped(known.BACKGROUND_SLOPE, fs), (len(self._brain),))
        self._pink = Filter(sloped(known.OWN_SLOPE, fs), (2,))
        self._alpha = Filter(band(*known.ALPHA_HZ, fs), ())
        slow = np.asarray(signal.butter(1, known.ALPHA_WAXING_HZ, fs=fs, output="sos"))
        self._waxing = Filter(unit_power(slow), ())
        self._muscular = Filter(band(*known.MUSCLE_HZ, fs), (3,))
        n_channels = len(settings.labels)
        plan = self._rng["plan"]
        phase = plan.uniform(0.0, 2.0 * math.pi, n_channels)
        size = settings.line_uv * math.sqrt(2.0) * plan.uniform(*known.LINE_SPREAD, n_channels)
        self._line = np.stack([size * np.cos(phase), size * np.sin(phase)])
        self._episodes(settings.duration_s + 60.0)
        self._next = 0
        for _ in range(_SETTLE_BLOCKS):
            self._noise()

    def _dipoles(self, directions: Float64s, total_uv: float) -> Float64s:
        """Topographies (n, n_channels) of dipoles all over the brain, turned anyhow, together `total_uv` on average."""
        out: list[Float64s] = []
        rng = self._rng["plan"]
        inner, outer = known.DIPOLE_DEPTH
        while len(out) < known.BACKGROUND_DIPOLES:
            place = rng.uniform(-outer, outer, 3)
            if inner < float(np.linalg.norm(place)) < outer and place[2] > known.DIPOLE_LOWEST:
                moment = rng.standard_normal(3)
                out.append(head.dipole(directions, place, moment / float(np.linalg.norm(moment))))
        table = np.stack(out)
        return np.asarray(table * (total_uv / math.sqrt(float(np.mean(np.sum(table**2, axis=0))))))

    def _episodes(self, duration_s: float) -> None:
        """Times of blinks, muscle bursts and heartbeats; a longer session begins as a shorter one."""
        shape = known.BLINK_REGULARITY
        n = int(duration_s / 60.0 * known.BLINKS_MIN * 1.5) + 8
        self._blinks = np.cumsum(self._rng["blinks"].gamma(shape, 60.0 / known.BLINKS_MIN / shape, n))
        n = int(duration_s / 60.0 * known.BURSTS_MIN * 1.5) + 8
        self._bursts = np.cumsum(self._rng["bursts"].exponential(60.0 / known.BURSTS_MIN, n))
        self._burst_sizes = self._rng["burst sizes"].random((n, 3))
        mean_s, sd_s = known.HEART_S
        self._beats = np.cumsum(self._rng["beats"].normal(mean_s, sd_s, int(duration_s / (0.9 * mean_s)) + 8))

    def _noise(self) -> tuple[Float64s, Float64s, Float64s, Float64s]:
        """EEG (n, n_channels), alpha (n,), muscle (3, n) before its bursts, and contact noise (n,)."""
        n, rng, s = self._n, self._rng, self._settings
        eeg = self._pink(rng["own"].standard_normal((2, n))).T @ self._own
        # What has no size is not made; it costs most of the time.
        if s.background_uv > 0.0:
            eeg += self._slope(_normal(rng["brain"], (len(self._brain), n))).T @ self._brain
        if s.sensor_uv > 0.0:
            eeg += s.sensor_uv * _normal(rng["sensor"], eeg.shape)
        alpha, muscle = np.zeros(n), np.zeros((3, n))
        if s.alpha_uv > 0.0:
            waxing = self._waxing(rng["alpha"].standard_normal(n))
            # Its mean power is 1 whatever the waxing.
            alpha = self._alpha(rng["alpha"].standard_normal(n)) * np.exp(known.ALPHA_WAXING * waxing - known.ALPHA_WAXING**2)
        if s.muscle_uv > 0.0:
            muscle = self._muscular(rng["muscle"].standard_normal((3, n)))
        return eeg, alpha, muscle, rng["contact"].standard_normal(n)

    def block(self, k: int) -> Ongoing:
        """Block `k`; they come in order, each once.

        Raises
        ------
        ValueError
            If it is not the next one.
        """
        if k != self._next:
            raise ValueError(f"block {k} asked for where {self._next} is next")
        self._next += 1
        n, fs, first = self._n, self._fs, k * self._n
        eeg, alpha, muscle, contact = self._noise()
        t_s = (first + np.arange(n)) / fs
        near = range(*np.searchsorted(self._bursts, (t_s[0] - known.BURST_S[1], t_s[-1])).tolist())
        for start_s, (long, large, where) in zip(self._bursts[near], self._burst_sizes[near], strict=True):
            stop_s = start_s + _between(known.BURST_S, long)
            muscle[int(3.0 * where), (t_s >= start_s) & (t_s < stop_s)] *= _between(known.BURST_GAIN, large)
        turn = 2.0 * math.pi * self._settings.line_hz * t_s
        eeg += np.stack([np.sin(turn), np.cos(turn)], axis=1) @ self._line
        breath = np.sin(2.0 * math.pi * known.BREATH_HZ * t_s)
        sharp_s, later, delay_s, broad_s = known.HEART_SHAPE
        beat = pulses(self._beats, sharp_s, first, n, fs) + later * pulses(self._beats + delay_s, broad_s, first, n, fs)
        return Ongoing(
            eeg=eeg.astype(np.float32),
            alpha=alpha.astype(np.float32),
            muscle=muscle.astype(np.float32),
            blink=pulses(self._blinks, known.BLINK_SD_S, first, n, fs).astype(np.float32),
            heart=(beat * (1.0 + known.HEART_BY_BREATH * breath)).astype(np.float32),
            breath=breath.astype(np.float32),
            contact=contact.astype(np.float32),
        )


def _between(limits: tuple[float, ...], share: float) -> float:
    return float(limits[0] + (limits[1] - limits[0]) * share)


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Float64s:
    """Normal numbers, drawn in single precision: twice as fast, and finer than the converter by far."""
    return rng.standard_normal(shape, dtype=np.float32).astype(np.float64)
