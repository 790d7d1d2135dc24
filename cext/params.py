"""Everything the kernel is told once: coefficients and limits, checked, frozen, and fingerprinted."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, fields
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

MAX_LEARNED = 16
_MUSCLE_VARIANCE = (100.0, 0.02)  # offset: not known at all; slope: about 0.4 beside an envelope's own spread
_LANES = 8  # chains are padded to whole vectors; the padding has zero weight


@dataclass(frozen=True, eq=False, kw_only=True)
class KernelParams:
    """Parameters of the per-sample kernel (SCIENCE K0 to K8).

    Arrays are copied, made C-contiguous and read-only. Letters: C channels, V chains (spatial filter, causal
    bank, envelope), S sections, J streams, L learned streams (the first of J), B basis functions.

    Parameters
    ----------
    sfreq_hz : float
        Sampling rate, 128 to 4096 Hz; need not be an integer (499.93). The tick grid uses the nearest
        fraction with a denominator up to 10000.
    n_channels : int
        C.
    used : bool, shape (C,)
        Channels whose badness makes a sample bad. The others influence nothing but their own
        ``channel_flags``.
    reference : float, shape (C,)
        K0: ``x - sum_c reference[c] * x[c]``. Weights sum to 1, or are all zero for no re-reference.
    projection : float, shape (V, C)
        K1: one spatial filter per chain, applied after K0; a calibrated one or a single channel. Chains of
        different bands may have different filters. K0 is linear, so both are folded into one matrix
        (``folded_projection``).
    sos : float, shape (V, S, 6)
        K2: second-order sections as SciPy has them, ``a0 = 1``, padded with ``[1, 0, 0, 1, 0, 0]``.
    n_sections : int, shape (V,)
        How many sections of each chain are not padding.
    smoothing : float, shape (V,)
        K3: a in ``p <- a p + (1 - a) y**2``, in [0, 1).
    pooling : float, shape (J, V)
        Stream ``L[j] = sum_v pooling[j, v] * log(p[v] + floor_uv2)``; zero weights are skipped.
    linear : bool, shape (V,), optional
        Chains that carry a waveform: K3 is ``p <- a p + (1 - a) y``, and the stream takes p in microvolts, no
        logarithm of it. None if not given.
    n_learned : int
        L: how many streams the forward model predicts, 0 to 16. The others are auxiliary.
    warmup_samples : int
        Good samples in a row that the filters need after a (re)start before a frame is valid.
    windows : int, shape (F, 2)
        K8: ticks [start, stop) relative to the event's tick, per event feature.
    baseline : int, shape (2,)
        K8: ticks [start, stop) relative to the event's tick.
    basis_channel : int, shape (B,)
        K5: marker channel that drives each basis function.
    basis_tau_s : float, shape (B,)
        K5: time constant, seconds: each function is an alpha kernel with its peak near tau.
    feature_rate_hz : int
        Ticks per second, 1 to 100 and at most half the sampling rate.
    floor_uv2 : float
        K3: added to the power before the logarithm, microvolt squared.
    muscle_stream : int
        Stream that measures muscle activity; -1 where the sampling rate cannot carry one.
    muscle_z_limit, muscle_rate : float
        Frames beyond the limit are flagged; the rate per tick at which the past is forgotten, 1 / (120 s), by
        the stream's running mean and variance, and by K4, whose lambda is ``1 - muscle_rate``.
    regress_muscle : bool
        K4: take from every other stream what a regression on ``[1, L[muscle_stream]]`` explains, offset and
        slope; the residual, not L, goes on to K6. Off, or without a muscle stream: L goes on.
    muscle_start : float, shape (J, 2), optional
        K4: offset and slope of each stream to begin with (from a calibration); zero if not given. The muscle
        stream's own row is not used.
    muscle_variance_start : float, shape (2,), optional
        K4: variances of offset and slope to begin with, in residual variances (the diagonal of P); 100 and
        0.02 if not given. The slope's never grows beyond its start: see ``cext.reference_muscle``.
    freeze_channels : int, shape (F,), optional
        K4: marker channels after whose impulses the regression does not learn (outcomes: what they evoke in
        muscle and brain alike is no muscle artefact); none if not given.
    freeze_ticks : int
        K4: for how many ticks, from the impulse's own on; 41 at 50 Hz are the ticks within [0, 0.8] s.
    use_basis, use_forward_model, use_innovation : bool
        Switches of K5, K6 and K7. K5 off: impulses drive no basis function, the bias stays. K6 off: Lhat is 0
        and nothing is predicted or learned. K7 off: s is 1, z is e, nu is NaN, no covariance is learned.
    bias : float
        K5: constant last element of the basis vector.
    learning_rate : float
        K6: mu, in [0, 1]; 0 freezes the forward model.
    variance_rate : float
        K7: g per tick, in (0, 1]; ``1 / (n + 2)`` is used while that is larger (n updates so far).
    variance_floor : float
        K7: added to each variance and the least pivot of the covariance's factor, in log-power squared.
    weights_start : float, shape (L, B + 1), optional
        Forward-model weights to begin with (from a calibration); zero if not given.
    variance_start : float, shape (L,), optional
        Error variances to begin with, counted as one observation; one if not given.
    rail_uv : float, shape (C,), optional
        A finite sample with ``abs(x) >= rail_uv`` is railed; infinite (off) if not given.
    flat_samples : int
        A channel that equals its predecessor for this many samples in a row is flat; 0 switches this off.
    event_stream : int, shape (F,), optional
        K8: the stream that each event feature is taken from. Of a learned one it is the error e, of an auxiliary
        one the level that K4 left of it. The learned streams, one feature each, if not given.
    baseline_weight, max_invalid : float
        K8: share of the baseline subtracted; largest fraction of flagged ticks of a valid event.
    history_ticks : int
        Ticks remembered for events; longer than from the first to the last tick of an event.
    pending_capacity : int
        Most impulses, and most events, that may wait at the end of a call.

    Raises
    ------
    ValueError
        Naming the field and what is expected.
    """

    sfreq_hz: float
    n_channels: int
    used: NDArray[np.bool_]
    reference: NDArray[np.float64]
    projection: NDArray[np.float64]
    sos: NDArray[np.float64]
    n_sections: NDArray[np.int64]
    smoothing: NDArray[np.float64]
    pooling: NDArray[np.float64]
    n_learned: int
    warmup_samples: int
    windows: NDArray[np.int64]
    baseline: NDArray[np.int64]
    basis_channel: NDArray[np.int64]
    basis_tau_s: NDArray[np.float64]
    feature_rate_hz: int = 50
    floor_uv2: float = 1e-6
    muscle_stream: int = -1
    muscle_z_limit: float = 4.0
    muscle_rate: float = 1.0 / 6000.0
    regress_muscle: bool = True
    muscle_start: NDArray[np.float64] = None  # type: ignore[assignment]  # filled in below
    muscle_variance_start: NDArray[np.float64] = None  # type: ignore[assignment]  # filled in below
    freeze_channels: NDArray[np.int64] = None  # type: ignore[assignment]  # filled in below
    freeze_ticks: int = 41
    use_basis: bool = True
    use_forward_model: bool = True
    use_innovation: bool = True
    bias: float = 0.3
    learning_rate: float = 0.005
    variance_rate: float = 1.0 / 1500.0
    variance_floor: float = 1e-6
    weights_start: NDArray[np.float64] = None  # type: ignore[assignment]  # filled in below
    variance_start: NDArray[np.float64] = None  # type: ignore[assignment]  # filled in below
    rail_uv: NDArray[np.float64] = None  # type: ignore[assignment]  # filled in below
    flat_samples: int = 0
    linear: NDArray[np.bool_] = None  # type: ignore[assignment]  # filled in below
    event_stream: NDArray[np.int64] = None  # type: ignore[assignment]  # filled in below
    baseline_weight: float = 0.5
    max_invalid: float = 0.25
    history_ticks: int = 256
    pending_capacity: int = 64
    digest: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._scalars()
        n_ch = self.n_channels
        self._array("used", np.bool_, (n_ch,))
        self._array("reference", np.float64, (n_ch,))
        self._array("projection", np.float64, (None, n_ch))
        n_v = self.projection.shape[0]
        _require(n_v >= 1, "projection", "at least one chain", n_v)
        self._array("sos", np.float64, (n_v, None, 6))
        self._array("n_sections", np.int64, (n_v,))
        self._array("smoothing", np.float64, (n_v,))
        self._array("pooling", np.float64, (None, n_v))
        n_j, n_l = self.n_streams, self.n_learned
        _require(n_j >= n_l, "pooling", f"at least n_learned = {n_l} streams", n_j)
        self._array("basis_channel", np.int64, (None,))
        n_b = self.basis_channel.shape[0]
        self._array("basis_tau_s", np.float64, (n_b,))
        self._array("linear", np.bool_, (n_v,), default=False)
        self._array("event_stream", np.int64, (None,), default=np.arange(n_l))
        _require(self.n_features > 0, "event_stream", "at least one event feature", self.event_stream)
        self._array("windows", np.int64, (self.n_features, 2))
        self._array("baseline", np.int64, (2,))
        self._array("weights_start", np.float64, (n_l, n_b + 1), default=0.0)
        self._array("variance_start", np.float64, (n_l,), default=1.0)
        self._array("rail_uv", np.float64, (n_ch,), default=math.inf)
        self._array("muscle_start", np.float64, (n_j, 2), default=0.0)
        self._array("muscle_variance_start", np.float64, (2,), default=_MUSCLE_VARIANCE)
        self._array("freeze_channels", np.int64, (None,), default=0)
        self._relations()
        object.__setattr__(self, "digest", self._fingerprint())

    def _scalars(self) -> None:
        for name in ("n_channels", "pending_capacity", "history_ticks"):
            self._integer(name, 1, 1 << 20)
        self._integer("n_learned", 0, MAX_LEARNED)
        self._integer("feature_rate_hz", 1, 100)
        self._integer("muscle_stream", -1, 1 << 20)
        self._integer("warmup_samples", 0, 1 << 31)
        self._integer("flat_samples", 0, 1 << 31)
        self._integer("freeze_ticks", 0, 1 << 20)
        for name in ("regress_muscle", "use_basis", "use_forward_model", "use_innovation"):
            _require(isinstance(getattr(self, name), bool), name, "True or False", getattr(self, name))
        self._number("sfreq_hz", 128.0, 4096.0)
        self._number("floor_uv2", 1e-30, 1e30)
        self._number("muscle_z_limit", 0.0, 1e6)
        self._number("muscle_rate", 1e-12, 0.5)
        self._number("bias", -1e3, 1e3)
        self._number("learning_rate", 0.0, 1.0)
        self._number("variance_rate", 1e-12, 1.0)
        self._number("variance_floor", 1e-30, 1e6)
        self._number("baseline_weight", -1e3, 1e3)
        self._number("max_invalid", 0.0, 1.0)
        _require(
            2 * self.feature_rate_hz <= self.sfreq_hz,
            "feature_rate_hz",
            "at most half of sfreq_hz",
            self.feature_rate_hz,
        )

    def _relations(self) -> None:
        n_j, n_s, unused = self.pooling.shape[0], self.sos.shape[1], ~self.used
        _require(self.used.any(), "used", "at least one used channel", "none")
        total = math.fsum(self.reference)
        zero = not self.reference.any()
        _require(zero or abs(total - 1.0) <= 1e-9, "reference", "a sum of 1, or all zero", total)
        for name, weights in (("reference", self.reference), ("projection", self.projection)):
            _require(not weights[..., unused].any(), name, "zero for channels that are not used")
        _require(self.muscle_stream < n_j, "muscle_stream", f"-1 or a stream below {n_j}", self.muscle_stream)
        counts = self.n_sections
        _require(((counts >= 0) & (counts <= n_s)).all(), "n_sections", f"0 to {n_s}", counts)
        _require((self.sos[..., 3] == 1.0).all(), "sos", "sections normalised to a0 = 1")
        padding = self.sos[np.arange(n_s)[None, :] >= counts[:, None]]
        identity = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
        _require((padding == identity).all(), "sos", "[1, 0, 0, 1, 0, 0] beyond n_sections")
        a_1, a_2 = self.sos[..., 4], self.sos[..., 5]
        stable = (np.abs(a_2) < 1.0) & (np.abs(a_1) < 1.0 + a_2)
        _require(stable.all(), "sos", "stable sections (poles inside the unit circle)")
        a = self.smoothing
        _require(((a >= 0.0) & (a < 1.0)).all(), "smoothing", "0 <= a < 1", a)
        tau = self.basis_tau_s
        for name, markers in (("basis_channel", self.basis_channel), ("freeze_channels", self.freeze_channels)):
            _require(((markers >= 0) & (markers < 4096)).all(), name, "from 0 to 4095", markers)
        shortest = 0.2 / self.feature_rate_hz
        _require(((tau >= shortest) & (tau <= 600.0)).all(), "basis_tau_s", "a fifth of a tick to 600 s", tau)
        _require(
            (self.variance_start > 0.0).all(), "variance_start", "positive variances", self.variance_start
        )
        doubt = self.muscle_variance_start
        _require(((doubt > 0.0) & (doubt <= 1e6)).all(), "muscle_variance_start", "above 0, at most 1e6", doubt)
        _require((self.rail_uv > 0.0).all(), "rail_uv", "positive rails (infinite = off)", self.rail_uv)
        streams = self.event_stream
        _require(((streams >= 0) & (streams < n_j)).all(), "event_stream", f"streams 0 to {n_j - 1}", streams)
        for name, spans in (("windows", self.windows), ("baseline", self.baseline[None, :])):
            _require((np.abs(spans) <= 1 << 20).all(), name, "ticks within +-2**20", spans)
            _require((spans[:, 0] < spans[:, 1]).all(), name, "start < stop", spans)
        _require(self.windows[:, 1].max() >= 1, "windows", "a stop after the event", self.windows)
        need = self.event_stop - int(min(self.windows[:, 0].min(), self.baseline[0]))
        wanted = f"at least {need}, the ticks one event spans"
        _require(self.history_ticks >= need, "history_ticks", wanted, self.history_ticks)

    # -- sizes and names --------------------------------------------------------------------------

    @property
    def n_chains(self) -> int:
        """V."""
        return int(self.projection.shape[0])

    @property
    def n_lanes(self) -> int:
        """V padded to whole vectors."""
        return -(-self.n_chains // _LANES) * _LANES

    @property
    def n_stages(self) -> int:
        """Sections of the longest chain."""
        return int(self.n_sections.max())

    @property
    def n_streams(self) -> int:
        """J."""
        return int(self.pooling.shape[0])

    @property
    def n_basis(self) -> int:
        """B, without the bias."""
        return int(self.basis_channel.shape[0])

    @property
    def n_markers(self) -> int:
        """Number of marker channels: the largest of ``basis_channel`` and ``freeze_channels`` plus one."""
        return 1 + max((int(c.max()) for c in (self.basis_channel, self.freeze_channels) if c.size), default=-1)

    @property
    def n_regressed(self) -> int:
        """Streams that K4 works on: all but the muscle's own, or none."""
        return self.n_streams - 1 if self.regress_muscle and self.muscle_stream >= 0 else 0

    @property
    def n_features(self) -> int:
        """F: features of an event."""
        return int(self.event_stream.shape[0])

    @property
    def n_watched(self) -> int:
        """Streams that are remembered for events: the learned ones, and all up to the last that a feature is taken from."""
        return max(self.n_learned, 1 + int(self.event_stream.max()))

    @property
    def event_stop(self) -> int:
        """Ticks after an event's tick until all its windows and its baseline have passed."""
        return int(max(self.windows[:, 1].max(), self.baseline[1]))

    @property
    def tick_ratio(self) -> tuple[int, int]:
        """(R, P) with ticks per sample = R / P exactly: sample m belongs to tick ``m * R // P``."""
        ratio = Fraction(self.feature_rate_hz) / Fraction(self.sfreq_hz).limit_denominator(10_000)
        return ratio.numerator, ratio.denominator

    @property
    def n_columns(self) -> int:
        """Columns of ``Output.frames``."""
        return self.n_streams + self.n_regressed + 4 * self.n_learned + 2

    @property
    def columns(self) -> dict[str, slice]:
        """Columns of ``Output.frames`` by quantity: L, Lres, Lhat, e, s, z, nu, muscle_z.

        Lres is what K4 left of L, of every stream but the muscle's own; there is none where K4 is off.
        """
        edges = np.cumsum([0, self.n_streams, self.n_regressed, *[self.n_learned] * 4, 1, 1]).tolist()
        names = ("L", "Lres", "Lhat", "e", "s", "z", "nu", "muscle_z")
        return {name: slice(a, b) for name, a, b in zip(names, edges, edges[1:], strict=False)}

    def column_names(self, streams: list[str]) -> list[str]:
        """Name the columns of ``Output.frames``: ``L.PFT_L ... Lres.PFT_L ... z.PFB_R``, nu, muscle_z.

        Raises
        ------
        ValueError
            If there is not one name per stream, or a name is there twice.
        """
        if len(streams) != self.n_streams or len(set(streams)) != len(streams):
            raise ValueError(f"streams: expected {self.n_streams} different names, got {streams}")
        learned = [f"{what}.{name}" for what in ("Lhat", "e", "s", "z") for name in streams[: self.n_learned]]
        regressed = [name for i, name in enumerate(streams) if self.n_regressed and i != self.muscle_stream]
        levels = [f"L.{name}" for name in streams] + [f"Lres.{name}" for name in regressed]
        return [*levels, *learned, "nu", "muscle_z"]

    # -- checks -----------------------------------------------------------------------------------

    def _integer(self, name: str, low: int, high: int) -> None:
        value = getattr(self, name)
        ok = isinstance(value, int | np.integer) and not isinstance(value, bool) and low <= value <= high
        _require(ok, name, f"an integer from {low} to {high}", value)
        object.__setattr__(self, name, int(value))

    def _number(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        ok = (
            isinstance(value, int | float | np.floating)
            and not isinstance(value, bool)
            and low <= value <= high
        )
        _require(ok, name, f"a number from {low:g} to {high:g}", value)
        object.__setattr__(self, name, float(value))

    def _array(
        self, name: str, dtype: DTypeLike, shape: tuple[int | None, ...], default: ArrayLike | None = None
    ) -> None:
        value: ArrayLike | None = getattr(self, name)
        if value is None and default is not None:
            value = np.broadcast_to(default, np.shape(default) or [n or 0 for n in shape])
        array: NDArray[Any] = np.asarray(value)
        wanted = np.dtype(dtype)
        kinds = {"b": "b", "i": "iu", "f": "fiu"}[wanted.kind]
        empty = array.size == 0
        _require(empty or array.dtype.kind in kinds, name, f"an array of {wanted.name}", array.dtype)
        if empty and array.ndim == 1 and len(shape) == 1:
            array = np.zeros(0, wanted)
        fits = array.ndim == len(shape) and all(
            n in (None, m) for n, m in zip(shape, array.shape, strict=True)
        )
        text = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
        _require(fits, name, f"shape {text}", array.shape)
        array = np.array(array, dtype=wanted, order="C", copy=True)
        if wanted.kind == "f":
            bad = np.isnan(array) if name == "rail_uv" else ~np.isfinite(array)
            _require(not bad.any(), name, "finite values", "NaN or infinity")
        array.setflags(write=False)
        object.__setattr__(self, name, array)

    def _fingerprint(self) -> bytes:
        sha = hashlib.sha256()
        for item in fields(self):
            if item.name == "digest":
                continue
            value = getattr(self, item.name)
            if isinstance(value, np.ndarray):
                sha.update(f"{item.name}:{value.dtype.str}{value.shape};".encode() + value.tobytes())
            else:
                sha.update(f"{item.name}={value!r};".encode())
        return sha.digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KernelParams) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def _require(ok: bool | np.bool_, name: str, expected: str, got: object = "other values") -> None:
    if not ok:
        shown = got.tolist() if isinstance(got, np.ndarray) else got
        raise ValueError(f"{name}: expected {expected}, got {shown}")
