"""What a configuration may say of magnetic pulses: every key mandatory, ceilings only narrowed, never beside a current."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from loop.config import ConfigError, from_tree
from loop.stage_latency import stage_latencies

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "live-magstim-mock.toml"


def tree() -> dict[str, Any]:
    return tomllib.loads(CONFIG.read_text())


KEYS = [f"{table}.{key}" for table in ("pulses", "pulse_limits") for key in tree()[table]]


@pytest.mark.parametrize("path", KEYS)
def test_no_key_has_a_default(path: str) -> None:
    table, key = path.split(".")
    given = tree()
    del given[table][key]
    with pytest.raises(ConfigError, match=rf"`{path}` is missing"):
        from_tree(given)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pulse_limits.max_pulses": 1201}, "pulse_limits.max_pulses is 1201; the ceiling in code is 1200"),
        ({"pulse_limits.max_intensity_percent": 90}, "max_intensity_percent is 90; the ceiling in code is 80"),
        ({"pulses.interval_ms": 999}, "`pulses.interval_ms`"),
        ({"pulses.train_pulses": 30}, "`pulses.train_pulses`"),
        ({"pulses.gate_pulses": 601}, "above the session's 600"),
        ({"pulses.gate_pulses": 500}, "leave room for 360 s"),
        ({"session.arm": "sham"}, r"`session\.arm` is sham: .* no sham in software.*; write .* connecting a sham coil"),
        ({"session.arm": "yoked", "session.yoked_to": "x.sqlite"}, r"`session\.arm` is yoked: .*; write open_loop"),
        ({"session.arm": "allotted"}, r"`session\.arm` is allotted: .*; write .* take \[allocation\] out"),
        ({"pulses.interval_ms": 1500}, r"`pulses\.interval_ms` is 1500: .* 0.1 Hz; write one of 1000, 1250, .*or choose"),
        ({"source.kind": "patient"}, "pulses are given in live sessions only"),
        ({"device.mode": ""}, "`device.mode` is missing"),
        ({"device.options.unlock_code": "a b"}, "`device.options.unlock_code`"),
        ({"device.driver": "reference", "device.options": {}, "device.mode": ""}, "which makes a current"),
        ({"pulse_limits": None}, "`pulse_limits` is missing"),
        ({"limits": {"max_level_ua": 1, "max_density_ua_cm2": 1.0, "max_slew_ua_s": 1, "max_charge_uc": 1, "max_on_time_s": 1.0,
                     "arm_below_ohm": 1, "stop_above_ohm": 1}}, "exclude each other"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_sentence(changes: dict[str, Any], words: str) -> None:
    given = tree()
    for path, value in changes.items():
        *tables, key = path.split(".")
        node = given
        for table in tables:
            node = node[table]
        if value is None:
            del node[key]
        else:
            node[key] = value
    with pytest.raises(ConfigError, match=words) as error:
        from_tree(given, "x.toml")
    assert str(error.value).startswith("x.toml: ")


def test_the_table_of_latencies_knows_pulses() -> None:
    names = [stage.name for stage in stage_latencies(from_tree(tree()))]
    assert {"charge", "hold"} <= set(names) and "ramp" not in names


def test_where_the_host_paces_any_interval_can_be_given() -> None:
    given = tree()
    given["device"]["mode"] = "single"
    given["pulses"]["interval_ms"] = 1500
    assert from_tree(given).pulses is not None
