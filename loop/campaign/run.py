"""One campaign from start to verdict: the virtual part, the real part, and what is left of them when somebody interrupts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from loop.campaign.lanes import virtual_runs
from loop.campaign.real import is_real, jobs_of, real_runs
from loop.campaign.rows import all_rows
from loop.campaign.tally import Part, Report, Tally
from loop.config import ConfigError

LONG_RUNS: Final = 1000
SHORT_RUNS: Final = 4
LONG_TRIALS: Final = 30


class Plan(NamedTuple):
    """How much is run: `runs` of each row on the virtual clock, `trials` of each deep row with real processes (0: none)."""

    seed: int
    runs: int
    trials: int
    rows: tuple[str, ...]


class Step(NamedTuple):
    """Where a campaign stands."""

    part: str
    done: int
    total: int
    failed: int


def plan_of(seed: int, runs: int, trials: int, rows: Sequence[str]) -> Plan:
    """A plan; rows are ids such as F20, or the beginning of one. Raises ConfigError where there is no such row."""
    known = list(all_rows())
    chosen: list[str] = []
    for word in rows:
        found = [name for name in known if name == word or (name.split()[0] == word.split()[0] and name.startswith(word))]
        if not found:
            raise ConfigError(f"--row {word}: there is no such row; they are F01 to F56, and the pairs such as `{known[-1]}`")
        chosen += found
    return Plan(seed, runs, trials, tuple(dict.fromkeys(chosen)) or tuple(known))


def campaign(plan: Plan, progress: Callable[[Step], None], stop: Callable[[], bool]) -> Report:
    """Run a plan to its end, or until `stop`."""
    began_s = time.monotonic()
    parts = []
    with ThreadPoolExecutor(max_workers=1) as beside:
        # Beside one another: the virtual lanes are nice, and real processes mostly wait.
        real = beside.submit(_real, plan, progress, stop) if plan.trials and any(map(is_real, plan.rows)) else None
        if plan.runs:
            parts.append(_virtual(plan, progress, stop))
        if real is not None:
            parts.append(real.result())
    failed = any(line.failed for part in parts for line in part.lines)
    # A run that was lost is no run that was within its bounds.
    lost = any(part.done < part.wanted for part in parts)
    return Report(
        seed=plan.seed,
        complete=not stop() and not lost,
        within=not failed,
        seconds=round(time.monotonic() - began_s, 1),
        parts=parts,
    )


def _virtual(plan: Plan, progress: Callable[[Step], None], stop: Callable[[], bool]) -> Part:
    began_s = time.monotonic()
    total = plan.runs * len(plan.rows)
    tally = Tally()
    for done, run in enumerate(virtual_runs(plan.runs, plan.seed, plan.rows, stop), 1):
        tally.take(run)
        progress(Step("virtual", done, total, tally.failed.total()))
    return Part(
        clock="virtual",
        asked=plan.runs,
        wanted=total,
        done=tally.done,
        seconds=round(time.monotonic() - began_s, 1),
        lines=tally.lines(),
    )


def _real(plan: Plan, progress: Callable[[Step], None], stop: Callable[[], bool]) -> Part:
    began_s = time.monotonic()
    jobs = jobs_of(plan.rows, plan.trials)
    total = sum(job.trials for job in jobs)
    tally = Tally()
    for done, run in enumerate(real_runs(jobs, stop), 1):
        tally.take(run)
        progress(Step("real", done, total, tally.failed.total()))
    return Part(
        clock="real",
        asked=plan.trials,
        wanted=total,
        done=tally.done,
        seconds=round(time.monotonic() - began_s, 1),
        lines=tally.lines(),
    )


def write(report: Report, path: Path) -> None:
    """Write a report as JSON; raises OSError."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
