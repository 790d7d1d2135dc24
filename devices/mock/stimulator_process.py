"""The mock stimulator as a process of its own, on a pty in real time; its meter outlives whoever drives it.

    python -m devices.mock.stimulator_process --meter run.meter --link /tmp/stimulator --fault open_circuit@30

It prints one line of JSON (port, link, meter, control, pid, t_ns) when it is ready, and ends on SIGTERM or
SIGINT.

Control, one command a line, one line of JSON back; over the local socket of ``--control PATH``, or over
standard input and output with ``--control -`` (then the end of input ends the process):

    inject NAME[:key=value,...][@SECONDS]    clear NAME    status    unplug    quit

``unplug`` pulls the cable for good: the line hangs up, the device and its meter live on.

Exit codes: 0 ended in order, 2 wrong arguments, 3 a path could not be used.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from devices.mock import process_command
from devices.mock.meter import Meter
from devices.mock.pty_rig import PtyRig
from devices.mock.reference_faults import FAULTS
from devices.mock.stimulator import StimulatorModel

__all__ = ["FAULTS", "main"]


class _Rig(PtyRig):
    vocabulary = FAULTS

    def _make_model(self, meter: Meter) -> StimulatorModel:
        return StimulatorModel(self._start_ns, self._settings.seed, self._settings.body, meter=meter)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the process; returns its exit code."""
    parser = process_command.parser(
        "devices.mock.stimulator_process",
        "A stimulator that speaks the reference serial protocol, with a body and a meter.",
        "--meter run.meter --link /tmp/stimulator --fault over_current:extra_ua=300@12.5",
    )
    parser.add_argument("--link", type=Path, metavar="PATH", help="make a link of this name to the pty")
    given = parser.parse_args(arguments)
    settings = msgspec.structs.replace(process_command.settings(parser, given, FAULTS), link=given.link)
    return process_command.serve(lambda: _Rig(settings, process_command.print_line))


if __name__ == "__main__":
    sys.exit(main())
