"""Skin and contact of one electrode pair: what a constant current meets, stepped in time.

The pair is a bulk resistance in series with one interface: a skin resistance R beside a capacitance C, and a
polarisation voltage E:

    V = E + I R_bulk + v,    dv/dt = I/C - v/(R C),    R(Q) = R_inf + (R_0 - R_inf) exp(-Q/Q_0)

with Q the charge that has passed, whatever its sign. R also drifts by drying and breathes with heart and
lungs. Where each number comes from is in ``numbers.toml``.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from devices.mock import numbers

_TWO_PI: Final = 2.0 * math.pi
_UA: Final = 1e-6
_PADS: Final = numbers.values(numbers.DEFAULT_PAIR)


class ElectrodeParameters(msgspec.Struct, frozen=True, kw_only=True):
    """A pair of electrodes on skin; by default saline pads of 25-35 cm2 on prepared skin.

    Every number's range and provenance is in ``numbers.toml``. Resistances in ohm: `bulk_ohm` of head and leads, skin before
    current and once settled; `decay_charge_uc` carries the skin from the one to the other. `polarisation_half_ua` is the
    current of half the polarisation voltage. Drying is a share a second, from `drying_after_s` on; heart and lungs modulate
    the skin by a share.
    """

    bulk_ohm: float = _PADS["bulk_ohm"]
    skin_initial_ohm: float = _PADS["skin_initial_ohm"]
    skin_settled_ohm: float = _PADS["skin_settled_ohm"]
    decay_charge_uc: float = _PADS["decay_charge_uc"]
    interface_uf: float = _PADS["interface_uf"]
    polarisation_v: float = _PADS["polarisation_v"]
    polarisation_half_ua: float = _PADS["polarisation_half_ua"]
    polarisation_tau_s: float = _PADS["polarisation_tau_s"]
    drying_per_s: float = _PADS["drying_per_s"]
    drying_after_s: float = _PADS["drying_after_s"]
    cardiac_modulation: float = _PADS["cardiac_modulation"]
    respiratory_modulation: float = _PADS["respiratory_modulation"]
    cardiac_hz: float = _PADS["cardiac_hz"]
    respiratory_hz: float = _PADS["respiratory_hz"]

    @classmethod
    def named(cls, text: str) -> ElectrodeParameters:
        """The pair written as ``NAME[:key=value,...]``, such as ``gel_hd:skin_settled_ohm=3000``. Raises NumberError."""
        return cls(**numbers.pair_values(text))


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
        + parameters.cardiac_modulation * math.sin(_TWO_PI * parameters.cardiac_hz * t_s)
        + parameters.respiratory_modulation * math.sin(_TWO_PI * parameters.respiratory_hz * t_s)
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
