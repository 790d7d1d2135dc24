"""The marker vocabulary of the paradigm: text into meaning. Unknown markers are logged, never fatal."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

Kind = Literal["cue", "out_due", "outcome", "offset", "rating", "other"]

# Marker channels of the forward model (K5).
CHANNELS: Final = ("CUE_H", "CUE_L", "CUE_N", "NOX", "INN", "OMI")
NO_CHANNEL: Final = -1

_MAX_TEXT: Final = 512
_CUE_NAMED: Final = re.compile(r"CUE/([HLN])")
_CUE_STATED: Final = re.compile(r"CUE/P([0-9]{1,2}|100)/I([1-3])")
_RATING: Final = re.compile(r"RATE/PAIN/([0-9]{1,2}|100)")
_STIMULUS: Final = re.compile(r"STIM/(NOX|INN)/([0-9]{1,3})")


class Meaning(NamedTuple):
    """What a marker says: `channel` indexes `CHANNELS` (or is -1).

    `intensity` is noxious intensity from 0 to 1, of a rating the rated pain from 0 to 1.
    """

    kind: Kind
    channel: int
    cue: str
    intensity: float
    text: str


def stated_expectation(cue: str, grades: Sequence[float]) -> float | None:
    """The noxious intensity that a cue tells to expect, such as ``P75/I2``: probability times its grade; None if it tells none.

    Parameters
    ----------
    cue : str
        A cue's name without ``CUE/``.
    grades : sequence of float
        Strength of the grades I1, I2, I3, relative to the full intensity.
    """
    match = _CUE_STATED.fullmatch(f"CUE/{cue}")
    return None if match is None else int(match[1]) / 100.0 * grades[int(match[2]) - 1]


def stated_chance(cue: str) -> float | None:
    """The probability of a noxious outcome that a cue states, such as 0.75 for ``P75/I2``; None if it states none."""
    return stated_expectation(cue, (1.0, 1.0, 1.0))


def canonical(text: str, rename: Mapping[str, str]) -> str:
    """The short form of a marker: renamed, and unwrapped from ``{"v":1,"e":"CUE/H"}``."""
    text = text.strip()[:_MAX_TEXT]
    if text in rename:
        return rename[text]
    if text.startswith("{"):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return text
        if isinstance(value, dict) and isinstance(value.get("e"), str):
            inner: str = value["e"]
            return rename.get(inner, inner)
    return text


def meaning(text: str) -> Meaning:
    """Read a canonical marker.

    A stated probability (``CUE/P75/I2``) is filed under H above 60 %, L below 40 %, N between.
    """
    if match := _CUE_NAMED.fullmatch(text):
        return Meaning("cue", "HLN".index(match[1]), match[1], 0.0, text)
    if match := _CUE_STATED.fullmatch(text):
        stated = int(match[1])
        name = "H" if stated > 60 else "L" if stated < 40 else "N"
        return Meaning("cue", "HLN".index(name), text.removeprefix("CUE/"), 0.0, text)
    if text == "OUT_DUE":
        return Meaning("out_due", NO_CHANNEL, "", 0.0, text)
    if text == "STIM/OMIT":
        return Meaning("outcome", CHANNELS.index("OMI"), "", 0.0, text)
    if text == "STIM_OFF":
        return Meaning("offset", NO_CHANNEL, "", 0.0, text)
    if match := _STIMULUS.fullmatch(text):
        intensity = min(int(match[2]), 100) / 100.0 if match[1] == "NOX" else 0.0
        return Meaning("outcome", CHANNELS.index(match[1]), "", intensity, text)
    if match := _RATING.fullmatch(text):
        return Meaning("rating", NO_CHANNEL, "", int(match[1]) / 100.0, text)
    return Meaning("other", NO_CHANNEL, "", 0.0, text)
