"""Configuration: what is wrong is refused in one line that names file and key, and nothing else is ever raised."""

from __future__ import annotations

import copy
import random
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from core_config import TEXT, configured

from loop import config
from loop.config import ConfigError

WILD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**63, -(2**70), 10**400, 0.0, -1.5, 1e308, float("nan"), float("inf"), "", "8", "x" * 500,
    "closed_loop", "a\nb", "\x00", [], [1], ["Cz"], {}, {"a": 1}, [[[]]], {"": {"": {}}},
)  # fmt: skip


def refusal(*overrides: str) -> str:
    """The message with which a changed configuration is refused."""
    with pytest.raises(ConfigError) as caught:
        configured(*overrides)
    text = str(caught.value)
    assert "\n" not in text
    return text


def without(*lines: str) -> str:
    """The text without the lines that begin so."""
    return "\n".join(line for line in TEXT.splitlines() if not line.startswith(lines))


def test_the_whole_text_loads() -> None:
    loaded = configured()
    assert loaded.stimulates
    assert loaded.policy.threshold == 8.0
    assert loaded.stimulation is not None
    assert loaded.stimulation.level_ua == 100


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("policy.treshold=6", "unknown key `policy.treshold`; did you mean `threshold`?"),
        ("stimulation.level_ma=1", "unknown key `stimulation.level_ma`; did you mean `level_ua`?"),
        ("polcy.threshold=6", "unknown key `polcy`; did you mean `policy`?"),
        ("gate.zzz=6", "known here: sense_s, settle_s"),
        ("policy.threshold=nan", "key `policy.threshold` is nan; expected a finite number"),
        ("stimulation.ramp_s=inf", "key `stimulation.ramp_s` is inf"),
        ("channels.rail_uv=-inf", "key `channels.rail_uv` is -inf"),
        ('policy.threshold="8"', "key `policy.threshold`: expected `float`, got `str` (it is '8')"),
        ("policy.threshold=true", "key `policy.threshold`: expected `float`, got `bool`"),
        ("policy.min_outcomes=2.5", "key `policy.min_outcomes`: expected `int`, got `float`"),
        ("stimulation.level_ua=100.5", "key `stimulation.level_ua`: expected `int`"),
        ("stimulation.level_ua=true", "key `stimulation.level_ua`: expected `int`, got `bool`"),
        ("stimulation.level_ua=2001", "key `stimulation.level_ua`"),
        ("stimulation.polarity=inhibitory", "key `stimulation.polarity`"),
        ("session.arm=placebo", "key `session.arm`"),
        ("gate.settle_s=4.9", "key `gate.settle_s`"),
        ("channels.line_hz=55", "key `channels.line_hz`"),
        ("source.jitter_s=0.2", "key `source.jitter_s`"),
        ('session.participant="../../x"', "key `session.participant`"),
        ('session.participant="P01\\n"', "key `session.participant`"),
        ('channels.bad=["Cz", 3]', "key `channels.bad[1]`"),
    ],
)
def test_a_wrong_value_is_refused_with_file_and_key(override: str, words: str) -> None:
    text = refusal(override)
    assert text.startswith("study.toml: ")
    assert words in text


@pytest.mark.parametrize(
    "key",
    ["polarity", "electrode", "contact_area_cm2", "level_ua", "ramp_s", "hold_s", "max_charge_uc", "driver"],
)
def test_nothing_that_limits_or_makes_current_has_a_default(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"study.toml: key `\w+\.{key}` is missing; it has no default"):
        config.parse(without(f"{key} ="), "study.toml")


@pytest.mark.parametrize("table", ["stimulation", "limits", "device"])
@pytest.mark.parametrize("arm", ["closed_loop", "open_loop"])
def test_an_arm_that_makes_current_needs_its_tables(table: str, arm: str) -> None:
    tree = tomllib.loads(TEXT)
    del tree[table]
    tree["session"]["arm"] = arm
    with pytest.raises(ConfigError, match=f"key `{table}` is missing: arm {arm} makes current"):
        config.from_tree(tree, "study.toml")
    tree["session"]["arm"] = "feedback_only"
    assert not config.from_tree(tree, "study.toml").stimulates


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["policy.release=8"], "`policy.release` is 8, which is not below `policy.threshold` (8)"),
        (["source.kind=recording"], "key `source.path` is missing"),
        (["source.kind=patient"], "key `patient` is missing"),
        (["estimator.left=PO9"], "`estimator.left` and `estimator.right` go together"),
        (["stimulation.level_ua=2000"], "stimulation.ramp_s is 2"),
        (["limits.max_level_ua=2001"], "limits.max_level_ua is 2001; the ceiling in code is 2000"),
        (["limits.max_level_ua=50"], "stimulation.level_ua is 100; at most 50 uA is allowed"),
        (["stimulation.contact_area_cm2=0.5"], "stimulation.level_ua is 100; at most 50 uA is allowed"),
        (["limits.arm_below_ohm=10000", "limits.stop_above_ohm=9000"], "limits.arm_below_ohm is 10000"),
        (["stimulation.hold_s=1200", "stimulation.level_ua=10"], "stimulation.hold_s is 1200"),
        (["policy.max_duty=0.1"], "keys `policy.max_duty` and `policy.duty_window_s` leave room for 6 s of current"),
        (["policy.duty_window_s=13.9"], "leave room for 6.95 s of current, but one gate takes 7 s; it could never open"),
    ],
)
def test_values_that_do_not_fit_together_are_refused(overrides: list[str], words: str) -> None:
    assert words in refusal(*overrides)


def test_a_gate_that_just_fits_into_the_duty_limit_is_taken() -> None:
    assert configured("policy.duty_window_s=14").policy.duty_window_s == 14.0


def test_overrides_are_toml_values_or_bare_words() -> None:
    changed = configured(
        "policy.threshold = 6",
        "session.arm=open_loop",
        'channels.bad=["Fp1"]',
        "source.name=My Amp",
        "markers.rename.go=CUE/H",
    )
    assert changed.policy.threshold == 6.0
    assert changed.session.arm == "open_loop"
    assert changed.channels.bad == ("Fp1",)
    assert changed.source.name == "My Amp"
    assert changed.markers.rename["go"] == "CUE/H"


@pytest.mark.parametrize(
    "override",
    [
        "",
        "threshold=6",
        "policy.threshold",
        "policy.=6",
        ".threshold=6",
        "policy.threshold.x=6",
        "=",
        "a..b=1",
    ],
)
def test_an_override_that_names_no_single_value_is_refused(override: str) -> None:
    assert refusal(override).startswith(f"override `{override}`")


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    latin = tmp_path / "latin.toml"
    latin.write_bytes(TEXT.replace("P01", "Pé1").encode("latin-1"))
    broken = tmp_path / "broken.toml"
    broken.write_text(TEXT[:-20])
    for path, words in [
        (tmp_path / "none.toml", "no such file"),
        (tmp_path, "is a directory"),
        (latin, "not UTF-8 text"),
        (broken, "not valid TOML"),
    ]:
        with pytest.raises(ConfigError) as caught:
            config.load(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert words in str(caught.value)


def test_a_file_that_is_too_long_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "long.toml"
    padding = config.MAX_BYTES - len(TEXT.encode()) - 1
    path.write_text(TEXT + "#" + "x" * padding)
    assert config.load(path) == configured()
    path.write_text(TEXT + "#" + "x" * (padding + 1))
    for refused in (path, Path("/dev/zero")):
        with pytest.raises(ConfigError) as caught:
            config.load(refused)
        assert str(caught.value) == f"{refused}: longer than 1000000 bytes; give a TOML configuration"


@pytest.mark.parametrize(
    "text", ["a = " + "9" * 5000, "a = " + "[" * 5000, "a = 2026-99-99", "a = 1\na = 2", "\x00", "[[x]]\n[x]"]
)
def test_text_that_is_no_toml_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^study\.toml: ") as caught:
        config.parse(text, "study.toml")
    assert "\n" not in str(caught.value)


def test_a_key_with_a_line_break_is_named_on_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(TEXT + '\n[policy."a\\nb"]\n"c\\r\\nd" = 1\n', "study.toml")
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_encoded_is_read_back_and_has_the_same_digest() -> None:
    for changes in ([], ["policy.threshold=6"], ["session.arm=feedback_only"], ['channels.bad=["Fp1","O1"]']):
        loaded = configured(*changes)
        again = config.decode(config.encode(loaded))
        assert again == loaded
        assert config.digest(again) == config.digest(loaded)
    assert config.digest(configured()) != config.digest(configured("policy.threshold=6"))
    assert config.digest(configured("policy.threshold=8")) == config.digest(
        configured("policy.threshold=8.0")
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b"null",
        b'{"session": 1}',
        b"\xff",
        b"NaN",
        b'{"a":' * 3000,
        b'{"a":' * 900 + b"1" + b"}" * 900,
    ],
)
def test_a_recorded_config_that_is_damaged_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigError):
        config.decode(data)


def leaves(tree: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    for key, value in tree.items():
        yield tree, key
        if isinstance(value, dict):
            yield from leaves(value)


def mutated_tree(rng: random.Random) -> dict[str, Any]:
    """The configuration with one to three keys lost, doubled under another name, or given a wild value."""
    tree = copy.deepcopy(tomllib.loads(TEXT))
    for _ in range(rng.randint(1, 3)):
        parent, key = rng.choice(list(leaves(tree)))
        act = rng.choice(["lose", "rename", "wild", "wild"])
        if act == "wild":
            parent[key] = rng.choice(WILD)
        else:
            value = parent.pop(key)
            if act == "rename":
                parent[key[:-1] + rng.choice("abc\n`. ")] = value
        if not tree:
            break
    return tree


def mutated_text(rng: random.Random) -> bytes:
    """The text with a few bytes changed, lost, doubled or cut off."""
    data = bytearray(TEXT.encode())
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data))
        act = rng.choice(["change", "lose", "double", "cut", "swap"])
        if act == "change":
            data[at] = rng.choice([rng.randrange(256), *b"\"'[]{}=.#\n09-eE"])
        elif act == "lose":
            del data[at : at + rng.randint(1, 20)]
        elif act == "double":
            data[at:at] = data[at : at + rng.randint(1, 40)]
        elif act == "cut" and rng.random() < 0.2:
            del data[at:]
        else:
            data[at : at + 2] = data[at : at + 2][::-1]
        if not data:
            break
    return bytes(data)


@pytest.mark.parametrize("kind", ["tree", "text"])
def test_two_hundred_damaged_configs_load_or_are_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    path, loaded, refused = tmp_path / "study.toml", 0, 0
    for seed in range(200):
        rng = random.Random(f"{kind}{seed}")
        try:
            if kind == "tree":
                config.from_tree(mutated_tree(rng), str(path))
            else:
                path.write_bytes(mutated_text(rng))
                config.load(path)
            loaded += 1
        except ConfigError as error:
            text = str(error)
            assert text.startswith(str(path)), (seed, text)
            assert len(text.splitlines()) == 1, (seed, text)
            assert len(text) < 500 + len(str(path)), (seed, text)
            named = re.search(
                r"`[^`]+`|at line \d+|at end of document|not UTF-8|(stimulation|limits)\.\w+", text
            )
            assert named, (seed, text)
            refused += 1
    assert loaded + refused == 200
    assert refused > 100


def test_a_built_in_drivers_own_table_is_checked_with_the_configuration() -> None:
    assert "key `device.mode` is 'peak'; driver reference has lease" in refusal("device.driver=reference", "device.mode=peak")
    assert "unknown key `device.options.gain`" in refusal("device.options={gain = 1.0}")


def test_the_record_of_a_session_is_read_without_its_drivers_package() -> None:
    loaded = configured("device.driver=not_installed", "device.options={gain_ma_per_v = 1.5, map = {a = 1}, channels = [1, 2]}")
    assert config.decode(config.encode(loaded)) == loaded
