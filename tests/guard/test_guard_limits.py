"""Limits only narrow, keep their reasons, and no setting raises a ceiling (I01, I06, F50)."""

from __future__ import annotations

import math

import msgspec
import pytest
from guard_doubles import CAPABILITIES, make_settings
from hypothesis import given
from hypothesis import strategies as st

from devices import limits
from devices.limits import LimitError, ceiling, check_settings, effective, gate_dose


@given(st.lists(st.floats(0.0, 1e7), max_size=8))
def test_a_limit_is_the_least_of_all_it_was_given(values: list[float]) -> None:
    limit = ceiling("level", "uA", 2000.0)
    for index, value in enumerate(values):
        limit = limit.narrowed(value, f"reason {index}")
    assert limit.value == min([2000.0, *values])
    assert limit.original == 2000.0
    assert len(limit.reasons) == len(values) + 1
    first = [2000.0, *values].index(limit.value)
    assert limit.binding == limit.reasons[first]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0])
def test_a_limit_refuses_what_is_no_bound(value: float) -> None:
    with pytest.raises(LimitError, match="level: test gives"):
        ceiling("level", "uA", 2000.0).narrowed(value, "test")


def test_ceilings_are_those_of_the_safety_document() -> None:
    assert limits.MAX_LEVEL_UA == 2000
    assert limits.MAX_DENSITY_UA_CM2 == {"pad": 100.0, "hd": 700.0}
    assert (limits.MAX_SLEW_UA_S, limits.NEVER_ABOVE_SLEW_UA_S, limits.ABORT_SLEW_UA_S) == (100, 200, 2000)
    assert (limits.MAX_ON_TIME_S, limits.MAX_CHARGE_UC) == (1200.0, 2_400_000)
    assert (limits.ARM_BELOW_OHM, limits.STOP_ABOVE_OHM) == (10_000, 20_000)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("max_level_ua", 2001, "2000 uA"),
        ("max_density_ua_cm2", 100.1, "100 uA/cm2 under electrode pad"),
        ("max_slew_ua_s", 101, "100 uA/s"),
        ("max_charge_uc", 2_400_001, "2400000 uC"),
        ("max_on_time_s", 1200.5, "1200 s"),
        ("arm_below_ohm", 10_001, "10000 ohm"),
        ("stop_above_ohm", 20_001, "20000 ohm"),
        ("max_density_ua_cm2", math.inf, "100 uA/cm2"),
        ("max_on_time_s", math.nan, "1200 s"),
    ],
)
def test_a_setting_that_raises_a_ceiling_is_refused_by_name(key: str, value: float, words: str) -> None:
    with pytest.raises(LimitError) as refused:
        check_settings(make_settings(**{key: value}))
    assert f"limits.{key} is" in str(refused.value)
    assert words in str(refused.value)


def test_a_setting_at_the_ceiling_is_allowed() -> None:
    check_settings(make_settings(max_level_ua=2000, max_charge_uc=2_400_000, max_on_time_s=1200.0))


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        (
            dict(level_ua=400, max_level_ua=300, ramp_s=10.0),
            "stimulation.level_ua is 400",
            "limits.max_level_ua: 300",
        ),
        (dict(level_ua=400, contact_area_cm2=3.0, ramp_s=10.0), "stimulation.level_ua is 400", "on 3 cm2"),
        (
            dict(level_ua=400, max_density_ua_cm2=10.0, ramp_s=10.0),
            "at most 250 uA",
            "limits.max_density_ua_cm2",
        ),
        (dict(level_ua=1000, ramp_s=15.0), "stimulation.ramp_s is 15", "write 15.8 or more"),
        (dict(max_slew_ua_s=50), "stimulation.ramp_s is 5", "limits.max_slew_ua_s: 50 uA/s"),
        (dict(hold_s=700.0, max_charge_uc=2_400_000), "stimulation.hold_s is 700", "limits.max_on_time_s"),
        (dict(max_charge_uc=3000), "stimulation.hold_s is 10", "limits.max_charge_uc: 3000 uC"),
        (dict(arm_below_ohm=10_000, stop_above_ohm=9000), "limits.arm_below_ohm is 10000", "9000"),
        (dict(contact_area_cm2=math.nan), "stimulation.contact_area_cm2", "finite"),
    ],
)
def test_settings_that_the_limits_cannot_hold_are_refused(changes: dict[str, float], key: str, words: str) -> None:
    with pytest.raises(LimitError) as refused:
        check_settings(make_settings(**changes))
    assert key in str(refused.value)
    assert words in str(refused.value)


def test_the_shortest_ramp_that_is_named_is_accepted() -> None:
    check_settings(make_settings(level_ua=1000, ramp_s=15.8, max_charge_uc=1_000_000))


def test_hd_electrodes_have_their_own_density() -> None:
    settings = make_settings(electrode="hd", contact_area_cm2=1.0, max_density_ua_cm2=700.0)
    check_settings(settings)
    assert effective(settings, None).level_ua.value == 200
    with pytest.raises(LimitError, match="max_density_ua_cm2"):
        check_settings(make_settings(electrode="pad", max_density_ua_cm2=700.0))


def test_the_device_narrows_and_says_so() -> None:
    merged = effective(make_settings(), msgspec.structs.replace(CAPABILITIES, max_level_ua=150))
    assert merged.level_ua.value == 150
    assert merged.level_ua.binding == "device: 150 uA"
    assert merged.level_ua.original == 2000
    assert any("limits.max_level_ua" in reason for reason in merged.level_ua.reasons)
    assert any("level at most 150 uA (device: 150 uA)" in sentence for sentence in merged.sentences())


def test_the_configured_level_itself_is_a_limit() -> None:
    assert effective(make_settings(level_ua=120), CAPABILITIES).level_ua.binding == "stimulation.level_ua: 120 uA"


def test_gate_dose_covers_the_exact_gate_and_little_more() -> None:
    stimulation = make_settings(level_ua=200, ramp_s=5.0, hold_s=10.0).stimulation
    dt = 1e-3
    ramp_uc = sum(200 * (1 - math.cos(math.pi * n * dt / 5.0)) / 2 * dt for n in range(5000))
    exact_uc = 2 * ramp_uc + 200 * 10.0
    dose = gate_dose(stimulation)
    assert exact_uc <= dose.charge_uc <= 1.05 * (exact_uc + 200) + 1
    assert dose.on_time_ms == 21_000


def test_each_limit_says_its_value_its_unit_and_what_binds() -> None:
    settings = make_settings(max_slew_ua_s=90, max_charge_uc=5000, max_on_time_s=30.0, arm_below_ohm=8000, stop_above_ohm=9000)
    merged = effective(settings, None)
    assert merged.sentences() == [
        "level at most 200 uA (stimulation.level_ua: 200 uA)",
        "slew at most 90 uA/s (limits.max_slew_ua_s: 90 uA/s)",
        "charge at most 5000 uC (limits.max_charge_uc: 5000 uC)",
        "time with current at most 30 s (limits.max_on_time_s: 30 s)",
        "impedance to arm at most 8000 ohm (limits.arm_below_ohm: 8000 ohm)",
        "impedance at most 9000 ohm (limits.stop_above_ohm: 9000 ohm)",
    ]
    assert [limit.reasons[0] for limit in merged] == [
        "ceiling in code: 2000 uA",
        "ceiling in code: 100 uA/s",
        "ceiling in code: 2400000 uC",
        "ceiling in code: 1200 s",
        "ceiling in code: 10000 ohm",
        "ceiling in code: 20000 ohm",
    ]


def test_what_just_fits_is_accepted_and_what_just_does_not_is_told_by_how_much() -> None:
    dose = gate_dose(make_settings().stimulation)
    check_settings(make_settings(max_charge_uc=dose.charge_uc, max_on_time_s=dose.on_time_ms / 1000.0))
    check_settings(make_settings(arm_below_ohm=9000, stop_above_ohm=9000))
    slope = limits.ramp_peak_slope_ua_s(200, 10.0)
    check_settings(make_settings(level_ua=200, ramp_s=10.0, max_slew_ua_s=slope))
    with pytest.raises(LimitError) as refused:
        check_settings(make_settings(max_on_time_s=20.99))
    assert str(refused.value) == (
        "stimulation.hold_s is 10: one gate can need 21 s with current, above the session's 20.99 s "
        "(limits.max_on_time_s: 20.99 s); shorten it"
    )
    with pytest.raises(LimitError) as refused:
        check_settings(make_settings(contact_area_cm2=math.inf))
    assert str(refused.value) == "stimulation.contact_area_cm2 is not a finite number; write the area in cm2"
