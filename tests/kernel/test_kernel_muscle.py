"""K4 against padasip and linear algebra, in silence that lasts for days, around outcomes, and with every stage switched off."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_helpers import IDENTITY, make_params, plain_params, recording, run, same_bytes
from numpy.typing import NDArray
from padasip.filters import FilterRLS
from scipy.signal import lfilter

from cext import EXCLUDED, MUSCLE, WARMUP, Kernel, KernelParams
from cext.reference import ReferenceKernel

SWITCHES = ["regress_muscle", "use_basis", "use_forward_model", "use_innovation"]
PER_TICK = 4  # samples


def level_params(n_streams: int = 2, **changes: Any) -> KernelParams:
    """Make parameters under which a stream's level is what `samples_of` was given; the last stream is the muscle's."""
    values: dict[str, Any] = {
        "n_channels": n_streams,
        "used": np.ones(n_streams, bool),
        "reference": np.zeros(n_streams),
        "projection": np.eye(n_streams),
        "sos": np.tile(IDENTITY, (n_streams, 1, 1)),
        "n_sections": np.zeros(n_streams, int),
        "smoothing": np.zeros(n_streams),
        "pooling": np.eye(n_streams),
        "n_learned": 1,
        "muscle_stream": n_streams - 1,
        "muscle_z_limit": 1e6,
        "rail_uv": np.full(n_streams, np.inf),
        "floor_uv2": 1e-30,
    }
    return plain_params(**(values | changes))


def samples_of(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make samples (n, streams) whose log power at each tick is the given level."""
    signs = np.resize([1.0, -1.0], PER_TICK * len(levels))[:, None]
    return np.repeat(np.exp(0.5 * levels), PER_TICK, axis=0) * signs


def session(seed: int, n: int, slope: float = 0.6) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Levels (n, 2) of a stream that muscle shines into, the stream's own part, and the muscle's level."""
    rng = np.random.default_rng(seed)
    muscle = -1.0 + lfilter([0.3], [1.0, -0.95], rng.normal(size=n))
    own = 2.0 + lfilter([0.25], [1.0, -0.9], rng.normal(size=n))
    return np.column_stack([own + slope * muscle, muscle]), own, muscle


def of(kernel: Any, out: Any, quantity: str) -> NDArray[np.float64]:
    """One quantity's columns."""
    return out.frames[:, kernel.params.columns[quantity]]


# -- the recursion itself ------------------------------------------------------------------------


def test_equals_padasip(kind: type, capsys: pytest.CaptureFixture[str]) -> None:
    """The plain recursion (same start, nothing bounded) against FilterRLS: residuals and coefficients."""
    levels, _, _ = session(1, 3000)
    rate = 1.0 / 500.0
    params = level_params(muscle_rate=rate, muscle_variance_start=[100.0, 100.0])
    kernel = kind(params)
    theirs = FilterRLS(n=2, mu=1.0 - rate, eps=0.01, w="zeros")
    x = samples_of(levels)
    seen = run(kernel, x).frames
    e, theta = [], []
    for level, muscle in seen[:, :2]:  # what the kernel took the logarithm of, to the last digit
        q = np.array([1.0, muscle])
        e.append(level - theirs.predict(q))
        theirs.adapt(level, q)
        theta.append(np.array(theirs.w))
    difference = np.abs(seen[:, 2] - e).max() / np.abs(e).max()
    apart = np.abs(kernel.muscle_weights[0] - theta[-1]).max() / np.abs(theta[-1]).max()
    with capsys.disabled():
        print(f"\nK4 against padasip FilterRLS, {kind.__name__}: residual {difference:.1e}, coefficients {apart:.1e}")
    assert difference <= 1e-12
    assert apart <= 1e-12


def test_equals_weighted_least_squares(kind: type) -> None:
    """What the recursion means: squares weighted by lambda**age, and the start as a prior that fades alike."""
    levels, _, _ = session(2, 400)
    rate, start = 1.0 / 100.0, np.array([0.3, -0.2])
    params = level_params(muscle_rate=rate, muscle_start=np.array([start, [0.0, 0.0]]), muscle_variance_start=[5.0, 5.0])
    kernel = kind(params)
    run(kernel, samples_of(levels))
    weight = (1.0 - rate) ** np.arange(400)[::-1]
    q = np.column_stack([np.ones(400), levels[:, 1]])
    prior = (1.0 - rate) ** 400 * np.eye(2) / 5.0
    want = np.linalg.solve(q.T @ (weight[:, None] * q) + prior, q.T @ (weight * levels[:, 0]) + prior @ start)
    np.testing.assert_allclose(kernel.muscle_weights[0], want, rtol=1e-9)
    assert not kernel.muscle_weights[1].any()


def test_first_residuals_by_hand(kind: type) -> None:
    """Start (1, 1/2) and P = diag(1, 1), lambda 1/2, levels (3, 2) then (4, 0)."""
    params = level_params(
        muscle_rate=0.5, muscle_start=np.array([[1.0, 0.5], [0.0, 0.0]]), muscle_variance_start=[1.0, 1.0]
    )
    kernel = kind(params)
    out = run(kernel, samples_of(np.array([[3.0, 2.0]])))
    np.testing.assert_allclose(of(kernel, out, "Lres"), [[1.0]], rtol=1e-12)  # 3 - (1 + 1/2 * 2)
    theta = [1.0 + 1.0 / 5.5, 0.5 + 2.0 / 5.5]  # q = [1, 2], q'q + 1/2 = 5.5
    np.testing.assert_allclose(kernel.muscle_weights[0], theta, rtol=1e-12)
    out = run(kernel, samples_of(np.array([[4.0, 0.0]])))
    np.testing.assert_allclose(of(kernel, out, "Lres"), [[4.0 - theta[0]]], rtol=1e-12)


# -- what it is for ------------------------------------------------------------------------------


def test_removes_what_muscle_adds(kind: type) -> None:
    """Most of the muscle's part goes, the stream's own stays; and a control stream is treated alike."""
    n = 20_000 if kind is Kernel else 6000
    levels, own, muscle = session(3, n)
    both = np.column_stack([levels[:, 0], levels[:, 0], muscle])
    kernel = kind(level_params(3))
    out = run(kernel, samples_of(both))
    late = slice(n // 2, None)
    residual = of(kernel, out, "Lres")
    assert residual[:, 0].tobytes() == residual[:, 1].tobytes()
    before = np.corrcoef(levels[late, 0], muscle[late])[0, 1]
    after = np.corrcoef(residual[late, 0], muscle[late])[0, 1]
    kept = np.corrcoef(residual[late, 0], own[late])[0, 1]
    left = np.var(residual[late, 0] - (own[late] - own[late].mean())) / np.var(0.6 * muscle[late])
    assert before > 0.6
    assert abs(after) < 0.1
    assert kept > 0.97
    assert left < 0.15
    assert abs(residual[late].mean()) < 0.05  # the offset has gone too


def with_outcomes(seed: int, bump: float, twitch: float) -> tuple[NDArray[np.float64], list[list[int]], NDArray[np.float64]]:
    """A session with an outcome every 4 s that evokes `bump` in the stream and `twitch` in the muscle (startle)."""
    n = 15_000
    levels, _, muscle = session(seed, n, slope=0.4)
    response = np.zeros(n)
    onsets = np.arange(100, n - 100, 200)
    for onset in onsets:
        response[onset + 5 : onset + 30] = 1.0
    startled = muscle + twitch * response
    stream = levels[:, 0] - 0.4 * muscle + bump * response + 0.4 * startled
    return np.column_stack([stream, startled]), [[int(PER_TICK * t), 0, -1] for t in onsets], response


def gain_of(residual: NDArray[np.float64], response: NDArray[np.float64]) -> float:
    """How much of the response the residual of the later half holds, by regression."""
    half = slice(len(response) // 2, None)
    r = response[half] - response[half].mean()
    return float(residual[half] @ r / (r @ r))


def test_what_outcomes_evoke_is_not_taken_for_muscle() -> None:
    """With the freeze the startle's own leak goes and the brain's response stays; without it the response goes as well."""
    levels, outcomes, response = with_outcomes(4, bump=1.0, twitch=1.5)
    frozen = Kernel(level_params(freeze_channels=[0]))
    learning = Kernel(level_params())
    off = Kernel(level_params(regress_muscle=False))
    x = samples_of(levels)
    kept = gain_of(of(frozen, run(frozen, x, outcomes), "Lres")[:, 0], response)
    lost = gain_of(of(learning, run(learning, x, outcomes), "Lres")[:, 0], response)
    raw = gain_of(of(off, run(off, x, outcomes), "L")[:, 0], response)
    assert raw == pytest.approx(1.6, abs=0.1)  # response 1 and 0.4 times the startle of 1.5
    assert kept == pytest.approx(1.0, abs=0.12)
    assert lost < 0.85
    assert kept - lost > 0.15
    assert frozen.muscle_weights[0, 1] == pytest.approx(0.4, abs=0.08)
    assert learning.muscle_weights[0, 1] > 0.55


def test_a_startle_alone_leaves_nothing() -> None:
    levels, outcomes, response = with_outcomes(5, bump=0.0, twitch=1.5)
    kernel = Kernel(level_params(freeze_channels=[0]))
    out = run(kernel, samples_of(levels), outcomes)
    assert gain_of(of(kernel, out, "L")[:, 0], response) > 0.5
    assert abs(gain_of(of(kernel, out, "Lres")[:, 0], response)) < 0.12


# -- robustness ----------------------------------------------------------------------------------


def doubt_of(kernel: Any) -> tuple[float, float, float]:
    """P of the regression, from the learned state."""
    p00, p01, p11 = kernel.learned[-7:-4].tolist()
    return p00, p01, p11


@pytest.mark.parametrize("level", [0.0, -13.8, 5.0])
def test_silent_muscle_winds_nothing_up(level: float) -> None:
    """For 2000 times its memory (days at 120 s) the muscle's level is constant: P stays bounded, and so does the next slope."""
    most = 0.02
    kernel = Kernel(level_params(muscle_rate=0.02, muscle_variance_start=[100.0, most]))
    rng = np.random.default_rng(6)
    n = 100_000
    levels = np.column_stack([1.0 + 0.5 * rng.normal(size=n), np.full(n, level)])
    for piece in np.array_split(levels, 20):
        run(kernel, samples_of(piece))
        p00, p01, p11 = doubt_of(kernel)
        assert 0.0 < p11 <= most
        assert 0.0 < p00 < (1.0 + abs(level) * np.sqrt(most / 0.98)) ** 2
        assert p00 * p11 > p01 * p01
    offset, slope = kernel.muscle_weights[0]
    assert abs(offset + slope * level - 1.0) < 0.5  # the level is still followed
    assert abs(slope) < 1.0
    run(kernel, samples_of(np.array([[1.0, level + 2.0]])))
    assert abs(kernel.muscle_weights[0, 1] - slope) < 0.1


@given(
    st.lists(st.tuples(st.floats(-30.0, 40.0), st.floats(-69.0, 60.0), st.integers(1, 60)), min_size=1, max_size=30),
    st.sampled_from([1e-12, 1.0 / 6000.0, 0.5]),
    st.sampled_from([1e-6, 0.02, 100.0, 1e6]),
)
@settings(deadline=None, max_examples=60)
def test_p_stays_positive(stretches: list[tuple[float, float, int]], rate: float, most: float) -> None:
    """Whatever the levels do, the variances stay positive and bounded and the coefficients finite."""
    kernel = Kernel(level_params(muscle_rate=rate, muscle_variance_start=[100.0, most]))
    levels = np.concatenate([np.tile([level, muscle], (n, 1)) for level, muscle, n in stretches])
    run(kernel, samples_of(levels))
    p00, p01, p11 = doubt_of(kernel)
    assert 0.0 < p11 <= most
    assert 0.0 < p00 <= (1.0 + abs(levels[-1, 1]) * np.sqrt(most / (1.0 - rate))) ** 2 * (1.0 + 1e-6)
    assert abs(p01) <= np.sqrt(p00 * p11) * (1.0 + 1e-6)
    assert np.isfinite(kernel.muscle_weights).all()


# -- the freeze ----------------------------------------------------------------------------------


def rests(kernel: Any, levels: NDArray[np.float64], impulses: list[list[int]]) -> list[int]:
    """Give impulses, then one tick after the other; the ticks at which the regression did not learn."""
    resting = []
    for t, level in enumerate(levels):
        before = kernel.muscle_weights.tobytes()
        here = [[s - PER_TICK * t, c, i] for s, c, i in impulses if PER_TICK * t <= s < PER_TICK * (t + 1)]
        run(kernel, samples_of(level[None]), here)
        if kernel.muscle_weights.tobytes() == before:
            resting.append(t)
    return resting


def test_an_outcome_freezes_the_regression_alone(kind: type) -> None:
    levels, _, _ = session(7, 40)
    params = level_params(freeze_channels=[2], freeze_ticks=5, basis_channel=[0], use_innovation=True)
    kernel = kind(params)
    assert params.n_markers == 3
    first = rests(kernel, levels, [[4 * 10, 2, -1], [4 * 20, 0, -1], [4 * 30, -1, 9]])
    assert first == [10, 11, 12, 13, 14]
    again = rests(kind(params), levels, [[4 * 10, 2, -1], [4 * 13, 2, -1]])
    assert again == list(range(10, 18))
    kernel = kind(params)
    run(kernel, samples_of(levels[:10]))
    before = kernel.weights.tobytes(), kernel.learned[1]
    run(kernel, samples_of(levels[:1]), [[0, 2, -1]])
    assert kernel.weights.tobytes() != before[0]
    assert kernel.learned[1] != before[1]
    assert rests(kind(replace(params, freeze_ticks=0)), levels, [[40, 2, -1]]) == []


def test_a_late_outcome_freezes_for_what_is_left(kind: type) -> None:
    levels, _, _ = session(8, 30)
    params = level_params(freeze_channels=[0], freeze_ticks=8)
    for late, left in ((3, 5), (7, 1), (8, 0), (500, 0)):
        kernel = kind(params)
        run(kernel, samples_of(levels[:10]))
        run(kernel, np.empty((0, 2)), [[-PER_TICK * late, 0, -1]])
        assert rests(kernel, levels, []) == list(range(left)), late
    kernel = kind(params)
    run(kernel, samples_of(levels[:10]), [[4 * 9, 0, -1]])
    run(kernel, np.empty((0, 2)), [[-PER_TICK * 5, 0, -1]])  # an older one shortens nothing
    assert rests(kernel, levels, []) == list(range(7))


def test_the_freeze_outlives_a_restart_but_not_a_segment(kind: type) -> None:
    levels, _, _ = session(9, 30)
    params = level_params(freeze_channels=[0], freeze_ticks=8)
    kernel = kind(params)
    run(kernel, samples_of(levels[:10]), [[4 * 8, 0, -1]])
    other = (ReferenceKernel if kind is Kernel else Kernel)(params)
    other.set_state(kernel.get_state())
    assert rests(other, levels, []) == list(range(6))
    learned = kernel.muscle_weights.tobytes(), doubt_of(kernel)
    kernel.reset_segment()
    assert (kernel.muscle_weights.tobytes(), doubt_of(kernel)) == learned
    assert rests(kernel, levels, []) == []


def test_flagged_ticks_teach_the_regression_nothing(kind: type) -> None:
    levels, _, _ = session(10, 300)
    kernel = kind(level_params(muscle_z_limit=4.0, muscle_rate=0.01))
    run(kernel, samples_of(levels))
    before = kernel.muscle_weights.tobytes(), doubt_of(kernel)
    burst = run(kernel, samples_of(np.array([[9.0, 9.0]])))
    assert burst.frame_flags.tolist() == [MUSCLE]
    skipped = run(kernel, samples_of(levels[:1]), exclude=np.ones(PER_TICK))
    assert skipped.frame_flags.tolist() == [EXCLUDED | WARMUP]
    assert np.isnan(of(kernel, skipped, "Lres")).all()
    assert (kernel.muscle_weights.tobytes(), doubt_of(kernel)) == before
    assert rests(kernel, levels[:3], []) == []


# -- switches ------------------------------------------------------------------------------------


def switched(kind: type, **changes: Any) -> tuple[Any, Any]:
    """Run a session with impulses and learning; the kernel and what it gave."""
    kernel = kind(make_params(freeze_channels=[1], warmup_samples=0, learning_rate=0.1, **changes))
    return kernel, run(kernel, recording(1500), [[100, 0, -1], [500, 1, 3], [900, 0, -1]])


def test_the_record_shows_what_was_taken_away(kind: type) -> None:
    kernel, out = switched(kind)
    np.testing.assert_allclose(of(kernel, out, "Lhat") + of(kernel, out, "e"), of(kernel, out, "Lres"), rtol=0, atol=1e-12)
    taken = of(kernel, out, "L")[:, :4] - of(kernel, out, "Lres")
    assert (taken[0] == 0.0).all()  # nothing is known yet
    assert (taken[1:] != 0.0).all()


@pytest.mark.parametrize("change", [{"regress_muscle": False}, {"muscle_stream": -1}])
def test_without_regression_levels_go_on(change: dict[str, Any], kind: type) -> None:
    kernel, out = switched(kind, muscle_start=np.ones((5, 2)), **change)
    assert of(kernel, out, "Lres").shape == (300, 0)
    assert (of(kernel, out, "L")[:, :4] - of(kernel, out, "Lhat")).tobytes() == of(kernel, out, "e").copy().tobytes()
    assert (kernel.muscle_weights == 1.0).all()
    assert np.abs(kernel.weights).max() > 0.01
    assert np.isnan(of(kernel, out, "muscle_z")).all() == ("muscle_stream" in change)


def test_without_basis_the_bias_stays(kind: type) -> None:
    late = [[-20, 0, -1]]
    kernel, out = switched(kind, use_basis=False, weights_start=np.ones((4, 4)))
    _, same = switched(kind, use_basis=False, weights_start=np.ones((4, 4)), basis_tau_s=[0.5, 0.6, 0.7])
    assert same_bytes(out, same)
    run(kernel, recording(500), late)
    assert (kernel.weights[:, :3] == 1.0).all()
    assert (kernel.weights[:, 3] != 1.0).all()
    assert (of(kernel, out, "Lhat")[0] == 0.3).all()


def test_without_forward_model_nothing_is_predicted(kind: type) -> None:
    kernel, out = switched(kind, use_forward_model=False, weights_start=np.ones((4, 4)))
    assert (of(kernel, out, "Lhat") == 0.0).all()
    assert of(kernel, out, "e").tobytes() == of(kernel, out, "Lres").tobytes()
    assert (kernel.weights == 1.0).all()
    assert np.abs(kernel.muscle_weights[:4]).min() > 0.0
    assert (of(kernel, out, "s")[0] != of(kernel, out, "s")[-1]).all()


def test_without_innovation_errors_stay_raw(kind: type) -> None:
    kernel, out = switched(kind, use_innovation=False)
    assert (of(kernel, out, "s") == 1.0).all()
    assert of(kernel, out, "z").tobytes() == of(kernel, out, "e").tobytes()
    assert np.isnan(of(kernel, out, "nu")).all()
    start = Kernel(kernel.params).learned
    assert kernel.learned[16:32].tobytes() == start[16:32].tobytes()
    with_all, want = switched(kind)
    assert of(kernel, out, "e").tobytes() == of(with_all, want, "e").tobytes()  # K7 looks on and changes nothing
    assert of(kernel, out, "muscle_z").tobytes() == of(with_all, want, "muscle_z").tobytes()


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switched_kernel_restarts_and_resumes(name: str) -> None:
    """Each switch off alone: state goes through both implementations and the rest of the session is the same."""
    params = make_params(freeze_channels=[1], warmup_samples=0, **{name: False})
    kernel = Kernel(params)
    x = recording(900)
    run(kernel, x[:503], [[480, 1, 4]])
    oracle = ReferenceKernel(params)
    oracle.set_state(kernel.get_state())
    for piece in (x[503:504], x[504:]):
        assert same_bytes(run(kernel, piece), run(oracle, piece))
    assert kernel.get_state() == oracle.get_state()
    with pytest.raises(ValueError, match="other parameters"):
        Kernel(make_params(freeze_channels=[1], warmup_samples=0)).set_state(kernel.get_state())
