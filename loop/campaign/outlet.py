"""A scripted LSL outlet that does on command what amplifiers do wrong: ``python -m loop.campaign.outlet NAME``.

White noise on eight channels at 250 Hz, 20 ms a chunk. One command a line on standard input, one line back:

    drop SECONDS   hold SECONDS   shift SECONDS   rate FACTOR   twice   swap
    alter KIND   close   open [KIND]   ok

``alter``: none, nan, rail, flat, move, line, muscle, leak. ``open``: same, swapped, rate, units, count.
"""

from __future__ import annotations

import os
import select
import sys
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from devices import liblsl
from loop.campaign.rig import LABELS, RATE_HZ

_CHUNK_S: Final = 0.02
_KINDS: Final = ("none", "nan", "rail", "flat", "move", "line", "muscle", "leak")


class ScriptedOutlet:
    """The stream, and what is wrong with it now."""

    def __init__(self, name: str) -> None:
        self._pylsl: Any = liblsl.load("machine")
        self._name = name
        self._outlet: Any = None
        self._noise = np.random.default_rng(11).normal(0.0, 10.0, (5000, len(LABELS))).astype(np.float32)
        self._sent = 0
        self._zero_s = self._pylsl.local_clock()
        self._period_s = 1.0 / RATE_HZ
        self._next = 0
        self._shift_s = 0.0
        self._dropped_until_s = self._held_until_s = 0.0
        self._kind = "none"
        self._trick = ""
        self.open("same")

    def open(self, kind: str) -> None:
        """Announce the stream, as it was or with another layout."""
        labels = {"swapped": LABELS[::-1], "count": LABELS[:6]}.get(kind, LABELS)
        rate_hz = 500.0 if kind == "rate" else RATE_HZ
        info = self._pylsl.StreamInfo(self._name, "EEG", len(labels), rate_hz, "float32", self._name)
        channels = info.desc().append_child("channels")
        for label in labels:
            channel = channels.append_child("channel")
            channel.append_child_value("label", label)
            channel.append_child_value("unit", "millivolts" if kind == "units" else "microvolts")
            channel.append_child_value("type", "EEG")
        info.desc().append_child("cereloop").append_child_value("simulated", "true")
        self._columns = len(labels)
        self._outlet = self._pylsl.StreamOutlet(info)
        self._next = self._due()

    def obey(self, line: str) -> str:
        """One command; what it came to."""
        word, _, rest = line.strip().partition(" ")
        now_s = self._pylsl.local_clock()
        match word:
            case "drop":
                self._dropped_until_s = now_s + float(rest)
            case "hold":
                self._held_until_s = now_s + float(rest)
            case "shift":
                self._shift_s = float(rest)
            case "rate":
                self._next = 0
                self._zero_s, self._period_s = now_s, 1.0 / (RATE_HZ * float(rest))
            case "twice" | "swap":
                self._trick = word
            case "alter" if rest in _KINDS:
                self._kind = rest
            case "close":
                self._outlet = None
            case "open":
                self.open(rest or "same")
            case "ok":
                self._dropped_until_s = self._held_until_s = self._shift_s = 0.0
                self._kind, self._trick = "none", ""
            case _:
                return f"no command: {line.strip()[:60]}"
        return "done"

    def turn(self) -> None:
        """Send what is due."""
        now_s = self._pylsl.local_clock()
        due = self._due()
        if now_s < self._dropped_until_s or self._outlet is None:
            self._next = due
            return
        if now_s < self._held_until_s or due <= self._next:
            return
        if self._trick == "swap" and due - self._next < 2:
            return
        rows = np.arange(self._next, due)
        self._next = due
        stamps = self._zero_s + rows * self._period_s + self._shift_s
        samples = self._altered(self._noise[rows % len(self._noise)][:, : self._columns].copy(), rows)
        half = len(rows) // 2
        if self._trick == "swap":
            self._push(samples[half:], stamps[half:])
            self._push(samples[:half], stamps[:half])
        else:
            self._push(samples, stamps)
            if self._trick == "twice":
                self._push(samples, stamps)
        self._trick = ""

    def _due(self) -> int:
        return int((self._pylsl.local_clock() - self._zero_s) // self._period_s)

    def _push(self, samples: npt.NDArray[np.float32], stamps_s: npt.NDArray[np.float64]) -> None:
        if len(samples):
            self._outlet.push_chunk(np.ascontiguousarray(samples), timestamp=stamps_s.tolist())

    def _altered(self, samples: npt.NDArray[np.float32], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        time_s = rows / RATE_HZ
        match self._kind:
            case "nan":
                samples[:, 0] = np.nan
            case "rail":
                samples[:, 0] = 187_500.0
            case "flat":
                samples[:, 0] = 3.0
            case "move":
                samples += (1000.0 * np.sin(2 * np.pi * 1.0 * time_s))[:, None].astype(np.float32)
            case "line":
                samples += (300.0 * np.sin(2 * np.pi * 50.0 * time_s))[:, None].astype(np.float32)
            case "muscle":
                samples *= 20.0
            case "leak":
                samples += 1000.0
        return samples


def main(name: str) -> None:
    """Stream until the input ends."""
    outlet = ScriptedOutlet(name)
    print("streaming", flush=True)
    held = b""
    while True:
        ready, _, _ = select.select([0], [], [], _CHUNK_S)
        if ready:
            data = os.read(0, 4096)
            if not data:
                return
            *lines, held = (held + data).split(b"\n")
            for line in lines:
                print(outlet.obey(line.decode("utf-8", "replace")), flush=True)
        outlet.turn()


if __name__ == "__main__":
    main(sys.argv[1])
