"""The configurations that ship with cereloop, found in a wheel as well as in a checkout."""

from __future__ import annotations

from pathlib import Path

from loop.config import ConfigError

_HERE = Path(__file__).resolve().parent


def preset_path(name: str) -> Path:
    """Path of a shipped configuration such as ``simulate``.

    Raises
    ------
    ConfigError
        If no such configuration ships; the message lists those that do.
    """
    folders = (_HERE / "configs", _HERE.parent / "configs")
    for folder in folders:
        path = folder / f"{name}.toml"
        if path.is_file():
            return path
    known = sorted({path.stem for folder in folders if folder.is_dir() for path in folder.glob("*.toml")})
    raise ConfigError(f"no shipped configuration `{name}`; there are: {', '.join(known) or 'none'}")
