"""``cereloop bench``: every figure beside its yardstick, measured in the same run."""

from __future__ import annotations

from typing import Any, Final

from rich.console import Console
from rich.table import Table

from loop.bench_kernel import KernelBench, ReplayBench, bench_kernel, bench_replay
from loop.bench_latency import LatencyBench, bench_latency

PARTS: Final = ("kernel", "replay", "latency")


def run(part: str, seconds: float) -> Any:
    """Measure one part; `seconds` is the length of the latency measurement."""
    if part == "kernel":
        return bench_kernel()
    if part == "replay":
        return bench_replay()
    return bench_latency(seconds)


def render(part: str, result: Any, console: Console) -> None:
    """Print one part's table."""
    table = Table(title=part, title_justify="left", box=None, pad_edge=False)
    match result:
        case KernelBench():
            table.add_column("64 channels, 1 kHz, full feature set")
            table.add_column("µs a sample", justify="right")
            table.add_row("kernel, blocks of 1 s", f"{result.kernel_us_per_sample:.2f}")
            table.add_row("the same in NumPy/SciPy", f"{result.numpy_us_per_sample:.2f}")
            table.add_row("kernel, one sample a call", f"{result.one_sample_call_us:.2f}")
            low, high = result.ratio_low, result.ratio_high
            table.caption = f"NumPy/SciPy takes {result.ratio:.1f} times as long (8 of 10 blocks: {low:.1f} to {high:.1f})"
        case ReplayBench():
            table.add_column("64 channels, 1 kHz, estimate + decide + record")
            table.add_column("", justify="right")
            table.add_row("recording", f"{result.recorded_s:.0f} s")
            table.add_row("took", f"{result.took_s:.2f} s (CPU {result.cpu_s:.2f} s)")
            table.add_row("speed", f"{result.times_real_time:.0f} × real time")
            table.add_row("session file", f"{result.file_mb:.1f} MB")
        case LatencyBench():
            table.add_column("newest sample's stamp to … (µs)")
            for name in ("p50", "p99", "p99.9", "max", "n"):
                table.add_column(name, justify="right")
            rows = (("bare pylsl pull and send", result.bare), ("command at the guard's driver", result.loop))
            for name, row in rows:
                numbers = (row.p50_us, row.p99_us, row.p999_us, row.max_us)
                table.add_row(name, *(f"{value:.0f}" for value in numbers), str(row.n))
            table.caption = f"ratio p50 {result.ratio_p50:.2f}, p99 {result.ratio_p99:.2f}; recorder on"
        case _:
            raise TypeError(f"no table for {part}")
    table.caption_justify = "left"
    console.print(table)
    console.print()
