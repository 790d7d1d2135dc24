# The arithmetic of the kernel: inner functions without Python, included by kernel.pyx (design: see there). What adapts (K4, K6,
# K7) is in learning.pxi.

from libc.math cimport NAN, fabs, isfinite, log, sqrt
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset

cdef extern from *:
    ctypedef double* Row "double *__restrict__"
    ctypedef const double* Const "const double *__restrict__"

cdef enum:
    NONFINITE = 1
    RAILED = 2
    FLAT = 4
    MUSCLE = 8
    WARMUP = 16
    EXCLUDED = 32
    MAX_LEARNED = 16

cdef double FADED = 1e-250  # a basis function below this is zero: no subnormal numbers after a long silence

cdef struct Core:
    # sizes
    Py_ssize_t n_ch, n_read, n_chains, n_lanes, n_stages, n_streams, n_learned, n_basis, n_markers, n_columns
    Py_ssize_t n_history, n_offsets, n_nonzero, n_features, n_watched
    # parameters
    int64_t ratio, period, warmup, event_stop, first_offset, muscle_stream, base_start, base_stop
    int64_t freeze_ticks
    bint regress, use_basis, use_model, use_innovation
    double floor_uv2, muscle_limit, muscle_rate, muscle_most, bias, mu, rate, var_floor, base_weight, max_invalid
    double flat_limit
    const int64_t *channels
    const int64_t *used
    const double *rail
    const double *weights
    const double *sections
    const double *prime
    const double *keep
    const double *take
    const int64_t *linear
    const int64_t *pool_stream
    const int64_t *pool_chain
    const double *pool_weight
    const int64_t *freezes
    const int64_t *basis_channel
    const double *decay
    const double *gain
    const int64_t *event_stream
    const int64_t *windows
    const int64_t *offsets
    # state
    int64_t count, fed, bits, n_impulses, n_events, frozen, tick, next_sample
    int64_t *channel_bits
    int64_t *history_flags
    double *w
    double *cov
    double *theta  # of every stream: offset, slope on the muscle stream
    double *doubt  # P of K4: three numbers of a symmetric matrix
    double *stats  # updates, muscle mean, muscle variance, muscle updates
    double *run
    double *prev
    double *memory
    double *power
    double *s1
    double *s2
    double *history
    int64_t *impulses
    int64_t *events
    # scratch
    double *y
    double *logp
    double *level
    double *phi
    double *drive
    # where the next frame and event go
    int64_t head_impulse, head_event, n_frames, n_decided
    int64_t *out_sample
    double *out_frames
    uint32_t *out_flags
    uint8_t *out_channels
    int64_t *out_id
    int64_t *out_event_sample
    double *out_features
    double *out_invalid
    uint8_t *out_valid
    int64_t *out_stamp


cdef inline int64_t floor_div(int64_t a, int64_t b) noexcept nogil:
    cdef int64_t q = a // b  # C division: b > 0
    return q - 1 if a % b < 0 else q


cdef inline int64_t last_sample_of(const Core *k, int64_t tick) noexcept nogil:
    return -floor_div(-(tick + 1) * k.period, k.ratio) - 1


# ---- per sample ----------------------------------------------------------------------------------

cdef int64_t watch(Row run, Row prev, Const rail, Const x, Py_ssize_t n, double flat_limit) noexcept nogil:
    """Count equal samples; return 0 if every channel is good. Simple enough for the compiler to vectorise."""
    cdef Py_ssize_t c
    cdef int64_t odd = 0, zero = 0, one = 1
    cdef double r
    for c in range(n):
        r = run[c] + 1.0
        r = r if x[c] == prev[c] else 0.0
        run[c] = r
        prev[c] = x[c]
        odd |= zero if fabs(x[c]) < rail[c] else one
        odd |= zero if r < flat_limit else one
    return odd


cdef int64_t judge(int64_t *bits, const double *run, const double *rail, const double *x, const int64_t *used,
                   Py_ssize_t n, double flat_limit) noexcept nogil:
    """Quality bits of one sample: kept per channel, returned for the used ones."""
    cdef Py_ssize_t c
    cdef int64_t b, bad = 0
    for c in range(n):
        b = NONFINITE
        if isfinite(x[c]):
            b = (RAILED if fabs(x[c]) >= rail[c] else 0) | (FLAT if run[c] >= flat_limit else 0)
        bits[c] |= b
        bad |= b & used[c]
    return bad


# The three loops over chains are C, because only there a function can be asked to exist twice: once for any processor, once
# with vectors of four. Every chain's operations keep their order and nothing is contracted, so both give the same bits.
cdef extern from *:
    """
    #include <stddef.h>
    #if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
    #define CERELOOP_TWICE __attribute__((target_clones("avx2", "default")))
    #else
    #define CERELOOP_TWICE
    #endif

    CERELOOP_TWICE static void cereloop_project(
        double *__restrict__ y, const double *__restrict__ weights, const double *__restrict__ x,
        const int64_t *__restrict__ channels, ptrdiff_t n, ptrdiff_t lanes)
    {
        for (ptrdiff_t v = 0; v < lanes; v += 8) {
            double sum[8] = {0.0};
            const double *w = weights + v;
            for (ptrdiff_t c = 0; c < n; c++, w += lanes) {
                const double u = x[channels[c]];
                for (int i = 0; i < 8; i++) sum[i] += w[i] * u;
            }
            for (int i = 0; i < 8; i++) y[v + i] = sum[i];
        }
    }

    CERELOOP_TWICE static void cereloop_filter(
        double *__restrict__ y, double *__restrict__ memory, const double *__restrict__ sections,
        ptrdiff_t stages, ptrdiff_t lanes)
    {
        for (ptrdiff_t s = 0; s < stages; s++) {
            double *__restrict__ m0 = memory + 2 * s * lanes;
            double *__restrict__ m1 = m0 + lanes;
            const double *__restrict__ b = sections + 5 * s * lanes;
            for (ptrdiff_t v = 0; v < lanes; v++) {
                const double x = y[v];
                const double z = b[v] * x + m0[v];
                m0[v] = b[lanes + v] * x - b[3 * lanes + v] * z + m1[v];
                m1[v] = b[2 * lanes + v] * x - b[4 * lanes + v] * z;
                y[v] = z;
            }
        }
    }

    CERELOOP_TWICE static void cereloop_smooth(
        double *__restrict__ power, const double *__restrict__ keep, const double *__restrict__ take,
        const int64_t *__restrict__ linear, const double *__restrict__ y, ptrdiff_t lanes)
    {
        for (ptrdiff_t v = 0; v < lanes; v++)
            power[v] = keep[v] * power[v] + take[v] * (linear[v] != 0 ? y[v] : y[v] * y[v]);
    }
    """
    # K0 and K1: y = x @ weights, in channel order, eight chains at a time to hide the adder's latency.
    void project "cereloop_project"(Row y, Const weights, Const x, const int64_t *channels, Py_ssize_t n,
                                    Py_ssize_t lanes) noexcept nogil
    # K2: one sample through all sections, direct form II transposed.
    void filter_one "cereloop_filter"(Row y, Row memory, Const sections, Py_ssize_t stages, Py_ssize_t lanes) noexcept nogil
    # K3: leaky integration of the squared signal, or of a waveform itself.
    void smooth "cereloop_smooth"(Row power, Const keep, Const take, const int64_t *linear, Const y,
                                  Py_ssize_t lanes) noexcept nogil


cdef void prime(Row memory, Const gain, Const y, Py_ssize_t stages, Py_ssize_t lanes) noexcept nogil:
    """Filter memory as if this sample had been there forever."""
    cdef Py_ssize_t i, v
    for i in range(2 * stages):
        for v in range(lanes):
            memory[i * lanes + v] = gain[i * lanes + v] * y[v]


cdef inline void feed(Core *k, const double *x) noexcept nogil:
    project(k.y, k.weights, x, k.channels, k.n_read, k.n_lanes)
    if k.fed == 0:
        prime(k.memory, k.prime, k.y, k.n_stages, k.n_lanes)
        memset(k.power, 0, k.n_lanes * sizeof(double))
    filter_one(k.y, k.memory, k.sections, k.n_stages, k.n_lanes)
    smooth(k.power, k.keep, k.take, k.linear, k.y, k.n_lanes)
    k.fed += 1


# ---- per tick ------------------------------------------------------------------------------------

cdef void advance_basis(Core *k) noexcept nogil:
    """K5: the impulses of this tick enter two leaky integrators in series; phi is their scaled output. K4: some freeze it."""
    cdef Py_ssize_t b, n = k.n_basis
    cdef double s
    cdef bint any_impulse = False
    while k.head_impulse < k.n_impulses and k.impulses[2 * k.head_impulse] <= k.tick:
        if not any_impulse:
            memset(k.drive, 0, k.n_markers * sizeof(double))
            any_impulse = True
        k.drive[k.impulses[2 * k.head_impulse + 1]] += 1.0
        if k.freezes[k.impulses[2 * k.head_impulse + 1]] != 0:
            k.frozen = k.freeze_ticks
        k.head_impulse += 1
    any_impulse = any_impulse and k.use_basis
    for b in range(n):
        s = k.decay[b] * k.s1[b]
        if any_impulse:
            s = s + k.drive[k.basis_channel[b]]
        k.s1[b] = s
        k.s2[b] = k.decay[b] * k.s2[b] + s
        if k.s2[b] < FADED:
            k.s1[b] = 0.0
            k.s2[b] = 0.0
        k.phi[b] = k.s2[b] * k.gain[b]
    k.phi[n] = k.bias


cdef void late_response(double decay, int64_t age, double *s1, double *s2) noexcept nogil:
    """K5: what one impulse has become `age` ticks after its own: decay^age and (age + 1) decay^age."""
    s1[0] = 1.0
    s2[0] = 1.0
    while age > 0:
        s1[0] = decay * s1[0]
        s2[0] = decay * s2[0] + s1[0]
        if s2[0] < FADED:
            s1[0] = 0.0
            s2[0] = 0.0
            return
        age -= 1


cdef void tick_once(Core *k) noexcept nogil:
    """Everything that happens at one feature tick, in the order of the reference."""
    cdef Py_ssize_t i, j, b, n_j = k.n_streams, n = k.n_learned, m = k.n_basis + 1
    cdef int64_t flags, slot
    cdef bint defined
    cdef double d
    cdef double *row = k.out_frames + k.n_frames * k.n_columns
    cdef double *residual = row + n_j
    cdef double *predicted = residual + (n_j - 1 if k.regress else 0)
    cdef double *e = predicted + n
    cdef double *sd = e + n
    cdef double *z = sd + n
    cdef double *nu = z + n
    cdef uint8_t *seen = k.out_channels + k.n_frames * k.n_ch

    advance_basis(k)
    for i in range(k.n_chains):
        if k.fed > 0 and not isfinite(k.power[i]):  # absurd but finite samples: start the filters anew
            k.fed = 0
            k.bits |= NONFINITE
    defined = k.fed > 0
    flags = k.bits
    if k.fed == 0 or k.fed < k.warmup:
        flags |= WARMUP

    # K3, then K4.
    for j in range(n_j):
        row[j] = 0.0 if defined else NAN
    if defined:
        for i in range(k.n_chains):
            k.logp[i] = k.power[i] if k.linear[i] != 0 else log(k.power[i] + k.floor_uv2)
        for i in range(k.n_nonzero):
            row[k.pool_stream[i]] += k.pool_weight[i] * k.logp[k.pool_chain[i]]
    memcpy(k.level, row, n_j * sizeof(double))
    if k.regress:
        regress_muscle(k, residual, defined)

    for j in range(n):
        d = 0.0
        if k.use_model:
            for b in range(m):
                d = d + k.w[j * m + b] * k.phi[b]
        predicted[j] = d
        sd[j] = sqrt(k.cov[j * n + j] + k.var_floor) if k.use_innovation else 1.0
        e[j] = k.level[j] - d if defined else NAN
        z[j] = e[j] / sd[j] if defined else NAN
    nu[0] = mahalanobis(k, e) if defined and k.use_innovation else NAN

    nu[1] = NAN
    if k.muscle_stream >= 0 and defined:
        d = 0.0
        if k.stats[3] > 0.0:
            d = (row[k.muscle_stream] - k.stats[1]) / sqrt(k.stats[2] + k.var_floor)
        nu[1] = d
        if d > k.muscle_limit:
            flags |= MUSCLE
    if flags == 0:
        if k.regress and k.frozen == 0:
            learn_regression(k)
        if k.use_model:
            learn_model(k, e)
        if k.use_innovation:
            learn_spread(k, e)
        if k.muscle_stream >= 0:
            learn_muscle(k, row[k.muscle_stream])
    if k.frozen > 0:
        k.frozen -= 1

    slot = k.tick - floor_div(k.tick, k.n_history) * k.n_history
    memcpy(k.history + slot * k.n_watched, e, n * sizeof(double))
    memcpy(k.history + slot * k.n_watched + n, k.level + n, (k.n_watched - n) * sizeof(double))
    k.history_flags[slot] = flags
    for i in range(k.n_ch):
        seen[i] = <uint8_t>k.channel_bits[i]
        k.channel_bits[i] = 0
    k.bits = 0
    k.out_sample[k.n_frames] = k.next_sample
    k.out_flags[k.n_frames] = <uint32_t>flags
    k.n_frames += 1
    k.tick += 1


# ---- events --------------------------------------------------------------------------------------

cdef double mean_over(const Core *k, Py_ssize_t stream, int64_t start, int64_t stop) noexcept nogil:
    """Mean of a watched stream over the valid ticks [start, stop); NaN if there is none."""
    cdef double total = 0.0
    cdef int64_t t, slot, n = 0
    for t in range(start, stop):
        slot = t - floor_div(t, k.n_history) * k.n_history
        if k.history_flags[slot] == 0:
            total = total + k.history[slot * k.n_watched + stream]
            n += 1
    return total / <double>n if n > 0 else NAN


cdef void decide_events(Core *k, int64_t stamp) noexcept nogil:
    """K8: features of every event whose last tick has passed."""
    cdef int64_t origin, slot, t, flagged
    cdef Py_ssize_t i, j, n = k.n_features
    cdef double *f
    cdef bint sound
    while k.head_event < k.n_events and k.events[3 * k.head_event] + k.event_stop <= k.tick:
        origin = k.events[3 * k.head_event]
        f = k.out_features + k.n_decided * n
        flagged = k.n_offsets
        sound = origin + k.first_offset >= k.tick - k.n_history
        if sound:
            flagged = 0
            for i in range(k.n_offsets):
                t = origin + k.offsets[i]
                slot = t - floor_div(t, k.n_history) * k.n_history
                flagged += 1 if k.history_flags[slot] != 0 else 0
        for j in range(n):
            f[j] = NAN
            if sound:
                i = k.event_stream[j]
                f[j] = (mean_over(k, i, origin + k.windows[2 * j], origin + k.windows[2 * j + 1])
                        - k.base_weight * mean_over(k, i, origin + k.base_start, origin + k.base_stop))
        k.out_invalid[k.n_decided] = <double>flagged / <double>k.n_offsets
        sound = sound and k.out_invalid[k.n_decided] <= k.max_invalid
        for j in range(n):
            sound = sound and f[j] == f[j]
        k.out_valid[k.n_decided] = sound
        k.out_event_sample[k.n_decided] = k.events[3 * k.head_event + 1]
        k.out_id[k.n_decided] = k.events[3 * k.head_event + 2]
        k.out_stamp[k.n_decided] = stamp
        k.n_decided += 1
        k.head_event += 1


cdef void run_all(Core *k, const double *x, const uint8_t *exclude, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    cdef int64_t bad
    decide_events(k, k.count - 1)
    for i in range(n):
        bad = 0
        if watch(k.run, k.prev, k.rail, x, k.n_ch, k.flat_limit) != 0:
            bad = judge(k.channel_bits, k.run, k.rail, x, k.used, k.n_ch, k.flat_limit)
        if exclude[i] != 0:
            bad |= EXCLUDED
        if bad == 0:
            feed(k, x)
        else:
            k.fed = 0
            k.bits |= bad
        if k.count == k.next_sample:
            tick_once(k)
            decide_events(k, k.count)
            k.next_sample = last_sample_of(k, k.tick)
        k.count += 1
        x += k.n_ch
