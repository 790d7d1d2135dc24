"""A whole session on the virtual clock: the same fold, guard and mock device as live, as fast as the machine can.

Events are fed in the order of their times: markers at their stamps, ticks every 20 ms, a chunk when its last sample has been
taken, the guard's ticks between them. No clock is read and no thread runs, so the same inputs give the same bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from devices import link
from devices.clock import VirtualClock
from devices.guard_core import GuardCore, guard_core
from devices.mock.stimulator import StimulatorModel
from devices.reference import InProcessWire, ReferenceStimulator
from devices.units import NS_PER_MS, NS_PER_S
from loop.config import Config, guard_settings
from loop.engine import TICK_NS, Engine
from loop.events import (
    Allotted,
    Block,
    Calibrated,
    Chunk,
    Device,
    Input,
    Marker,
    Operator,
    Output,
    Playback,
    SegmentStart,
    SourceEnded,
    Tick,
    ToGuard,
)
from loop.gate import Phase

_GUARD_TICK_NS: Final = 10 * NS_PER_MS
# At rest the guard is only asked to stay awake; well inside its 250 ms for a late tick and the device's host timeout.
_GUARD_REST_NS: Final = 50 * NS_PER_MS
_IDLE_TICK_NS: Final = 100 * NS_PER_MS
_PROGRESS_NS: Final = NS_PER_S
# After the last sample a ramp-down and the guard's confirmation of zero must still fit.
_AFTER_END_NS: Final = 180 * NS_PER_S


class Recorder(Protocol):
    """What takes the record."""

    def record(self, event: Input, outputs: list[Output]) -> int:
        """Write one step; returns the row's number."""
        ...


class Progress(NamedTuple):
    """Where a virtual session stands."""

    done_s: float
    total_s: float | None
    phase: Phase
    level_ua: int
    evidence: float
    is_blinded: bool = False


class VirtualSession:
    """Plays a source through engine, guard and mock stimulator.

    Parameters
    ----------
    config : Config
    playback : Playback
        A recording or a simulated patient.
    recorder : Recorder
    clock : VirtualClock
        The one that the recorder also reads.
    session : str
        Name of the session, for the guard's settings.
    chunk_s : float
        Length of a chunk.
    calibration : str
        Text of the calibration file; empty for none.
    allotted : Allotted, optional
        The arm, where the configuration does not say it.
    """

    def __init__(
        self,
        config: Config,
        playback: Playback,
        recorder: Recorder,
        clock: VirtualClock,
        session: str,
        *,
        chunk_s: float,
        calibration: str = "",
        allotted: Allotted | None = None,
    ) -> None:
        self._config = config
        self._playback = playback
        self._recorder = recorder
        self._clock = clock
        self._engine = Engine(config)
        self._calibration = calibration
        self._allotted = allotted
        self._inbox: deque[link.FromGuard] = deque()
        self._guard: GuardCore | None = None
        self._model: StimulatorModel | None = None
        self._n = max(1, round(chunk_s * playback.layout.sfreq_hz))
        # Without current there is no lease to renew; the stream's age alone needs no more than this.
        self._tick_ns = TICK_NS if config.stimulates else _IDLE_TICK_NS
        self._next_tick_ns = 0
        self._next_guard_ns = 0
        self._armed = False
        if config.stimulates:
            settings = guard_settings(config, session, input_is_simulated=True)
            seed = config.patient.seed if config.patient is not None else 0
            self._model = StimulatorModel(start_ns=clock.now_ns(), seed=seed)
            self._guard = guard_core(settings, ReferenceStimulator(InProcessWire(self._model, clock)))
            self._inbox.append(self._guard.welcome())

    @property
    def engine(self) -> Engine:
        """The fold, for reading."""
        return self._engine

    @property
    def model(self) -> StimulatorModel | None:
        """The mock device with its meter; None where the arm makes no current."""
        return self._model

    @property
    def limits(self) -> tuple[str, ...]:
        """Sentences on the limits in force."""
        return tuple(self._guard.welcome().limit_reasons) if self._guard is not None else ()

    def run(self, progress: Callable[[Progress], None] | None = None, stop: Callable[[], bool] | None = None) -> None:
        """Play to the end.

        Parameters
        ----------
        progress : callable, optional
            Called about once a virtual second.
        stop : callable, optional
            Asked once a chunk; True ends the session as an operator's stop would, by a ramp.

        Raises
        ------
        LayoutError
            If the source's layout cannot be worked on.
        """
        playback, engine = self._playback, self._engine
        total = playback.n_samples
        total_s = None if total is None else total / playback.layout.sfreq_hz
        limit_s = self._config.session.duration_s
        if self._calibration:
            self._feed(Calibrated(t_ns=0, text=self._calibration))
        if self._allotted is not None:
            self._feed(self._allotted)
        self._feed(SegmentStart(t_ns=0, segment=1, layout=playback.layout, source=playback.info, clock_offset_ns=0))
        next_progress_ns, stopping = 0, False
        while not engine.finished:
            current_ua = self._model.current_ua if self._model is not None else 0.0
            block = playback.read(self._n, current_ua)
            if block is None:
                break
            self._play(block, current_ua)
            if stop is not None and not stopping and stop():
                stopping = True
                self._feed(Operator(t_ns=self._clock.now_ns(), action="stop", detail="stopped by Ctrl-C"))
            now_ns = self._clock.now_ns()
            if progress is not None and now_ns >= next_progress_ns:
                next_progress_ns = now_ns + _PROGRESS_NS
                planned_s = limit_s if total_s is None else min(total_s, limit_s)
                blinded = self._config.allocation is not None
                progress(Progress(now_ns / NS_PER_S, planned_s, engine.phase, engine.level_ua, engine.evidence, blinded))
        self._feed(SourceEnded(t_ns=self._clock.now_ns()))
        end_ns = self._clock.now_ns() + _AFTER_END_NS
        while not engine.finished and self._clock.now_ns() < end_ns:
            self._run_until(self._clock.now_ns() + TICK_NS)
        if self._guard is not None:
            self._guard.close()

    def _play(self, block: Block, current_ua: float) -> None:
        for stamp_ns, text in block.markers:
            self._run_until(max(stamp_ns, self._clock.now_ns()))
            self._feed(Marker(t_ns=self._clock.now_ns(), stamp_ns=stamp_ns, text=text))
        self._run_until(max(int(block.stamps_ns[-1]), self._clock.now_ns()))
        chunk = Chunk(
            t_ns=self._clock.now_ns(),
            segment=1,
            first=block.first,
            stamps_ns=block.stamps_ns,
            samples=block.samples,
            current_ua=current_ua,
        )
        self._feed(chunk)

    def _run_until(self, t_ns: int) -> None:
        """Ticks of engine and guard up to and including `t_ns`."""
        guard = self._guard
        while True:
            due_ns = self._next_tick_ns if guard is None else min(self._next_tick_ns, self._next_guard_ns)
            if due_ns > t_ns or self._engine.finished:
                break
            self._clock.advance_to(due_ns)
            if guard is not None and self._next_guard_ns <= due_ns:
                self._inbox.extend(guard.tick(due_ns))
                self._hear()
                self._next_guard_ns = due_ns + (_GUARD_REST_NS if guard.is_at_rest else _GUARD_TICK_NS)
            if self._next_tick_ns <= due_ns:
                self._feed(Tick(t_ns=due_ns))
                self._next_tick_ns = due_ns + self._tick_ns
        if t_ns > self._clock.now_ns():
            self._clock.advance_to(t_ns)

    def _feed(self, event: Input) -> None:
        """One step of the fold, its messages to the guard, its record, and whatever the guard answers."""
        outputs = self._engine.step(event)
        if self._guard is not None:
            for output in outputs:
                if isinstance(output, ToGuard):
                    self._inbox.extend(self._guard.handle(event.t_ns, output.message))
                    self._next_guard_ns = min(self._next_guard_ns, event.t_ns + _GUARD_TICK_NS)
        self._recorder.record(event, outputs)

    def _hear(self) -> None:
        while self._inbox:
            message = self._inbox.popleft()
            self._feed(Device(t_ns=self._clock.now_ns(), message=message))
            self._arm_once(message)

    def _arm_once(self, message: link.FromGuard) -> None:
        """Stands in for the operator, who exists only live: arms once, as soon as the guard can say yes."""
        if self._armed or self._guard is None or not isinstance(message, link.Report):
            return
        if message.phase == "safe" and message.impedance_ohm is not None:
            self._armed = True
            code = self._guard.welcome().arm_code
            self._feed(Operator(t_ns=self._clock.now_ns(), action="arm", detail=code))
