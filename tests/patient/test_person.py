"""Beliefs, ratings and misleading activity: each does what the list of assumptions says."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from devices.mock.assumptions import ASSUMPTIONS
from devices.mock.patient import Patient
from devices.mock.patient_settings import PatientSettings
from devices.mock.person import Person

STILL = PatientSettings(
    rest_s=0.0, labels=("PO10",), background_uv=0.0, alpha_uv=0.0, muscle_uv=0.0, sensor_uv=0.0, blink_uv=0.0, line_uv=0.0,
    sfreq_hz=128.0,
)  # fmt: skip


def record(given: PatientSettings, current_ua: float = 0.0) -> tuple[np.ndarray, list[tuple[int, str]], Patient]:
    patient = Patient(given)
    samples, markers = patient.advance(patient.n_samples, current_ua)
    return samples.astype(np.float64), markers, patient


def ratings(markers: list[tuple[int, str]], kind: str) -> list[int]:
    return [int(text.rsplit("/", 1)[1]) for _, text in markers if text.startswith(f"RATE/{kind}/")]


def test_every_assumption_has_a_status_and_a_name_of_its_own() -> None:
    assert {entry.status for entry in ASSUMPTIONS} == {"E", "S", "A"}
    names = [entry.name for entry in ASSUMPTIONS]
    assert len(set(names)) == len(names) > 80
    # Whatever is more than assumed says from where.
    assert [entry.name for entry in ASSUMPTIONS if entry.status == "S" and not entry.source] == []


def test_profiles_differ_in_what_misleads_and_each_part_can_be_set_alone() -> None:
    plain = msgspec.structs.replace(STILL, profile="plain", duration_s=60.0)
    assert [plain.sized(name) for name in ("sensory_nam", "anticipation_nam", "timing_error", "startle")] == [0.0] * 4
    assert msgspec.structs.replace(plain, startle=2.0).sized("startle") == 2.0
    assert msgspec.structs.replace(plain, profile="full").sized("startle") == 1.0
    assert msgspec.structs.replace(plain, profile="full", startle=0.0).sized("startle") == 0.0
    silent = msgspec.structs.replace(plain, pe_amplitude_nam=0.0, vertex_uv=0.0, vertex_pe_uv=0.0, visual_uv=0.0)
    for name in ("sensory_nam", "anticipation_nam"):
        more = record(msgspec.structs.replace(silent, **{name: 4.0}))[0]
        assert np.abs(more - record(silent)[0]).max() > 0.3


def test_a_late_outcome_is_an_error_when_it_was_due() -> None:
    settings = msgspec.structs.replace(STILL, duration_s=900.0, blocks=("P",), profile="plain")
    calm, _, patient = record(settings)
    moved, _, _ = record(msgspec.structs.replace(settings, timing_error=1.0))
    difference = np.abs(moved - calm)[:, 0]
    late = [truth for truth in patient.truth if truth.late]
    assert len(late) >= 7
    for truth in late:
        due = truth.outcome_sample - round(0.6 * 128)
        assert difference[due : due + 80].max() > 0.05
        difference[due : due + 130] = 0.0
    assert difference.max() == 0.0


def test_pain_ratings_follow_stimulus_expectation_and_the_effect_of_current() -> None:
    settings = msgspec.structs.replace(STILL, duration_s=1500.0, group="HC", blocks=("A", "P"), plasticity="reversed", seed=2)
    _, markers, patient = record(settings)
    assert patient.person.response[1] < 0.0
    felt = ratings(markers, "PAIN")
    assert max(felt) > 45
    assert min(felt) < 15
    _, worse, _ = record(settings, -2000.0)
    high = [np.mean([x for x in ratings(given, "PAIN")[-20:] if x > 25]) for given in (markers, worse)]
    assert high[1] > high[0] + 2.0


def test_expectation_ratings_tell_what_is_believed() -> None:
    settings = msgspec.structs.replace(STILL, duration_s=3000.0, group="HC", blocks=("A",), seed=3)
    _, markers, patient = record(settings)
    cues = {truth.number: truth.cue for truth in patient.truth}
    asked = [(sample, int(text.rsplit("/", 1)[1])) for sample, text in markers if text.startswith("RATE/EXPECT/")]
    told: dict[str, list[int]] = {"H": [], "L": []}
    for sample, value in asked:
        number = max(truth.number for truth in patient.truth if truth.outcome_sample < sample)
        told[cues[number]].append(value)
    assert np.mean(told["H"]) > np.mean(told["L"]) + 40.0


def test_groups_differ_in_awareness() -> None:
    aware = {
        group: np.mean([Person(msgspec.structs.replace(STILL, seed=seed, group=group)).is_aware() for seed in range(200)])
        for group in ("HC", "CC", "FM")
    }
    assert aware["HC"] == 1.0 > aware["CC"] > aware["FM"]
    assert 0.4 < aware["FM"] < 0.6


def test_the_error_at_offset_has_a_size_of_its_own() -> None:
    settings = msgspec.structs.replace(STILL, duration_s=120.0, blocks=("O",), profile="plain", vertex_pe_uv=0.0)
    with_it, _, patient = record(settings)
    without, _, silent = record(msgspec.structs.replace(settings, offset_share=0.0))
    difference = np.abs(with_it - without)[:, 0]
    assert len(patient.offsets) >= 5
    for end in patient.offsets:
        assert difference[end.off_sample : end.off_sample + 100].max() > 0.05
        difference[end.off_sample : end.off_sample + 130] = 0.0
    assert difference.max() == 0.0
    assert {end.pe for end in silent.offsets} == {0.0}


def test_state_dependent_plasticity_builds_up_faster_while_errors_are_large() -> None:
    settings = msgspec.structs.replace(STILL, duration_s=200.0, group="FM", seed=2)
    effects = [abs(record(msgspec.structs.replace(settings, state_dependence=x), -2000.0)[2].person.effect) for x in (0.0, 2.0)]
    large = np.mean([truth.pe for truth in record(settings)[2].truth]) > 0.5
    assert (effects[1] > effects[0]) == large
    assert effects[1] != effects[0]


@pytest.mark.parametrize("blocks", [("T",), ("O",), ("R", "A")])
def test_chunking_is_invariant_in_every_kind_of_block(blocks: tuple[str, ...]) -> None:
    settings = msgspec.structs.replace(STILL, duration_s=40.0, blocks=blocks, sensor_uv=0.6)
    whole, chopped = Patient(settings), Patient(settings)
    parts = [whole.advance(2000, -300.0), whole.advance(4000, 0.0)]
    pieces = [chopped.advance(7 if at < 1995 else 2000 - 1995, -300.0) for at in range(0, 2000, 7)]
    pieces += [chopped.advance(13, 0.0) for _ in range(0, 4000, 13)]
    assert b"".join(x.tobytes() for x, _ in parts) == b"".join(x.tobytes() for x, _ in pieces)
    assert [m for _, ms in parts for m in ms] == [m for _, ms in pieces for m in ms]
    assert whole.truth == chopped.truth
    assert whole.offsets == chopped.offsets
