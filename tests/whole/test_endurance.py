"""An hour's worth of events through the fold: no step is slow, and memory does not grow (I25)."""

from __future__ import annotations

import gc
import resource
import sys
import time
from pathlib import Path

import numpy as np

from devices.units import NS_PER_MS, NS_PER_S
from loop import load_config
from loop.engine import TICK_NS, Engine
from loop.events import Chunk, Layout, Marker, SegmentStart, SourceInfo, Tick

RATE_HZ = 250
CHUNK = 5
CHUNK_NS = CHUNK * NS_PER_S // RATE_HZ
LABELS = ("PO9", "PO10", "Oz", "Cz", "Fz", "Pz", "C3", "C4")


class Hour:
    """A session in feedback_only, fed chunk by chunk: a second of noise over and over, a trial every five seconds."""

    def __init__(self) -> None:
        self.engine = Engine(load_config("simulate", ["session.arm=feedback_only", "session.duration_s=86400"]))
        layout = Layout(labels=LABELS, units=("uV",) * 8, to_uv=(1.0,) * 8, sfreq_hz=float(RATE_HZ))
        source = SourceInfo(kind="lsl", identity="scripted", simulated=True, dtype="float64")
        self.engine.step(SegmentStart(t_ns=0, segment=1, layout=layout, source=source, clock_offset_ns=0))
        self.noise = np.random.default_rng(1).normal(0.0, 10.0, (60 * RATE_HZ, 8))
        self.sent = 0
        self.step_ns: list[int] = []

    def run(self, seconds: int) -> None:
        for _ in range(seconds * RATE_HZ // CHUNK):
            t_ns = (self.sent + CHUNK) * NS_PER_S // RATE_HZ
            if self.sent % (5 * RATE_HZ) == 0:
                for text in ("OUT_DUE", "STIM/NOX/60" if self.sent % (10 * RATE_HZ) else "STIM/INN/20"):
                    self.engine.step(Marker(t_ns=t_ns, stamp_ns=t_ns - NS_PER_MS, text=text))
            stamps = (np.arange(self.sent, self.sent + CHUNK) * NS_PER_S // RATE_HZ).astype(np.int64)
            at = self.sent % len(self.noise)
            chunk = Chunk(t_ns=t_ns, segment=1, first=self.sent, stamps_ns=stamps, samples=self.noise[at : at + CHUNK])
            start_ns = time.perf_counter_ns()
            self.engine.step(chunk)
            self.engine.step(Tick(t_ns=t_ns))
            self.step_ns.append(time.perf_counter_ns() - start_ns)
            self.sent += CHUNK


def test_a_step_takes_less_than_half_a_chunk_and_memory_stays_flat() -> None:
    assert CHUNK_NS == TICK_NS
    hour = Hour()
    hour.run(2100)  # warm-up: whatever remembers a bounded number of trials (200 at most) is full then
    held = np.zeros((6, 2))
    for row in held:
        hour.run(300)
        hour.step_ns.clear()
        gc.collect()
        row[:] = sys.getallocatedblocks(), resident_bytes()
    # One object kept of each trial would be 60 in five minutes; a tuple, two numbers and a text 240.
    for name, unit, column, least in (("objects", "", held[:, 0], 5.0), ("resident memory", " B", held[:, 1], 0.0)):
        slope, half = slope_with_interval(column)
        print(f"{name}: {slope:+.1f}{unit} per 5 min (95 % interval half-width {half:.1f}{unit})")
        assert slope - half <= least, column

    hour.run(300)
    worst_ms = np.percentile(hour.step_ns, 99.9) / 1e6
    print(f"one step of 20 ms of EEG and a tick: p50 {np.median(hour.step_ns) / 1e3:.0f} µs, p99.9 {worst_ms:.2f} ms")
    assert worst_ms <= CHUNK_NS / NS_PER_MS / 2


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def slope_with_interval(y: np.ndarray) -> tuple[float, float]:
    """Least-squares slope per step and the half-width of its 95 % interval (Student's t)."""
    from scipy import stats

    if np.ptp(y) == 0.0:
        return 0.0, 0.0
    fit = stats.linregress(np.arange(len(y)), y)
    return float(fit.slope), float(stats.t.ppf(0.975, len(y) - 2) * fit.stderr)


def test_a_leak_would_be_found() -> None:
    """One object kept of each of the sixty trials in five minutes stands out, also of a scatter of fifty."""
    slope, half = slope_with_interval(1e6 + 60.0 * np.arange(6) + np.random.default_rng(1).normal(0.0, 50.0, 6))
    assert slope - half > 5.0
