"""A spherical head: where the simulated sources lie, and what a dipole in it shows at the electrodes.

The potential of a radial dipole at the surface of a homogeneous conducting sphere is

    V = q / (4 pi sigma R^2) * [2 (cos g - f) / d^3 + (1 / d - 1) / f],    d^2 = 1 + f^2 - 2 f cos g,

with f the dipole's eccentricity and g the angle between dipole and electrode; it sums the Legendre series
(2 n + 1) f^(n-1) P_n(cos g). Skull and scalp are brought in by moving the dipole inwards, to 0.6 of its
eccentricity (Ary, Klein & Fender 1981): 10 nAm in the cerebellum then give 1 to 2 microvolts against the
average, as in three shells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from devices.ten_five import direction

Float64s = npt.NDArray[np.float64]
Point = tuple[float, float, float]

RADIUS_M: Final = 0.099
CENTRE_M: Final[Point] = (0.0, 0.012, 0.040)
"""Centre of the sphere in head coordinates (origin between the ears)."""

_CONDUCTIVITY_S_M: Final = 0.33
_INWARDS: Final = 0.6

# Centre of the same sphere in MNI coordinates, millimetres.
_CENTRE_MNI_MM: Final[Point] = (0.0, -18.0, 8.0)

CRUS_LEFT: Final[Point] = (-36.0, -70.0, -33.0)
CRUS_RIGHT: Final[Point] = (36.0, -70.0, -33.0)
VISUAL: Final[Point] = (0.0, -92.0, 2.0)
MIDCINGULATE: Final[Point] = (0.0, -8.0, 52.0)

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
    return np.asarray((np.array(point_mm) - np.array(_CENTRE_MNI_MM)) * (1e-3 / RADIUS_M), dtype=np.float64)


def radial_dipole(directions: Float64s, source: Float64s) -> Float64s:
    """Potential of a radial dipole of 1 nAm at electrodes, in microvolts against infinity.

    Parameters
    ----------
    directions : ndarray (n, 3)
        Unit vectors to the electrodes.
    source : ndarray (3,)
        Place of the dipole in units of the radius, inside the sphere and not at its centre; its moment points
        outwards.

    Returns
    -------
    ndarray (n,)
        Microvolts for each nAm.
    """
    eccentricity = float(np.linalg.norm(source))
    f = _INWARDS * eccentricity
    cosine = directions @ (source / eccentricity)
    d = np.sqrt(1.0 + f * f - 2.0 * f * cosine)
    shape = 2.0 * (cosine - f) / d**3 + (1.0 / d - 1.0) / f
    volts = 1e-9 / (4.0 * math.pi * _CONDUCTIVITY_S_M * RADIUS_M**2) * shape
    return np.asarray(volts * 1e6, dtype=np.float64)


def fading(directions: Float64s, towards: Float64s, reach_m: float) -> Float64s:
    """Share (n,) of something that fades over the scalp as exp(-distance / reach) from direction `towards`.

    1 at the nearest electrode, so that its size can be given where it is worst.
    """
    distance_m = RADIUS_M * np.linalg.norm(directions - towards / np.linalg.norm(towards), axis=1)
    share = np.exp(-distance_m / reach_m)
    return np.asarray(share / share.max(), dtype=np.float64)
