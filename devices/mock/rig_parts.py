"""What the rigs of both conformance suites are made of: a cable that can be pulled, and an emulator in a process of its own."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any, Final

from devices.children import module_command
from devices.clock import SystemClock
from devices.pulses import PulseStimulator
from devices.stimulator import DeviceLostError, Stimulator
from devices.wires import InProcessWire

_PATIENCE_S: Final = 10.0


class CableWire(InProcessWire):
    """An in-process wire whose cable can be pulled."""

    pulled = False

    def write(self, data: bytes) -> int:
        """Deliver, unless the cable is out."""
        if self.pulled:
            raise DeviceLostError(f"{self.name}: the cable is out")
        return super().write(data)

    def read(self) -> bytes:
        """Take what came, unless the cable is out."""
        if self.pulled:
            raise DeviceLostError(f"{self.name}: the cable is out")
        return super().read()


class ProcessRig:
    """An emulator as a process of its own, in real time; a subclass adds driver and meter.

    Parameters
    ----------
    module : str
        The emulator's.
    arguments : str
        For it; standard input is its control channel.
    """

    driver: Stimulator | PulseStimulator

    def __init__(self, module: str, *arguments: str) -> None:
        self._clock = SystemClock()
        self._process = subprocess.Popen(
            module_command(module, *arguments, "--control", "-"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.port: str = json.loads(self._process.stdout.readline())["port"]

    def now_ns(self) -> int:
        """The system's clock."""
        return self._clock.now_ns()

    def pass_time(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def restore_replies(self) -> None:
        """They arrive again."""
        self.tell("clear lost_replies")

    def break_line(self) -> None:
        """Pull the cable: the line hangs up, the device lives on."""
        self.tell("unplug")

    def tell(self, command: str) -> dict[str, Any]:
        """One line of the control channel, and its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(command, file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        if not answer["ok"]:
            raise RuntimeError(f"the emulator did not take `{command}`: {answer['error']}")
        return answer

    def close(self) -> None:
        """End driver and process."""
        self.driver.close()
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_PATIENCE_S)
        assert self._process.stdout is not None
        self._process.stdout.close()
