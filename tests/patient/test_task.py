"""The paradigm as data: what ships is what was designed, a task of one's own is read strictly, and all of it is played."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest

from devices.mock.patient import Patient
from devices.mock.patient_settings import PatientSettings
from devices.mock.task import Cued, TaskError, load_task, shipped, with_text
from loop.config import ConfigError
from loop.marker_check import check_markers
from loop.sources.patient import PatientPlayback, patient_from_identity

OWN = """
[timing]
fixation_s = [0.5, 0.5]
cue_to_outcome_s = 1.0
late_share = 0.0
late_by_s = 0.0
silence_s = 0.5
rating_s = [1.0, 1.0]
pause_s = [1.0, 1.0]

[blocks.A]
kind = "cued"
trials = 2
cues = { H = 1.0, L = 0.0 }
rated_share = 0.0
"""

WHOLE = PatientSettings(
    seed=5,
    group="HC",
    sfreq_hz=128.0,
    labels=("PO10",),
    background_uv=0.0,
    alpha_uv=0.0,
    muscle_uv=0.0,
    sensor_uv=0.0,
    blink_uv=0.0,
    rest_s=0.0,
    duration_s=7200.0,
    blocks=("R", "I", "A", "P", "V", "T", "O"),
    rounds=1,
)


@pytest.fixture(scope="module")
def whole() -> tuple[list[tuple[int, str]], Patient]:
    patient = Patient(WHOLE)
    _, markers = patient.advance(patient.n_samples, 0.0)
    return markers, patient


def test_the_blocks_last_as_long_as_designed(whole: tuple[list[tuple[int, str]], Patient]) -> None:
    markers, patient = whole
    at = {text: sample / 128.0 / 60.0 for sample, text in markers if text.startswith("BLOCK/")}
    minutes = {name: at[f"BLOCK/{name}/END"] - at[f"BLOCK/{name}/START"] for name in WHOLE.blocks}
    designed = {"R": 5.0, "I": 16.0, "A": 8.0, "P": 16.0, "V": 8.0, "T": 21.0, "O": 8.0}
    assert minutes == pytest.approx(designed, rel=0.15)
    assert [text for _, text in markers if text.startswith("BLOCK/")] == [
        f"BLOCK/{name}/{end}" for name in WHOLE.blocks for end in ("START", "END")
    ]
    assert markers[-1][1] == "SESSION/END"
    assert 60.0 < patient.n_samples / 128.0 / 60.0 < 90.0


def test_what_is_played_lacks_nothing_that_check_looks_for(whole: tuple[list[tuple[int, str]], Patient]) -> None:
    marks = [(round(sample * 1e9 / 128.0), text) for sample, text in whole[0]]
    found = check_markers(marks, {}, (0.6, 1.0, 1.0), implied=False)
    assert [one for one in found if one.state != "ok"] == []
    assert {"block T", "block O"} < {one.use for one in found}


def test_shares_are_those_of_the_file(whole: tuple[list[tuple[int, str]], Patient]) -> None:
    markers, patient = whole
    by_block = Counter(truth.block for truth in patient.truth)
    assert by_block == {"I": 80, "A": 40, "P": 80, "V": 40, "T": 840, "O": 30}
    noxious = Counter((truth.block, truth.cue) for truth in patient.truth if truth.noxious)
    trials = Counter((truth.block, truth.cue) for truth in patient.truth)
    share = {key: noxious[key] / n for key, n in trials.items()}
    assert share["A", "H"] == share["V", "L"] == share["I", "P100/I2"] == share["O", "P100/I2"] == 1.0
    assert share["A", "L"] == share["V", "H"] == share["I", "P0/I1"] == 0.0
    assert share["P", "H"] == pytest.approx(0.75, abs=0.03)
    assert share["I", "P75/I1"] == 0.75
    others = Counter(truth.outcome for truth in patient.truth if truth.block == "P" and not truth.noxious)
    assert others["INN"] == pytest.approx(others["OMIT"], abs=2)
    cued = [truth for truth in patient.truth if truth.place == 0]
    assert sum(truth.late for truth in cued) == 27
    waits = {truth.late: truth.outcome_sample - truth.cue_sample for truth in cued}
    assert waits == {False: round(2.0 * 128), True: round(2.0 * 128) + round(0.6 * 128)}
    fixed = [truth for truth in patient.truth if truth.intensity == 45]
    assert {truth.block for truth in fixed} == {"P"}
    assert len(fixed) / noxious.total() == pytest.approx(8 / 140, abs=0.02)
    rated = sum(text.startswith("RATE/PAIN/") for _, text in markers)
    assert 0.4 < rated / len(cued) < 0.6
    assert 20 < sum(text.startswith("RATE/EXPECT/") for _, text in markers) < 60
    assert sum(text == "RESP/AWARE/1" for _, text in markers) == 2


def test_trains_keep_their_beat(whole: tuple[list[tuple[int, str]], Patient]) -> None:
    markers, patient = whole
    assert Counter(text.split("/")[2] for _, text in markers if text.startswith("TRAIN/")) == {"reg": 60, "jit": 60}
    touches = [truth for truth in patient.truth if truth.block == "T"]
    trains = [touches[k : k + 7] for k in range(0, len(touches), 7)]
    beat = 1.487 * 128.0
    for train in trains:
        assert [truth.place for truth in train] == [1, 2, 3, 4, 5, 6, 7]
        assert [truth.outcome for truth in train] == ["INN"] * 6 + ["OMIT"]
        moved = np.array([truth.outcome_sample - train[0].outcome_sample for truth in train]) - beat * np.arange(7)
        assert np.abs(moved[[1, 2, 6]]).max() < 1.5
        assert np.abs(moved).max() < (1.5 if train[0].cue == "reg" else 0.15 * beat + 1.5)
    spread = [np.std(np.diff([t.outcome_sample for t in train[:6]])) for train in trains if train[0].cue == "jit"]
    assert np.mean(spread) > 0.05 * beat
    # An omission is the worse the surer the beat was; a new train surprises.
    last = {kind: np.mean([train[6].pe for train in trains if train[0].cue == kind]) for kind in ("reg", "jit")}
    assert last["reg"] > 1.4 * last["jit"]
    assert np.mean([train[0].pe for train in trains]) > 1.4 * np.mean([train[5].pe for train in trains])


def test_heat_ends_when_the_cue_says_and_that_is_learned(whole: tuple[list[tuple[int, str]], Patient]) -> None:
    markers, patient = whole
    starts = {truth.number: truth.outcome_sample for truth in patient.truth}
    lasted = Counter(round((end.off_sample - starts[end.number]) / 128.0, 1) for end in patient.offsets)
    assert lasted == {2.0: 27, 2.6: 3}
    assert [sample for sample, text in markers if text == "STIM_OFF"] == [end.off_sample for end in patient.offsets]
    on_time = [end.pe for end in patient.offsets if not end.late]
    assert np.mean(on_time[-10:]) < 0.6 * on_time[0]
    assert min(end.pe for end in patient.offsets if end.late) > np.mean(on_time[-10:])


def test_rest_is_marked_by_what_is_done_in_it(whole: tuple[list[tuple[int, str]], Patient]) -> None:
    at = {text: sample / 128.0 for sample, text in whole[0]}
    assert at["NOTE/eyes_closed"] == pytest.approx(127.0, abs=0.01)
    for kind in ("clench", "blink"):
        assert at[f"ART/{kind}/OFF"] - at[f"ART/{kind}/ON"] == pytest.approx(20.0, abs=0.01)


def test_a_task_of_ones_own_is_played(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(OWN)
    settings = msgspec.structs.replace(WHOLE, task=str(file), blocks=("A",), rounds=2)
    playback = PatientPlayback(settings)
    block = playback.read(100_000, 0.0)
    assert block is not None
    assert len(block.samples) == playback.n_samples == pytest.approx(4 * 128 * 3.0, abs=40)
    assert [text for _, text in block.markers if text.startswith("CUE/")].count("CUE/H") == 2
    # The patient can be made again once the file is gone.
    file.unlink()
    again = patient_from_identity(playback.info.identity)
    repeated = again.read(100_000, 0.0)
    assert repeated is not None
    assert np.array_equal(repeated.samples, block.samples)
    assert again.info == playback.info
    with pytest.raises(ConfigError, match=r"table `patient`: task .*own.toml: No such file"):
        PatientPlayback(settings)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("trials = 2", "trials = 0"), r"trials"),
        (("trials = 2", "trials = 1"), "block A: 1 trials are fewer than its 2 cues"),
        (("trials = 2", "trials = 2\nstated = [50]"), "needs either `cues` .* or `stated` .*, not both"),
        (("cues = { H = 1.0, L = 0.0 }\n", ""), "needs either"),
        (("H = 1.0", "X = 1.0"), "X"),
        (("H = 1.0", "H = 1.5"), "1.0"),
        (("H = 1.0", 'H = "1"'), "Expected `float`"),
        (("rated_share", "rate_share"), "unknown field `rate_share`"),
        (("[blocks.A]", "[blocks.B]"), "B"),
        (('kind = "cued"', 'kind = "other"'), "other"),
        (("pause_s = [1.0, 1.0]", "pause_s = [2.0, 1.0]"), "timing.pause_s: from 2 to 1 s is no span"),
        (("[timing]", "[timing"), "not TOML"),
    ],
)
def test_a_task_is_read_strictly(change: tuple[str, str], why: str) -> None:
    assert change[0] in OWN
    with pytest.raises(TaskError, match=why) as caught:
        load_task(OWN.replace(*change, 1))
    assert "\n" not in str(caught.value).split(": not TOML")[0]


def test_blocks_and_names_that_do_not_exist_are_named() -> None:
    with pytest.raises(ValueError, match="blocks T: the task has only A"):
        Patient(msgspec.structs.replace(WHOLE, task=OWN, blocks=("T",)))
    with pytest.raises(TaskError, match="task nothing: neither a file NAME.toml nor one that ships; there are: paradigm"):
        load_task("nothing")
    assert with_text(WHOLE) is WHOLE
    assert all(load_task(name).blocks for name in shipped())
    told = load_task("paradigm").blocks["I"]
    assert isinstance(told, Cued)
    assert told.stated == (0, 25, 50, 75, 100)


def test_trains_that_make_no_sense_are_refused() -> None:
    lines = ["[blocks.T]", 'kind = "trains"', "regular = 0", "jittered = 0", "touches = 3", "interval_s = 1.0", "jitter = 0.1"]
    trains = "\n".join(["", *lines, "jitter_from = 4", ""])
    with pytest.raises(TaskError, match="block T: no trains"):
        load_task(OWN + trains)
    with pytest.raises(TaskError, match="`jitter_from` is 4, beyond the 3 touches"):
        load_task(OWN + trains.replace("regular = 0", "regular = 1"))
