"""The engine under random sequences of inputs, and with every clock, generator, thread and socket made to raise."""

from __future__ import annotations

import random
import socket
import threading
import time
from typing import Any

import numpy as np
import pytest
from core_config import configured
from core_play import CHUNK, LABELS, PERIOD_NS, SOURCE, START_NS, Play, excited, layout, open_loop, report, with_baseline
from hypothesis import given, settings
from hypothesis import strategies as st

from devices import link
from devices.units import NS_PER_MS, NS_PER_S
from loop.engine import Engine
from loop.events import (
    Chunk,
    ClockOffset,
    Device,
    Finished,
    GuardLost,
    Input,
    Marker,
    Operator,
    Output,
    RecorderLost,
    SegmentStart,
    SourceEnded,
    SourceLost,
    Tick,
    ToGuard,
)
from loop.gate import WITH_CURRENT, Phase

PHASES = ("zeroing", "safe", "armed", "live", "aborting", "ending", "stopped", "latched", "unheard of")
TEXTS = ("STIM/NOX/100", "STIM/INN/3", "STIM/OMIT", "OUT_DUE", "CUE/H", "CUE/P20/I1", "{", "\x00", "target")
ACTIONS = ("arm", "pause", "resume", "reset", "stop", "cut", "note")
VALUES = (np.nan, np.inf, -np.inf, 1e308, 0.0, 200_000.0)

ACTS = (
    *["run"] * 6,
    *["live"] * 4,
    *("report", "marker", "operator", "segment", "offset", "lost", "bad", "late", "refused", "silent", "end"),
)
steps = st.lists(st.tuples(st.sampled_from(ACTS), st.integers(0, 2**16)), min_size=5, max_size=50)


class Watched:
    """An engine whose every output is checked against what must always hold."""

    def __init__(self, arm: str) -> None:
        self.engine = Engine(
            configured(f"session.arm={arm}", "session.duration_s=90", "policy.refractory_s=0")
        )
        self.t_ns, self.rows, self.seq = START_NS, 0, 0
        # What the guard says every 50 ms, None while it is silent; no level stands for the engine's own.
        self.said: tuple[str, int | None, float | None] | None = None
        self.heard_ns, self.gone = START_NS, False
        self.phases: set[str] = set()
        self.rng = np.random.default_rng(0)
        self.take(SegmentStart(t_ns=self.t_ns, segment=1, layout=layout(), source=SOURCE, clock_offset_ns=0))

    def take(self, event: Input) -> list[Output]:
        finished = self.engine.finished
        out = self.engine.step(event)
        self.phases.add(self.engine.phase)
        assert not (finished and out), "nothing follows Finished"
        assert 0 <= self.engine.level_ua <= 100
        assert self.engine.level_ua == 0 or self.engine.phase in WITH_CURRENT
        for one in out:
            if isinstance(one, ToGuard):
                self.check(one)
            assert not (isinstance(one, Finished) and one is not out[-1])
        return out

    def check(self, one: ToGuard) -> None:
        message = one.message
        if isinstance(message, link.Stop):
            return
        if isinstance(message, link.Command):
            assert 0 <= message.level_ua <= 100
            assert message.level_ua == 0 or self.engine.phase in WITH_CURRENT
            assert message.level_ua == 0 or (one.t_ns - self.heard_ns <= 500 * NS_PER_MS and not self.gone)
            assert message.deadline_ns == one.t_ns + 250 * NS_PER_MS
        if not isinstance(message, link.Goodbye):
            assert message.seq == self.seq + 1
            self.seq = message.seq
        assert link.decode_to_guard(link.encode(message)) == message, "every message can be sent"

    def run(self, ticks: int, value: float | None = None, shift_ns: int = 0) -> None:
        for _ in range(ticks):
            self.t_ns += 20 * NS_PER_MS
            if self.said is not None and self.t_ns - self.heard_ns >= 50 * NS_PER_MS:
                self.report(*self.said)
            stamps = self.t_ns + shift_ns - PERIOD_NS * np.arange(CHUNK, 0, -1, dtype=np.int64)
            samples = (
                self.rng.normal(0, 10, (CHUNK, len(LABELS)))
                if value is None
                else np.full((CHUNK, len(LABELS)), value)
            )
            self.take(Chunk(self.t_ns, 1, self.rows, stamps, samples))
            self.rows += CHUNK
            self.take(Tick(t_ns=self.t_ns))

    def report(self, phase: str, level_ua: int | None = None, measured_ua: float | None = None) -> None:
        """Say this now, and every 50 ms from here on; a guard that is gone says nothing."""
        if self.gone:
            return
        self.said, self.heard_ns = (phase, level_ua, measured_ua), self.t_ns
        level = self.engine.level_ua if level_ua is None else level_ua
        self.take(Device(t_ns=self.t_ns, message=report(self.t_ns, phase, level, "why", measured_ua)))

    def act(self, name: str, n: int) -> None:
        match name:
            case "run":
                self.run(1 + n % 60)
            case "live":
                self.report("live" if n % 2 else "armed")
                self.run(1 + n % 150)
            case "report":
                measured = (None, float(n % 200), -np.inf, np.nan, 0.0)[n % 5]
                self.report(PHASES[n % len(PHASES)], n % 101, measured)
            case "marker":
                self.take(
                    Marker(
                        t_ns=self.t_ns,
                        stamp_ns=self.t_ns + (n - 30_000) * NS_PER_MS // 10,
                        text=TEXTS[n % len(TEXTS)],
                    )
                )
            case "operator":
                self.take(
                    Operator(
                        t_ns=self.t_ns, action=ACTIONS[n % len(ACTIONS)], detail="" if n % 3 else "x" * 90
                    )
                )  # type: ignore[arg-type]
            case "segment":
                other = layout(LABELS[::-1]) if n % 3 == 0 else layout()
                self.take(
                    SegmentStart(t_ns=self.t_ns, segment=2, layout=other, source=SOURCE, clock_offset_ns=n)
                )
            case "offset":
                self.take(ClockOffset(t_ns=self.t_ns, offset_ns=(n % 3) * NS_PER_S * 700))
            case "lost":
                lost: tuple[Input, ...] = (
                    SourceLost(t_ns=self.t_ns, reason="x" * 600),
                    RecorderLost(t_ns=self.t_ns, reason="x" * 600),
                )
                self.take(lost[n % 7 == 0])
            case "bad":
                self.run(1 + n % 30, value=VALUES[n % len(VALUES)])
            case "late":
                self.t_ns += (n % 500) * NS_PER_MS
                self.run(1, shift_ns=-(n % 4) * 3 * PERIOD_NS)
            case "refused":
                self.take(Device(t_ns=self.t_ns, message=link.Refused(seq=self.seq, reason="no")))
            case "silent":
                self.said = None
            case "end" if n % 5 == 0 and n % 2:
                self.take(SourceEnded(t_ns=self.t_ns))
            case "end" if n % 5 == 0:
                self.said, self.gone = None, True
                self.take(GuardLost(t_ns=self.t_ns, reason="gone"))


@settings(max_examples=30, deadline=None)
@given(arm=st.sampled_from(["open_loop", "open_loop", "closed_loop", "feedback_only"]), todo=steps)
def test_whatever_happens_levels_are_bounded_and_numbers_rise(arm: str, todo: list[tuple[str, int]]) -> None:
    watched = Watched(arm)
    watched.report("armed")
    watched.run(20)
    for name, n in todo:
        watched.act(name, n)
    if arm == "feedback_only":
        assert watched.seq == 0


def test_the_random_sequences_do_reach_current() -> None:
    reached = []
    for seed in range(40):
        rng = random.Random(seed)
        watched = Watched("open_loop")
        watched.report("armed")
        watched.run(20)
        for _ in range(rng.randint(5, 50)):
            watched.act(rng.choice(ACTS), rng.randrange(2**16))
        reached.append(watched.phases)
    assert set().union(*reached) == set(Phase)
    assert sum(bool(WITH_CURRENT & phases) for phases in reached) >= 10
    assert sum(Phase.HOLD in phases for phases in reached) >= 5


def forbidden(*_: Any, **__: Any) -> Any:
    raise AssertionError("the core touched the outside")


def test_the_core_touches_no_clock_generator_thread_or_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    play = with_baseline(Play())
    excited(play, 2.0, 60.0, 66.0)
    play.arm()
    with monkeypatch.context() as patch:
        for name in (
            "time",
            "time_ns",
            "monotonic",
            "monotonic_ns",
            "perf_counter",
            "perf_counter_ns",
            "sleep",
            "clock_gettime",
            "clock_gettime_ns",
        ):
            patch.setattr(time, name, forbidden)
        for name in ("random", "randint", "getrandbits", "choice"):
            patch.setattr(random, name, forbidden)
        patch.setattr(np.random, "default_rng", forbidden)
        patch.setattr(threading.Thread, "start", forbidden)
        patch.setattr(socket, "socket", forbidden)
        with pytest.raises(AssertionError, match="outside"):
            time.monotonic()
        play.until(Phase.HOLD, 75)
        play.feed(SourceLost(t_ns=play.t_ns, reason="cable"))
        play.run(1)
    assert play.path() == ["SENSE", "RAMP_UP", "HOLD", "STOPPED"]


def test_the_same_inputs_give_the_same_outputs() -> None:
    play = open_loop()
    excited(play, 1.9, 1.0, 19.0)
    play.run(20)
    again = Engine(configured("session.arm=open_loop"))
    outputs = [one for event in play.inputs for one in again.step(event)]
    assert len(outputs) == len(play.outputs) > 1000
    assert [repr(one) for one in outputs] == [repr(one) for one in play.outputs]
