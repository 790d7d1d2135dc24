"""A spherical head: where the simulated sources lie, and what a dipole in it shows at the electrodes.

Brain, fluid, skull and scalp are concentric shells. In the innermost the potential of a dipole is a Legendre series; the
layers weigh its terms (Zhang 1995; de Munck & Peters 1993). At the surface, for a dipole of moment q at eccentricity f in
direction s and an electrode in direction e with cos g = s.e:

    V = 1 / (4 pi sigma_1 R^2) * sum_n w_n f^(n-1) [n (q.s) P_n(cos g) + q.(e - s cos g) P_n'(cos g)]

In a homogeneous sphere w_n = (2 n + 1) / n. Radii and conductivities are the defaults of MNE's sphere.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from numpy.polynomial import legendre

from devices.mock import assumptions as known
from devices.mock.patient_settings import PeSite
from devices.ten_five import direction

Float64s = npt.NDArray[np.float64]
Point = tuple[float, float, float]

RADIUS_M: Final = known.RADIUS_M
CENTRE_M: Final[Point] = known.CENTRE_M
"""Centre of the sphere in head coordinates (origin between the ears)."""

_SHELLS: Final = known.SHELLS
_TERMS: Final = 100
_PITCH_RAD: Final = math.radians(known.PITCH_DEG)
_ROTATED_RAD: Final = math.radians(known.ROTATED_DEG)


def _mirrored(point_mm: Point) -> Point:
    return -point_mm[0], point_mm[1], point_mm[2]


CRUS_RIGHT: Final[Point] = known.CRUS_MM
CRUS_LEFT: Final[Point] = _mirrored(CRUS_RIGHT)
VIIB_RIGHT: Final[Point] = known.VIIB_MM
VIIB_LEFT: Final[Point] = _mirrored(VIIB_RIGHT)
VISUAL: Final[Point] = known.VISUAL_MM
MIDCINGULATE: Final[Point] = known.MIDCINGULATE_MM

# Where the source that goes with the error lies: places, their shares of the amplitude, and how far the moments are turned
# from the outward direction away from the vertex.
_PE_SITES: Final[dict[PeSite, tuple[tuple[tuple[Point, float], ...], float]]] = {
    "posterior_fossa": (((CRUS_LEFT, known.PE_LEFT), (CRUS_RIGHT, 1.0)), 0.0),
    "V1": (((VISUAL, 1.0),), 0.0),
    "midcingulate": (((MIDCINGULATE, 1.0),), 0.0),
    "wrong_lobule": (((VIIB_LEFT, known.PE_LEFT), (VIIB_RIGHT, 1.0)), 0.0),
    "rotated": (((VIIB_LEFT, known.PE_LEFT), (VIIB_RIGHT, 1.0)), _ROTATED_RAD),
}


def electrode_directions(labels: Sequence[str]) -> Float64s:
    """Unit vectors (n, 3) from the centre of the sphere to electrodes of the 10-05 system.

    Raises
    ------
    ValueError
        If a label is none of the system's.
    """
    found = [direction(label) for label in labels]
    unknown = [label for label, where in zip(labels, found, strict=True) if where is None]
    if unknown:
        raise ValueError(f"no places of the 10-05 system: {', '.join(unknown)}")
    return np.asarray(found, dtype=np.float64)


def electrode_positions_m(labels: Sequence[str]) -> tuple[Point, ...]:
    """Head coordinates of electrodes in metres: x right, y front, z up."""
    places = electrode_directions(labels) * RADIUS_M + np.array(CENTRE_M)
    return tuple((float(x), float(y), float(z)) for x, y, z in places)


def from_mni(point_mm: Point) -> Float64s:
    """Point (3,) of MNI space in units of the sphere's radius, from its centre."""
    x, y, z = np.array(point_mm) - np.array(known.ORIGIN_MNI_MM)
    cos, sin = math.cos(_PITCH_RAD), math.sin(_PITCH_RAD)
    in_head_m = 1e-3 * np.array([x, cos * y + sin * z, cos * z - sin * y])
    return np.asarray((in_head_m - np.array(CENTRE_M)) / RADIUS_M)


@functools.cache
def _layer_weights() -> Float64s:
    """The weights w_n (terms,) of the series, from boundary conditions solved inwards from the insulated surface."""
    n = np.arange(1.0, _TERMS + 1.0)
    growing, falling = (n + 1.0) / n, np.ones_like(n)
    outer_radius = 1.0
    for (radius, inner), (_, outer) in zip(_SHELLS[-2::-1], _SHELLS[:0:-1], strict=True):
        growing *= (radius / outer_radius) ** n
        falling *= (outer_radius / radius) ** (n + 1.0)
        potential = growing + falling
        slope = outer / inner * (n * growing - (n + 1.0) * falling)
        growing, falling = ((n + 1.0) * potential + slope) / (2.0 * n + 1.0), (n * potential - slope) / (2.0 * n + 1.0)
        outer_radius = radius
    return np.asarray((2.0 * n + 1.0) / n / (falling * outer_radius ** (n + 1.0)))


def dipole(directions: Float64s, source: Float64s, moment: Float64s) -> Float64s:
    """Potential of a dipole at electrodes, in microvolts against infinity.

    Parameters
    ----------
    directions : ndarray (n, 3)
        Unit vectors to the electrodes.
    source : ndarray (3,)
        Place of the dipole in units of the radius, inside the innermost shell and not at its centre.
    moment : ndarray (3,)
        In nAm.

    Returns
    -------
    ndarray (n,)
        Microvolts.
    """
    f = float(np.linalg.norm(source))
    s = source / f
    cosine = directions @ s
    n = np.arange(1.0, _TERMS + 1.0)
    terms = np.concatenate([[0.0], _layer_weights() * f ** (n - 1.0)])
    outwards = float(moment @ s) * legendre.legval(cosine, terms * np.arange(_TERMS + 1.0))
    along = (directions @ moment - cosine * float(moment @ s)) * legendre.legval(cosine, legendre.legder(terms))
    return np.asarray(1e-3 / (4.0 * math.pi * _SHELLS[0][1] * RADIUS_M**2) * (outwards + along), dtype=np.float64)


def radial_dipole(directions: Float64s, source: Float64s) -> Float64s:
    """Potential (n,) of a dipole of 1 nAm that points outwards, in microvolts against infinity; see `dipole`."""
    return dipole(directions, source, source / float(np.linalg.norm(source)))


def error_topography(directions: Float64s, site: PeSite) -> Float64s:
    """What the sources that go with the error show (n,) at an amplitude of 1 nAm, in microvolts against infinity.

    Parameters
    ----------
    directions : ndarray (n, 3)
        Unit vectors to the electrodes.
    site : PeSite
        ``posterior_fossa`` (left and right Crus I), or a control place.
    """
    places, tilt_rad = _PE_SITES[site]
    shown = np.zeros(len(directions))
    for place, share in places:
        source = from_mni(place)
        out = source / float(np.linalg.norm(source))
        up = np.array([0.0, 0.0, 1.0]) - out[2] * out
        up /= float(np.linalg.norm(up))
        shown += share * dipole(directions, source, math.cos(tilt_rad) * out - math.sin(tilt_rad) * up)
    return shown


def fading(directions: Float64s, towards: Float64s, reach_m: float) -> Float64s:
    """Share (n,) of something that fades over the scalp as exp(-distance / reach) from direction `towards`.

    1 at the nearest electrode, so that its size can be given where it is worst.
    """
    distance_m = RADIUS_M * np.linalg.norm(directions - towards / np.linalg.norm(towards), axis=1)
    share = np.exp(-distance_m / reach_m)
    return np.asarray(share / share.max(), dtype=np.float64)
