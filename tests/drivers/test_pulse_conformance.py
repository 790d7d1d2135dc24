"""Every driver of a pulse stimulator through its conformance suite: on the virtual clock, and over a pty in real time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from devices.conformance import PULSE_CHECKS, PulseRig
from devices.magstim import MagstimOptions, Mode
from devices.magstim_codec import Version
from devices.magstim_driver import MagstimRapid
from devices.mock.pulse_rigs import PULSE_RIGS, VirtualMagstimRig
from devices.stimulator import DeviceNotFoundError, DeviceRefusedError


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


def test_a_wrong_unlock_code_is_refused_and_not_repeated() -> None:
    rig = VirtualMagstimRig()
    driver = MagstimRapid(rig.line, "train", MagstimOptions("1", "secret"))
    with pytest.raises(DeviceRefusedError, match="wants its unlock code: see device.options.unlock_code") as error:
        driver.open()
    assert "secret" not in str(error.value)


def test_a_line_on_which_something_else_answers_is_no_magstim() -> None:
    rig = VirtualMagstimRig()
    rig.inject("wrong_echo")
    with pytest.raises(DeviceNotFoundError, match="no Magstim there answered `E` within 3 s"):
        rig.driver.open()
