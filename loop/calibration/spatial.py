"""Spatial filters for the posterior fossa, and what each is worth: gain, noise at rest, and leakage from elsewhere.

What a filter passes is posterior-fossa activity as far as a head model can tell, never "the cerebellum".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from loop.calibration.errors import CalibrationError
from loop.calibration.head_model import RECOMMENDED, HeadModel, head_model

__all__ = [
    "RECOMMENDED", "HeadModel", "LeadFields", "Sensitivity", "Side", "head_model", "lcmv_weights", "lead_fields", "pattern",
    "relative_sensitivity", "sensitivity",
]  # fmt: skip

Float64s = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Side = Literal["left", "right"]

# The covariance is of rest, where what is sought does not happen, so a filter cannot cancel it and needs loading only against
# what a minute cannot tell; more of it spoils what the filter does against neighbouring sources (at 0.05: half of theta).
RHO: Final = 0.001


@dataclass(frozen=True, slots=True, eq=False)
class LeadFields:
    """The posterior fossa at the channels in use, average-referenced; zero at the others.

    Attributes
    ----------
    left, right : ndarray, shape (n_channels,)
        Means of the unit-normed topographies of the four lobules (K1).
    left_uv_per_nam, right_uv_per_nam : ndarray, shape (n_channels,)
        Means of the topographies themselves: what 1 nAm spread over the lobules shows.
    """

    left: Float64s
    right: Float64s
    left_uv_per_nam: Float64s
    right_uv_per_nam: Float64s


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What one spatial filter is worth at rest.

    `gain_uv_per_nam` is its output for 1 nAm in its own side, `noise_uv` its standard deviation at rest, `equal_nam` the source
    that equals it. `other_side`, `visual` and `midcingulate` are outputs for 1 nAm there, relative to the gain, unsigned.
    """

    gain_uv_per_nam: float
    noise_uv: float
    equal_nam: float
    other_side: float
    visual: float
    midcingulate: float


def lead_fields(head: HeadModel, used: Bools) -> LeadFields:
    """The posterior fossa at the channels in use (K1).

    Parameters
    ----------
    head : HeadModel
    used : ndarray of bool, shape (n_channels,)
        Channels that the average reference and the filters rest on.

    Raises
    ------
    CalibrationError
        If a channel in use has no place in the head model.
    """
    lost = [head.labels[i] for i in np.flatnonzero(used & ~head.placed)]
    if lost:
        raise CalibrationError(f"{head.kind} has no place for {', '.join(lost[:8])}; list them in `channels.bad`")
    left, right = (_referenced(side, used) for side in (head.left, head.right))

    def mean_of_unit(side: Float64s) -> Float64s:
        return np.asarray((side / np.linalg.norm(side, axis=1, keepdims=True)).mean(axis=0))

    return LeadFields(mean_of_unit(left), mean_of_unit(right), left.mean(axis=0), right.mean(axis=0))


def lcmv_weights(covariance: Float64s, lead: Float64s, used: Bools, rho: float = RHO) -> Float64s:
    """Spatial filter of K1: least output power at unit gain for `lead`, scaled to norm 1.

    Parameters
    ----------
    covariance : ndarray, shape (n_channels, n_channels)
        Of average-referenced samples in the band.
    lead : ndarray, shape (n_channels,)
        Average-referenced over the channels in use.
    used : ndarray of bool, shape (n_channels,)
    rho : float
        Regularisation: this share of the mean channel power is added to the diagonal.

    Returns
    -------
    ndarray, shape (n_channels,)
        Zero at channels that are not in use; its gain for `lead` is positive.

    Notes
    -----
    w = (C + rho tr(C) / n I)^-1 l / (l^T (...)^-1 l), then ``||w|| = 1`` (Van Veen et al. 1997); the weights that
    `mne.beamformer.make_lcmv` gives for fixed orientation and ``reg=rho``.
    """
    c, topography = covariance[np.ix_(used, used)], lead[used]
    loaded = c + rho * np.trace(c) / len(c) * np.eye(len(c))
    solved = np.linalg.solve(loaded, topography)
    out = np.zeros(len(lead))
    out[used] = solved / np.linalg.norm(solved)
    return out


def pattern(covariance: Float64s, weights: Float64s) -> Float64s:
    """What the filter's output looks like at the electrodes: C w / (w^T C w) (Haufe et al. 2014), in µV per µV."""
    seen = covariance @ weights
    return np.asarray(seen / max(float(weights @ seen), 1e-30))


def sensitivity(head: HeadModel, used: Bools, side: Side, weights: Float64s, covariance: Float64s) -> Sensitivity:
    """What a filter passes of its own side and of other places, against its output at rest.

    Parameters
    ----------
    head : HeadModel
    used : ndarray of bool, shape (n_channels,)
    side : {"left", "right"}
    weights : ndarray, shape (n_channels,)
        From `lcmv_weights`.
    covariance : ndarray, shape (n_channels, n_channels)
        Of the rest block, in the filter's band.
    """
    fields = lead_fields(head, used)
    own, other = fields.left_uv_per_nam, fields.right_uv_per_nam
    if side == "right":
        own, other = other, own
    gain = float(weights @ own)
    noise = float(np.sqrt(weights @ covariance @ weights))
    elsewhere = _referenced(np.stack([other, head.visual, head.midcingulate]), used) @ weights
    leaks = np.abs(elsewhere) / max(abs(gain), 1e-12)
    return Sensitivity(gain, noise, noise / max(abs(gain), 1e-12), float(leaks[0]), float(leaks[1]), float(leaks[2]))


def relative_sensitivity(
    head: HeadModel, used: Bools, other: HeadModel, other_used: Bools, side: Side, *, brain_uv: float, noise_uv: float
) -> float:
    """Signal to noise of `side` on the channels in use, in units of what another set of channels would give.

    Covered electrodes give no samples to compare with, so both sides of the comparison rest on a model of the ongoing EEG:
    dipoles of equal size all through the brain, and white noise at each electrode. Muscle is not part of it.

    Parameters
    ----------
    head, used
        The cap as it is.
    other, other_used
        What it is compared with: the same cap without pads and bad channels, or the recommended one.
    side : {"left", "right"}
    brain_uv, noise_uv : float
        Standard deviations of an average-referenced channel of `other` that brain and electrode make in the band.
    """
    typical = _referenced(other.background, other_used)[:, other_used]
    moment_nam = brain_uv / float(np.sqrt((typical**2).sum(axis=0).mean()))
    here, there = (
        _model_snr(model, channels, side, moment_nam, noise_uv) for model, channels in ((head, used), (other, other_used))
    )
    return here / there


def _model_snr(head: HeadModel, used: Bools, side: Side, moment_nam: float, noise_uv: float) -> float:
    fields = lead_fields(head, used)
    lead, uv_per_nam = (
        (fields.left, fields.left_uv_per_nam) if side == "left" else (fields.right, fields.right_uv_per_nam)
    )
    brain = moment_nam * _referenced(head.background, used)
    electrodes = noise_uv * _referenced(np.eye(len(used)), used) * used[:, None]
    covariance = brain.T @ brain + electrodes.T @ electrodes
    weights = lcmv_weights(covariance, lead, used)
    return float(weights @ uv_per_nam / np.sqrt(weights @ covariance @ weights))


def _referenced(fields: Float64s, used: Bools) -> Float64s:
    """Topographies (n, n_channels) against the average of the channels in use, zero at the others."""
    return np.asarray((fields - fields[:, used].mean(axis=1, keepdims=True)) * used)
