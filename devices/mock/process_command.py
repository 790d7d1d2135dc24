"""The command line that all emulated devices have in common: its arguments, and the exit codes of what it starts.

Exit codes: 0 ended in order, 2 wrong arguments, 3 a path or address could not be used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from devices import priority
from devices.mock import faults, numbers
from devices.mock.device_rig import DeviceRig, PathError, ProcessSettings
from devices.mock.electrodes import ElectrodeParameters
from devices.mock.fault_spec import FaultSpec


def parser(module: str, description: str, example: str) -> argparse.ArgumentParser:
    """A parser that knows what all devices with electrodes take; a device adds its own."""
    made = parser_without_body(module, description, example)
    made.add_argument(
        "--electrodes",
        default=numbers.DEFAULT_PAIR,
        metavar="NAME[:key=value,...]",
        help=f"the pair and its numbers: {', '.join(numbers.pairs())} (default {numbers.DEFAULT_PAIR})",
    )
    return made


def parser_without_body(module: str, description: str, example: str) -> argparse.ArgumentParser:
    """As `parser`, for a device that touches no skin."""
    made = argparse.ArgumentParser(prog=f"python -m {module}", description=description, epilog=f"example: {example}")
    made.set_defaults(electrodes=numbers.DEFAULT_PAIR)
    made.add_argument("--meter", type=Path, metavar="FILE", help="write what truly flows to this file")
    made.add_argument("--control", metavar="PATH", help="listen on this local socket; '-' takes standard input")
    made.add_argument("--seed", type=int, default=0, help="draws errors, latencies and noise (default 0)")
    made.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="NAME[:key=value,...][@SECONDS]",
        help="inject a fault SECONDS after the start, at once without; may be given more than once",
    )
    return made


def settings(
    of: argparse.ArgumentParser, given: argparse.Namespace, vocabulary: Mapping[str, FaultSpec]
) -> ProcessSettings:
    """What the arguments of `parser` say; ends the process with code 2 where they are wrong."""
    try:
        chosen = tuple(faults.parse(text, vocabulary) for text in given.fault)
        body = ElectrodeParameters.named(given.electrodes)
    except (faults.FaultError, numbers.NumberError) as error:
        of.error(str(error))
    return ProcessSettings(
        seed=given.seed,
        body=body,
        meter=given.meter,
        control=given.control if given.control in (None, "-") else Path(given.control),
        faults=chosen,
    )


def serve(make: Callable[[], DeviceRig]) -> int:
    """Be the device until told to stop; returns the exit code."""
    try:
        priority.claim_processor(priority.HARDWARE)
        rig = make()
    except PathError as error:
        print(error.args[0], file=sys.stderr)
        return 3
    try:
        rig.serve()
    finally:
        rig.close()
    return 0


def print_line(text: str) -> None:
    """Where a rig announces itself to whoever has started it."""
    print(text, flush=True)
