"""cereloop: the loop between EEG and transcranial direct-current stimulation. Research use only.

Examples
--------
>>> import loop
>>> config = loop.load_config("simulate", ["session.duration_s=20", "patient.rest_s=0"])
>>> with loop.simulate(config, out="short.sqlite") as session:
...     session.outcomes[-1].reason
'the null has 0 of 30 pseudo-events'
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["Config", "Session", "load_config", "replay", "simulate", "verify"]

# Found on first use: the recording process and the guard's tools import from here and must stay light.
_WHERE = {
    "Config": ("loop.config", "Config"),
    "Session": ("loop.reader", "Session"),
    "load_config": ("loop.api", "load_config"),
    "replay": ("loop.api", "replay"),
    "simulate": ("loop.api", "simulate"),
    "verify": ("loop.redrive", "verify"),
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'loop' has no attribute '{name}'")
    module, attribute = _WHERE[name]
    return getattr(importlib.import_module(module), attribute)
