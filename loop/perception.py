"""From chunks and markers to feature frames and judged events: framing, quality, kernel, and the outcomes' windows."""

from __future__ import annotations

import math
from collections import deque
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cext import Output as KernelOutput
from devices.units import NS_PER_MS, NS_PER_S
from loop import markers
from loop.calibration import file as calibration_file
from loop.calibration.file import Calibration
from loop.config import Config
from loop.coupling import CouplingWatch, Epoch, plan_for
from loop.estimators import registry
from loop.estimators.protocol import Estimator
from loop.events import Calibrated, Chunk, Features, Incident, Int64s, Marker, Output, SegmentStart, Setup
from loop.framing import Framer
from loop.markers import Meaning
from loop.policy import PSEUDO_PERIOD_S
from loop.quality import ChannelWatch, UnitWatch
from loop.readout import Readout

OUT_DUE_WINDOW_NS: Final = 50 * NS_PER_MS
# Pseudo-events are numbered from here, outcomes from 1.
_PSEUDO_BASE: Final = 1 << 40
# Ends of stimuli are numbered apart, so that they leave the outcomes' numbers as they are.
_OFFSET_BASE: Final = 1 << 39
_REMEMBERED_NS: Final = 5 * NS_PER_S
_MOST_MARKERS_WAITING: Final = 48
# The kernel holds 64 open events; pseudo-events need two of them.
_MOST_EVENTS_OPEN: Final = 48


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
    """What one chunk gave: records, judged events, whether it was fresh, and the fault of its timing, if any."""

    outputs: list[Output]
    judged: list[Judged]
    fresh: bool
    broken: str


class _Waiting(NamedTuple):
    """A marker that waits for its sample; `acts_ns` is when the forward model hears of it."""

    acts_ns: int
    stamp_ns: int
    meaning: Meaning


class _Stretch(NamedTuple):
    """Samples given to the kernel: `first` in its count, `shift` to the count of the record."""

    first: int
    shift: int
    stamps: Int64s


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
        self._calibration: Calibration | None = None
        self._sfreq_hz = 0.0
        self._framer: Framer | None = None
        self._channels: ChannelWatch | None = None
        self._units: UnitWatch | None = None
        self._waiting: list[_Waiting] = []
        self._due: deque[int] = deque(maxlen=_MOST_MARKERS_WAITING)
        self._recent: deque[_Stretch] = deque()
        self._cut_short: list[Judged] = []
        self._unannounced: deque[int] = deque(maxlen=_MOST_MARKERS_WAITING)
        self._flooded = 0
        self._known: dict[int, _Known] = {}
        self._cues: deque[tuple[int, str]] = deque(maxlen=8)
        self._next_event = 1
        self._next_pseudo = 0
        self._next_offset = _OFFSET_BASE + 1
        self._coupling: CouplingWatch | None = None
        self._pseudo_every = 1
        self._refused = ""
        self._implausible = ""
        self._announced: set[str] = set()
        self._ignored: frozenset[str] = frozenset(config.channels.rails_under_current)
        self._no_exclusion = np.zeros(0, dtype=np.uint8)

    @property
    def refused(self) -> str:
        """Why this segment's samples are not looked at; empty where they are."""
        return self._refused

    @property
    def implausible(self) -> str:
        """Why no outcome of this session can be evidence: the samples' unit cannot be right; empty where it can."""
        return self._implausible

    @property
    def bad_channels(self) -> dict[str, str]:
        """Channels that are bad now, with the verdict."""
        return self._channels.bad if self._channels is not None else {}

    @property
    def readout(self) -> Readout | None:
        """The calibration's readout; None without a calibration."""
        return self._estimator.readout if self._estimator is not None else None

    @property
    def learned(self) -> tuple[str, ...]:
        """Names of the event features; empty before the first segment."""
        return self._estimator.learned if self._estimator is not None else ()

    def take_calibration(self, event: Calibrated) -> None:
        """Note the calibration that the first segment's estimator shall use. Raises CalibrationError."""
        self._calibration = calibration_file.decode(event.text)

    def start_segment(self, event: SegmentStart) -> list[Output]:
        """A handshake: the first sets up the estimator, a later one must bring the same layout (I15).

        Raises
        ------
        LayoutError
            If the first layout cannot be worked on.
        CalibrationError
            If the calibration does not fit it.
        """
        layout = event.layout
        outputs: list[Output] = []
        if self._estimator is None:
            self._estimator = registry.find(self._config.estimator.kind).build(self._config, layout, self._calibration)
            self._sfreq_hz = layout.sfreq_hz
            self._layout_digest = layout.digest
            self._pseudo_every = max(1, round(PSEUDO_PERIOD_S * layout.sfreq_hz))
            self._next_pseudo = self._pseudo_every
            estimator = self._estimator
            plan = plan_for(estimator, layout)
            self._coupling = CouplingWatch(plan) if plan is not None else None
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
            self._reset()
        self._refused = ""
        self._framer = Framer(layout.sfreq_hz, round(self._config.source.jitter_s * NS_PER_S))
        self._channels = ChannelWatch(layout.labels)
        self._units = UnitWatch(layout.sfreq_hz)
        return outputs

    def read_marker(self, event: Marker) -> Meaning:
        """What a marker says, in the vocabulary that the config maps it to."""
        return markers.meaning(markers.canonical(event.text, self._rename))

    def take_marker(self, event: Marker, meaning: Meaning) -> list[Output]:
        """Note a marker; it acts on the first sample at or after its stamp."""
        outputs: list[Output] = []
        if meaning.kind in ("rating", "other"):
            return outputs
        if meaning.kind == "out_due":
            if not _take_near(self._unannounced, event.stamp_ns):
                self._due.append(event.stamp_ns)
            return outputs
        if meaning.kind == "outcome" and not _take_near(self._due, event.stamp_ns):
            self._unannounced.append(event.stamp_ns)
            name = "out_due_missing"
            if name not in self._announced and not self._config.markers.imply_out_due:
                self._announced.add(name)
                detail = f"`{meaning.text}` came without OUT_DUE within 50 ms; further cases are not repeated"
                outputs.append(_incident(event.t_ns, name, detail, "outcome used all the same"))
        if len(self._waiting) >= _MOST_MARKERS_WAITING:
            del self._waiting[0]
            outputs.append(_incident(event.t_ns, "marker_flood", "more markers wait than can be placed", "oldest dropped"))
        self._waiting.append(_Waiting(event.stamp_ns, event.stamp_ns, meaning))
        return outputs

    def take_chunk(self, chunk: Chunk, excluded: list[tuple[int, int | None]]) -> Seen:
        """Work on one chunk; `excluded` holds the (start_ns, stop_ns) of stretches with current, the last maybe open."""
        if self._refused or self._framer is None or self._estimator is None:
            return Seen([], [], fresh=False, broken=self._refused)
        framed = self._framer.take(chunk.t_ns, chunk.stamps_ns)
        outputs: list[Output] = []
        broken = ""
        for fault in framed.faults:
            # Old samples alone are the business of the stale time (I12); every other fault breaks the window.
            broken = broken or (fault.name if fault.name != "late_data" else "")
            answer = "noted" if fault.name == "late_data" else "sense window discarded"
            outputs.append(_incident(chunk.t_ns, fault.name, fault.detail, answer))
        kernel = self._estimator.kernel
        if framed.restart:
            self._reset()
        judged, self._cut_short = self._cut_short, []
        if framed.stop == framed.start:
            return Seen(outputs, judged, framed.fresh, broken)
        stamps = chunk.stamps_ns[framed.start : framed.stop]
        samples_uv = np.multiply(chunk.samples[framed.start : framed.stop], self._estimator.scale_uv, dtype=np.float64)
        outputs.extend(self._judge_units(chunk.t_ns, samples_uv))

        first = kernel.sample_count
        # The kernel counts what it was given, the record what arrived: they differ by what was left out.
        shift = chunk.first + framed.start - first
        self._remember(first, shift, stamps)
        impulses = self._impulses(first, stamps)
        if self._flooded:
            detail = f"{self._flooded} outcomes came while {_MOST_EVENTS_OPEN} were still being judged"
            outputs.append(_incident(chunk.t_ns, "marker_flood", detail, "left out"))
            self._flooded = 0
        result = kernel.process(samples_uv, self._exclusion(stamps, excluded), impulses)
        if self._coupling is not None:
            flagged = result.frame_sample[result.frame_flags != 0]
            self._coupling.take(first, shift, stamps, samples_uv, flagged)
        if len(result.frame_sample):
            times = stamps[result.frame_sample - first]
            outputs.append(Features(result.frame_sample + shift, times, result.frames, result.frame_flags))
            with_current = bool(excluded) and excluded[-1][1] is None
            outputs.extend(self._judge_channels(chunk.t_ns, result.channel_flags, with_current=with_current))
        judged += self._judged(result, first, stamps) if len(result.event_id) else []
        return Seen(outputs, judged, framed.fresh, broken)

    def finished_epochs(self) -> list[Epoch]:
        """Epochs of coupling that have become complete since the last call."""
        return self._coupling.finished() if self._coupling is not None else []

    def state(self) -> bytes:
        """The kernel's state, for tests of what may change it."""
        return self._estimator.kernel.get_state() if self._estimator is not None else b""

    # ---- parts of take_chunk

    def _judge_units(self, t_ns: int, samples_uv: npt.NDArray[np.float64]) -> list[Output]:
        assert self._units is not None
        assert self._estimator is not None
        sentence = self._units.take(samples_uv, self._estimator.used)
        if sentence is None:
            return []
        self._implausible = sentence
        return [_incident(t_ns, "unit_implausible", sentence, "no outcome of this session is evidence")]

    def _judge_channels(self, t_ns: int, flags: npt.NDArray[np.uint8], *, with_current: bool) -> list[Output]:
        assert self._channels is not None
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

    def _reset(self) -> None:
        """Forget what must not reach over a break; outcomes that it cuts short are judged invalid with the next chunk."""
        assert self._estimator is not None
        lost = self._estimator.kernel.reset_segment()
        if self._coupling is not None:
            self._coupling.reset()
        if self._recent:
            self._cut_short += self._judged(lost, self._recent[-1].first, self._recent[-1].stamps)
        self._recent.clear()

    def _remember(self, first: int, shift: int, stamps: Int64s) -> None:
        self._recent.append(_Stretch(first, shift, stamps))
        oldest = int(stamps[-1]) - _REMEMBERED_NS
        while len(self._recent) > 1 and int(self._recent[0].stamps[-1]) < oldest:
            self._recent.popleft()

    def _impulses(self, first: int, stamps: Int64s) -> npt.NDArray[np.int64]:
        rows: list[tuple[int, int, int]] = []
        last_ns = int(stamps[-1])
        self._imply_omissions(last_ns)
        now = sorted((one for one in self._waiting if one.acts_ns <= last_ns), key=_acts_ns)
        self._waiting = [one for one in self._waiting if one.acts_ns > last_ns]
        for acts_ns, stamp_ns, meaning in now:
            if meaning.kind == "cue":
                self._cues.append((stamp_ns, meaning.cue))
            elif len(self._known) >= _MOST_EVENTS_OPEN:
                self._flooded += 1
                continue
            elif meaning.kind == "offset":
                rows.append((self._sample_of(stamp_ns) - first, markers.NO_CHANNEL, self._next_offset))
                self._known[self._next_offset] = _Known(meaning, "", stamp_ns)
                self._next_offset += 1
                continue
            else:
                rows.append((self._sample_of(stamp_ns) - first, markers.NO_CHANNEL, self._next_event))
                self._known[self._next_event] = _Known(meaning, self._cue_before(stamp_ns), stamp_ns)
                self._next_event += 1
            rows.append((self._sample_of(acts_ns) - first, meaning.channel, -1))
        while self._next_pseudo < first + len(stamps):
            rows.append((self._next_pseudo - first, markers.NO_CHANNEL, _PSEUDO_BASE + self._next_pseudo))
            self._next_pseudo += self._pseudo_every
        rows.sort()
        return np.array(rows, dtype=np.int64).reshape(-1, 3)

    def _imply_omissions(self, now_ns: int) -> None:
        """An outcome that was due and did not come within 50 ms is an omission.

        Its time is that at which it was due. The forward model hears of it 100 ms later, when it is known, so that this does
        not depend on where a chunk ends (I14).
        """
        while self._due and now_ns - self._due[0] >= 2 * OUT_DUE_WINDOW_NS:
            due_ns = self._due.popleft()
            self._waiting.append(_Waiting(due_ns + 2 * OUT_DUE_WINDOW_NS, due_ns, markers.meaning("STIM/OMIT")))

    def _cue_before(self, stamp_ns: int) -> str:
        """The cue that an outcome at `stamp_ns` belongs to; an omission is known only when the next cue may have come."""
        return next((cue for cue_ns, cue in reversed(self._cues) if cue_ns <= stamp_ns), "")

    def _sample_of(self, stamp_ns: int) -> int:
        """First sample at or after a time, in the kernel's count; the oldest remembered one for anything earlier."""
        for first, _, stamps in reversed(self._recent):
            if stamp_ns > int(stamps[0]):
                return first + int(np.searchsorted(stamps, stamp_ns, side="left"))
        return self._recent[0].first

    def _absolute(self, sample: int) -> int:
        """Number of a sample in the record, from the kernel's count."""
        for first, shift, _ in reversed(self._recent):
            if sample >= first:
                return sample + shift
        return sample + self._recent[0].shift

    def _judged(self, result: KernelOutput, first: int, stamps: Int64s) -> list[Judged]:
        judged = []
        for i, event in enumerate(result.event_id.tolist()):
            values = result.event_features[i].tolist()
            raw = tuple(None if math.isnan(value) else value for value in values)
            valid = bool(result.event_valid[i]) and None not in raw
            sample, decided = int(result.event_sample[i]), int(result.event_tick_sample[i])
            decided_t_ns = int(stamps[min(max(decided - first, 0), len(stamps) - 1)])
            known = self._known.pop(event, None)
            common: dict[str, Any] = {
                "sample": self._absolute(sample),
                "decided_sample": self._absolute(decided),
                "decided_t_ns": decided_t_ns,
                "features": tuple(values) if valid else None,
                "raw": raw,
                "invalid": float(result.event_invalid[i]),
            }
            if known is None:
                t_ns = decided_t_ns - round((decided - sample) * NS_PER_S / self._sfreq_hz)
                judged.append(Judged(event=event, meaning=None, cue="", t_ns=t_ns, **common))
            else:
                number = event - _OFFSET_BASE if known.meaning.kind == "offset" else event
                judged.append(Judged(event=number, meaning=known.meaning, cue=known.cue, t_ns=known.t_ns, **common))
        return judged


def _take_near(stamps: deque[int], stamp_ns: int) -> bool:
    """Take out the first of `stamps` that lies within the window of OUT_DUE around `stamp_ns`; whether there was one."""
    for other_ns in stamps:
        if abs(other_ns - stamp_ns) <= OUT_DUE_WINDOW_NS:
            stamps.remove(other_ns)
            return True
    return False


def _acts_ns(waiting: _Waiting) -> int:
    return waiting.acts_ns


def _incident(t_ns: int, name: str, detail: str, answer: str) -> Incident:
    return Incident(t_ns=t_ns, name=name, detail=detail, answer=answer)
