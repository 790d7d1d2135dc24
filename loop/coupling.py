"""Coupling of the posterior fossa with frontal and sensorimotor channels, in slow time: one figure a pair, band and 2 seconds.

The measure is the *imaginary part of coherency* (Nolte et al. 2004, Clin Neurophysiol 115:2292), not envelope correlation: what
volume conduction carries from one source to several electrodes, or through a spatial filter into another, arrives
everywhere at the same instant, so its cross-spectrum is real. Envelopes correlate by it with no interaction at all, and
so does plain coherence. The price: an interaction without any lag is not seen, and one whose lag differs within a band is seen
weakly. What remains able to mislead: two *other* areas that truly interact and leak into both signals, and an event that drives
both areas one after the other. So it is coupling of signals, at rest and during the task alike, not of areas.

Each epoch is a Hann-windowed stretch of 2 s on a fixed grid of samples, so that the figures are the same for any chunking; an
epoch in which any frame was flagged is left out.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cext.params import KernelParams
from loop.estimator import BETA_HZ, LEARNED, THETA_HZ
from loop.estimators.protocol import Estimator
from loop.events import Int64s, Layout
from loop.montage import standard_label

EPOCH_S: Final = 2.0
FRONTAL: Final = ("F3", "Fz", "F4")
SENSORIMOTOR: Final = ("C3", "C4")
BANDS: Final = ("theta", "beta")
SIDES: Final = ("PF_L", "PF_R")
REGIONS: Final = ("frontal", "sensorimotor")
PAIRS: Final = tuple(f"{side}–{region} {band}" for band in BANDS for side in SIDES for region in REGIONS)
"""Names of an epoch's figures, in their order."""

Float64s = npt.NDArray[np.float64]


class Plan(NamedTuple):
    """Frozen parameters: `weights` (6, n_channels) are theta left, right, beta left, right, frontal, sensorimotor.

    `window` (n_epoch,) tapers an epoch; `bins` are the first and one past the last frequency of theta and beta.
    """

    weights: Float64s
    window: Float64s
    bins: tuple[tuple[int, int], tuple[int, int]]


class Epoch(NamedTuple):
    r"""One epoch: the sample and time of its first and last sample, and Im(coherency) of each of `PAIRS`, -1 to 1."""

    sample: int
    first_ns: int
    last_ns: int
    imaginary: tuple[float, ...]


def plan_for(estimator: Estimator, layout: Layout) -> Plan | None:
    """The signals to compare; None where the estimator has no posterior-fossa filters or the cap no such channels.

    Parameters
    ----------
    estimator : Estimator
        Its own spatial filters stand for the posterior fossa, left and right, in each band.
    layout : Layout
        Channels and rate. Frontal is the mean of F3, Fz, F4, sensorimotor of C3, C4, as far as they are in use; all against
        the average reference that the filters have.
    """
    params = getattr(estimator, "params", None)
    if estimator.learned != LEARNED or not isinstance(params, KernelParams):
        return None
    labels = [standard_label(label) for label in layout.labels]
    rows = [params.projection[i] for i in range(len(LEARNED))]
    for names in (FRONTAL, SENSORIMOTOR):
        picked = np.array([label in names for label in labels]) & estimator.used
        if not picked.any():
            return None
        rows.append(picked / picked.sum())
    weights = np.stack(rows)
    weights = weights - weights.sum(axis=1, keepdims=True) * params.reference
    n = round(EPOCH_S * layout.sfreq_hz)
    width_hz = layout.sfreq_hz / n
    theta, beta = ((round(low / width_hz), round(high / width_hz) + 1) for low, high in (THETA_HZ, BETA_HZ))
    return Plan(np.ascontiguousarray(weights), np.hanning(n + 1)[:-1], (theta, beta))


def imaginary_coherency(plan: Plan, samples_uv: Float64s) -> tuple[float, ...]:
    r"""Im(Sxy) / sqrt(Sxx Syy) of each of `PAIRS`, the spectra summed over the band's frequencies.

    Parameters
    ----------
    plan : Plan
    samples_uv : ndarray, shape (n_epoch, n_channels)

    Returns
    -------
    tuple of float
        Zero where a signal is silent, for then nothing is shared; NaN where a sample is. Positive where the posterior fossa
        leads.
    """
    # einsum without optimisation calls no BLAS: the same sums in the same order on every machine.
    signals = np.einsum("sc,nc->sn", plan.weights, samples_uv)
    signals -= signals.mean(axis=1, keepdims=True)
    signals *= plan.window
    spectra = np.fft.rfft(signals, axis=1)
    figures: list[float] = []
    for band, (first, stop) in enumerate(plan.bins):
        sides, regions = spectra[2 * band : 2 * band + 2, None, first:stop], spectra[None, 4:6, first:stop]
        cross = (sides.imag * regions.real - sides.real * regions.imag).sum(axis=2)
        power = [(part.real**2 + part.imag**2).sum(axis=2) for part in (sides, regions)]
        scale = np.sqrt(power[0] * power[1])
        figures += np.where(scale == 0.0, 0.0, cross / np.where(scale == 0.0, 1.0, scale)).ravel().tolist()
    return tuple(figures)


class CouplingWatch:
    """Gathers samples into epochs; `finished` computes those that are complete, outside of what must be fast.

    Parameters
    ----------
    plan : Plan
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._open: list[Float64s] = []
        self._at = 0
        self._sound = False
        self._begun = (0, 0)
        self._waiting: list[tuple[int, int, int, list[Float64s]]] = []

    def reset(self) -> None:
        """A break: the open epoch is lost, complete ones are not."""
        self._sound = False

    def take(self, first: int, shift: int, stamps: Int64s, samples_uv: Float64s, flagged: Int64s) -> None:
        """Take consecutive samples.

        Parameters
        ----------
        first : int
            Number of the first of them in the kernel's count; epochs begin at multiples of their length.
        shift : int
            From the kernel's count to the record's.
        stamps : ndarray, shape (n,)
        samples_uv : ndarray, shape (n, n_channels)
            Kept without a copy until its epochs are computed: must not be changed afterwards.
        flagged : ndarray
            Samples, in the kernel's count, of the frames that were flagged.
        """
        length, done = len(self._plan.window), 0
        flagged_epochs = set((flagged // length).tolist()) if len(flagged) else ()
        while done < len(stamps):
            epoch, at = divmod(first + done, length)
            n = min(length - at, len(stamps) - done)
            if at == 0:
                self._sound, self._open = True, []
                self._begun = (first + done + shift, int(stamps[done]))
            elif at != self._at:
                self._sound = False
            if epoch in flagged_epochs:
                self._sound = False
            if self._sound:
                self._open.append(samples_uv[done : done + n])
            done += n
            self._at = (at + n) % length
            if self._at == 0 and self._sound:
                self._waiting.append((*self._begun, int(stamps[done - 1]), self._open))

    def finished(self) -> list[Epoch]:
        """The epochs that have become complete since the last call; those with a number that is none are left out."""
        waiting, self._waiting = self._waiting, []
        epochs = []
        for sample, first_ns, last_ns, parts in waiting:
            figures = imaginary_coherency(self._plan, np.concatenate(parts))
            if np.isfinite(figures).all():
                epochs.append(Epoch(sample, first_ns, last_ns, figures))
        return epochs
