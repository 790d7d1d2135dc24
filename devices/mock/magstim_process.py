"""The emulated Magstim as a process of its own, on a pty in real time; its pulse meter outlives whoever drives it.

    python -m devices.mock.magstim_process --meter run.pulses --link /tmp/magstim --fault hot_coil@30

Paths, control channel and exit codes are those of `devices.mock.stimulator_process`; the meter's file is that of
`devices.mock.pulse_meter`. Firmware 9 wants the unlock code ``cereloop``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from devices import priority
from devices.mock import faults
from devices.mock.magstim import MagstimModel
from devices.mock.magstim_faults import FAULTS
from devices.mock.pulse_meter import PulseMeter, PulseMeterFile
from devices.mock.stimulator_process import Answer, Model, PathError, ProcessSettings, Rig

__all__ = ["FAULTS", "main"]

FIRMWARES: Final = {"5": (5, 0, 0), "7": (7, 0, 0), "9": (9, 0, 0)}


class MagstimRig(Rig):
    """The unit on a pty, with its pulse meter."""

    known_faults = FAULTS

    def __init__(self, settings: ProcessSettings, announce: Callable[[str], None], firmware: str) -> None:
        self._firmware = FIRMWARES[firmware]
        super().__init__(settings, announce)

    def make_model(self, start_ns: int) -> Model:
        """The unit, and the meter's file where one is wanted. Raises OSError."""
        given = self._settings
        file = PulseMeterFile(given.meter) if given.meter is not None else None
        self._file = file
        self._unit = MagstimModel(start_ns, given.seed, self._firmware, PulseMeter(start_ns, file))
        return self._unit

    def state(self) -> Answer:
        """What `status` tells of the unit."""
        unit = self._unit
        return {
            "armed": unit.armed,
            "remote": unit.remote,
            "firing": unit.firing,
            "power_percent": unit.power,
            "coil_c": round(unit.coil_c, 2),
            "pulses": len(unit.meter.pulses),
            "faults": unit.fault_names,
        }


def _print_line(text: str) -> None:
    print(text, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the process; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m devices.mock.magstim_process",
        description="A Magstim Rapid² on a pty, with a coil and a pulse meter.",
        epilog="example: --meter run.pulses --link /tmp/magstim --fault hot_coil@12.5",
    )
    parser.add_argument("--meter", type=Path, metavar="FILE", help="write every pulse to this file")
    parser.add_argument("--link", type=Path, metavar="PATH", help="make a link of this name to the pty")
    parser.add_argument("--control", metavar="PATH", help="listen on this local socket; '-' takes standard input")
    parser.add_argument("--seed", type=int, default=0, help="draws what `garbage` sends (default 0)")
    parser.add_argument("--firmware", choices=sorted(FIRMWARES), default="9", help="which firmware to be (default 9)")
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="NAME[:key=value,...][@SECONDS]",
        help="inject a fault SECONDS after the start, at once without; may be given more than once",
    )
    given = parser.parse_args(arguments)
    try:
        chosen = tuple(faults.parse(text, FAULTS) for text in given.fault)
    except faults.FaultError as error:
        parser.error(str(error))
    control = given.control if given.control in (None, "-") else Path(given.control)
    settings = ProcessSettings(seed=given.seed, meter=given.meter, link=given.link, control=control, faults=chosen)
    try:
        priority.claim_processor(priority.HARDWARE)
        rig = MagstimRig(settings, _print_line, given.firmware)
    except PathError as error:
        print(error.args[0], file=sys.stderr)
        return 3
    try:
        rig.serve()
    finally:
        rig.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
