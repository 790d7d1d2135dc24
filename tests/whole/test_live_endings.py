"""How ``live`` begins in vain and ends: the guard's own reason in one sentence, and an exit code that the session decides."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from devices.guard_state import ExitCode
from loop import config as configuration
from loop import run
from loop.errors import SWITCH_OFF, SessionError, ZeroUnconfirmedError
from loop.events import SourceInfo
from loop.guard_child import GuardProcess

MOCK = Path(__file__).resolve().parents[2] / "configs" / "live-mock.toml"
# The command with a session of a given outcome in place of one that takes minutes and a stimulator.
ENDED = """
import sys
from pathlib import Path
import loop.run
path, how = Path(sys.argv.pop(1)), sys.argv.pop(1)
from loop.errors import ZeroUnconfirmedError

def live(*_):
    if how == "broken":
        print("a line that nobody reads")
        raise ZeroUnconfirmedError("the session broke off: no room")
    return path, how == "zero"

loop.run.live = live
from loop import cli
cli.main()
"""


# As a user's shell has it: what is printed is buffered, and may still be so when Python ends.
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def ended(path: Path, how: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", ENDED, str(path), how, "live", "--config", str(MOCK), *arguments]


@pytest.mark.parametrize(("how", "code"), [("zero", 0), ("unconfirmed", 4), ("broken", 4)])
@pytest.mark.parametrize("style", ["text", "json"])
def test_a_reader_who_has_gone_does_not_change_the_exit_code(simulated: Path, how: str, code: int, style: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as out:
        command = ended(simulated, how, *(["--json"] if style == "json" else []))
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, text=True, timeout=120, check=False,
            env=BUFFERED,
        )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert ("cereloop show" in done.stderr) == (how != "broken")
    assert ("NOT confirmed" in done.stderr) == (code == 4)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize(("how", "code"), [("zero", 0), ("unconfirmed", 4)])
def test_a_terminal_that_has_gone_does_not_change_the_exit_code(simulated: Path, how: str, code: int) -> None:
    master, slave = pty.openpty()
    os.close(master)
    command = ended(simulated, how)
    child = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, env=BUFFERED)
    os.close(slave)
    assert child.wait(120) == code


def test_unconfirmed_zero_outweighs_a_summary_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "none.sqlite").write_bytes(b"no session")
    command = ended(tmp_path / "none.sqlite", "unconfirmed")
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 4
    assert "NOT confirmed" in done.stderr


Close = Callable[[], int | None]


def played(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, close: Close, session: str, source: str = "") -> list[str]:
    """A live session of doubles that breaks off by `session`, or ends where that is empty; what was done and said, in order."""
    done: list[str] = []
    info = SourceInfo(kind="lsl", identity="test", simulated=True, dtype="float32")

    class Source:
        def __enter__(self) -> Any:
            return SimpleNamespace(info=info, layout=None)

        def __exit__(self, *_: object) -> None:
            if source:
                raise OSError(source)

    def run_session() -> None:
        if session:
            raise SessionError(session)

    def close_guard() -> int | None:
        done.append("guard")
        return close()

    monkeypatch.setattr(run, "open_source", lambda _: Source())
    monkeypatch.setattr(run, "build_estimator", lambda *_: SimpleNamespace(is_stand_in=False))
    monkeypatch.setattr(run, "GuardProcess", lambda _: SimpleNamespace(client=None, welcome=None, close=close_guard))
    monkeypatch.setattr(run, "session_meta", lambda *_: None)
    recorder = SimpleNamespace(close=lambda: done.append("recorder"))
    monkeypatch.setattr(run, "ProcessRecorder", lambda *_, **__: recorder)
    monkeypatch.setattr(run, "LiveSession", lambda *_: SimpleNamespace(run=run_session))
    monkeypatch.setattr("loop.outlets.Outlets", lambda *_: None)
    screen: Any = SimpleNamespace(say=done.append)
    _, zero = run.live(configuration.load(MOCK), tmp_path / "x.sqlite", screen, None)  # type: ignore[arg-type]
    return [*done, f"zero {zero}"]


def broken_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int | BaseException | None) -> None:
    """It breaks off, with a guard that then ends with `code`, or whose end is not seen."""

    def close() -> int | None:
        if isinstance(code, BaseException):
            raise code
        return code

    played(monkeypatch, tmp_path, close, "no room")


def test_the_operator_is_told_before_the_recorder_takes_its_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert played(monkeypatch, tmp_path, lambda: None, "") == ["guard", SWITCH_OFF, "recorder", "zero False"]
    assert played(monkeypatch, tmp_path, lambda: ExitCode.ENDED, "") == ["guard", "recorder", "zero True"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_does_not_cut_short_the_wait_for_the_guard(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int
) -> None:
    def close() -> int:
        os.kill(os.getpid(), number)
        return ExitCode.ENDED

    before = signal.getsignal(number)
    assert played(monkeypatch, tmp_path, close, "")[-1] == "zero True"
    assert signal.getsignal(number) is before


def test_a_source_that_cannot_be_closed_does_not_hide_that_zero_is_unconfirmed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ZeroUnconfirmedError, match="broke off: no such stream"):
        played(monkeypatch, tmp_path, lambda: ExitCode.ZERO_UNCONFIRMED, "", "no such stream")
    with pytest.raises(OSError, match="^no such stream$"):
        played(monkeypatch, tmp_path, lambda: ExitCode.ENDED, "", "no such stream")


@pytest.mark.parametrize("code", [None, ExitCode.ZERO_UNCONFIRMED, ExitCode.INTERNAL, -9])
def test_a_session_that_breaks_off_without_confirmed_zero_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int | None
) -> None:
    with pytest.raises(ZeroUnconfirmedError, match="broke off: no room"):
        broken_off(monkeypatch, tmp_path, code)


@pytest.mark.parametrize("missed", [KeyboardInterrupt(), OSError("no room")])
def test_whoever_did_not_see_the_guard_end_does_not_know_of_zero(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missed: BaseException
) -> None:
    with pytest.raises(ZeroUnconfirmedError, match="broke off"):
        broken_off(monkeypatch, tmp_path, missed)


@pytest.mark.parametrize("code", [ExitCode.ENDED, ExitCode.ENGINE_LOST])
def test_a_session_that_breaks_off_at_confirmed_zero_tells_its_own_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int
) -> None:
    with pytest.raises(SessionError, match="^no room$"):
        broken_off(monkeypatch, tmp_path, code)


def test_a_guard_that_refuses_to_start_is_one_plain_sentence(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = tmp_path_factory.mktemp("r")
    runtime.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    config = configuration.load(MOCK, ['device.port="/dev/ttyNOWHERE"'])
    guarded = configuration.guard_settings(config, "s", input_is_simulated=True)
    with pytest.raises(SessionError) as refused:
        GuardProcess(guarded)
    said = str(refused.value)
    assert said.startswith("the guard did not start: /dev/ttyNOWHERE does not exist; check the cable"), said
    assert "cereloop guard" not in said
    assert "\n" not in said
