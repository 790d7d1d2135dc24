"""Which estimators there are: the built-ins, and those of others by entry point."""

from __future__ import annotations

import importlib
from typing import Final

from loop.estimators.protocol import Plugin

BUILT_IN: Final = {"posterior_fossa": "loop.estimators.posterior_fossa"}


def find(name: str) -> Plugin:
    """The estimator of a name."""
    plugin: Plugin = importlib.import_module(BUILT_IN[name]).PLUGIN
    return plugin
