"""Spatial filters: MNE's own weights, hemispheres apart, pads paid for, and a source in the patient found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mne
import numpy as np
import pytest
from calibration_rest import ALL, SFREQ_HZ, judge, without
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from devices.mock import head as mock_head
from devices.mock.patient_settings import LABELS
from loop.calibration.errors import CalibrationError
from loop.calibration.rest import RestStatistics
from loop.calibration.spatial import (
    RECOMMENDED,
    RHO,
    HeadModel,
    head_model,
    lcmv_weights,
    lead_fields,
    pattern,
    relative_sensitivity,
    sensitivity,
)
from loop.estimator import design

RIGHT_PAD = without("PO10", "I2", "P10", "O2")
BOTH_PADS = RIGHT_PAD & without("PO9", "I1", "P9", "O1")
TEN_TWENTY = np.isin(
    LABELS,
    ["Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "T7", "C3", "Cz", "C4", "T8", "P7", "P3", "Pz", "P4", "P8", "O1", "O2"],
)


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return head_model(LABELS)


@pytest.fixture(scope="module")
def rest(rest_uv: np.ndarray) -> RestStatistics:
    return judge(rest_uv)


@pytest.fixture(scope="module")
def solution() -> Any:
    """A free-orientation forward solution of the sphere, with sources at, and away from, the posterior fossa."""
    sphere = mne.make_sphere_model((-0.0011, 0.0121, 0.0401), 0.099, verbose="ERROR")
    info = mne.create_info(list(LABELS), 500.0, "eeg", verbose="ERROR")
    info.set_montage("colin27_1005", verbose="ERROR")
    grid = 1e-3 * np.array(
        [(x, y, z) for x in range(-45, 46, 6) for y in range(-62, -20, 6) for z in range(-14, 30, 6)]
        + [(-2, -60, 47), (40, 40, 60), (0, 60, 60)]
    )
    return forward_of(info, sphere, grid)


def forward_of(info: Any, sphere: Any, grid: np.ndarray) -> Any:
    away = grid - sphere["r0"]
    space = mne.setup_volume_source_space(
        pos={"rr": grid, "nn": away / np.linalg.norm(away, axis=1, keepdims=True)},
        sphere=sphere,
        sphere_units="m",
        verbose="ERROR",
    )
    return mne.make_forward_solution(info, None, space, sphere, meg=False, verbose="ERROR")


def alike(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


@pytest.mark.parametrize("weight_norm", [None, "unit-noise-gain"])
def test_weights_are_those_of_mne(head: HeadModel, rest: RestStatistics, solution: Any, weight_norm: str | None) -> None:
    used = without("PO10", "F3")
    names = [label for label, one in zip(LABELS, used, strict=True) if one]
    fields = lead_fields(head, used)
    info = mne.create_info(names, 500.0, "eeg", verbose="ERROR")
    info.set_montage("colin27_1005", verbose="ERROR")
    raw = mne.io.RawArray(np.zeros((len(names), 10)), info, verbose="ERROR")
    raw.set_eeg_reference(projection=True, verbose="ERROR")
    picked = mne.pick_channels_forward(solution, names, verbose="ERROR")
    fixed = mne.convert_forward_solution(picked, force_fixed=True, verbose="ERROR")
    both = [fields.left, fields.right]
    fixed["sol"]["data"] = np.tile(np.column_stack(both)[used], (1, fixed["nsource"] // 2 + 1))[:, : fixed["nsource"]]
    for band, covariance in (("theta", rest.covariance_theta), ("beta", rest.covariance_beta)):
        within = covariance[np.ix_(used, used)]
        centred = within - within.mean(axis=0) - within.mean(axis=1, keepdims=True) + within.mean()
        spread = np.zeros_like(covariance)
        spread[np.ix_(used, used)] = centred
        theirs = mne.beamformer.make_lcmv(
            raw.info,
            fixed,
            mne.Covariance(centred * 1e-12, names, [], [], nfree=1000, verbose="ERROR"),
            reg=RHO,
            pick_ori=None,
            weight_norm=weight_norm,
            rank=None,
            verbose="ERROR",
        )["weights"]
        for row, lead in enumerate(both):
            ours = lcmv_weights(spread, lead, used)[used]
            mine = theirs[row] / np.linalg.norm(theirs[row])
            mine *= np.sign(mine @ ours)
            most = float(abs(mine - ours).max())
            print(f"\nmake_lcmv {band} {('left', 'right')[row]} {weight_norm}: r {alike(mine, ours):.3f}, max diff {most:.1e}")
            assert alike(mine, ours) == pytest.approx(1.0, abs=1e-12)
            assert most <= 1e-10


def test_a_filter_is_of_unit_norm_passes_its_side_and_ignores_what_is_common(head: HeadModel, rest: RestStatistics) -> None:
    for used in (ALL, RIGHT_PAD, BOTH_PADS):
        fields = lead_fields(head, used)
        covariance = rest.covariance_beta * np.outer(used, used)
        for lead in (fields.left, fields.right):
            weights = lcmv_weights(covariance, lead, used)
            assert np.linalg.norm(weights) == pytest.approx(1.0)
            assert not weights[~used].any()
            assert weights @ lead > 0.0


@given(scale=st.floats(1e-6, 1e6), rho=st.floats(0.001, 1.0), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_the_filter_does_not_depend_on_the_unit_and_no_other_of_its_gain_is_quieter(
    scale: float, rho: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    n = 9
    mixing, lead, used = rng.normal(size=(n, n)), rng.normal(size=n), np.ones(n, dtype=np.bool_)
    covariance = mixing @ mixing.T
    weights = lcmv_weights(covariance, lead, used, rho)
    np.testing.assert_allclose(lcmv_weights(scale * covariance, lead, used, rho), weights, rtol=1e-6, atol=1e-9)
    loaded = covariance + rho * np.trace(covariance) / n * np.eye(n)
    other = weights + 0.1 * rng.normal(size=n)
    noise = [float(w @ loaded @ w) / float(w @ lead) ** 2 for w in (weights, other)]
    assert noise[0] <= noise[1] * (1.0 + 1e-9)


def test_hemispheres_can_be_told_apart_and_lobules_cannot(head: HeadModel) -> None:
    fields = lead_fields(head, ALL)
    assert alike(fields.left, fields.right) < 0.4
    for side in (head.left, head.right):
        assert np.corrcoef(side).min() > 0.9


def test_ten_nam_show_one_to_three_microvolts(head: HeadModel) -> None:
    fields = lead_fields(head, ALL)
    for side in (fields.left_uv_per_nam, fields.right_uv_per_nam):
        assert 1.0 < 10.0 * np.ptp(side) < 3.0
    strongest = np.argmax(np.abs(fields.right_uv_per_nam))
    assert LABELS[strongest] in {"P10", "PO10", "I2"}


def test_the_model_agrees_with_the_simulated_head_that_it_does_not_know(head: HeadModel) -> None:
    directions = mock_head.electrode_directions(LABELS)
    fields = lead_fields(head, ALL)
    for field, place in ((fields.left, mock_head.CRUS_LEFT), (fields.right, mock_head.CRUS_RIGHT)):
        simulated = mock_head.radial_dipole(directions, mock_head.from_mni(place))
        r = alike(field, simulated)
        print(f"\nlead field against the simulated head: r {r:.3f}")
        assert r > 0.95


def test_measured_positions_are_used_and_a_missing_one_is_looked_up(head: HeadModel) -> None:
    measured = np.array(mock_head.electrode_positions_m(LABELS))
    small = head_model(LABELS, (measured - mock_head.CENTRE_M) * 0.85 + mock_head.CENTRE_M)
    assert "84 mm" in small.kind
    full = lead_fields(head_model(LABELS, measured), ALL)
    assert np.ptp(lead_fields(small, ALL).right_uv_per_nam) > 1.2 * np.ptp(full.right_uv_per_nam)
    partly = measured.copy()
    partly[LABELS.index("Cz")] = 0.0
    partly[LABELS.index("Oz")] = np.nan
    found = head_model(LABELS, partly)
    assert found.placed.all()
    assert alike(lead_fields(found, ALL).left, full.left) > 0.98
    # Positions that make no head are not believed: a wild digitisation, a template's sphere about the origin.
    template = head_model(LABELS, 0.1 * mock_head.electrode_directions(LABELS))
    np.testing.assert_array_equal(template.left, head.left)
    assert "99 mm" in head_model(LABELS, np.where(measured[:, 2:] > 0.1, measured, 3.0 * measured)).kind
    assert "99 mm" in head.kind


def test_a_channel_without_a_place_is_named() -> None:
    labels = ("Fp1", "Cz", "EEG Oz-Ref", "O9", "Speaker", "PO10")
    found = head_model(labels)
    assert found.placed.tolist() == [True, True, True, True, False, True]
    used = np.ones(len(labels), dtype=np.bool_)
    with pytest.raises(CalibrationError, match=r"no place for Speaker; list them"):
        lead_fields(found, used)
    used[4] = False
    assert not lead_fields(found, used).left[4]
    with pytest.raises(CalibrationError, match="needs places"):
        head_model(("A", "B"))


def test_what_pads_cost(head: HeadModel) -> None:
    recommended = head_model(RECOMMENDED)
    everywhere = np.ones(len(RECOMMENDED), dtype=np.bool_)
    size = {"brain_uv": 2.2, "noise_uv": 0.25}
    seen = {}
    for name, used in (("PO10", without("PO10")), ("right pad", RIGHT_PAD), ("both pads", BOTH_PADS), ("10-20", TEN_TWENTY)):
        left, right = (relative_sensitivity(head, used, head, ALL, side, **size) for side in ("left", "right"))
        seen[name] = left, right
        print(f"\n{name}: left {left:.2f}, right {right:.2f} of the full cap")
    assert seen["PO10"][0] > 0.98
    assert seen["PO10"][1] < 0.99
    assert seen["right pad"][0] > 0.95
    assert 0.35 < seen["right pad"][1] < 0.7
    assert 0.35 < seen["both pads"][0] < 0.7
    assert seen["10-20"][1] < 0.5
    assert relative_sensitivity(head, ALL, head, ALL, "left", **size) == pytest.approx(1.0)
    assert relative_sensitivity(head, TEN_TWENTY, recommended, everywhere, "left", **size) < 0.5
    assert 0.9 < relative_sensitivity(head, ALL, recommended, everywhere, "left", **size) < 1.2


def test_a_filter_finds_a_source_that_single_electrodes_drown(
    head: HeadModel, rest: RestStatistics, rest_uv: np.ndarray
) -> None:
    """The source lies where the simulated patient has it, in the simulated patient's own head."""
    rng = np.random.default_rng(8)
    beta = design(SFREQ_HZ, 50.0).beta
    course = signal.sosfilt(beta, rng.normal(size=len(rest_uv)))
    course *= 12.0 / course[rest.clean].std()
    directions = mock_head.electrode_directions(LABELS)
    field = mock_head.radial_dipole(directions, mock_head.from_mni(mock_head.CRUS_RIGHT))
    eeg = rest_uv + course[:, None] * field
    eeg = eeg - eeg.mean(axis=1, keepdims=True)
    bare = signal.sosfilt(beta, eeg, axis=0)[rest.clean]
    truth = signal.sosfilt(beta, course)[rest.clean]
    fields = lead_fields(head, ALL)
    weights = {
        "right": lcmv_weights(rest.covariance_beta, fields.right, ALL),
        "left": lcmv_weights(rest.covariance_beta, fields.left, ALL),
        "PO10": (np.array(LABELS) == "PO10").astype(np.float64),
    }
    r = {name: alike(bare @ w, truth) for name, w in weights.items()}
    print("\ncorrelation with a source of 12 nAm:", {name: round(value, 2) for name, value in r.items()})
    assert r["right"] > r["PO10"] + 0.1
    assert r["right"] > abs(r["left"]) + 0.4


def test_sensitivity_is_gain_over_rest_and_leaks_are_small(head: HeadModel, rest: RestStatistics) -> None:
    for side, other in (("left", "right"), ("right", "left")):
        fields = lead_fields(head, ALL)
        weights = lcmv_weights(rest.covariance_beta, getattr(fields, side), ALL)
        found = sensitivity(head, ALL, side, weights, rest.covariance_beta)
        assert found.gain_uv_per_nam == pytest.approx(weights @ getattr(fields, f"{side}_uv_per_nam"))
        assert found.noise_uv == pytest.approx(np.sqrt(weights @ rest.covariance_beta @ weights))
        assert found.equal_nam * found.gain_uv_per_nam == pytest.approx(found.noise_uv)
        crossed = abs(weights @ getattr(fields, f"{other}_uv_per_nam")) / found.gain_uv_per_nam
        assert found.other_side == pytest.approx(crossed)
        assert max(found.other_side, found.visual, found.midcingulate) < 0.4
        assert 1.0 < found.equal_nam < 30.0


def test_a_pattern_is_what_the_filter_responds_to(rest: RestStatistics) -> None:
    """In data that are one source and white noise, the pattern is the source's topography."""
    rng = np.random.default_rng(1)
    field, weights = rng.normal(size=6), rng.normal(size=6)
    covariance = 1e4 * np.outer(field, field) + 1e-3 * np.eye(6)
    assert abs(alike(pattern(covariance, weights), field)) > 0.9999
    assert pattern(rest.covariance_beta, np.eye(len(LABELS))[0])[0] == pytest.approx(1.0)


def test_a_participants_own_forward_solution(tmp_path: Path, solution: Any, head: HeadModel) -> None:
    path = tmp_path / "P001-fwd.fif"
    mne.write_forward_solution(path, solution, verbose="ERROR")
    own = head_model(LABELS, None, path)
    assert "P001-fwd.fif" in own.kind
    ours, theirs = lead_fields(own, ALL), lead_fields(head, ALL)
    for side in ("left", "right"):
        assert alike(getattr(ours, side), getattr(theirs, side)) > 0.99
    # There is no source near the midcingulate cortex in it, so that stays the sphere's; near V1 there is one.
    np.testing.assert_array_equal(own.midcingulate, head.midcingulate)
    assert alike(own.visual, head.visual) > 0.95
    assert (own.visual != head.visual).all()
    # A channel that the solution does not know has no place.
    more = head_model((*LABELS, "CPz"), None, path)
    assert more.placed.tolist() == [True] * len(LABELS) + [False]
    # Fixed orientations that point inwards are turned round.
    fixed = mne.convert_forward_solution(solution, force_fixed=True, verbose="ERROR")
    turned = tmp_path / "turned-fwd.fif"
    fixed["sol"]["data"] = -fixed["sol"]["data"]
    fixed["source_nn"] = -fixed["source_nn"]
    for space in fixed["src"]:
        space["nn"] = -space["nn"]
    mne.write_forward_solution(turned, fixed, verbose="ERROR")
    assert alike(lead_fields(head_model(LABELS, None, turned), ALL).left, theirs.left) > 0.99


def test_a_forward_solution_that_does_not_do_says_what_it_lacks(tmp_path: Path, solution: Any) -> None:
    path = tmp_path / "bad-fwd.fif"
    with pytest.raises(CalibrationError, match="no forward solution"):
        head_model(LABELS, None, path)
    path.write_bytes(b"not a FIF file, but long enough to be taken for one" * 4)
    with pytest.raises(CalibrationError, match="no forward solution"):
        head_model(LABELS, None, path)
    sphere = mne.make_sphere_model((-0.0011, 0.0121, 0.0401), 0.099, verbose="ERROR")
    info = mne.create_info(list(LABELS), 500.0, "eeg", verbose="ERROR")
    info.set_montage("colin27_1005", verbose="ERROR")
    cortex = forward_of(info, sphere, np.array([(0.0, 0.02, 0.09), (0.02, -0.06, 0.06), (0.0, 0.07, 0.06)]))
    mne.write_forward_solution(path, cortex, overwrite=True, verbose="ERROR")
    with pytest.raises(CalibrationError, match=r"nearest source to right Crus I is \d+ mm away.*cerebellar source space"):
        head_model(LABELS, None, path)
    mne.write_forward_solution(path, solution, overwrite=True, verbose="ERROR")
    with pytest.raises(CalibrationError, match="none of this cap's channels"):
        head_model(("AF7", "AF8"), None, path)
