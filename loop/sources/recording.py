"""Recordings as sources: everything MNE-Python reads, XDF files, and raw objects already in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from loop.events import Layout, SourceInfo
from loop.sources import xdf
from loop.sources.description import check_rate, choose_eeg, pick
from loop.sources.errors import SourceError
from loop.sources.playback import CACHE_S, RecordingPlayback
from loop.sources.recording_files import (
    Reader,
    files_of,
    is_directory_format,
    named_file,
    reader_name,
    sha256_of_files,
    suffix_of,
)

if TYPE_CHECKING:
    from mne.io import BaseRaw

__all__ = ["RecordingPlayback", "open_recording", "playback_from_raw"]

Int64s = npt.NDArray[np.int64]
Samples = npt.NDArray[Any]

_SPOT: Final = 1000


def open_recording(
    path: str | Path,
    *,
    picks: Sequence[str] = (),
    stream: str = "",
    unit: str = "",
    reader: Reader | None = None,
) -> RecordingPlayback:
    """Open a recording for replay.

    Parameters
    ----------
    path : str or Path
        A file that MNE-Python reads (FIF, EDF, BDF, GDF, BrainVision, EEGLAB, Neuroscan, ANT, …) or an XDF
        file.
    picks : sequence of str
        Names of the channels to take, as the file spells them; all EEG channels if empty.
    stream : str
        XDF only: name, source id or number of the EEG stream where there are several.
    unit : str
        XDF only: unit of channels that tell none.
    reader : {"ant", "neuroscan", "curry", "bci2k"}, optional
        Which maker's format it is, for names that two makers use (``.cnt``, ``.dat``).

    Returns
    -------
    RecordingPlayback
        The recording; from MNE-Python in volts (float64), from XDF in the stream's own unit and type.

    Raises
    ------
    SourceError
        If the file is missing, of an unknown kind, damaged, too short, sampled outside 128 to 4096 Hz, or has
        no EEG.
    """
    path = Path(path)
    if not path.exists():
        raise SourceError(f"{path} does not exist.")
    suffix = suffix_of(path)
    if path.is_dir() and not is_directory_format(suffix):
        raise SourceError(f"{path} is a directory; name the recording's file in it.")
    if suffix in (".xdf", ".xdfz"):
        return xdf.open_xdf(path, picks=picks, stream=stream, unit=unit)
    raw = _read_raw(path, reader_name(path, suffix, reader))
    files = files_of(path, suffix, [Path(name) for name in raw.filenames if name is not None])
    return _playback(raw, str(path), picks, sha256_of_files(files), str(path))


def playback_from_raw(raw: BaseRaw, *, picks: Sequence[str] = ()) -> RecordingPlayback:
    """Play a raw object of MNE-Python.

    Parameters
    ----------
    raw : mne.io.BaseRaw
        Loaded or not; it is not changed.
    picks : sequence of str
        Names of the channels to take; all EEG channels if empty.

    Returns
    -------
    RecordingPlayback
        Its `info` names the file where the object is that file unchanged, and can be replayed from it.
        Otherwise `path` is empty and `sha256` is that of the samples as handed out (little-endian float64
        volts, sample by sample).

    Raises
    ------
    SourceError
        As `open_recording`.
    """
    names = [str(name) for name in raw.filenames if name is not None]
    where = f"The raw object from {names[0]}" if names else "The raw object"
    if names and not raw.preload:
        playback = _playback(raw, where, picks, "", names[0])
        twin = _same_on_disk(names[0], picks, playback)
        if twin is not None:
            playback.info = twin.info
            return playback
    playback = _playback(raw, where, picks, "", "")
    digest = hashlib.sha256()
    step = max(1, round(CACHE_S * playback.layout.sfreq_hz))
    total = int(raw.n_times)
    for start in range(0, total, step):
        _, samples = playback.rows(start, min(start + step, total))
        digest.update(np.ascontiguousarray(samples, dtype="<f8").data)
    identity = f"raw object of {total} samples" + (f", made from {Path(names[0]).name}" if names else "")
    playback.info = SourceInfo(kind="recording", identity=identity, sha256=digest.hexdigest(), simulated=False, dtype="float64")
    return playback


def _same_on_disk(name: str, picks: Sequence[str], played: RecordingPlayback) -> RecordingPlayback | None:
    """The recording in file `name` if it plays as `played` does; None if the object was changed since."""
    try:
        twin = open_recording(named_file(Path(name)), picks=picks)
    except SourceError:
        return None
    total = played.n_samples or 0
    spots = ((0, min(_SPOT, total)), (max(0, total - _SPOT), total))
    same = (
        twin.layout == played.layout
        and twin.n_samples == played.n_samples
        and twin.markers == played.markers
        and all(np.array_equal(twin.rows(*spot)[1], played.rows(*spot)[1]) for spot in spots)
    )
    return twin if same else None


def _read_raw(path: Path, reader: str) -> BaseRaw:
    import mne

    try:
        return getattr(mne.io, reader)(path, preload=False, verbose="error")
    except Exception as error:  # readers raise whatever a damaged file provokes; all of it means the same to the user
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SourceError(f"{path} could not be read as {path.suffix} file: {reason[:300]}") from error


def _playback(raw: BaseRaw, where: str, picks: Sequence[str], sha256: str, path: str) -> RecordingPlayback:
    labels = list(raw.ch_names)
    notes: tuple[str, ...] = ()
    if picks:
        chosen = pick(labels, picks, where)
    else:
        chosen, notes = choose_eeg(labels, raw.get_channel_types(), where)
    sfreq_hz = float(raw.info["sfreq"])
    check_rate(sfreq_hz, where)
    places = [tuple(float(v) for v in raw.info["chs"][i]["loc"][:3]) for i in chosen]
    placed = all(all(np.isfinite(p)) and any(v != 0.0 for v in p) for p in places)
    layout = Layout(
        labels=tuple(labels[i] for i in chosen),
        units=("V",) * len(chosen),
        to_uv=(1e6,) * len(chosen),
        sfreq_hz=sfreq_hz,
        positions_m=tuple((x, y, z) for x, y, z in places) if placed else (),
    )
    info = SourceInfo(kind="recording", identity=Path(path).name, path=path, sha256=sha256, simulated=False, dtype="float64")
    return RecordingPlayback(_RawRows(raw, chosen, sfreq_hz, where), int(raw.n_times), layout, info, _markers_of(raw), notes)


def _markers_of(raw: BaseRaw) -> list[tuple[int, str]]:
    """Annotations as markers in ns from the first sample that the object holds."""
    # MNE counts onsets from the start of the measurement, which lies `first_time` before the first sample
    # held.
    first_s = float(raw.first_time)
    return [
        (round((float(onset) - first_s) * 1e9), str(text))
        for onset, text in zip(raw.annotations.onset, raw.annotations.description, strict=True)
    ]


class _RawRows:
    """Rows of a raw object: stamps by count, samples in volts."""

    def __init__(self, raw: BaseRaw, chosen: Sequence[int], sfreq_hz: float, where: str) -> None:
        self._raw = raw
        # A slice spares MNE the copy that a list of channels costs.
        contiguous = list(chosen) == list(range(chosen[0], chosen[0] + len(chosen)))
        self._chosen: slice | list[int] = slice(chosen[0], chosen[0] + len(chosen)) if contiguous else list(chosen)
        self._sfreq_hz = sfreq_hz
        self._where = where

    def __call__(self, start: int, stop: int) -> tuple[Int64s, Samples]:
        stamps = np.rint(np.arange(start, stop) * 1e9 / self._sfreq_hz).astype(np.int64)
        try:
            volts = self._raw[self._chosen, start:stop][0]
        except Exception as error:  # a truncated or vanished file shows as any of a dozen exceptions
            reason = " ".join(str(error).split()) or type(error).__name__
            raise SourceError(f"{self._where} could not be read at {start / self._sfreq_hz:.3f} s: {reason[:300]}") from error
        return stamps, np.ascontiguousarray(volts.T)
