"""The command ``accuracy``: the benchmark against simulated patients whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from devices.mock.patient_settings import Group
from loop.cli import Exit, JsonOption, fail

_GATED: Final[tuple[Group, ...]] = ("normative", "HC", "FM")


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(accuracy)


def accuracy(
    seeds: Annotated[
        int | None, typer.Option(help="Simulated patients a scene [default: 20; 200 with --gates].", min=3, max=500)
    ] = None,
    first: Annotated[int | None, typer.Option(metavar="SEED", help="Their first seed.", min=0, max=2**31)] = None,
    short: Annotated[bool, typer.Option("--short", help="The main scenes and the shipped estimator alone.")] = False,
    harm: Annotated[bool, typer.Option("--harm", help="The harm guard's power instead (two minutes).")] = False,
    gates: Annotated[
        bool, typer.Option("--gates", help="Instead: whole sessions of FM, HC and of nobody's excess, to count gates in.")
    ] = False,
    development: Annotated[
        bool, typer.Option("--development", help="Seeds that settings may be compared on; the others never are.")
    ] = False,
    figure: Annotated[Path | None, typer.Option(metavar="FILE.svg", help="Where a figure goes (.svg, .png, .pdf).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say how well the index follows the error of patients whose truth is known, against baselines and controls.

    Every patient rests, plays the instructed block that calibrates, and is then judged on blocks V and P, once for each size
    of the error and each control. The whole of it (20 seeds) takes about half an hour on two cores, as --gates does, --short
    four minutes; the same seeds give the same figures.

    Example: `cereloop accuracy --seeds 20 --figure accuracy.svg`
    """
    console = Console()
    if gates and (harm or short or figure is not None):
        fail("--gates goes with --seeds, --first, --development and --json alone; leave out --harm, --short and --figure")
        raise typer.Exit(Exit.BAD_INPUT)
    if harm:
        from loop.accuracy.harm_power import harm_power
        from loop.accuracy.harm_power import render as render_harm

        power = harm_power()
        if as_json:
            typer.echo(msgspec.json.encode(power).decode())
        else:
            render_harm(power, console)
        return
    from loop.accuracy import bench, scenes
    from loop.accuracy.report import draw, gates_of, render, render_gates, report_of

    chosen, columns = scenes.long_form(), bench.COLUMNS
    if gates:
        chosen, columns = tuple(scenes.of_group(group) for group in _GATED), ()
    elif short:
        chosen, columns = scenes.short_form(), bench.SHORT_COLUMNS
    seeds = seeds or (200 if gates else 20)
    start = first if first is not None else scenes.FIRST_DEVELOPMENT_SEED if development else scenes.FIRST_SEED
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.completed:.0f}/{task.total:.0f} sessions"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=as_json,
    )
    with bar:
        task = bar.add_task("playing", total=seeds * len(chosen))
        sessions = bench.run(chosen, range(start, start + seeds), lambda n: bar.update(task, completed=n), columns)
    if gates:
        counted = gates_of(sessions, _GATED)
        if as_json:
            typer.echo(msgspec.json.encode(counted).decode())
        else:
            render_gates(counted, console)
        return
    report = report_of(sessions, chosen, scenes.long_form()[0].config().policy)
    if figure is not None:
        draw(report, figure)
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
    else:
        render(report, console)
