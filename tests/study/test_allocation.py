"""The sealed allocation: balanced, silent without a key, and every unblinding on record."""

from __future__ import annotations

import hashlib
import json
import stat
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from study_sessions import study
from typer.testing import CliRunner

from loop import allocation, cli, sealing
from loop.sealing import SealError

APP = cli._whole_app()
ARMS = ("closed_loop", "sham", "yoked")


@pytest.mark.parametrize("block", [3, 6, 12])
def test_every_block_has_each_arm_equally_often(block: int) -> None:
    arms = allocation.allot(ARMS, 10 * block, block, seed=3)
    for start in range(0, len(arms), block):
        assert set(Counter(arms[start : start + block]).values()) == {block // 3}
    assert arms == allocation.allot(ARMS, 10 * block, block, seed=3)
    assert arms != allocation.allot(ARMS, 10 * block, block, seed=4)


@pytest.mark.parametrize(("arms", "block"), [(ARMS, 4), (ARMS, 0), ((), 2), (("sham", "sham"), 2)])
def test_a_block_that_cannot_be_balanced_is_refused(arms: tuple[str, ...], block: int) -> None:
    with pytest.raises(SealError):
        allocation.allot(arms, 10, block, seed=1)  # type: ignore[arg-type]


def test_the_file_tells_nothing_without_a_key(tmp_path: Path) -> None:
    made = study(tmp_path)
    sealed, _ = allocation.load(made.file)
    entries = [(entry.officer, entry.machine) for entry in sealed.entries.values()]
    assert len({len(text) for pair in entries for text in pair}) == 1
    assert len({text for pair in entries for text in pair}) == 2 * len(entries)
    other = sealing.new_pair().private
    for code in sealed.entries:
        for read in (allocation.arm_of, allocation.unblind):
            with pytest.raises(SealError, match="does not open"):
                read(sealed, code, other)
    assert stat.S_IMODE(made.officer.stat().st_mode) == 0o600


def test_officer_and_machine_read_the_same_arms_each_with_his_own_entry(tmp_path: Path) -> None:
    made = study(tmp_path)
    sealed, _ = allocation.load(made.file)
    officer, machine = sealing.read_key(made.officer), sealing.read_key(made.machine)
    for code in sealed.entries:
        assert allocation.unblind(sealed, code, officer) == allocation.arm_of(sealed, code, machine)
        with pytest.raises(SealError):
            allocation.unblind(sealed, code, machine)
    assert allocation.machine_key_of(sealed, officer) == machine == allocation.machine_key_of(sealed, machine)


def test_entries_that_were_swapped_are_found(tmp_path: Path) -> None:
    made = study(tmp_path)
    sealed, _ = allocation.load(made.file)
    one, other = list(sealed.entries)[:2]
    swapped = {**sealed.entries, one: sealed.entries[other], other: sealed.entries[one]}
    with pytest.raises(SealError, match="belongs to another code"):
        allocation.arm_of(msgspec.structs.replace(sealed, entries=swapped), one, sealing.read_key(made.machine))


@pytest.fixture
def run() -> CliRunner:
    return CliRunner()


def files(folder: Path) -> list[str]:
    return ["--out", str(folder / "a.json"), "--officer-key", str(folder / "o.key"), "--machine-key", str(folder / "m.key")]


def test_from_the_command_line_and_every_unblinding_is_logged_in_a_chain(tmp_path: Path, run: CliRunner) -> None:
    made = run.invoke(APP, ["allocate", "pilot", "--arms", "closed_loop,sham", "--codes", "8", *files(tmp_path), "--json"])
    assert made.exit_code == 0, made.output
    codes = json.loads(made.stdout)["codes"]
    assert len(codes) == 8
    asked = ["unblind", str(tmp_path / "a.json"), "--key", str(tmp_path / "o.key"), "--json", "--who", "Roe", "--why", "event"]
    told = [run.invoke(APP, [*asked, "--code", code]) for code in codes[:2]]
    told.append(run.invoke(APP, [*asked, "--machine-key", str(tmp_path / "copy.key")]))
    assert [one.exit_code for one in told] == [0, 0, 0]
    arms = json.loads(told[-1].stdout)["arms"]
    assert Counter(arms.values()) == {"closed_loop": 4, "sham": 4}
    lines = allocation.log_path(tmp_path / "a.json").read_bytes().splitlines()
    log = [json.loads(line) for line in lines]
    assert [(one["who"], one["why"], len(one["codes"])) for one in log] == [("Roe", "event", n) for n in (1, 1, 8)]
    assert [one["previous"] for one in log[1:]] == [hashlib.sha256(line).hexdigest() for line in lines[:-1]]
    assert (tmp_path / "copy.key").read_text() == (tmp_path / "m.key").read_text()


def test_what_cannot_be_logged_is_not_told(tmp_path: Path, run: CliRunner) -> None:
    made = study(tmp_path)
    allocation.log_path(made.file).mkdir()
    asked = ["unblind", str(made.file), "--key", str(made.officer), "--who", "x", "--why", "y"]
    told = run.invoke(APP, asked)
    assert isinstance(told.exception, SealError)
    assert "is not unblinded" in str(told.exception)
    assert not any(arm in told.output for arm in allocation.ARMS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--arms", "closed_loop,placebo"], "'placebo' is no arm that can be allotted"),
        (["--codes", "0"], "1 to 5000 can be allotted"),
        (["--block", "3"], "must be a multiple of 2"),
        (["--machine-key", "SAME"], "name the same file"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing_behind(
    tmp_path: Path, run: CliRunner, change: list[str], words: str
) -> None:
    change = [str(tmp_path / "o.key") if word == "SAME" else word for word in change]
    made = run.invoke(APP, ["allocate", "pilot", "--arms", "closed_loop,sham", "--codes", "8", *files(tmp_path), *change])
    assert isinstance(made.exception, SealError)
    assert words in str(made.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "nonsense", "cereloop machine key 00ff", "cereloop machine key " + "zz" * 32])
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "some.key"
    path.write_text(text)
    with pytest.raises(SealError, match="holds no key"):
        sealing.read_key(path)
    with pytest.raises(SealError, match="no such file"):
        sealing.read_key(tmp_path / "none.key")
