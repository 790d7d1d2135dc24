"""A session's samples as an `mne.io.RawArray`, with everything that happened as annotations."""

from __future__ import annotations

import datetime as dt
import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import mne
import numpy as np
import numpy.typing as npt

from devices.units import NS_PER_S
from loop import journal
from loop.events import Float64s, Layout, Playback
from loop.journal import ChunkBody, Samples
from loop.session_file import JournalError, LogRow

if TYPE_CHECKING:
    from loop.reader import Session

MAX_GAP_S = 3600
# Stamps may jitter by this much before samples count as missing.
_JITTER_NS = 50_000_000
_TYPES = {
    "eog": "eog",
    "veog": "eog",
    "heog": "eog",
    "ecg": "ecg",
    "ekg": "ecg",
    "emg": "emg",
    "trig": "stim",
}
_TYPES |= {
    "stim": "stim",
    "sti": "stim",
    "status": "stim",
    "resp": "resp",
    "gsr": "gsr",
    "misc": "misc",
    "aux": "misc",
}


class _Run(NamedTuple):
    """Samples `start` to `stop` of the chunk in row `seq` go to position `at` of the output."""

    seq: int
    start: int
    stop: int
    at: int


def samples_from(playback: Playback) -> Samples:
    """Make a provider of samples from a source played from its start, for `Session.steps` and `to_raw`.

    Samples must be asked for in order and without holes, as a session does.
    """
    position = 0

    def provide(first: int, n: int, current_ua: float) -> npt.NDArray[Any]:
        nonlocal position
        if first != position:
            raise JournalError(f"the source stands at sample {position}; sample {first} was asked for")
        parts: list[npt.NDArray[Any]] = []
        missing = n
        while missing > 0:
            block = playback.read(missing, current_ua)
            if block is None or len(block.samples) == 0:
                raise JournalError(f"the source ends before sample {first + n}: this is not the session's source")
            parts.append(block.samples)
            missing -= len(block.samples)
        position += n
        if not parts:
            return np.empty((0, len(playback.layout.labels)), playback.info.dtype)
        return np.concatenate(parts)

    return provide


def to_raw(session: Session, source: Samples | None = None, segment: int | None = None) -> mne.io.RawArray:
    """Export samples, channels and annotations.

    Samples lie on the session's own time axis: where they are missing (a gap, a new segment) the signal is
    zero and annotated ``BAD_gap``. Samples that came twice are left out. Annotations: markers under their own
    text, each phase of the gate as ``TDCS/<phase>`` with its duration, incidents as ``BAD_<name>``. Their
    places are found through the time stamps of the samples, so they are right even where the amplifier's rate
    is not exactly the nominal one.

    Parameters
    ----------
    session : Session
        The session.
    source : Samples, optional
        Makes samples again that are not stored; `samples_from` makes one from a recording or a patient.
    segment : int, optional
        Export this segment alone, for example where the channels or the rate changed.

    Returns
    -------
    mne.io.RawArray
        Data in volts, with channel types by their labels, and positions where the stream told them.

    Raises
    ------
    JournalError
        If there are no samples, their segments do not fit together, or more than an hour is missing between
        them.
    """
    layout = _layout(session, segment)
    runs, total, stamps, positions, gaps = _place(session, layout.sfreq_hz, segment)
    if not runs:
        raise JournalError(f"{session.path} holds no samples{'' if segment is None else f' of segment {segment}'}")
    raw = mne.io.RawArray(_fill(session, runs, total, layout, source), _info(layout), verbose="ERROR")
    raw.set_meas_date(_date(session, int(stamps[0])))
    raw.set_annotations(_annotations(session, raw.times[-1], layout.sfreq_hz, stamps, positions, gaps))
    return raw


def _layout(session: Session, segment: int | None) -> Layout:
    starts = [start for start in session.segments if segment is None or start.segment == segment]
    if not starts:
        raise JournalError(f"{session.path} holds no segment{'' if segment is None else f' {segment}'}")
    layout = starts[-1].layout
    if any(start.layout.digest != layout.digest for start in starts):
        raise JournalError(f"the segments of {session.path} have different channels: export each alone")
    n = len(layout.labels)
    if not n or len(layout.units) != n or len(layout.to_uv) != n or not 0 < layout.sfreq_hz <= 1e6:
        raise JournalError(f"the layout in {session.path} makes no sense: {n} channels at {layout.sfreq_hz} Hz")
    return layout


def _chunks(session: Session, segment: int | None) -> Iterator[tuple[LogRow, ChunkBody]]:
    for row in session.rows(kinds=("chunk",)):
        try:
            body = journal.chunk_body(row.row)
        except JournalError as error:
            raise JournalError(f"{session.path}, row {row.seq}: {error}") from error
        if body.n and (segment is None or body.segment == segment):
            yield row, body


def _place(
    session: Session, sfreq_hz: float, segment: int | None
) -> tuple[list[_Run], int, Float64s, Float64s, list[tuple[int, int]]]:
    """Where each sample goes: runs, length, time axis (stamps, positions), gaps (position, length)."""
    period = NS_PER_S / sfreq_hz
    slack = max(_JITTER_NS, 2 * period)
    runs: list[_Run] = []
    anchors: list[tuple[int, int]] = []
    gaps: list[tuple[int, int]] = []
    origin = newest = 0
    current_segment = None
    end = missing = 0
    for row, body in _chunks(session, segment):
        stamps = journal.chunk_stamps(row.row)
        cuts = [0, *(np.flatnonzero(np.abs(np.diff(stamps) - period) > slack) + 1).tolist(), body.n]
        for begin, stop in itertools.pairwise(cuts):
            start = begin
            if not runs:
                origin = int(stamps[start])
            elif current_segment == body.segment and 0 < newest + period / 2 - int(stamps[begin]) <= NS_PER_S:
                start += int(np.searchsorted(stamps[start:stop], newest + period / 2))
                if start == stop:
                    continue
            at = end
            off = int(stamps[start]) - newest - period
            if runs and (current_segment != body.segment or abs(off) > slack):
                at = max(end, round((int(stamps[start]) - origin) / period))
                gaps.append((end, at - end))
                missing += at - end
                if missing > MAX_GAP_S * sfreq_hz:
                    raise JournalError(f"more than {MAX_GAP_S} s are missing in {session.path}: export each segment alone")
            runs.append(_Run(row.seq, start, stop, at))
            anchors += [(int(stamps[start]), at), (int(stamps[stop - 1]), at + stop - start - 1)]
            end = at + stop - start
            newest = int(stamps[stop - 1])
            current_segment = body.segment
    table = np.array(anchors, np.float64).reshape(-1, 2)
    return runs, end, np.maximum.accumulate(table[:, 0]) if len(table) else table[:, 0], table[:, 1], gaps


def _fill(session: Session, runs: list[_Run], total: int, layout: Layout, source: Samples | None) -> Float64s:
    volts = np.array(layout.to_uv) * 1e-6
    data = np.zeros((len(volts), total))
    pending = iter(runs)
    run: _Run | None = next(pending)
    for row in session.rows(kinds=("chunk",)):
        if run is None:
            break
        if row.seq != run.seq and source is None:
            continue
        samples = _samples(session, row, source)
        if row.seq == run.seq and samples.shape[1] != len(volts):
            raise JournalError(f"{session.path}, row {row.seq}: {samples.shape[1]} channels, the layout has {len(volts)}")
        while run is not None and run.seq == row.seq:
            part = samples[run.start : run.stop]
            data[:, run.at : run.at + len(part)] = part.T * volts[:, np.newaxis]
            run = next(pending, None)
    return data


def _samples(session: Session, row: LogRow, source: Samples | None) -> npt.NDArray[Any]:
    chunk = session.value(row, source)
    samples: npt.NDArray[Any] = chunk.samples  # type: ignore[union-attr]
    return samples


def _info(layout: Layout) -> mne.Info:
    types = [_channel_type(label) for label in layout.labels]
    info = mne.create_info(list(layout.labels), layout.sfreq_hz, types, verbose="ERROR")
    known = {
        name: np.array(position)
        for name, position, kind in zip(info.ch_names, layout.positions_m, types, strict=False)
        if kind == "eeg" and all(map(math.isfinite, position)) and any(position)
    }
    if known:
        info.set_montage(mne.channels.make_dig_montage(known, coord_frame="head"), on_missing="ignore", verbose="ERROR")
    return info


def _channel_type(label: str) -> str:
    return _TYPES.get(label.lower().rstrip("0123456789+-_ "), "eeg")


def _date(session: Session, first_stamp: int) -> dt.datetime | None:
    opened = next(session.rows())
    wall_s = (opened.wall_ns + first_stamp - opened.t_ns) / NS_PER_S
    if not 0 < wall_s < 2**31:
        return None
    return dt.datetime.fromtimestamp(wall_s, dt.UTC)


def _annotations(
    session: Session,
    last_s: float,
    sfreq_hz: float,
    stamps: Float64s,
    positions: Float64s,
    gaps: list[tuple[int, int]],
) -> mne.Annotations:
    def at(t_ns: int) -> float:
        return min(max(float(np.interp(t_ns, stamps, positions)) / sfreq_hz, 0.0), last_s)

    found = [(at(marker.stamp_ns), 0.0, marker.text or "marker") for marker in session.markers]
    found += [(at(incident.t_ns), 0.0, f"BAD_{incident.name}") for incident in session.incidents]
    found += [(start / sfreq_hz, length / sfreq_hz, "BAD_gap") for start, length in gaps]
    changes = list(session.gates)
    if changes:
        edges = [0.0, *(at(change.t_ns) for change in changes), last_s]
        names = [changes[0].before, *(change.after for change in changes)]
        found += [(start, stop - start, f"TDCS/{name}") for name, start, stop in zip(names, edges, edges[1:], strict=False)]
    found.sort(key=lambda annotation: annotation[0])
    onsets, durations, texts = zip(*found, strict=True) if found else ((), (), ())
    return mne.Annotations(onsets, durations, texts)
