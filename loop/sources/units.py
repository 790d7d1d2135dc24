"""Units of voltage, in the spellings that amplifiers and files use."""

from __future__ import annotations

from typing import Final

_PREFIXES: Final = {
    "": 1e6,
    "m": 1e3,
    "milli": 1e3,
    "u": 1.0,
    "\N{MICRO SIGN}": 1.0,
    "\N{GREEK SMALL LETTER MU}": 1.0,
    "micro": 1.0,
    "n": 1e-3,
    "nano": 1e-3,
}
_STEMS: Final = ("volts", "volt", "v")

# mne-lsl gives a channel's unit as the power of ten of a volt.
_POWERS: Final = {"0": 1e6, "-3": 1e3, "-6": 1.0, "-9": 1e-3}


def microvolts_per(unit: str) -> float | None:
    """Factor from a unit of voltage to microvolts.

    Parameters
    ----------
    unit : str
        A unit as a stream or file spells it, such as ``microvolts``, ``uV``, ``mV`` or ``Volt``, or as the
        power of ten of a volt (``-6``). Upper and lower case are the same, so ``MV`` is taken for millivolts:
        no amplifier measures in megavolts.

    Returns
    -------
    float or None
        Microvolts in one `unit`; None where the text is no unit of voltage.
    """
    folded = unit.strip().lower()
    for stem in _STEMS:
        if folded.endswith(stem):
            return _PREFIXES.get(folded.removesuffix(stem).rstrip())
    return _POWERS.get(folded)
