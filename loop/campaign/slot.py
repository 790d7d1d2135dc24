"""One place where real sessions run: a mock stimulator with its meter, a scripted outlet, and ``cereloop live`` between them.

A session is used again after a stop from which reset and arming lead back; killed processes are replaced.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from devices.children import module_command
from devices.mock.meter import MeterReader, MeterRecord
from devices.units import NS_PER_S
from loop.campaign.children import CLOCK, Child, RealError, child_of, kill
from loop.campaign.rig import base_text

LEVEL_UA: Final = 200
RAMP_S: Final = 3.2
HOLD_S: Final = 60.0
_LEAST_HOLD_S: Final = 30.0
PYTHON: Final = sys.executable
ROOT: Final = Path(__file__).resolve().parents[2]


class Slot:
    """Processes of one place.

    Parameters
    ----------
    folder : Path
        Empty, private, with a name short enough for a socket.
    name : str
        Of its stream.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self.runtime = folder / "run"
        self.runtime.mkdir(mode=0o700)
        self.config = folder / "campaign.toml"
        self.config.write_text(base_text(), encoding="utf-8")
        search = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self.environment = {"XDG_RUNTIME_DIR": str(self.runtime), "PYTHONPATH": search}
        self.stimulator: Child | None = None
        self.outlet: Child | None = None
        self.live: Child | None = None
        self.kind = "none"
        self.guard_pid = self.recorder_pid = 0
        self.records: list[MeterRecord] = []
        self.events: list[dict[str, Any]] = []
        self._reader: MeterReader | None = None
        self._hold_ns: int | None = None
        self._code = ""
        self._count = 0

    # ---- processes

    def module(self, name: str, *arguments: str) -> Child:
        """A module as a process of this place."""
        return Child(module_command(name, *arguments), self.folder, self.environment)

    def with_device(self, kind: str = "none") -> Child:
        """The stimulator, started anew unless it lives; ``hardware`` gives itself out as no emulator."""
        if self.stimulator is None or not self.stimulator.alive or kind != "none":
            if self.stimulator is not None:
                self.stimulator.close()
            meter = self.folder / "electrode.meter"
            meter.unlink(missing_ok=True)
            options = ("--link", str(self.folder / "port"), "--meter", str(meter), "--control", "-")
            self.stimulator = self.module("loop.campaign.sabotage", kind, "mock", "stimulator", *options)
            self.stimulator.line(lambda line: "{" in line)
            self._reader = MeterReader(meter)
            self.records = []
        return self.stimulator

    def with_stream(self) -> Child:
        """The outlet, started anew unless it lives."""
        if self.outlet is None or not self.outlet.alive:
            self.outlet = self.module("loop.campaign.outlet", self.name)
            self.outlet.line(lambda line: "streaming" in line)
        return self.outlet

    def start(self, *overrides: str, kind: str = "none") -> Child:
        """``cereloop live`` on this place's stream and device, made to go wrong by `kind` if asked; not armed."""
        self._count += 1
        values = {
            "source.name": self.name,
            "device.driver": "reference",
            "device.port": str(self.folder / "port"),
            "stimulation.level_ua": LEVEL_UA,
            "stimulation.ramp_s": RAMP_S,
            "stimulation.hold_s": HOLD_S,
            "stimulation.polarity": "anodal" if self._count % 2 else "cathodal",
        }
        arguments = ["live", "--json", "--config", str(self.config), "--out", str(self.folder / f"s{self._count}.sqlite")]
        for key, value in values.items():
            arguments += ["--set", f"{key}={json.dumps(value)}"]
        for override in overrides:
            arguments += ["--set", override]
        self.events.clear()
        self._hold_ns = None
        self.kind = kind
        return self.module("loop.campaign.sabotage", kind, *arguments)

    def close(self) -> None:
        """End all processes of this place, the stimulator last."""
        self.drop_session()
        for child in (self.outlet, self.stimulator):
            if child is not None:
                child.close()
        self.outlet = self.stimulator = None

    def drop_session(self) -> None:
        """End the session and its guard and recorder, whatever became of them."""
        if self.live is not None:
            pids = [self.guard_pid, self.recorder_pid]
            for pid in pids:
                if pid:
                    kill(pid, 18)
            self.live.close()
            end_s = time.monotonic() + 8.0
            while any(pid and Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < end_s:
                time.sleep(0.05)  # another's children: there is no event to wait for
            for pid in pids:
                if pid and Path(f"/proc/{pid}").exists():
                    kill(pid, 9)
        self.live = None
        self.guard_pid = self.recorder_pid = 0
        self._hold_ns = None

    # ---- to a moment

    def to_hold(self, kind: str = "none") -> None:
        """A session in HOLD with enough of it left: the present one, or a new one."""
        self._to("HOLD", kind)

    def to_ramp(self) -> None:
        """A new session in RAMP_UP."""
        self.drop_session()
        self._to("RAMP_UP", "none")

    def _to(self, phase: str, kind: str) -> None:
        self.with_stream()
        self.with_device()
        if self.live is not None and (not self.live.alive or self.kind != kind or kind != "none"):
            self.drop_session()
        if self.live is not None and self._hold_ns is not None:
            if CLOCK.now_ns() - self._hold_ns < (HOLD_S - _LEAST_HOLD_S) * NS_PER_S:
                return
            self.drop_session()
        if self.live is None:
            self.live = self.start(kind=kind)
            self._arm()
            self._know()
        else:
            self._reset()
        self.event(lambda event: event.get("kind") == "gate" and event.get("after") == phase)
        if phase == "HOLD":
            self._hold_ns = CLOCK.now_ns()
        self.status()

    def _arm(self) -> None:
        assert self.live is not None
        shown = self.event(lambda event: "code" in event or event.get("guard") == "latched")
        if "code" not in shown:
            # The device still holds the fault that it went into when the guard before this one was killed.
            self._reset()
            return
        self._code = str(shown["code"])
        for _ in range(20):
            self.live.send(f"arm {self._code}")
            answer = self.event(
                lambda event: event.get("after") in ("SENSE", "SETTLE") or "not armed" in str(event.get("detail", ""))
            )
            if answer.get("kind") == "gate":
                return
            time.sleep(0.05)  # the guard has not read the device back yet; it says no more than that
        raise RealError(f"the guard would not arm: {answer}")

    def _reset(self) -> None:
        assert self.live is not None
        for _ in range(40):
            self.live.send("reset campaign")
            answer = self.event(lambda event: "code" in event or event.get("name") == "guard_refused")
            if "code" in answer:
                self._code = str(answer["code"])
                self.live.send(f"arm {self._code}")
                answer = self.event(
                    lambda event: event.get("after") in ("SENSE", "SETTLE") or "not armed" in str(event.get("detail", ""))
                )
                if answer.get("kind") == "gate":
                    return
            time.sleep(0.05)  # as in `_arm`
        raise RealError("the guard never took the reset")

    def begin(self, *overrides: str) -> None:
        """A new session with other settings, armed and sensing."""
        self.with_stream()
        self.with_device()
        self.drop_session()
        self.live = self.start(*overrides)
        self._arm()
        self._know()

    def rearm(self) -> None:
        """Reset and arm after a stop."""
        self._reset()

    def _know(self) -> None:
        """Note guard and recorder of the session."""
        assert self.live is not None
        found = child_of(self.live.pid, b"devices.guard_process"), child_of(self.live.pid, b"loop.row_writer")
        if None in found:
            raise RealError("a session without guard or recorder")
        self.guard_pid, self.recorder_pid = (pid or 0 for pid in found)

    @property
    def engine_pid(self) -> int:
        """The session's own process."""
        assert self.live is not None
        return self.live.pid

    @property
    def runs(self) -> bool:
        """Whether the session's process lives."""
        return self.live is not None and self.live.alive

    @property
    def code(self) -> str:
        """The arm code shown last."""
        return self._code

    def event(self, wanted: Callable[[dict[str, Any]], bool], patience_s: float = 30.0) -> dict[str, Any]:
        """The session's next event that is wanted."""
        assert self.live is not None

        def fits(line: str) -> bool:
            event = json.loads(line)
            self.events.append(event)
            return wanted(event)

        return dict(json.loads(self.live.line(fits, patience_s)))

    def hear(self) -> list[dict[str, Any]]:
        """What the session has said meanwhile, all of it since `clear`."""
        if self.live is not None:
            self.events += [json.loads(line) for line in self.live.waiting() if line.startswith("{")]
        return self.events

    def stopped(self) -> None:
        """Note that the current has been stopped: the session is in HOLD no more."""
        self._hold_ns = None

    # ---- device and meter

    def tell(self, command: str) -> dict[str, Any]:
        """One command to the stimulator's control channel."""
        assert self.stimulator is not None
        self.stimulator.send(command)
        answer: dict[str, Any] = json.loads(self.stimulator.line(lambda line: line.startswith("{"), 10.0))
        if not answer["ok"]:
            raise RealError(f"the stimulator: {answer}")
        return answer

    def status(self) -> dict[str, Any]:
        """What the stimulator is now."""
        return self.tell("status")

    def stream_does(self, command: str) -> int:
        """One command to the outlet; the time just before, ns."""
        outlet = self.with_stream()
        at_ns = CLOCK.now_ns()
        outlet.send(command)
        if outlet.line(lambda line: bool(line.strip()), 10.0).strip() != "done":
            raise RealError(f"the outlet did not understand {command!r}")
        return at_ns

    def meter(self) -> list[MeterRecord]:
        """All samples of the meter so far."""
        if self._reader is not None:
            self.records += self._reader.read_new()
        return self.records
