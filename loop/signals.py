"""Signals as notes: what asks a session to end never comes in the middle of a step."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def signals_noted(noted: list[str]) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP only leave a note: the loop ends by a ramp, never in the middle of a step. Nests."""

    def note(number: int, _frame: FrameType | None) -> None:
        noted.append("Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    saved = [(number, signal.signal(number, note)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in saved:
            signal.signal(number, handler)
