"""The mock as a process over a pty: a real line, hosts that die, faults injected from outside."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devices.clock import SystemClock
from devices.mock.meter import MeterRecord, follow, read_meter, time_to_zero
from devices.reference import ReferenceStimulator, SerialWire
from devices.stimulator import (
    DeviceLostError,
    DeviceNotFoundError,
    DeviceProtocolError,
    DeviceState,
    Readback,
    StopClass,
)
from devices.units import NS_PER_MS, NS_PER_S

ROOT = Path(__file__).parents[2]
CLOCK = SystemClock()
COMMAND = [sys.executable, "-m", "devices.mock.stimulator_process"]

# A host that keeps 0.2 mA flowing until it is killed; it says "on" once that is measured.
HOST = """
    import select, sys
    from devices.clock import SystemClock
    from devices.reference import ReferenceStimulator, SerialWire

    clock, driver = SystemClock(), ReferenceStimulator(SerialWire(sys.argv[1]))
    driver.open()
    driver.arm(300, 200)
    told = False
    while True:
        driver.set_level(200, 250)
        select.select([driver.fileno()], [], [], 0.01)
        for readback in driver.poll(clock.now_ns()):
            if not told and readback.measured_ua > 180:
                told = True
                print("on", flush=True)
"""


class Rig:
    """A running mock process, controlled over standard input."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.meter = directory / "meter"
        self.link = directory / "line"
        self.process = subprocess.Popen(
            [*COMMAND, "--meter", str(self.meter), "--link", str(self.link), "--control", "-", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.ready: dict[str, Any] = json.loads(self.process.stdout.readline())
        self.driver = ReferenceStimulator(SerialWire(str(self.link)))

    def tell(self, line: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def until(
        self, met: Callable[[Readback], bool], act: Callable[[], None] | None = None, timeout_s: float = 5.0
    ) -> Readback:
        """Poll the driver, with `act` every 10 ms, until a report meets the condition."""
        end = CLOCK.now_ns() + int(timeout_s * NS_PER_S)
        while CLOCK.now_ns() < end:
            if act is not None:
                act()
            select.select([self.driver.fileno()], [], [], 0.01)
            for readback in self.driver.poll(CLOCK.now_ns()):
                if met(readback):
                    return readback
        raise AssertionError(f"no report met the condition within {timeout_s} s")

    def on(self) -> None:
        """Open, arm, ramp to 0.2 mA."""
        self.driver.open()
        self.driver.arm(300, 200)
        self.until(lambda r: abs((r.measured_ua or 0) - 200) < 12, lambda: self.driver.set_level(200, 250))

    def records_until(self, t_ns: int) -> list[MeterRecord]:
        """The meter's records, once they reach `t_ns`."""
        for record in follow(self.meter, timeout_s=5.0):
            if record.t_ns >= t_ns:
                return read_meter(self.meter)
        raise AssertionError("the meter stopped")

    def end(self) -> None:
        self.driver.close()
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(10.0) == 0
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    running = Rig(tmp_path)
    try:
        yield running
    finally:
        running.end()


def host_process(rig: Rig) -> subprocess.Popen[str]:
    host = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOST), str(rig.link)],
        stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert host.stdout is not None
    assert host.stdout.readline() == "on\n"
    return host


def test_open_arm_ramp_hold_stop_reopen(rig: Rig) -> None:
    assert rig.driver.open().emulator
    rig.on()
    rig.driver.stop(StopClass.S1_ABORT_RAMP)
    stopped = CLOCK.now_ns()
    rig.until(lambda r: r.state is DeviceState.IDLE, rig.driver.heartbeat)
    records = rig.records_until(stopped + 400 * NS_PER_MS)
    assert time_to_zero(records, stopped) <= 0.1 + 0.1 + 0.15
    assert max(abs(record.current_ua) for record in records) <= 210.0
    rig.driver.close()
    rig.on()


def test_a_silent_host_is_cut(rig: Rig) -> None:
    rig.on()
    silent = CLOCK.now_ns()
    records = rig.records_until(silent + 500 * NS_PER_MS)
    assert 0.2 <= time_to_zero(records, silent) <= 0.42
    rig.until(lambda r: r.fault == "host_timeout")


def test_a_killed_host_is_cut_and_the_next_one_finds_the_fault(rig: Rig) -> None:
    host = host_process(rig)
    killed = CLOCK.now_ns()
    host.kill()
    assert host.wait(5.0) == -signal.SIGKILL
    assert host.stdout is not None
    host.stdout.close()
    records = rig.records_until(killed + 500 * NS_PER_MS)
    assert max(abs(r.current_ua) for r in records) > 180.0
    assert time_to_zero(records, killed) <= 0.42
    rig.driver.open()
    first = rig.until(lambda r: True)
    assert (first.state, first.fault) == (DeviceState.FAULT, "host_timeout")
    rig.driver.reset_fault()
    rig.until(lambda r: r.state is DeviceState.IDLE)
    rig.on()


def test_a_second_host_finds_the_line_in_use(rig: Rig) -> None:
    rig.driver.open()
    with pytest.raises(DeviceNotFoundError, match=f"{rig.link} is in use by another program"):
        ReferenceStimulator(SerialWire(str(rig.link))).open()


def test_a_device_that_goes_away_is_lost(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.driver.open()
    rig.process.kill()
    rig.process.wait(10.0)
    with pytest.raises(DeviceLostError, match=str(rig.link)):
        rig.until(lambda r: False)
    rig.driver.close()
    for stream in (rig.process.stdin, rig.process.stdout, rig.process.stderr):
        assert stream is not None
        stream.close()


def test_faults_are_injected_from_outside_with_their_time(rig: Rig) -> None:
    rig.on()
    before = CLOCK.now_ns()
    answer = rig.tell("inject wrong_ack")
    assert answer["ok"]
    assert before - 20 * NS_PER_MS <= answer["t_ns"] <= CLOCK.now_ns() + 20 * NS_PER_MS
    with pytest.raises(DeviceProtocolError, match="wrong acknowledgement"):
        rig.until(lambda r: False, lambda: rig.driver.set_level(200, 250))
    assert rig.tell("status")["faults"] == ["wrong_ack"]
    assert rig.tell("clear wrong_ack")["ok"]
    assert rig.tell("status")["faults"] == []
    assert "the names are: wrong_ack" in rig.tell("inject nonsense")["error"]
    assert "the commands are" in rig.tell("dance")["error"]


def test_over_current_shows_at_the_meter_while_the_host_goes_on(rig: Rig) -> None:
    rig.on()
    injected = rig.tell("inject over_current:extra_ua=300")["t_ns"]
    seen = rig.until(lambda r: (r.measured_ua or 0) > 490, lambda: rig.driver.set_level(200, 250))
    assert seen.commanded_ua == 200
    rig.driver.stop(StopClass.S0_CUT)
    stopped = CLOCK.now_ns()
    records = rig.records_until(stopped + 300 * NS_PER_MS)
    assert max(r.current_ua for r in records if r.t_ns >= injected) == pytest.approx(500, abs=15)
    assert time_to_zero(records, stopped) <= 0.1


def test_a_fault_given_at_the_start_comes_at_its_time(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "--fault", "emergency_button@0.3", "--seed", "5")
    try:
        assert rig.driver.open().serial_number == "EMU-5"
        rig.until(lambda r: r.fault == "emergency_button")
        assert CLOCK.now_ns() - rig.ready["t_ns"] >= 300 * NS_PER_MS
    finally:
        rig.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_in_order(tmp_path: Path, number: signal.Signals) -> None:
    rig = Rig(tmp_path)
    assert os.readlink(rig.link) == rig.ready["port"]
    next(follow(rig.meter, timeout_s=5.0))
    rig.process.send_signal(number)
    assert rig.process.wait(10.0) == 0
    assert not rig.link.is_symlink()
    assert read_meter(rig.meter)
    rig.end()


def test_the_socket_answers_line_by_line_and_several_askers(tmp_path: Path) -> None:
    path = tmp_path / "control"
    process = subprocess.Popen(
        [*COMMAND, "--control", str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["control"] == str(path)
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
        for asker in (one, other):
            asker.connect(str(path))
            asker.settimeout(5.0)
        one.sendall(b"sta")
        other.sendall(b"inject short\nstatus\n")
        with other.makefile() as answers:
            assert json.loads(answers.readline())["fault"] == "short"
            assert json.loads(answers.readline())["state"] == "IDLE"
        one.sendall(b"tus\n")
        with one.makefile() as answers:
            assert json.loads(answers.readline())["ok"]
        other.sendall(b"quit\n")
    assert process.wait(10.0) == 0
    process.stdout.close()
    assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--fault", "bang"], 2, "the names are"),
        (["--meter", "/no/such/dir/m"], 3, "/no/such/dir/m: No such file"),
        (["--link", "/dev/null"], 3, "/dev/null: exists and is no link"),
        (["--control", "/no/such/dir/c"], 3, "/no/such/dir/c"),
    ],
)
def test_wrong_arguments_are_one_sentence(arguments: list[str], code: int, words: str) -> None:
    done = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=20, check=False
    )
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
