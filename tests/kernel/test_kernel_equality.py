"""The compiled kernel against its definition, SciPy and NumPy, and against itself in other chunks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_helpers import (
    IDENTITY,
    arrays,
    design,
    joined,
    make_params,
    plain_params,
    recording,
    run,
    same_bytes,
)
from scipy.signal import lfilter, sosfilt, sosfilt_zi

from cext import FLAT, NONFINITE, RAILED, WARMUP, Kernel, KernelParams, Output
from cext.derive import derive, folded_projection
from cext.reference import ReferenceKernel

RATES = [128.0, 160.0, 250.0, 256.0, 499.93, 512.0, 1000.0, 2048.0, 4096.0]
SWITCHES = ["regress_muscle", "use_basis", "use_forward_model", "use_innovation"]
quick = settings(deadline=None, max_examples=50, suppress_health_check=list(HealthCheck))


def watching(streams: list[int], n_learned: int) -> dict[str, Any]:
    """Event features of these streams; those that are not learned are auxiliary."""
    windows = np.array([[3, 8], [3, 8], [2, 5], [2, 5], [-2, 1]])[: len(streams)]
    return {"n_learned": n_learned, "event_stream": np.array(streams), "windows": windows}


@st.composite
def sessions(draw: st.DrawFn) -> tuple[KernelParams, Any, Any, Any]:
    """Parameters, a recording with all that can be wrong with one, exclusions and impulses."""
    sfreq = draw(st.sampled_from(RATES))
    seed = draw(st.integers(0, 999))
    rng = np.random.default_rng(seed)
    n_ch = draw(st.integers(2, 6))
    used = np.ones(n_ch, bool)
    used[-1] = draw(st.booleans())
    reference = used / used.sum() if draw(st.booleans()) else np.zeros(n_ch)
    projection = rng.normal(size=(5, n_ch)) * used
    params = make_params(
        seed,
        sfreq_hz=sfreq,
        n_channels=n_ch,
        used=used,
        reference=reference,
        projection=projection,
        pooling=rng.normal(size=(6, 5)) * (rng.random((6, 5)) < 0.6),
        muscle_stream=draw(st.integers(-1, 5)),
        muscle_z_limit=draw(st.sampled_from([0.5, 4.0])),
        muscle_rate=draw(st.sampled_from([1e-4, 0.2])),
        muscle_start=rng.normal(size=(6, 2)) if draw(st.booleans()) else None,
        muscle_variance_start=[100.0, draw(st.sampled_from([0.02, 100.0]))],
        freeze_channels=np.flatnonzero([draw(st.booleans()), draw(st.booleans())]),
        freeze_ticks=draw(st.sampled_from([0, 9, 41])),
        **dict.fromkeys(draw(st.sets(st.sampled_from(SWITCHES))), False),
        **draw(st.sampled_from([watching([0, 1, 2, 3], 4), watching([5, 0, 5, 2, 0], 0), watching([4, 1], 3)])),
        linear=rng.random(5) < draw(st.sampled_from([0.0, 0.5, 1.0])),
        learning_rate=draw(st.sampled_from([0.0, 0.005, 0.5])),
        variance_rate=draw(st.sampled_from([0.01, 0.5])),
        warmup_samples=draw(st.sampled_from([0, 7, 40])),
        flat_samples=draw(st.sampled_from([0, 3])),
    )
    n = draw(st.integers(0, 900))
    x = recording(n, n_ch, seed)
    for _ in range(draw(st.integers(0, 6))):
        at, c = draw(st.integers(0, max(n - 1, 0))), draw(st.integers(0, n_ch - 1))
        bad = [np.nan, np.inf, -np.inf, 2e5, -0.0, 1e300]
        x[at : at + draw(st.integers(1, 12)), c] = draw(st.sampled_from(bad))
    exclude = np.zeros(n, np.uint8)
    at = draw(st.integers(0, 900))
    exclude[at : at + draw(st.integers(0, 90))] = 1
    row = st.tuples(st.integers(0, n + 100), st.integers(-1, 1), st.integers(-1, 5))
    impulses = np.array(draw(st.lists(row, max_size=12)), np.int64).reshape(-1, 3)
    return params, x, exclude, impulses


@given(sessions(), st.integers(-500, 0))
@quick
def test_equals_the_reference_in_every_bit(session: Any, lateness: int) -> None:
    params, x, exclude, impulses = session
    compiled, reference = Kernel(params), ReferenceKernel(params)
    half = len(x) // 2
    late = impulses.copy()
    late[:, 0] += lateness
    for a, b, rows in ((0, half, impulses), (half, len(x), late)):
        want = reference.process(x[a:b], exclude[a:b], rows)
        assert same_bytes(compiled.process(x[a:b], exclude[a:b], rows), want)
        assert compiled.get_state() == reference.get_state()
    assert compiled.learned.tobytes() == reference.learned.tobytes()
    assert same_bytes(compiled.reset_segment(), reference.reset_segment())
    assert compiled.get_state() == reference.get_state()


def test_equality_covers_every_branch() -> None:
    """Guard the test above: one long session with all flags, learning and valid events is equal too."""
    params = make_params(freeze_channels=[1], weights_start=np.full((4, 4), 0.01))
    x = recording(3000)
    x[500, 1], x[900:910, 2], x[1500, 0] = np.nan, 3.0, 2e5
    x[2300:2304, 0] *= 60.0
    exclude = np.zeros(3000, np.uint8)
    exclude[2000:2100] = 1
    impulses = np.array([[10, 0, 1], [300, 0, 7], [700, 1, 9], [2995, -1, 3]])
    compiled, reference = Kernel(params), ReferenceKernel(params)
    out = compiled.process(x, exclude, impulses)
    assert same_bytes(out, reference.process(x, exclude, impulses))
    assert compiled.get_state() == reference.get_state()
    assert np.bitwise_or.reduce(out.frame_flags) == 63
    assert out.event_valid.tolist() == [0, 1, 1]
    assert np.abs(compiled.weights - params.weights_start).max() > 0.01
    assert (compiled.muscle_weights[:4] != 0.0).all()
    assert not compiled.muscle_weights[4].any()
    changed = compiled.learned != Kernel(params).learned
    assert np.flatnonzero(~changed).tolist() == [40, 41]  # of all learned numbers only the muscle's own regression


@given(sessions(), st.lists(st.integers(0, 60), max_size=40), st.booleans())
@quick
def test_chunking_is_invariant(session: Any, lengths: list[int], early: bool) -> None:
    """I14: in one piece, or cut anywhere, with impulses given early or in their chunk."""
    params, x, exclude, impulses = session
    whole = Kernel(params)
    want = whole.process(x, exclude, impulses)
    parts: list[Output] = []
    kernel, at = Kernel(params), 0
    for length in [*lengths, len(x)]:
        stop = min(at + length, len(x))
        last = stop == len(x)
        if early:
            rows = impulses if at == 0 and not parts else impulses[:0]
        else:
            due = (impulses[:, 0] >= at) & ((impulses[:, 0] < stop) | last)
            rows = impulses[due] - [at, 0, 0]
        parts.append(kernel.process(x[at:stop], exclude[at:stop], rows))
        at = stop
        if last:
            break
    assert same_bytes(joined(parts), want)
    assert kernel.get_state() == whole.get_state()


@pytest.mark.parametrize("length", [1, 2, 7])
def test_small_chunks_are_invariant(length: int) -> None:
    params, x = make_params(), recording(800)
    x[300, 0] = np.nan
    kernel, whole = Kernel(params), Kernel(params)
    impulses = [[200, 0, 1], [650, 1, 2]]
    want = run(whole, x, impulses)
    parts = [run(kernel, x[:0], impulses)]
    parts += [run(kernel, x[i : i + length]) for i in range(0, len(x), length)]
    assert same_bytes(joined(parts), want)
    assert want.event_valid.tolist() == [1, 1]


@given(sessions(), st.integers(0, 900))
@quick
def test_the_future_changes_nothing_earlier(session: Any, cut: int) -> None:
    """I18."""
    params, x, exclude, impulses = session
    cut = min(cut, len(x))
    other, skip = x.copy(), exclude.copy()
    other[cut:] = 17.0 - 3.0 * other[cut:]
    skip[cut:] ^= 1
    rows = impulses[impulses[:, 0] < cut]
    a, b = Kernel(params).process(x, exclude, impulses), Kernel(params).process(other, skip, rows)
    n = int((a.frame_sample < cut).sum())
    for left, right in zip(arrays(a)[:4], arrays(b)[:4], strict=True):
        assert left[:n].tobytes() == right[:n].tobytes()
    decided_a, decided_b = a.event_tick_sample < cut, b.event_tick_sample < cut
    for left, right in zip(arrays(a)[4:], arrays(b)[4:], strict=True):
        assert left[decided_a].tobytes() == right[decided_b].tobytes()


@given(sessions(), st.integers(0, 900))
@quick
def test_a_restored_state_continues_equally(session: Any, cut: int) -> None:
    params, x, exclude, impulses = session
    cut = min(cut, len(x))
    kernel = Kernel(params)
    kernel.process(x[:cut], exclude[:cut], impulses)
    fresh, twin, oracle = Kernel(params), kernel.copy(), ReferenceKernel(params)
    fresh.set_state(kernel.get_state())
    oracle.set_state(kernel.get_state())
    nothing = impulses[:0]
    want = kernel.process(x[cut:], exclude[cut:], nothing)
    for other in (fresh, twin, oracle, oracle.copy()):
        if other.sample_count == cut:
            assert same_bytes(other.process(x[cut:], exclude[cut:], nothing), want)
            assert other.get_state() == kernel.get_state()


# -- against SciPy and NumPy ---------------------------------------------------------------------


@pytest.mark.parametrize("sfreq", RATES)
def test_filters_equal_scipy(sfreq: float) -> None:
    """K2 and K3 against SciPy: 1e-12 relative in power."""
    n = int(2 * sfreq)
    params = make_params(sfreq_hz=sfreq, rail_uv=None, flat_samples=0)
    x = recording(n)
    out = run(Kernel(params), x)
    derived = derive(params)
    power = np.empty((n, 5))
    for v in range(5):
        y = np.zeros(n)
        for c in range(
            5
        ):  # in the kernel's order: at 4096 Hz the high-pass amplifies rounding of its input 1e5-fold
            y = y + derived.weights[c, v] * x[:, c]
        sos = params.sos[v].copy()
        y, _ = sosfilt(sos, y, zi=derived.prime[:, :, v] * y[0])
        a = params.smoothing[v]
        power[:, v] = lfilter([1.0 - a], [1.0, -a], y * y)
    want = np.log(power + params.floor_uv2)[out.frame_sample]
    got = out.frames[:, params.columns["L"]]
    assert len(got) >= 99
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)  # absolute in log power: relative in power


def test_one_section_chain_equals_sosfilt_to_the_last_digits() -> None:
    """Power without smoothing is the squared filter output of the tick's sample."""
    sos = design(200.0, (14.0, 30.0))
    params = plain_params(sos=sos[None], n_sections=np.array([3]), floor_uv2=1e-30)
    x = recording(1000, 1)
    out = run(Kernel(params), x)
    y, _ = sosfilt(sos, x[:, 0], zi=sosfilt_zi(sos) * x[0, 0])
    np.testing.assert_allclose(
        np.exp(out.frames[:, 0] / 2), np.abs(y[out.frame_sample]), rtol=1e-12, atol=1e-12
    )


def test_folding_equals_reference_then_projection() -> None:
    params = make_params(3)
    x = recording(50)
    want = (x - (x @ params.reference)[:, None]) @ params.projection.T
    np.testing.assert_allclose(x @ folded_projection(params).T, want, rtol=1e-12, atol=1e-12)


def test_prime_equals_sosfilt_zi() -> None:
    params = make_params(sfreq_hz=500.0)
    prime = derive(params).prime
    for v in range(params.n_chains):
        np.testing.assert_allclose(prime[:, :, v], sosfilt_zi(params.sos[v].copy()), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sfreq", RATES)
def test_ticks_lie_on_an_exact_grid(sfreq: float, kind: type) -> None:
    """Tick k is the first sample by whose end (k + 1) / 50 s have passed."""
    n = int(sfreq) + 7
    params = make_params(sfreq_hz=sfreq, projection=np.eye(5), reference=np.zeros(5))
    got = run(kind(params), recording(n)).frame_sample
    want = [-(-(k + 1) * round(sfreq * 100) // 5000) - 1 for k in range(60)]
    assert got.tolist() == [s for s in want if s < n]


# -- offsets and badness -------------------------------------------------------------------------


def test_a_large_offset_leaves_no_transient(kind: type) -> None:
    """100 mV on all channels, without a re-reference to remove it: same log powers to the rounding of 1e5."""
    params = make_params(reference=np.zeros(5), rail_uv=None, warmup_samples=0)
    x = recording(1000)
    x[400, 2] = np.nan
    plain, lifted = run(kind(params), x), run(kind(params), x + 1e5)
    levels = params.columns["L"]
    np.testing.assert_allclose(lifted.frames[:, levels], plain.frames[:, levels], rtol=0, atol=1e-4)


def test_unused_channels_influence_nothing(kind: type) -> None:
    used = np.array([True, True, True, True, False])
    params = make_params(
        used=used, reference=used / 4.0, projection=np.random.default_rng(1).normal(size=(5, 5)) * used
    )
    x, y = recording(600), recording(600)
    y[:, 4] = np.nan
    y[100, 4], y[200:220, 4] = np.inf, 7.0
    a, b = run(kind(params), x, [[300, 0, 1]]), run(kind(params), y, [[300, 0, 1]])
    assert same_bytes(a._replace(channel_flags=b.channel_flags), b)
    assert a.event_valid.tolist() == [1]
    assert set(b.channel_flags[:, 4].tolist()) == {NONFINITE, FLAT}
    assert not b.channel_flags[:, :4].any()


@pytest.mark.parametrize("fault", ["nan", "inf", "rail", "flat", "excluded", "huge"])
def test_invalid_samples_do_not_touch_what_was_learned(fault: str, kind: type) -> None:
    """I16: learned bytes stay, and after the warm-up the filters give what a fresh start gives."""
    params = make_params(muscle_stream=4, rail_uv=np.full(5, np.inf) if fault == "huge" else np.full(5, 1e5))
    kernel = kind(params)
    run(kernel, recording(1000))
    before = kernel.learned.tobytes()
    n = 250
    x, exclude = recording(n, seed=5), np.zeros(n, np.uint8)
    bad = {"nan": np.nan, "inf": -np.inf, "rail": 1e5, "huge": 1e300}
    if fault == "flat":
        x[:, 3] = x[0, 3]
        run(kernel, recording(5)), run(kernel, np.full((5, 5), 3.0))  # the first repeats are not yet flat
        before = kernel.learned.tobytes()
        x[:, 3] = 3.0
    elif fault == "excluded":
        exclude[:] = 1
        x *= 1e3
    else:
        x[1::2, 1] = bad[fault]
    out = run(kernel, x, exclude=exclude)
    assert (out.frame_flags != 0).all()
    assert kernel.learned.tobytes() == before
    later, fresh = recording(500, seed=6), kind(params)
    levels = params.columns["L"]
    a, b = run(kernel, later), run(fresh, later)
    skip = 10 if fault == "huge" else 0
    if skip == 0:
        assert a.frames[:, levels].tobytes() == b.frames[:, levels].tobytes()
    assert (a.frame_flags[skip + 10 :] == 0).all()
    assert kernel.learned.tobytes() != before


def test_frame_flags_name_the_fault(kind: type) -> None:
    params = make_params(muscle_stream=-1, warmup_samples=20)
    x = recording(1000)
    x[102, 0], x[202, 1], x[300:310, 2] = np.nan, -1e5, 1.5
    out = run(kind(params), x)
    flags, channels = out.frame_flags.tolist(), out.channel_flags
    assert flags[:3] == [WARMUP] * 3
    assert flags[3] == 0
    assert flags[20] == NONFINITE | WARMUP
    assert flags[21:23] == [WARMUP] * 2
    assert flags[40] == RAILED | WARMUP
    assert flags[60:62] == [FLAT | WARMUP] * 2
    assert (channels[20, 0], channels[40, 1], channels[60, 2], channels[61, 2]) == (
        NONFINITE,
        RAILED,
        FLAT,
        FLAT,
    )
    assert np.count_nonzero(channels) == 4
    assert np.isfinite(out.frames[20, :-1]).all()  # sample 103 and 104 were good
    columns = params.columns
    gone = run(kind(params), np.full((5, 5), np.nan)).frames[0]
    for name in ("L", "e", "z", "nu", "muscle_z"):
        assert np.isnan(gone[columns[name]]).all()
    for name in ("Lhat", "s"):
        assert np.isfinite(gone[columns[name]]).all()


def test_flat_needs_exactly_that_many_repeats(kind: type) -> None:
    params = plain_params(flat_samples=3)
    x = np.array([1.0, 2.0, 2.0, 2.0, 5.0, 5.0, 5.0, 5.0])[:, None]  # 2 repeats, then 3
    out = run(kind(params), x)
    assert out.frame_flags.tolist() == [0, FLAT | WARMUP]
    assert run(kind(plain_params()), x).frame_flags.tolist() == [0, 0]


def test_filters_survive_overflow(kind: type) -> None:
    """Finite but absurd samples with rails off: flagged, and gone once the samples are sane."""
    params = make_params(rail_uv=None, warmup_samples=0)
    x = recording(500)
    x[100, 0] = 1e308
    out = run(kind(params), x)
    assert out.frame_flags[20] == NONFINITE | WARMUP
    assert (out.frame_flags[21:] == 0).all()
    assert np.isfinite(out.frames[21:]).all()


def test_a_section_is_identity_beyond_its_count(kind: type) -> None:
    sos = design(200.0, (4.0, 7.0))
    short = plain_params(sos=sos[None], n_sections=np.array([3]))
    padded = plain_params(sos=np.vstack([sos, [IDENTITY]])[None], n_sections=np.array([3]))
    x = recording(300, 1)
    a, b = run(kind(short), x), run(kind(padded), x)
    assert isinstance(a, Output)
    assert same_bytes(a, b)
