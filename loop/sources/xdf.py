"""XDF files, as LabRecorder writes them, as sources."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from loop.events import SourceInfo
from loop.sources.description import check_rate, from_pyxdf, layout_of
from loop.sources.errors import SourceError
from loop.sources.playback import RecordingPlayback
from loop.sources.recording_files import sha256_of_files

Int64s = npt.NDArray[np.int64]
Samples = npt.NDArray[Any]


def open_xdf(path: Path, *, picks: Sequence[str] = (), stream: str = "", unit: str = "") -> RecordingPlayback:
    """Open the EEG stream of an XDF file, with the markers recorded beside it.

    Stamps are the recorded ones, brought to one clock with the offsets that were measured while recording.
    They are not dejittered: the loop does that itself, and causally, so that a replay meets the jitter and
    the gaps that the live loop would have met.

    Parameters
    ----------
    path : Path
        The file.
    picks : sequence of str
        Labels to take; all EEG channels if empty.
    stream : str
        Name, source id or number of the EEG stream where there are several.
    unit : str
        Unit of channels that tell none.

    Returns
    -------
    RecordingPlayback
        Samples in the stream's own unit and type.

    Raises
    ------
    SourceError
        If pyxdf is not installed, the file is damaged, or it holds no EEG stream or several.
    """
    try:
        import pyxdf
    except ImportError as error:
        raise SourceError(f"{path}: XDF files need pyxdf; install it with: pip install 'cereloop[xdf]'") from error

    with _quiet_log(pyxdf) as complaints:
        listed = _guarded(path, lambda: pyxdf.resolve_streams(str(path)))
        eeg = _choose(path, listed, stream)
        markers_ids = [s["stream_id"] for s in listed if s is not eeg and _carries_markers(s)]
        where = f"Stream {eeg['name']!r} in {path}"
        check_rate(float(eeg["nominal_srate"]), where)
        loaded, _ = _guarded(
            path,
            lambda: pyxdf.load_xdf(str(path), select_streams=[eeg["stream_id"], *markers_ids], dejitter_timestamps=False),
        )
    by_id = {s["info"]["stream_id"]: s for s in loaded}
    found = by_id.get(eeg["stream_id"])
    if found is None or len(found["time_stamps"]) == 0:
        raise SourceError(f"{where} has no samples.")
    stamps_s = np.asarray(found["time_stamps"], dtype=np.float64)
    samples = np.asarray(found["time_series"])
    if samples.ndim != 2 or samples.dtype.kind not in "fi" or not np.isfinite(stamps_s).all():
        raise SourceError(f"{where} does not hold numbers with finite time stamps.")
    layout, chosen, notes = layout_of(
        from_pyxdf(found["info"]), samples.shape[1], float(eeg["nominal_srate"]), where, picks, unit
    )
    if chosen != list(range(samples.shape[1])):
        samples = np.ascontiguousarray(samples[:, chosen])
    stamps_ns = np.rint((stamps_s - stamps_s[0]) * 1e9).astype(np.int64)
    samples.flags.writeable = False
    stamps_ns.flags.writeable = False

    def rows(start: int, stop: int) -> tuple[Int64s, Samples]:
        return stamps_ns[start:stop], samples[start:stop]

    markers = [m for i in markers_ids if i in by_id for m in _markers(by_id[i], float(stamps_s[0]))]
    info = SourceInfo(
        kind="recording",
        identity=f"{path.name}, stream {eeg['name']!r} ({eeg['type']}), number {eeg['stream_id']}",
        path=str(path),
        sha256=sha256_of_files([path]),
        simulated=from_pyxdf(found["info"]).simulated,
        dtype=samples.dtype.name,
    )
    return RecordingPlayback(rows, len(samples), layout, info, markers, (*notes, *complaints))


def _guarded(path: Path, read: Any) -> Any:
    try:
        return read()
    except Exception as error:  # pyxdf raises whatever a damaged file provokes; all of it means the same to the user
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SourceError(f"{path} could not be read as XDF file: {reason[:300]}") from error


def _called(stream: dict[str, Any]) -> str:
    return (
        f"{stream['name']!r} ({stream['type'] or 'no type'}, {stream['channel_count']} channels,"
        f" {stream['nominal_srate']:g} Hz, number {stream['stream_id']})"
    )


def _choose(path: Path, listed: Sequence[dict[str, Any]], wanted: str) -> dict[str, Any]:
    """The one EEG stream, or the one asked for; one device may give the same name to all of its streams."""
    eeg = [s for s in listed if (s["type"] or "").lower() == "eeg" and s["channel_format"] != "string"]
    if wanted:
        eeg = [s for s in eeg if wanted in (s["name"], s["source_id"], str(s["stream_id"]))]
    if len(eeg) == 1:
        return eeg[0]
    if eeg:
        there = "; ".join(map(_called, eeg))
        raise SourceError(f"{path} holds {len(eeg)} EEG streams that fit; say which by its number: {there}.")
    there = "; ".join(map(_called, listed)) or "no streams at all"
    called = f" called {wanted!r}" if wanted else ""
    raise SourceError(f"{path} holds no EEG stream{called}; it holds: {there}.")


def _carries_markers(stream: dict[str, Any]) -> bool:
    return "marker" in (stream["type"] or "").lower() or "marker" in (stream["name"] or "").lower()


def _markers(stream: dict[str, Any], zero_s: float) -> list[tuple[int, str]]:
    """Markers of a stream in ns from `zero_s`; of several channels the first counts."""
    out = []
    for stamp, row in zip(stream["time_stamps"], stream["time_series"], strict=True):
        value = row[0]
        out.append((round((float(stamp) - zero_s) * 1e9), value if isinstance(value, str) else f"{value}"))
    return out


@contextmanager
def _quiet_log(pyxdf: Any) -> Iterator[list[str]]:
    """Collect what pyxdf would log to the screen; the warnings become notes."""
    complaints: list[str] = []

    class _Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            complaints.append(f"pyxdf: {' '.join(record.getMessage().split())}")

    logger = logging.getLogger(pyxdf.pyxdf.__name__)
    handler = _Collect(level=logging.WARNING)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield complaints
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
