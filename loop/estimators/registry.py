"""Which estimators there are.

Those of other packages come by the entry point group ``cereloop.estimators``, under the rules of `devices.plugins`: a session's
name of an estimator means the same on every machine.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from devices.plugins import Plugins
from loop.estimators.errors import EstimatorError
from loop.estimators.protocol import Plugin

GROUP: Final = "cereloop.estimators"
BUILT_IN: Final = {
    "posterior_fossa": "loop.estimators.posterior_fossa",
    "event_readout": "loop.estimators.event_readout",
}

_VERBS: Final = ("build", "learn_rest", "target_of", "fit")


class Entry(msgspec.Struct, frozen=True):
    """One line of ``cereloop estimators``; `origin` is ``built in`` or the package, `problem` why it cannot be used, or ""."""

    name: str
    summary: str
    origin: str
    problem: str = ""


def find(name: str) -> Plugin:
    """The estimator of a name.

    Raises
    ------
    EstimatorError
        If there is none of that name, or it cannot be used.
    """
    found = _ESTIMATORS.find(name)
    if found is None:
        near = [f"`{one}`" for one in _ESTIMATORS.near(name)]
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(_ESTIMATORS.names())}"
        raise EstimatorError(f"no estimator is called `{name}`; {hint} (`cereloop estimators` lists them)")
    if found.plugin is None:
        raise EstimatorError(f"estimator `{name}` of {found.origin} cannot be used: {found.problem}")
    return found.plugin


def available() -> list[Entry]:
    """All estimators, built-ins first; those that cannot be used with the reason."""
    return [
        Entry(found.name, "" if found.plugin is None else found.plugin.summary, found.origin, found.problem)
        for found in _ESTIMATORS.every()
    ]


def shortcomings(name: str, plugin: Any) -> str:
    """Why an object cannot be used as the plug-in of this name, in words; empty where it can."""
    if isinstance(plugin, type):
        return f"its entry point names the class {plugin.__name__}; name an instance of it"
    for attribute, kind in (("name", str), ("summary", str), ("target", str), ("claim", str), ("needs_calibration", bool)):
        if not isinstance(getattr(plugin, attribute, None), kind):
            return f"`{attribute}` is missing or no {kind.__name__}; see loop.estimators.protocol.Plugin"
    missing = [verb for verb in _VERBS if not callable(getattr(plugin, verb, None))]
    if missing:
        return f"it has no `{missing[0]}`; see loop.estimators.protocol.Plugin"
    return "" if plugin.name == name else f"it calls itself `{plugin.name}`, but is registered as `{name}`"


_ESTIMATORS: Final[Plugins[Plugin]] = Plugins(GROUP, BUILT_IN, "PLUGIN", shortcomings)
