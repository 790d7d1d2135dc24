"""Units of voltage, however spelt."""

from __future__ import annotations

import pytest

from loop.sources.units import microvolts_per


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("microvolts", 1.0),
        ("Microvolt", 1.0),
        ("uV", 1.0),
        ("µV", 1.0),
        ("μV", 1.0),
        ("mV", 1e3),
        ("millivolts", 1e3),
        ("V", 1e6),
        ("volt", 1e6),
        ("nV", 1e-3),
        (" nanovolts ", 1e-3),
        ("-6", 1.0),
        ("0", 1e6),
    ],
)
def test_volts_in_any_spelling(unit: str, factor: float) -> None:
    assert microvolts_per(unit) == factor


@pytest.mark.parametrize("unit", ["", "g", "dps", "none", "counts", "kV", "mmHg", "1", "eV"])
def test_anything_else_is_refused(unit: str) -> None:
    assert microvolts_per(unit) is None
