"""Every driver of a pulse stimulator through its conformance suite: on the virtual clock, and over a pty in real time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from devices.conformance import PULSE_CHECKS, PulseRig
from devices.magstim import Mode
from devices.magstim_codec import Version
from devices.mock.pulse_rigs import PULSE_RIGS, VirtualMagstimRig


@pytest.mark.parametrize("check", PULSE_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(("mode", "firmware"), [("train", (9, 0, 0)), ("single", (9, 0, 0)), ("train", (7, 0, 0)),
                                                ("single", (5, 0, 0))])
def test_on_the_virtual_clock(mode: Mode, firmware: Version, check: Callable[[PulseRig], None]) -> None:
    check(VirtualMagstimRig(mode, firmware))


@pytest.mark.parametrize("driver", PULSE_RIGS)
def test_over_a_pty(driver: str, tmp_path: Path) -> None:
    """Seven checks at once, each on an emulator of its own: they wait most of the time."""
    for first in range(0, len(PULSE_CHECKS), 7):
        checks = PULSE_CHECKS[first : first + 7]
        with ExitStack() as stack:
            rigs = []
            for check in checks:
                folder = tmp_path / check.__name__
                folder.mkdir()
                # All are started before any is opened: a child that is being forked holds the locks of its parent's lines.
                rigs.append(stack.enter_context(PULSE_RIGS[driver](folder)))
            with ThreadPoolExecutor(len(checks)) as pool:
                list(pool.map(lambda check, rig: check(rig), checks, rigs))
