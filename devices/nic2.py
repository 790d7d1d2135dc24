"""Driver ``nic2``: Neuroelectrics Starstim through NIC2's remote stimulation server (TCP 1235).

Modes and settings are in `devices.nic2_modes`, the verbs in `devices.nic2_driver`, what NIC is told in `devices.nic2_session`.
"""

from __future__ import annotations

from typing import Final

from devices.driver import Driver, DriverError, tcp_address
from devices.nic2_driver import Nic2Stimulator
from devices.nic2_modes import MODES, Mode, Nic2Options, capabilities
from devices.tcp_wire import TcpWire

__all__ = ["DRIVER", "NIC_PORT", "Nic2Stimulator"]

NIC_PORT: Final = 1235


def _build(mode: str, port: str, options: Nic2Options) -> Nic2Stimulator:
    host, number = tcp_address(port, NIC_PORT)
    if mode == "timed" and options.protocol_s is None:
        raise DriverError("key `device.options.protocol_s` is missing: mode timed needs the duration of the NIC protocol")
    if mode == "timed" and not options.accept_unproven_expiry:
        raise DriverError(
            "key `device.options.accept_unproven_expiry` is not true: mode timed rests on NIC ending its protocol after this "
            "program has died, which is not proven on hardware; accept it in words, or choose mode peak"
        )
    chosen: dict[str, Mode] = {"peak": "peak", "timed": "timed", "plain": "plain"}
    return Nic2Stimulator(TcpWire(host, number), chosen[mode], options)


DRIVER: Final = Driver(
    name="nic2",
    summary="Neuroelectrics Starstim through NIC2's remote stimulation server (TCP 1235)",
    modes=MODES,
    options=Nic2Options,
    capabilities=capabilities,
    build=_build,
)
