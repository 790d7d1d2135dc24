"""Short whole sessions, made once and shared."""

from __future__ import annotations

from pathlib import Path

import pytest
from whole_quick import QUICK

import loop
from loop.config import Config


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
