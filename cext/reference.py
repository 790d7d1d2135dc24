"""The kernel's mathematics in plain Python: its definition, and the oracle of its tests."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cext.derive import derive
from cext.layout import (
    EXCLUDED,
    FLAT,
    MUSCLE,
    N_COUNTERS,
    NONFINITE,
    RAILED,
    SAMPLE_LIMIT,
    WARMUP,
    KernelOverflowError,
    Output,
    new_output,
    pack_state,
    unpack_state,
)
from cext.params import KernelParams
from cext.reference_muscle import MuscleRegression

_FADED = 1e-250


class ReferenceKernel:
    """What :class:`cext.Kernel` computes, slowly; see there for parameters, errors and shapes.

    Notes
    -----
    Frames, flags, events and saved states of the two are equal in every bit for every input: both use IEEE
    doubles, the same ``log``, ``sqrt`` and ``exp``, and the same order of operations. Against other
    formulations (SciPy's filters, K0 before K1, late against timely impulses) they hold to 1e-12 relative.

    One sample (``_sample``): quality of every channel; if any used channel is bad, or the sample is excluded,
    the filters do not see it and will start anew. Otherwise K0 and K1 (one matrix), K2 (sections of direct
    form II transposed), K3 (power, or a waveform itself). The first good sample sets the filters to their steady state for that
    sample's value, so a constant offset leaves no transient; the power starts at 0.

    One tick (``_tick``), in this order: basis (K5), log power (K3), what muscle does not explain of it (K4:
    ``cext.reference_muscle``), prediction and error (K6), z and NIS with the statistics from *before* this
    tick (K7), muscle z, and, only if no flag is set, learning (K4, unless an outcome has just frozen it; K6:
    NLMS with a constant 1 in the denominator, as in Haykin, Adaptive Filter Theory; as a cerebellar rule:
    Dean, Porrill & Stone 2002). Then events (K8).
    """

    def __init__(self, params: KernelParams) -> None:
        self.params = params
        c = derive(params)
        self._channels: list[int] = c.channels.tolist()
        self._projection: list[list[float]] = c.weights.T.tolist()  # per lane
        self._sections: list[list[list[float]]] = c.sections.transpose(
            2, 0, 1
        ).tolist()  # per lane, per section
        self._prime: list[list[list[float]]] = c.prime.transpose(2, 0, 1).tolist()
        self._keep: list[float] = c.keep.tolist()
        self._take: list[float] = c.take.tolist()
        self._linear: list[int] = c.linear.tolist()
        self._decay: list[float] = c.decay.tolist()
        self._gain: list[float] = c.gain.tolist()
        self._offsets: list[int] = c.offsets.tolist()
        self._rail: list[float] = params.rail_uv.tolist()
        self._used: list[bool] = params.used.tolist()
        self._pooling: list[list[float]] = params.pooling.tolist()
        self._freezes = set(params.freeze_channels.tolist())
        self._ratio, self._period = params.tick_ratio

        self._w: list[list[float]] = params.weights_start.tolist()
        self._cov: list[list[float]] = np.diag(params.variance_start).tolist()
        self._muscle = MuscleRegression(params)
        self._updates, self._muscle_mean, self._muscle_var, self._muscle_updates = 0.0, 0.0, 1.0, 0.0
        self._count = 0
        self._forget()

    def _forget(self) -> None:
        p = self.params
        self._fed, self._bits, self._frozen = 0, 0, 0
        self._channel_bits = [0] * p.n_channels
        self._run = [0.0] * p.n_channels
        self._prev = [math.nan] * p.n_channels
        self._memory = [[[0.0, 0.0] for _ in range(p.n_stages)] for _ in range(p.n_lanes)]
        self._power = [0.0] * p.n_lanes
        self._s1 = [0.0] * p.n_basis
        self._s2 = [0.0] * p.n_basis
        self._history = [[math.nan] * p.n_watched for _ in range(p.history_ticks)]
        self._history_flags = [WARMUP] * p.history_ticks
        self._impulses: list[tuple[int, int]] = []  # tick, marker channel; sorted
        self._events: list[tuple[int, int, int]] = []  # tick, sample, id; sorted

    # -- time -------------------------------------------------------------------------------------

    def _tick_of(self, sample: int) -> int:
        """Number of the first tick at or after a sample, which is also the number of ticks before it."""
        return sample * self._ratio // self._period

    # -- K0 to K3: one sample ---------------------------------------------------------------------

    def _sample(self, x: list[float], excluded: bool) -> None:
        bad = EXCLUDED if excluded else 0
        for c, value in enumerate(x):
            self._run[c] = self._run[c] + 1.0 if value == self._prev[c] else 0.0
            self._prev[c] = value
            bits = 0
            if abs(value) >= self._rail[c]:
                bits |= RAILED
            if 0 < self.params.flat_samples <= self._run[c]:
                bits |= FLAT
            if not math.isfinite(value):
                bits = NONFINITE
            self._channel_bits[c] |= bits
            if self._used[c]:
                bad |= bits
        if bad:
            self._bits |= bad
            self._fed = 0
            return
        for lane in range(self.params.n_lanes):
            y = 0.0
            for w, c in zip(self._projection[lane], self._channels, strict=True):
                y += w * x[c]
            if self._fed == 0:
                self._memory[lane] = [[g0 * y, g1 * y] for g0, g1 in self._prime[lane]]
                self._power[lane] = 0.0
            for (b0, b1, b2, a1, a2), z in zip(self._sections[lane], self._memory[lane], strict=True):
                u, y = y, b0 * y + z[0]
                z[0] = b1 * u - a1 * y + z[1]
                z[1] = b2 * u - a2 * y
            taken = y if self._linear[lane] else y * y
            self._power[lane] = self._keep[lane] * self._power[lane] + self._take[lane] * taken
        self._fed += 1

    # -- K5: granule basis ------------------------------------------------------------------------

    def _basis(self, tick: int) -> list[float]:
        drive = [0.0] * self.params.n_markers
        while self._impulses and self._impulses[0][0] <= tick:
            channel = self._impulses.pop(0)[1]
            drive[channel] += 1.0
            if channel in self._freezes:
                self._frozen = self.params.freeze_ticks
        if not self.params.use_basis:
            drive = [0.0] * self.params.n_markers
        phi = []
        for b, channel in enumerate(self.params.basis_channel.tolist()):
            a = self._decay[b]
            self._s1[b] = a * self._s1[b] + drive[channel]
            self._s2[b] = a * self._s2[b] + self._s1[b]
            if self._s2[b] < _FADED:  # as zero: no subnormal numbers after a long silence
                self._s1[b] = self._s2[b] = 0.0
            phi.append(self._s2[b] * self._gain[b])
        return [*phi, self.params.bias]

    def _late_impulse(self, channel: int, age: int) -> None:
        """Add what an impulse has become ``age`` ticks after its own: a**age and (age + 1) a**age."""
        if channel in self._freezes:
            self._frozen = max(self._frozen, self.params.freeze_ticks - (age + 1))
        for b, driver in enumerate(self.params.basis_channel.tolist()):
            if driver == channel and self.params.use_basis:
                s1 = s2 = 1.0
                for _ in range(age):
                    s1 = self._decay[b] * s1
                    s2 = self._decay[b] * s2 + s1
                    if s2 < _FADED:
                        s1 = s2 = 0.0
                        break
                self._s1[b] += s1
                self._s2[b] += s2

    # -- one tick ---------------------------------------------------------------------------------

    def _tick(self, tick: int) -> tuple[list[float], int]:
        p = self.params
        phi = self._basis(tick)
        if self._fed > 0 and not all(map(math.isfinite, self._power[: p.n_chains])):
            self._fed = 0  # absurd but finite samples: start the filters anew
            self._bits |= NONFINITE
        flags = self._bits
        if self._fed == 0 or self._fed < p.warmup_samples:
            flags |= WARMUP
        predicted = self._predict(phi)
        sd = [1.0] * p.n_learned
        if p.use_innovation:
            sd = [math.sqrt(self._cov[j][j] + p.variance_floor) for j in range(p.n_learned)]
        level = self._levels() if self._fed > 0 else [math.nan] * p.n_streams
        residual = self._muscle.residuals(level) if p.n_regressed else level
        nu = muscle_z = math.nan
        if self._fed > 0:
            e = [residual[j] - predicted[j] for j in range(p.n_learned)]
            z = [e[j] / sd[j] for j in range(p.n_learned)]
            if p.use_innovation:
                nu = self._nis(e)
            if p.muscle_stream >= 0:
                muscle_z = self._muscle_z(level[p.muscle_stream])
                flags |= MUSCLE if muscle_z > p.muscle_z_limit else 0
        else:
            e = z = [math.nan] * p.n_learned
        if flags == 0:
            if p.n_regressed and self._frozen == 0:
                self._muscle.learn(residual)
            if p.use_forward_model:
                self._learn_model(e, phi)
            if p.use_innovation:
                self._learn_spread(e)
            if p.muscle_stream >= 0:
                self._learn_muscle(level[p.muscle_stream])
        self._frozen = max(0, self._frozen - 1)
        self._history[tick % p.history_ticks] = [*e, *residual[p.n_learned : p.n_watched]]
        self._history_flags[tick % p.history_ticks] = flags
        self._bits = 0
        regressed = [value for j, value in enumerate(residual) if p.n_regressed and j != p.muscle_stream]
        return [*level, *regressed, *predicted, *e, *sd, *z, nu, muscle_z], flags

    def _predict(self, phi: list[float]) -> list[float]:
        """K6: what the forward model expects of each learned stream; 0 where it is off."""
        predicted = []
        for row in self._w:
            total = 0.0
            if self.params.use_forward_model:
                for w, f in zip(row, phi, strict=True):
                    total += w * f
            predicted.append(total)
        return predicted

    def _levels(self) -> list[float]:
        """K3: pooled log powers, and waveforms as they are."""
        logs = [
            power if linear else math.log(power + self.params.floor_uv2)
            for power, linear in zip(self._power[: self.params.n_chains], self._linear, strict=False)
        ]
        levels = []
        for row in self._pooling:
            total = 0.0
            for weight, value in zip(row, logs, strict=True):
                if weight != 0.0:
                    total += weight * value
            levels.append(total)
        return levels

    def _nis(self, e: list[float]) -> float:
        """K7: e' S^-1 e, S the running covariance; its Cholesky pivots are at least ``variance_floor``."""
        floor = self.params.variance_floor
        factor: list[list[float]] = []
        h: list[float] = []
        nu = 0.0
        for i, cov in enumerate(self._cov):
            row: list[float] = []
            for j in range(i):
                d = cov[j]
                for m in range(j):
                    d -= row[m] * factor[j][m]
                row.append(d / factor[j][j])
            d = cov[i] + floor
            for f in row:
                d -= f * f
            row.append(math.sqrt(max(floor, d)))
            factor.append(row)
            d = e[i]
            for f, g in zip(row, h, strict=False):
                d -= f * g
            h.append(d / row[i])
            nu += h[i] * h[i]
        return nu

    def _learn_model(self, e: list[float], phi: list[float]) -> None:
        """K6: W += mu e phi' / (1 + |phi|^2)."""
        norm = 1.0
        for f in phi:
            norm += f * f
        for row, error in zip(self._w, e, strict=True):
            g = self.params.learning_rate * error / norm
            for b, f in enumerate(phi):
                row[b] += g * f

    def _learn_spread(self, e: list[float]) -> None:
        """K7: S = (1 - g) S + g e e'."""
        g = max(1.0 / (self._updates + 2.0), self.params.variance_rate)
        for i, row in enumerate(self._cov):
            for j in range(len(row)):
                row[j] = (1.0 - g) * row[j] + g * (e[i] * e[j])
        self._updates += 1.0

    def _muscle_z(self, level: float) -> float:
        """Level of the muscle stream in standard deviations above its running mean; 0 at the first tick."""
        if self._muscle_updates == 0.0:
            return 0.0
        return (level - self._muscle_mean) / math.sqrt(self._muscle_var + self.params.variance_floor)

    def _learn_muscle(self, level: float) -> None:
        """Running mean and variance, plain averages until the rate is reached, from the first level on."""
        d = level - self._muscle_mean
        g = max(1.0 / (self._muscle_updates + 1.0), self.params.muscle_rate)
        self._muscle_mean += g * d
        if self._muscle_updates > 0.0:
            self._muscle_var = (1.0 - g) * self._muscle_var + g * (d * d)
        self._muscle_updates += 1.0

    # -- K8: events -------------------------------------------------------------------------------

    def _mean_over(self, stream: int, start: int, stop: int) -> float:
        """Mean of a watched stream over the valid ticks of [start, stop); NaN if there is none."""
        total, n = 0.0, 0
        for t in range(start, stop):
            slot = t % self.params.history_ticks
            if self._history_flags[slot] == 0:
                total += self._history[slot][stream]
                n += 1
        return total / n if n else math.nan

    def _decide(self, origin: int, tick: int) -> tuple[list[float], float, bool]:
        """Features, flagged fraction and validity of an event whose last tick lies before ``tick``."""
        p = self.params
        if origin + self._offsets[0] < tick - p.history_ticks:
            return [math.nan] * p.n_features, 1.0, False
        slots = [(origin + t) % p.history_ticks for t in self._offsets]
        invalid = sum(self._history_flags[slot] != 0 for slot in slots) / len(slots)
        start, stop = p.baseline.tolist()
        features = [
            self._mean_over(j, origin + a, origin + b)
            - p.baseline_weight * self._mean_over(j, origin + start, origin + stop)
            for j, (a, b) in zip(p.event_stream.tolist(), p.windows.tolist(), strict=True)
        ]
        return features, invalid, invalid <= p.max_invalid and not any(map(math.isnan, features))

    def _admit(self, impulses: list[list[int]], n: int) -> None:
        """Queue the impulses of a call of ``n`` samples; all or nothing."""
        p, now = self.params, self._tick_of(self._count)
        after = self._tick_of(self._count + n)
        new = []
        for i, (sample, channel, ident) in enumerate(impulses):
            if not -SAMPLE_LIMIT <= sample <= SAMPLE_LIMIT - self._count:
                raise ValueError(f"impulses[{i}]: sample {sample} is beyond any recording")
            if not -1 <= channel < p.n_markers:
                raise ValueError(f"impulses[{i}]: marker channel {channel}, expected -1 to {p.n_markers - 1}")
            if ident < -1:
                raise ValueError(f"impulses[{i}]: event id {ident}, expected -1 (none) or more")
            new.append((self._tick_of(self._count + sample), self._count + sample, channel, ident))
        queue = self._impulses + [
            (tick, channel) for tick, _, channel, _ in new if channel >= 0 and tick >= now
        ]
        events = self._events + [(tick, sample, ident) for tick, sample, _, ident in new if ident >= 0]
        waiting = (
            sum(tick >= after for tick, _ in queue),
            sum(tick + p.event_stop > after for tick, _, _ in events),
        )
        if max(waiting) > p.pending_capacity:
            raise KernelOverflowError(
                f"{waiting[0]} impulses and {waiting[1]} events would wait after this call"
            )
        self._impulses, self._events = sorted(queue), sorted(events)
        for tick, _, channel, _ in new:
            if channel >= 0 and tick < now:
                self._late_impulse(channel, now - 1 - tick)

    # -- the door ---------------------------------------------------------------------------------

    def process(
        self, samples: NDArray[np.float64], exclude: NDArray[np.uint8], impulses: NDArray[np.int64]
    ) -> Output:
        """Process one chunk: see :meth:`cext.Kernel.process`. Types and shapes are taken on trust here."""
        self._admit(impulses.tolist(), len(samples))
        frames: list[tuple[int, list[float], int, list[int]]] = []
        events: list[tuple[int, int, list[float], float, bool, int]] = []

        def decide(stamp: int) -> None:
            tick = self._tick_of(stamp + 1)
            while self._events and self._events[0][0] + self.params.event_stop <= tick:
                origin, sample, ident = self._events.pop(0)
                events.append((ident, sample, *self._decide(origin, tick), stamp))

        decide(self._count - 1)
        for x, excluded in zip(samples.tolist(), exclude.tolist(), strict=True):
            self._sample(x, excluded != 0)
            tick = self._tick_of(self._count)
            if self._tick_of(self._count + 1) > tick:
                columns, flags = self._tick(tick)
                frames.append((self._count, columns, flags, self._channel_bits))
                self._channel_bits = [0] * self.params.n_channels
                decide(self._count)
            self._count += 1
        out = new_output(self.params, len(frames), len(events))
        columns_of_events: list[NDArray[Any]] = list(out[4:])
        for k, frame in enumerate(frames):
            out.frame_sample[k], out.frames[k], out.frame_flags[k], out.channel_flags[k] = frame
        for k, event in enumerate(events):
            for array, value in zip(columns_of_events, event, strict=True):
                array[k] = value
        return out

    def reset_segment(self) -> Output:
        """Begin a new recording segment: see :meth:`cext.Kernel.reset_segment`."""
        out = new_output(self.params, 0, len(self._events))
        out.event_id[:] = [ident for _, _, ident in self._events]
        out.event_sample[:] = [sample for _, sample, _ in self._events]
        out.event_features.fill(math.nan)
        out.event_invalid.fill(1.0)
        out.event_valid.fill(0)
        out.event_tick_sample.fill(self._count - 1)
        self._forget()
        return out

    @property
    def sample_count(self) -> int:
        """Absolute number of the next sample."""
        return self._count

    @property
    def learned(self) -> NDArray[np.float64]:
        """Copy of all learned state, in the order of a saved state."""
        tail = [*self._muscle.doubt, self._updates, self._muscle_mean, self._muscle_var, self._muscle_updates]
        return np.concatenate([np.ravel(self._w), np.ravel(self._cov), np.ravel(self._muscle.theta), tail])

    @property
    def weights(self) -> NDArray[np.float64]:
        """Copy of the forward model's weights, shape (n_learned, n_basis + 1)."""
        return np.array(self._w).reshape(self.params.n_learned, self.params.n_basis + 1)

    @property
    def muscle_weights(self) -> NDArray[np.float64]:
        """Copy of the muscle regression, shape (n_streams, 2): offset and slope."""
        return np.array(self._muscle.theta)

    def get_state(self) -> bytes:
        """Return everything that a bitwise equal continuation needs."""
        capacity = self.params.pending_capacity
        impulses = np.zeros((capacity, 2), np.int64)
        impulses[: len(self._impulses)] = np.reshape(self._impulses, (-1, 2))
        events = np.zeros((capacity, 3), np.int64)
        events[: len(self._events)] = np.reshape(self._events, (-1, 3))
        counters = [self._count, self._fed, self._bits, len(self._impulses), len(self._events), self._frozen]
        ints = [*counters, *self._channel_bits, *self._history_flags]
        ints += [*impulses.ravel().tolist(), *events.ravel().tolist()]
        memory = np.reshape(self._memory, (self.params.n_lanes, self.params.n_stages, 2))
        values = [
            *self.learned.tolist(),
            *self._run,
            *self._prev,
            *memory.transpose(1, 2, 0).ravel().tolist(),
        ]
        values += [*self._power, *self._s1, *self._s2, *(e for row in self._history for e in row)]
        floats = np.array(values, np.float64)
        return pack_state(self.params, np.array(ints, np.int64), floats)

    def set_state(self, state: bytes) -> None:
        """Continue from a saved state, of this class or of the compiled kernel."""
        p = self.params
        ints, floats = unpack_state(p, state)
        counters, bits, flags, impulses, events = np.split(
            ints, np.cumsum([N_COUNTERS, p.n_channels, p.history_ticks, 2 * p.pending_capacity])
        )
        self._count, self._fed, self._bits, n_impulses, n_events, self._frozen = counters.tolist()
        self._channel_bits, self._history_flags = bits.tolist(), flags.tolist()
        self._impulses = [(t, c) for t, c in impulses.reshape(-1, 2)[:n_impulses].tolist()]
        self._events = [(t, s, i) for t, s, i in events.reshape(-1, 3)[:n_events].tolist()]
        n_b, n_l, lanes = p.n_basis, p.n_learned, p.n_lanes
        sizes = [
            n_l * (n_b + 1),
            n_l * n_l,
            2 * p.n_streams,
            3,
            4,
            p.n_channels,
            p.n_channels,
            2 * p.n_stages * lanes,
            lanes,
            n_b,
            n_b,
        ]
        w, cov, theta, doubt, stats, run, prev, memory, power, s1, s2, history = np.split(floats, np.cumsum(sizes))
        self._w, self._cov = w.reshape(n_l, n_b + 1).tolist(), cov.reshape(n_l, n_l).tolist()
        self._muscle.restore(theta, doubt)
        self._updates, self._muscle_mean, self._muscle_var, self._muscle_updates = stats.tolist()
        self._run, self._prev, self._power = run.tolist(), prev.tolist(), power.tolist()
        self._memory = memory.reshape(p.n_stages, 2, lanes).transpose(2, 0, 1).tolist()
        self._s1, self._s2, self._history = s1.tolist(), s2.tolist(), history.reshape(-1, p.n_watched).tolist()

    def copy(self) -> Self:
        """Return an independent kernel in the same state."""
        twin = type(self)(self.params)
        twin.set_state(self.get_state())
        return twin
