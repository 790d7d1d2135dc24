"""Skin and contact physics against values worked by hand."""

from __future__ import annotations

import math

import pytest

from devices.mock.electrodes import SOUND, Contact, ElectrodeParameters, ElectrodeState, skin_ohm, step

STILL = ElectrodeParameters(cardiac_modulation=0.0, respiratory_modulation=0.0)
MS = 1e-3


def drive(
    body: ElectrodeParameters, demand_ua: float, ms: int, contact: Contact = SOUND, compliance_v: float = 20.0
) -> tuple[ElectrodeState, float, float]:
    state, current, voltage = ElectrodeState(), 0.0, 0.0
    for k in range(1, ms + 1):
        state, current, voltage = step(body, state, contact, demand_ua, compliance_v, k * MS, MS)
    return state, current, voltage


def test_resistance_falls_with_charge_to_1_over_e_of_its_way() -> None:
    assert skin_ohm(STILL, 0.0, 0.0) == 7600.0
    assert skin_ohm(STILL, 15_000.0, 0.0) == pytest.approx(4600.0 + 3000.0 / math.e)
    assert skin_ohm(STILL, 1e9, 0.0) == pytest.approx(4600.0)


def test_charge_is_the_integral_of_the_magnitude() -> None:
    assert drive(STILL, 1500.0, 2000)[0].charge_uc == pytest.approx(3000.0)
    assert drive(STILL, -1500.0, 2000)[0].charge_uc == pytest.approx(3000.0)


def test_drying_adds_half_a_percent_a_minute_after_ten_minutes() -> None:
    assert skin_ohm(STILL, 1e9, 600.0) == pytest.approx(4600.0)
    assert skin_ohm(STILL, 1e9, 1200.0) == pytest.approx(4600.0 * 1.05)


def test_breathing_modulates_by_a_tenth_of_a_percent() -> None:
    body = ElectrodeParameters(cardiac_modulation=0.0)
    assert skin_ohm(body, 0.0, 1.0) == pytest.approx(7600.0 * 1.001)
    assert skin_ohm(body, 0.0, 3.0) == pytest.approx(7600.0 * 0.999)


def test_voltage_settles_to_ohms_law_with_the_time_constant_of_the_interface() -> None:
    body = ElectrodeParameters(
        polarisation_v=0.0, cardiac_modulation=0.0, respiratory_modulation=0.0, skin_initial_ohm=4600.0
    )
    tau_ms = 4600.0 * 0.5e-6 * 1e3
    _, _, voltage = drive(body, 1000.0, 2)
    assert voltage == pytest.approx(0.4 + 4.6 * (1.0 - math.exp(-2.0 / tau_ms)))
    assert drive(body, 1000.0, 50)[2] == pytest.approx(5.0)


def test_polarisation_grows_towards_its_share_and_decays_with_its_time_constant() -> None:
    state, _, _ = drive(STILL, 200.0, 300_000)
    assert state.polarisation_v == pytest.approx(0.75, rel=1e-3)
    later, _, voltage = step(STILL, state, SOUND, 0.0, 20.0, 330.0, 30.0)
    assert later.polarisation_v == pytest.approx(0.75 / math.e, rel=1e-3)
    assert voltage == pytest.approx(later.polarisation_v)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_compliance_limits_the_current_not_the_voltage(sign: float) -> None:
    body = ElectrodeParameters(
        polarisation_v=0.0, cardiac_modulation=0.0, respiratory_modulation=0.0, decay_charge_uc=1e12
    )
    _, current, voltage = drive(body, sign * 2000.0, 100, compliance_v=12.0)
    assert voltage == pytest.approx(sign * 12.0)
    assert current == pytest.approx(sign * 12.0 / 8000.0 * 1e6)


def test_an_open_lead_passes_four_microamps_at_most() -> None:
    _, current, voltage = drive(STILL, 2000.0, 100, Contact(lead_ohm=5e6))
    assert current == pytest.approx(20.0 / 5.0084e6 * 1e6, rel=1e-2)
    assert voltage == pytest.approx(20.0)


def test_a_long_rest_equals_many_short_ones() -> None:
    state, _, _ = drive(STILL, 1000.0, 1000)
    long, _, _ = step(STILL, state, SOUND, 0.0, 20.0, 1.020, 0.020)
    short = state
    for k in range(20):
        short, _, _ = step(STILL, short, SOUND, 0.0, 20.0, 1.001 + k * MS, MS)
    assert long.interface_v == pytest.approx(short.interface_v, rel=1e-6)
    assert long.polarisation_v == pytest.approx(short.polarisation_v, rel=1e-9)
    assert long.charge_uc == short.charge_uc


def test_initial_impedance_is_fit_for_arming_and_the_settled_one_is_lower() -> None:
    body = ElectrodeParameters()
    assert 7000.0 <= body.bulk_ohm + body.skin_initial_ohm <= 9000.0
    assert body.bulk_ohm + body.skin_settled_ohm == 5000.0


def test_joined_electrodes_are_a_resistor_without_memory() -> None:
    state, _, _ = drive(STILL, 1000.0, 5000)
    after, current, voltage = step(STILL, state, Contact(direct_ohm=60.0), 1000.0, 20.0, 5.001, MS)
    assert current == 1000.0
    assert voltage == pytest.approx(0.06)
    assert (after.interface_v, after.polarisation_v) == (0.0, 0.0)
    assert after.charge_uc == pytest.approx(state.charge_uc + 1.0)
