"""Recordings as sources: everything MNE-Python reads, XDF files, and raw objects already in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from loop.events import Block, Layout, SourceInfo
from loop.sources.description import check_rate, choose_eeg, pick
from loop.sources.errors import SourceError

if TYPE_CHECKING:
    from mne.io import BaseRaw

Int64s = npt.NDArray[np.int64]
Samples = npt.NDArray[Any]
Reader = Literal["ant", "neuroscan", "curry", "bci2k"]

MIN_DURATION_S: Final = 2.0
_CACHE_S: Final = 10.0
_HASH_BYTES: Final = 1 << 20
_SPOT: Final = 1000

# A recording's reader is chosen by name, once. Readers are never tried in turn: one of them brings the
# interpreter down on another maker's file.
_READERS: Final = {
    ".ahdr": "read_raw_brainvision",
    ".bdf": "read_raw_bdf",
    ".cdt": "read_raw_curry",
    ".cdt.cef": "read_raw_curry",
    ".cdt.dpa": "read_raw_curry",
    ".cef": "read_raw_curry",
    ".con": "read_raw_kit",
    ".dap": "read_raw_curry",
    ".data": "read_raw_nicolet",
    ".edf": "read_raw_edf",
    ".eeg": "read_raw_nihon",
    ".fif": "read_raw_fif",
    ".fif.gz": "read_raw_fif",
    ".gdf": "read_raw_gdf",
    ".lay": "read_raw_persyst",
    ".nedf": "read_raw_nedf",
    ".ns3": "read_raw_nsx",
    ".nxe": "read_raw_eximia",
    ".rs3": "read_raw_curry",
    ".set": "read_raw_eeglab",
    ".sqd": "read_raw_kit",
    ".vhdr": "read_raw_brainvision",
}

# Recordings that are a directory of files.
_DIRECTORIES: Final = {".ds": "read_raw_ctf", ".mefd": "read_raw_mef", ".mff": "read_raw_egi"}

# Parts of a recording that are not the one to name.
_PARTS: Final = {".amrk": ".ahdr", ".fdt": ".set", ".vmrk": ".vhdr", ".eeg": ".vhdr"}

# Names that two makers use for different formats, and the hint that decides.
_AMBIGUOUS: Final[dict[str, dict[str, str]]] = {
    ".cnt": {"ant": "read_raw_ant", "neuroscan": "read_raw_cnt"},
    ".dat": {"curry": "read_raw_curry", "bci2k": "read_raw_bci2k"},
}

# Files beside the named one that belong to the same recording.
_COMPANIONS: Final = {".set": (".fdt",), ".vhdr": (".vmrk",), ".ahdr": (".amrk",)}


class Rows(Protocol):
    """Samples that can be had by index."""

    def __call__(self, start: int, stop: int) -> tuple[Int64s, Samples]:
        """Stamps (n,) in ns from the first sample, and samples (n, n_channels), of rows `start` to `stop`."""
        ...


class RecordingPlayback:
    """A recording played from its first to its last sample; implements `Playback`.

    Attributes
    ----------
    layout : Layout
        The channels that are handed out.
    info : SourceInfo
        Path and SHA-256 of the recording.
    n_samples : int
        Samples in all.
    rows : callable
        Stamps and samples by index, whatever was read so far.
    notes : tuple of str
        What was left out, and what the reader should know.
    """

    def __init__(
        self,
        rows: Rows,
        n_samples: int,
        layout: Layout,
        info: SourceInfo,
        markers: Sequence[tuple[int, str]],
        notes: Sequence[str] = (),
    ) -> None:
        where = info.path or info.identity
        if n_samples == 0:
            raise SourceError(f"{where} has no samples.")
        if n_samples < MIN_DURATION_S * layout.sfreq_hz:
            raise SourceError(f"{where} is {n_samples / layout.sfreq_hz:.3g} s long; at least {MIN_DURATION_S:g} s are needed.")
        self.layout = layout
        self.info = info
        self.n_samples: int | None = n_samples
        self.rows = rows
        self._n = n_samples
        self._step = max(1, round(_CACHE_S * layout.sfreq_hz))
        self._position = 0
        self._cache_first = 0
        self._stamps, self._samples = rows(0, min(self._step, n_samples))
        last_ns = int(rows(n_samples - 1, n_samples)[0][0])
        ordered = sorted(markers, key=lambda marker: marker[0])
        self._markers = [marker for marker in ordered if marker[0] <= last_ns]
        self._next_marker = 0
        late = len(ordered) - len(self._markers)
        self.notes = (
            *notes,
            *([f"{late} markers lie after the last sample and are left out."] if late else []),
        )

    @property
    def markers(self) -> tuple[tuple[int, str], ...]:
        """All markers that will be handed out: (ns from the first sample, text); negative before it."""
        return tuple(self._markers)

    def read(self, n: int, current_ua: float) -> Block | None:
        """The next samples.

        Parameters
        ----------
        n : int
            At most so many; fewer at the end.
        current_ua : float
            Ignored: what is recorded does not feel the present current.

        Returns
        -------
        Block or None
            Samples (n, n_channels) in the recording's own unit; None at the end. Markers from before the
            first sample come with the first block.

        Raises
        ------
        SourceError
            If the file can no longer be read.
        """
        del current_ua
        if n < 1:
            raise ValueError(f"a block has at least one sample, not {n}")
        first = self._position
        if first >= self._n:
            return None
        stop = min(first + n, self._n)
        if stop > self._cache_first + len(self._stamps):
            # Refill from `first`, so that a block never straddles two fills and can always be a view.
            self._stamps, self._samples = self.rows(first, min(first + max(self._step, n), self._n))
            self._cache_first = first
        a, b = first - self._cache_first, stop - self._cache_first
        self._position = stop
        stamps = self._stamps[a:b]
        markers: Sequence[tuple[int, str]] = ()
        begin = self._next_marker
        if begin < len(self._markers) and self._markers[begin][0] <= stamps[-1]:
            end = begin
            while end < len(self._markers) and self._markers[end][0] <= stamps[-1]:
                end += 1
            markers = self._markers[begin:end]
            self._next_marker = end
        return Block(first, stamps, self._samples[a:b], markers)


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
    suffix = _suffix(path)
    if path.is_dir() and suffix not in _DIRECTORIES:
        raise SourceError(f"{path} is a directory; name the recording's file in it.")
    if suffix in (".xdf", ".xdfz"):
        from loop.sources import xdf

        return xdf.open_xdf(path, picks=picks, stream=stream, unit=unit)
    raw = _read_raw(path, _reader_name(path, suffix, reader))
    files = _files_of(path, suffix, raw)
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
    step = max(1, round(_CACHE_S * playback.layout.sfreq_hz))
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
        twin = open_recording(_named_file(Path(name)), picks=picks)
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


def _named_file(data_file: Path) -> Path:
    """The file a user would name, given the one that holds the samples."""
    for suffix in (".set", ".vhdr", ".ahdr"):
        header = data_file.with_suffix(suffix)
        if data_file.suffix.lower() in (".fdt", ".eeg", ".dat") and header.exists():
            return header
    return data_file


def _suffix(path: Path) -> str:
    """The end of the name that tells the format; the longest known one."""
    double = "".join(path.suffixes[-2:]).lower()
    return double if double in _READERS else path.suffix.lower()


def _reader_name(path: Path, suffix: str, hint: str | None) -> str:
    if suffix in _AMBIGUOUS:
        choices = _AMBIGUOUS[suffix]
        if hint in choices:
            return choices[hint]
        raise SourceError(
            f"{path}: {suffix} files come from different makers and reading one as another's is unsafe;"
            f" say which it is with reader={' or '.join(repr(name) for name in choices)}."
        )
    if hint is not None:
        raise SourceError(f"{path}: reader={hint!r} is only for {' and '.join(_AMBIGUOUS)} files; leave it out.")
    whole = _PARTS.get(suffix)
    if whole is not None and (suffix not in _READERS or path.with_suffix(whole).exists()):
        raise SourceError(f"{path} is one part of a recording; name its {whole} file instead.")
    readers = _DIRECTORIES if path.is_dir() else _READERS
    if suffix not in readers:
        known = ", ".join(sorted([*_READERS, *_DIRECTORIES, *_AMBIGUOUS, ".xdf"]))
        raise SourceError(f"{path}: no reader for {suffix or 'names without suffix'}; known are {known}.")
    return readers[suffix]


def _read_raw(path: Path, reader: str) -> BaseRaw:
    import mne

    try:
        return getattr(mne.io, reader)(path, preload=False, verbose="error")
    except Exception as error:  # readers raise whatever a damaged file provokes; all of it means the same to the user
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SourceError(f"{path} could not be read as {path.suffix} file: {reason[:300]}") from error


def _files_of(path: Path, suffix: str, raw: BaseRaw) -> list[Path]:
    """The file named, the files that hold samples, and what belongs to them; each once, in that order."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    files += [Path(name) for name in raw.filenames if name is not None]
    files += [path.with_suffix(other) for other in _COMPANIONS.get(suffix, ())]
    unique: dict[Path, Path] = {}
    for file in files:
        if file.is_file():
            unique.setdefault(file.resolve(), file)
    return list(unique)


def sha256_of_files(files: Sequence[Path]) -> str:
    """SHA-256 over the content of files, one after the other, as hexadecimal digits."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            while piece := handle.read(_HASH_BYTES):
                digest.update(piece)
    return digest.hexdigest()


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
