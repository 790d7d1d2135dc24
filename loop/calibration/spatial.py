"""Spatial filters for the posterior fossa: where its sources show at this cap's electrodes, and what a filter makes of them.

MNE gives the potentials: of a sphere that is fitted to the electrodes, or of the participant's own forward solution. Neither
needs a download. What a filter passes is posterior-fossa activity as far as a head model can tell, never "the cerebellum".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from loop.calibration.errors import CalibrationError
from loop.montage import standard_label

Float64s = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Side = Literal["left", "right"]

# The covariance is of rest, where what is sought does not happen, so a filter cannot cancel it and needs loading only against
# what a minute cannot tell; more of it spoils what the filter does against neighbouring sources (at 0.05: half of theta).
RHO: Final = 0.001

# MNI coordinates in mm; the left side is the mirror image.
LOBULES_RIGHT_MM: Final = {
    "Crus I": (36.0, -70.0, -33.0),
    "Crus II": (28.0, -76.0, -44.0),
    "VI": (24.0, -60.0, -24.0),
    "VIIb": (34.0, -64.0, -52.0),
}
VISUAL_MM: Final = (0.0, -92.0, 2.0)
MIDCINGULATE_MM: Final = (0.0, -8.0, 52.0)

RECOMMENDED: Final = (
    "Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "FCz", "T7", "C3", "Cz", "C4", "T8", "P7", "P3", "Pz", "P4", "P8",
    "TP9", "TP10", "P9", "P10", "PO9", "PO10", "O1", "Oz", "O2", "I1", "Iz", "I2",
)  # fmt: skip
"""A cap with the whole posterior ring: what others are measured against."""

# The sphere that fits the 10-05 electrodes of a grown head, in head coordinates (MNE's own fit).
_CENTRE_M: Final = (-0.0011, 0.0121, 0.0401)
_RADIUS_M: Final = 0.099
_HEAD_M: Final = (0.07, 0.12)
_LEAST_TO_FIT: Final = 16
_NEAREST_M: Final = 0.015
_N_BACKGROUND: Final = 150


@dataclass(frozen=True, slots=True, eq=False)
class HeadModel:
    """What sources of 1 nAm show at the electrodes, in µV against infinity.

    Attributes
    ----------
    labels : tuple of str
    left, right : ndarray, shape (4, n_channels)
        Radial dipoles in Crus I, Crus II, VI and VIIb.
    visual, midcingulate : ndarray, shape (n_channels,)
        Radial dipoles where leakage would matter.
    background : ndarray, shape (n_dipoles, n_channels)
        Dipoles of all orientations, evenly through the brain.
    placed : ndarray of bool, shape (n_channels,)
        Channels whose place is known; all else is zero where it is not.
    kind : str
        What it is, in words.
    """

    labels: tuple[str, ...]
    left: Float64s
    right: Float64s
    visual: Float64s
    midcingulate: Float64s
    background: Float64s
    placed: Bools
    kind: str


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


def head_model(
    labels: Sequence[str], positions_m: npt.ArrayLike | None = None, forward: str | Path | None = None
) -> HeadModel:
    """Potentials of posterior-fossa, control and background sources at a cap's electrodes.

    Parameters
    ----------
    labels : sequence of str
        Channels in any spelling of the 10-05 system.
    positions_m : array, shape (n_channels, 3), optional
        Head coordinates in metres; a row that is zero or not finite is not known. Channels without one are placed by their
        label on the 10-05 system of MNE's Colin27 head; so are all where 16 or more positions lie on no sphere that could be a
        head.
    forward : path, optional
        The participant's own forward solution (``*-fwd.fif``): EEG, with all channels that are to be used, and sources in the
        posterior fossa (a volume or a cerebellar source space; cortex alone does not do). The nearest source to each MNI
        target is taken, in the orientation that points away from the head's centre; the targets come into the participant's
        head by the sphere that fits their electrodes.

    Returns
    -------
    HeadModel

    Raises
    ------
    CalibrationError
        If no channel has a known place, or the forward solution cannot be used; says what it lacks.
    """
    places, placed = _places(labels, positions_m)
    centre, radius = np.array(_CENTRE_M), _RADIUS_M
    if positions_m is not None and placed.sum() >= _LEAST_TO_FIT:
        fitted = _sphere(places[placed])
        if fitted is None:
            places, placed = _places(labels, None)
        else:
            centre, radius = fitted
    if not placed.any():
        raise CalibrationError("no channel is a site of the 10-05 system or has a position: a head model needs places")
    targets = [*LOBULES_RIGHT_MM.values(), *[(-x, y, z) for x, y, z in LOBULES_RIGHT_MM.values()], VISUAL_MM, MIDCINGULATE_MM]
    wanted = _into_head(np.array(targets), centre, radius)
    shell = _shells(centre, radius)
    points = np.concatenate([wanted, shell])
    outwards = points - centre
    outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)

    names = [standard_label(label) for label in labels]
    gains = np.zeros((len(points), len(labels), 3))
    gains[:, placed] = _sphere_gains([names[i] for i in np.flatnonzero(placed)], places[placed], points, centre, radius)
    radial = np.einsum("pcx,px->pc", gains[: len(targets)], outwards[: len(targets)])
    kind = f"sphere of {1e3 * radius:.0f} mm with four shells (MNE)"
    if forward is not None:
        own, placed = _own_gains(Path(forward), names, wanted, outwards[: len(targets)])
        # Without sources near the control places, those stay the sphere's.
        near = np.isfinite(own).all(axis=1)
        radial[near] = own[near]
        radial[:, ~placed] = 0.0
        gains[:, ~placed] = 0.0
        kind = f"the participant's own forward solution ({Path(forward).name})"
    return HeadModel(
        labels=tuple(labels),
        left=radial[4:8],
        right=radial[:4],
        visual=radial[8],
        midcingulate=radial[9],
        background=gains[len(targets) :].transpose(0, 2, 1).reshape(-1, len(labels)),
        placed=placed,
        kind=kind,
    )


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


def _places(labels: Sequence[str], positions_m: npt.ArrayLike | None) -> tuple[Float64s, Bools]:
    """Head coordinates (n, 3) in metres, and which are known."""
    import mne

    places = np.zeros((len(labels), 3))
    if positions_m is not None:
        places[:] = positions_m
    placed: Bools = np.asarray(np.isfinite(places).all(axis=1) & places.any(axis=1))
    if not placed.all():
        known = mne.channels.get_builtin_montages()
        montage = mne.channels.make_standard_montage("colin27_1005" if "colin27_1005" in known else "standard_1005")
        trans = mne.channels.compute_native_head_t(montage)
        sites = montage.get_positions()["ch_pos"]
        for i in np.flatnonzero(~placed).tolist():
            site = sites.get(standard_label(labels[i]))
            placed[i] = site is not None
            places[i] = 0.0 if site is None else mne.transforms.apply_trans(trans, site)
    return places, placed


def _sphere(places: Float64s) -> tuple[Float64s, float] | None:
    """Centre (3,) and radius of the sphere nearest to measured electrodes; None where that is no head in head coordinates.

    Some files hold a template's unit sphere about the origin, which lies 4 cm below where a head's centre is.
    """
    # |p|^2 = 2 c.p + (R^2 - |c|^2) is linear in what is sought.
    table = np.column_stack([2.0 * places, np.ones(len(places))])
    found = np.linalg.lstsq(table, (places**2).sum(axis=1), rcond=None)[0]
    radius = float(np.sqrt(max(0.0, found[3] + found[:3] @ found[:3])))
    if _HEAD_M[0] <= radius <= _HEAD_M[1] and np.linalg.norm(found[:3] - _CENTRE_M) < 0.3 * radius:
        return np.asarray(found[:3]), radius
    return None


def _into_head(mni_mm: Float64s, centre: Float64s, radius: float) -> Float64s:
    """MNI points (n, 3) in a participant's head coordinates: by fsaverage's own transform, then from sphere to sphere."""
    import mne

    folder = Path(mne.__file__).parent / "data" / "fsaverage"
    to_mri = mne.read_trans(folder / "fsaverage-trans.fif", verbose="ERROR")
    average = mne.transforms.apply_trans(np.linalg.inv(to_mri["trans"]), mni_mm * 1e-3)
    return np.asarray(centre + (average - _CENTRE_M) * (radius / _RADIUS_M))


def _shells(centre: Float64s, radius: float) -> Float64s:
    """Points (n, 3) spread evenly through the part of the sphere that brain fills (Fibonacci lattice on three shells)."""
    k = np.arange(_N_BACKGROUND)
    up = 1.0 - 2.0 * (k + 0.5) / _N_BACKGROUND
    turn = k * np.pi * (3.0 - np.sqrt(5.0))
    across = np.sqrt(1.0 - up**2)
    directions = np.column_stack([across * np.cos(turn), across * np.sin(turn), up])
    # Equal volumes between the shells' middles; neither face nor neck is brain.
    depth = np.array([0.45, 0.65, 0.8])[k % 3]
    points = directions * depth[:, None]
    inside = points[:, 2] > -0.45
    return np.asarray(centre + points[inside] * radius)


def _sphere_gains(
    names: Sequence[str], places: Float64s, points: Float64s, centre: Float64s, radius: float
) -> Float64s:
    """Potentials (n_points, n_channels, 3) in µV per nAm along x, y, z at the electrodes of a four-shell sphere."""
    import mne

    # Channels may be called alike, which MNE does not take.
    unique = [f"{i}:{name}" for i, name in enumerate(names)]
    info = mne.create_info(unique, 1000.0, "eeg", verbose="ERROR")
    montage = mne.channels.make_dig_montage(dict(zip(unique, places, strict=True)), coord_frame="head")
    info.set_montage(montage, verbose="ERROR")
    sphere = mne.make_sphere_model(centre, radius, verbose="ERROR")
    normals = (points - centre) / np.linalg.norm(points - centre, axis=1, keepdims=True)
    # Without a transform MNE takes MRI and head coordinates for the same.
    space = mne.setup_volume_source_space(
        pos={"rr": points, "nn": normals}, sphere=sphere, sphere_units="m", verbose="ERROR"
    )
    solution = mne.make_forward_solution(info, trans=None, src=space, bem=sphere, meg=False, mindist=0.0, verbose="ERROR")
    if solution["nsource"] != len(points):
        raise CalibrationError("the head model lost sources outside its sphere: the electrode positions fit no head")
    return _per_point(solution)


def _per_point(solution: Any) -> Float64s:
    data = np.asarray(solution["sol"]["data"], dtype=np.float64) * 1e-3  # V per Am to µV per nAm
    return np.asarray(data.reshape(len(data), -1, 3).transpose(1, 0, 2))


def _own_gains(path: Path, names: Sequence[str], wanted: Float64s, outwards: Float64s) -> tuple[Float64s, Bools]:
    """Radial potentials (n_wanted, n_channels) from a forward solution, NaN where it has no source near; channels it has."""
    import mne

    try:
        solution = mne.read_forward_solution(path, verbose="ERROR")
    except (OSError, ValueError, RuntimeError) as error:
        raise CalibrationError(f"{path}: no forward solution that MNE can read ({error}); give a `*-fwd.fif` file") from error
    if solution["coord_frame"] != mne.io.constants.FIFF.FIFFV_COORD_HEAD:
        raise CalibrationError(f"{path}: not in head coordinates; make it with mne.make_forward_solution")
    rows = {standard_label(name): i for i, name in enumerate(solution["sol"]["row_names"])}
    placed = np.array([name in rows for name in names])
    if not placed.any():
        raise CalibrationError(f"{path}: has none of this cap's channels; make the forward solution with the same labels")
    chosen = [rows[name] for name in names if name in rows]
    distance = np.linalg.norm(solution["source_rr"][None] - wanted[:, None], axis=2)
    nearest = distance.argmin(axis=1)
    far = distance.min(axis=1) > _NEAREST_M
    if far[: 2 * len(LOBULES_RIGHT_MM)].any():
        k = int(np.flatnonzero(far)[0])
        side = "right" if k < len(LOBULES_RIGHT_MM) else "left"
        lobule = list(LOBULES_RIGHT_MM)[k % len(LOBULES_RIGHT_MM)]
        raise CalibrationError(
            f"{path}: its nearest source to {side} {lobule} is {1e3 * distance[k].min():.0f} mm away, 15 mm are allowed: "
            "it needs a volume or cerebellar source space in the posterior fossa"
        )
    out = np.full((len(wanted), len(names)), np.nan)
    if solution["source_ori"] == mne.io.constants.FIFF.FIFFV_MNE_FREE_ORI:
        gains = _per_point(solution)[nearest][:, chosen]
        radial = np.einsum("pcx,px->pc", gains, outwards)
    else:
        data = np.asarray(solution["sol"]["data"], dtype=np.float64).T[nearest][:, chosen] * 1e-3
        outside = (solution["source_nn"][nearest] * outwards).sum(axis=1, keepdims=True)
        radial = data * np.where(outside < 0.0, -1.0, 1.0)
    out[:, ~placed] = 0.0
    out[:, placed] = radial
    out[far] = np.nan
    return out, placed
