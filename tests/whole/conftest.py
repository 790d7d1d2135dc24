"""Short whole sessions, made once and shared."""

from __future__ import annotations

from pathlib import Path

import pytest

import loop
from loop.config import Config

QUICK = [
    "session.duration_s=150",
    "patient.rest_s=0",
    "policy.threshold=0.5",
    "policy.release=0.1",
    "policy.drift=0.0",
    "policy.expected_offset=-3.0",
    "policy.min_outcomes=2",
    "policy.refractory_s=1",
    "policy.max_duty=1.0",
    "gate.sense_s=5",
    "stimulation.hold_s=10",
    "stimulation.ramp_s=20",
]


@pytest.fixture(scope="session")
def quick() -> Config:
    """A closed-loop simulation that opens within two minutes, because hardly any evidence is asked for."""
    return loop.load_config("simulate", QUICK)


@pytest.fixture(scope="session")
def simulated(quick: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished simulated session."""
    path = tmp_path_factory.mktemp("simulated") / "one.sqlite"
    loop.simulate(quick, out=path).close()
    return path
