"""Every shipped configuration loads, from its file and by its name, and says what its use needs."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from loop.config import ConfigError, decode, encode, load
from loop.presets import preset_path

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted(CONFIGS.glob("*.toml"))


def test_there_is_one_for_each_use() -> None:
    uses = {"simulate", "replay", "calibrate", "recording", "live-mock", "live-starstim-mock", "live-labjack-mock"}
    uses |= {"live-magstim-mock", "live"}
    assert {file.stem for file in FILES} == uses


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_loads_and_survives_the_record(file: Path) -> None:
    overrides = ["source.path='a.edf'"] if file.stem == "replay" else []
    config = load(file, overrides)
    assert decode(encode(config)) == config
    assert load(preset_path(file.stem), overrides) == config


CURRENT = ("session.arm", "policy", "gate", "stimulation", "limits", "device")


def keys_that_steer_current() -> list[str]:
    tree = tomllib.loads((CONFIGS / "live.toml").read_text())
    found = ["session.arm"]
    for table in CURRENT[1:]:
        found += [f"{table}.{key}" for key in tree[table]]
    return found


@pytest.mark.parametrize("key", keys_that_steer_current())
def test_no_key_that_limits_or_steers_current_has_a_default(key: str, tmp_path: Path) -> None:
    table, _, name = key.partition(".")
    lines, inside = [], False
    for line in (CONFIGS / "live.toml").read_text().splitlines():
        if line.startswith("["):
            inside = line.startswith(f"[{table}]")
        if not (inside and line.split("=")[0].strip() == name):
            lines.append(line)
    file = tmp_path / "c.toml"
    file.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")) as caught:
        load(file)
    assert "missing" in str(caught.value)


def test_an_unknown_preset_lists_those_that_ship() -> None:
    with pytest.raises(ConfigError, match="live-mock"):
        preset_path("nonsense")
