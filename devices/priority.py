"""A share of the processor that others cannot take: for the guard, the live engine, and mocks that stand for hardware."""

from __future__ import annotations

import contextlib
import os
from typing import Final

FAVOURED: Final = -10
GUARD: Final = 10
# An amplifier's threads come after what may stop a current.
AMPLIFIER: Final = 9
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
        os.setpriority(os.PRIO_PROCESS, 0, FAVOURED)
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))


def claim_processor_for_all(priority: int) -> None:
    """Like `claim_processor`, for every thread that this process starts from now on: liblsl's, where samples must not wait.

    Parameters
    ----------
    priority : int
        Among processes that claim the same, 1 to 99: the higher runs first.
    """
    claim_share()
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))


def claim_share() -> None:
    """Ask the system to prefer this process, and every thread and process it starts, over ordinary ones.

    Unlike `claim_processor` this reaches the threads that liblsl starts afterwards, and a program that hangs cannot keep the
    machine to itself. Where the host grants no such right, go on without.
    """
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, 0, FAVOURED)
