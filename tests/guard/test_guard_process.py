"""The guard as a real process, before a real pty, with an independent meter (I09, I24, I28; F20-F31, F41-F49)."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from guard_doubles import make_settings
from guard_rig import CLOCK, PATIENCE_S, ROOT, Engine, GuardProcess, MockDevice, short_directory

from devices import guard_process, link
from devices.guard_state import ExitCode
from devices.link_socket import GuardClient, stop_all
from devices.settings import encode
from devices.stimulator import StopClass

LEVEL = 60
FOREIGN = ("numpy", "scipy", "mne", "pylsl", "loop", "cext")
Start = Callable[..., GuardProcess]


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


@pytest.fixture(scope="module")
def shared_device() -> Iterator[MockDevice]:
    """One device for all tests that leave it in order."""
    with short_directory() as path:
        device = MockDevice(path)
        yield device
        device.close()


@pytest.fixture
def own_device(directory: Path) -> Iterator[MockDevice]:
    device = MockDevice(directory)
    yield device
    device.close()


@pytest.fixture
def start(directory: Path) -> Iterator[Start]:
    guards: list[GuardProcess] = []

    def begin(port: str, *options: str, python: tuple[str, ...] = ()) -> GuardProcess:
        guards.append(GuardProcess(directory, port, *options, python=python))
        return guards[-1]

    yield begin
    for guard in guards:
        guard.close()


def test_a_session_from_hello_to_goodbye(shared_device: MockDevice, start: Start, directory: Path) -> None:
    log = directory / "guard.log"
    guard = start(shared_device.port, "--log", str(log), python=("-X", "importtime"))
    engine = Engine(guard)
    assert stat.S_IMODE(guard.socket.stat().st_mode) == 0o600
    engine.to_live(LEVEL)
    assert shared_device.flows() > LEVEL / 2
    at_live = log.read_text()
    engine.client.send(link.Goodbye(reason="end of test"))
    engine.wanted_ua = None
    engine.until(lambda: engine.client.closed)
    code, errors = guard.end()
    assert code == ExitCode.ENDED
    assert shared_device.flows() < 10.0
    assert not guard.socket.exists()
    assert "ending" not in at_live
    assert [line.split()[1] for line in log.read_text().splitlines()][-2:] == ["ending:", "safe:"]
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in errors.splitlines() if "|" in line}
    assert "msgspec" in imported
    assert imported.isdisjoint(FOREIGN)


def test_a_dead_engine_ends_in_an_abort_ramp(shared_device: MockDevice, start: Start) -> None:
    guard = start(shared_device.port)
    engine = Engine(guard)
    engine.to_live(LEVEL)
    engine.client.close()
    died_ns = CLOCK.now_ns()
    code, _ = guard.end()
    assert code == ExitCode.ENGINE_LOST
    assert 0.0 < shared_device.time_to_zero(died_ns, 1.2) <= 1.2


def test_a_silent_engine_ends_in_an_abort_ramp(shared_device: MockDevice, start: Start) -> None:
    engine = Engine(start(shared_device.port))
    engine.to_live(LEVEL)
    engine.wanted_ua = None
    silent_ns = CLOCK.now_ns()
    engine.until(engine.phase("stopped"))
    assert 0.1 < shared_device.time_to_zero(silent_ns, 1.5) <= 1.5
    engine.client.send(link.Reset(seq=engine.next_seq(), operator="tester"))
    engine.until(engine.phase("safe"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_in_an_abort_ramp(shared_device: MockDevice, start: Start, number: signal.Signals) -> None:
    guard = start(shared_device.port)
    engine = Engine(guard)
    engine.to_live(LEVEL)
    guard.signal(signal.SIGINT)
    engine.until(lambda: engine.report is not None and engine.report.last_seq > engine.seq - 3)
    told_ns = CLOCK.now_ns()
    guard.signal(number)
    engine.until(lambda: engine.client.closed)
    assert guard.end()[0] == ExitCode.ENGINE_LOST
    assert 0.0 < shared_device.time_to_zero(told_ns, 1.2) <= 1.2


def test_emergency_stop_while_the_engine_hangs(shared_device: MockDevice, start: Start, directory: Path) -> None:
    engine = Engine(start(shared_device.port))
    engine.to_live(LEVEL)
    stopped_ns = CLOCK.now_ns()
    (outcome,) = stop_all("test", directory=directory)
    assert outcome.confirmed, outcome
    assert "latched" in outcome.detail
    assert 0.0 < shared_device.time_to_zero(stopped_ns, 0.25) <= 0.25
    engine.wanted_ua = None
    engine.until(engine.phase("latched"))


def test_emergency_stop_at_zero_and_twice(shared_device: MockDevice, start: Start, directory: Path) -> None:
    engine = Engine(start(shared_device.port))
    engine.until(engine.phase("safe"))
    assert all(outcome.confirmed for outcome in stop_all("once", directory=directory))
    assert all(outcome.confirmed for outcome in stop_all("twice", directory=directory))
    engine.until(engine.phase("latched"))
    assert engine.report is not None and engine.report.reason == "once"


def test_an_ordinary_stop_from_outside(shared_device: MockDevice, start: Start, directory: Path) -> None:
    engine = Engine(start(shared_device.port))
    engine.to_live(10)
    (outcome,) = stop_all("operator", StopClass.S2_SESSION_RAMP, directory=directory)
    assert outcome.confirmed, outcome
    assert outcome.detail.startswith("safe, 0 uA")


def test_garbage_cuts(shared_device: MockDevice, start: Start) -> None:
    engine = Engine(start(shared_device.port))
    engine.to_live(LEVEL)
    sent_ns = CLOCK.now_ns()
    for packet in (b"junk", b"\xff" * 17_000, b"\x00"):
        engine.client._socket.send(packet)
    engine.wanted_ua = None
    engine.until(engine.phase("latched"))
    assert engine.report is not None and "garbage from the engine" in engine.report.reason
    assert 0.0 < shared_device.time_to_zero(sent_ns, 0.40) <= 0.40


def test_a_flooded_link_cuts_and_does_not_block_the_stop(shared_device: MockDevice, start: Start) -> None:
    engine = Engine(start(shared_device.port))
    engine.to_live(LEVEL)
    packet = link.encode(link.Command(seq=1, level_ua=0, deadline_ns=0, decision=0))
    sent_ns = CLOCK.now_ns()
    while not engine.phase("latched")():
        for _ in range(50):
            try:
                engine.client._socket.send(packet)
            except BlockingIOError:
                break
        engine.until(lambda: True)
        for message in engine.client.receive():
            if isinstance(message, link.Report):
                engine.report = message
        assert CLOCK.now_ns() - sent_ns < 5e9, engine.report
    assert "flooded" in engine.report.reason  # type: ignore[union-attr]
    assert 0.0 < shared_device.time_to_zero(sent_ns, 0.8) <= 0.8


def test_bystanders_may_only_stop(shared_device: MockDevice, start: Start) -> None:
    guard = start(shared_device.port)
    engine = Engine(guard)
    engine.until(engine.phase("safe"))
    crowd = [GuardClient.connect(guard.socket, 1.0) for _ in range(30)]
    for client, message in zip(
        crowd[::-1],
        (
            link.Command(seq=1, level_ua=10, deadline_ns=2**60, decision=0),
            link.Arm(seq=1, code=engine.welcome.arm_code if engine.welcome else ""),
            link.Reset(seq=1, operator="nobody"),
            link.Goodbye(reason="nobody"),
            link.Hello(version=link.LINK_VERSION, settings_sha256="0" * 64),
        ),
        strict=False,
    ):
        client.send(message)
        engine.until(lambda client=client: client.closed or (bool(client.receive()) and False))  # type: ignore[misc]
    junk = GuardClient.connect(guard.socket, 1.0)
    junk._socket.send(b"junk")
    engine.until(lambda: bool(junk.receive()) or junk.closed)
    assert sum(client.closed or (client.receive(), client.closed)[1] for client in crowd) >= 22
    assert engine.phase("safe")()
    assert not engine.client.closed


def test_a_second_guard_on_the_same_socket_is_refused(shared_device: MockDevice, start: Start) -> None:
    engine = Engine(start(shared_device.port))
    engine.to_live(LEVEL)
    second = start(shared_device.port)
    engine.until(lambda: second.process.poll() is not None)
    code, errors = second.end()
    assert code == ExitCode.REFUSED
    assert errors.count("\n") == 1
    assert "another guard already serves" in errors
    assert shared_device.flows() > LEVEL / 2
    assert engine.phase("live")()


def test_a_killed_guard_is_replaced_and_starts_latched(own_device: MockDevice, start: Start) -> None:
    guard = start(own_device.port)
    engine = Engine(guard)
    engine.to_live(LEVEL)
    killed_ns = CLOCK.now_ns()
    guard.signal(signal.SIGKILL)
    guard.end()
    assert guard.socket.exists()
    assert 0.0 < own_device.time_to_zero(killed_ns, 0.42) <= 0.42
    again = Engine(start(own_device.port))
    again.until(again.phase("latched"))
    assert again.report is not None and again.report.reason == "device fault: host_timeout"
    latched_ns = again.report.t_ns
    again.until(lambda: again.report is not None and again.report.t_ns > latched_ns + 2e8)
    again.client.send(link.Reset(seq=again.next_seq(), operator="tester"))
    again.until(again.phase("safe"))


def test_a_guard_that_was_stopped_wakes_up_latched(own_device: MockDevice, start: Start) -> None:
    guard = start(own_device.port)
    engine = Engine(guard)
    engine.to_live(LEVEL)
    guard.signal(signal.SIGSTOP)
    stopped_ns = CLOCK.now_ns()
    assert 0.0 < own_device.time_to_zero(stopped_ns, 0.42) <= 0.42
    guard.signal(signal.SIGCONT)
    engine.until(engine.phase("latched"))
    assert engine.report is not None and engine.report.reason.startswith("the guard's tick came after")
    assert own_device.flows() < 10.0


# ---- refused starts: one sentence, exit code 2, no traceback


@pytest.fixture
def _signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "settings.json: No such file or directory"),
        (b"", "settings.json: "),
        (b"{", "settings.json: "),
        (b"\xff\xfe", "settings.json: "),
        (b"[" * 100_000, "more than 65536 bytes"),
        (b"[" * 60_000, "settings.json: "),
        (encode(make_settings()).replace(b'"session"', b'"sesion"'), "sesion"),
        (encode(make_settings()).replace(b'"hold_s":10.0', b'"hold_s":"10"'), "$.stimulation.hold_s"),
        (encode(make_settings()).replace(b'"hold_s":10.0', b'"hold_s":NaN'), "settings.json: "),
        (encode(make_settings()).replace(b'"polarity":"anodal",', b""), "polarity"),
        (encode(make_settings()), "device.driver = simulated"),
        (encode(make_settings(driver="reference", port="/nowhere")), "/nowhere does not exist"),
    ],
)
@pytest.mark.usefixtures("_signals")
def test_a_refused_start_is_one_sentence(
    directory: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, words: str
) -> None:
    path = directory / "settings.json"
    if content is not None:
        path.write_bytes(content)
    code = guard_process.main(["--settings", str(path), "--socket", str(directory / "g.sock")])
    errors = capsys.readouterr().err
    assert code == ExitCode.REFUSED
    assert words in errors
    assert errors.startswith("cereloop guard: ")
    assert errors.count("\n") == 1
    assert not (directory / "g.sock").exists()


@pytest.mark.usefixtures("_signals")
def test_an_open_directory_is_refused(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = directory / "settings.json"
    path.write_bytes(encode(make_settings(driver="reference", port="/nowhere")))
    directory.chmod(0o755)
    assert guard_process.main(["--settings", str(path), "--socket", str(directory / "g.sock")]) == ExitCode.REFUSED
    assert "make it 0700" in capsys.readouterr().err


@pytest.mark.usefixtures("_signals")
def test_settings_above_a_ceiling_are_refused_by_the_guard_itself(
    shared_device: MockDevice, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = directory / "settings.json"
    path.write_bytes(encode(make_settings(driver="reference", port=shared_device.port, max_level_ua=3000)))
    assert guard_process.main(["--settings", str(path), "--socket", str(directory / "g.sock")]) == ExitCode.REFUSED
    assert "limits.max_level_ua is 3000" in capsys.readouterr().err


def test_no_stream_socket_is_served(shared_device: MockDevice, start: Start) -> None:
    guard = start(shared_device.port)
    engine = Engine(guard)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger, pytest.raises(OSError, match="rotocol"):
        stranger.connect(str(guard.socket))
    assert not engine.client.closed


BARE = """
import msgspec
from devices.driver import Driver, NoOptions
from devices.reference import CAPABILITIES, ReferenceStimulator, SerialWire

BARE = msgspec.structs.replace(CAPABILITIES, self_expiring_lease=False, hardware_watchdog=False, host_timeout_s=0.0)

class Bare(ReferenceStimulator):
    capabilities = BARE

DRIVER = Driver(name="lab", summary="a lab's", modes={"bare": "nothing ends it"}, options=NoOptions,
                capabilities=lambda mode, options: BARE, build=lambda mode, port, options: Bare(SerialWire(port)))
"""


def test_anothers_driver_in_a_mode_that_nothing_ends_is_refused_in_one_sentence(
    tmp_path: Path, shared_device: MockDevice
) -> None:
    info = tmp_path / "labware-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: labware\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[cereloop.devices]\nlab = labware:DRIVER\n")
    (tmp_path / "labware.py").write_text(BARE)
    settings = make_settings(driver="lab", port=shared_device.port)
    settings = msgspec.structs.replace(settings, device=msgspec.structs.replace(settings.device, mode="bare"))
    path = tmp_path / "settings.json"
    path.write_bytes(encode(settings))
    with short_directory() as directory:
        done = subprocess.run(
            [sys.executable, "-m", "devices.guard_process", "--settings", str(path), "--socket", str(directory / "s")],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=PATIENCE_S,
            check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == (
        "cereloop guard: reference stimulator, emulated has neither a lease nor a watchdog in mode bare: a dead guard would "
        "leave current on, so no loop may drive it\n"
    )
