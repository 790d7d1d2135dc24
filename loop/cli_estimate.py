"""The commands around the estimate: ``calibrate``, ``estimators``, ``latency``, ``separation`` and ``control``."""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from loop.calibration.inputs import Take, joined, take_of_playback, take_of_session
from loop.cli import ConfigOption, Exit, JsonOption, SetOption, configured
from loop.config import Config, ConfigError


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(calibrate)
    app.command()(estimators)
    app.command()(latency)
    app.command()(separation)
    app.command()(control)


def calibrate(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="RECORDING|SESSION...|live|patient", help="What to learn from; `live` records first."),
    ],
    config: ConfigOption = None,
    overrides: SetOption = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.json", help="Where the calibration goes.")] = Path(
        "calibration.json"
    ),
    as_json: JsonOption = False,
) -> None:
    """Learn one person's spatial filters (from rest) and readout (from trials whose expectation was told).

    Several recordings or sessions of one cap are learned from as one. With `estimator.kind` event_readout, trials are STIM/NOX
    and STIM/INN, and no rest is needed: `cereloop calibrate run-1.fif run-2.fif --set estimator.kind=event_readout`.

    Writes the calibration, and beside it a page of words and pictures (.html) that says whether to go on. A session uses it by
    `estimator.calibration`. It fits this cap, these pads and this rate alone, and expires after 30 days.

    Example: `cereloop calibrate rest-and-instructed.fif --config session.toml --out P001.json`
    """
    from loop.calibration import file
    from loop.calibration.make import make
    from loop.calibration.quality import page_of
    from loop.run import session_meta

    chosen = configured(config, "calibrate", overrides, {"session.arm": "feedback_only"})
    console = Console(stderr=True)
    take = _take(sources, chosen, as_json)
    today = dt.datetime.now(tz=dt.UTC).date()
    versions = session_meta(chosen, "replay", "calibration", "").versions
    with console.status("calibrating", spinner="line") as status:
        made = make(take, chosen, today, versions, lambda what: status.update(what) if not as_json else None)
        file.save(made.calibration, out)
        page = page_of(made, out.with_suffix(".html"))
    calibration = made.calibration
    if as_json:
        summary = {
            "calibration": str(out),
            "page": str(page),
            "verdict": calibration.verdict,
            "notes": calibration.notes,
            "quality": calibration.quality,
            "bad": calibration.rest.bad,
        }
        typer.echo(msgspec.json.encode(summary).decode())
        return
    printer = Console()
    colour = {"go on": "green", "go on with care": "yellow"}.get(calibration.verdict, "red")
    printer.print(f"[{colour}]{calibration.verdict}[/]")
    for note in calibration.notes:
        printer.print(f"  {note}", highlight=False)
    for channel, reason in calibration.rest.bad.items():
        printer.print(f"  left out: {channel} ({reason})", highlight=False)
    printer.print(f"calibration  {out} (until {calibration.expires})", highlight=False, soft_wrap=True)
    printer.print(f"page         {page}", highlight=False, soft_wrap=True)


def estimators(as_json: JsonOption = False) -> None:
    """List the estimators that can be named in `estimator.kind`: built-in ones and those of installed plug-ins.

    Example: `cereloop estimators`
    """
    from loop.estimators import registry

    entries = registry.available()
    if as_json:
        typer.echo(msgspec.json.encode(entries).decode())
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("estimator", no_wrap=True)
    table.add_column("from", no_wrap=True)
    table.add_column("what it is", overflow="fold")
    for entry in entries:
        table.add_row(entry.name, entry.origin, Text(entry.problem, "red") if entry.problem else Text(entry.summary))
    Console().print(table)


def latency(
    config: ConfigOption = None,
    overrides: SetOption = None,
    rate_hz: Annotated[float | None, typer.Option("--rate", metavar="HZ", help="The stream's rate, if not known yet.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say where the time goes from brain to current: filters, envelopes, windows, transport, ticks, ramp.

    Computed from the filters and the configuration; what is assumed is marked. `cereloop bench` measures this machine's part.

    Example: `cereloop latency --config live.toml --rate 500`
    """
    from loop.stage_latency import stage_latencies

    chosen = configured(config, "simulate", overrides, {})
    try:
        stages = stage_latencies(chosen, rate_hz)
    except ValueError as error:
        raise ConfigError(f"--rate: {error}") from error
    if as_json:
        typer.echo(msgspec.json.encode(stages).decode())
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("stage", no_wrap=True)
    table.add_column("delay", justify="right", no_wrap=True)
    table.add_column("from", no_wrap=True)
    table.add_column("what", overflow="fold")
    for stage in stages:
        delay = f"{stage.delay_s * 1e3:.1f} ms" if stage.delay_s < 1.0 else f"{stage.delay_s:.1f} s"
        table.add_row(stage.name, delay, stage.origin, stage.what, style="bold" if stage.origin == "sum" else "")
    Console().print(table)


def separation(
    sessions: Annotated[list[Path], typer.Argument(metavar="SESSION...", help="Session files, such as `replay` writes.")],
    as_json: JsonOption = False,
) -> None:
    """Say how well the index of finished sessions tells STIM/NOX from STIM/INN, beside what chance would reach.

    Area under the curve, causal: the index is what each session had when it decided. Chance is what 95 % of shuffled labels
    stay below.

    Example: `cereloop separation run-4.sqlite run-5.sqlite run-6.sqlite`
    """
    from loop.accuracy.recordings import separation_of

    rows = separation_of(sessions)
    if as_json:
        typer.echo(msgspec.json.encode(rows).decode())
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("session", overflow="fold")
    for name in ("AUC", "95 % of chance", "p", "NOX", "INN", "left out"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        figures = (f"{row.auc:.3f}", f"< {row.chance:.3f}", f"{row.p:.4f}", str(row.nox), str(row.inn), str(row.left_out))
        table.add_row(row.name, *figures, style="bold" if row is rows[-1] else "")
    Console().print(table)


def control(
    recording: Annotated[Path, typer.Argument(help="A recording of rest.")],
    seeds: Annotated[int, typer.Option(min=2, max=10_000, help="How many sessions, each with other markers.")] = 20,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Play rest with random fake markers in closed_loop: the index must stay at chance, and no gate may open.

    An estimator that needs a calibration gets one from the first half, with fake markers too. Ends with 1 where a gate opened.

    Example: `cereloop control rest.edf --set estimator.kind=event_readout`
    """
    from loop.accuracy.recordings import control_of

    chosen = configured(config, "simulate", overrides, {"session.arm": "closed_loop"})
    if chosen.device is not None and chosen.device.driver != "simulated":
        raise ConfigError(f"key `device.driver` is {chosen.device.driver}: a recording drives the simulated stimulator only")
    with Console(stderr=True).status("playing fake markers", spinner="line"):
        found = control_of(recording, chosen, range(seeds))
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
    else:
        print_ = Console(highlight=False).print
        print_(f"{found.estimator}, {found.seeds} sessions of rest with fake markers, {found.outcomes} outcomes judged")
        print_(f"AUC of fake NOX against fake INN  {found.auc:.3f} (mean; standard error {found.se:.3f}; chance 0.5)")
        print_(f"calibrations that found nothing   {found.refused} (closed_loop refuses them; played in feedback_only)")
        print_(f"gates opened                      {found.gates}")
        print_(f"evidence for one, refused or not  {found.alarms} times, {found.alarms_per_hour:.2f} an hour of 400 outcomes")
    if found.gates:
        raise typer.Exit(Exit.NOT_WELL)


def _take(sources: list[str], config: Config, quiet: bool) -> Take:
    alone = next((source for source in sources if source in {"live", "patient"}), None)
    if alone is not None and len(sources) > 1:
        raise ConfigError(f"`{alone}` stands alone; to join it with others, record it and give the file")
    return joined([_take_one(source, config, quiet) for source in sources])


def _take_one(source: str, config: Config, quiet: bool) -> Take:
    from loop.sources.patient import PatientPlayback
    from loop.sources.recording import open_recording

    if source == "patient":
        settings = config.patient
        if settings is None:
            raise ConfigError("key `patient` is missing: `calibrate patient` needs a [patient] table")
        return take_of_playback(lambda: PatientPlayback(settings))
    if source == "live":
        return take_of_session(_record(config, quiet))
    if source.endswith(".sqlite"):
        return take_of_session(source)
    return take_of_playback(lambda: open_recording(source))


def _record(config: Config, quiet: bool) -> Path:
    """Record the stream without current for `session.duration_s`; the session file is kept beside the calibration."""
    from loop.operator import OperatorLine
    from loop.run import live
    from loop.screen import Screen

    screen = Screen("json" if quiet else "text")
    operator = OperatorLine(sys.stdin)
    try:
        path, _ = live(config, None, screen, operator)
    finally:
        operator.close()
        screen.close()
    return path
