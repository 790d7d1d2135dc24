"""Plays a scripted stream and a scripted guard to the engine by hand, on virtual time."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from core_config import configured

from devices import link
from devices.units import NS_PER_MS, NS_PER_S
from loop import harm, policy
from loop.config import Config
from loop.engine import TICK_NS, Engine
from loop.events import (
    Chunk,
    Device,
    GateChange,
    Incident,
    Input,
    Layout,
    Marker,
    MarkerOut,
    Operator,
    Output,
    SegmentStart,
    SourceInfo,
    Tick,
    ToGuard,
)
from loop.gate import Phase

T = TypeVar("T")
LABELS = ("PO9", "PO10", "Oz", "Cz", "Fz", "Pz", "C3", "C4")
RATE_HZ = 250.0
PERIOD_NS = round(NS_PER_S / RATE_HZ)
START_NS = 1000 * NS_PER_S
CHUNK = 5
SOURCE = SourceInfo(kind="lsl", identity="scripted", simulated=True, dtype="float64")


def layout(labels: tuple[str, ...] = LABELS, rate_hz: float = RATE_HZ) -> Layout:
    n = len(labels)
    return Layout(labels=labels, units=("uV",) * n, to_uv=(1.0,) * n, sfreq_hz=rate_hz)


def noise(n: int, seed: int = 0, labels: tuple[str, ...] = LABELS) -> npt.NDArray[np.float64]:
    """White noise of 10 microvolts, shape (n, n_channels)."""
    return np.random.default_rng(seed).normal(0.0, 10.0, size=(n, len(labels)))


@dataclass
class ScriptedGuard:
    """Answers as the guard does, without a device: every 50 ms and at every change of phase a Report."""

    phase: str = "safe"
    reason: str = ""
    level_ua: int = 0
    measured_ua: float | None = None
    refuses: str = ""
    silent: bool = False
    next_ns: int = 0
    stopped_ns: int = 0
    top_ua: int = 0
    charge_uc: float = 0.0
    told: list[link.Refused] = field(default_factory=list)

    def take(self, t_ns: int, message: Any) -> None:
        before = self.phase
        match message:
            case link.Arm() if self.phase == "safe":
                self.phase, self.reason = "armed", "armed"
            case link.Reserve(seq=seq) if self.refuses:
                self.told.append(link.Refused(seq=seq, reason=self.refuses))
            case link.Command(level_ua=level_ua) if self.phase in ("armed", "live"):
                self.phase, self.level_ua = "live", level_ua
            case link.Stop(stop_class=0, reason=reason):
                self.phase, self.reason, self.level_ua = "latched", reason, 0
            case link.Stop(reason=reason) if self.phase in ("armed", "live"):
                self.phase, self.reason = ("aborting" if self.level_ua else "stopped"), reason
                self.stopped_ns, self.top_ua = t_ns, self.level_ua
            case link.Reset() if self.phase in ("stopped", "latched"):
                self.phase, self.reason = "safe", "reset"
        if self.phase != before:
            self.next_ns = t_ns

    def reports(self, t_ns: int) -> list[link.Report | link.Refused]:
        if self.phase == "aborting":
            # 2 mA a second, as the abort ramp is.
            self.level_ua = max(0, self.top_ua - 2 * (t_ns - self.stopped_ns) // NS_PER_MS)
            if not self.level_ua:
                self.phase, self.next_ns = "stopped", t_ns
        out: list[link.Report | link.Refused] = [*self.told]
        self.told.clear()
        if t_ns >= self.next_ns and not self.silent:
            self.next_ns = t_ns + 50 * NS_PER_MS
            self.charge_uc += 0.05 * self.level_ua
            out.append(report(t_ns, self.phase, self.level_ua, self.reason, self.measured_ua, round(self.charge_uc)))
        return out


def report(
    t_ns: int,
    phase: str,
    level_ua: int = 0,
    reason: str = "",
    measured_ua: float | None = None,
    charge_uc: int = 0,
) -> link.Report:
    values = dict.fromkeys(
        ("last_seq", "reserved_uc", "on_time_ms", "dropped", "lease_left_ms"), 0
    )
    return link.Report(
        t_ns=t_ns,
        phase=phase,
        reason=reason,
        level_ua=level_ua,
        measured_ua=float(level_ua) if measured_ua is None else measured_ua,
        voltage_mv=None,
        impedance_ohm=None,
        charge_uc=charge_uc,
        **values,
    )


class Play:
    """One session: every 20 ms the guard's reports, the markers that are due, a chunk of five samples, and a tick."""

    def __init__(
        self, *overrides: str, config: Config | None = None, seed: int = 0, seconds: float = 200.0
    ) -> None:
        self.engine = Engine(config if config is not None else configured(*overrides))
        self.guard = ScriptedGuard()
        self.guarded = self.engine._config.stimulates
        self.samples = noise(round(seconds * RATE_HZ), seed)
        self.markers: list[tuple[int, str]] = []
        self.t_ns = START_NS
        self.sent_rows = 0
        self.outputs: list[Output] = []
        self.inputs: list[Input] = []
        self.streaming = True
        self.segment = 1
        self.change: Callable[[Chunk], Chunk | None] = lambda chunk: chunk
        self.feed(SegmentStart(t_ns=self.t_ns, segment=1, layout=layout(), source=SOURCE, clock_offset_ns=0))

    def feed(self, event: Input) -> list[Output]:
        """Give one input; the guard takes at once what is sent to it."""
        self.inputs.append(event)
        out = self.engine.step(event)
        self.outputs.extend(out)
        for one in out:
            if isinstance(one, ToGuard):
                self.guard.take(event.t_ns, one.message)
        return out

    def chunk(self) -> Chunk:
        """The next five samples, the last of them 2 ms old."""
        rows = self.samples[self.sent_rows : self.sent_rows + CHUNK]
        stamps = self.t_ns - 2 * NS_PER_MS - PERIOD_NS * np.arange(CHUNK - 1, -1, -1, dtype=np.int64)
        made = Chunk(self.t_ns, self.segment, self.sent_rows, stamps, rows)
        self.sent_rows += CHUNK
        return made

    def tick(self) -> list[Output]:
        """Advance by 20 ms."""
        before = len(self.outputs)
        self.t_ns += TICK_NS
        if self.guarded:
            for message in self.guard.reports(self.t_ns):
                self.feed(Device(t_ns=self.t_ns, message=message))
        while self.markers and self.markers[0][0] <= self.t_ns:
            stamp_ns, text = self.markers.pop(0)
            self.feed(Marker(t_ns=self.t_ns, stamp_ns=stamp_ns, text=text))
        chunk = self.change(self.chunk())
        if self.streaming and chunk is not None:
            self.feed(chunk)
        self.feed(Tick(t_ns=self.t_ns))
        return self.outputs[before:]

    def run(self, seconds: float) -> None:
        """Advance by some seconds."""
        for _ in range(round(seconds * NS_PER_S / TICK_NS)):
            self.tick()

    def until(self, phase: Phase | str, within_s: float = 30.0) -> None:
        """Advance until the engine is in a phase."""
        for _ in range(round(within_s * NS_PER_S / TICK_NS)):
            if self.engine.phase == phase:
                return
            self.tick()
        raise AssertionError(
            f"still {self.engine.phase}, not {phase}, after {within_s} s; {self.of(Incident)[-3:]}"
        )

    def operator(self, action: str, detail: str = "") -> list[Output]:
        return self.feed(Operator(t_ns=self.t_ns, action=action, detail=detail))  # type: ignore[arg-type]

    def arm(self) -> None:
        self.operator("arm", "CODE")

    def of(self, kind: type[T]) -> list[T]:
        """All outputs of one kind so far."""
        return [one for one in self.outputs if isinstance(one, kind)]

    def messages(self, kind: type[T]) -> list[T]:
        """All messages of one kind to the guard so far."""
        return [one.message for one in self.of(ToGuard) if isinstance(one.message, kind)]

    def incidents(self) -> list[str]:
        return [incident.name for incident in self.of(Incident)]

    def path(self) -> list[str]:
        """The phases gone through."""
        return [change.after for change in self.of(GateChange)]

    def marked(self) -> list[str]:
        return [marker.text for marker in self.of(MarkerOut)]


def open_loop(*overrides: str) -> Play:
    """An armed session whose plan opens the gate after 2 s."""
    play = Play("session.arm=open_loop", *overrides)
    play.arm()
    return play


def at(phase: str, *overrides: str) -> Play:
    """A session half a second into a phase."""
    play = open_loop(*overrides)
    play.until(phase)
    play.run(0.5)
    return play


@functools.cache
def _known_null() -> tuple[policy.Null, policy.Null]:
    """The nulls after a minute of noise."""
    play = Play("session.arm=feedback_only", seed=7)
    play.run(60)
    return play.engine._policy.null, play.engine._policy.composite


def with_null(play: Play) -> Play:
    """Spare a session its first minute: it begins with the null of an earlier one."""
    null, composite = _known_null()
    play.engine._policy = play.engine._policy._replace(null=null, composite=composite)
    return play


def probed(play: Play, n: int, level: float = 0.0) -> None:
    """Give the harm guard `n` probe trials whose index scatters by 1 about a level."""
    state = play.engine._harm._state
    assert isinstance(state, harm.Probing)
    for i in range(n):
        state = harm.take_index(state, level + (1.0 if i % 2 else -1.0), 0.5)
    play.engine._harm._state = state


def with_baseline(play: Play) -> Play:
    """Spare a session the thirty probe trials before its first current: it begins as if nothing had shown in them."""
    probed(play, play.engine._config.harm.min_baseline)
    return play


def excited(play: Play, every_s: float, first_s: float, last_s: float, gain_uv: float = 60.0) -> None:
    """Add outcomes with a burst of theta and beta over the posterior fossa after each."""
    n = round(0.7 * RATE_HZ)
    time_s = np.arange(n) / RATE_HZ
    burst = gain_uv * (np.sin(2 * np.pi * 5.5 * time_s) + np.sin(2 * np.pi * 20.0 * time_s))
    for at_s in np.arange(first_s, last_s, every_s):
        stamp_ns = START_NS + round(at_s * NS_PER_S)
        play.markers += [(stamp_ns, "OUT_DUE"), (stamp_ns, "STIM/NOX/100")]
        row = round(at_s * RATE_HZ)
        play.samples[row : row + n, :2] += burst[:, None]
    play.markers.sort()
