"""Whole sessions with Starstim's driver against its emulator, in real processes: two cycles, the proof, and a dead guard."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_rig import CLOCK, ROOT, Child, Live, Stimulator, cereloop

from devices.mock.meter import read_meter
from loop.reader import Session
from loop.redrive import verify
from loop.summary import summarise

CONFIG = ROOT / "configs" / "live-starstim-mock.toml"
# As low as the slopes of Starstim and of the limits allow: 61 to 63 uA/s.
SHORT = {
    "stimulation.level_ua": 124,
    "stimulation.ramp_s": 2.0,
    "stimulation.hold_s": 2.0,
    "gate.sense_s": 1.0,
    "gate.settle_s": 5.0,
    "policy.refractory_s": 0.0,
    "session.duration_s": 25.0,
}


class Nic(Stimulator):
    """The emulated NIC, with its meter."""

    def __init__(self, folder: Path) -> None:
        self.meter = folder / "electrode.meter"
        command = ["mock", "stimulator", "--protocol", "nic2", "--listen", "127.0.0.1:0", "--meter", str(self.meter)]
        Child.__init__(self, cereloop(*command, "--control", "-"))
        self.port = Path(json.loads(self.line(lambda line: "{" in line))["port"])


@pytest.fixture
def nic(tmp_path: Path) -> Iterator[Nic]:
    child = Nic(tmp_path)
    yield child
    child.close()


def test_two_cycles_of_one_peak_each_and_the_proof(tmp_path: Path, nic: Nic, patient: Child) -> None:
    live = Live(tmp_path, nic.port, CONFIG, **SHORT)
    live.arm()
    live.event(kind="finished", reason="the configured duration is over", timeout_s=60.0)
    assert live.wait() == 0
    with Session.open(live.path) as session:
        summary = summarise(session)
        assert session.closed
    assert len(summary.gates) >= 2
    assert [gate.ended_by for gate in summary.gates[:2]] == ["then SETTLE", "then SETTLE"]
    assert verify(live.path).identical
    sizes = [abs(record.current_ua) for record in read_meter(nic.meter)]
    assert max(sizes) == pytest.approx(124, abs=3)
    assert nic.now_ua() < 10.0


def test_a_guard_killed_under_a_peak_leaves_it_to_end_by_itself(tmp_path: Path, nic: Nic, patient: Child) -> None:
    live = Live(tmp_path, nic.port, CONFIG, **{**SHORT, "session.duration_s": 60.0})
    live.arm()
    live.event(kind="gate", after="HOLD")
    killed_ns = CLOCK.now_ns()
    os.kill(live.guard_pid(), signal.SIGKILL)
    assert 1.0 < nic.seconds_to_zero(killed_ns, patience_s=8.0) < 5.0
    assert live.wait(60.0) in (0, 4)
    assert verify(live.path).identical
