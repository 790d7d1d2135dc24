"""The mock Starstim as a process of its own: NIC2's server on TCP in real time; its meter outlives whoever drives it.

    python -m devices.mock.nic2_process --listen 127.0.0.1:0 --meter run.meter --fault consent_delayed:delay_s=4

It prints one line of JSON (port, meter, control, pid, t_ns) when it listens, and ends on SIGTERM or SIGINT. Control as of
`devices.mock.stimulator_process`. One client is served at a time; another is turned away at once. With ``--outlet NAME`` a
process of its own streams the EEG of a simulated patient who feels the current (see `devices.mock.nic2_streams`).

Exit codes: 0 ended in order, 2 wrong arguments, 3 a path or address could not be used.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from devices.children import module_command
from devices.driver import DriverError
from devices.mock import process_command
from devices.mock.device_rig import ProcessSettings
from devices.mock.meter import Meter
from devices.mock.nic2 import Nic2Model, NicSettings
from devices.mock.nic2_faults import NIC2_FAULTS
from devices.mock.tcp_rig import TcpRig, listen_address

FAULTS: Final = NIC2_FAULTS
NIC_PORT: Final = 1235


class _Rig(TcpRig):
    """NIC's server; with `outlet` the patient's streams run as long as it does."""

    vocabulary = FAULTS

    def __init__(
        self,
        settings: ProcessSettings,
        nic: NicSettings,
        listen: tuple[str, int],
        outlet: str | None,
        announce: Callable[[str], None],
    ) -> None:
        self._nic = nic
        self._outlet = outlet
        super().__init__(settings, listen, announce)

    def serve(self) -> None:
        """Serve, and stream where that is wanted, until told to end."""
        if self._outlet is None:
            super().serve()
            return
        # liblsl can abort its host: never in the process of the device.
        command = module_command(
            "devices.mock.nic2_streams",
            *(self._outlet, "--meter", str(self._settings.meter), "--seed", str(self._settings.seed)),
        )
        streams = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            super().serve()
        finally:
            streams.terminate()
            streams.wait()

    def _make_model(self, meter: Meter) -> Nic2Model:
        given = self._settings
        self.device = model = Nic2Model(self._start_ns, given.seed, self._nic, given.body, meter)
        return model

    def _whereabouts(self) -> dict[str, Any]:
        nic = self._nic
        protocols = [nic.zero_protocol, nic.gate_protocol, nic.impedance_protocol]
        return {**super()._whereabouts(), "protocols": protocols}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the process; returns its exit code."""
    parser = process_command.parser(
        "devices.mock.nic2_process",
        "NIC2's remote stimulation server with an emulated Starstim, a body and a meter.",
        "--listen 127.0.0.1:1235 --meter run.meter --fault hang_up@20",
    )
    parser.add_argument("--listen", default=f"127.0.0.1:{NIC_PORT}", metavar="HOST:PORT", help="port 0 takes any that is free")
    parser.add_argument("--channels", type=int, default=8, metavar="N", help="of the device (default 8)")
    parser.add_argument("--gate", type=float, default=60.0, metavar="SECONDS", help="duration of the protocol for one gate")
    parser.add_argument("--outlet", metavar="NAME", help="stream a simulated patient as NAME-EEG, NAME-Markers and so on")
    given = parser.parse_args(arguments)
    settings = process_command.settings(parser, given, FAULTS)
    if not 2 <= given.channels <= 32 or not 1.0 <= given.gate <= 3600.0:
        parser.error("--channels takes 2 to 32, --gate 1 to 3600 seconds")
    if given.outlet is not None and given.meter is None:
        parser.error("--outlet needs --meter FILE: the patient feels the current that the meter shows")
    try:
        listen = listen_address(given.listen, NIC_PORT)
    except DriverError as error:
        parser.error(str(error))
    nic = NicSettings(channels=given.channels, gate_s=given.gate)
    return process_command.serve(lambda: _Rig(settings, nic, listen, given.outlet, process_command.print_line))


if __name__ == "__main__":
    sys.exit(main())
