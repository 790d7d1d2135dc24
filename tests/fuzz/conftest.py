"""``pytest tests/fuzz --inputs 100000`` is the long form."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def inputs(request: pytest.FixtureRequest) -> int:
    """How many inputs each parser gets."""
    return int(request.config.getoption("--inputs"))
