r"""K11: what markers and EEG say together about the size of an error.

The markers' model gives \|d\|, from which the participant's own \|delta\| differs by `PRIOR_SD` (one sd: beliefs
have noise that no marker can know). The calibrated readout gives E = b0 + b1 \|delta\| + noise of sd sigma. Both are
normal, so their posterior is too. A readout that knows nothing (b1 = 0) leaves the markers' value as it was.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from loop.readout import Readout

PRIOR_SD: Final = 0.12


class Fused(NamedTuple):
    r"""Posterior mean and standard deviation of \|delta\|; the mean may leave 0 to 1 a little, as a normal's does."""

    value: float
    sd: float


def fuse(readout: Readout, error: float, value: float) -> Fused:
    r"""Posterior of \|delta\| on one trial.

    Parameters
    ----------
    readout : Readout
        Uses `b0`, `b1` and `sigma`.
    error : float
        \|d\| of the markers' model, 0 to 1.
    value : float
        E, as `Readout.apply` gives it.

    Returns
    -------
    Fused
        ``|d| + G (E - b0 - b1 |d|)`` with ``G = s0² b1 / (b1² s0² + sigma²)``, and ``s0 sqrt(1 - G b1)``.
    """
    variance = PRIOR_SD * PRIOR_SD
    gain = variance * readout.b1 / (readout.b1 * readout.b1 * variance + readout.sigma * readout.sigma)
    rest = value - readout.b0 - readout.b1 * error
    return Fused(error + gain * rest, PRIOR_SD * math.sqrt(max(0.0, 1.0 - gain * readout.b1)))
