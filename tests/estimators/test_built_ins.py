"""Both built-in estimators pass the kit that is given to authors of plug-ins."""

from __future__ import annotations

import pytest

from loop.estimators import registry
from loop.estimators.testkit import CHECKS, Check, Subject

SUBJECTS = {name: Subject(registry.find(name)) for name in registry.BUILT_IN}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", SUBJECTS)
def test_it_passes_the_kit(name: str, check: Check) -> None:
    check(SUBJECTS[name])
