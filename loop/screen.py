"""What a running session tells: sentences and a status line for people, JSON lines for machines; never blocks the loop."""

from __future__ import annotations

import itertools
import queue
import sys
import threading
from collections.abc import Sequence
from typing import Final, Literal, TextIO

import msgspec

from devices import link
from devices.units import NS_PER_S
from loop.events import Decision, Device, Finished, GateChange, Incident, Input, MarkerOut, Outcome, Output, Setup

Style = Literal["text", "json", "quiet"]
View = Literal["open", "blinded"]
_MOST_WAITING: Final = 1000
_MOST_NAMED: Final = 6


class Screen:
    """Writes from a thread of its own, so that a stopped terminal or a full pipe cannot hold up the loop (I26).

    Parameters
    ----------
    style : {"text", "json", "quiet"}
        ``json`` writes one object a line.
    stream : file, optional
        Standard output unless given.
    view : {"open", "blinded"}
        ``blinded`` leaves out what would tell the arm: decisions, outcomes' evidence, reasons of the gate, currents.
    """

    def __init__(self, style: Style, stream: TextIO | None = None, view: View = "open") -> None:
        self._style = style
        self._view = view
        self._stream = sys.stdout if stream is None else stream
        self._lines: queue.Queue[str | None] = queue.Queue(_MOST_WAITING)
        self._start_ns: int | None = None
        self._is_terminal = style == "text" and self._stream.isatty()
        self._width = 0
        self._thread = threading.Thread(target=self._write, name="screen", daemon=True)
        self._thread.start()

    def say(self, text: str, **fields: object) -> None:
        """One sentence; `fields` go into the JSON form."""
        if self._style == "json":
            self._put(msgspec.json.encode({"kind": "note", "text": text, **fields}).decode() + "\n")
        elif self._style == "text":
            self._put(self._clear() + text + "\n")

    def show(self, event: Input, outputs: Sequence[Output]) -> None:
        """What one step of the engine put out, as far as a person needs it."""
        if self._start_ns is None:
            self._start_ns = event.t_ns
        seen = outputs if self._view == "open" else blinded(outputs)
        if self._style == "json":
            for output in seen:
                if isinstance(output, Setup | Outcome | Decision | GateChange | Incident | MarkerOut | Finished):
                    self._put(msgspec.json.encode(output).decode() + "\n")
        elif self._style == "text":
            at_s = (event.t_ns - self._start_ns) / NS_PER_S
            for sentence in told_together(seen):
                self._put(f"{self._clear()}{at_s:8.1f} s  {sentence}\n")
        if self._style == "json" and isinstance(event, Device) and not isinstance(event.message, link.Report):
            self._put(msgspec.json.encode(event).decode() + "\n")

    def status(self, text: str) -> None:
        """Replace the status line; at a terminal only."""
        if self._is_terminal:
            line = text[:79]
            self._put("\r" + line.ljust(self._width))
            self._width = len(line)

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what waits, unless nobody takes it."""
        self._put(self._clear())
        try:
            self._lines.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _clear(self) -> str:
        width, self._width = self._width, 0
        return "\r" + " " * width + "\r" if width else ""

    def _put(self, text: str) -> None:
        # A line nobody reads is dropped: the record has it anyway.
        if text and not self._lines.full():
            self._lines.put_nowait(text)

    def _write(self) -> None:
        while (text := self._lines.get()) is not None:
            try:
                self._stream.write(text)
                self._stream.flush()
            except (OSError, ValueError):
                return


def blinded(outputs: Sequence[Output]) -> list[Output]:
    """What may be seen of a blinded session: no decision, no outcome, no current, and gates without their reason."""
    seen: list[Output] = []
    for output in outputs:
        if isinstance(output, Decision | Outcome):
            continue
        if isinstance(output, GateChange):
            seen.append(msgspec.structs.replace(output, reason="as allotted", decision=0))
        else:
            seen.append(output)
    return seen


def told_together(outputs: Sequence[Output]) -> list[str]:
    """Sentences for a person; what befalls many channels at once is one, lest it drive all else off the screen."""
    sentences = []
    for _, alike in itertools.groupby(outputs, lambda one: (one.name, one.answer) if isinstance(one, Incident) else id(one)):
        first, *more = alike
        if isinstance(first, Incident) and more:
            details = [one.detail for one in (first, *more) if isinstance(one, Incident)]
            hidden = len(details) - _MOST_NAMED
            detail = ", ".join(details[:_MOST_NAMED]) + (f" and {hidden} more" if hidden > 0 else "")
            first = msgspec.structs.replace(first, detail=detail)
        sentences.append(told(first))
    return [sentence for sentence in sentences if sentence]


def told(output: Output) -> str:
    """One sentence for a person, or nothing for what only the record needs."""
    match output:
        case Setup():
            return f"estimator: {output.estimator}" + "".join(f"; {note}" for note in output.notes)
        case GateChange():
            return f"{output.before} -> {output.after}: {output.reason}"
        case Decision() if output.wanted == "open":
            return f"decision {output.decision}: open, {output.reason}"
        case Decision() if output.reason.startswith("no outcomes"):
            return f"decision {output.decision}: stays closed, {output.reason}"
        case Incident():
            return f"{output.name}: {output.detail} ({output.answer})"
        case Finished():
            return f"finished: {output.reason}"
        case _:
            return ""
