"""Forward model, statistics, impulses and events against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from kernel_helpers import IDENTITY, joined, make_params, plain_params, recording, run, same_bytes
from padasip.filters import FilterNLMS
from scipy.signal import lfilter

from cext import EXCLUDED, MUSCLE, WARMUP, Kernel, KernelOverflowError


def amplitudes(levels: Any, per_tick: int = 4) -> Any:
    """Make samples whose log power at each tick is the given level (for ``plain_params``)."""
    powers = np.exp(np.asarray(levels, float)) - 1e-6
    return (
        np.repeat(np.sqrt(powers), per_tick)[:, None]
        * np.resize([1.0, -1.0], per_tick * len(powers))[:, None]
    )


def test_nlms_by_hand(kind: type) -> None:
    """One basis function with decay 1/2, bias 2, mu 1/4, constant L = 3, one impulse at tick 0."""
    tau = 1.0 / (50.0 * math.log(2.0))
    params = plain_params(
        basis_tau_s=np.array([tau]), bias=2.0, learning_rate=0.25, variance_rate=0.5, variance_floor=1e-12
    )
    kernel = kind(params)
    out = run(kernel, amplitudes([3.0, 3.0]), [[0, 0, -1]])
    gain = math.e * math.log(2.0)
    phi = [np.array([1.0 * gain, 2.0]), np.array([1.0 * gain, 2.0])]  # (n + 1) / 2**n is 1, 1, 3/4 ...
    step = 0.25 / (1.0 + phi[0] @ phi[0])
    w1 = 3.0 * step * phi[0]
    e2 = 3.0 - w1 @ phi[1]
    w2 = w1 + e2 * step * phi[1]
    c = params.columns
    np.testing.assert_allclose(out.frames[:, c["L"]].ravel(), [3.0, 3.0], rtol=1e-12)
    np.testing.assert_allclose(out.frames[:, c["Lhat"]].ravel(), [0.0, w1 @ phi[1]], rtol=1e-12)
    np.testing.assert_allclose(out.frames[:, c["e"]].ravel(), [3.0, e2], rtol=1e-12)
    np.testing.assert_allclose(kernel.weights.ravel(), w2, rtol=1e-12)
    # K7: variance starts at 1, then 1/2 + 9/2; z uses the one from before
    np.testing.assert_allclose(out.frames[:, c["s"]].ravel(), [1.0, math.sqrt(5.0)], rtol=1e-9)
    np.testing.assert_allclose(out.frames[:, c["z"]].ravel(), [3.0, e2 / math.sqrt(5.0)], rtol=1e-9)
    np.testing.assert_allclose(out.frames[:, c["nu"]].ravel(), [9.0, e2 * e2 / 5.0], rtol=1e-9)
    np.testing.assert_allclose(kernel.learned[2], 2.5 + e2 * e2 / 2.0, rtol=1e-12)


def test_nlms_equals_padasip(kind: type, capsys: pytest.CaptureFixture[str]) -> None:
    """K6 over three time constants of two markers: predictions, errors and weights of FilterNLMS (eps = 1)."""
    rng = np.random.default_rng(6)
    n = 1500
    taus, channels = np.array([0.1, 0.4, 0.05]), np.array([0, 0, 1])
    params = plain_params(basis_channel=channels, basis_tau_s=taus, bias=0.3, learning_rate=0.05)
    onsets = rng.random((n, 2)) < 0.05
    kernel = kind(params)
    marks = [[4 * tick, channel, -1] for tick, channel in np.argwhere(onsets).tolist()]
    out = run(kernel, amplitudes(rng.normal(1.0, 1.0, n)), marks)

    ages = np.arange(n)
    decays = np.exp(-1.0 / (50.0 * taus))
    phi = np.full((n, 4), 0.3)
    for j, (tau, channel, decay) in enumerate(zip(taus, channels, decays, strict=True)):
        kernel_j = (ages + 1) * decay**ages * math.e / (50.0 * tau)
        phi[:, j] = np.convolve(onsets[:, channel], kernel_j)[:n]
    theirs = FilterNLMS(n=4, mu=0.05, eps=1.0, w="zeros")
    levels = out.frames[:, params.columns["L"]].ravel()
    expected, errors = np.empty(n), np.empty(n)
    for k in range(n):
        expected[k] = theirs.predict(phi[k])
        errors[k] = levels[k] - expected[k]
        theirs.adapt(levels[k], phi[k])
    most = max(
        np.abs(out.frames[:, params.columns["Lhat"]].ravel() - expected).max(),
        np.abs(out.frames[:, params.columns["e"]].ravel() - errors).max(),
        np.abs(kernel.weights.ravel() - theirs.w).max(),
    )
    with capsys.disabled():
        print(f"\nK6 against padasip FilterNLMS, {kind.__name__}: predictions, errors and weights {most:.1e}")
    assert most <= 1e-12


def test_the_forward_model_cancels_what_markers_predict(kind: type) -> None:
    """K6: with a response locked to a marker, the error decays."""
    params = plain_params(
        basis_channel=np.zeros(3, int), basis_tau_s=np.array([0.04, 0.1, 0.2]), learning_rate=0.2
    )
    alpha = np.arange(1, 101) * np.exp(-np.arange(100) / 5.0)  # the response has the second time constant
    onsets = np.zeros(3000)
    onsets[::25] = 1.0
    response = np.convolve(onsets, alpha)[:3000]
    out = run(kind(params), amplitudes(response), [[100 * k, 0, -1] for k in range(120)])
    e = out.frames[:, params.columns["e"]].ravel()
    assert np.abs(e[-250:]).max() < 0.1 * response.max()


def test_statistics_equal_linear_algebra(kind: type) -> None:
    """K7: before the rate is reached, S is the mean of the start and all e e'; nu and z use the S so far."""
    params = make_params(
        learning_rate=0.0,
        variance_rate=0.01,
        variance_start=np.array([1.0, 2.0, 3.0, 4.0]),
        variance_floor=0.1,
        warmup_samples=0,
    )
    out = run(kind(params), recording(100))
    columns = params.columns
    e = out.frames[:, columns["e"]]
    total = np.diag([1.0, 2.0, 3.0, 4.0])
    for n in range(20):
        cov = total / (n + 1) + 0.1 * np.eye(4)
        sd = np.sqrt(np.diag(cov))
        np.testing.assert_allclose(out.frames[n, columns["s"]], sd, rtol=1e-12)
        np.testing.assert_allclose(out.frames[n, columns["z"]], e[n] / sd, rtol=1e-12)
        np.testing.assert_allclose(out.frames[n, columns["nu"]], e[n] @ np.linalg.solve(cov, e[n]), rtol=1e-9)
        total = total + np.outer(e[n], e[n])
    assert (out.frame_flags == 0).all()


def test_z_of_noise_has_unit_spread() -> None:
    """K7, and nu is chi-squared with 4 degrees of freedom; spectra and spatial mixing do not matter."""
    rng = np.random.default_rng(3)
    params = make_params(
        projection=np.eye(5),
        reference=np.zeros(5),
        n_sections=np.zeros(5, int),
        sos=np.tile([1.0, 0, 0, 1, 0, 0], (5, 1, 1)),
        smoothing=np.zeros(5),
        muscle_stream=-1,
        weights_start=np.tile([0.0, 0, 0, 10.0 / 0.3], (4, 1)),
        rail_uv=None,
    )
    mixed = rng.normal(size=(20000, 5)) @ np.triu(np.ones((5, 5)))  # correlated log powers
    x = np.repeat(np.exp(0.5 * (10.0 + 0.4 * mixed)), 5, axis=0) * np.resize([1.0, -1.0], (100000, 1))
    out = run(Kernel(params), x)
    assert (out.frame_flags[5:] == 0).all()
    z, nu = out.frames[5000:, params.columns["z"]], out.frames[5000:, params.columns["nu"]]
    np.testing.assert_allclose(z.std(axis=0), 1.0, atol=0.03)
    np.testing.assert_allclose(z.mean(axis=0), 0.0, atol=0.15)
    assert abs(nu.mean() - 4.0) < 0.2
    assert abs((nu > 9.488).mean() - 0.05) < 0.01


def test_muscle_bursts_are_flagged_and_not_learned(kind: type) -> None:
    params = plain_params(n_learned=1, pooling=np.ones((2, 1)), muscle_stream=1, muscle_rate=0.01)
    rng = np.random.default_rng(0)
    levels = rng.normal(0.0, 1.0, 300)
    kernel = kind(params)
    run(kernel, amplitudes(levels))
    before = kernel.learned.tobytes()
    out = run(kernel, amplitudes([8.0, 8.0]))
    assert out.frame_flags.tolist() == [MUSCLE, MUSCLE]
    assert kernel.learned.tobytes() == before
    assert (out.frames[:, params.columns["muscle_z"]] > 5.0).all()
    assert run(kernel, amplitudes([0.1])).frame_flags.tolist() == [0]
    assert kernel.learned.tobytes() != before
    first = run(kind(params), amplitudes([8.0]))
    assert first.frames[0, params.columns["muscle_z"]] == 0.0


# -- impulses ------------------------------------------------------------------------------------


def test_an_impulse_acts_at_the_first_tick_at_or_after_it(kind: type) -> None:
    params = plain_params(weights_start=np.array([[1.0, 0.0]]), learning_rate=0.0)
    x = amplitudes(np.zeros(4))  # ticks at samples 3, 7, 11, 15
    for sample, tick in ((0, 0), (3, 0), (4, 1), (7, 1), (8, 2)):
        predicted = run(kind(params), x, [[sample, 0, -1]]).frames[:, params.columns["Lhat"]].ravel()
        assert np.flatnonzero(predicted)[0] == tick, sample
    a = math.exp(-1.0 / 5.0)
    want = np.array([(n + 1) * a**n for n in range(4)]) * math.e / 5.0
    got = run(kind(params), x, [[0, 0, -1]]).frames[:, params.columns["Lhat"]].ravel()
    np.testing.assert_allclose(got, want, rtol=1e-14)


@pytest.mark.parametrize("late", [1, 30, 777])
def test_a_late_impulse_becomes_what_a_timely_one_is(late: int, kind: type) -> None:
    params = make_params(weights_start=np.ones((4, 4)), learning_rate=0.0)
    x = recording(1000)
    timely, belated = kind(params), kind(params)
    rows = [[10, 0, -1], [100, 1, -1]]
    run(timely, x[:900], rows)
    run(belated, x[:100])
    at = 100 + late
    run(belated, x[100:at])
    run(belated, x[at:900], [[10 - at, 0, -1], [100 - at, 1, -1]])
    predicted = params.columns["Lhat"]
    a, b = run(timely, x[900:]).frames[:, predicted], run(belated, x[900:]).frames[:, predicted]
    np.testing.assert_allclose(a, b, rtol=1e-12)
    assert np.abs(a - 0.3).max() > 1e-6  # there is something left to compare


def test_an_ancient_impulse_has_faded(kind: type) -> None:
    params = plain_params()
    kernel, other = kind(params), kind(params)
    run(kernel, np.ones((8, 1)), [[-(2**40), 0, -1]])
    run(other, np.ones((8, 1)))
    assert kernel.get_state() == other.get_state()


# -- events --------------------------------------------------------------------------------------

LEVELS = [5.0, 1.0, 2.0, 4.0, 8.0, 16.0, 3.0, 3.0, 3.0, 3.0]


def frozen(**changes: Any) -> Any:
    """Make parameters whose error is the level: nothing is predicted and nothing learned."""
    return plain_params(learning_rate=0.0, **changes)


def test_event_feature_by_hand(kind: type) -> None:
    """Event in tick 3: window ticks 4, 5, baseline ticks 1, 2: (8 + 16) / 2 - 0.5 (1 + 2) / 2."""
    out = run(kind(frozen()), amplitudes(LEVELS), [[12, -1, 77]])
    assert out.event_id.tolist() == [77]
    assert out.event_sample.tolist() == [12]
    assert out.event_tick_sample.tolist() == [23]  # the last sample of tick 5
    assert out.event_invalid.tolist() == [0.0]
    assert out.event_valid.tolist() == [1]
    np.testing.assert_allclose(out.event_features, [[12.0 - 0.5 * 1.5]], rtol=1e-12)


def test_a_waveform_by_hand(kind: type) -> None:
    """A linear chain is the last sample itself, sign and all; a feature of it needs nothing that is learned."""
    values = np.array([1.0, -2.0, 4.0, 0.5, -3.0, 7.0, 5.0, 0.0, 0.0, 0.0])
    params = plain_params(linear=[True], n_learned=0, event_stream=[0, 0], windows=[[1, 3], [3, 4]], baseline_weight=1.0)
    kernel = kind(params)
    out = run(kernel, np.repeat(values, 4)[:, None], [[12, -1, 77]])  # tick 3; baseline ticks 1 and 2
    assert out.frames[:, params.columns["L"]].ravel().tolist() == values.tolist()
    assert params.column_names(["W"]) == ["L.W", "nu", "muscle_z"]
    assert out.event_features.tolist() == [[(-3.0 + 7.0) / 2 - 1.0, 5.0 - 1.0]]
    assert out.event_valid.tolist() == [1]
    assert kernel.weights.shape == (0, 2)


def test_a_smoothed_waveform_equals_lfilter(kind: type) -> None:
    params = plain_params(linear=[True], smoothing=[0.8], n_learned=0, event_stream=[0], windows=[[1, 3]])
    x = recording(400, 1)
    want = lfilter([0.2], [1.0, -0.8], x[:, 0])[3::4]
    np.testing.assert_allclose(run(kind(params), x).frames[:, 0], want, rtol=1e-12)


def test_features_of_learned_and_auxiliary_streams_side_by_side(kind: type) -> None:
    """Of a learned stream its error, of an auxiliary one its level: here both are the same power."""
    two = {"projection": np.ones((2, 1)), "sos": np.tile(IDENTITY, (2, 1, 1)), "n_sections": [0, 0], "smoothing": [0.0, 0.0]}
    params = frozen(**two, pooling=np.eye(2), event_stream=[1, 0], windows=[[1, 3], [1, 3]], weights_start=[[0.0, 1.0]])
    out = run(kind(params), amplitudes(LEVELS), [[12, -1, 77]])
    level, error = out.event_features[0]
    assert level == pytest.approx(12.0 - 0.5 * 1.5)
    assert error == pytest.approx(level - 0.5 * params.bias)  # the model expects the bias; the baseline takes half


def test_event_uses_valid_ticks_only(kind: type) -> None:
    exclude = np.zeros(40, np.uint8)
    exclude[16] = 1  # tick 4
    out = run(kind(frozen(max_invalid=0.25)), amplitudes(LEVELS), [[12, -1, 7]], exclude)
    assert out.frame_flags.tolist() == [0, 0, 0, 0, EXCLUDED, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(out.event_features, [[16.0 - 0.75]], rtol=1e-12)
    assert (out.event_invalid.tolist(), out.event_valid.tolist()) == ([0.25], [1])
    strict = run(kind(frozen(max_invalid=0.2)), amplitudes(LEVELS), [[12, -1, 7]], exclude)
    assert (strict.event_invalid.tolist(), strict.event_valid.tolist()) == ([0.25], [0])


def test_event_without_any_valid_window_tick_is_invalid(kind: type) -> None:
    exclude = np.zeros(40, np.uint8)
    exclude[16:24] = 1
    out = run(kind(frozen(max_invalid=1.0)), amplitudes(LEVELS), [[12, -1, 7]], exclude)
    assert np.isnan(out.event_features).all()
    assert (out.event_invalid.tolist(), out.event_valid.tolist()) == ([0.5], [0])


def test_event_before_the_recording_is_invalid(kind: type) -> None:
    out = run(
        kind(frozen()), amplitudes(LEVELS), [[0, -1, 1], [4, -1, 2]]
    )  # baselines at ticks -2.. and -1..
    assert out.event_invalid.tolist() == [0.5, 0.25]
    assert out.event_valid.tolist() == [0, 1]


def test_late_events(kind: type) -> None:
    """Decided at once while the history holds their ticks (the same feature), else invalid at once."""
    x = amplitudes(LEVELS)
    timely = run(kind(frozen(history_ticks=10)), x, [[12, -1, 7]])
    kernel = kind(frozen(history_ticks=10))
    run(kernel, x)
    out = run(kernel, x[:0], [[12 - 40, -1, 7]])
    assert out.event_features.tobytes() == timely.event_features.tobytes()
    assert (out.event_valid.tolist(), out.event_tick_sample.tolist()) == ([1], [39])
    assert len(out.frames) == 0
    run(kernel, x[:8])  # tick 1, the first of the baseline, leaves the history
    gone = run(kernel, x[:1], [[12 - 48, -1, 8]])
    assert (gone.event_valid.tolist(), gone.event_invalid.tolist()) == ([0], [1.0])
    assert gone.event_tick_sample.tolist() == [47]
    assert np.isnan(gone.event_features).all()


def test_events_come_in_order_of_time(kind: type) -> None:
    out = run(kind(frozen()), amplitudes(LEVELS), [[13, -1, 4], [12, 0, 9], [9, -1, 1], [12, -1, 2]])
    assert out.event_id.tolist() == [1, 2, 9, 4]
    assert out.event_tick_sample.tolist() == [19, 23, 23, 23]


def test_overflow_raises_and_changes_nothing(kind: type) -> None:
    kernel = kind(frozen(pending_capacity=3))
    x = amplitudes(LEVELS)
    run(kernel, x, [[k, 0, k] for k in range(20)])  # many within one call are no overflow
    before = kernel.get_state()
    for rows in ([[100 + k, 0, -1] for k in range(4)], [[100 + k, -1, k] for k in range(4)]):
        with pytest.raises(KernelOverflowError, match="4 "):
            run(kernel, x, rows)
        assert kernel.get_state() == before
    run(kernel, x, [[100 + k, 0, k] for k in range(3)])
    with pytest.raises(KernelOverflowError):
        run(kernel, x[:0], [[100, 0, -1]])


# -- segments ------------------------------------------------------------------------------------


def test_a_new_segment_forgets_what_is_transient(kind: type) -> None:
    params = make_params()
    kernel = kind(params)
    run(kernel, recording(1003), [[990, 0, 5], [1200, 1, 6], [2000, 0, -1]])
    learned = kernel.learned.tobytes()
    out = kernel.reset_segment()
    assert out.event_id.tolist() == [5, 6]
    assert out.event_valid.tolist() == [0, 0]
    assert out.event_invalid.tolist() == [1.0, 1.0]
    assert out.event_tick_sample.tolist() == [1002, 1002]
    assert kernel.sample_count == 1003
    assert kernel.learned.tobytes() == learned
    assert len(kernel.reset_segment().event_id) == 0
    after = run(kernel, recording(400, seed=9))
    assert after.frame_sample[0] == 1004  # the grid goes on
    assert (after.frame_flags[:5] == WARMUP).all()
    assert (after.frame_flags[5:] == 0).all()
    fresh = kind(params)
    run(fresh, np.full((1003, 5), np.nan))  # the same phase of the grid, nothing fed
    want = run(fresh, recording(400, seed=9))
    levels = params.columns["L"]
    assert after.frames[:, levels].tobytes() == want.frames[:, levels].tobytes()


def test_empty_chunks_do_nothing(kind: type) -> None:
    kernel = kind(make_params())
    before = kernel.get_state()
    out = run(kernel, np.empty((0, 5)))
    assert all(len(array) == 0 for array in out)
    assert kernel.get_state() == before
    assert same_bytes(joined([out, out]), out)
