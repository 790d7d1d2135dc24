"""Which reader a recording's name asks for, and which files belong to it.

A recording's reader is chosen by name, once. Readers are never tried in turn: one of them brings the interpreter down on
another maker's file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from loop.sources.errors import SourceError

Reader = Literal["ant", "neuroscan", "curry", "bci2k"]

_HASH_BYTES: Final = 1 << 20

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


def suffix_of(path: Path) -> str:
    """The end of the name that tells the format; the longest known one."""
    double = "".join(path.suffixes[-2:]).lower()
    return double if double in _READERS else path.suffix.lower()


def is_directory_format(suffix: str) -> bool:
    """Whether recordings of this suffix are a directory of files."""
    return suffix in _DIRECTORIES


def reader_name(path: Path, suffix: str, hint: str | None) -> str:
    """The function of `mne.io` that reads `path`; `hint` is the user's word where two makers share the suffix.

    Raises
    ------
    SourceError
        If the suffix is unknown, needs a hint or takes none, or is that of a part of a recording.
    """
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


def named_file(data_file: Path) -> Path:
    """The file a user would name, given the one that holds the samples."""
    for suffix in (".set", ".vhdr", ".ahdr"):
        header = data_file.with_suffix(suffix)
        if data_file.suffix.lower() in (".fdt", ".eeg", ".dat") and header.exists():
            return header
    return data_file


def files_of(path: Path, suffix: str, holding: Sequence[Path]) -> list[Path]:
    """The file named, the files `holding` its samples, and what belongs to them; each once, in that order."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    files += holding
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
