"""What a channel is called: every maker's spelling of a 10-05 label, brought to one."""

from __future__ import annotations

import re
from typing import Final

from devices import ten_five

Direction = ten_five.Direction

_SPELLING: Final = {name.casefold(): name for name in ten_five.NAMES}

# Older and makers' names. CB1 and CB2 have no place in the 10-05 system; PO9 and PO10 are the nearest sites.
_ALIASES: Final = {
    "t3": "T7",
    "t4": "T8",
    "t5": "P7",
    "t6": "P8",
    "o9": "I1",
    "o10": "I2",
    "cb1": "PO9",
    "cb2": "PO10",
    "inion": "Iz",
}

_PREFIX: Final = re.compile(r"^eeg[\s_:.-]*(?=\w)", re.IGNORECASE)
_REFERENCE: Final = re.compile(r"[\s_-]+(ref|le|re|ar|avg|av|cz|a1|a2|m1|m2|a1a2|m1m2|linked)\d*$", re.IGNORECASE)


def standard_label(label: str) -> str:
    """Bring a channel's name to the usual spelling of the 10-05 system.

    Parameters
    ----------
    label : str
        A name as the file or stream gives it, such as ``Oz..``, ``EEG Fp1-Ref``, ``fcz`` or ``T3``.

    Returns
    -------
    str
        The 10-05 name, such as ``Oz``, ``Fp1``, ``FCz``, ``T7``; the input without surrounding space and dots
        where it is none.
    """
    stripped = label.strip().strip(".").strip()
    bare = _PREFIX.sub("", stripped)
    for candidate in (stripped, bare, _REFERENCE.sub("", bare)):
        key = candidate.casefold()
        known = _ALIASES.get(key) or _SPELLING.get(key)
        if known is not None:
            return known
    return stripped


def is_eeg_label(label: str) -> bool:
    """Whether a name, in any known spelling, is a site of the 10-05 system."""
    return ten_five.direction(standard_label(label)) is not None


def spherical_position(label: str) -> Direction | None:
    """Direction of a site from the centre of the head.

    Parameters
    ----------
    label : str
        A channel's name in any known spelling.

    Returns
    -------
    tuple of three float, or None
        Unit vector, x right, y front, z up; None for a name that is no site of the 10-05 system.
    """
    return ten_five.direction(standard_label(label))
