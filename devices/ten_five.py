"""Names and directions of the 10-05 system (Oostenveld & Praamstra 2001), by rule instead of by table.

The midline runs from nasion to inion in steps of a tenth, and so do the two half circles through Fpz, T7 or
T8, and Oz. A row lies on the circle through its two ends on that belt and its midline point; the odd and even
numbers divide it.
"""

from __future__ import annotations

import math
from typing import Final

Direction = tuple[float, float, float]

# Inclination from the vertex. On a sphere fitted to a head, nasion and inion lie below the equator, hence not
# 90 degrees.
_BELT: Final = math.radians(92.0)
_LOWER_BELT: Final = math.radians(115.0)

# Fraction of the way from nasion (0) to inion (1), and the rows that lie there: medial names and lateral (T)
# names.
_ROWS: Final = (
    (0.00, "N", ""),
    (0.10, "Fp", ""),
    (0.15, "AFp", ""),
    (0.20, "AF", ""),
    (0.25, "AFF", ""),
    (0.30, "F", ""),
    (0.35, "FFC", "FFT"),
    (0.40, "FC", "FT"),
    (0.45, "FCC", "FTT"),
    (0.50, "C", "T"),
    (0.55, "CCP", "TTP"),
    (0.60, "CP", "TP"),
    (0.65, "CPP", "TPP"),
    (0.70, "P", ""),
    (0.75, "PPO", ""),
    (0.80, "PO", ""),
    (0.85, "POO", ""),
    (0.90, "O", ""),
    (0.95, "OI", ""),
    (1.00, "I", ""),
)


def _on_sphere(inclination: float, azimuth: float) -> Direction:
    """Unit vector; `azimuth` from the front, towards the right ear, in radians."""
    across = math.sin(inclination)
    return across * math.sin(azimuth), across * math.cos(azimuth), math.cos(inclination)


def _midline(fraction: float) -> Direction:
    """Point of the midline, `fraction` of the way from nasion (0) over the vertex (0.5) to inion (1)."""
    inclination = (2.0 * fraction - 1.0) * _LOWER_BELT
    return 0.0, -math.sin(inclination), math.cos(inclination)


def _belt(inclination: float, fraction: float) -> Direction:
    """Right-hand point on the circle at `inclination` where the row at `fraction` ends."""
    return _on_sphere(inclination, math.pi * fraction)


def _along_row(fraction: float, lateral: float) -> Direction:
    """Point on the right half of a row: `lateral` 0 is the midline, 1 the belt."""
    top = _midline(fraction)
    end = _belt(_BELT, fraction)
    # The circle through left end, top and right end is mirror symmetric; its centre lies in the midline
    # plane, half-way between the chord's middle and wherever makes `top` and `end` equally distant.
    middle = (end[1], end[2])
    axis = (top[1] - middle[0], top[2] - middle[1])
    height = math.hypot(*axis)
    axis = (axis[0] / height, axis[1] / height)
    centre_at = (height * height - end[0] * end[0]) / (2.0 * height)
    radius = height - centre_at
    full = math.atan2(end[0], -centre_at)
    angle = lateral * full
    up = centre_at + radius * math.cos(angle)
    return radius * math.sin(angle), middle[0] + up * axis[0], middle[1] + up * axis[1]


def _between(a: Direction, b: Direction, share: float) -> Direction:
    """Direction `share` of the way from `a` to `b`, on the unit sphere."""
    mixed = [(1.0 - share) * p + share * q for p, q in zip(a, b, strict=True)]
    norm = math.sqrt(sum(v * v for v in mixed))
    return mixed[0] / norm, mixed[1] / norm, mixed[2] / norm


def _right(fraction: float, lateral: float) -> Direction:
    """Point on the right side; `lateral` runs from 0 (midline) over 1 (belt) to 1.25 (lower belt)."""
    if lateral <= 1.0 and 0.1 < fraction < 0.9:
        return _along_row(fraction, lateral)
    if 0.1 < fraction < 0.9:
        return _between(_belt(_BELT, fraction), _belt(_LOWER_BELT, fraction), 4.0 * (lateral - 1.0))
    # Fp and O lie on the belt itself, N and I on the lower belt; one step outwards is a tenth of the half
    # circle.
    depth = abs(fraction - 0.5) - 0.4
    inclination = _BELT + depth / 0.1 * (_LOWER_BELT - _BELT)
    step = math.pi / 10.0 * 4.0 * lateral
    return _on_sphere(inclination, step if fraction < 0.5 else math.pi - step)


def _build() -> dict[str, Direction]:
    sites: dict[str, Direction] = {}
    for fraction, medial, temporal in _ROWS:
        sites[f"{medial}z"] = _midline(fraction)
        outermost = 10 if 0.1 < fraction < 0.9 else 2
        for number in range(1, outermost + 1):
            # 1 and 2 lie a quarter out, 7 and 8 on the belt; an h halves the step inwards.
            name = temporal if temporal and number >= 7 else medial
            for suffix, back in (("", 0.0), ("h", 0.125)):
                x, y, z = _right(fraction, (number + 1) // 2 * 0.25 - back)
                sites[f"{name}{number}{suffix}"] = (x if number % 2 == 0 else -x, y, z)
    sites["M1"] = sites["A1"] = sites["TP9"]
    sites["M2"] = sites["A2"] = sites["TP10"]
    return sites


_SITES: Final = _build()

NAMES: Final = tuple(_SITES)
"""Every name of the 10-05 system, and the mastoids and ear lobes, in the usual spelling."""


def direction(name: str) -> Direction | None:
    """Unit vector from the centre of the head to a site: x right, y front, z up.

    Parameters
    ----------
    name : str
        A name in the spelling of `NAMES`, such as ``PO10``.

    Returns
    -------
    tuple of three float, or None
        The direction on the best-fitting sphere; None for a name that the system does not have.
    """
    return _SITES.get(name)
