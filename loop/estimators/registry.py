"""Which estimators there are: the built-ins, and those of others by the entry point group ``cereloop.estimators``.

A name of a built-in belongs to the built-in: what another package registers under it is listed with the reason, and never
used. A session's name of an estimator thus means the same on every machine.
"""

from __future__ import annotations

import difflib
import importlib
import re
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, cast

import msgspec

from loop.estimators.errors import EstimatorError
from loop.estimators.protocol import Plugin

GROUP: Final = "cereloop.estimators"
BUILT_IN: Final = {
    "posterior_fossa": "loop.estimators.posterior_fossa",
    "event_readout": "loop.estimators.event_readout",
}

# As the configuration's `estimator.kind` can name it.
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_VERBS: Final = ("build", "learn_rest", "target_of", "fit")
# What somebody else's module can raise while it is loaded, short of ending the process.
_BROKEN: Final = (
    ImportError, SyntaxError, NameError, AttributeError, LookupError, TypeError, ValueError, ArithmeticError, AssertionError,
    OSError, RuntimeError,
)  # fmt: skip


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
    if name in BUILT_IN:
        return _built_in(name)
    points = _points()
    named = [point for point in points if point.name == name]
    if not named:
        known = sorted({*BUILT_IN, *(point.name for point in points)})
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(f'`{one}`' for one in near)}?" if near else f"there are {', '.join(known)}"
        raise EstimatorError(f"no estimator is called `{name}`; {hint} (`cereloop estimators` lists them)")
    plugin, problem = _load(named[0], points)
    if plugin is None:
        raise EstimatorError(f"estimator `{name}` of {_origin(named[0])} cannot be used: {problem}")
    return plugin


def available() -> list[Entry]:
    """All estimators, built-ins first; those that cannot be used with the reason."""
    entries = []
    for name in BUILT_IN:
        plugin = _built_in(name)
        entries.append(Entry(plugin.name, plugin.summary, "built in"))
    points = _points()
    for point in points:
        plugin_or_none, problem = _load(point, points)
        summary = plugin_or_none.summary if plugin_or_none is not None else ""
        entries.append(Entry(point.name, summary, _origin(point), problem))
    return entries


def _built_in(name: str) -> Plugin:
    plugin: Plugin = importlib.import_module(BUILT_IN[name]).PLUGIN
    return plugin


def _points() -> list[EntryPoint]:
    return sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value))


def _origin(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value


def _load(point: EntryPoint, points: list[EntryPoint]) -> tuple[Plugin | None, str]:
    """The plug-in of an entry point, or the reason why it cannot be used."""
    if point.name in BUILT_IN:
        return None, f"`{point.name}` is the name of a built-in, which is never replaced; its author must choose another"
    if not _NAME.fullmatch(point.name):
        return None, "its name must be lower-case letters, digits and underscores, a letter first"
    others = [other for other in points if other.name == point.name and other is not point]
    if others:
        return None, f"{', '.join(map(_origin, others))} registers the same name; uninstall one of them"
    try:
        plugin = point.load()
        problem = shortcomings(point.name, plugin)
    except _BROKEN as error:
        words = str(error).strip().splitlines()
        return None, f"it fails to load ({type(error).__name__}{': ' + words[0] if words else ''})"
    return (None, problem) if problem else (cast("Plugin", plugin), "")


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
