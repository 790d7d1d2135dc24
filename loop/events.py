"""The frozen values that flow: inputs of the engine's fold, its outputs, and what a source yields."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from devices import link

Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """Identity of a stream's channels: what must not change while armed (I15).

    `to_uv` turns a channel's own unit into microvolts. `positions_m` holds head coordinates (x right, y front, z up) or
    is empty where the stream tells none.
    """

    labels: tuple[str, ...]
    units: tuple[str, ...]
    to_uv: tuple[float, ...]
    sfreq_hz: float
    positions_m: tuple[tuple[float, float, float], ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 over labels, order, units and rate, as hexadecimal digits."""
        identity = (self.labels, self.units, self.to_uv, self.sfreq_hz)
        return hashlib.sha256(msgspec.json.encode(identity)).hexdigest()


class SourceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Where samples come from, and how they can be had again.

    `kind` is ``lsl``, ``recording``, ``realtime`` or ``patient``. `path` and `sha256` name a recording (its data file or
    files, hashed in order), `identity` an LSL stream (name, type, source id, host) or a patient (its settings as JSON).
    `simulated` input never drives real hardware (I30); a source that carries no time stamps never does either.
    """

    kind: Literal["lsl", "recording", "realtime", "patient"]
    identity: str
    path: str = ""
    sha256: str = ""
    simulated: bool
    carries_time: bool = True
    dtype: str


class Block(NamedTuple):
    """Consecutive samples of a source that can be played again.

    `samples` is (n_times, n_channels) in the stream's own units and type, `stamps_ns` (n_times,), `first` the index of the
    first sample, `markers` the (stamp_ns, text) that lie in or before this block and were not handed out yet.
    """

    first: int
    stamps_ns: Int64s
    samples: npt.NDArray[Any]
    markers: Sequence[tuple[int, str]]


class Playback(Protocol):
    """A source whose samples can be had again: a recording or a simulated patient."""

    layout: Layout
    info: SourceInfo
    n_samples: int | None

    def read(self, n: int, current_ua: float) -> Block | None:
        """The next at most `n` samples, given the current at the head during them (ignored by a recording); None at the end."""
        ...


# ---- inputs


@dataclass(frozen=True, slots=True)
class Chunk:
    """Samples as they arrived at `t_ns`; stamps on the engine's clock.

    `first` counts samples since the session began. `current_ua` is set by the simulator only: the true current at the
    simulated head while these samples arose, from which the block can be made again.
    """

    t_ns: int
    segment: int
    first: int
    stamps_ns: Int64s
    samples: npt.NDArray[Any]
    current_ua: float = 0.0


class _Input(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Base of all small inputs; `t_ns` is when it reached the engine."""

    t_ns: int


class SegmentStart(_Input, frozen=True, tag="segment"):
    """A handshake: samples that follow have this layout; `clock_offset_ns` was added to the stream's own stamps."""

    segment: int
    layout: Layout
    source: SourceInfo
    clock_offset_ns: int


class Calibrated(_Input, frozen=True, tag="calibration"):
    """The calibration that the estimator shall use, whole, as `loop.calibration.file.encode` writes it; before any segment."""

    text: str


class TraceGate(msgspec.Struct, frozen=True, kw_only=True):
    """One gate of another session: seconds after it began to sense, and how long to hold so as to deliver its charge."""

    at_s: float
    hold_s: float


class Allotted(_Input, frozen=True, tag="allotted"):
    """The arm that this session works in, before any segment; `code` is what the participant's allocation is called.

    `trace` holds the gates of the session that a yoked one repeats.
    """

    arm: Literal["closed_loop", "open_loop", "sham", "yoked"]
    code: str = ""
    trace: tuple[TraceGate, ...] = ()


class Marker(_Input, frozen=True, tag="marker"):
    """A marker as it came, before any renaming; `stamp_ns` on the engine's clock."""

    stamp_ns: int
    text: str


class ClockOffset(_Input, frozen=True, tag="clock_offset"):
    """A later measurement of the stream's clock offset; recorded, and judged for jumps."""

    offset_ns: int


class Tick(_Input, frozen=True, tag="tick"):
    """The passing of time, every 20 ms; renews leases and ages the stream."""


class Device(_Input, frozen=True, tag="device"):
    """A message from the guard."""

    message: link.Welcome | link.Refused | link.Report


class Operator(_Input, frozen=True, tag="operator"):
    """What the operator did: `stop` ramps down and ends, `cut` is the emergency stop; `detail` is a code, a note, a name."""

    action: Literal["arm", "pause", "resume", "reset", "stop", "cut", "note"]
    detail: str = ""


class SourceLost(_Input, frozen=True, tag="source_lost"):
    """The stream ended or broke; a new segment may follow."""

    reason: str


class SourceEnded(_Input, frozen=True, tag="source_ended"):
    """A recording or a simulation has no more samples."""


class RecorderLost(_Input, frozen=True, tag="recorder_lost"):
    """The record can no longer be written (I22)."""

    reason: str


class GuardLost(_Input, frozen=True, tag="guard_lost"):
    """The link to the guard is gone; the device ends the current by itself."""

    reason: str


SmallInput = (
    Calibrated
    | Allotted
    | SegmentStart
    | Marker
    | ClockOffset
    | Tick
    | Device
    | Operator
    | SourceLost
    | SourceEnded
    | RecorderLost
    | GuardLost
)
Input = Chunk | SmallInput


# ---- outputs


@dataclass(frozen=True, slots=True)
class Features:
    """Feature frames of the kernel at 50 Hz.

    `sample` (n,) is the absolute sample of each frame, `t_ns` (n,) its time, `values` (n, n_columns) float64 in the columns
    that the session's `columns` record names, `flags` (n,) uint32 (0 = valid).
    """

    sample: Int64s
    t_ns: Int64s
    values: Float64s
    flags: npt.NDArray[np.uint32]


class _Output(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Base of all small outputs; `t_ns` is the time it speaks of."""

    t_ns: int


class Setup(_Output, frozen=True, tag="setup"):
    """How the estimator was set up for a segment: in words for people, and the names of the feature columns."""

    estimator: str
    columns: tuple[str, ...]
    learned: tuple[str, ...]
    notes: tuple[str, ...]


class Outcome(_Output, frozen=True, tag="outcome"):
    """Event features of one outcome (K8) and what became of them; `t_ns` is the outcome's own time.

    `index` is the prediction-error index of this outcome: with a calibration in standard deviations of the readout's residual
    noise, zero where no surprise would put it; without one, in standard deviations of pseudo-events. `expected` is what a
    normative learner would show, `excess` index minus that, `evidence` the CUSUM after it. All but `evidence` are
    None where the outcome is not evidence, and `reason` says why.

    `cue`, `intensity` (0 to 1) and `told` (the expectation that the cue stated) are what the markers say. `surprise` is the
    normative learner's absolute error, `d_rescorla_wagner`, `d_kalman` and `d_ehgf` those of the belief models, which steer
    nothing (K10). `fused` and `fused_sd` are the posterior of the error from `surprise` and the calibrated readout (K11); None
    where there is no readout.
    """

    event: int
    text: str
    sample: int
    decided_sample: int
    features: tuple[float | None, ...]
    invalid: float
    index: float | None
    surprise: float
    expected: float | None
    excess: float | None
    evidence: float
    reason: str
    cue: str = ""
    intensity: float | None = None
    told: float | None = None
    d_rescorla_wagner: float | None = None
    d_kalman: float | None = None
    d_ehgf: float | None = None
    kalman_nis: float | None = None
    fused: float | None = None
    fused_sd: float | None = None


class StimulusEnd(_Output, frozen=True, tag="stimulus_end"):
    """Event features at the end of a stimulus (``STIM_OFF``): never evidence, kept to compare with those at its onset.

    `index` has the unit of an outcome's; None where the windows were not valid, and `reason` says so, or why it does not count.
    """

    event: int
    text: str
    sample: int
    decided_sample: int
    features: tuple[float | None, ...]
    invalid: float
    index: float | None
    reason: str


class CouplingEpoch(_Output, frozen=True, tag="coupling"):
    """Imaginary coherency over one epoch of SENSE that begins at `sample`, in the order of `loop.coupling.PAIRS`."""

    sample: int
    imaginary: tuple[float, ...]


class Decision(_Output, frozen=True, tag="decision"):
    """What the policy wants, and why; `outcomes` are the events it rests on."""

    decision: int
    wanted: Literal["open", "closed"]
    reason: str
    evidence: float
    outcomes: tuple[int, ...]


class GateChange(_Output, frozen=True, tag="gate"):
    """The gate went from one state to another."""

    before: str
    after: str
    reason: str
    decision: int


class Incident(_Output, frozen=True, tag="incident"):
    """Something about stream, channels, device or session that the reader must know; `answer` is what was done."""

    name: str
    detail: str
    answer: str


ForGuard = link.Arm | link.Reserve | link.Command | link.ReservePulses | link.Pulses | link.Stop | link.Reset | link.Goodbye


class ToGuard(_Output, frozen=True, tag="to_guard"):
    """A message for the guard; `decision` is its cause."""

    message: ForGuard
    decision: int


class MarkerOut(_Output, frozen=True, tag="marker_out"):
    """A marker for the outside, in the vocabulary of the paradigm, such as ``TDCS/RAMP_UP/1.0``."""

    text: str


class Finished(_Output, frozen=True, tag="finished"):
    """The session has ended, current is zero; nothing follows."""

    reason: str


SmallOutput = Setup | Outcome | StimulusEnd | CouplingEpoch | Decision | GateChange | Incident | ToGuard | MarkerOut | Finished
Output = Features | SmallOutput
