"""The mock LabJack as a process of its own: a Modbus TCP server in real time; its meter outlives whoever drives it.

    python -m devices.mock.labjack_process --listen 127.0.0.1:5020 --meter run.meter --fault open_circuit@30

It prints one line of JSON (port, meter, control, pid, t_ns) when it listens, and ends on SIGTERM or SIGINT. Control as of
`devices.mock.stimulator_process`.

Exit codes: 0 ended in order, 2 wrong arguments, 3 a path or address could not be used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from devices import priority
from devices.driver import DriverError
from devices.labjack import MODBUS_PORT
from devices.mock import faults, numbers
from devices.mock.electrodes import ElectrodeParameters
from devices.mock.labjack import FAULTS as LABJACK_FAULTS
from devices.mock.labjack import LabJackModel, SourceParameters
from devices.mock.meter import Meter
from devices.mock.stimulator_process import PathError, ProcessSettings
from devices.mock.tcp_rig import TcpRig, listen_address

FAULTS: Final = LABJACK_FAULTS
USUAL: Final = "127.0.0.1:5020"


class _Rig(TcpRig):
    vocabulary = FAULTS

    def __init__(
        self,
        settings: ProcessSettings,
        source: SourceParameters,
        listen: tuple[str, int],
        announce: Callable[[str], None],
    ) -> None:
        self._source = source
        super().__init__(settings, listen, announce)

    def _make_model(self, meter: Meter) -> LabJackModel:
        given = self._settings
        self.device = model = LabJackModel(self._start_ns, given.seed, self._source, given.body, meter)
        return model


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the process; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m devices.mock.labjack_process",
        description="A LabJack T7 with an isolated current source, a body and a meter, as a Modbus TCP server.",
        epilog=f"example: --listen {USUAL} --meter run.meter --fault over_current:extra_ua=300@12.5",
    )
    parser.add_argument("--listen", default=USUAL, metavar="HOST:PORT", help=f"port 0 takes any that is free (default {USUAL})")
    parser.add_argument("--meter", type=Path, metavar="FILE", help="write what truly flows to this file")
    parser.add_argument("--control", metavar="PATH", help="listen on this local socket; '-' takes standard input")
    parser.add_argument("--seed", type=int, default=0, help="draws errors, latencies and noise (default 0)")
    parser.add_argument("--gain", type=float, default=1.0, metavar="MA_PER_V", help="of the current source (default 1)")
    parser.add_argument("--resistor", type=float, metavar="OHM", help="a resistor in place of the body, for calibrate-output")
    parser.add_argument("--electrodes", default=numbers.DEFAULT_PAIR, metavar="NAME[:key=value,...]", help="the pair")
    parser.add_argument(
        "--fault", action="append", default=[], metavar="NAME[:key=value,...][@SECONDS]", help="inject a fault; repeatable"
    )
    given = parser.parse_args(arguments)
    try:
        chosen = tuple(faults.parse(text, FAULTS) for text in given.fault)
        body = ElectrodeParameters.named(given.electrodes) if given.resistor is None else resistor(given.resistor)
        listen = listen_address(given.listen, MODBUS_PORT)
    except (faults.FaultError, numbers.NumberError, DriverError) as error:
        parser.error(str(error))
    if not 0.1 <= given.gain <= 10.0 or not (given.resistor is None or 10.0 <= given.resistor <= 100_000.0):
        parser.error("--gain takes 0.1 to 10 mA/V, --resistor 10 to 100000 ohm")
    settings = ProcessSettings(
        seed=given.seed,
        body=body,
        meter=given.meter,
        control=given.control if given.control in (None, "-") else Path(given.control),
        faults=chosen,
    )
    try:
        priority.claim_processor(priority.HARDWARE)
        rig = _Rig(settings, SourceParameters(gain_ma_per_v=given.gain), listen, lambda text: print(text, flush=True))
    except PathError as error:
        print(error.args[0], file=sys.stderr)
        return 3
    try:
        rig.serve()
    finally:
        rig.close()
    return 0


def resistor(ohm: float) -> ElectrodeParameters:
    """A body that is a resistor and nothing else."""
    return ElectrodeParameters(
        bulk_ohm=ohm - 1.0,
        skin_initial_ohm=1.0,
        skin_settled_ohm=1.0,
        polarisation_v=0.0,
        drying_per_s=0.0,
        cardiac_modulation=0.0,
        respiratory_modulation=0.0,
    )


if __name__ == "__main__":
    sys.exit(main())
