"""K4, the regression on muscle activity, in plain Python: its definition, and the oracle of its tests."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cext.params import KernelParams


class MuscleRegression:
    """Recursive least squares of every stream on offset and muscle stream, with forgetting (Haykin, Adaptive Filter Theory).

    With q = [1, L_muscle] and one theta a stream, at a tick: ``e = L - theta' q``; ``k = P q / (lambda + q' P q)``;
    ``theta += k e``; ``P = (P - k q' P) / lambda``. All streams have the same q, hence one P. Muscle in the EEG is broad-band:
    what its high frequencies say of the bands of interest can be taken off the log power (Gasser, Schuller & Schreiter Gasser
    2005; McMenamin et al. 2009).

    Parameters
    ----------
    params : KernelParams
        Uses `muscle_start`, `muscle_variance_start`, `muscle_rate`, `muscle_stream`.

    Notes
    -----
    *The offset goes too.* The residual is L - theta' q whole, not L - slope * L_muscle: the bias of the forward model (K6) then
    begins near its goal, and a change of slope turns about the muscle's usual level instead of about log power zero, where it
    would shift the residual. Nothing is lost: K6's bias follows the same slow level with a shorter memory. The two do not
    compete, because K4 learns from its own residual and never hears of K6's error.

    *P stays bounded.* While the muscle is silent only one combination of offset and slope is seen; in the other one P would
    grow by 1 / lambda a tick, tenfold in five minutes, and the first twitch would throw the slope anywhere: covariance wind-up.
    So the slope's variance never exceeds its start: beyond, the slope's row and column of P are scaled back. Scaling both keeps
    P symmetric and positive. As ``q' P q < 1`` after an update, the offset's variance is then below
    ``(1 + abs(L_muscle) * sqrt(most / lambda))**2``: the trace is bounded too, and the offset is followed throughout. Three
    numbers hold P: it cannot lose its symmetry to rounding.
    """

    def __init__(self, params: KernelParams) -> None:
        self._stream = params.muscle_stream
        self._keep = 1.0 - params.muscle_rate
        self._most = float(params.muscle_variance_start[1])
        self.theta: list[list[float]] = params.muscle_start.tolist()
        self.doubt = [float(params.muscle_variance_start[0]), 0.0, self._most]

    def residuals(self, levels: list[float]) -> list[float]:
        """Take off every stream but the muscle's own what was learned before this tick."""
        muscle = levels[self._stream]
        return [
            level if j == self._stream or math.isnan(level) else level - (offset + slope * muscle)
            for j, (level, (offset, slope)) in enumerate(zip(levels, self.theta, strict=True))
        ]

    def learn(self, residuals: list[float]) -> None:
        """Update from what `residuals` returned for this tick."""
        muscle = residuals[self._stream]
        p00, p01, p11 = self.doubt
        u0 = p00 + p01 * muscle
        u1 = p01 + p11 * muscle
        d = self._keep + (u0 + muscle * u1)
        g0, g1 = u0 / d, u1 / d
        for j, (theta, e) in enumerate(zip(self.theta, residuals, strict=True)):
            if j != self._stream:
                theta[0] += g0 * e
                theta[1] += g1 * e
        p00, p01, p11 = (p00 - g0 * u0) / self._keep, (p01 - g0 * u1) / self._keep, (p11 - g1 * u1) / self._keep
        if p11 > self._most:
            p01, p11 = p01 * math.sqrt(self._most / p11), self._most
        self.doubt = [p00, p01, p11]

    def restore(self, theta: NDArray[np.float64], doubt: NDArray[np.float64]) -> None:
        """Continue from a saved state."""
        self.theta, self.doubt = theta.reshape(-1, 2).tolist(), doubt.tolist()
