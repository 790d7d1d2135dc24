"""The commands around a session: ``check``, ``bench``, and the stand-ins ``mock amplifier | recording | stimulator``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loop.cli import ConfigOption, Exit, JsonOption, SetOption, configured
from loop.config import Config, ConfigError

mock = typer.Typer(
    help="Stand-ins for hardware, so that cereloop and other software can be tested without it.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(check)
    app.command()(bench)
    app.command()(drivers)
    app.add_typer(mock, name="mock")


def check(
    recording: Annotated[
        Path | None, typer.Argument(metavar="[RECORDING]", help="Look through a recording instead of a live set-up.")
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    port: Annotated[str | None, typer.Option(help="Where the stimulator is: serial port, or HOST:PORT.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Look at stream, layout, clock, device, limits, impedance and disk before anybody arms; or at a recording's markers.

    For a live set-up it prints how long the current takes to zero after each kind of fault with this device. Makes no current.
    For a recording it says which markers are missing for replay, closed loop, calibration and harm guard.

    Example: `cereloop check --config configs/live-mock.toml` or `cereloop check pilot-01_raw.fif`
    """
    if recording is not None:
        _check_recording(recording, configured(config, "replay", overrides, {"source.path": str(recording)}), as_json)
        return
    from devices.time_to_zero import TimeToZero
    from loop.preflight import Finding, Preflight, preflight

    if config is None:
        raise ConfigError("check needs --config FILE.toml (the session to come) or a recording to look through")
    chosen = configured(config, "live", overrides, {"device.port": port})
    console = Console()
    findings: list[Finding] = []
    rows: list[TimeToZero] = []
    for item in preflight(chosen):
        if isinstance(item, Finding):
            findings.append(item)
            if not as_json:
                mark = {True: "[green]ok  [/]", False: "[red]STOP[/]", None: "note"}[item.ok]
                console.print(f"{mark} {item.item:<10}{escape(item.detail)}", highlight=False, soft_wrap=True)
        else:
            rows.append(item)
    result = Preflight(findings=findings, time_to_zero=rows)
    if as_json:
        typer.echo(msgspec.json.encode(result).decode())
    elif rows:
        what = "zero current" if chosen.pulses is None else "the last pulse"
        table = Table(box=None, title=f"time to {what} with this device", title_justify="left", pad_edge=False)
        table.add_column("after", overflow="fold")
        table.add_column("stop", no_wrap=True)
        table.add_column("at most", no_wrap=True, justify="right")
        for row in rows:
            bound = "never noticed" if row.bound_s is None else f"{row.bound_s:.2f} s"
            table.add_row(row.cause, f"S{int(row.stop_class)}", bound)
        console.print(table)
    if not result.ready:
        raise typer.Exit(Exit.NOT_WELL)


def _check_recording(path: Path, config: Config, as_json: bool) -> None:
    from loop.marker_check import check_recording

    findings = check_recording(path, config)
    if as_json:
        typer.echo(msgspec.json.encode(findings).decode())
    else:
        console = Console()
        for finding in findings:
            mark = {"ok": "[green]ok     [/]", "missing": "[red]missing[/]", "note": "note   "}[finding.state]
            console.print(f"{mark} {finding.use:<12}{escape(finding.detail)}", highlight=False, soft_wrap=True)
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(Exit.NOT_WELL)


def drivers(as_json: JsonOption = False) -> None:
    """List the stimulators that `device.driver` can name, their modes, and what each mode promises if the host dies.

    Others come in by the entry point group `cereloop.devices`.

    Example: `cereloop drivers`
    """
    from devices.registry import available

    entries = available()
    if as_json:
        typer.echo(msgspec.json.encode(entries).decode())
        return
    for entry in entries:
        typer.echo(f"{entry.name}  ({entry.origin})  {entry.problem or entry.summary}")
        for mode, words in entry.modes.items():
            typer.echo(f"    {mode:<12}{words}")


@mock.command("amplifier")
def mock_amplifier(
    what: Annotated[str, typer.Argument(metavar="FILE_OR_PATIENT", help="A recording, or the word `patient`.")],
    name: Annotated[str, typer.Option(help="Name of the LSL stream.")] = "cereloop-mock",
    source_id: Annotated[str, typer.Option(help="Source id of the LSL stream.")] = "cereloop-mock-amplifier",
    marker_name: Annotated[str, typer.Option(help="Name of the LSL marker stream.")] = "cereloop-markers",
    config: ConfigOption = None,
    overrides: SetOption = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the patient.")] = None,
    meter: Annotated[Path | None, typer.Option(help="Meter file of a mock stimulator: the patient feels its current.")] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Play a recording again and again.")] = False,
    chunk: Annotated[float, typer.Option(help="Length of a chunk in seconds.", min=0.001, max=1.0)] = 0.02,
    network: Annotated[bool, typer.Option("--network", help="Announce the stream beyond this machine.")] = False,
) -> None:
    """Stream a recording or the simulated patient as LSL EEG plus markers, at true rate, until Ctrl-C.

    Example: `cereloop mock amplifier patient --seed 3`
    """
    from loop.mock_amplifier import run_amplifier

    run_amplifier(
        what,
        name=name,
        source_id=source_id,
        marker_name=marker_name,
        patient=configured(config, "simulate", overrides, {"patient.seed": seed}).patient,
        meter=meter,
        again=loop,
        chunk_s=chunk,
        reach="network" if network else "machine",
        say=lambda text: typer.echo(text, err=True),
    )


@mock.command("recording")
def mock_recording(
    who: Annotated[str, typer.Argument(metavar="patient", help="The word `patient`.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="NAME_raw.fif", help="Where the recording goes.")],
    config: ConfigOption = None,
    overrides: SetOption = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the patient.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a session of the simulated patient as FIF with markers, and what was true beside it as NAME_truth.json.

    The recording holds what an amplifier would give, for anybody's estimator; it replays, and it can be calibrated on. The
    truth file holds each outcome's belief and error, the traits, the source's topography, and all assumptions.

    Example: `cereloop mock recording patient --seed 3 --out p3_raw.fif --set 'patient.blocks=["R", "I"]'`
    """
    from rich.progress import Progress

    from loop.patient_recording import write_recording

    if who != "patient":
        raise ConfigError(f"mock recording knows the `patient`, not `{who}`")
    settings = configured(config, "recording", overrides, {"patient.seed": seed}).patient
    if settings is None:
        raise ConfigError("key `patient` is missing: the configuration has no [patient] table to record")
    with Progress(console=Console(stderr=True), transient=True, disable=as_json) as bar:
        task = bar.add_task("recording", total=1.0)
        written = write_recording(settings, out, lambda share: bar.update(task, completed=share))
    if as_json:
        typer.echo(msgspec.json.encode(written).decode())
        return
    typer.echo(
        f"{written.recording}: {written.seconds / 60.0:.1f} min, {written.channels} channels, {written.markers} markers, "
        f"{written.outcomes} outcomes"
    )
    typer.echo(f"{written.truth}: what was true behind them")


@mock.command("assumptions")
def mock_assumptions(as_json: JsonOption = False) -> None:
    """List every number that the simulated patient rests on: E established, S one study or contested, A assumed.

    Example: `cereloop mock assumptions`
    """
    from devices.mock.assumptions import ASSUMPTIONS

    if as_json:
        typer.echo(msgspec.json.encode([entry._asdict() for entry in ASSUMPTIONS]).decode())
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in ("what", "value", "unit", "from where"):
        table.add_column(name, overflow="fold")
    for entry in ASSUMPTIONS:
        table.add_row(entry.status, *(escape(text) for text in (entry.name, _plain(entry.value), entry.unit, entry.source)))
    Console().print(table)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key} {_plain(one)}" for key, one in value.items())
    if isinstance(value, tuple):
        return ", ".join(f"({_plain(one)})" if isinstance(one, tuple) else _plain(one) for one in value)
    return f"{value:g}"


@mock.command("stimulator")
def mock_stimulator(
    protocol: Annotated[str, typer.Option(help="Which device to be.")] = "reference",
    link: Annotated[Path | None, typer.Option(help="Make a link of this name to the serial port.")] = None,
    listen: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where a device on the network listens.")] = None,
    meter: Annotated[Path | None, typer.Option(help="Write what truly flows at the electrode to this file.")] = None,
    control: Annotated[str | None, typer.Option(help="Local socket for faults on command; - is standard input.")] = None,
    seed: Annotated[int, typer.Option(help="Draws errors, latencies and noise.")] = 0,
    fault: Annotated[
        list[str] | None, typer.Option(metavar="NAME[:key=value,...][@SECONDS]", help="Inject a fault; repeatable.")
    ] = None,
    firmware: Annotated[str | None, typer.Option(help="Which firmware to be, where the emulator knows several.")] = None,
    electrodes: Annotated[
        str | None, typer.Option(metavar="NAME[:key=value,...]", help="Electrodes and skin; see --list-electrodes.")
    ] = None,
    gate: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="nic2: how long the protocol lasts that takes one gate.")
    ] = None,
    outlet: Annotated[
        str | None, typer.Option(metavar="NAME", help="nic2: stream a simulated patient's EEG and markers under this name.")
    ] = None,
    resistor: Annotated[
        float | None, typer.Option(metavar="OHM", help="labjack: a resistor in place of the body, for calibrate-output.")
    ] = None,
    list_electrodes: Annotated[
        bool, typer.Option("--list-electrodes", help="List the electrodes' numbers, ranges and provenance, and end.")
    ] = False,
    list_faults: Annotated[bool, typer.Option("--list-faults", help="List the faults by name and end.")] = False,
) -> None:
    """Be a stimulator on its own transport, with skin, physics, a meter and faults, until Ctrl-C.

    Example: `cereloop mock stimulator --link /tmp/cereloop-stimulator --meter /tmp/cereloop.meter`
    """
    from devices.mock import faults, numbers, protocols

    emulator = protocols.find(protocol)
    if emulator is None:
        raise ConfigError(f"--protocol {protocol}: no such emulator; there are {', '.join(protocols.MODULES)}")
    if list_electrodes:
        for table in (*numbers.pairs(), "output"):
            typer.echo(table)
            for key, number in numbers.tables()[table].items():
                low, high = number.range
                typer.echo(f"  {key} = {number.value:g} {number.unit} ({low:g} to {high:g}; {number.status}: {number.source})")
        return
    if list_faults:
        for known in emulator.FAULTS.values():
            typer.echo(f"{known.name:<18}{known.effect}")
        return
    try:
        for text in fault or ():
            faults.parse(text, emulator.FAULTS)
        numbers.pair_values(electrodes or numbers.DEFAULT_PAIR)
    except (faults.FaultError, numbers.NumberError) as error:
        raise ConfigError(str(error)) from error
    arguments = ["--seed", str(seed)]
    given: dict[str, object] = {
        "--link": link, "--listen": listen, "--meter": meter, "--control": control, "--electrodes": electrodes,
        "--gate": gate, "--outlet": outlet, "--resistor": resistor, "--firmware": firmware,
    }  # fmt: skip
    for option, value in given.items():
        if value is not None:
            arguments += [option, str(value)]
    for text in fault or ():
        arguments += ["--fault", text]
    sys.exit(emulator.main(arguments))


def bench(
    part: Annotated[str, typer.Argument(help="kernel, replay, latency or all.")] = "all",
    seconds: Annotated[float, typer.Option(help="Length of the latency measurement.", min=2.0, max=600.0)] = 20.0,
    as_json: JsonOption = False,
) -> None:
    """Measure the kernel, the replay and the latency, each beside its yardstick in the same run.

    Example: `cereloop bench kernel`
    """
    from loop.bench import PARTS, render, run

    if part not in (*PARTS, "all"):
        raise ConfigError(f"bench knows {', '.join(PARTS)} and all, not `{part}`")
    results: dict[str, Any] = {}
    for name in PARTS if part == "all" else (part,):
        results[name] = run(name, seconds)
        if not as_json:
            render(name, results[name], Console())
    if as_json:
        typer.echo(msgspec.json.encode(results).decode())
