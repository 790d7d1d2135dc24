"""Real processes for the guard's tests: the mock stimulator with its meter, the guard, and a small engine."""

from __future__ import annotations

import json
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from guard_doubles import make_settings

from devices import link
from devices.clock import SystemClock
from devices.limits import gate_dose
from devices.link_socket import GuardClient
from devices.mock.meter import MeterReader, MeterRecord, time_to_zero
from devices.settings import Settings, digest, encode
from devices.units import NS_PER_MS

ROOT = Path(__file__).parents[2]
PATIENCE_S = 10.0
CLOCK = SystemClock()


@contextmanager
def short_directory() -> Iterator[Path]:
    """A private directory whose name is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="clg") as name:
        yield Path(name)


class MockDevice:
    """The mock stimulator as a process of its own; a killed guard does not kill its meter."""

    def __init__(self, directory: Path) -> None:
        self.meter_path = directory / "meter"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "devices.mock.stimulator_process", "--meter", str(self.meter_path), "--control", "-"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.port: str = json.loads(self.process.stdout.readline())["port"]
        self._reader = MeterReader(self.meter_path)
        self.records: list[MeterRecord] = []

    def status(self) -> dict[str, Any]:
        """What the device truly does now."""
        return self.tell("status")

    def tell(self, command: str) -> dict[str, Any]:
        """One command on the control channel, and its answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(command, file=self.process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        assert answer["ok"], answer
        return answer

    def flows(self) -> float:
        """True current now, uA."""
        current: float = self.status()["current_ua"]
        return abs(current)

    def time_to_zero(self, from_ns: int, bound_s: float) -> float:
        """Seconds from `from_ns` until the meter stays at zero; watched for 0.3 s more, or until past the bound."""
        while True:
            self.status()
            self.records += self._reader.read_new()
            since = [record for record in self.records if record.t_ns >= from_ns]
            watched_s = (since[-1].t_ns - from_ns) / 1e9 if since else 0.0
            if watched_s > 0.2:
                zero_s = time_to_zero(since, from_ns)
                if watched_s > min(bound_s, zero_s) + 0.3:
                    return zero_s

    def close(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.communicate(timeout=PATIENCE_S)


class GuardProcess:
    """A guard, started as the engine's shell would start it."""

    def __init__(self, directory: Path, port: str, *options: str, python: tuple[str, ...] = (), **changes: Any) -> None:
        self.settings: Settings = make_settings(driver="reference", port=port, **changes)
        self.socket = directory / "guard.sock"
        settings_path = directory / "settings.json"
        settings_path.write_bytes(encode(self.settings))
        self.process = subprocess.Popen(
            [
                sys.executable,
                *python,
                "-m",
                "devices.guard_process",
                "--settings",
                str(settings_path),
                "--socket",
                str(self.socket),
                *options,
            ],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self) -> tuple[int, str]:
        """Wait for the end; exit code and standard error."""
        _, errors = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, errors

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this process alone."""
        self.process.send_signal(number)

    def close(self) -> None:
        """End it, whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=PATIENCE_S)


class Engine:
    """A small engine: renews its level every 20 ms while it waits for something."""

    def __init__(self, guard: GuardProcess) -> None:
        self.guard = guard
        self.client = GuardClient.connect(guard.socket, PATIENCE_S)
        self.seq = 0
        self.wanted_ua: int | None = None
        self.welcome: link.Welcome | None = None
        self.report: link.Report | None = None
        self.refusals: list[str] = []
        self.client.send(link.Hello(version=link.LINK_VERSION, settings_sha256=digest(guard.settings)))
        self.until(lambda: self.welcome is not None)

    def until(self, done: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
        """Read, and renew `wanted_ua`, until `done`."""
        end = time.monotonic() + patience_s
        next_ns = CLOCK.now_ns()
        while not done():
            assert time.monotonic() < end, f"waited in vain; last heard: {self.report}, refused: {self.refusals}"
            if self.wanted_ua is not None and CLOCK.now_ns() >= next_ns:
                next_ns = CLOCK.now_ns() + 20 * NS_PER_MS
                self.send_command(self.wanted_ua)
            if not self.client.closed:
                select.select([self.client], [], [], 0.01)
            for message in self.client.receive():
                match message:
                    case link.Welcome():
                        self.welcome = message
                    case link.Report():
                        self.report = message
                    case link.Refused():
                        self.refusals.append(message.reason)

    def send_command(self, level_ua: int) -> None:
        """One level with a lease of 250 ms."""
        self.client.send(
            link.Command(seq=self.next_seq(), level_ua=level_ua, decision=0, deadline_ns=CLOCK.now_ns() + 250 * NS_PER_MS)
        )

    def next_seq(self) -> int:
        self.seq += 1
        return self.seq

    def phase(self, phase: str) -> Callable[[], bool]:
        """Condition: the newest report says `phase`."""
        return lambda: self.report is not None and self.report.phase == phase

    def to_live(self, level_ua: int) -> None:
        """Arm, reserve, and wait until the level is reached."""
        self.until(lambda: self.report is not None and self.report.phase == "safe" and self.report.impedance_ohm is not None)
        assert self.welcome is not None
        self.client.send(link.Arm(seq=self.next_seq(), code=self.welcome.arm_code))
        self.until(self.phase("armed"))
        dose = gate_dose(self.guard.settings.stimulation)
        self.client.send(link.Reserve(seq=self.next_seq(), charge_uc=dose.charge_uc, on_time_ms=dose.on_time_ms))
        self.wanted_ua = level_ua
        self.until(lambda: self.report is not None and self.report.level_ua == level_ua)
