"""What a calibration is made from: the inputs of recordings, or of sessions without current, played twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from devices.units import NS_PER_S
from loop.calibration.errors import CalibrationError
from loop.events import Chunk, Input, Layout, Marker, Playback, SegmentStart, SourceInfo
from loop.markers import canonical
from loop.reader import Session
from loop.redrive import samples_of

_BLOCK_S: Final = 0.5
# Between recordings that are played one after the other: longer than any event's windows.
_BETWEEN_NS: Final = 10 * NS_PER_S
Float64s = npt.NDArray[np.float64]


class Take(NamedTuple):
    """A recording to calibrate on: `play()` gives its segments, markers and chunks in order, from the start each time."""

    layout: Layout
    source: SourceInfo
    play: Callable[[], Iterator[Input]]


def take_of_playback(opened: Callable[[], Playback]) -> Take:
    """A recording or a simulated patient; `opened` gives it anew, from the start."""
    playback = opened()

    def play() -> Iterator[Input]:
        source = opened()
        yield SegmentStart(t_ns=0, segment=1, layout=source.layout, source=source.info, clock_offset_ns=0)
        n = max(1, round(_BLOCK_S * source.layout.sfreq_hz))
        while (block := source.read(n, 0.0)) is not None:
            now_ns = int(block.stamps_ns[-1])
            for stamp_ns, text in block.markers:
                yield Marker(t_ns=now_ns, stamp_ns=stamp_ns, text=text)
            yield Chunk(t_ns=now_ns, segment=1, first=block.first, stamps_ns=block.stamps_ns, samples=block.samples)

    return Take(playback.layout, playback.info, play)


def take_of_session(path: str | Path) -> Take:
    """A recorded session in which no current flowed.

    Raises
    ------
    JournalError
        If the file is no session file.
    CalibrationError
        If current flowed in it, or it holds no samples.
    """
    with Session.open(path) as session:
        segments = list(session.segments)
        if not segments:
            raise CalibrationError(f"{path}: this session received no samples; calibrate on one that did")
        if any(gate.after == "RAMP_UP" for gate in session.gates):
            raise CalibrationError(
                f"{path}: current flowed in this session; calibrate on one with arm feedback_only, or on a recording"
            )

    def play() -> Iterator[Input]:
        with Session.open(path) as session:
            for event in session.inputs(samples_of(session)):
                if isinstance(event, SegmentStart | Marker | Chunk):
                    yield event

    return Take(segments[0].layout, segments[0].source, play)


def joined(takes: Sequence[Take]) -> Take:
    """Several recordings of one layout as one, each a segment of its own, one after the other.

    Raises
    ------
    CalibrationError
        If their layouts differ.
    """
    first, *others = takes
    for other in others:
        if other.layout.digest != first.layout.digest:
            raise CalibrationError(
                f"{other.source.path or other.source.identity}: its channels, units or rate are not those of "
                f"{first.source.path or first.source.identity}; calibrate on recordings of one cap"
            )
    if not others:
        return first

    def play() -> Iterator[Input]:
        segment, shift_ns, samples = 0, 0, 0
        for take in takes:
            end_ns, n = shift_ns, 0
            for event in take.play():
                t_ns = event.t_ns + shift_ns
                match event:
                    case SegmentStart():
                        segment += 1
                        yield msgspec.structs.replace(event, t_ns=t_ns, segment=segment)
                    case Marker():
                        yield msgspec.structs.replace(event, t_ns=t_ns, stamp_ns=event.stamp_ns + shift_ns)
                    case Chunk():
                        stamps_ns = event.stamps_ns + shift_ns
                        yield replace(event, t_ns=t_ns, segment=segment, first=samples + event.first, stamps_ns=stamps_ns)
                        end_ns, n = max(t_ns, int(stamps_ns[-1])), event.first + len(stamps_ns)
            shift_ns, samples = end_ns + _BETWEEN_NS, samples + n

    source = msgspec.structs.replace(
        first.source,
        identity=" + ".join(take.source.identity for take in takes),
        path=" + ".join(take.source.path for take in takes),
        sha256=hashlib.sha256("".join(take.source.sha256 for take in takes).encode()).hexdigest(),
    )
    return Take(first.layout, source, play)


def rest_uv(take: Take, rename: dict[str, str]) -> Float64s:
    """The samples between ``BLOCK/R/START`` and ``BLOCK/R/END``, without what ``ART/.../ON`` to ``OFF`` marks.

    Returns
    -------
    ndarray, shape (n_times, n_channels)
        Microvolts; empty where there is no rest block.
    """
    marks = [
        (event.stamp_ns, canonical(event.text, rename)) for event in take.play() if isinstance(event, Marker)
    ]
    resting, disturbed = _spans(marks, "BLOCK/R/START", "BLOCK/R/END"), _artefacts(marks)
    parts: list[Float64s] = []
    for event in take.play():
        if not isinstance(event, Chunk):
            continue
        inside = np.zeros(len(event.stamps_ns), dtype=np.bool_)
        for start, stop in resting:
            inside |= (event.stamps_ns >= start) & (event.stamps_ns < stop)
        for start, stop in disturbed:
            inside &= (event.stamps_ns < start) | (event.stamps_ns >= stop)
        if inside.any():
            parts.append(np.asarray(event.samples[inside], dtype=np.float64) * np.array(take.layout.to_uv))
    return np.concatenate(parts) if parts else np.empty((0, len(take.layout.labels)))


def _spans(marks: list[tuple[int, str]], start: str, stop: str) -> list[tuple[int, int]]:
    """Stretches from each `start` to the next `stop`; one that is never closed is none."""
    spans: list[tuple[int, int]] = []
    began: int | None = None
    for stamp_ns, text in sorted(marks):
        if text == start:
            began = stamp_ns
        elif text == stop and began is not None:
            spans.append((began, stamp_ns))
            began = None
    return spans


def _artefacts(marks: list[tuple[int, str]]) -> list[tuple[int, int]]:
    kinds = {text.split("/")[1] for _, text in marks if text.startswith("ART/") and text.count("/") == 2}
    return [span for kind in sorted(kinds) for span in _spans(marks, f"ART/{kind}/ON", f"ART/{kind}/OFF")]
