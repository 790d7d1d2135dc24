"""The command line as a new user meets it: help with examples, one sentence for bad input, documented exit codes, JSON."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
COMMANDS = [
    "simulate", "replay", "live", "verify", "show", "check", "stop", "mock amplifier", "mock stimulator", "bench", "latency",
    "calibrate", "estimators", "drivers",
]


def run(*arguments: str, cwd: Path | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loop", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, input=stdin, check=False, timeout=120)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_helps_with_an_example_within_80_columns(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "loop", *command.split(), "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1"},
        check=False,
        timeout=60,
    )
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
    (("live",), 2, "--config"),
    (("check",), 2, "--config"),
    (("verify", "nowhere.sqlite"), 2, "nowhere.sqlite"),
    (("show", "nowhere.sqlite"), 2, "nowhere.sqlite"),
    (("bench", "nonsense"), 2, "nonsense"),
    (("mock", "amplifier", "nowhere.edf"), 3, "nowhere.edf"),
    (("mock", "stimulator", "--fault", "nonsense"), 2, "nonsense"),
]


@pytest.mark.parametrize(("arguments", "code", "named"), BAD, ids=[" ".join(case[0]) for case in BAD])
def test_bad_input_gets_one_sentence_and_leaves_nothing_behind(
    arguments: tuple[str, ...], code: int, named: str, tmp_path: Path
) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    if arguments[:2] != ("mock", "stimulator"):  # argparse adds its usage lines
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"\x00" * 5000, b"SQLite format 3\x00" + b"\x01" * 3000, b"hello"])
def test_what_is_no_session_file_is_refused_in_one_sentence(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    path.write_bytes(content)
    for command in ("verify", "show"):
        done = run(command, str(path))
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
