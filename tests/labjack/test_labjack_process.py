"""The emulated LabJack over TCP, in a process of its own: calibrated by the command, driven, killed and cut by its watchdog."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from devices.clock import SystemClock
from devices.labjack import LabJackOptions
from devices.labjack_driver import LabJackStimulator
from devices.mock.meter import MeterReader
from devices.stimulator import DeviceNotFoundError
from devices.tcp_wire import TcpWire

CONFIG = Path(__file__).parents[2] / "configs" / "live-labjack-mock.toml"
CLOCK = SystemClock()


@contextmanager
def emulator(directory: Path, *arguments: str) -> Iterator[dict[str, Any]]:
    meter = directory / "meter"
    process = subprocess.Popen(
        [sys.executable, "-m", "devices.mock.labjack_process", "--listen", "127.0.0.1:0", "--meter", str(meter), *arguments],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield {**json.loads(process.stdout.readline()), "meter": meter}
    finally:
        process.terminate()
        process.wait(10)


def calibrate(directory: Path, port: str, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loop", "calibrate-output", "--config", str(CONFIG), "--set", f"device.port='{port}'"]
    return subprocess.run([*command, *more], capture_output=True, text=True, cwd=directory, check=False)


def test_from_the_resistor_to_a_dead_host(tmp_path: Path) -> None:
    out = str(tmp_path / "output.json")
    with emulator(tmp_path, "--resistor", "4700") as device:
        done = calibrate(tmp_path, device["port"], "--resistor", "4700", "--no-participant", "--out", out)
        assert done.returncode == 0, done.stderr
        assert "T7, emulated 100:" in done.stdout
        wrong = calibrate(tmp_path, device["port"], "--resistor", "2350", "--no-participant", "--json")
        assert wrong.returncode == 2
        assert "the configuration says 1" in wrong.stderr
        asked = calibrate(tmp_path, device["port"], "--resistor", "4700")
        assert (asked.returncode, "Traceback" in asked.stderr) == (1, False)
    (tmp_path / "meter").unlink()
    with emulator(tmp_path) as device:
        host, _, port = device["port"].partition(":")
        options = LabJackOptions(gain_ma_per_v=1.0, voltage_monitor_v_per_v=0.1, leads="anodal", calibration=out)
        driver = LabJackStimulator(TcpWire(host, int(port)), options)
        assert driver.open().emulator
        driver.arm(300, 100)
        meter, flows = MeterReader(device["meter"]), 0.0

        def until(met: Any, act: Any, patience_s: float = 5.0) -> float:
            nonlocal flows
            start_s = time.monotonic()
            while not met():
                assert time.monotonic() - start_s < patience_s
                act()
                time.sleep(0.01)
                flows = next((record.current_ua for record in reversed(meter.read_new())), flows)
            return time.monotonic() - start_s

        def drive() -> None:
            driver.set_level(60, 250)
            driver.poll(CLOCK.now_ns())

        until(lambda: flows > 50.0, drive)
        # The host dies: nothing is sent any more, the connection stays open.
        assert until(lambda: flows < 10.0, lambda: None) <= 2.0 + 0.15 + 0.1
        driver.close()


def test_nothing_there_is_one_sentence(tmp_path: Path) -> None:
    done = calibrate(tmp_path, "127.0.0.1:9", "--resistor", "4700", "--no-participant")
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    options = LabJackOptions(gain_ma_per_v=1.0, voltage_monitor_v_per_v=0.1, leads="anodal", calibration="x")
    with pytest.raises(DeviceNotFoundError):
        LabJackStimulator(TcpWire("127.0.0.1", 9), options).open()
