"""A Lab Streaming Layer stream as source: handshake, blocking pull, markers, clocks.

An inlet is made with ``recover=False``: liblsl's own recovery resumes silently with whatever carries the same
source id, even if its channels were swapped. Here a lost stream is an error, and `LslSource.reopen` shakes
hands anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from devices import liblsl
from devices.clock import Clock, SystemClock
from loop.events import Layout, SourceInfo
from loop.sources.description import Description, from_xml, layout_of
from loop.sources.errors import SourceError, SourceLostError
from loop.sources.lsl_markers import OWN_EVENTS, OWN_FEATURES, MarkerInlet

Int64s = npt.NDArray[np.int64]
Samples = npt.NDArray[Any]

_NUMERIC: Final = ("float32", "float64", "int32", "int16", "int8", "int64")

# How long to look for a second stream once one was found: outlets of this machine answer within some
# milliseconds, of a wired network within some tens.
_SECOND_LOOK_S: Final = 0.6
_BUFFER_S: Final = 30
_LONGEST_PULL_S: Final = 1.0
_HANDSHAKE_S: Final = 5.0
_BRACKETS: Final = 16
_BURST_S: Final = 0.0005


def clock_difference_ns(pylsl: Any, clock: Clock) -> int:
    """What to add to LSL's local clock to get the engine's clock.

    LSL counts CLOCK_MONOTONIC, which stands still in suspend; the engine's clock does not. So the difference
    changes when the machine has slept.

    Parameters
    ----------
    pylsl : module
        Provides ``local_clock``, in seconds.
    clock : Clock
        The engine's clock.

    Returns
    -------
    int
        Nanoseconds; the reading with the tightest bracket of several, good to about a microsecond.
    """
    best_width, best = None, 0
    for _ in range(_BRACKETS):
        before = clock.now_ns()
        lsl_s = pylsl.local_clock()
        after = clock.now_ns()
        if best_width is None or after - before < best_width:
            best_width, best = after - before, (before + after) // 2 - round(lsl_s * 1e9)
    return best


def predicate(name: str, type_: str, source_id: str) -> str:
    """The XPath condition that a stream must meet; empty fields are not asked for.

    Raises
    ------
    SourceError
        If a field holds both kinds of quotation marks, which XPath cannot express, or none is given.
    """
    terms = []
    for key, value in (("name", name), ("type", type_), ("source_id", source_id)):
        if value:
            # The type is one word in whatever letters: other software says "eeg".
            spellings = sorted({value, value.upper(), value.lower()}) if key == "type" else [value]
            either = " or ".join(f"{key}={_quoted(spelling)}" for spelling in spellings)
            terms.append(f"({either})" if len(spellings) > 1 else either)
    if not terms:
        raise SourceError("No stream was asked for: give a name, a type or a source id.")
    return " and ".join(terms)


def _quoted(value: str) -> str:
    mark = "'" if "'" not in value else '"'
    if mark in value or not value.isprintable():
        raise SourceError(f"{value!r} cannot be looked for: it mixes quotation marks or holds control characters.")
    return f"{mark}{value}{mark}"


def _called(info: Any) -> str:
    """A stream in words, with all that tells it from another."""
    rate = info.nominal_srate()
    return (
        f"{info.name()!r} (type {info.type() or 'none'}, {info.channel_count()} channels,"
        f" {f'{rate:g} Hz' if rate else 'irregular'}, source id {info.source_id() or 'none'!r},"
        f" on {info.hostname()})"
    )


def what_there_is(found: Sequence[Any]) -> str:
    """The streams that somebody could have meant; what a session of ours publishes is none of them."""
    others = [_called(info) for info in found if info.name() not in (OWN_EVENTS, OWN_FEATURES)]
    if others:
        return f"there are: {'; '.join(others)}."
    if found:
        return "there is none but what a running session of cereloop publishes; is the amplifier's program running?"
    return "there is no LSL stream at all; is the amplifier's program running?"


class LslSource:
    """An EEG stream of the Lab Streaming Layer, and the marker stream beside it.

    Parameters
    ----------
    name, type, source_id : str
        What the stream must be called; empty fields are not asked for.
    marker_name, marker_type : str
        The marker stream, likewise; both empty for none. It may appear, vanish and come back at any time.
    picks : sequence of str
        Labels to take; all scalp EEG channels if empty.
    timeout_s : float
        How long to look for the stream.
    reach : {"network", "machine"}
        How far to look. The first use of liblsl in a process decides.
    clock : Clock, optional
        The engine's clock; the system's unless given.

    Attributes
    ----------
    layout : Layout
        Of the last handshake.
    info : SourceInfo
        Of the last handshake.
    notes : tuple of str
        What was left out, and what the reader should know.
    """

    layout: Layout
    info: SourceInfo

    def __init__(
        self,
        *,
        name: str = "",
        type: str = "EEG",  # noqa: A002  # LSL's own word
        source_id: str = "",
        marker_name: str = "cereloop-markers",
        marker_type: str = "Markers",
        picks: tuple[str, ...] = (),
        timeout_s: float = 10.0,
        reach: liblsl.Reach = "network",
        clock: Clock | None = None,
    ) -> None:
        self._wanted = predicate(name, type, source_id)
        self._marker_wanted = predicate(marker_name, marker_type, "") if marker_name or marker_type else ""
        if self._marker_wanted and not marker_name:
            self._marker_wanted += f" and name!='{OWN_EVENTS}'"
        self._picks = picks
        self._timeout_s = timeout_s
        self._clock: Clock = clock or SystemClock()
        self._pylsl: Any = liblsl.load(reach)
        self._inlet: Any = None
        self._markers: MarkerInlet | None = None
        self._offset_ns = 0
        self._columns: list[int] | None = None
        self._buffer: Samples = np.empty((0, 0))
        self._pull_rows = 0
        self._burst = 1
        self.notes: tuple[str, ...] = ()

    def open(self) -> Layout:
        """Find the stream and shake hands: labels, units, positions, rate, type and clock.

        Returns
        -------
        Layout
            Of the EEG channels; `info`, `notes` and `layout` describe them from now on.

        Raises
        ------
        SourceError
            If there is no such stream (the message says what there is), if there are several, or if the
            stream does not describe itself well enough.
        """
        self._drop_inlet()
        if self._marker_wanted and self._markers is None:
            self._markers = MarkerInlet(self._pylsl, self._marker_wanted)
        found = self._resolve()
        if self._markers is not None:
            # Before the first sample is asked for, so that no marker beside it is missed.
            self._markers.find(_SECOND_LOOK_S)
        described, full = self._subscribe(found)
        where = f"LSL stream {full.name()!r}"
        dtype = np.dtype(self._inlet.np_dtype).name if self._inlet.np_dtype is not None else "text"
        if dtype not in _NUMERIC:
            self._drop_inlet()
            raise SourceError(f"{where} carries {dtype}, not numbers.")
        try:
            layout, chosen, self.notes = layout_of(described, full.channel_count(), full.nominal_srate(), where, self._picks)
        except SourceError:
            self._drop_inlet()
            raise
        n_channels = full.channel_count()
        self._columns = None if chosen == list(range(n_channels)) else chosen
        self._pull_rows = max(64, round(_LONGEST_PULL_S * layout.sfreq_hz))
        self._buffer = np.empty((self._pull_rows, n_channels), dtype=dtype)
        self._burst = 1
        self._name = full.name()
        identity = {
            "name": self._name,
            "type": full.type(),
            "source_id": full.source_id(),
            "host": full.hostname(),
        }
        self.info = SourceInfo(
            kind="lsl",
            identity=msgspec.json.encode(identity).decode(),
            simulated=described.simulated,
            dtype=dtype,
        )
        self.layout = layout
        self.clock_offset_ns()
        if self._markers is not None:
            self._markers.settle(_HANDSHAKE_S)
        return layout

    def reopen(self) -> Layout:
        """Shake hands again after a loss; what comes back may be another amplifier.

        Returns
        -------
        Layout
            The new layout. It is for the caller to compare it with the armed one (I15).

        Raises
        ------
        SourceError
            As `open`.
        """
        return self.open()

    def _resolve(self) -> Any:
        """The one stream that is asked for; refuses a second that could be meant or has the same source id."""
        pylsl = self._pylsl
        found = pylsl.resolve_bypred(self._wanted, 1, self._timeout_s)
        if not found:
            raise SourceError(
                f"No LSL stream with {self._wanted} was found within {self._timeout_s:g} s; "
                f"{what_there_is(pylsl.resolve_streams(0.5))}"
            )
        rivals, first = self._wanted, found[0]
        if first.source_id():
            rivals = f"({self._wanted}) or ({predicate('', first.type(), first.source_id())})"
        known = {info.uid(): info for info in found}
        for info in pylsl.resolve_bypred(rivals, 2, _SECOND_LOOK_S):
            known.setdefault(info.uid(), info)
        if len(known) > 1:
            listed = "; ".join(_called(info) for info in known.values())
            if len({info.source_id() for info in known.values()}) == 1 and first.source_id():
                raise SourceError(
                    f"LSL outlets with the same source id cannot be told from one another; stop all but one of these: {listed}."
                )
            raise SourceError(f"{len(known)} LSL streams fit {self._wanted}; say more exactly which: {listed}.")
        return found[0]

    def _subscribe(self, found: Any) -> tuple[Description, Any]:
        try:
            self._inlet = self._pylsl.StreamInlet(found, max_buflen=_BUFFER_S, recover=False)
            full = self._inlet.info(_HANDSHAKE_S)
            described = from_xml(full.as_xml())
            self._inlet.open_stream(_HANDSHAKE_S)
        except (RuntimeError, SourceError) as error:
            self._drop_inlet()
            if isinstance(error, SourceError):
                raise
            raise SourceError(
                f"LSL stream {_called(found)} was found but did not answer ({error}); is a firewall between the two machines?"
            ) from error
        return described, full

    def pull(self, timeout_s: float) -> tuple[Int64s, Samples] | None:
        """Wait for the first sample, then take what else is there.

        Parameters
        ----------
        timeout_s : float
            Longest wait for the first sample, in seconds; costs no CPU.

        Returns
        -------
        tuple or None
            Stamps (n,) in ns on the engine's clock and samples (n, n_channels) in the stream's own type and
            unit, or None if nothing came. Stamps are the sender's, moved by the clock offset and nothing
            else: smoothing needs a memory over gaps and segments, and framing, which has it, must see the
            jitter to judge it.

        Raises
        ------
        SourceLostError
            If the stream has ended or broken.
        """
        if self._inlet is None:
            raise SourceLostError("The LSL stream is not open.")
        try:
            view, stamps_s = self._inlet.pull_chunk(
                timeout_s, self._pull_rows, self._buffer, min_samples=1, as_numpy=True
            )
            if 0 < len(stamps_s) < self._burst:
                view, stamps_s = self._rest_of_burst(stamps_s)
        except RuntimeError as error:
            self._drop_inlet()
            raise SourceLostError(f"The LSL stream `{self._name}` is lost: {str(error).rstrip('.')}") from error
        self._burst = len(stamps_s) or self._burst
        if len(stamps_s) == 0:
            return None
        samples = view.copy() if self._columns is None else view[:, self._columns]
        return np.rint(stamps_s * 1e9).astype(np.int64) + self._offset_ns, samples

    def _rest_of_burst(self, stamps_s: npt.NDArray[np.float64]) -> tuple[Samples, npt.NDArray[np.float64]]:
        """What belongs to the chunk whose first samples woke us; liblsl hands them on one by one, within microseconds.

        Without this a chunk would now and then be worked on in two halves, the second one a whole tick late.
        """
        n = len(stamps_s)
        _, more_s = self._inlet.pull_chunk(
            _BURST_S, self._pull_rows - n, self._buffer[n:], min_samples=self._burst - n, as_numpy=True
        )
        return self._buffer[: n + len(more_s)], np.concatenate((stamps_s, more_s))

    def pull_markers(self) -> list[tuple[int, str]]:
        """Markers that have arrived; never waits.

        Returns
        -------
        list of (int, str)
            Stamp in ns on the engine's clock, by the marker stream's own clock offset, and text as it came.
            Empty while there is no marker stream.
        """
        if self._markers is None:
            return []
        arrived = self._markers.pull()
        if not arrived:
            return []
        base_ns = clock_difference_ns(self._pylsl, self._clock)
        return [(round(stamp_s * 1e9) + base_ns, text) for stamp_s, text in arrived]

    def clock_offset_ns(self) -> int:
        """Measure what is added to the stream's own stamps; samples pulled from now on use it.

        liblsl keeps its estimate of the sender's clock up to date in the background, so after the first call
        in `open` this returns at once.

        Returns
        -------
        int
            Nanoseconds from the sender's LSL clock to the engine's clock.

        Raises
        ------
        SourceError
            If the sender's clock cannot be measured.
        SourceLostError
            If the stream has ended or broken.
        """
        if self._inlet is None:
            raise SourceLostError("The LSL stream is not open.")
        try:
            correction_s = self._inlet.time_correction(_HANDSHAKE_S)
        except self._pylsl.util.TimeoutError as error:
            raise SourceError(f"The clock of LSL stream `{self._name}` could not be measured.") from error
        except RuntimeError as error:
            self._drop_inlet()
            raise SourceLostError(f"The LSL stream `{self._name}` is lost: {str(error).rstrip('.')}") from error
        if not math.isfinite(correction_s):
            raise SourceError(f"The clock offset of LSL stream `{self._name}` is {correction_s}.")
        self._offset_ns = round(correction_s * 1e9) + clock_difference_ns(self._pylsl, self._clock)
        return self._offset_ns

    def close(self) -> None:
        """Let go of both streams; more than once does no harm."""
        self._drop_inlet()
        if self._markers is not None:
            self._markers.close()
            self._markers = None

    def _drop_inlet(self) -> None:
        # The destructor closes the connection.
        self._inlet = None
