"""The mock amplifier keeps time, ends when told, and lets the patient feel the current."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from sources_helpers import Part, counting

from devices.mock.amplifier import Amplifier, again_and_again, patient_blocks, stream
from devices.mock.patient import Patient
from devices.mock.patient_settings import PatientSettings
from loop.events import Block
from loop.sources.lsl import LslSource
from loop.sources.patient import PatientPlayback


def amp(name: str, n_channels: int = 2) -> Amplifier:
    return Amplifier(
        labels=("Cz", "PO10")[:n_channels],
        units=("microvolts",) * n_channels,
        sfreq_hz=500.0,
        name=name,
        source_id=name,
        marker_name=f"markers-{name}",
    )


def test_samples_leave_when_they_are_due_and_not_before(unique: str) -> None:
    asked: list[float] = []

    def blocks() -> object:
        for part in counting(250, 2):
            asked.append(time.monotonic())
            yield part

    began = time.monotonic()
    told: list[float] = []
    assert stream(blocks(), amp(unique), on_progress=told.append) == 250
    assert time.monotonic() - began >= 0.498
    # Each block is asked for only once the one before has gone: what it holds may depend on the current until then.
    for k in range(1, 25):
        assert asked[k] - began >= (10 * k - 1) / 500.0 - 1e-3
    assert told == []


def test_progress_is_told_about_once_a_second(unique: str) -> None:
    told: list[float] = []
    stream(counting(600, 2), amp(unique), on_progress=told.append)
    assert told == [pytest.approx(1.0, abs=0.02)]


def test_a_loop_goes_on_where_the_recording_ended(unique: str, amplify: Callable[..., Callable[[], None]]) -> None:
    amplify(again_and_again(lambda: counting(30, 2)), amp(unique))
    source = LslSource(name=unique, marker_name="", marker_type="")
    source.open()
    stamps, values = [], []
    while sum(map(len, stamps)) < 100:
        got = source.pull(5.0)
        assert got is not None
        stamps.append(got[0])
        values.append(got[1][:, 0])
    source.close()
    assert np.abs(np.diff(np.concatenate(stamps)) - 2_000_000).max() < 1_000
    assert np.array_equal(np.concatenate(values)[:100], np.tile(np.arange(30) * 2.0, 4)[:100])


def test_nobody_listening_is_waited_for_only_so_long(unique: str) -> None:
    began = time.monotonic()
    assert stream(counting(10, 2), amp(unique), wait_for_consumers_s=0.3) == 10
    assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(unique: str, number: int) -> None:
    code = f"""
from devices.mock.amplifier import Amplifier, again_and_again, stream
from sources_helpers import counting
a = Amplifier(labels=("Cz",), units=("uV",), sfreq_hz=500.0, name={unique!r}, source_id={unique!r})
sent = stream(again_and_again(lambda: counting(500, 1)), a, on_progress=lambda s: print("up", flush=True))
print("ended", sent > 0)
"""
    here = Path(__file__).parent
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=here.parents[1],
        env={"PYTHONPATH": f"{here}:{here.parents[1]}", "LSLAPICFG": str(here / "loopback.cfg")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "up\n"
    child.send_signal(number)
    rest = child.stdout.read()
    assert child.wait(20.0) == 0
    assert rest.splitlines()[-1] == "ended True"


def test_what_does_not_fit_is_refused(unique: str) -> None:
    with pytest.raises(ValueError, match="does not fit 2 channels"):
        stream([Part(0, np.zeros((5, 3)), [], 500.0)], amp(unique))
    with pytest.raises(ValueError, match="2 labels need 2 units"):
        stream([], Amplifier(labels=("Cz", "Oz"), units=("uV",), sfreq_hz=500.0))
    with pytest.raises(ValueError, match="cannot carry complex64"):
        stream([], Amplifier(labels=("Cz",), units=("uV",), sfreq_hz=500.0, dtype="complex64"))


def test_a_patient_behind_the_amplifier_feels_the_stimulator() -> None:
    settings = PatientSettings(duration_s=2.0, rest_s=0.0)
    currents = iter([0.0] * 10 + [-1000.0] * 1000)
    parts = list(patient_blocks(Patient(settings), lambda: next(currents)))
    assert {len(part.samples) for part in parts} == {10}
    samples = np.concatenate([part.samples for part in parts])
    playback = PatientPlayback(settings)
    quiet = playback.read(100, 0.0)
    loud = playback.read(900, -1000.0)
    assert quiet is not None
    assert loud is not None
    assert np.array_equal(samples, np.concatenate([quiet.samples, loud.samples]))
    stamps = np.concatenate([part.stamps_ns for part in parts])
    assert np.array_equal(stamps, np.concatenate([quiet.stamps_ns, loud.stamps_ns]))
    assert samples[50:100].mean() > -1_000.0 > samples[150:].mean()


def test_blocks_of_any_playback_can_be_sent(unique: str) -> None:
    playback = PatientPlayback(PatientSettings(duration_s=4.0, labels=("Cz", "PO10")))
    blocks: list[Block] = list(islice(iter(lambda: playback.read(100, 0.0), None), 2))
    assert stream(blocks, amp(unique), stop=threading.Event()) == 200
