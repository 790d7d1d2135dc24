"""What one parser is to the fuzzer, and the ways to feed it: as text, as a file, in pieces."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Parser(NamedTuple):
    """One parser; `read` takes bytes and may raise `errors` only. A `slow` one opens files, and gets a tenth of the inputs."""

    name: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    slow: str = ""


def text(data: bytes) -> str:
    """Any text, also such as no file could hold."""
    return data.decode("utf-8", "surrogateescape")


def texts(*good: str) -> Callable[[], list[bytes]]:
    """Seeds that are texts."""
    return lambda: [one.encode() for one in good]


def in_pieces(make: Callable[[], Any]) -> Callable[[bytes], None]:
    """By a new decoder each time, seven bytes at a time."""

    def read(data: bytes) -> None:
        decoder = make()
        for start in range(0, len(data), 7):
            decoder.feed(data[start : start + 7])

    return read


@functools.cache
def folder() -> Path:
    """One folder of this process, gone with it."""
    made = tempfile.TemporaryDirectory(prefix="cereloop-fuzz-")
    _kept.append(made)
    return Path(made.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []


def as_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], None]:
    """By way of a file of that name."""

    def by_file(data: bytes) -> None:
        path = folder() / name
        for old in folder().glob(f"{name}*"):
            old.unlink()
        path.write_bytes(data)
        read(path)

    return by_file
