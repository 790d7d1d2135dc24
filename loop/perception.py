"""From chunks and markers to feature frames and judged events: framing, quality, kernel, and the outcomes' windows."""

from __future__ import annotations

from collections import deque
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cext.kernel import Output as KernelOutput
from devices.clock import NS_PER_MS, NS_PER_S
from loop import markers
from loop.config import Config
from loop.estimator import Estimator
from loop.events import Chunk, Features, Incident, Int64s, Marker, Output, SegmentStart, Setup
from loop.framing import Framer
from loop.markers import Meaning
from loop.policy import PSEUDO_PERIOD_S
from loop.quality import ChannelWatch, UnitWatch

OUT_DUE_WINDOW_NS: Final = 50 * NS_PER_MS
# Pseudo-events are numbered from here, outcomes from 1.
_PSEUDO_BASE: Final = 1 << 40
_REMEMBERED_NS: Final = 5 * NS_PER_S
_MOST_MARKERS_WAITING: Final = 48


class Judged(NamedTuple):
    """An outcome (or a pseudo-event: `meaning` None) whose windows have passed."""

    event: int
    meaning: Meaning | None
    cue: str
    t_ns: int
    sample: int
    decided_sample: int
    decided_t_ns: int
    features: tuple[float, ...] | None
    raw: tuple[float | None, ...]
    invalid: float


class Seen(NamedTuple):
    """What one chunk gave: records, judged events, whether it was fresh, and whether the segment broke."""

    outputs: list[Output]
    judged: list[Judged]
    fresh: bool
    broken: str


class _Known(NamedTuple):
    meaning: Meaning
    cue: str
    t_ns: int


class Perception:
    """Everything between a stream and the policy; one a session, kept across its segments.

    Parameters
    ----------
    config : Config
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._rename = config.markers.rename
        self._layout_digest = ""
        self._estimator: Estimator | None = None
        self._framer: Framer | None = None
        self._channels: ChannelWatch | None = None
        self._units: UnitWatch | None = None
        self._waiting: deque[tuple[int, Meaning]] = deque()
        self._due: deque[int] = deque()
        self._recent: deque[tuple[int, Int64s]] = deque()
        self._known: dict[int, _Known] = {}
        self._cue = ""
        self._next_event = 1
        self._next_pseudo = 0
        self._pseudo_every = 1
        self._refused = ""
        self._units_wrong = ""
        self._announced: set[str] = set()
        self._ignored: frozenset[str] = frozenset(config.channels.rails_under_current)
        self._no_exclusion = np.zeros(0, dtype=np.uint8)

    @property
    def refused(self) -> str:
        """Why this segment's samples are not looked at; empty where they are."""
        return self._refused

    @property
    def bad_channels(self) -> dict[str, str]:
        """Channels that are bad now, with the verdict."""
        return self._channels.bad if self._channels is not None else {}

    def start_segment(self, event: SegmentStart) -> list[Output]:
        """A handshake: the first sets up the estimator, a later one must bring the same layout (I15).

        Raises
        ------
        LayoutError
            If the first layout cannot be worked on.
        """
        layout = event.layout
        outputs: list[Output] = []
        if self._estimator is None:
            self._estimator = Estimator(self._config, layout)
            self._layout_digest = layout.digest
            self._pseudo_every = max(1, round(PSEUDO_PERIOD_S * layout.sfreq_hz))
            self._next_pseudo = self._pseudo_every
            estimator = self._estimator
            setup = Setup(
                t_ns=event.t_ns,
                estimator=estimator.name,
                columns=estimator.columns,
                learned=estimator.learned,
                notes=estimator.notes,
            )
            outputs.append(setup)
        elif layout.digest != self._layout_digest:
            self._refused = "channels, order, units or rate differ from the layout this session began with"
            outputs.append(_incident(event.t_ns, "layout_changed", self._refused, "segment refused"))
            return outputs
        else:
            self._estimator.kernel.reset_segment()
        self._refused = ""
        self._framer = Framer(layout.sfreq_hz, round(self._config.source.jitter_s * NS_PER_S))
        self._channels = ChannelWatch(layout.labels)
        self._units = UnitWatch(layout.sfreq_hz)
        self._recent.clear()
        return outputs

    def take_marker(self, event: Marker) -> list[Output]:
        """Note a marker; it acts on the first sample at or after its stamp."""
        meaning = markers.meaning(markers.canonical(event.text, self._rename))
        outputs: list[Output] = []
        if meaning.kind == "other":
            return outputs
        if meaning.kind == "out_due":
            self._due.append(event.stamp_ns)
            return outputs
        if meaning.kind == "outcome" and not self._take_due(event.stamp_ns):
            name = "out_due_missing"
            if name not in self._announced and not self._config.markers.imply_out_due:
                self._announced.add(name)
                detail = f"`{meaning.text}` came without OUT_DUE within 50 ms; further cases are not repeated"
                outputs.append(_incident(event.t_ns, name, detail, "outcome used all the same"))
        if len(self._waiting) >= _MOST_MARKERS_WAITING:
            self._waiting.popleft()
            outputs.append(_incident(event.t_ns, "marker_flood", "more markers wait than can be placed", "oldest dropped"))
        self._waiting.append((event.stamp_ns, meaning))
        return outputs

    def take_chunk(self, chunk: Chunk, excluded: list[tuple[int, int | None]]) -> Seen:
        """Work on one chunk; `excluded` holds the (start_ns, stop_ns) of stretches with current, the last maybe open."""
        if self._refused or self._framer is None or self._estimator is None:
            return Seen([], [], False, self._refused)
        framed = self._framer.take(chunk.t_ns, chunk.stamps_ns)
        outputs: list[Output] = []
        broken = ""
        for fault in framed.faults:
            answer = "sense window discarded" if fault.ends_segment else "noted"
            outputs.append(_incident(chunk.t_ns, fault.name, fault.detail, answer))
            broken = broken or (fault.name if fault.ends_segment or fault.name == "rate_drift" else "")
        kernel = self._estimator.kernel
        if framed.restart:
            kernel.reset_segment()
            self._recent.clear()
        if framed.stop == framed.start:
            return Seen(outputs, [], framed.fresh, broken)
        stamps = chunk.stamps_ns[framed.start : framed.stop]
        samples_uv = np.multiply(chunk.samples[framed.start : framed.stop], self._estimator.scale_uv, dtype=np.float64)
        outputs.extend(self._judge_units(chunk.t_ns, samples_uv))

        first = kernel.sample_count
        self._remember(first, stamps)
        impulses = self._impulses(first, stamps)
        result = kernel.process(samples_uv, self._exclusion(stamps, excluded), impulses)
        if len(result.frame_sample):
            times = stamps[np.clip(result.frame_sample - first, 0, len(stamps) - 1)]
            outputs.append(Features(result.frame_sample, times, result.frames, result.frame_flags))
            outputs.extend(self._judge_channels(chunk.t_ns, result.channel_flags, bool(excluded and excluded[-1][1] is None)))
        judged = self._judged(result, first, stamps) if len(result.event_id) else []
        return Seen(outputs, judged, framed.fresh, broken or self._units_wrong)

    def state(self) -> bytes:
        """The kernel's state, for tests of what may change it."""
        return self._estimator.kernel.get_state() if self._estimator is not None else b""

    # ---- parts of take_chunk

    def _judge_units(self, t_ns: int, samples_uv: npt.NDArray[np.float64]) -> list[Output]:
        assert self._units is not None and self._estimator is not None
        sentence = self._units.take(samples_uv, self._estimator.used)
        if sentence is None:
            return []
        self._units_wrong = "unit"
        return [_incident(t_ns, "unit_implausible", sentence, "no outcome of this session is evidence")]

    def _judge_channels(self, t_ns: int, flags: npt.NDArray[np.uint8], with_current: bool) -> list[Output]:
        assert self._channels is not None and self._estimator is not None
        outputs: list[Output] = []
        for verdict in self._channels.take(flags):
            if with_current and verdict.channel in self._ignored:
                continue
            answer = "its samples are left out" if verdict.bad else "in use again after warm-up"
            name = f"channel_{verdict.name}" if verdict.bad else "channel_recovered"
            outputs.append(_incident(t_ns, name, verdict.channel, answer))
        return outputs

    def _exclusion(self, stamps: Int64s, excluded: list[tuple[int, int | None]]) -> npt.NDArray[np.uint8]:
        n = len(stamps)
        if not excluded or (excluded[-1][1] is not None and excluded[-1][1] <= stamps[0]):
            if len(self._no_exclusion) < n:
                self._no_exclusion = np.zeros(max(n, 64), dtype=np.uint8)
            return self._no_exclusion[:n]
        mask = np.zeros(n, dtype=np.uint8)
        for start_ns, stop_ns in excluded[-4:]:
            inside = stamps >= start_ns
            if stop_ns is not None:
                inside &= stamps < stop_ns
            mask[inside] = 1
        return mask

    def _remember(self, first: int, stamps: Int64s) -> None:
        self._recent.append((first, stamps))
        oldest = int(stamps[-1]) - _REMEMBERED_NS
        while len(self._recent) > 1 and int(self._recent[0][1][-1]) < oldest:
            self._recent.popleft()

    def _impulses(self, first: int, stamps: Int64s) -> npt.NDArray[np.int64]:
        rows: list[tuple[int, int, int]] = []
        last_ns = int(stamps[-1])
        self._imply_omissions(last_ns)
        later: deque[tuple[int, Meaning]] = deque()
        while self._waiting:
            stamp_ns, meaning = self._waiting.popleft()
            if stamp_ns > last_ns:
                later.append((stamp_ns, meaning))
                continue
            event = -1
            if meaning.kind == "cue":
                self._cue = meaning.cue
            else:
                event = self._next_event
                self._next_event += 1
                self._known[event] = _Known(meaning, self._cue, stamp_ns)
            rows.append((self._sample_of(stamp_ns) - first, meaning.channel, event))
        self._waiting = later
        while self._next_pseudo < first + len(stamps):
            rows.append((self._next_pseudo - first, markers.NO_CHANNEL, _PSEUDO_BASE + self._next_pseudo))
            self._next_pseudo += self._pseudo_every
        rows.sort()
        return np.array(rows, dtype=np.int64).reshape(-1, 3)

    def _imply_omissions(self, now_ns: int) -> None:
        """An outcome that was due and did not come within 50 ms is an omission."""
        while self._due and now_ns - self._due[0] > 2 * OUT_DUE_WINDOW_NS:
            self._waiting.append((self._due.popleft(), markers.meaning("STIM/OMIT")))

    def _take_due(self, stamp_ns: int) -> bool:
        for due_ns in self._due:
            if abs(due_ns - stamp_ns) <= OUT_DUE_WINDOW_NS:
                self._due.remove(due_ns)
                return True
        return False

    def _sample_of(self, stamp_ns: int) -> int:
        """First sample at or after a time; the oldest remembered one for anything earlier."""
        for first, stamps in reversed(self._recent):
            if stamp_ns > int(stamps[0]):
                return first + int(np.searchsorted(stamps, stamp_ns, side="left"))
        return self._recent[0][0]

    def _judged(self, result: KernelOutput, first: int, stamps: Int64s) -> list[Judged]:
        judged = []
        for i, event in enumerate(result.event_id.tolist()):
            values = result.event_features[i].tolist()
            raw = tuple(value if value == value else None for value in values)
            valid = bool(result.event_valid[i]) and None not in raw
            sample, decided = int(result.event_sample[i]), int(result.event_tick_sample[i])
            decided_t_ns = int(stamps[min(max(decided - first, 0), len(stamps) - 1)])
            known = self._known.pop(event, None)
            common: dict[str, Any] = {
                "sample": sample,
                "decided_sample": decided,
                "decided_t_ns": decided_t_ns,
                "features": tuple(values) if valid else None,
                "raw": raw,
                "invalid": float(result.event_invalid[i]),
            }
            if known is None:
                t_ns = decided_t_ns - round((decided - sample) * NS_PER_S / self._sfreq_hz())
                judged.append(Judged(event=event, meaning=None, cue="", t_ns=t_ns, **common))
            else:
                judged.append(Judged(event=event, meaning=known.meaning, cue=known.cue, t_ns=known.t_ns, **common))
        return judged

    def _sfreq_hz(self) -> float:
        assert self._estimator is not None
        return self._estimator.params.sfreq_hz


def _incident(t_ns: int, name: str, detail: str, answer: str) -> Incident:
    return Incident(t_ns=t_ns, name=name, detail=detail, answer=answer)
