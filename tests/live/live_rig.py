"""A live rig in real processes: mock stimulator with its meter, an LSL stream, and ``cereloop live`` driven by its pipe."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from devices.clock import SystemClock
from devices.mock.meter import MeterError, read_meter, time_to_zero

ROOT = Path(__file__).resolve().parents[2]
LIVE_MOCK = ROOT / "configs" / "live-mock.toml"
CLOCK = SystemClock()
# One patient for each process that runs tests, so that several can run side by side.
PATIENT = f"patient-{os.getpid()}"

# Short and low: 0.2 mA, ramps as steep as the ceiling allows.
SHORT = {
    "session.arm": "open_loop",
    "stimulation.level_ua": 200,
    "stimulation.ramp_s": 3.2,
    "stimulation.hold_s": 60.0,
    "gate.sense_s": 1.0,
    "policy.refractory_s": 0.0,
    "session.duration_s": 120.0,
}


class Child:
    """A process whose standard output is read line by line, by a thread, so that nothing here can block for ever."""

    def __init__(self, command: list[str], *, env: dict[str, str] | None = None, stderr: Any = subprocess.PIPE) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            bufsize=1,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.seen: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def line(self, wanted: Callable[[str], bool] = lambda _: True, timeout_s: float = 60.0) -> str:
        """The next line that is wanted; fails with all that was said if none comes."""
        end_s = time.monotonic() + timeout_s
        while True:
            try:
                line = self._lines.get(timeout=max(end_s - time.monotonic(), 0.01))
            except queue.Empty:
                line = ""
            if line is None or time.monotonic() >= end_s:
                said = "".join(self.seen[-30:]) + self.errors()
                raise AssertionError(f"{self.process.args}: waited in vain; it said:\n{said}")
            self.seen.append(line)
            if line and wanted(line):
                return line

    def errors(self) -> str:
        if self.process.poll() is None or self.process.stderr is None:
            return ""
        return self.process.stderr.read()

    def send(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def signal(self, number: int) -> int:
        """Send a signal; returns the time just before, in ns."""
        at_ns = CLOCK.now_ns()
        os.kill(self.process.pid, number)
        return at_ns

    def wait(self, timeout_s: float = 60.0) -> int:
        return self.process.wait(timeout_s)

    def close(self) -> None:
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(10.0)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def cereloop(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "loop", *arguments]


class Stimulator(Child):
    """The mock stimulator in a process of its own, with a meter file and a link."""

    def __init__(self, folder: Path) -> None:
        self.meter = folder / "electrode.meter"
        self.port = folder / "stimulator"
        super().__init__(cereloop("mock", "stimulator", "--link", str(self.port), "--meter", str(self.meter), "--control", "-"))
        self.line(lambda line: "{" in line)

    def seconds_to_zero(self, from_ns: int, patience_s: float = 5.0) -> float:
        """Time from `from_ns` until the electrode stays at zero; waits until the meter can tell."""
        end_ns = CLOCK.now_ns() + round(patience_s * 1e9)
        while True:
            records = read_meter(self.meter)
            try:
                seconds = time_to_zero(records, from_ns)
            except MeterError:
                seconds = float("inf")
            settled = bool(records) and records[-1].t_ns > from_ns + round((min(seconds, patience_s) + 0.3) * 1e9)
            if (seconds < float("inf") and settled) or CLOCK.now_ns() > end_ns:
                return seconds
            time.sleep(0.02)  # the meter writes every few milliseconds; there is no event to wait for

    def now_ua(self) -> float:
        return abs(read_meter(self.meter)[-1].current_ua)


class Live(Child):
    """``cereloop live --json``, armed as an operator would."""

    def __init__(self, folder: Path, port: Path, config: Path = LIVE_MOCK, **overrides: Any) -> None:
        self.path = folder / f"session-{time.monotonic_ns()}.sqlite"
        self.events: list[dict[str, Any]] = []
        arguments = ["live", "--json", "--config", str(config), "--port", str(port), "--out", str(self.path)]
        streams = {"source.name": PATIENT, "source.marker_name": f"{PATIENT}-markers"}
        for key, value in {**streams, **overrides}.items():
            arguments += ["--set", f"{key}={json.dumps(value)}"]
        super().__init__(cereloop(*arguments))

    def event(self, timeout_s: float = 60.0, **wanted: Any) -> dict[str, Any]:
        """The next event with these fields."""

        def fits(line: str) -> bool:
            event = json.loads(line)
            self.events.append(event)
            return all(event.get(key) == value for key, value in wanted.items())

        return dict(json.loads(self.line(fits, timeout_s)))

    def arm(self) -> None:
        def has_code(line: str) -> bool:
            return "code" in json.loads(line)

        code = json.loads(self.line(has_code))["code"]
        # Faster than any operator: the guard may not have read the device back yet, and then says so.
        for _ in range(20):
            self.send(f"arm {code}")
            answer = self.line(lambda line: '"after":"SENSE"' in line or "does not confirm zero" in line)
            if "does not confirm zero" not in answer:
                return
        raise AssertionError("the device never confirmed zero current")

    def reset(self) -> None:
        """Reset at confirmed zero, again where the guard has not confirmed it yet; then arm."""
        for _ in range(20):
            self.send("reset tester")

            def answered(line: str) -> bool:
                return '"code"' in line or "guard_refused" in line

            if '"code"' in (line := self.line(answered)):
                self.send(f"arm {json.loads(line)['code']}")
                return
        raise AssertionError("the guard never took the reset")

    def guard_pid(self) -> int:
        """The guard is the child that runs devices.guard_process."""
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                status = (entry / "stat").read_text()
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            parent = int(status.rsplit(")", 1)[1].split()[1])
            if parent == self.pid and b"devices.guard_process" in command:
                return int(entry.name)
        raise AssertionError("no guard process found")
