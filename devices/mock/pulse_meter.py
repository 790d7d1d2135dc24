"""A pick-up coil at the head: every pulse that truly left the stimulator's coil, with its time and intensity.

The file is append-only: the eight bytes ``CLPULSE1``, then records of 16 bytes, little endian: i64 time (ns on CLOCK_BOOTTIME
or the virtual clock), u32 kind (1: a pulse, 0: none, the meter only shows that it lives), f32 intensity (percent of the
greatest output). At rest one record each 100 ms, so silence means a dead meter, never an absent pulse.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from devices.mock.meter import MeterError
from devices.units import NS_PER_MS

MAGIC: Final = b"CLPULSE1"
HEARTBEAT_NS: Final = 100 * NS_PER_MS
_RECORD: Final = struct.Struct("<qIf")


class PulseRecord(msgspec.Struct, frozen=True, gc=False):
    """One line of the meter; `percent` is 0 where it only shows that it lives."""

    t_ns: int
    is_pulse: bool
    percent: float


class PulseMeter:
    """Counts pulses; hands every record to `sink`, for example ``records.append`` or a `PulseMeterFile`."""

    def __init__(self, start_ns: int = 0, sink: Callable[[PulseRecord], None] | None = None) -> None:
        self.pulses: list[PulseRecord] = []
        self._sink = sink
        self._beat_ns = start_ns

    def pulse(self, t_ns: int, percent: float) -> None:
        """One pulse has left the coil."""
        record = PulseRecord(t_ns, True, percent)  # noqa: FBT003 - a field of a record
        self.pulses.append(record)
        if self._sink is not None:
            self._sink(record)

    def live(self, t_ns: int) -> None:
        """Time has passed."""
        while self._sink is not None and self._beat_ns <= t_ns:
            self._sink(PulseRecord(self._beat_ns, False, 0.0))  # noqa: FBT003 - a field of a record
            self._beat_ns += HEARTBEAT_NS


class PulseMeterFile:
    """Sink that appends records to a file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._waiting = bytearray(MAGIC)
        self.flush()

    def __call__(self, record: PulseRecord) -> None:
        """Take one record."""
        self._waiting += _RECORD.pack(record.t_ns, record.is_pulse, record.percent)

    def flush(self) -> None:
        """Hand everything taken so far to the operating system."""
        if self._waiting:
            self._file.write(self._waiting)
            self._file.flush()
            self._waiting.clear()

    def close(self) -> None:
        """Flush and close."""
        self.flush()
        self._file.close()


def read_pulse_meter(path: Path) -> list[PulseRecord]:
    """All records of a pulse meter's file, oldest first; a half-written last one is left out.

    Raises
    ------
    MeterError
        If the file does not exist or is no such file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MeterError(f"pulse meter file {path}: {error.strerror}") from error
    if not data.startswith(MAGIC):
        raise MeterError(f"{path} is no pulse meter file: it starts with {data[:8]!r}, not {MAGIC!r}")
    whole = len(data) - (len(data) - len(MAGIC)) % _RECORD.size
    return [PulseRecord(t_ns, bool(kind), percent) for t_ns, kind, percent in _RECORD.iter_unpack(data[len(MAGIC) : whole])]
