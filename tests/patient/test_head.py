"""The sphere: against a closed form and MNE's own, and where the sources are seen."""

from __future__ import annotations

import math

import mne
import numpy as np
import pytest

from devices.mock import head
from devices.mock.patient_settings import LABELS


def test_without_layers_the_series_is_the_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """The homogeneous sphere has one (Brody et al. 1973); all four shells of one conductivity are one."""
    monkeypatch.setattr(head, "_SHELLS", tuple((radius, 0.33) for radius, _ in head._SHELLS))
    head._layer_weights.cache_clear()
    directions = head.electrode_directions(LABELS)
    source = head.from_mni(head.CRUS_RIGHT)
    moment = np.array([0.3, -1.0, 0.5])
    apart = directions - source
    d = np.linalg.norm(apart, axis=1, keepdims=True)
    near = (directions + apart / d) / (1.0 - directions @ source[:, None] + d)
    expected_uv = 1e-3 / (4.0 * math.pi * 0.33 * 0.099**2) * (2.0 * apart / d**3 + near) @ moment
    try:
        assert head.dipole(directions, source, moment) == pytest.approx(expected_uv, rel=1e-9)
    finally:
        head._layer_weights.cache_clear()


@pytest.mark.parametrize("moment", [(0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.4, -0.8, 0.2)])
def test_it_is_the_sphere_of_mne(moment: tuple[float, float, float]) -> None:
    positions_m = np.array(head.electrode_positions_m(LABELS))
    info = mne.create_info(list(LABELS), 500.0, "eeg")
    info.set_montage(mne.channels.make_dig_montage(dict(zip(LABELS, positions_m, strict=True)), coord_frame="head"))
    centre = np.array(head.CENTRE_M)
    sphere = mne.make_sphere_model(centre, head.RADIUS_M, info, verbose="ERROR")
    directions = head.electrode_directions(LABELS)
    for place in (head.CRUS_RIGHT, head.VIIB_LEFT, head.VISUAL, head.MIDCINGULATE):
        source = head.from_mni(place)
        at = {"rr": (centre + head.RADIUS_M * source)[None], "nn": np.array([[0.0, 0.0, 1.0]])}
        space = mne.setup_volume_source_space(pos=at, sphere=sphere, sphere_units="m", verbose="ERROR")
        forward = mne.make_forward_solution(info, None, space, sphere, meg=False, verbose="ERROR")
        theirs_uv = 1e-3 * forward["sol"]["data"] @ np.array(moment)
        ours_uv = head.dipole(directions, source, np.array(moment))
        theirs_uv, ours_uv = theirs_uv - theirs_uv.mean(), ours_uv - ours_uv.mean()
        assert np.corrcoef(theirs_uv, ours_uv)[0, 1] > 0.999
        assert np.linalg.norm(ours_uv) == pytest.approx(np.linalg.norm(theirs_uv), rel=0.02)


def test_control_places_show_elsewhere() -> None:
    directions = head.electrode_directions(LABELS)
    own = head.error_topography(directions, "posterior_fossa")
    like = {
        site: float(np.corrcoef(own, head.error_topography(directions, site))[0, 1])
        for site in ("V1", "midcingulate", "wrong_lobule", "rotated")
    }
    assert like["midcingulate"] < 0.0 < like["V1"] < 0.7 < like["rotated"] < 0.9 < like["wrong_lobule"] < 0.99


@pytest.mark.parametrize(
    ("place", "at"),
    [
        (head.CRUS_RIGHT, "PO10"),
        (head.CRUS_LEFT, "PO9"),
        (head.VISUAL, "Oz"),
        (head.MIDCINGULATE, ("FCz", "Cz")),
    ],
)
def test_sources_are_seen_where_they_should_be(place: head.Point, at: str | tuple[str, ...]) -> None:
    potential = head.radial_dipole(head.electrode_directions(LABELS), head.from_mni(place))
    assert LABELS[int(np.argmax(potential))] in at


def test_ten_nam_in_the_cerebellum_are_one_to_two_microvolts() -> None:
    potential = 10.0 * head.radial_dipole(head.electrode_directions(LABELS), head.from_mni(head.CRUS_RIGHT))
    assert 1.0 < float(np.max(potential - potential.mean())) < 2.2


def test_the_two_hemispheres_mirror_each_other() -> None:
    labels = ("PO9", "PO10", "I1", "I2", "C3", "C4")
    swapped = ("PO10", "PO9", "I2", "I1", "C4", "C3")
    left = head.radial_dipole(head.electrode_directions(labels), head.from_mni(head.CRUS_LEFT))
    right = head.radial_dipole(head.electrode_directions(swapped), head.from_mni(head.CRUS_RIGHT))
    assert left == pytest.approx(right)


def test_positions_are_those_of_a_head() -> None:
    places = dict(zip(LABELS, head.electrode_positions_m(LABELS), strict=True))
    assert places["Cz"] == pytest.approx((0.0, 0.012, 0.139))
    assert places["PO10"][0] > 0.03
    assert places["PO10"][1] < -0.04


def test_what_fades_is_one_where_it_is_worst() -> None:
    directions = head.electrode_directions(("Oz", "Iz", "Fz"))
    share = head.fading(directions, directions[1], 0.035)
    assert share[1] == 1.0
    assert share[1] > share[0] > share[2]
