"""An ammeter at the electrode: what truly flowed, whatever the firmware believes; in memory and as a file.

The file is append-only: the eight bytes ``CLMETER1``, then records of 24 bytes, little endian:

======  =======  ==========================================================================
offset  type     meaning
======  =======  ==========================================================================
0       i64      time, ns on CLOCK_BOOTTIME (or the virtual clock)
8       f32      current at the electrode, uA, signed
12      u32      1: a sample of the 1 kHz grid, 0: at rest, the meter only shows that it lives
16      f64      charge since the start, uC, whatever its sign
======  =======  ==========================================================================

Every sample above 0.5 uA is written, and the first one below it again; at rest one record each 100 ms. So
silence for more than `DEAD_AFTER_NS` means a dead meter, never zero current. A half-written last record is
not read.
"""

from __future__ import annotations

import math
import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from devices.refproto import ZERO_UA
from devices.units import NS_PER_MS, NS_PER_S

MAGIC: Final = b"CLMETER1"
SAMPLE: Final = 1
AT_REST: Final = 0
FLOW_UA: Final = 0.5
HEARTBEAT_MS: Final = 100
DEAD_AFTER_NS: Final = 200 * NS_PER_MS
SLEW_WINDOW_MS: Final = 100

_RECORD: Final = struct.Struct("<qfId")


class MeterRecord(msgspec.Struct, frozen=True, gc=False):
    """One line of the meter: time (ns), current (uA, signed), kind, charge since the start (uC)."""

    t_ns: int
    current_ua: float
    kind: int
    charge_uc: float


class MeterError(ValueError):
    """The meter cannot answer: no file, no meter file, or records that do not cover the time asked about."""


class Meter:
    """Ammeter on a 1 ms grid.

    Parameters
    ----------
    start_ns : int
        Time of grid index 0, ns.
    sink : callable, optional
        Called with every `MeterRecord` that a file would hold, for example ``records.append``.

    Attributes
    ----------
    current_ua : float
        Newest sample, uA, signed.
    peak_ua : float
        Greatest magnitude so far, uA.
    charge_uc : float
        Integral of the magnitude, uC.
    max_rise_ua_s, max_fall_ua_s : float
        Steepest rise and fall of the magnitude over 100 ms, uA/s.
    """

    def __init__(self, start_ns: int = 0, sink: Callable[[MeterRecord], None] | None = None) -> None:
        self.current_ua = 0.0
        self.peak_ua = 0.0
        self.charge_uc = 0.0
        self.max_rise_ua_s = 0.0
        self.max_fall_ua_s = 0.0
        self._start_ns = start_ns
        self._sink = sink
        self._k = -1
        self._flowing = False
        self._still = SLEW_WINDOW_MS
        self._window = [0.0] * SLEW_WINDOW_MS

    def record(self, k: int, current_ua: float) -> None:
        """Take the sample at grid index `k` (ms); those left out since the last call were at zero."""
        if k - self._k > 1:
            self._rest(k)
        self._k = k
        self.current_ua = current_ua
        size = abs(current_ua)
        at = k % SLEW_WINDOW_MS
        change = (size - self._window[at]) * (1000.0 / SLEW_WINDOW_MS)
        self._window[at] = size
        if change > self.max_rise_ua_s:
            self.max_rise_ua_s = change
        elif -change > self.max_fall_ua_s:
            self.max_fall_ua_s = -change
        self._still = 0 if size else self._still + 1
        self.peak_ua = max(self.peak_ua, size)
        self.charge_uc += size * 1e-3
        if self._sink is not None:
            flowing = size > FLOW_UA
            if flowing or self._flowing:
                self._put(k, current_ua, SAMPLE)
            elif k % HEARTBEAT_MS == 0:
                self._put(k, current_ua, AT_REST)
            self._flowing = flowing

    def _rest(self, k: int) -> None:
        first = self._k + 1
        if self._sink is not None:
            if self._flowing:
                self._put(first, 0.0, SAMPLE)
                self._flowing = False
            for beat in range(-(-first // HEARTBEAT_MS) * HEARTBEAT_MS, k, HEARTBEAT_MS):
                self._put(beat, 0.0, AT_REST)
        if self._still >= SLEW_WINDOW_MS:
            return
        self._still += k - first
        for index in range(max(first, k - SLEW_WINDOW_MS), k):
            fall = self._window[index % SLEW_WINDOW_MS] * (1000.0 / SLEW_WINDOW_MS)
            self.max_fall_ua_s = max(self.max_fall_ua_s, fall)
            self._window[index % SLEW_WINDOW_MS] = 0.0

    def _put(self, k: int, current_ua: float, kind: int) -> None:
        assert self._sink is not None
        self._sink(MeterRecord(self._start_ns + k * NS_PER_MS, current_ua, kind, self.charge_uc))


class MeterFile:
    """Sink that appends records to a file; call `flush` at least every 10 ms while the device runs."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._waiting = bytearray(MAGIC)
        self.flush()

    def __call__(self, record: MeterRecord) -> None:
        """Take one record."""
        self._waiting += _RECORD.pack(record.t_ns, record.current_ua, record.kind, record.charge_uc)

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


class MeterReader:
    """Reads a meter file from its start, also while it is being written; a file begun anew is read from its start again.

    Raises
    ------
    MeterError
        From `read_new`, if the file does not exist or does not start like a meter file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def read_new(self) -> list[MeterRecord]:
        """Records written since the last call, oldest first."""
        try:
            with self._path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._at:
                    self._at = 0
                file.seek(0)
                if self._at == 0:
                    self._check(file.read(len(MAGIC)))
                    self._at = len(MAGIC)
                file.seek(self._at)
                data = file.read()
        except OSError as error:
            raise MeterError(f"meter file {self._path}: {error.strerror}") from error
        whole = len(data) - len(data) % _RECORD.size
        self._at += whole
        return [MeterRecord(*fields) for fields in _RECORD.iter_unpack(data[:whole])]

    def _check(self, head: bytes) -> None:
        if head != MAGIC:
            raise MeterError(f"{self._path} is no meter file: it starts with {head!r}, not {MAGIC!r}")


def read_meter(path: Path) -> list[MeterRecord]:
    """All records of a meter file, oldest first.

    Raises
    ------
    MeterError
        If the file does not exist or is no meter file.
    """
    return MeterReader(path).read_new()


def follow(path: Path, timeout_s: float, interval_s: float = 0.002) -> Iterator[MeterRecord]:
    """Records as they are written; ends when none has come for `timeout_s`.

    Parameters
    ----------
    path : Path
        Meter file; must exist.
    timeout_s : float
        Longest silence to bear, s; a living meter writes every 0.1 s.
    interval_s : float
        Time between two looks at the file, s.
    """
    reader = MeterReader(path)
    last = time.monotonic()
    while time.monotonic() - last < timeout_s:
        records = reader.read_new()
        if records:
            last = time.monotonic()
            yield from records
        else:
            time.sleep(interval_s)


def time_to_zero(records: Sequence[MeterRecord], t_from_ns: int, threshold_ua: float = ZERO_UA) -> float:
    """Time after which the current stays at zero.

    Parameters
    ----------
    records : sequence of MeterRecord
        Oldest first.
    t_from_ns : int
        Moment of the fault, ns on the meter's clock.
    threshold_ua : float
        What counts as zero, uA.

    Returns
    -------
    float
        Seconds from `t_from_ns` to the first sample from which on the magnitude stays within `threshold_ua`;
        0 if it never exceeded it, infinity if the newest record still does.

    Raises
    ------
    MeterError
        If no record is as late as `t_from_ns`, or the meter was silent for more than `DEAD_AFTER_NS` after
        it.
    """
    after = [record for record in records if record.t_ns >= t_from_ns]
    if not after:
        raise MeterError(f"the meter has no record at or after {t_from_ns} ns")
    zero_at, previous_ns = t_from_ns, t_from_ns
    high = False
    for record in after:
        if record.t_ns - previous_ns > DEAD_AFTER_NS:
            gap_s = (record.t_ns - previous_ns) / NS_PER_S
            raise MeterError(f"the meter was silent for {gap_s:.3f} s after {previous_ns} ns")
        previous_ns = record.t_ns
        if abs(record.current_ua) > threshold_ua:
            high = True
        elif high:
            high, zero_at = False, record.t_ns
    return math.inf if high else (zero_at - t_from_ns) / NS_PER_S
