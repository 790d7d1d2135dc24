# What adapts, tick by tick: muscle regression (K4), forward model (K6), innovation statistics (K7). Included by kernel.pyx.

cdef void regress_muscle(Core *k, double *residual, bint defined) noexcept nogil:
    """K4: take offset and muscle part off every stream but the muscle's own, with what was learned before this tick."""
    cdef Py_ssize_t j
    cdef double muscle = k.level[k.muscle_stream]
    for j in range(k.n_streams):
        if j != k.muscle_stream:
            k.level[j] = k.level[j] - (k.theta[2 * j] + k.theta[2 * j + 1] * muscle) if defined else NAN
            residual[0] = k.level[j]
            residual += 1


cdef void learn_regression(Core *k) noexcept nogil:
    """K4: recursive least squares on q = [1, muscle]; one P for all streams, because all have the same q."""
    cdef Py_ssize_t j
    cdef double muscle = k.level[k.muscle_stream]
    cdef double keep = 1.0 - k.muscle_rate
    cdef double u0 = k.doubt[0] + k.doubt[1] * muscle
    cdef double u1 = k.doubt[1] + k.doubt[2] * muscle
    cdef double d = keep + (u0 + muscle * u1)
    cdef double g0 = u0 / d
    cdef double g1 = u1 / d
    for j in range(k.n_streams):
        if j != k.muscle_stream:
            k.theta[2 * j] = k.theta[2 * j] + g0 * k.level[j]
            k.theta[2 * j + 1] = k.theta[2 * j + 1] + g1 * k.level[j]
    k.doubt[0] = (k.doubt[0] - g0 * u0) / keep
    k.doubt[1] = (k.doubt[1] - g0 * u1) / keep
    k.doubt[2] = (k.doubt[2] - g1 * u1) / keep
    if k.doubt[2] > k.muscle_most:
        d = sqrt(k.muscle_most / k.doubt[2])
        k.doubt[1] = k.doubt[1] * d
        k.doubt[2] = k.muscle_most


cdef double mahalanobis(const Core *k, const double *e) noexcept nogil:
    """K7: e' S^-1 e through the lower Cholesky factor of the covariance, pivots kept off zero."""
    cdef double f[MAX_LEARNED * MAX_LEARNED]
    cdef double h[MAX_LEARNED]
    cdef double d, nu = 0.0
    cdef Py_ssize_t i, j, m, n = k.n_learned
    for i in range(n):
        for j in range(i):
            d = k.cov[i * n + j]
            for m in range(j):
                d = d - f[i * n + m] * f[j * n + m]
            f[i * n + j] = d / f[j * n + j]
        d = k.cov[i * n + i] + k.var_floor
        for m in range(i):
            d = d - f[i * n + m] * f[i * n + m]
        f[i * n + i] = sqrt(d if d > k.var_floor else k.var_floor)
        d = e[i]
        for m in range(i):
            d = d - f[i * n + m] * h[m]
        h[i] = d / f[i * n + i]
        nu = nu + h[i] * h[i]
    return nu


cdef void learn_model(Core *k, const double *e) noexcept nogil:
    """K6: normalised decorrelation rule."""
    cdef Py_ssize_t j, b, m = k.n_basis + 1
    cdef double g, norm = 1.0
    for b in range(m):
        norm = norm + k.phi[b] * k.phi[b]
    for j in range(k.n_learned):
        g = k.mu * e[j] / norm
        for b in range(m):
            k.w[j * m + b] = k.w[j * m + b] + g * k.phi[b]


cdef void learn_spread(Core *k, const double *e) noexcept nogil:
    """K7: the covariance of the error."""
    cdef Py_ssize_t i, j, n = k.n_learned
    cdef double g = 1.0 / (k.stats[0] + 2.0)
    if g < k.rate:
        g = k.rate
    for i in range(n):
        for j in range(n):
            k.cov[i * n + j] = (1.0 - g) * k.cov[i * n + j] + g * (e[i] * e[j])
    k.stats[0] = k.stats[0] + 1.0


cdef void learn_muscle(Core *k, double level) noexcept nogil:
    """Running mean and variance of the muscle stream."""
    cdef double d = level - k.stats[1]
    cdef double g = 1.0 / (k.stats[3] + 1.0)
    if g < k.muscle_rate:
        g = k.muscle_rate
    k.stats[1] = k.stats[1] + g * d
    if k.stats[3] > 0.0:
        k.stats[2] = (1.0 - g) * k.stats[2] + g * (d * d)
    k.stats[3] = k.stats[3] + 1.0
