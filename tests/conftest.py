"""Options of the whole suite: ``--trials N`` repeats each kill of a live process N times and prints the worst time to zero."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--trials", type=int, default=1, help="kills of each kind in tests/live (default 1; the long form is 30)")
