"""Short whole sessions, made once and shared."""

from __future__ import annotations

import fcntl
import os
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
    """A finished simulated session, made by whichever process of this run comes first; nobody writes to it."""
    # Below the folder of the whole run where there are several processes, whose own folders lie side by side in it.
    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "simulated"
    shared.mkdir(exist_ok=True)
    path = shared / "one.sqlite"
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            made = shared / "making.sqlite"
            made.unlink(missing_ok=True)
            loop.simulate(quick, out=made).close()
            made.rename(path)
    return path
