"""The emulated Magstim as a process of its own, on a pty in real time; its pulse meter outlives whoever drives it.

    python -m devices.mock.magstim_process --meter run.pulses --link /tmp/magstim --fault hot_coil@30

Paths, control channel and exit codes are those of `devices.mock.stimulator_process`; the meter's file is that of
`devices.mock.pulse_meter`. Firmware 9 wants the unlock code ``cereloop``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from devices.mock import process_command
from devices.mock.device_rig import MeterSink, ProcessSettings
from devices.mock.magstim import MagstimModel
from devices.mock.magstim_faults import FAULTS
from devices.mock.meter import Meter
from devices.mock.pty_rig import PtyRig
from devices.mock.pulse_meter import PulseMeter, PulseMeterFile

__all__ = ["FAULTS", "main"]

FIRMWARES: Final = {"5": (5, 0, 0), "7": (7, 0, 0), "9": (9, 0, 0)}


class _Rig(PtyRig):
    """The unit on a pty, with its pulse meter."""

    vocabulary = FAULTS

    def __init__(self, settings: ProcessSettings, firmware: str, announce: Callable[[str], None]) -> None:
        self._firmware = FIRMWARES[firmware]
        self._pulse_file: PulseMeterFile | None = None
        super().__init__(settings, announce)

    def _open_meter(self, path: Path) -> MeterSink:
        self._pulse_file = PulseMeterFile(path)
        return self._pulse_file

    def _make_model(self, _meter: Meter) -> MagstimModel:
        pulses = PulseMeter(self._start_ns, self._pulse_file)
        return MagstimModel(self._start_ns, self._settings.seed, self._firmware, pulses)

    def _deliver(self, data: bytes, now_ns: int) -> None:
        # The unit drops a command whose bytes lie apart: what waited is heard together, half way through the wait.
        if data:
            self._model.receive(data, self._last_ns + (now_ns - self._last_ns) // 2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the process; returns its exit code."""
    parser = process_command.parser_without_body(
        "devices.mock.magstim_process",
        "A Magstim Rapid² on a pty, with a coil and a pulse meter.",
        "--meter run.pulses --link /tmp/magstim --fault hot_coil@12.5",
    )
    parser.add_argument("--link", type=Path, metavar="PATH", help="make a link of this name to the pty")
    parser.add_argument("--firmware", choices=sorted(FIRMWARES), default="9", help="which firmware to be (default 9)")
    given = parser.parse_args(arguments)
    settings = msgspec.structs.replace(process_command.settings(parser, given, FAULTS), link=given.link)
    return process_command.serve(lambda: _Rig(settings, given.firmware, process_command.print_line))


if __name__ == "__main__":
    sys.exit(main())
