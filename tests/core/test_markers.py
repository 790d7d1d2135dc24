"""The vocabulary of markers: what each says, other names for it, and text that means harm."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loop.markers import CHANNELS, NO_CHANNEL, Meaning, canonical, meaning

TABLE = [
    ("RATE/PAIN/40", "rating", None, "", 0.4),
    ("CUE/H", "cue", "CUE_H", "H", 0.0),
    ("CUE/L", "cue", "CUE_L", "L", 0.0),
    ("CUE/N", "cue", "CUE_N", "N", 0.0),
    ("CUE/P75/I2", "cue", "CUE_H", "P75/I2", 0.0),
    ("CUE/P100/I2", "cue", "CUE_H", "P100/I2", 0.0),
    ("CUE/P61/I1", "cue", "CUE_H", "P61/I1", 0.0),
    ("CUE/P60/I3", "cue", "CUE_N", "P60/I3", 0.0),
    ("CUE/P40/I3", "cue", "CUE_N", "P40/I3", 0.0),
    ("CUE/P39/I1", "cue", "CUE_L", "P39/I1", 0.0),
    ("CUE/P0/I1", "cue", "CUE_L", "P0/I1", 0.0),
    ("OUT_DUE", "out_due", None, "", 0.0),
    ("STIM/NOX/100", "outcome", "NOX", "", 1.0),
    ("STIM/NOX/60", "outcome", "NOX", "", 0.6),
    ("STIM/NOX/999", "outcome", "NOX", "", 1.0),
    ("STIM/INN/40", "outcome", "INN", "", 0.0),
    ("STIM/OMIT", "outcome", "OMI", "", 0.0),
    ("STIM_OFF", "offset", None, "", 0.0),
]
OTHER = [
    "SESSION/START", "BLOCK/A/END", "TRIAL/12", "TRAIN/3/reg", "RATE/PAIN/101", "RATE/EXPECT/70", "RESP/AWARE/1",
    "TDCS/ARM", "TDCS/RAMP_UP/1", "GATE/ON/9.1/.3", "IMP/4.2", "ART/BLINK/ON", "NOTE/CUE/H", "",
    "cue/h", "CUE/H ", "CUE/X", "CUE/P75", "CUE/P75/I4", "CUE/P1000/I1", "CUE/P101/I1",
    "STIM/NOX", "STIM/NOX/-1", "STIM/NOX/5.5",
    "STIM/NOX/\u0661", "OUT_DUE/1", "CUE/H\n", "\x00CUE/H", "CUE/P\u0667\u0665/I2",
]  # fmt: skip


@pytest.mark.parametrize(("text", "kind", "channel", "cue", "intensity"), TABLE)
def test_the_vocabulary_is_understood(
    text: str, kind: str, channel: str | None, cue: str, intensity: float
) -> None:
    said = meaning(text)
    number = NO_CHANNEL if channel is None else CHANNELS.index(channel)
    assert said == Meaning(kind, number, cue, intensity, text)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", OTHER)
def test_everything_else_is_logged_and_drives_nothing(text: str) -> None:
    assert meaning(text) == Meaning("other", NO_CHANNEL, "", 0.0, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"v":1,"e":"CUE/H"}', "CUE/H"),
        (' {"e": "OUT_DUE", "v": 1, "more": [1]} ', "OUT_DUE"),
        ('{"v":1}', '{"v":1}'),
        ('{"v":1,"e":7}', '{"v":1,"e":7}'),
        ('{"v":1,"e":', '{"v":1,"e":'),
        ("[1]", "[1]"),
        ("  CUE/L\n", "CUE/L"),
        ("", ""),
    ],
)
def test_json_is_unwrapped_and_space_removed(text: str, expected: str) -> None:
    assert canonical(text, {}) == expected


def test_renaming_reaches_plain_and_wrapped_markers() -> None:
    rename = {"target": "STIM/NOX/100", "S  1": "CUE/H"}
    assert canonical("target", rename) == "STIM/NOX/100"
    assert canonical('{"v":1,"e":"target"}', rename) == "STIM/NOX/100"
    assert canonical(" S  1 ", rename) == "CUE/H"
    assert canonical("targets", rename) == "targets"


def test_renaming_is_done_once_and_cannot_loop() -> None:
    assert canonical("a", {"a": "b", "b": "a"}) == "b"


@pytest.mark.parametrize(
    "text",
    [
        "{" * 100_000,
        '{"e":' * 5_000,
        "[" * 511,
        "{" + "[" * 510,
        '{"e":"' + "A" * 10**6,
        "CUE/" + "H" * 10**6,
        '{"e":1e999}',
        "{\ud800}",
    ],
)
def test_hostile_text_costs_little_and_means_nothing(text: str) -> None:
    short = canonical(text, {})
    assert len(short) <= 512
    assert meaning(short).kind == "other"


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.text(max_size=600),
        st.from_regex(r"\{.{0,40}\}"),
        st.from_regex(r"(CUE|STIM)/[A-Z0-9/]{0,9}", fullmatch=True),
    )
)
def test_no_text_raises(text: str) -> None:
    said = meaning(canonical(text, {"a": "CUE/H"}))
    assert -1 <= said.channel < len(CHANNELS)
    assert 0.0 <= said.intensity <= 1.0
