"""The mock Starstim as a process of its own: NIC2's server on TCP in real time; its meter outlives whoever drives it.

    python -m devices.mock.nic2_process --listen 127.0.0.1:0 --meter run.meter --fault consent_delayed:delay_s=4

It prints one line of JSON (port, meter, control, pid, t_ns) when it listens, and ends on SIGTERM or SIGINT. Control as of
`devices.mock.stimulator_process`. One client is served at a time; another is turned away at once. With ``--outlet NAME`` a
process of its own streams the EEG of a simulated patient who feels the current (see `devices.mock.nic2_streams`).

Exit codes: 0 ended in order, 2 wrong arguments, 3 a path or address could not be used.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from devices import priority
from devices.driver import DriverError
from devices.mock import faults, numbers
from devices.mock.electrodes import ElectrodeParameters
from devices.mock.faults import NIC2_FAULTS
from devices.mock.meter import Meter
from devices.mock.nic2 import Nic2Model, NicSettings
from devices.mock.stimulator_process import PathError, ProcessSettings
from devices.mock.tcp_rig import TcpRig, listen_address

FAULTS: Final = NIC2_FAULTS
NIC_PORT: Final = 1235


class NicProcessSettings(ProcessSettings, frozen=True, kw_only=True):
    """As of the reference stimulator; `listen` is host and port, `nic` what an operator has set up in NIC."""

    listen: tuple[str, int] = ("127.0.0.1", NIC_PORT)
    nic: NicSettings = NicSettings()


class _Rig(TcpRig):
    vocabulary = FAULTS

    def __init__(self, settings: NicProcessSettings, announce: Callable[[str], None]) -> None:
        self._nic = settings
        super().__init__(settings, settings.listen, announce)

    def _make_model(self, meter: Meter) -> Nic2Model:
        given = self._nic
        self.device = model = Nic2Model(self._start_ns, given.seed, given.nic, given.body, meter)
        return model

    def _whereabouts(self) -> dict[str, Any]:
        nic = self._nic.nic
        protocols = [nic.zero_protocol, nic.gate_protocol, nic.impedance_protocol]
        return {**super()._whereabouts(), "protocols": protocols}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the process; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m devices.mock.nic2_process",
        description="NIC2's remote stimulation server with an emulated Starstim, a body and a meter.",
        epilog="example: --listen 127.0.0.1:1235 --meter run.meter --fault hang_up@20",
    )
    parser.add_argument("--listen", default=f"127.0.0.1:{NIC_PORT}", metavar="HOST:PORT", help="port 0 takes any that is free")
    parser.add_argument("--meter", type=Path, metavar="FILE", help="write what truly flows to this file")
    parser.add_argument("--control", metavar="PATH", help="listen on this local socket; '-' takes standard input")
    parser.add_argument("--seed", type=int, default=0, help="draws errors, latencies and noise (default 0)")
    parser.add_argument("--channels", type=int, default=8, metavar="N", help="of the device (default 8)")
    parser.add_argument("--gate", type=float, default=60.0, metavar="SECONDS", help="duration of the protocol for one gate")
    parser.add_argument("--outlet", metavar="NAME", help="stream a simulated patient as NAME-EEG, NAME-Markers and so on")
    parser.add_argument("--electrodes", default=numbers.DEFAULT_PAIR, metavar="NAME[:key=value,...]", help="the pair")
    parser.add_argument(
        "--fault", action="append", default=[], metavar="NAME[:key=value,...][@SECONDS]", help="inject a fault; repeatable"
    )
    given = parser.parse_args(arguments)
    try:
        chosen = tuple(faults.parse(text, FAULTS) for text in given.fault)
        body = ElectrodeParameters.named(given.electrodes)
        listen = listen_address(given.listen, NIC_PORT)
    except (faults.FaultError, numbers.NumberError, DriverError) as error:
        parser.error(str(error))
    if not 2 <= given.channels <= 32 or not 1.0 <= given.gate <= 3600.0:
        parser.error("--channels takes 2 to 32, --gate 1 to 3600 seconds")
    if given.outlet is not None and given.meter is None:
        parser.error("--outlet needs --meter FILE: the patient feels the current that the meter shows")
    settings = NicProcessSettings(
        seed=given.seed,
        body=body,
        meter=given.meter,
        control=given.control if given.control in (None, "-") else Path(given.control),
        faults=chosen,
        listen=listen,
        nic=NicSettings(channels=given.channels, gate_s=given.gate),
    )
    try:
        priority.claim_processor(priority.HARDWARE)
        rig = _Rig(settings, lambda text: print(text, flush=True))
    except PathError as error:
        print(error.args[0], file=sys.stderr)
        return 3
    streams: subprocess.Popen[bytes] | None = None
    try:
        if given.outlet is not None:
            # liblsl can abort its host: never in the process of the device.
            command = [sys.executable, "-m", "devices.mock.nic2_streams", given.outlet]
            command += ["--meter", str(given.meter), "--seed", str(given.seed)]
            streams = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        rig.serve()
    finally:
        if streams is not None:
            streams.terminate()
            streams.wait()
        rig.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
