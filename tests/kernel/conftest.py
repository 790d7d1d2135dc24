"""Fixtures of the kernel's tests: behaviour is tested on the compiled kernel and on the reference."""

from __future__ import annotations

import pytest

from cext import Kernel
from cext.reference import ReferenceKernel


@pytest.fixture(params=[Kernel, ReferenceKernel], ids=["compiled", "reference"])
def kind(request: pytest.FixtureRequest) -> type:
    """Return one of the two implementations."""
    return request.param  # type: ignore[no-any-return]
