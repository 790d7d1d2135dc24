"""A mock EEG amplifier: any blocks of samples as an LSL stream at their true rate, with a marker stream."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from devices import liblsl

if TYPE_CHECKING:
    from devices.mock.patient import Patient

Int64s = npt.NDArray[np.int64]
Samples = npt.NDArray[Any]

MARKER_STREAM: Final = "cereloop-markers"
_FORMATS: Final = {
    "float32": "float32",
    "float64": "double64",
    "int64": "int64",
    "int32": "int32",
    "int16": "int16",
}
_LINGER_S: Final = 0.5
_LOOK_S: Final = 0.2


class Block(Protocol):
    """Consecutive samples (n, n_channels); their stamps (n,) count from the first sample of all."""

    @property
    def stamps_ns(self) -> Int64s:
        """Time of each sample in ns."""
        ...

    @property
    def samples(self) -> Samples:
        """Samples in the units announced."""
        ...

    @property
    def markers(self) -> Sequence[tuple[int, str]]:
        """(stamp in ns, text) of the markers in this block."""
        ...


class Amplifier(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the stream says of itself.

    `units` are spelt as in the XDF meta-data (``microvolts``); `positions_m` are head coordinates in metres
    or empty. The description marks the stream as simulated, so that it never drives real hardware (I30).
    """

    labels: tuple[str, ...]
    units: tuple[str, ...]
    sfreq_hz: float
    dtype: str = "float32"
    positions_m: tuple[tuple[float, float, float], ...] = ()
    name: str = "cereloop-mock"
    source_id: str = "cereloop-mock-amplifier"
    marker_name: str = MARKER_STREAM


class _Part:
    """One block of a patient, in the form that `stream` takes."""

    __slots__ = ("markers", "samples", "stamps_ns")

    def __init__(self, stamps_ns: Int64s, samples: Samples, markers: Sequence[tuple[int, str]]) -> None:
        self.stamps_ns = stamps_ns
        self.samples = samples
        self.markers = markers


def patient_blocks(patient: Patient, current_ua: Callable[[], float], chunk_s: float = 0.02) -> Iterator[Block]:
    """Blocks of a simulated patient, each made when it is asked for, under the current that flows then.

    Parameters
    ----------
    patient : Patient
        The head.
    current_ua : callable
        Present current at the head in microamperes, such as a mock stimulator's.
    chunk_s : float
        Length of a block in seconds.

    Yields
    ------
    Block
        Until the patient's session ends.
    """
    sfreq_hz = patient.settings.sfreq_hz
    n = max(1, round(chunk_s * sfreq_hz))
    first = 0
    while True:
        samples, markers = patient.advance(n, current_ua())
        if len(samples) == 0:
            return
        stamps = np.rint(np.arange(first, first + len(samples)) * 1e9 / sfreq_hz).astype(np.int64)
        yield _Part(stamps, samples, [(round(at * 1e9 / sfreq_hz), text) for at, text in markers])
        first += len(samples)


def again_and_again(open_blocks: Callable[[], Iterable[Block]]) -> Iterator[Block]:
    """Blocks of a recording that starts anew whenever it ends."""
    while True:
        yield from open_blocks()


def _outlets(pylsl: Any, amplifier: Amplifier) -> tuple[Any, Any]:
    if amplifier.dtype not in _FORMATS:
        raise ValueError(f"LSL cannot carry {amplifier.dtype}; it can: {', '.join(_FORMATS)}")
    n = len(amplifier.labels)
    if len(amplifier.units) != n or len(amplifier.positions_m) not in (0, n):
        raise ValueError(f"{n} labels need {n} units, and {n} positions or none")
    info = pylsl.StreamInfo(amplifier.name, "EEG", n, amplifier.sfreq_hz, _FORMATS[amplifier.dtype], amplifier.source_id)
    desc = info.desc()
    desc.append_child_value("manufacturer", "cereloop")
    desc.append_child("cereloop").append_child_value("simulated", "true")
    channels = desc.append_child("channels")
    for i, label in enumerate(amplifier.labels):
        channel = channels.append_child("channel")
        channel.append_child_value("label", label)
        channel.append_child_value("unit", amplifier.units[i])
        channel.append_child_value("type", "EEG")
        if amplifier.positions_m:
            place = channel.append_child("location")
            for axis, metres in zip("XYZ", amplifier.positions_m[i], strict=True):
                place.append_child_value(axis, f"{metres * 1e3:.4f}")
    marker_info = pylsl.StreamInfo(
        amplifier.marker_name, "Markers", 1, pylsl.IRREGULAR_RATE, "string", f"{amplifier.source_id}-markers"
    )
    marker_info.desc().append_child_value("manufacturer", "cereloop")
    marker_info.desc().append_child("cereloop").append_child_value("simulated", "true")
    return pylsl.StreamOutlet(info, max_buffered=60), pylsl.StreamOutlet(marker_info)


@contextmanager
def _ends_on_signals(stop: threading.Event) -> Iterator[None]:
    """SIGINT and SIGTERM set `stop`; only a main thread can be told of signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda *_: stop.set())
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stream(
    blocks: Iterable[Block],
    amplifier: Amplifier,
    *,
    chunk_s: float = 0.02,
    wait_for_consumers_s: float | None = None,
    stop: threading.Event | None = None,
    on_progress: Callable[[float], None] | None = None,
    reach: liblsl.Reach = "machine",
) -> int:
    """Send blocks as an LSL stream in real time, until they end or `stop` is set.

    A sample is sent when it is due: chunk by chunk, each after its last sample's time has come, with the time
    of every sample stated. After a delay what is due is sent at once, as an amplifier's driver would. Gaps in
    the stamps stay gaps. Stamps that start anew, as in a recording played again, go on one period after the
    last.

    Parameters
    ----------
    blocks : iterable of Block
        Asked for one at a time, when due; may be endless.
    amplifier : Amplifier
        What the stream says of itself.
    chunk_s : float
        Longest chunk in seconds.
    wait_for_consumers_s : float, optional
        Wait so long for somebody to listen before the first sample; None starts at once.
    stop : threading.Event, optional
        Ends the stream when set. SIGINT and SIGTERM do the same where this runs in the main thread.
    on_progress : callable, optional
        Told about once a second how many seconds have been sent.
    reach : {"network", "machine"}
        How far the stream is announced. The first use of liblsl in a process decides.

    Returns
    -------
    int
        Number of samples sent.

    Raises
    ------
    ValueError
        If blocks and `amplifier` do not fit.
    """
    pylsl = liblsl.load(reach)
    stop = stop or threading.Event()
    with _ends_on_signals(stop):
        outlet, marker_outlet = _outlets(pylsl, amplifier)
        if wait_for_consumers_s is not None:
            give_up_s = pylsl.local_clock() + wait_for_consumers_s
            # In short looks, because a signal is only seen between two of them.
            while not stop.is_set() and pylsl.local_clock() < give_up_s and not outlet.wait_for_consumers(_LOOK_S):
                pass
        sent = _send(pylsl, outlet, marker_outlet, blocks, amplifier, chunk_s, stop, on_progress)
        # What was pushed last is still on its way in liblsl's own thread.
        stop.wait(_LINGER_S)
    return sent


def _send(
    pylsl: Any,
    outlet: Any,
    marker_outlet: Any,
    blocks: Iterable[Block],
    amplifier: Amplifier,
    chunk_s: float,
    stop: threading.Event,
    on_progress: Callable[[float], None] | None,
) -> int:
    period_ns = round(1e9 / amplifier.sfreq_hz)
    step = max(1, round(chunk_s * amplifier.sfreq_hz))
    zero_s = pylsl.local_clock()
    lap_ns, last_ns, sent, told_s = 0, -period_ns, 0, 0.0
    for block in blocks:
        samples = np.asarray(block.samples, dtype=amplifier.dtype)
        if samples.ndim != 2 or samples.shape[1] != len(amplifier.labels):
            raise ValueError(f"a block of shape {samples.shape} does not fit {len(amplifier.labels)} channels")
        if int(block.stamps_ns[0]) + lap_ns <= last_ns:
            lap_ns = last_ns + period_ns - int(block.stamps_ns[0])
        stamps_s = zero_s + (block.stamps_ns + lap_ns) * 1e-9
        markers = [(zero_s + (at + lap_ns) * 1e-9, text) for at, text in block.markers]
        for a in range(0, len(samples), step):
            due = stamps_s[a : a + step]
            if stop.wait(max(0.0, due[-1] - pylsl.local_clock())):
                return sent
            outlet.push_chunk(samples[a : a + step], timestamp=due.tolist())
            sent += len(due)
            while markers and markers[0][0] <= due[-1]:
                at_s, text = markers.pop(0)
                marker_outlet.push_sample([text], timestamp=at_s)
        for at_s, text in markers:
            marker_outlet.push_sample([text], timestamp=at_s)
        last_ns = int(block.stamps_ns[-1]) + lap_ns
        done_s = last_ns * 1e-9
        if on_progress is not None and done_s - told_s >= 1.0:
            told_s = done_s
            on_progress(done_s)
    return sent
