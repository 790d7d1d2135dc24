"""What ``cereloop mock amplifier`` streams of a patient: nothing that takes long is made while samples are due."""

from __future__ import annotations

import subprocess
import sys
import threading
from itertools import islice
from pathlib import Path

import mne
import numpy as np
import pytest

from devices.mock.patient import Patient
from devices.mock.patient_settings import PatientSettings
from loop import mock_amplifier
from loop.sources.recording import RecordingPlayback, open_recording

SETTINGS = PatientSettings(duration_s=2.0, rest_s=0.0, labels=("Cz", "PO10"))
NAMES = ("a", "b", "c")


def test_a_patient_played_again_is_made_while_the_one_before_plays(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    second = threading.Event()

    def make(settings: PatientSettings) -> Patient:
        made.append(threading.current_thread().name)
        if len(made) == 2:
            second.set()
        return Patient(settings)

    monkeypatch.setattr(mock_amplifier, "_patient_ahead", make)
    blocks, _ = mock_amplifier._patient(SETTINGS, None, again=True, names=NAMES, chunk_s=0.02)
    assert made == ["MainThread"], "the first one before the stream begins, once"
    parts = iter(blocks)
    first = [next(parts)]
    assert second.wait(10.0)
    assert made[1].startswith("next")
    first += islice(parts, 99)
    again = list(islice(parts, 100))
    assert np.array_equal([part.samples for part in first], [part.samples for part in again])


def test_a_patient_played_once_ends() -> None:
    blocks, amplifier = mock_amplifier._patient(SETTINGS, None, again=False, names=NAMES, chunk_s=0.02)
    assert sum(len(part.samples) for part in blocks) == round(2.0 * amplifier.sfreq_hz)


def test_a_recording_played_again_is_opened_while_it_plays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "short_raw.fif"
    data = np.random.default_rng(0).normal(size=(2, 256)) * 1e-5
    mne.io.RawArray(data, mne.create_info(["Cz", "Oz"], 128.0, "eeg"), verbose="error").save(path, verbose="error")
    opened: list[str] = []
    second = threading.Event()

    def open_it(where: Path) -> RecordingPlayback:
        opened.append(threading.current_thread().name)
        if len(opened) == 2:
            second.set()
        return open_recording(where)

    monkeypatch.setattr(mock_amplifier, "open_recording", open_it)
    blocks, _ = mock_amplifier._recording(path, again=True, names=NAMES, chunk_s=0.5)
    parts = iter(blocks)
    first = [next(parts)]
    assert second.wait(10.0)
    assert opened[0] == "MainThread"
    assert opened[1].startswith("next")
    first += islice(parts, 3)
    again = list(islice(parts, 4))
    assert np.array_equal([part.samples for part in first], [part.samples for part in again])


RANKS = """
import os, threading
from devices import priority
priority.claim_processor_for_all(priority.AMPLIFIER)
seen = []
thread = threading.Thread(target=lambda: seen.append((os.sched_getscheduler(0), os.sched_getparam(0).sched_priority)))
thread.start(); thread.join()
print(seen == [(os.sched_getscheduler(0), os.sched_getparam(0).sched_priority)])
"""


def test_threads_that_liblsl_starts_later_come_as_soon_as_the_amplifier() -> None:
    done = subprocess.run([sys.executable, "-c", RANKS], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
