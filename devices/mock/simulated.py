"""The driver ``simulated``: the mock stimulator in the session's own process, on the virtual clock only."""

from __future__ import annotations

from typing import Final, Never

from devices.driver import Driver, DriverError, NoOptions
from devices.reference import CAPABILITIES


def _build(_mode: str, _port: str, _options: NoOptions) -> Never:
    raise DriverError(
        "device.driver = simulated: this driver has no process of its own and runs on the virtual clock only; choose another"
    )


DRIVER: Final = Driver(
    name="simulated",
    summary="the mock stimulator inside a simulation or replay; no hardware, no process, virtual time",
    modes={"virtual": "the reference serial protocol, without a line"},
    options=NoOptions,
    capabilities=lambda _mode, _options: CAPABILITIES,
    build=_build,
)
