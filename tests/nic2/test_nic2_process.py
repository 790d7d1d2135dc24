"""The emulated NIC as a process of its own: TCP, one client, its command line, and a driver that dies under current."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devices.mock.meter import read_meter

PEAK = """
import sys, time
from devices.clock import SystemClock
from devices.driver import tcp_address
from devices.mock.nic2_rigs import options
from devices.nic2 import Nic2Stimulator
from devices.stimulator import GatePlan
from devices.tcp_wire import TcpWire
driver = Nic2Stimulator(TcpWire(*tcp_address(sys.argv[1], 1235)), "peak", options("peak"))
driver.open()
driver.arm(1000, 100)
driver.run_gate(GatePlan(level_ua=150, rise_ms=1500, hold_ms=1500, fall_ms=1500))
print("running", flush=True)
while True:
    time.sleep(0.01)
    driver.poll(SystemClock().now_ns())
"""


class Nic:
    """The process, its address and its control over standard input."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.meter = folder / "meter"
        command = [sys.executable, "-m", "loop", "mock", "stimulator", "--protocol", "nic2", "--listen", "127.0.0.1:0"]
        command += ["--meter", str(self.meter), "--control", "-", *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = json.loads(self.process.stdout.readline())["port"]

    def tell(self, command: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(command, file=self.process.stdin, flush=True)
        return dict(json.loads(self.process.stdout.readline()))

    def connect(self) -> socket.socket:
        host, port = self.port.split(":")
        return socket.create_connection((host, int(port)), 5.0)


@pytest.fixture
def nic(tmp_path: Path) -> Iterator[Nic]:
    made = Nic(tmp_path)
    yield made
    made.process.terminate()
    made.process.wait(10.0)


def test_a_peak_outlives_the_driver_and_ends_by_itself(nic: Nic) -> None:
    driver = subprocess.Popen([sys.executable, "-c", PEAK, nic.port], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "running\n"
    while (current := nic.tell("status")["current_ua"]) < 100.0:
        time.sleep(0.02)  # the ramp takes its time; there is no event to wait for
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait(10.0)
    end_s = time.monotonic() + 10.0
    while abs(current := nic.tell("status")["current_ua"]) > 10.0 and time.monotonic() < end_s:
        time.sleep(0.05)
    assert abs(current) <= 10.0
    records = read_meter(nic.meter)
    assert max(record.current_ua for record in records) == pytest.approx(150.0, abs=3.0)
    flowing = [record.t_ns for record in records if abs(record.current_ua) > 10.0]
    assert (flowing[-1] - flowing[0]) / 1e9 == pytest.approx(4.3, abs=0.3)


def test_a_second_client_is_turned_away_and_junk_does_no_harm(nic: Nic) -> None:
    with nic.connect() as first:
        first.sendall(b"\x8304.07\x00")
        assert first.recv(1) == bytes([203])
        with nic.connect() as second:
            second.settimeout(5.0)
            assert second.recv(1) == b""
        first.sendall(os.urandom(200_000))
        first.sendall(b"\x00\x80")
        assert nic.tell("status")["ok"]
    assert nic.tell("inject nonsense")["error"].startswith("there is no fault 'nonsense'; the names are: garbage")
    assert nic.tell("status")["peak_ua"] == 0.0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--listen", "nowhere:x"], 2, "expected HOST or HOST:PORT"),
        (["--listen", "192.0.2.1:1235"], 3, "choose another address by --listen"),
        (["--outlet", "N"], 2, "--outlet needs --meter"),
        (["--fault", "wrong_ack"], 2, "there is no fault 'wrong_ack'"),
    ],
)
def test_what_the_command_line_says(arguments: list[str], code: int, words: str) -> None:
    command = [sys.executable, "-m", "loop", "mock", "stimulator", "--protocol", "nic2", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == code
    assert words in " ".join(done.stderr.split())
