"""Skin and contact of one electrode pair: what a constant current meets, stepped in time.

The pair is a bulk resistance in series with one interface: a skin resistance R beside a capacitance C, and a
polarisation voltage E:

    V = E + I R_bulk + v,    dv/dt = I/C - v/(R C),    R(Q) = R_inf + (R_0 - R_inf) exp(-Q/Q_0)

with Q the charge that has passed, whatever its sign. R also drifts by drying and breathes with heart and
lungs. Tags: [V] read in the source named, [I] inferred from it, [M] general knowledge, to be replaced by a
measurement.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

_TWO_PI: Final = 2.0 * math.pi
_UA: Final = 1e-6


class ElectrodeParameters(msgspec.Struct, frozen=True, kw_only=True):
    """A pair of saline pads of 25-35 cm2 on prepared skin."""

    bulk_ohm: float = 400.0  # ohm; head and leads, 200-1000 [M]
    skin_initial_ohm: float = 7600.0  # ohm; with the bulk 8 kOhm: prepared skin, below the arming limit [M]
    skin_settled_ohm: float = 4600.0  # ohm; with the bulk 5 kOhm at 1-2 mA, 3-10 k [M]
    decay_charge_uc: float = 15_000.0  # uC; about 10 s at 1.5 mA, 5-40 mC [M; falling shape from Hahn 2013]
    interface_uf: float = 0.5  # uF; 0.1-5 [M; current dependence in Vargas Luna 2015]
    polarisation_v: float = 1.5  # V; carbon in saline; 0.2 for Ag/AgCl [M]
    polarisation_half_ua: float = 200.0  # uA; current of half that voltage [M]
    polarisation_tau_s: float = 30.0  # s; 20-60 [M]
    drying_per_s: float = 0.005 / 60.0  # 1/s; +0.5 % a minute for saline [M]
    drying_after_s: float = 600.0  # s; since the pads were put on [M]
    cardiac_modulation: float = 0.0005  # of R, at 1.1 Hz [M; modulation itself: Noury 2016]
    respiratory_modulation: float = 0.001  # of R, at 0.25 Hz [M; modulation itself: Noury 2016]


class ElectrodeState(msgspec.Struct, frozen=True, gc=False):
    """What the pair remembers: charge passed (uC), interface voltage (V), polarisation (V)."""

    charge_uc: float = 0.0
    interface_v: float = 0.0
    polarisation_v: float = 0.0


class Contact(msgspec.Struct, frozen=True, gc=False):
    """What a fault does to the contact.

    More ohms in the lead, a factor on the skin, and a direct path of so many ohms (None: there is none) that
    leaves skin and polarisation without current.
    """

    lead_ohm: float = 0.0
    skin_scale: float = 1.0
    direct_ohm: float | None = None


SOUND: Final = Contact()


def skin_ohm(parameters: ElectrodeParameters, charge_uc: float, t_s: float) -> float:
    """Skin resistance of a sound contact.

    Parameters
    ----------
    parameters : ElectrodeParameters
        The pair.
    charge_uc : float
        Charge passed so far, uC.
    t_s : float
        Time since the pads were put on, s.

    Returns
    -------
    float
        Ohm.
    """
    settled = parameters.skin_settled_ohm
    ohm = settled + (parameters.skin_initial_ohm - settled) * math.exp(
        -charge_uc / parameters.decay_charge_uc
    )
    ohm *= (
        1.0
        + parameters.cardiac_modulation * math.sin(_TWO_PI * 1.1 * t_s)
        + parameters.respiratory_modulation * math.sin(_TWO_PI * 0.25 * t_s)
    )
    if t_s > parameters.drying_after_s:
        ohm *= 1.0 + parameters.drying_per_s * (t_s - parameters.drying_after_s)
    return ohm


def step(
    parameters: ElectrodeParameters,
    state: ElectrodeState,
    contact: Contact,
    demand_ua: float,
    compliance_v: float,
    t_s: float,
    dt_s: float,
) -> tuple[ElectrodeState, float, float]:
    """Drive the pair with a current source of limited voltage for one step.

    Parameters
    ----------
    parameters, state, contact
        The pair, what it remembers, and what is wrong with it.
    demand_ua : float
        Current the source tries to make, uA; 0 may also mean that it is not connected.
    compliance_v : float
        Greatest voltage the source can reach, V, either sign.
    t_s : float
        Time at the end of the step since the pads were put on, s.
    dt_s : float
        Length of the step, s. With no demand a long step equals many short ones up to the change of R within
        it.

    Returns
    -------
    state : ElectrodeState
        At the end of the step.
    current_ua : float
        Current that flowed, uA: the demand, or less at the compliance limit.
    voltage_v : float
        Voltage across the pair at the end of the step, V.
    """
    if contact.direct_ohm is not None:
        return _direct(state, contact.direct_ohm + contact.lead_ohm, demand_ua, compliance_v, dt_s)
    skin = skin_ohm(parameters, state.charge_uc, t_s) * contact.skin_scale
    series = parameters.bulk_ohm + contact.lead_ohm
    keep = math.exp(-dt_s / (skin * parameters.interface_uf * 1e-6))
    polarisation = state.polarisation_v * math.exp(-dt_s / parameters.polarisation_tau_s)
    held = polarisation + state.interface_v * keep
    effective = (series + skin * (1.0 - keep)) * _UA
    current = demand_ua
    if demand_ua > 0.0:
        current = max(0.0, min(demand_ua, (compliance_v - held) / effective))
    elif demand_ua < 0.0:
        current = min(0.0, max(demand_ua, (-compliance_v - held) / effective))
    interface = state.interface_v * keep + current * _UA * skin * (1.0 - keep)
    voltage = polarisation + interface + current * _UA * series
    size = abs(current)
    if size:
        wanted = parameters.polarisation_v * current / (size + parameters.polarisation_half_ua)
        polarisation += wanted * dt_s / parameters.polarisation_tau_s
    return ElectrodeState(state.charge_uc + size * dt_s, interface, polarisation), current, voltage


def _direct(
    state: ElectrodeState, ohm: float, demand_ua: float, compliance_v: float, dt_s: float
) -> tuple[ElectrodeState, float, float]:
    """One step with the electrodes joined: a resistor, over which interface and polarisation discharge."""
    limit = compliance_v / ohm / _UA
    current = max(-limit, min(limit, demand_ua))
    return ElectrodeState(state.charge_uc + abs(current) * dt_s), current, current * _UA * ohm
