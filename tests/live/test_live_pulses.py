"""Live sessions that give pulses: the emulated Magstim with its pulse meter in a process of its own, the patient over LSL."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_rig import CLOCK, ROOT, Child, Live, cereloop

from devices.mock.pulse_meter import read_pulse_meter
from loop.reader import Session
from loop.redrive import verify
from loop.summary import summarise

MAGSTIM = ROOT / "configs" / "live-magstim-mock.toml"
SHORT = {"session.arm": "open_loop", "gate.sense_s": 1.0, "pulses.gate_pulses": 4, "pulses.train_pulses": 3}


class Unit(Child):
    """``cereloop mock stimulator --protocol magstim``."""

    def __init__(self, folder: Path) -> None:
        self.meter = folder / "coil.pulses"
        self.port = folder / "magstim"
        where = ("--link", str(self.port), "--meter", str(self.meter), "--control", "-")
        super().__init__(cereloop("mock", "stimulator", "--protocol", "magstim", *where))
        self.line(lambda line: "{" in line)

    def pulses(self) -> list[int]:
        return [record.t_ns for record in read_pulse_meter(self.meter) if record.is_pulse]

    def watched(self, since_ns: int, seconds: float) -> list[int]:
        """Pulses after a time, once the meter has shown that it lived all the while: one record each 100 ms."""
        end_ns = since_ns + round(seconds * 1e9)
        patience_s = time.monotonic() + 10.0 * seconds
        while not (records := read_pulse_meter(self.meter)) or max(record.t_ns for record in records) < end_ns:
            assert time.monotonic() < patience_s, "the meter is dead"
            time.sleep(0.02)  # the meter's file is all there is to look at
        alive = sorted(record.t_ns for record in records if not record.is_pulse and since_ns <= record.t_ns <= end_ns)
        assert len(alive) >= 10 * seconds - 1, "the meter was not alive all the while, so no pulse proves nothing"
        return [record.t_ns for record in records if record.is_pulse and record.t_ns > since_ns]


@pytest.fixture
def unit(tmp_path: Path) -> Iterator[Unit]:
    unit = Unit(tmp_path)
    yield unit
    unit.close()


def test_two_cycles_of_pulses_and_a_replay_byte_for_byte(tmp_path: Path, unit: Unit, patient: Child) -> None:
    live = Live(tmp_path, unit.port, MAGSTIM, **SHORT)
    live.arm()
    for _ in range(2):
        live.event(kind="gate", after="RAMP_UP")
        down = live.event(kind="gate", before="HOLD", after="RAMP_DOWN")
        assert down["reason"] == "all pulses of this gate are given"
        live.event(kind="gate", before="RAMP_DOWN", after="SETTLE")
    live.send("stop")
    live.event(kind="finished", reason="stopped by the operator")
    assert live.wait() == 0
    times = unit.pulses()
    assert len(times) == 8
    assert min(b - a for a, b in zip(times, times[1:], strict=False)) >= 0.999e9
    with Session.open(live.path) as session:
        summary = summarise(session)
    assert (summary.pulses, len(summary.gates), summary.peak_ua) == (8, 2, 0)
    assert {"RTMS/ON/30", "RTMS/OFF/0"} <= {event.get("text") for event in live.events if event["kind"] == "marker_out"}
    assert verify(live.path).identical


@pytest.mark.parametrize("who", ["engine", "guard"])
def test_whoever_dies_no_pulse_comes_later_than_declared(tmp_path: Path, unit: Unit, patient: Child, who: str) -> None:
    live = Live(tmp_path, unit.port, MAGSTIM, **{**SHORT, "pulses.gate_pulses": 10, "pulses.train_pulses": 5})
    live.arm()
    live.event(kind="gate", after="HOLD")
    end_s = time.monotonic() + 20.0
    while not unit.pulses() and time.monotonic() < end_s:
        time.sleep(0.02)  # the meter's file is all there is to look at
    pid = live.pid if who == "engine" else live.guard_pid()
    since_ns = CLOCK.now_ns()
    os.kill(pid, signal.SIGKILL)
    after = unit.watched(since_ns, 3.2)  # three intervals
    # The guard disarms within 0.3 s of its engine's death; after its own, the unit's watchdog does, after 1 s.
    bound_s = 0.3 if who == "engine" else 1.3
    assert all(t_ns <= since_ns + bound_s * 1e9 for t_ns in after)
    if who == "guard":
        assert str(live.event(kind="finished")["reason"]).startswith("the guard is gone")
        live.wait()
