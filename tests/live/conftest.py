"""Fixtures of the live rig, and how many trials of each kill are made: ``pytest tests/live --trials 30``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_rig import PATIENT, Child, Stimulator, cereloop

from devices import liblsl


@pytest.fixture(scope="session", autouse=True)
def on_this_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whatever loads liblsl in these tests, ours or not, stays on this machine; guards' sockets in a folder of their own."""
    folder = tmp_path_factory.mktemp("lsl")
    settings = folder / "lsl_api.cfg"
    settings.write_text(liblsl.settings("machine", None) or "")
    runtime = folder / "run"
    runtime.mkdir(mode=0o700)
    before = {name: os.environ.get(name) for name in ("LSLAPICFG", "XDG_RUNTIME_DIR")}
    os.environ.update(LSLAPICFG=str(settings), XDG_RUNTIME_DIR=str(runtime))
    yield
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@pytest.fixture
def stimulator(tmp_path: Path) -> Iterator[Stimulator]:
    rig = Stimulator(tmp_path)
    yield rig
    rig.close()


@pytest.fixture(scope="session")
def patient(on_this_machine: None) -> Iterator[Child]:
    """The simulated patient as an LSL stream, shared by all tests that do not harm it."""
    names = ("--name", PATIENT, "--source-id", PATIENT, "--marker-name", f"{PATIENT}-markers")
    child = Child(cereloop("mock", "amplifier", "patient", "--loop", "--set", "patient.rest_s=0.0", *names), stderr=None)
    yield child
    child.close()
