"""Plug-ins by name: the built-ins, and those that other packages register under an entry point group.

A name of a built-in belongs to the built-in: what another package registers under it is told with the reason, and never used.
A name in a configuration thus means the same on every machine. Drivers and estimators are both found by these rules; what makes
a whole driver or a whole estimator, and in which words one is missed, their own registries say.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, Generic, TypeVar

import msgspec

PluginT = TypeVar("PluginT")

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
# What somebody else's module can raise while it is loaded, short of ending the process.
_BROKEN: Final = (
    ImportError, SyntaxError, NameError, AttributeError, LookupError, TypeError, ValueError, ArithmeticError, AssertionError,
    OSError, RuntimeError,
)  # fmt: skip


class Found(msgspec.Struct, Generic[PluginT], frozen=True):
    """One name and who owns it: `origin` is ``built in`` or the package; without a `plugin`, `problem` says why."""

    name: str
    origin: str
    plugin: PluginT | None
    problem: str = ""


class Plugins(Generic[PluginT]):
    """All plug-ins of one kind.

    Parameters
    ----------
    group : str
        The entry point group in which other packages register theirs.
    built_in : mapping of str to str
        Module by name.
    constant : str
        What the plug-in is called in a built-in module.
    shortcomings : callable
        ``(name, object) -> str``: why an object cannot be used under this name, in words; empty where it can.
    """

    def __init__(
        self, group: str, built_in: Mapping[str, str], constant: str, shortcomings: Callable[[str, Any], str]
    ) -> None:
        self._group = group
        self._built_in = built_in
        self._constant = constant
        self._shortcomings = shortcomings

    def find(self, name: str) -> Found[PluginT] | None:
        """Who owns a name; None where nobody does. Loads that one plug-in and no other."""
        if name in self._built_in:
            return self._own(name)
        points = self._points()
        return next((self._others(point, points) for point in points if point.name == name), None)

    def every(self) -> list[Found[PluginT]]:
        """All, built-ins first; those that cannot be used with the reason."""
        points = self._points()
        return [*map(self._own, self._built_in), *(self._others(point, points) for point in points)]

    def near(self, name: str) -> list[str]:
        """Names that `name` may be a slip of, best first."""
        return difflib.get_close_matches(name, self.names(), n=3, cutoff=0.5)

    def names(self) -> list[str]:
        """Every registered name, usable or not, sorted."""
        return sorted({*self._built_in, *(point.name for point in self._points())})

    def _own(self, name: str) -> Found[PluginT]:
        return Found(name, "built in", getattr(importlib.import_module(self._built_in[name]), self._constant))

    def _points(self) -> list[EntryPoint]:
        return sorted(entry_points(group=self._group), key=lambda point: (point.name, point.value))

    def _others(self, point: EntryPoint, points: Iterable[EntryPoint]) -> Found[PluginT]:
        plugin, problem = self._load(point, points)
        return Found(point.name, _origin(point), plugin, problem)

    def _load(self, point: EntryPoint, points: Iterable[EntryPoint]) -> tuple[PluginT | None, str]:
        """The plug-in of an entry point, or the reason why it cannot be used."""
        if point.name in self._built_in:
            return None, f"`{point.name}` is the name of a built-in, which is never replaced; its author must choose another"
        if not _NAME.fullmatch(point.name):
            return None, "its name must be lower-case letters, digits and underscores, a letter first"
        others = [other for other in points if other.name == point.name and other is not point]
        if others:
            return None, f"{', '.join(map(_origin, others))} registers the same name; uninstall one of them"
        try:
            plugin = point.load()
            problem = self._shortcomings(point.name, plugin)
        except _BROKEN as error:
            words = str(error).strip().splitlines()
            return None, f"it fails to load ({type(error).__name__}{': ' + words[0] if words else ''})"
        return (None, problem) if problem else (plugin, "")


def _origin(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value
