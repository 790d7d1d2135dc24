"""Which stimulators can be emulated on their own transport: what ``cereloop mock stimulator --protocol NAME`` starts.

An emulator is one module with `main(arguments) -> int`, which takes ``--seed N``, ``--meter FILE``, ``--control PATH`` and
``--fault SPEC`` as `devices.mock.stimulator_process` does, ``--link PATH`` where it is a serial line and ``--listen
HOST:PORT`` where it is a server, and prints one line of JSON once it answers: ``port`` is what goes into ``device.port``;
and with `FAULTS`, the faults it knows by name.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from devices.mock.fault_spec import FaultSpec

MODULES: Final = {
    "reference": "devices.mock.stimulator_process",
    "nic2": "devices.mock.nic2_process",
    "labjack": "devices.mock.labjack_process",
    "magstim": "devices.mock.magstim_process",
}


class Emulator(Protocol):
    """What such a module provides."""

    FAULTS: Mapping[str, FaultSpec]

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Be the device until SIGTERM or SIGINT; returns the exit code."""
        ...


def find(name: str) -> Emulator | None:
    """The emulator of a protocol; None if there is none of that name."""
    if name not in MODULES:
        return None
    module: Emulator = importlib.import_module(MODULES[name])
    return module
