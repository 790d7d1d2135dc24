"""Coefficients that follow from the parameters; computed in one place for both implementations."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cext.params import KernelParams


@dataclass(frozen=True)
class Coefficients:
    """Derived coefficients (see :func:`derive`)."""

    channels: NDArray[np.int64]
    """(U,) channels that are read: used, and with a weight in any chain."""
    weights: NDArray[np.float64]
    """(U, lanes) spatial filters with K0 folded in, one column per chain, zero in the padding."""
    sections: NDArray[np.float64]
    """(S, 5, lanes) b0, b1, b2, a1, a2 of every section."""
    prime: NDArray[np.float64]
    """(S, 2, lanes) filter memory per microvolt of constant input."""
    keep: NDArray[np.float64]
    """(lanes,) a of K3."""
    take: NDArray[np.float64]
    """(lanes,) 1 - a of K3."""
    linear: NDArray[np.int64]
    """(lanes,) not 0 where K3 takes the signal itself."""
    decay: NDArray[np.float64]
    """(B,) exp(-1 / (tau fd)) of K5."""
    gain: NDArray[np.float64]
    """(B,) e / (tau fd) of K5."""
    offsets: NDArray[np.int64]
    """(n,) ticks relative to an event that are in its baseline or in any window."""


def folded_projection(params: KernelParams) -> NDArray[np.float64]:
    """Spatial filters with the re-reference folded in, shape (V, C).

    K0 then K1 is ``sum_c w[c] (x[c] - sum_d r[d] x[d])``, which equals ``sum_c (w[c] - r[c] sum_d w[d])
    x[c]``.
    """
    rows = []
    for row in params.projection.tolist():
        total = math.fsum(row)
        rows.append([w - r * total for w, r in zip(row, params.reference.tolist(), strict=True)])
    return np.array(rows)


def derive(params: KernelParams) -> Coefficients:
    """Compute the coefficients of a kernel.

    The filter memory for constant input u of a direct form II transposed section, whose gain at 0 Hz is
    ``h = (b0 + b1 + b2) / (1 + a1 + a2)``, is ``(h - b0) u`` and ``(b2 - a2 h) u``; the next section sees ``h
    u``.
    """
    n_v, n_lanes, n_s = params.n_chains, params.n_lanes, params.n_stages
    folded = folded_projection(params)
    channels = np.flatnonzero(params.used & folded.any(axis=0))
    weights = np.zeros((channels.size, n_lanes))
    weights[:, :n_v] = folded[:, channels].T
    sections = np.zeros((n_s, 5, n_lanes))
    sections[:, 0, :] = 1.0
    prime = np.zeros((n_s, 2, n_lanes))
    for v in range(n_v):
        level = 1.0
        for s in range(n_s):
            b0, b1, b2, _, a1, a2 = params.sos[v, s].tolist()
            sections[s, :, v] = b0, b1, b2, a1, a2
            h = (b0 + b1 + b2) / (1.0 + a1 + a2)
            prime[s, :, v] = (h - b0) * level, (b2 - a2 * h) * level
            level *= h
    keep = np.zeros(n_lanes)
    keep[:n_v] = params.smoothing
    linear = np.zeros(n_lanes, dtype=np.int64)
    linear[:n_v] = params.linear
    ticks = [tau * params.feature_rate_hz for tau in params.basis_tau_s.tolist()]
    inside = {t for a, b in [*params.windows.tolist(), params.baseline.tolist()] for t in range(a, b)}
    return Coefficients(
        channels=channels.astype(np.int64),
        weights=weights,
        sections=sections,
        prime=prime,
        keep=keep,
        take=1.0 - keep,
        linear=linear,
        decay=np.array([math.exp(-1.0 / t) for t in ticks]),
        gain=np.array([math.e / t for t in ticks]),
        offsets=np.array(sorted(inside), dtype=np.int64),
    )
