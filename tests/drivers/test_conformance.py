"""Every built-in driver through the conformance suite, against its emulator on the real transport."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from devices.conformance import CHECKS, Rig
from devices.mock.rigs import RIGS


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("driver", RIGS)
def test_conformance(driver: str, check: Callable[[Rig], None], tmp_path: Path) -> None:
    with RIGS[driver](tmp_path) as rig:
        check(rig)
