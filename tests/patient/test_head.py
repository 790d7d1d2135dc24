"""The sphere: against the series that its formula sums, and where the sources are seen."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import eval_legendre

from devices.mock import head
from devices.mock.patient_settings import LABELS


def test_the_closed_form_sums_its_series() -> None:
    directions = head.electrode_directions(LABELS)
    source = head.from_mni(head.CRUS_RIGHT)
    f = 0.6 * float(np.linalg.norm(source))
    cosine = directions @ (source / np.linalg.norm(source))
    series = sum((2 * n + 1) * f ** (n - 1) * eval_legendre(n, cosine) for n in range(1, 120))
    expected_uv = 1e6 * 1e-9 / (4.0 * math.pi * 0.33 * 0.099**2) * series
    assert head.radial_dipole(directions, source) == pytest.approx(expected_uv, rel=1e-9)


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
