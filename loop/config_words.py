"""How what is wrong with a configuration is said: one sentence that begins with the key."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Final

import msgspec

_LONGEST_QUOTE: Final = 120


def sentence(error: msgspec.ValidationError, tree: Mapping[str, Any], root: type[msgspec.Struct]) -> str:
    """One sentence from msgspec's message: the key first, then what is wrong with it, and the nearest known key."""
    message, _, place = str(error).partition(" - at ")
    path = place.strip("`").removeprefix("$").removeprefix(".")
    if message.startswith("Object contains unknown field"):
        unknown = message.split("`")[1]
        key = _one_line(f"{path}.{unknown}" if path else unknown)
        known = _known_keys(root, path)
        near = difflib.get_close_matches(unknown, known, n=1, cutoff=0.4)
        hint = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(known)}"
        return f"unknown key `{key}`; {hint}"
    if message.startswith("Object missing required field"):
        missing = message.split("`")[1]
        return f"key `{f'{path}.{missing}' if path else missing}` is missing; it has no default"
    value: object = tree
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    got = "" if value is None or isinstance(value, Mapping) else f" (it is {_one_line(repr(value))})"
    return f"key `{_one_line(path) or 'top level'}`: {message[0].lower()}{message[1:]}{got}"


def _known_keys(root: type[msgspec.Struct], path: str) -> list[str]:
    node: Any = root
    for part in path.split(".") if path else ():
        hint = next((f.type for f in msgspec.structs.fields(node) if f.name == part), None)
        options = [a for a in (*getattr(hint, "__args__", ()), hint) if isinstance(a, type)]
        node = next((a for a in options if issubclass(a, msgspec.Struct)), None)
        if node is None:
            return []
    return [field.name for field in msgspec.structs.fields(node)]


def _one_line(text: str) -> str:
    """Text from a file as it may stand in a message: no line breaks, no control characters, not endless."""
    plain = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return plain if len(plain) <= _LONGEST_QUOTE else f"{plain[:_LONGEST_QUOTE]}…"


def os_words(error: OSError) -> str:
    """Why a file could not be read, in few words."""
    words = {FileNotFoundError: "no such file", IsADirectoryError: "is a directory", PermissionError: "not readable"}
    return words.get(type(error), (error.strerror or str(error)).lower())
