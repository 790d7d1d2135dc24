# cython: language_level=3, cdivision=True
"""Per-sample kernel: spatial filters, causal filter bank, log envelopes, forward model, event features."""

# Design
#
# * The mathematics is defined by cext/reference.py, statement by statement in the same order; the two agree
#   in every bit. Sums run in index order, nothing is contracted or reassociated, BLAS is not used: a result
#   cannot depend on how a recording was cut into chunks (I14).
# * Two clocks. Samples drive quality, filters and envelopes. Ticks (feature_rate_hz) drive everything else.
#   The tick of sample m is m * R // P in integers, on the absolute sample number: no accumulated phase.
# * Two kinds of state. `learned` (forward model, covariance, muscle regression, muscle statistics) changes only at
#   valid ticks (I16). Everything else is transient and starts anew after a bad or excluded sample, or with a new segment.
# * Inner functions are `noexcept nogil`, allocate nothing, and see one struct of pointers into NumPy arrays
#   that the object owns. Chains are the innermost index, padded to whole vectors, so the compiler vectorises
#   over them.
# * The door checks shapes and types through the buffer protocol, counts the frames and events a call will
#   yield, allocates them exactly, and only then runs. Small calls keep the GIL: handing it over can cost a
#   real-time thread 5 ms, the work costs microseconds.
# * Impulses are kept sorted by tick; those of one call are merged first, so a call either raises and changes
#   nothing or does everything.

from cpython.buffer cimport (
    Py_buffer, PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer,
)
from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy, memmove

import numpy as np
from numpy import empty, int64, uint8, uint32

from cext.derive import derive
from cext.layout import (
    KernelOverflowError, Output, n_learned_floats, new_output, pack_state, start_of_learned, unpack_state,
)
from cext.params import KernelParams

KERNEL_ABI = 3

include "core.pxi"
include "learning.pxi"

cdef int64_t SAMPLE_LIMIT = (<int64_t>1) << 41
cdef Py_ssize_t LARGE_CALL = 64  # samples from which a call lets other threads run


cdef int open_buffer(object array, Py_buffer *view, int ndim, bytes formats, str name, str wanted) except -1:
    if not PyObject_CheckBuffer(array):
        raise TypeError(f"{name}: expected {wanted}, got {type(array).__name__}")
    try:
        PyObject_GetBuffer(array, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)
    except (ValueError, BufferError) as error:
        raise ValueError(f"{name}: expected {wanted}, C-contiguous ({error})") from None
    if view.format == NULL or len(view.format) != 1 or view.format[0] not in formats:
        found = (<bytes>view.format).decode() if view.format != NULL else "bytes"
        PyBuffer_Release(view)
        raise TypeError(f"{name}: expected {wanted}, got elements of type {found!r}")
    if view.ndim != ndim:
        found = view.ndim
        PyBuffer_Release(view)
        raise ValueError(f"{name}: expected {wanted}, got {found} dimensions")
    return 0


cdef void *data_of(object array) except? NULL:
    """Address of a C-contiguous array that outlives its use."""
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_C_CONTIGUOUS)
    cdef void *address = view.buf
    PyBuffer_Release(&view)
    return address


cdef class Kernel:
    """The per-sample kernel, compiled; see the typed stub and :class:`cext.reference.ReferenceKernel`."""

    cdef Core k
    cdef readonly object params
    cdef list _owned
    cdef object _nothing, _no_events, _learned, _floats, _bits, _flags, _impulses, _events
    cdef bint _running

    def __cinit__(self, params):
        if not isinstance(params, KernelParams):
            raise TypeError(f"params: expected KernelParams, got {type(params).__name__}")
        self.params = params
        self._owned = []
        self._nothing = new_output(params, 0, 0)
        for array in self._nothing:
            array.setflags(write=False)
        self._no_events = self._nothing[4:]
        self._sizes(params)
        self._coefficients(params)
        self._state(params)

    cdef void *_own(self, object array, object dtype) except? NULL:
        array = np.ascontiguousarray(array, dtype=dtype)
        self._owned.append(array)
        return data_of(array)

    cdef _sizes(self, params):
        cdef Core *k = &self.k
        k.n_ch, k.n_chains, k.n_lanes = params.n_channels, params.n_chains, params.n_lanes
        k.n_stages, k.n_features, k.n_watched = params.n_stages, params.n_features, params.n_watched
        k.n_streams, k.n_learned, k.n_basis = params.n_streams, params.n_learned, params.n_basis
        k.n_markers, k.n_columns, k.n_history = params.n_markers, params.n_columns, params.history_ticks
        k.ratio, k.period = params.tick_ratio
        k.warmup, k.event_stop = params.warmup_samples, params.event_stop
        k.muscle_stream, k.freeze_ticks = params.muscle_stream, params.freeze_ticks
        k.regress, k.use_basis = params.n_regressed > 0, params.use_basis
        k.use_model, k.use_innovation = params.use_forward_model, params.use_innovation
        k.base_start, k.base_stop = params.baseline.tolist()
        k.floor_uv2, k.bias, k.mu = params.floor_uv2, params.bias, params.learning_rate
        k.muscle_limit, k.muscle_rate = params.muscle_z_limit, params.muscle_rate
        k.muscle_most = params.muscle_variance_start[1]
        k.rate, k.var_floor = params.variance_rate, params.variance_floor
        k.base_weight, k.max_invalid = params.baseline_weight, params.max_invalid
        k.flat_limit = params.flat_samples if params.flat_samples > 0 else INFINITY

    cdef _coefficients(self, params):
        cdef Core *k = &self.k
        derived = derive(params)
        stream, chain = np.nonzero(params.pooling)
        k.n_read, k.n_offsets, k.n_nonzero = derived.channels.size, derived.offsets.size, stream.size
        k.first_offset = derived.offsets[0]
        k.channels = <int64_t *>self._own(derived.channels, np.int64)
        k.used = <int64_t *>self._own(np.where(params.used, -1, 0), np.int64)
        k.rail = <double *>self._own(params.rail_uv, np.float64)
        k.weights = <double *>self._own(derived.weights, np.float64)
        k.sections = <double *>self._own(derived.sections, np.float64)
        k.prime = <double *>self._own(derived.prime, np.float64)
        k.keep = <double *>self._own(derived.keep, np.float64)
        k.take = <double *>self._own(derived.take, np.float64)
        k.linear = <int64_t *>self._own(derived.linear, np.int64)
        k.pool_stream = <int64_t *>self._own(stream, np.int64)
        k.pool_chain = <int64_t *>self._own(chain, np.int64)
        k.pool_weight = <double *>self._own(params.pooling[stream, chain], np.float64)
        k.freezes = <int64_t *>self._own(np.isin(np.arange(k.n_markers), params.freeze_channels), np.int64)
        k.basis_channel = <int64_t *>self._own(params.basis_channel, np.int64)
        k.decay = <double *>self._own(derived.decay, np.float64)
        k.gain = <double *>self._own(derived.gain, np.float64)
        k.event_stream = <int64_t *>self._own(params.event_stream, np.int64)
        k.windows = <int64_t *>self._own(params.windows, np.int64)
        k.offsets = <int64_t *>self._own(derived.offsets, np.int64)
        k.y = <double *>self._own(np.zeros(k.n_lanes), np.float64)
        k.logp = <double *>self._own(np.zeros(k.n_lanes), np.float64)
        k.level = <double *>self._own(np.zeros(k.n_streams), np.float64)
        k.phi = <double *>self._own(np.zeros(k.n_basis + 1), np.float64)
        k.drive = <double *>self._own(np.zeros(k.n_markers + 1), np.float64)

    cdef _state(self, params):
        """All float64 in one array, in the order of a saved state, so that saving is one copy."""
        cdef Core *k = &self.k
        sizes = (k.n_learned * (k.n_basis + 1), k.n_learned * k.n_learned, 2 * k.n_streams, 3, 4, k.n_ch, k.n_ch,
                 2 * k.n_stages * k.n_lanes, k.n_lanes, k.n_basis, k.n_basis, k.n_history * k.n_watched)
        self._floats = np.zeros(sum(sizes))
        self._learned = self._floats[:n_learned_floats(params)]
        self._learned[:] = start_of_learned(params)
        k.w = <double *>data_of(self._floats)
        k.cov = k.w + <Py_ssize_t>sizes[0]
        k.theta = k.cov + <Py_ssize_t>sizes[1]
        k.doubt = k.theta + <Py_ssize_t>sizes[2]
        k.stats = k.doubt + <Py_ssize_t>sizes[3]
        k.run = k.stats + 4
        k.prev = k.run + k.n_ch
        k.memory = k.prev + k.n_ch
        k.power = k.memory + <Py_ssize_t>sizes[7]
        k.s1 = k.power + k.n_lanes
        k.s2 = k.s1 + k.n_basis
        k.history = k.s2 + k.n_basis
        self._bits = np.zeros(k.n_ch, np.int64)
        self._flags = np.zeros(k.n_history, np.int64)
        k.channel_bits = <int64_t *>data_of(self._bits)
        k.history_flags = <int64_t *>data_of(self._flags)
        self._impulses = np.empty((params.pending_capacity, 2), np.int64)
        self._events = np.empty((params.pending_capacity, 3), np.int64)
        self._point_at_queues()
        k.count = k.tick = 0
        k.next_sample = last_sample_of(k, 0)
        self._forget()

    cdef _point_at_queues(self):
        self.k.impulses = <int64_t *>data_of(self._impulses)
        self.k.events = <int64_t *>data_of(self._events)

    cdef void _forget(self) noexcept:
        """Give transient state the values it has before the first sample."""
        cdef Core *k = &self.k
        cdef Py_ssize_t i
        for i in range(k.n_ch):
            k.run[i] = 0.0
            k.prev[i] = NAN
            k.channel_bits[i] = 0
        memset(k.memory, 0, 2 * k.n_stages * k.n_lanes * sizeof(double))
        memset(k.power, 0, k.n_lanes * sizeof(double))
        memset(k.s1, 0, 2 * k.n_basis * sizeof(double))
        for i in range(k.n_history):
            k.history_flags[i] = WARMUP
        for i in range(k.n_history * k.n_watched):
            k.history[i] = NAN
        k.fed = k.bits = k.n_impulses = k.n_events = k.frozen = k.head_impulse = k.head_event = 0

    cdef int _admit(self, const int64_t *new, Py_ssize_t n_new, Py_ssize_t n) except -1:
        """Check the impulses of this call, then sort them in; all or nothing."""
        cdef Core *k = &self.k
        cdef int64_t after = floor_div((k.count + n) * k.ratio, k.period)
        cdef int64_t sample, channel, ident, tick, late_impulses = 0, late_events = 0
        cdef int64_t capacity = self.params.pending_capacity
        cdef Py_ssize_t i, b
        cdef double a, s1, s2
        for i in range(k.n_impulses):
            late_impulses += k.impulses[2 * i] >= after
        for i in range(k.n_events):
            late_events += k.events[3 * i] + k.event_stop > after
        for i in range(n_new):
            sample, channel, ident = new[3 * i], new[3 * i + 1], new[3 * i + 2]
            if not -SAMPLE_LIMIT <= sample <= SAMPLE_LIMIT - k.count:
                raise ValueError(f"impulses[{i}]: sample {sample} is beyond any recording")
            if not -1 <= channel < k.n_markers:
                raise ValueError(f"impulses[{i}]: marker channel {channel}, expected -1 to {k.n_markers - 1}")
            if ident < -1:
                raise ValueError(f"impulses[{i}]: event id {ident}, expected -1 (none) or more")
            tick = floor_div((k.count + sample) * k.ratio, k.period)
            late_impulses += channel >= 0 and tick >= after
            late_events += ident >= 0 and tick + k.event_stop > after
        if late_impulses > capacity or late_events > capacity:
            raise KernelOverflowError(
                f"{late_impulses} impulses and {late_events} events would wait after this call, "
                f"pending_capacity is {capacity}: give impulses closer to their time, or raise it")
        self._grow(k.n_impulses + n_new, k.n_events + n_new)
        for i in range(n_new):
            sample, channel, ident = k.count + new[3 * i], new[3 * i + 1], new[3 * i + 2]
            tick = floor_div(sample * k.ratio, k.period)
            if ident >= 0:
                self._insert_event(tick, sample, ident)
            if channel >= 0 and tick >= k.tick:
                self._insert_impulse(tick, channel)
            elif channel >= 0:
                if k.freezes[channel] != 0 and k.freeze_ticks - (k.tick - tick) > k.frozen:
                    k.frozen = k.freeze_ticks - (k.tick - tick)
                for b in range(k.n_basis):
                    if k.use_basis and k.basis_channel[b] == channel:
                        late_response(k.decay[b], k.tick - 1 - tick, &s1, &s2)
                        k.s1[b] += s1
                        k.s2[b] += s2
        return 0

    cdef int _grow(self, Py_ssize_t impulses, Py_ssize_t events) except -1:
        if impulses > self._impulses.shape[0]:
            larger = np.empty((2 * impulses, 2), np.int64)
            larger[:self._impulses.shape[0]] = self._impulses
            self._impulses = larger
        if events > self._events.shape[0]:
            larger = np.empty((2 * events, 3), np.int64)
            larger[:self._events.shape[0]] = self._events
            self._events = larger
        self._point_at_queues()
        return 0

    cdef void _insert_impulse(self, int64_t tick, int64_t channel) noexcept:
        cdef int64_t *q = self.k.impulses
        cdef Py_ssize_t i = self.k.n_impulses
        while i > 0 and (q[2 * i - 2] > tick or (q[2 * i - 2] == tick and q[2 * i - 1] > channel)):
            q[2 * i] = q[2 * i - 2]
            q[2 * i + 1] = q[2 * i - 1]
            i -= 1
        q[2 * i] = tick
        q[2 * i + 1] = channel
        self.k.n_impulses += 1

    cdef void _insert_event(self, int64_t tick, int64_t sample, int64_t ident) noexcept:
        cdef int64_t *q = self.k.events
        cdef Py_ssize_t i = self.k.n_events
        while i > 0 and (q[3 * i - 2] > sample or (q[3 * i - 2] == sample and q[3 * i - 1] > ident)):
            memcpy(q + 3 * i, q + 3 * i - 3, 3 * sizeof(int64_t))
            i -= 1
        q[3 * i] = tick
        q[3 * i + 1] = sample
        q[3 * i + 2] = ident
        self.k.n_events += 1

    cdef object _outputs(self, Py_ssize_t n_ticks, Py_ssize_t n_events):
        """Allocate exactly what this call will fill, and point the core at it."""
        cdef Core *k = &self.k
        k.n_frames = k.n_decided = 0
        if n_ticks == 0 and n_events == 0:
            return self._nothing
        if n_events == 0:
            out = Output(empty(n_ticks, int64), empty((n_ticks, k.n_columns)), empty(n_ticks, uint32),
                         empty((n_ticks, k.n_ch), uint8), *self._no_events)
        else:
            out = new_output(self.params, n_ticks, n_events)
        if n_ticks:
            k.out_sample = <int64_t *>data_of(out[0])
            k.out_frames = <double *>data_of(out[1])
            k.out_flags = <uint32_t *>data_of(out[2])
            k.out_channels = <uint8_t *>data_of(out[3])
        if n_events:
            k.out_id = <int64_t *>data_of(out[4])
            k.out_event_sample = <int64_t *>data_of(out[5])
            k.out_features = <double *>data_of(out[6])
            k.out_invalid = <double *>data_of(out[7])
            k.out_valid = <uint8_t *>data_of(out[8])
            k.out_stamp = <int64_t *>data_of(out[9])
        return out

    cdef int _enter(self) except -1:
        if self._running:
            raise RuntimeError("Kernel: in use by another thread; one kernel belongs to one thread")
        return 0

    def process(self, samples, exclude, impulses):
        cdef Py_buffer x, skip, new
        cdef Core *k = &self.k
        cdef Py_ssize_t n, i, n_due = 0
        cdef int64_t after
        self._enter()
        open_buffer(samples, &x, 2, b"d", "samples", "a float64 array (n_times, n_channels)")
        try:
            open_buffer(exclude, &skip, 1, b"B", "exclude", "a uint8 array (n_times,)")
            try:
                open_buffer(impulses, &new, 2, b"lq", "impulses", "an int64 array (n_impulses, 3)")
                try:
                    n = x.shape[0]
                    if x.shape[1] != k.n_ch:
                        raise ValueError(f"samples: expected {k.n_ch} channels, got {x.shape[1]}")
                    if skip.shape[0] != n:
                        raise ValueError(f"exclude: expected {n} values, one per sample, got {skip.shape[0]}")
                    if new.shape[1] != 3 or new.itemsize != 8:
                        raise ValueError("impulses: expected rows of (sample, marker channel, event id)")
                    if k.count + n > SAMPLE_LIMIT:
                        raise ValueError(f"samples: the sample counter would pass {SAMPLE_LIMIT}")
                    if new.shape[0] > 0:
                        self._admit(<const int64_t *>new.buf, new.shape[0], n)
                    after = floor_div((k.count + n) * k.ratio, k.period)
                    for i in range(k.n_events):
                        if k.events[3 * i] + k.event_stop > after:
                            break
                        n_due += 1
                    out = self._outputs(after - k.tick, n_due)
                    if n >= LARGE_CALL:
                        self._running = True
                        with nogil:
                            run_all(k, <const double *>x.buf, <const uint8_t *>skip.buf, n)
                        self._running = False
                    else:
                        run_all(k, <const double *>x.buf, <const uint8_t *>skip.buf, n)
                finally:
                    PyBuffer_Release(&new)
            finally:
                PyBuffer_Release(&skip)
        finally:
            PyBuffer_Release(&x)
        if k.head_impulse > 0:
            k.n_impulses -= k.head_impulse
            memmove(k.impulses, k.impulses + 2 * k.head_impulse, 2 * k.n_impulses * sizeof(int64_t))
            k.head_impulse = 0
        if k.head_event > 0:
            k.n_events -= k.head_event
            memmove(k.events, k.events + 3 * k.head_event, 3 * k.n_events * sizeof(int64_t))
            k.head_event = 0
        return out

    def reset_segment(self):
        self._enter()
        cdef Py_ssize_t n = self.k.n_events
        out = new_output(self.params, 0, n)
        out.event_id[:] = self._events[:n, 2]
        out.event_sample[:] = self._events[:n, 1]
        out.event_features.fill(NAN)
        out.event_invalid.fill(1.0)
        out.event_valid.fill(0)
        out.event_tick_sample.fill(self.k.count - 1)
        self._forget()
        return out

    @property
    def sample_count(self):
        return self.k.count

    @property
    def learned(self):
        self._enter()
        return self._learned.copy()

    @property
    def weights(self):
        self._enter()
        return self._learned[:self.k.n_learned * (self.k.n_basis + 1)].reshape(self.k.n_learned, self.k.n_basis + 1).copy()

    @property
    def muscle_weights(self):
        self._enter()
        cdef Py_ssize_t n = self._learned.size - 7
        return self._learned[n - 2 * self.k.n_streams:n].reshape(self.k.n_streams, 2).copy()

    def get_state(self):
        self._enter()
        cdef Core *k = &self.k
        cdef Py_ssize_t capacity = self.params.pending_capacity
        queues = np.zeros(5 * capacity, np.int64)
        queues[:2 * k.n_impulses] = self._impulses[:k.n_impulses].ravel()
        queues[2 * capacity:2 * capacity + 3 * k.n_events] = self._events[:k.n_events].ravel()
        counters = np.array([k.count, k.fed, k.bits, k.n_impulses, k.n_events, k.frozen], np.int64)
        ints = np.concatenate([counters, self._bits, self._flags, queues])
        return pack_state(self.params, ints, self._floats)

    def set_state(self, state):
        self._enter()
        cdef Core *k = &self.k
        cdef Py_ssize_t capacity = self.params.pending_capacity
        ints, floats = unpack_state(self.params, state)
        queues = ints[ints.size - 5 * capacity:]
        k.count, k.fed, k.bits, k.n_impulses, k.n_events, k.frozen = ints[:6].tolist()
        self._bits[:] = ints[6:6 + k.n_ch]
        self._flags[:] = ints[6 + k.n_ch:6 + k.n_ch + k.n_history]
        self._impulses[:capacity] = queues[:2 * capacity].reshape(-1, 2)
        self._events[:capacity] = queues[2 * capacity:].reshape(-1, 3)
        self._floats[:] = floats
        k.tick = floor_div(k.count * k.ratio, k.period)
        k.next_sample = last_sample_of(k, k.tick)

    def copy(self):
        twin = Kernel(self.params)
        twin.set_state(self.get_state())
        return twin
