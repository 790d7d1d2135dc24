"""The mock's physical numbers, each with unit, range and provenance, read from ``numbers.toml`` beside this file."""

from __future__ import annotations

import functools
import tomllib
from pathlib import Path
from typing import Final, Literal

import msgspec

DEFAULT_PAIR: Final = "saline_pads"
_FILE: Final = Path(__file__).with_name("numbers.toml")


class Number(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One number; `range` is what a user may set it to, `status` how well it is founded."""

    value: float
    unit: str
    range: tuple[float, float]
    status: Literal["read", "inferred", "assumed"]
    source: str


class NumberError(ValueError):
    """A number that does not exist or is out of its range; the text says what exists."""


@functools.cache
def tables() -> dict[str, dict[str, Number]]:
    """All tables of the file; a pair of electrodes other than the default one is filled up from it."""
    with _FILE.open("rb") as file:
        read = msgspec.convert(tomllib.load(file), dict[str, dict[str, Number]], strict=True)
    pairs = {name: {**read[DEFAULT_PAIR], **table} for name, table in read.items() if name != "output"}
    return {**pairs, "output": read["output"]}


def pairs() -> list[str]:
    """Names of the electrode pairs."""
    return [name for name in tables() if name != "output"]


def values(table: str) -> dict[str, float]:
    """Key and value of one table."""
    return {name: number.value for name, number in tables()[table].items()}


def pair_values(text: str) -> dict[str, float]:
    """Read ``NAME[:key=value,...]``: a pair of electrodes, some of its numbers changed.

    Raises
    ------
    NumberError
        If pair or key does not exist, or a value is no number within its range.
    """
    name, _, listed = text.strip().partition(":")
    if name not in pairs():
        raise NumberError(f"there is no pair of electrodes {name!r}; the names are: {', '.join(pairs())}")
    known = tables()[name]
    chosen = values(name)
    for item in filter(None, listed.split(",")):
        key, equals, word = (part.strip() for part in item.partition("="))
        if not equals or key not in known:
            raise NumberError(f"electrodes {name}: {item!r} should read key=value with one of: {', '.join(known)}")
        low, high = known[key].range
        try:
            value = float(word)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise NumberError(f"electrodes {name}: {key} = {word} is no number within {low:g} .. {high:g} {known[key].unit}")
        chosen[key] = value
    return chosen
