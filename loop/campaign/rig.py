"""One session on the virtual clock that can be disturbed: engine, guard, mock stimulator and a scripted stream.

Engine and guard are real; what stands in are their processes (running, frozen, killed), the link between them, and the EEG:
white noise on eight channels. Nothing reads a clock, so the same seed gives the same current, sample by sample.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from devices import link
from devices.clock import VirtualClock
from devices.dose_book import MemoryDoseBook
from devices.guard_core import GuardCore
from devices.mock import faults
from devices.mock.meter import Meter, MeterRecord
from devices.mock.stimulator import StimulatorModel
from devices.reference import InProcessWire, ReferenceStimulator
from devices.units import NS_PER_MS, NS_PER_S
from loop import config as configuration
from loop.config import Config, guard_settings
from loop.engine import TICK_NS, Engine
from loop.events import (
    Chunk,
    Device,
    GuardLost,
    Incident,
    Input,
    Int64s,
    Layout,
    Operator,
    Output,
    SegmentStart,
    SourceInfo,
    Tick,
    ToGuard,
)
from loop.gate import Phase

Life = Literal["running", "frozen", "dead"]

LABELS: Final = ("PO9", "PO10", "Oz", "Cz", "Fz", "Pz", "C3", "C4")
RATE_HZ: Final = 250.0
START_NS: Final = 1_000_000 * NS_PER_S
GUARD_TICK_NS: Final = 10 * NS_PER_MS
STEEPEST_UA_S: Final = 100.0
"""Steepest slope of the drawn ramps: the ceiling."""
_TEXT: Final = Path(__file__).with_name("session.toml")
_NOISE_S: Final = 20
_AGE_NS: Final = 2 * NS_PER_MS


@functools.cache
def _noise() -> npt.NDArray[np.float64]:
    """White noise of 10 microvolts, shape (n_times, n_channels), read over and over."""
    return np.random.default_rng(7).normal(0.0, 10.0, (round(_NOISE_S * RATE_HZ), len(LABELS)))


@functools.cache
def base_text() -> str:
    """The campaign's configuration as text."""
    return _TEXT.read_text(encoding="utf-8")


def layout(labels: tuple[str, ...] = LABELS, rate_hz: float = RATE_HZ, to_uv: float = 1.0) -> Layout:
    """Layout of the scripted stream, or one that differs from it."""
    n = len(labels)
    return Layout(labels=labels, units=("uV",) * n, to_uv=(to_uv,) * n, sfreq_hz=rate_hz)


def drawn(rng: random.Random, level_ua: int | None = None, more: tuple[str, ...] = ()) -> Config:
    """A session with a random level (one in eight at 2 mA), ramp, hold and polarity."""
    if level_ua is None:
        level_ua = 2000 if rng.random() < 0.125 else round(math.exp(rng.uniform(math.log(100.0), math.log(2000.0))))
    ramp_s = max(1.0, math.pi / 2.0 * level_ua / STEEPEST_UA_S * rng.uniform(1.001, 1.3))
    return configuration.parse(
        base_text(),
        _TEXT.name,
        (
            f"stimulation.level_ua={level_ua}",
            f"stimulation.ramp_s={ramp_s:.3f}",
            f"stimulation.hold_s={rng.uniform(10.0, 30.0):.3f}",
            f'stimulation.polarity="{rng.choice(("anodal", "cathodal"))}"',
            *more,
        ),
    )


class Stream:
    """The scripted EEG: what is due comes in one piece whenever it is asked for.

    Attributes
    ----------
    state : {"flows", "holds", "drops"}
        ``holds``: nothing comes, and what gathers comes late; ``drops``: it never comes.
    shift_ns : int
        Added to every stamp.
    alter : callable or None
        Changes samples, (n_times, n_channels) in microvolts.
    """

    def __init__(self, start_ns: int) -> None:
        self.state: Literal["flows", "holds", "drops"] = "flows"
        self.shift_ns = 0
        self.alter: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]] | None = None
        self._period_ns = NS_PER_S / RATE_HZ
        self._zero_ns = float(start_ns)
        self._next = 0
        self.handed = 0

    def set_rate(self, t_ns: int, factor: float) -> None:
        """Run `factor` times as fast from now on."""
        due = (t_ns - self._zero_ns) / self._period_ns
        self._period_ns = NS_PER_S / (RATE_HZ * factor)
        self._zero_ns = t_ns - due * self._period_ns

    def pull(self, t_ns: int) -> tuple[Int64s, npt.NDArray[np.float64]] | None:
        """Stamps (n_times,) and samples (n_times, n_channels) that have come by `t_ns`."""
        due = int((t_ns - _AGE_NS - self._zero_ns) // self._period_ns) + 1
        if self.state == "drops":
            self._next = max(self._next, due)
        if self.state != "flows" or due <= self._next:
            return None
        rows = np.arange(self._next, due)
        self._next = due
        stamps = (self._zero_ns + rows * self._period_ns).astype(np.int64) + self.shift_ns
        samples = _noise()[rows % len(_noise())]
        self.handed += len(rows)
        return stamps, samples if self.alter is None else self.alter(samples.copy())


class Rig:
    """Engine, guard, device and stream on one virtual clock.

    Parameters
    ----------
    seed : str
        Draws the session, the phases of the ticks, and the device's errors.
    config : Config, optional
        Instead of a drawn one.

    Attributes
    ----------
    engine_life, guard_life : str
        ``running``, ``frozen`` (SIGSTOP: what is sent waits) or ``dead``.
    engine_late, guard_late : callable
        By how much the next turn is late, ns.
    every_turn : callable
        Called before each of the guard's turns.
    tamper : callable
        Changes what the engine says to the guard.
    outputs : list of Output
        What the engine has put out since the last `watch`.
    told : list
        What the guard has said since the last `watch`.
    phases : list of str
        Phases of the guard since the last `watch`, the present one first.
    t0_ns, stop_ns : int
        When `watch` was called, and when the guard last changed its phase since.
    records : list of MeterRecord
        The meter since the last `watch`.
    """

    def __init__(self, seed: str, config: Config | None = None) -> None:
        rng = random.Random(f"rig {seed}")
        self.config = config if config is not None else drawn(rng)
        self.clock = VirtualClock(START_NS)
        self.records: list[MeterRecord] = []
        self.outputs: list[Output] = []
        self.told: list[link.FromGuard] = []
        self.phases: list[str] = []
        self.dac_ua = 0.0
        self._watching = False
        self.model = StimulatorModel(START_NS, rng.randrange(1 << 30), meter=Meter(START_NS, self._keep))
        settings = guard_settings(self.config, f"campaign {seed}"[:60], input_is_simulated=True)
        driver = ReferenceStimulator(InProcessWire(self.model, self.clock))
        self.guard = GuardCore(settings, driver, b"campaign", MemoryDoseBook())
        self.engine = Engine(self.config)
        self.engine_life: Life = "running"
        self.guard_life: Life = "running"
        self.engine_step: Callable[[Engine, Input], list[Output]] | None = None
        self.stream = Stream(START_NS)
        self.segment = 1
        self._inbox: deque[link.FromGuard] = deque()
        self._outbox: deque[link.ToGuard | bytes] = deque()
        self._gone_told = self._lost_told = False
        self._guard_ns = START_NS + rng.randrange(GUARD_TICK_NS)
        self._engine_ns = START_NS + rng.randrange(TICK_NS)
        self._count = itertools.count()
        self._later: list[tuple[int, int, Callable[[], None]]] = []
        self.engine_late: Callable[[], int] = lambda: 0
        self.guard_late: Callable[[], int] = lambda: 0
        self.every_turn: Callable[[], None] = lambda: None
        self.tamper: Callable[[link.ToGuard], link.ToGuard] = lambda message: message
        self.t0_ns = self.stop_ns = 0
        info = SourceInfo(kind="lsl", identity="campaign", simulated=True, dtype="float64")
        self._source = info
        self.feed(SegmentStart(t_ns=START_NS, segment=1, layout=layout(), source=info, clock_offset_ns=0))
        self._inbox.append(self.guard.welcome())

    # ---- looking

    @property
    def t_ns(self) -> int:
        """Now."""
        return self.clock.now_ns()

    @property
    def level_ua(self) -> float:
        """True current at the electrode, as a magnitude."""
        return abs(self.model.current_ua)

    @property
    def gate_phase(self) -> Phase:
        """Where the engine is in its cycle."""
        return self.engine.phase

    @property
    def left_s(self) -> float:
        """How long current goes on if nothing happens; while it rises."""
        stimulation = self.config.stimulation
        if stimulation is None or self.engine.phase is not Phase.RAMP_UP:
            return 0.0
        share = math.acos(max(-1.0, 1.0 - 2.0 * min(1.0, self.level_ua / stimulation.level_ua))) / math.pi
        return (2.0 - share) * stimulation.ramp_s + stimulation.hold_s

    def watch(self) -> None:
        """Keep the meter's samples and what everybody says from now on."""
        self._watching = True
        self.records.clear()
        self.outputs.clear()
        self.told.clear()
        self.phases[:] = [self.guard.phase.value]
        self.dac_ua = 0.0
        self.t0_ns = self.stop_ns = self.t_ns
        # The meter's own steepest slopes begin anew.
        self.model.meter.max_rise_ua_s = self.model.meter.max_fall_ua_s = 0.0
        self.model.meter.peak_ua = self.level_ua

    def incidents(self) -> list[str]:
        """Names of the incidents since `watch`."""
        return [output.name for output in self.outputs if isinstance(output, Incident)]

    def refusals(self) -> list[str]:
        """What the guard has refused since `watch`."""
        return [message.reason for message in self.told if isinstance(message, link.Refused)]

    # ---- time

    def at(self, t_ns: int, act: Callable[[], None]) -> None:
        """Do something at a time to come; what is due already is done with the next turn."""
        heapq.heappush(self._later, (t_ns, next(self._count), act))

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Do something after some seconds."""
        self.at(self.t_ns + round(seconds * NS_PER_S), act)

    def run_until(self, t_ns: int, done: Callable[[], bool] | None = None) -> bool:
        """Let time run; tells whether `done` came true."""
        while True:
            due_ns = min(self._guard_ns, self._engine_ns, self._later[0][0] if self._later else self._guard_ns)
            if due_ns > t_ns:
                break
            due_ns = max(due_ns, self.t_ns)
            self.clock.advance_to(due_ns)
            while self._later and self._later[0][0] <= due_ns:
                heapq.heappop(self._later)[2]()
            if self._guard_ns <= due_ns:
                self._guard_turn(due_ns)
                self._guard_ns = due_ns + GUARD_TICK_NS + self.guard_late()
            if self._engine_ns <= due_ns:
                self._engine_turn(due_ns)
                self._engine_ns = due_ns + TICK_NS + self.engine_late()
            if done is not None and done():
                return True
        self.clock.advance_to(max(t_ns, self.t_ns))
        return False

    def run(self, seconds: float, done: Callable[[], bool] | None = None) -> bool:
        """Let some seconds pass; tells whether `done` came true."""
        return self.run_until(self.t_ns + round(seconds * NS_PER_S), done)

    # ---- what happens to the processes

    def freeze(self, *who: Literal["engine", "guard"]) -> None:
        """SIGSTOP."""
        self._live(who, "frozen", "running")

    def thaw(self, *who: Literal["engine", "guard"]) -> None:
        """SIGCONT."""
        self._live(who, "running", "frozen")

    def kill(self, *who: Literal["engine", "guard"]) -> None:
        """SIGKILL."""
        self._live(who, "dead", None)

    def _live(self, who: tuple[str, ...], life: Life, only: Life | None) -> None:
        for one in who:
            name = f"{one}_life"
            if getattr(self, name) != "dead" and (only is None or getattr(self, name) == only):
                setattr(self, name, life)

    def inject(self, text: str) -> int:
        """A fault of the device, as `devices.mock.faults.parse` reads it; returns when it begins, ns."""
        return self.model.inject(faults.parse(text))

    def operator(self, action: str, detail: str = "") -> None:
        """What the operator does at the engine's terminal; a frozen or dead engine hears nothing."""
        if self.engine_life == "running":
            self.feed(Operator(t_ns=self.t_ns, action=action, detail=detail))  # type: ignore[arg-type]

    def arm(self) -> None:
        """Arm with the code that the guard shows."""
        self.operator("arm", self.guard.welcome().arm_code)

    def stranger(self, message: link.ToGuard) -> None:
        """A message on the guard's socket from somebody else, such as `cereloop stop`."""
        if self.guard_life == "running":
            self._hear(self.guard.handle(self.t_ns, message))

    def wire(self, packet: bytes) -> None:
        """Bytes on the engine's own connection."""
        if self.guard_life == "running":
            self._hear(self.guard.handle_packet(self.t_ns, packet))
        elif self.guard_life == "frozen":
            self._outbox.append(packet)

    def flood(self) -> None:
        """As many packets as the guard's socket takes for a flood; it counts once."""
        if self.guard_life == "running":
            self._hear(self.guard.garbage(self.t_ns, "the link is flooded"))

    def restart_stream(self, changed: Layout | None = None) -> None:
        """A new segment, perhaps of another layout."""
        self.segment += 1
        event = SegmentStart(
            t_ns=self.t_ns, segment=self.segment, layout=changed or layout(), source=self._source, clock_offset_ns=0
        )
        self.feed(event)

    def feed(self, event: Input) -> None:
        """One step of the engine, and what it sends."""
        if self.engine_life != "running":
            return
        outputs = self.engine.step(event) if self.engine_step is None else self.engine_step(self.engine, event)
        if self._watching:
            self.outputs += outputs
        for output in outputs:
            if isinstance(output, ToGuard):
                self._send(self.tamper(output.message))

    # ---- turns

    def _send(self, message: link.ToGuard) -> None:
        if self.guard_life == "running":
            self._hear(self.guard.handle_packet(self.t_ns, link.encode(message)))
        elif self.guard_life == "frozen":
            self._outbox.append(message)

    def _hear(self, messages: list[link.FromGuard]) -> None:
        self._inbox.extend(messages)
        if self._watching:
            self.told += messages
        phase = self.guard.phase.value
        if self._watching and phase != self.phases[-1]:
            self.phases.append(phase)
            self.stop_ns = self.t_ns

    def _guard_turn(self, t_ns: int) -> None:
        self.model.advance(t_ns)
        self.dac_ua = max(self.dac_ua, abs(self.model.dac_ua))
        self.every_turn()
        if self.guard_life != "running":
            return
        guard = self.guard
        # As the process does: the socket first, then the tick.
        while self._outbox:
            waiting = self._outbox.popleft()
            packet = waiting if isinstance(waiting, bytes) else link.encode(waiting)
            self._hear(guard.handle_packet(t_ns, packet))
        if self.engine_life == "dead" and not self._gone_told:
            self._gone_told = True
            self._hear(guard.engine_gone(t_ns))
        if guard.exit_code is None:
            self._hear(guard.tick(t_ns))

    def _engine_turn(self, t_ns: int) -> None:
        if self.engine_life != "running":
            return
        while self._inbox:
            self.feed(Device(t_ns=t_ns, message=self._inbox.popleft()))
        if self.guard_life == "dead" and not self._lost_told:
            self._lost_told = True
            self.feed(GuardLost(t_ns=t_ns, reason="the guard has closed the link"))
        pulled = self.stream.pull(t_ns)
        if pulled is not None:
            stamps_ns, samples = pulled
            first = self.stream.handed - len(stamps_ns)
            self.feed(Chunk(t_ns=t_ns, segment=self.segment, first=first, stamps_ns=stamps_ns, samples=samples))
        self.feed(Tick(t_ns=t_ns))

    def _keep(self, record: MeterRecord) -> None:
        if self._watching:
            self.records.append(record)

    # ---- short ways

    def to_sense(self) -> None:
        """Armed, and sensing."""
        assert self.run(2.0, lambda: self.guard.phase == "safe" and self.guard.report(self.t_ns).impedance_ohm is not None)
        self.run(0.3)
        self.arm()
        assert self.run(1.0, lambda: self.engine.phase is Phase.SENSE), self.guard.state.reason
