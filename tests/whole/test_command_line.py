"""The command line as a new user meets it: help with examples, one sentence for bad input, documented exit codes, JSON."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
COMMANDS = [
    "simulate", "replay", "live", "verify", "show", "check", "stop", "mock amplifier", "mock stimulator", "bench", "latency",
    "calibrate", "estimators", "dose", "checklist", "drivers", "allocate", "unblind", "separation", "control",
    "calibrate-output",
]


def run(*arguments: str, cwd: Path | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loop", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, input=stdin, check=False, timeout=120)


class Here:
    """The command's own entry point, called in this process: where only arguments and words count, that costs no start."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        from loop import cli

        self._monkeypatch.setattr(sys, "argv", ["cereloop", *arguments])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = self._capsys.readouterr()
        return subprocess.CompletedProcess(list(arguments), int(end.value.code or 0), said.out, said.err)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    return Here(monkeypatch, capsys)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_helps_with_an_example_within_80_columns(command: str, here: Here) -> None:
    done = here(*command.split(), "--help")
    assert done.returncode == 0
    assert "Example" in done.stdout
    assert f"cereloop {command}" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


BAD = [
    (("simulate", "--config", "nowhere.toml"), 2, "nowhere.toml"),
    (("simulate", "--set", "policy.treshold=3"), 2, "policy.treshold"),
    (("simulate", "--set", "policy.threshold=nan"), 2, "policy.threshold"),
    (("simulate", "--set", "policy.threshold='high'"), 2, "policy.threshold"),
    (("simulate", "--set", "stimulation.level_ua=5000"), 2, "level_ua"),
    (("simulate", "--set", "stimulation.ramp_s=2"), 2, "ramp_s"),
    (("simulate", "--set", "limits.max_slew_ua_s=900"), 2, "max_slew_ua_s"),
    (("simulate", "--set", "nonsense"), 2, "nonsense"),
    (("simulate", "--group", "XX"), 2, "patient.group"),
    (("simulate", "--out", "no/such/folder/x.sqlite"), 2, "no/such/folder"),
    (("simulate", "--set", "session.directory='absent'"), 2, "absent"),
    (("simulate", "--set", "channels.bad=['Q9']", "--duration", "5"), 2, "Q9"),
    (("replay", "nowhere.edf"), 3, "nowhere.edf"),
    (("replay", "."), 3, "."),
    (("latency", "--rate", "5"), 2, "128 to 4096"),
    (("separation", "nowhere.sqlite"), 2, "nowhere.sqlite"),
    (("control", "nowhere.edf"), 3, "nowhere.edf"),
    (("calibrate", "live", "one.edf"), 2, "stands alone"),
    (("simulate", "--set", "estimator.kind='event_readout'"), 2, "cereloop calibrate"),
    (("live",), 2, "--config"),
    (("check",), 2, "--config"),
    (("live", "--config", str(CONFIGS / "live-mock.toml"), "--set", "session.checklist='no-form.toml'"), 2, "no-form.toml"),
    (("dose", "P001", "--ledger", "nowhere.sqlite"), 3, "cereloop dose --new"),
    (("dose", "Jane Roe"), 2, "Jane Roe"),
    (("dose", "P001", "--set", "dose.min_interval_h=48"), 2, "--config"),
    (("dose", "P001", "--config", str(CONFIGS / "live.toml"), "--set", "dose.min_interval_h=12"), 2, "dose.min_interval_h"),
    (("dose", "--new", "--ledger", "no/such/folder/d.sqlite"), 3, "no/such/folder"),
    (("checklist", "--out", "no/such/folder/f.toml"), 2, "no/such/folder"),
    (("verify", "nowhere.sqlite"), 2, "nowhere.sqlite"),
    (("show", "nowhere.sqlite"), 2, "nowhere.sqlite"),
    (("bench", "nonsense"), 2, "nonsense"),
    (("mock", "amplifier", "nowhere.edf"), 3, "nowhere.edf"),
    (("mock", "stimulator", "--fault", "nonsense"), 2, "nonsense"),
]


@pytest.mark.parametrize(("arguments", "code", "named"), BAD, ids=[" ".join(case[0]) for case in BAD])
def test_bad_input_gets_one_sentence_and_leaves_nothing_behind(
    arguments: tuple[str, ...], code: int, named: str, here: Here, tmp_path: Path
) -> None:
    done = here(*arguments)
    assert done.returncode == code, done.stderr
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    if arguments[:2] != ("mock", "stimulator"):  # argparse adds its usage lines
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not list(tmp_path.iterdir())


def test_bad_input_is_answered_so_by_the_installed_command_too(tmp_path: Path) -> None:
    done = run("simulate", "--set", "policy.threshold=nan", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("cereloop: ")
    assert "policy.threshold" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_two_hundred_damaged_configs_get_one_line_each(here: Here, tmp_path: Path) -> None:
    whole = (CONFIGS / "simulate.toml").read_bytes()
    for seed in range(200):
        rng, data = random.Random(seed), bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data))
            match rng.randrange(3):
                case 0:
                    data[at] = rng.randrange(256)
                case 1:
                    del data[at : at + rng.randint(1, 30)]
                case _:
                    data[at:at] = bytes(rng.choices(b"\"'[]{}=.#\n09-eE", k=3))
        (tmp_path / "c.toml").write_bytes(data)
        # Where the damage leaves a configuration that can be used, the folder that is not there stops it.
        done = here("simulate", "--config", "c.toml", "--out", "absent/x.sqlite")
        assert done.returncode == 2, (seed, done)
        assert "c.toml" in done.stderr or "absent" in done.stderr, (seed, done)
        assert len(done.stderr.strip().splitlines()) == 1, (seed, done)
        assert not done.stdout


def test_two_hundred_damaged_sessions_get_a_verdict_or_one_line_each(here: Here, tmp_path: Path) -> None:
    assert here("simulate", "--duration", "1", "--out", "whole.sqlite").returncode == 0
    whole = (tmp_path / "whole.sqlite").read_bytes()
    damaged = tmp_path / "damaged.sqlite"
    codes: Counter[int] = Counter()
    for seed in range(200):
        rng, data = random.Random(seed), bytearray(whole)
        at = rng.randrange(len(data))
        match rng.randrange(5):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                del data[max(at, 100) :]
            case 2:
                data[at : at + 4096] = bytes(len(data[at : at + 4096]))
            case 3:
                data[rng.randrange(200)] ^= 0xFF
            case _:
                data[at : at + 64] = rng.randbytes(len(data[at : at + 64]))
        damaged.write_bytes(data)
        done = here("show" if seed % 3 else "verify", "damaged.sqlite")
        codes[done.returncode] += 1
        assert done.returncode in (0, 1, 2, 3), (seed, done)
        assert len(done.stderr.strip().splitlines()) == (done.returncode >= 2), (seed, done)
        assert done.stdout or done.returncode >= 2, (seed, done)
        damaged.unlink()
    assert codes[1] > 10
    assert codes[2] > 50


def test_several_sessions_are_verified_at_once_and_one_that_differs_counts(here: Here, tmp_path: Path) -> None:
    for name in ("a.sqlite", "b.sqlite"):
        assert here("simulate", "--duration", "1", "--out", name).returncode == 0
    done = here("verify", "a.sqlite", "b.sqlite")
    assert done.returncode == 0
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["a.sqlite", "b.sqlite"]
    with sqlite3.connect(tmp_path / "a.sqlite") as database:
        assert database.execute("update log set hash = zeroblob(32) where seq = 3").rowcount == 1
    done = here("verify", "a.sqlite", "b.sqlite")
    assert done.returncode == 1
    assert "identical:" in done.stdout.splitlines()[1]
    assert here("verify", "a.sqlite", "b.sqlite", "--recording", "x").returncode == 2


@pytest.mark.parametrize("content", [b"", b"\x00" * 5000, b"SQLite format 3\x00" + b"\x01" * 3000, b"hello"])
def test_what_is_no_session_file_is_refused_in_one_sentence(content: bytes, here: Here, tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    path.write_bytes(content)
    for command in ("verify", "show"):
        done = here(command, str(path))
        assert done.returncode == 2
        assert "s.sqlite" in done.stderr
        assert "Traceback" not in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_a_port_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = run("check", "--config", str(CONFIGS / "live-mock.toml"), "--port", "/dev/ttyNOWHERE",
               "--set", "source.timeout_s=0.3", "--set", "source.name='nobody'", cwd=tmp_path)
    assert done.returncode == 1
    assert "/dev/ttyNOWHERE" in done.stdout
    assert "No LSL stream" in done.stdout
    assert "emergency stop" in done.stdout


def test_json_is_all_there_is_on_standard_output(tmp_path: Path) -> None:
    done = run("simulate", "--duration", "5", "--json", cwd=tmp_path)
    assert done.returncode == 0
    summary = json.loads(done.stdout)
    assert summary["mode"] == "simulate"
    assert (tmp_path / summary["session"]).is_file()
    assert json.loads(run("show", summary["session"], "--json", cwd=tmp_path).stdout)["outcomes"] == summary["outcomes"]
    assert json.loads(run("verify", summary["session"], "--json", cwd=tmp_path).stdout)["identical"] is True


def test_two_simulations_in_a_row_do_not_block_each_other(tmp_path: Path) -> None:
    for _ in range(2):
        assert run("simulate", "--duration", "3", "--json", cwd=tmp_path).returncode == 0
    files = sorted(tmp_path.glob("*.sqlite"))
    assert len(files) == 2
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_session_is_never_written_over_another(tmp_path: Path) -> None:
    assert run("simulate", "--duration", "3", "--out", "a.sqlite", cwd=tmp_path).returncode == 0
    done = run("simulate", "--duration", "3", "--out", "a.sqlite", cwd=tmp_path)
    assert done.returncode == 2
    assert "exists already" in done.stderr


def test_ctrl_c_ends_with_a_ramp_and_a_closed_file_and_progress_was_visible(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "loop", "simulate", "--arm", "open_loop", "--out", "c.sqlite", "--set", "patient.rest_s=0"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=slave, text=True)
    os.close(slave)
    seen = ""
    end_s = time.monotonic() + 60.0
    while not re.search(r"(HOLD|RAMP)", seen) and time.monotonic() < end_s:
        seen += os.read(master, 4096).decode("utf-8", "replace")
    process.send_signal(signal.SIGINT)
    output = ""
    while process.poll() is None and time.monotonic() < end_s:
        try:
            seen += os.read(master, 4096).decode("utf-8", "replace")
        except OSError:
            break
    assert process.stdout is not None
    output = process.stdout.read()
    assert process.wait(60) == 0
    os.close(master)
    assert "simulating" in seen
    assert "stopped by Ctrl-C" in output
    done = run("verify", "c.sqlite", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    import loop

    with loop.Session.open(tmp_path / "c.sqlite") as session:
        assert session.closed
        assert [change.after for change in session.gates][-2:] == ["RAMP_DOWN", "ENDED"]


def test_stop_with_nothing_running_says_so(tmp_path: Path) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    done = subprocess.run([sys.executable, "-m", "loop", "stop"], capture_output=True, text=True, check=False, timeout=60,
                          env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)})
    assert done.returncode == 0
    assert "nothing to stop" in done.stdout


def test_the_version_is_that_of_the_distribution() -> None:
    import importlib.metadata

    assert run("--version").stdout.split() == ["cereloop", importlib.metadata.version("cereloop")]
