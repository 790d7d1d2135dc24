"""The table that `check` prints holds the bounds of the safety document for the reference device (I24)."""

from __future__ import annotations

import msgspec
import pytest
from guard_doubles import make_settings

from devices.limits import effective
from devices.reference import CAPABILITIES
from devices.stimulator import StopClass
from devices.time_to_zero import time_to_zero

FULL = make_settings(level_ua=2000, ramp_s=32.0, max_charge_uc=2_000_000)


@pytest.mark.parametrize(
    ("cause", "stop_class", "most_s"),
    [
        ("emergency stop", StopClass.S0_CUT, 0.25),
        ("the EEG stream", StopClass.S1_ABORT_RAMP, 1.4),
        ("the engine dies", StopClass.S1_ABORT_RAMP, 1.2),
        ("the engine hangs", StopClass.S1_ABORT_RAMP, 1.5),
        ("garbage", StopClass.S0_CUT, 0.40),
        ("over-current", StopClass.S0_CUT, 0.40),
        ("a current or set point", StopClass.S0_CUT, 0.40),
        ("impedance", StopClass.S1_ABORT_RAMP, 1.4),
        ("the device answers late", StopClass.S1_ABORT_RAMP, 1.4),
        ("no room", StopClass.S1_ABORT_RAMP, 1.4),
        ("the guard dies", StopClass.S0_CUT, 0.42),
    ],
)
def test_bounds_for_the_reference_device(cause: str, stop_class: StopClass, most_s: float) -> None:
    rows = [row for row in time_to_zero(CAPABILITIES, effective(FULL, CAPABILITIES)) if row.cause.startswith(cause)]
    assert len(rows) == 1
    assert rows[0].stop_class is stop_class
    assert rows[0].bound_s is not None
    assert 0.0 < rows[0].bound_s <= most_s
    assert f"{rows[0].bound_s:g} s" in rows[0].words


def test_a_slower_device_has_longer_bounds_in_every_row() -> None:
    slow = msgspec.structs.replace(CAPABILITIES, command_latency_s=0.5, host_timeout_s=2.0, min_transition_s=31.0)
    limits = effective(FULL, CAPABILITIES)
    for fast_row, slow_row in zip(time_to_zero(CAPABILITIES, limits, 32.0), time_to_zero(slow, limits, 32.0), strict=True):
        assert fast_row.bound_s is not None and slow_row.bound_s is not None
        assert slow_row.bound_s >= fast_row.bound_s + 0.45
        if slow_row.stop_class is not StopClass.S2_SESSION_RAMP:
            assert slow_row.bound_s > 31.0


def test_what_nothing_ends_has_no_bound_and_says_so() -> None:
    dumb = msgspec.structs.replace(CAPABILITIES, self_expiring_lease=False, hardware_watchdog=False, measures_current=False)
    rows = {row.cause[:9]: row for row in time_to_zero(dumb, effective(FULL, dumb))}
    assert rows["the guard"].bound_s is None
    assert "must not be armed" in rows["the guard"].words
    assert rows["over-curr"].bound_s is None


def test_the_modes_of_one_driver_have_tables_of_their_own() -> None:
    """A peak of at most 30 s that nobody has proven, beside a watchdog that counts whole seconds."""
    peak = msgspec.structs.replace(
        CAPABILITIES, hardware_watchdog=False, host_timeout_s=30.0, command_latency_s=0.5, caveat="unproven on hardware"
    )
    watchdog = msgspec.structs.replace(CAPABILITIES, self_expiring_lease=False, host_timeout_s=2.0, command_latency_s=0.05)
    rows = {
        name: next(row for row in time_to_zero(can, effective(FULL, can)) if row.cause.startswith("the guard dies"))
        for name, can in (("peak", peak), ("watchdog", watchdog))
    }
    assert rows["peak"].bound_s == pytest.approx(30.6)
    assert rows["peak"].words.endswith("(unproven on hardware)")
    assert rows["watchdog"].bound_s is not None
    assert rows["watchdog"].bound_s <= 2.2
