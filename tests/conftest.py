"""Options of the whole suite: ``--trials N`` repeats each kill of a live process N times and prints the worst time to zero.

``--inputs N`` gives each parser N inputs.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from devices import priority


def pytest_configure() -> None:
    """Let the tests' own arithmetic yield to live sessions beside it, and to the kernel's threads that carry their bytes.

    Processes that a test starts claim their share as ever; a command called inside the test's process must not, for the heavy
    tests after it would keep it.
    """
    os.setpriority(os.PRIO_PROCESS, 0, max(10, os.getpriority(os.PRIO_PROCESS, 0)))
    priority.claim_share = priority.claim_processor = priority.claim_processor_for_all = lambda *_: None  # type: ignore[assignment]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--trials", type=int, default=1, help="kills of each kind in tests/live (default 1; the long form is 30)")
    parser.addoption("--inputs", type=int, default=150, help="inputs of each parser in tests/fuzz (the long form is 100000)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the live sessions over the rest, the longest first: they mostly wait, so each is best run while others compute."""
    live = [item for item in items if "tests/live/" in item.path.as_posix()]
    rest = [item for item in items if item not in set(live)]
    live.sort(key=lambda item: item.get_closest_marker("long_wait") is None)
    if live and rest:
        items[:] = rest
        for number, item in enumerate(live):
            items.insert(number * (len(rest) // len(live) + 1), item)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let a process that has nothing left take over what waits behind another's live session."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)
