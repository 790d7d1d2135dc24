"""A share of the processor that others cannot take: for the guard, and for the mock that stands for hardware of its own."""

from __future__ import annotations

import contextlib
import os
from typing import Final

GUARD: Final = 10
# Real hardware has a processor of its own: nothing on this machine may keep its stand-in from hearing the guard.
HARDWARE: Final = 11


def claim_processor(priority: int) -> None:
    """Ask the system to run this process before all ordinary ones; where the host grants no such right, go on without.

    Parameters
    ----------
    priority : int
        Among processes that claim the same, 1 to 99: the higher runs first.
    """
    with contextlib.suppress(OSError, AttributeError):
        os.nice(-10)
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
