"""Labels in every spelling, and where they lie."""

from __future__ import annotations

import mne
import numpy as np
import pytest

from loop.montage import is_eeg_label, spherical_position, standard_label


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Oz..", "Oz"),
        ("Fc5.", "FC5"),
        ("Afz.", "AFz"),
        ("EEG Fp1-Ref", "Fp1"),
        ("EEG PO10-LE", "PO10"),
        ("eeg:fcz", "FCz"),
        ("cz-A1", "Cz"),
        (" po10 ", "PO10"),
        ("T3", "T7"),
        ("t6", "P8"),
        ("O9", "I1"),
        ("O10", "I2"),
        ("CB1", "PO9"),
        ("cb2", "PO10"),
        ("ppo9h", "PPO9h"),
    ],
)
def test_a_makers_spelling_becomes_the_standard_one(given: str, expected: str) -> None:
    assert standard_label(given) == expected
    assert is_eeg_label(given)
    assert spherical_position(given) == spherical_position(expected)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("Right AUX", "Right AUX"),
        ("EOG1", "EOG1"),
        (" E12. ", "E12"),
        ("P3-Pz", "P3-Pz"),
        ("EEG 001", "EEG 001"),
        ("", ""),
    ],
)
def test_what_is_no_site_is_kept_and_told_apart(given: str, kept: str) -> None:
    assert standard_label(given) == kept
    assert not is_eeg_label(given)
    assert spherical_position(given) is None


def test_standardizing_twice_changes_nothing() -> None:
    for label in ("EEG Fp1-Ref", "Oz..", "CB2", "Right AUX", "T3"):
        assert standard_label(standard_label(label)) == standard_label(label)


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    return mne.channels.make_standard_montage("colin27_1005").get_positions()["ch_pos"]


def test_every_site_that_mne_knows_is_known(reference: dict[str, np.ndarray]) -> None:
    assert [name for name in reference if not is_eeg_label(name)] == []


def test_directions_are_those_of_a_measured_head(reference: dict[str, np.ndarray]) -> None:
    names = [name for name in reference if (standard_label(name) == name and name[0] not in "AM") or name[:2] == "AF"]
    places = np.array([reference[name] for name in names])
    ours = np.array([spherical_position(name) for name in names])
    # The sphere that fits best, and the rotation that turns one head onto the other.
    table = np.c_[2.0 * places, np.ones(len(places))]
    centre = np.linalg.lstsq(table, (places**2).sum(axis=1), rcond=None)[0][:3]
    measured = (places - centre) / np.linalg.norm(places - centre, axis=1)[:, None]
    left, _, right = np.linalg.svd(measured.T @ ours)
    cosines = np.sum(measured @ (left @ right) * ours, axis=1)
    degrees = np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0)))
    assert len(names) > 300
    assert degrees.mean() < 4.0
    assert degrees.max() < 9.0
    assert np.linalg.norm(ours, axis=1) == pytest.approx(1.0)


def test_left_and_right_mirror_each_other() -> None:
    for left, right in (("PO9", "PO10"), ("I1", "I2"), ("C3", "C4"), ("TP9", "TP10"), ("AF7", "AF8")):
        x, y, z = spherical_position(left) or (0.0, 0.0, 0.0)
        assert x < 0.0
        assert spherical_position(right) == pytest.approx((-x, y, z))
