"""What NIC2 streams over LSL beside its server: EEG, markers, signal quality and accelerometer of a simulated patient.

    python -m devices.mock.nic2_streams OUTLET --meter run.meter

The streams are named as NIC2 names them: OUTLET-EEG, OUTLET-Markers, OUTLET-Quality (1 Hz) and OUTLET-Accelerometer (100 Hz).
The patient feels the current in the meter's file. A process of its own, since liblsl can abort its host.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from devices import liblsl
from devices.mock.amplifier import Amplifier, patient_blocks, stream
from devices.mock.meter import MeterError, MeterReader
from devices.mock.patient import Patient
from devices.mock.patient_settings import PatientSettings

# An 8-channel Starstim over the back of the head.
LABELS: Final = ("PO9", "PO10", "O1", "O2", "Oz", "Pz", "Cz", "Fz")
SFREQ_HZ: Final = 500.0
GRAVITY_MM_S2: Final = 9810.0
DAY_S: Final = 86_400.0


class _Felt:
    """The current that the meter shows now; a meter that is gone shows what it showed last."""

    def __init__(self, path: Path) -> None:
        self._reader = MeterReader(path)
        self._last_ua = 0.0
        self._last_ua = self()

    def __call__(self) -> float:
        records = self._reader.read_new()
        if records:
            self._last_ua = records[-1].current_ua
        return self._last_ua


def settings(seed: int) -> PatientSettings:
    """The patient behind a Starstim of eight channels."""
    return PatientSettings(seed=seed, labels=LABELS, sfreq_hz=SFREQ_HZ, duration_s=DAY_S)


def amplifier(outlet: str, patient: Patient) -> Amplifier:
    """What the EEG stream says of itself."""
    return Amplifier(
        labels=LABELS,
        units=("microvolts",) * len(LABELS),
        sfreq_hz=SFREQ_HZ,
        positions_m=patient.positions_m,
        name=f"{outlet}-EEG",
        source_id=f"{outlet}-nic2",
        marker_name=f"{outlet}-Markers",
    )


def _side_outlet(pylsl: Any, outlet: str, kind: str, channels: int, rate_hz: float) -> Any:
    info = pylsl.StreamInfo(f"{outlet}-{kind}", kind, channels, rate_hz, "float32", f"{outlet}-nic2-{kind.lower()}")
    info.desc().append_child_value("manufacturer", "cereloop")
    info.desc().append_child("cereloop").append_child_value("simulated", "true")
    return pylsl.StreamOutlet(info)


def _side_streams(pylsl: Any, outlet: str, stop: threading.Event) -> None:
    """Quality once a second (1: good), and the pull of gravity on a head that does not move."""
    quality = _side_outlet(pylsl, outlet, "Quality", len(LABELS), 1.0)
    motion = _side_outlet(pylsl, outlet, "Accelerometer", 3, 100.0)
    begun_s, sent = pylsl.local_clock(), 0
    while not stop.wait(max(0.0, begun_s + sent / 100.0 - pylsl.local_clock())):
        motion.push_sample([0.0, 0.0, GRAVITY_MM_S2], begun_s + sent / 100.0)
        if sent % 100 == 0:
            quality.push_sample([1.0] * len(LABELS), begun_s + sent / 100.0)
        sent += 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the process; returns its exit code: 0 ended in order, 2 wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m devices.mock.nic2_streams",
        description="The LSL streams of an emulated NIC2.",
        epilog="example: MyOutlet --meter run.meter",
    )
    parser.add_argument("outlet", help="the outlet's name, as typed into NIC2")
    parser.add_argument("--meter", type=Path, required=True, metavar="FILE", help="of the emulated stimulator")
    parser.add_argument("--seed", type=int, default=0, help="of the patient (default 0)")
    parser.add_argument("--reach", choices=("machine", "network"), default="machine", help="how far streams are announced")
    given = parser.parse_args(arguments)
    try:
        felt = _Felt(given.meter)
        patient = Patient(settings(given.seed))
    except (MeterError, msgspec.ValidationError, ValueError) as error:
        parser.error(str(error))
    pylsl = liblsl.load(given.reach)
    stop = threading.Event()
    beside = threading.Thread(target=_side_streams, args=(pylsl, given.outlet, stop), daemon=True)
    beside.start()
    try:
        stream(patient_blocks(patient, felt), amplifier(given.outlet, patient), stop=stop, reach=given.reach)
    finally:
        stop.set()
        beside.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
