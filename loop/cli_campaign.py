"""The command ``campaign``: every fault of the hazard table, many times, judged by an independent meter."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from loop.cli import Exit, JsonOption, fail, stop_flag
from loop.config import ConfigError


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command()(campaign)


def campaign(
    short: Annotated[bool, typer.Option("--short", help="A few runs a row, on the virtual clock alone.")] = False,
    row: Annotated[list[str] | None, typer.Option("--row", metavar="ID", help="Only this row; repeatable.")] = None,
    runs: Annotated[int | None, typer.Option(min=0, max=100_000, help="Runs of each row on the virtual clock.")] = None,
    trials: Annotated[
        int | None, typer.Option(min=0, max=1000, help="Trials with real processes of each row that kills, freezes or cuts.")
    ] = None,
    endurance: Annotated[
        str | None,
        typer.Option(metavar="CLOCK", help="Instead: a long undisturbed session, virtual (8 h) or real (30 min beside load)."),
    ] = None,
    duration: Annotated[float | None, typer.Option(min=10.0, max=86_000.0, help="Seconds of --endurance.")] = None,
    seed: Annotated[int, typer.Option(help="Draws everything on the virtual clock.")] = 1,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE.json", help="Write the whole report there.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Inject every fault of the hazard table and measure at the electrode how the current ends.

    Each row runs 1000 times on the virtual clock, once with real processes, and 30 times where it kills, freezes or cuts.
    Exit code 1: a row was outside its bounds. Ctrl-C leaves a partial table that says so.

    Example: `cereloop campaign --short` or `cereloop campaign --row F20 --row F56 --out campaign.json`
    """
    from loop.campaign import run as campaigns
    from loop.campaign.tally import render

    if endurance is not None:
        _endure(endurance, duration, out, as_json)
        return
    plan = campaigns.plan_of(
        seed,
        runs if runs is not None else campaigns.SHORT_RUNS if short else campaigns.LONG_RUNS,
        trials if trials is not None else 0 if short else campaigns.LONG_TRIALS,
        row or (),
    )
    with stop_flag() as stopped, _progress(as_json) as progress:
        report = campaigns.campaign(plan, progress, stopped)
    if out is not None:
        campaigns.write(report, out)
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
    else:
        render(report, Console())
    if not report.complete:
        fail("the campaign was interrupted, or runs were lost; the table is partial")
        raise typer.Exit(Exit.INTERRUPTED)
    if not report.within:
        raise typer.Exit(Exit.NOT_WELL)


def _endure(word: str, seconds: float | None, out: Path | None, as_json: bool) -> None:
    from loop.campaign.endurance import SECONDS, Clock, endure, sentence

    clocks: dict[str, Clock] = {"virtual": "virtual", "real": "real"}
    if word not in clocks:
        raise ConfigError(f"--endurance {word}: give virtual or real")
    clock = clocks[word]
    with stop_flag() as stopped, _progress(as_json) as progress:
        found = endure(clock, seconds if seconds is not None else SECONDS[clock], progress, stopped)
    encoded = msgspec.json.encode(found)
    if out is not None:
        out.write_bytes(encoded + b"\n")
    typer.echo(encoded.decode() if as_json else sentence(found))
    if not found.complete:
        raise typer.Exit(Exit.INTERRUPTED)
    if not found.well:
        raise typer.Exit(Exit.NOT_WELL)


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[object], None]]:
    """A line on standard error once a second."""
    from loop.campaign.run import Step

    last_s = 0.0
    steps: dict[str, Step] = {}
    terminal = sys.stderr.isatty()

    def show(step: object) -> None:
        nonlocal last_s
        assert isinstance(step, Step)
        steps[step.part] = step
        now_s = time.monotonic()
        if quiet or now_s - last_s < (1.0 if terminal else 30.0):
            return
        last_s = now_s
        parts = "; ".join(f"{one.part} {one.done} of {one.total}" for one in list(steps.values()))
        failed = sum(one.failed for one in list(steps.values()))
        text = f"runs: {parts}; outside their bounds: {failed}"
        sys.stderr.write(f"\r{text[:79]:<79}" if terminal else f"{text}\n")
        sys.stderr.flush()

    yield show
    if terminal and not quiet:
        sys.stderr.write("\r" + " " * 79 + "\r")
