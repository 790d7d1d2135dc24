"""A share of the processor that others cannot take: for the guard, the live engine, and mocks that stand for hardware."""

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


def claim_share() -> None:
    """Ask the system to prefer this process, and every thread and process it starts, over ordinary ones.

    Unlike `claim_processor` this reaches the threads that liblsl starts afterwards, and a program that hangs cannot keep the
    machine to itself. Where the host grants no such right, go on without.
    """
    with contextlib.suppress(OSError, AttributeError):
        os.nice(-10)
