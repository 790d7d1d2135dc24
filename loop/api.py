"""The three uses from Python or a notebook: `simulate`, `replay`, and reading what they wrote."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loop.config import Config, load
from loop.presets import preset_path
from loop.reader import Session
from loop.run import play

if TYPE_CHECKING:
    from mne.io import BaseRaw


def load_config(path: str | Path = "simulate", overrides: Iterable[str] = ()) -> Config:
    """Read a configuration: a TOML file, or the name of one that ships (``simulate``, ``replay``).

    Parameters
    ----------
    path : str or Path
        A file, or a shipped configuration's name.
    overrides : iterable of str
        Single values such as ``"policy.threshold=6"``.

    Returns
    -------
    Config

    Raises
    ------
    ConfigError
        One sentence that names file and key.

    Examples
    --------
    >>> import loop
    >>> config = loop.load_config("simulate", ["policy.threshold=6"])
    >>> config.policy.threshold
    6.0
    """
    text = str(path)
    return load(path if text.endswith(".toml") else preset_path(text), overrides)


def simulate(config: Config | None = None, *, out: str | Path | None = None) -> Session:
    """Run a closed-loop session on the simulated patient and open its file.

    Parameters
    ----------
    config : Config, optional
        Needs a ``[patient]`` table; the shipped ``simulate`` unless given.
    out : str or Path, optional
        Where the session file goes; named after participant and time unless given.

    Returns
    -------
    Session
        Open for reading; close it, or use it in a ``with`` block.

    Raises
    ------
    ConfigError, LayoutError, JournalError
        One sentence each.

    Examples
    --------
    >>> import loop
    >>> config = loop.load_config("simulate", ["session.duration_s=60"])
    >>> with loop.simulate(config, out="short.sqlite") as session:
    ...     len(session.features.t_ns) > 2900
    True
    """
    from loop.sources.patient import patient_for

    chosen = config if config is not None else load_config("simulate")
    played = play(chosen, patient_for(chosen), "simulate", _path(out))
    return Session.open(played.path)


def replay(source: str | Path | BaseRaw, config: Config | None = None, *, out: str | Path | None = None) -> Session:
    """Run a recording through the loop and open the session file.

    Parameters
    ----------
    source : str, Path or mne.io.BaseRaw
        A file that `mne.io.read_raw` reads, an XDF file, or a raw object; its annotations are the markers.
    config : Config, optional
        The shipped ``replay`` (feedback_only) unless given.
    out : str or Path, optional
        Where the session file goes.

    Returns
    -------
    Session
        Open for reading.

    Raises
    ------
    SourceError, ConfigError, LayoutError, JournalError
        One sentence each.

    Examples
    --------
    >>> import loop, mne, numpy as np
    >>> names = ["PO9", "PO10", "Oz", "Cz", "Fz", "P9", "P10", "FCz"]
    >>> info = mne.create_info(names, 250.0, "eeg")
    >>> noise = np.random.default_rng(1).normal(0, 1e-5, (8, 5000))
    >>> raw = mne.io.RawArray(noise, info, verbose="error")
    >>> with loop.replay(raw, out="noise.sqlite") as session:
    ...     session.features.values.shape[0]
    1000
    """
    from loop.sources.recording import open_recording, playback_from_raw

    chosen = config if config is not None else load_config("replay", ["source.path='given'"])
    playback: Any = open_recording(Path(source)) if isinstance(source, str | Path) else playback_from_raw(source)
    played = play(chosen, playback, "replay", _path(out))
    return Session.open(played.path)


def _path(out: str | Path | None) -> Path | None:
    return None if out is None else Path(out)
