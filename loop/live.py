"""The live shell: LSL in, guard out, record aside; the only place where a live session touches clock, sockets and signals.

One thread runs the fold. It blocks in the pull from LSL for at most one tick, so that samples are worked on the moment they
arrive and time passes when none do. What might wait (disk, terminal, reconnecting) lives in other threads or processes.
"""

from __future__ import annotations

import contextlib
import gc
import queue
import select
import threading
from collections.abc import Iterator
from typing import Any, Final, Protocol

import msgspec
import numpy.typing as npt

from devices import link
from devices.clock import Clock
from devices.link_socket import GuardClient
from devices.units import NS_PER_MS, NS_PER_S
from loop.config import Config
from loop.engine import TICK_NS, Engine
from loop.errors import SessionError
from loop.events import (
    Allotted,
    Calibrated,
    Chunk,
    ClockOffset,
    Device,
    GuardLost,
    Input,
    Int64s,
    Layout,
    Marker,
    Operator,
    Output,
    RecorderLost,
    SegmentStart,
    SourceInfo,
    SourceLost,
    Tick,
    ToGuard,
)
from loop.gate import Phase
from loop.operator import HELP, OperatorLine
from loop.screen import Screen
from loop.signals import signals_noted
from loop.sources.errors import SourceError, SourceLostError

_OFFSET_EVERY_NS: Final = 5 * NS_PER_S
_STATUS_EVERY_NS: Final = NS_PER_S
# A tick follows a chunk at once, so that a command leaves with the samples that caused it, but not more often than this.
_LEAST_TICK_NS: Final = 10 * NS_PER_MS


class LiveSource(Protocol):
    """What a live source provides."""

    @property
    def layout(self) -> Layout:
        """Channels of the present segment."""
        ...

    @property
    def info(self) -> SourceInfo:
        """Where the samples come from."""
        ...

    def pull(self, timeout_s: float) -> tuple[Int64s, npt.NDArray[Any]] | None:
        """Wait for samples; stamps on the engine's clock. Raises SourceLostError."""
        ...

    def pull_markers(self) -> list[tuple[int, str]]:
        """Markers that have arrived."""
        ...

    def clock_offset_ns(self) -> int:
        """What is added to the stream's stamps."""
        ...

    def reopen(self) -> Layout:
        """A full handshake anew. Raises SourceError."""
        ...

    def close(self) -> None:
        """Let go of the stream."""
        ...


class LiveRecorder(Protocol):
    """What takes the record without ever waiting for a disk."""

    def record(self, event: Input, outputs: list[Output]) -> int:
        """Hand over one step."""
        ...

    def pump(self) -> None:
        """Move on what waits."""
        ...

    def status(self) -> Any:
        """How far the record is; `lost` says why it can no longer be relied on."""
        ...


class LiveSession:
    """Runs the fold against a live source until it has finished.

    Parameters
    ----------
    config : Config
    source : LiveSource
        Open.
    recorder : LiveRecorder
    guard : GuardClient or None
        Connected and welcomed; None in feedback_only.
    welcome : link.Welcome or None
        What the guard said.
    operator : OperatorLine
    screen : Screen
    clock : Clock
    outlet : callable, optional
        Takes the outputs of each step, to publish them.
    calibration : str
        Text of the calibration file; empty for none.
    allotted : Allotted, optional
        The arm, where the configuration does not say it.
    signals : list of str, optional
        Where signals are noted already; its own list otherwise.

    Raises
    ------
    SessionError
        If the source carries no time and the device is no emulator.
    """

    def __init__(
        self,
        config: Config,
        source: LiveSource,
        recorder: LiveRecorder,
        guard: GuardClient | None,
        welcome: link.Welcome | None,
        operator: OperatorLine,
        screen: Screen,
        clock: Clock,
        outlet: Any = None,
        calibration: str = "",
        allotted: Allotted | None = None,
        signals: list[str] | None = None,
    ) -> None:
        if not source.info.carries_time and welcome is not None and not welcome.identity.emulator:
            raise SessionError(
                "this source carries no time stamps, so nobody could tell how old its samples are: it serves feedback_only and "
                "emulated devices, never a real stimulator"
            )
        self._engine = Engine(config)
        self._calibration = calibration
        self._allotted = allotted
        self._blinded = config.allocation.code if config.allocation is not None else ""
        self._unit = "mA" if config.pulses is None else "%"
        self._source = source
        self._recorder = recorder
        self._guard = guard
        self._welcome = welcome
        self._operator = operator
        self._screen = screen
        self._clock = clock
        self._outlet = outlet
        self._segment = 0
        self._samples = 0
        self._aside: list[tuple[Input, list[Output]]] = []
        self._connected = False
        self._reopened: queue.SimpleQueue[Layout | SourceError] = queue.SimpleQueue()
        self._signals = signals if signals is not None else []
        self._told_record_lost = False
        self._ended_guard = False
        self._phase: str = ""
        self._code = welcome.arm_code if welcome is not None else ""

    @property
    def engine(self) -> Engine:
        """The fold, for reading."""
        return self._engine

    def run(self) -> None:
        """Run until the fold has finished and the guard has had time to take it in."""
        with signals_noted(self._signals), _quiet_collector():
            self._drop_old_samples()
            if self._calibration:
                self._feed(Calibrated(t_ns=self._clock.now_ns(), text=self._calibration))
            if self._allotted is not None:
                self._feed(msgspec.structs.replace(self._allotted, t_ns=self._clock.now_ns()))
            self._start_segment()
            if self._welcome is not None:
                self._feed(Device(t_ns=self._clock.now_ns(), message=self._welcome))
            try:
                self._loop()
            finally:
                self._set_down()

    def _loop(self) -> None:
        now_ns = self._clock.now_ns()
        tick_ns, offset_ns, status_ns = now_ns, now_ns + _OFFSET_EVERY_NS, now_ns
        while not self._engine.finished:
            self._wait_for_samples((tick_ns - self._clock.now_ns()) / NS_PER_S)
            now_ns = self._clock.now_ns()
            ticks = now_ns >= tick_ns - _LEAST_TICK_NS
            if ticks:
                self._feed(Tick(t_ns=now_ns))
                tick_ns = now_ns + TICK_NS
            self._set_down()
            self._hear_guard()
            if not ticks:
                continue
            self._hear_operator()
            self._watch_record()
            if now_ns >= offset_ns and self._connected:
                offset_ns = now_ns + _OFFSET_EVERY_NS
                self._measure_clock()
            if now_ns >= status_ns:
                status_ns = now_ns + _STATUS_EVERY_NS
                self._show_status()

    # ---- source

    def _measure_clock(self) -> None:
        try:
            offset_ns = self._source.clock_offset_ns()
        except SourceLostError as error:
            self._lose_stream(error)
        except SourceError:
            return  # Measured again in a few seconds; the last offset stays.
        else:
            self._feed(ClockOffset(t_ns=self._clock.now_ns(), offset_ns=offset_ns))

    def _lose_stream(self, error: SourceError) -> None:
        self._connected = False
        self._feed(SourceLost(t_ns=self._clock.now_ns(), reason=str(error)))
        threading.Thread(target=self._reopen, name="reconnect", daemon=True).start()

    def _start_segment(self) -> None:
        try:
            offset_ns = self._source.clock_offset_ns()
        except SourceError as error:
            self._lose_stream(error)
            return
        self._segment += 1
        self._connected = True
        event = SegmentStart(
            t_ns=self._clock.now_ns(),
            segment=self._segment,
            layout=self._source.layout,
            source=self._source.info,
            clock_offset_ns=offset_ns,
        )
        self._feed(event)

    def _drop_old_samples(self) -> None:
        """What has gathered in the inlet while guard and recorder started is no part of the session."""
        with contextlib.suppress(SourceLostError):
            while self._source.pull(0.0) is not None:
                pass
            self._source.pull_markers()

    def _wait_for_samples(self, timeout_s: float) -> None:
        """Take what comes within `timeout_s`, which passes in full where nothing does."""
        if not self._connected:
            self._wait_without_stream(max(timeout_s, 0.0))
            return
        try:
            pulled = self._source.pull(max(timeout_s, 0.0))
            markers = self._source.pull_markers()
        except SourceLostError as error:
            self._lose_stream(error)
            return
        for stamp_ns, text in markers:
            self._feed(Marker(t_ns=self._clock.now_ns(), stamp_ns=stamp_ns, text=text))
        if pulled is not None:
            stamps_ns, samples = pulled
            first, self._samples = self._samples, self._samples + len(stamps_ns)
            chunk = Chunk(
                t_ns=self._clock.now_ns(), segment=self._segment, first=first, stamps_ns=stamps_ns, samples=samples
            )
            self._feed(chunk)

    def _wait_without_stream(self, timeout_s: float) -> None:
        waiting = [self._guard] if self._guard is not None and not self._guard.closed else []
        select.select(waiting, [], [], timeout_s)
        if self._reopened.empty():
            return
        result = self._reopened.get()
        if isinstance(result, SourceError):
            # Nothing yet; keep looking. The session ends when the operator or its duration says so.
            threading.Thread(target=self._reopen, name="reconnect", daemon=True).start()
            return
        self._start_segment()

    def _reopen(self) -> None:
        try:
            self._reopened.put(self._source.reopen())
        except SourceError as error:
            self._reopened.put(error)

    # ---- guard, operator, record

    def _hear_guard(self) -> None:
        guard = self._guard
        if guard is None:
            return
        for message in guard.receive():
            self._feed(Device(t_ns=self._clock.now_ns(), message=message))
            if isinstance(message, link.Welcome):
                self._code = message.arm_code
            if isinstance(message, link.Report) and message.phase != self._phase:
                self._phase = message.phase
                self._tell_phase(message)
        if guard.closed and not self._ended_guard and not self._engine.finished:
            self._ended_guard = True
            self._feed(GuardLost(t_ns=self._clock.now_ns(), reason="the guard has closed the link"))

    def _tell_phase(self, report: link.Report) -> None:
        if report.phase == "safe" and self._engine.phase in (Phase.IDLE, Phase.STOPPED):
            how = "press a, then type it and Enter" if self._operator.is_terminal else "send the line: arm CODE"
            self._screen.say(f"to arm, the code is {self._code}: {how}", code=self._code)
        elif report.phase in ("stopped", "latched"):
            self._screen.say(f"guard {report.phase}: {report.reason}; r resets it, then a arms again", guard=report.phase)

    def _hear_operator(self) -> None:
        while self._signals:
            name = self._signals.pop(0)
            self._screen.say(f"{name}: ramping down, then the session file is closed; x cuts at once")
            self._act("stop", f"stopped by {name}")
        for act in self._operator.read():
            match act.action:
                case "help":
                    self._screen.say(HELP)
                case "ask" if not self._code:
                    self._operator.never_mind()
                    self._screen.say("there is nothing to arm: this session makes no current")
                case "ask":
                    self._screen.say(f"type {self._code} and Enter to arm (Esc: never mind)")
                case "bad":
                    self._screen.say(f"`{act.detail}` is no command: arm CODE, pause, resume, reset, stop, cut, note TEXT")
                case _:
                    self._act(act.action, act.detail)

    def _act(self, action: Any, detail: str) -> None:
        self._feed(Operator(t_ns=self._clock.now_ns(), action=action, detail=detail))

    def _watch_record(self) -> None:
        self._recorder.pump()
        lost = self._recorder.status().lost
        if lost and not self._told_record_lost:
            self._told_record_lost = True
            self._feed(RecorderLost(t_ns=self._clock.now_ns(), reason=lost))

    # ---- the step

    def _feed(self, event: Input) -> None:
        """Step, and send what the guard must know; the rest is set aside until no command waits behind it."""
        outputs = self._engine.step(event)
        guard = self._guard
        if guard is not None:
            for output in outputs:
                if isinstance(output, ToGuard):
                    guard.send(output.message)
        self._aside.append((event, outputs))

    def _set_down(self) -> None:
        """Record, tell and publish what has been set aside, in its order."""
        for event, outputs in self._aside:
            self._recorder.record(event, outputs)
            if outputs:
                self._screen.show(event, outputs)
                if self._outlet is not None:
                    self._outlet(outputs)
        self._aside.clear()

    def _show_status(self) -> None:
        engine = self._engine
        bad = f" · bad: {','.join(engine.bad_channels)}" if engine.bad_channels else ""
        stream = "" if self._connected else " · NO STREAM"
        level = f"{engine.level_ua / 1000:.2f} mA" if self._unit == "mA" else f"{engine.level_ua} %"
        shown = f"{level} · evidence {engine.evidence:.1f}"
        self._screen.status(
            f"{engine.phase} · {f'code {self._blinded}' if self._blinded else shown}"
            f" · guard {self._phase or '-'}{stream}{bad} · ? help"
        )


@contextlib.contextmanager
def _quiet_collector() -> Iterator[None]:
    """Keep what start-up made out of the garbage collector's walks: a long one would let the lease lapse (F24)."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
