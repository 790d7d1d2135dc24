"""What the compiled kernel and its reference share: result type, flag bits, layout of a saved state."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from cext.params import KernelParams

KERNEL_ABI: Final = 3
"""Raised by one whenever compiled code, parameters or state stop fitting an older build of the others."""

NONFINITE: Final = 1
"""A used channel held NaN or infinity, or the filters overflowed."""
RAILED: Final = 2
"""The magnitude of a used channel reached its rail."""
FLAT: Final = 4
"""A used channel repeated its value for ``flat_samples`` samples."""
MUSCLE: Final = 8
"""The muscle stream lies more than ``muscle_z_limit`` standard deviations above its running mean."""
WARMUP: Final = 16
"""Fewer than ``warmup_samples`` good samples in a row have been filtered."""
EXCLUDED: Final = 32
"""The caller said that a sample must not be used (current was flowing)."""

SAMPLE_LIMIT: Final = 1 << 41
"""Largest absolute sample number; keeps the integer tick arithmetic inside 64 bits (17 years at 4096 Hz)."""

NO_IMPULSES: Final[NDArray[np.int64]] = np.empty((0, 3), dtype=np.int64)
"""What to give :meth:`Kernel.process` when nothing happened."""
NO_IMPULSES.setflags(write=False)


class KernelOverflowError(RuntimeError):
    """More impulses or events are waiting than ``pending_capacity``; nothing was processed.

    Example: markers stamped an hour ahead by a wrong clock are given call after call.
    """


class Output(NamedTuple):
    """What one call of ``process`` produced; the arrays belong to the caller (empty ones are shared).

    Attributes
    ----------
    frame_sample : int64, shape (n_ticks,)
        Absolute number of the sample that completed the tick.
    frames : float64, shape (n_ticks, n_columns)
        Columns as named by ``KernelParams.column_names``; NaN where undefined.
    frame_flags : uint32, shape (n_ticks,)
        OR of flag bits; 0 means valid.
    channel_flags : uint8, shape (n_ticks, n_channels)
        OR of NONFINITE, RAILED and FLAT of every channel, used or not, since the previous tick.
    event_id : int64, shape (n_events,)
        As given with the impulse.
    event_sample : int64, shape (n_events,)
        Absolute sample number of the event.
    event_features : float64, shape (n_events, n_features)
        K8 features, as named by ``KernelParams.event_stream``; NaN where a window or the baseline held no valid tick.
    event_invalid : float64, shape (n_events,)
        Fraction of flagged ticks in the union of windows and baseline.
    event_valid : uint8, shape (n_events,)
        1 if ``event_invalid <= max_invalid`` and every feature is defined.
    event_tick_sample : int64, shape (n_events,)
        Absolute number of the newest sample when the event was decided. Nothing later was used (I18).
    """

    frame_sample: NDArray[np.int64]
    frames: NDArray[np.float64]
    frame_flags: NDArray[np.uint32]
    channel_flags: NDArray[np.uint8]
    event_id: NDArray[np.int64]
    event_sample: NDArray[np.int64]
    event_features: NDArray[np.float64]
    event_invalid: NDArray[np.float64]
    event_valid: NDArray[np.uint8]
    event_tick_sample: NDArray[np.int64]


def new_output(params: KernelParams, n_ticks: int, n_events: int) -> Output:
    """Allocate an :class:`Output` of ``n_ticks`` frames and ``n_events`` events, not yet filled."""
    return Output(
        np.empty(n_ticks, dtype=np.int64),
        np.empty((n_ticks, params.n_columns)),
        np.empty(n_ticks, dtype=np.uint32),
        np.empty((n_ticks, params.n_channels), dtype=np.uint8),
        np.empty(n_events, dtype=np.int64),
        np.empty(n_events, dtype=np.int64),
        np.empty((n_events, params.n_features)),
        np.empty(n_events),
        np.empty(n_events, dtype=np.uint8),
        np.empty(n_events, dtype=np.int64),
    )


# --------------------------------------------------------------------------------------------------
# Saved state: magic, ABI, digest of the parameters, SHA-256 of the body, body.
# The body is int64 then float64, in the order below; both implementations write equal bytes.
#   int64    sample count, good samples in a row, flag bits since the last tick, impulses waiting, events
#            waiting, ticks for which the muscle regression still rests,
#            channel bits (C), history flags (H), impulses (capacity, 2: tick, channel),
#            events (capacity, 3: tick, sample, id)
#   float64  learned: weights (L, B+1), covariance (L, L), muscle regression (J, 2: offset, slope), its P (3:
#            both variances with the covariance between them), updates, muscle mean, variance, updates
#            transient: equal samples in a row (C), previous sample (C), filter (S, 2, lanes), power (lanes),
#            s1 (B), s2 (B), history of e and of the auxiliary streams that events look at (H, W)

_MAGIC: Final = b"cereloop-kernel\0"
_HEAD: Final = len(_MAGIC) + 8 + 32 + 32
N_COUNTERS: Final = 6


def n_state_ints(params: KernelParams) -> int:
    """Return how many int64 a state holds."""
    return N_COUNTERS + params.n_channels + params.history_ticks + 5 * params.pending_capacity


def n_learned_floats(params: KernelParams) -> int:
    """Return how many float64 the learned part of a state holds."""
    return params.n_learned * (params.n_basis + 1 + params.n_learned) + 2 * params.n_streams + 7


def start_of_learned(params: KernelParams) -> NDArray[np.float64]:
    """Return what is learned before the first sample, in the order of a state."""
    offset, slope = params.muscle_variance_start.tolist()
    tail = [offset, 0.0, slope, 0.0, 0.0, 1.0, 0.0]
    parts = params.weights_start, np.diag(params.variance_start), params.muscle_start
    return np.concatenate([*(part.ravel() for part in parts), tail])


def n_state_floats(params: KernelParams) -> int:
    """Return how many float64 a state holds."""
    filters = params.n_lanes * (2 * params.n_stages + 1)
    transient = 2 * params.n_channels + filters + 2 * params.n_basis + params.history_ticks * params.n_watched
    return n_learned_floats(params) + transient


def pack_state(params: KernelParams, ints: NDArray[np.int64], floats: NDArray[np.float64]) -> bytes:
    """Serialise a state, sealed with the parameters' digest and a checksum of its body."""
    body = ints.tobytes() + floats.tobytes()
    seal = hashlib.sha256(body).digest()
    return _MAGIC + KERNEL_ABI.to_bytes(8, "little") + params.digest + seal + body


def unpack_state(params: KernelParams, state: bytes) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Take apart what :func:`pack_state` wrote.

    Raises
    ------
    ValueError
        If the bytes are no kernel state, belong to another build or other parameters, or are damaged.
    """
    state = bytes(state)
    start = len(_MAGIC)
    if state[:start] != _MAGIC or len(state) < _HEAD:
        raise ValueError("state: these bytes are not a kernel state")
    abi = int.from_bytes(state[start : start + 8], "little")
    if abi != KERNEL_ABI:
        raise ValueError(f"state: written by kernel ABI {abi}, this is {KERNEL_ABI}; start from calibration")
    if state[start + 8 : start + 40] != params.digest:
        raise ValueError(
            "state: belongs to a kernel with other parameters; restore it with the parameters it had"
        )
    body = state[_HEAD:]
    n_ints, n_floats = n_state_ints(params), n_state_floats(params)
    if len(body) != 8 * (n_ints + n_floats) or hashlib.sha256(body).digest() != state[start + 40 : _HEAD]:
        raise ValueError("state: damaged (length or checksum do not match)")
    ints = np.frombuffer(body, dtype=np.int64, count=n_ints).copy()
    floats = np.frombuffer(body, dtype=np.float64, offset=8 * n_ints).copy()
    count, fed, bits, n_impulses, n_events, frozen = ints[:N_COUNTERS].tolist()
    capacity = params.pending_capacity
    channels = ints[-5 * capacity : -3 * capacity].reshape(-1, 2)[: max(n_impulses, 0), 1]
    if (
        not (0 <= count <= SAMPLE_LIMIT and 0 <= fed <= count and 0 <= bits < 64)
        or not (0 <= n_impulses <= capacity and 0 <= n_events <= capacity and 0 <= frozen <= params.freeze_ticks)
        or (channels.size and not (channels.min() >= 0 and channels.max() < params.n_markers))
    ):
        raise ValueError("state: holds impossible numbers")
    return ints, floats
