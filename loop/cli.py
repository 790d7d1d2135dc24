"""The command line: ``cereloop simulate | replay | live | verify | check | show | stop | mock | bench``.

Exit codes, the same for every command: 0 done; 1 done, but not well (verify found a difference, check found something that
stands in the way, a session was aborted); 2 the input cannot be used (arguments, configuration, recording, session file);
3 something needed is not there (stream, device, guard, disk); 4 zero current is NOT confirmed: switch the device off by hand;
130 interrupted before anything began.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from devices.checklist import ChecklistError
from devices.dose_book import DoseBookError
from devices.stimulator import DeviceError
from loop import __version__
from loop.calibration.errors import CalibrationError
from loop.config import Config, ConfigError, load
from loop.errors import SWITCH_OFF, LayoutError, SessionError, ZeroUnconfirmedError
from loop.estimators.errors import EstimatorError
from loop.presets import preset_path
from loop.sealing import SealError
from loop.session_file import JournalError
from loop.sources.errors import SourceError


class Exit(IntEnum):
    """What a command's exit code means."""

    DONE = 0
    NOT_WELL = 1
    BAD_INPUT = 2
    MISSING = 3
    ZERO_UNCONFIRMED = 4
    INTERRUPTED = 130


app = typer.Typer(
    help=(
        "Closes the loop between EEG and tDCS: live from LSL, replayed from a recording, or against a simulated head. "
        "Research use only; not a medical device."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    epilog="Exit codes: 0 done · 1 done, but not well · 2 bad input · 3 something needed is missing · "
    "4 zero current not confirmed · 130 interrupted.",
)

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", metavar="FILE.toml", help="Configuration file.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", "-s", metavar="TABLE.KEY=VALUE", help="Override one value; repeatable.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines, nothing else.")]
KeyOption = Annotated[Path | None, typer.Option("--key", metavar="FILE", help="The machine's key, for a blinded session.")]
OutOption = Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE.sqlite", help="Where the session file goes.")]


def configured(config: Path | None, preset: str, overrides: list[str] | None, more: dict[str, object]) -> Config:
    """The configuration of a command: a file or the shipped one, then ``--set``, then the command's own options."""
    items = list(overrides or [])
    for key, value in more.items():
        if value is not None:
            items.append(f"{key}={msgspec.json.encode(value).decode()}")
    return load(config if config is not None else preset_path(preset), items)


@app.command()
def simulate(
    config: ConfigOption = None,
    overrides: SetOption = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the simulated patient.")] = None,
    group: Annotated[str | None, typer.Option(help="Patient's group: HC, CC, FM or normative (no excess error).")] = None,
    duration: Annotated[float | None, typer.Option(help="Simulated seconds.")] = None,
    arm: Annotated[str | None, typer.Option(help="closed_loop, open_loop, sham, yoked or feedback_only.")] = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a closed-loop session on a simulated head with a mock stimulator.

    Example: `cereloop simulate --seed 3 --duration 600`
    """
    from loop.run import play
    from loop.sources.patient import patient_for

    more: dict[str, object] = {
        "patient.seed": seed,
        "patient.group": group,
        "session.duration_s": duration,
        "session.arm": arm,
    }
    chosen = configured(config, "simulate", overrides, more)
    playback = patient_for(chosen)
    with stop_flag() as stopped, progress_bar("simulating", as_json) as progress:
        played = play(chosen, playback, "simulate", out, progress, stopped)
    rate_hz = playback.layout.sfreq_hz
    truth = {round(trial.outcome_sample * 1e9 / rate_hz): trial.pe for trial in playback.truth}
    finish(played.path, as_json, truth, played.limits)


@app.command()
def replay(
    recording: Annotated[Path, typer.Argument(help="What mne.io.read_raw reads (EDF, BDF, FIF, SET, VHDR …), or XDF.")],
    config: ConfigOption = None,
    overrides: SetOption = None,
    arm: Annotated[str | None, typer.Option(help="feedback_only, or an arm that drives the mock stimulator.")] = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a recording through the same loop, faster than it was recorded.

    Without --config the arm is feedback_only: everything is estimated and recorded, nothing is stimulated.

    Example: `cereloop replay run-01_raw.fif --set 'markers.rename={target="STIM/NOX/100", standard="STIM/INN/0"}'`
    """
    from loop.run import play
    from loop.sources.recording import open_recording

    chosen = configured(config, "replay", overrides, {"session.arm": arm, "source.path": str(recording)})
    if chosen.device is not None and chosen.stimulates and chosen.device.driver != "simulated":
        raise ConfigError(f"key `device.driver` is {chosen.device.driver}: a recording drives the simulated stimulator only")
    playback = open_recording(recording)
    with stop_flag() as stopped, progress_bar("replaying", as_json) as progress:
        played = play(chosen, playback, "replay", out, progress, stopped)
    finish(played.path, as_json, None, played.limits)


@app.command()
def live(
    config: ConfigOption = None,
    overrides: SetOption = None,
    arm: Annotated[str | None, typer.Option(help="closed_loop, open_loop, sham, yoked or feedback_only.")] = None,
    port: Annotated[str | None, typer.Option(help="Where the stimulator is: serial port, or HOST:PORT.")] = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a session from an LSL stream, with a stimulator behind the guard.

    The session arms by a code that you type. Keys: a arm, p pause, c continue, r reset, s stop (ramp), x CUT NOW, ? help.
    From a pipe, lines: arm CODE, pause, resume, reset NAME, stop, cut, note TEXT.

    Example: `cereloop live --config configs/live-mock.toml --port /tmp/stimulator`
    """
    from loop.operator import OperatorLine
    from loop.run import live as run_live
    from loop.screen import Screen

    if config is None:
        raise ConfigError("live needs --config FILE.toml: nothing that limits or steers current has a default")
    chosen = configured(config, "live", overrides, {"session.arm": arm, "device.port": port})
    screen = Screen("json" if as_json else "text", view="blinded" if chosen.allocation is not None else "open")
    operator = OperatorLine(sys.stdin)
    try:
        path, at_zero = run_live(chosen, out, screen, operator)
    finally:
        # The session is over; whoever interrupts this must not change what it ended with.
        with contextlib.suppress(OSError, KeyboardInterrupt):
            operator.close()
        with contextlib.suppress(OSError, KeyboardInterrupt):
            screen.close()
    if not at_zero:
        fail(SWITCH_OFF)
    try:
        _finish_if_heard(path, as_json)
    finally:
        if not at_zero:
            raise typer.Exit(Exit.ZERO_UNCONFIRMED)


@app.command()
def verify(
    sessions: Annotated[list[Path], typer.Argument(metavar="SESSION...", help="Session files.")],
    recording: Annotated[Path | None, typer.Option(help="The recording, where it has moved since; for one session.")] = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prove that a replay of each session gives the same bytes; else name the first divergence.

    Example: `cereloop verify cereloop-live-P001-20261122-101500.sqlite`
    """
    from loop.redrive import verify as verify_session

    if recording is not None and len(sessions) > 1:
        raise ConfigError("--recording belongs to one session; verify the others without it")
    identical = True
    for session in sessions:
        with progress_bar("verifying", as_json) as progress:
            verdict = verify_session(session, recording, progress, key)
        identical = identical and verdict.identical
        if as_json:
            typer.echo(msgspec.json.encode(verdict).decode())
        else:
            typer.echo(verdict.sentence if len(sessions) == 1 else f"{session}: {verdict.sentence}")
    if not identical:
        raise typer.Exit(Exit.NOT_WELL)


@app.command()
def show(
    session: Annotated[Path, typer.Argument(help="A session file, finished or still being written.")],
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Summarise a session file.

    Example: `cereloop show cereloop-simulate-sim-20261122-101500.sqlite`
    """
    finish(session, as_json, None, (), key)


@app.command()
def stop(
    reason: Annotated[str, typer.Option(help="What the record shall say.")] = "emergency stop from the command line",
    as_json: JsonOption = False,
) -> None:
    """EMERGENCY STOP: cut the current of every session of this user, even if its engine is dead.

    Example: `cereloop stop`
    """
    from devices.link_socket import stop_all

    outcomes = stop_all(reason)
    if as_json:
        typer.echo(msgspec.json.encode(outcomes).decode())
    else:
        for outcome in outcomes:
            word = "stopped" if outcome.confirmed else "NOT CONFIRMED"
            typer.echo(f"{word}: {outcome.detail} ({outcome.path})")
        if not outcomes:
            typer.echo("no guard of yours is running: nothing to stop")
    if not all(outcome.confirmed for outcome in outcomes):
        fail("zero current is NOT confirmed: switch the stimulator off by hand")
        raise typer.Exit(Exit.ZERO_UNCONFIRMED)


# ---- what the commands share


def finish(
    path: Path, as_json: bool, truth: dict[int, float] | None, limits: tuple[str, ...], key: Path | None = None
) -> None:
    """Print the summary of a session file."""
    from loop.reader import Session
    from loop.summary import render, summarise

    with Session.open(path, key) as session:
        summary = summarise(session, truth, limits)
    if as_json:
        typer.echo(msgspec.json.encode(summary).decode())
    else:
        render(summary, _Page())


def _finish_if_heard(path: Path, as_json: bool) -> None:
    """The summary of a live session; a terminal or pipe that has gone meanwhile does not make the session a failed one."""
    try:
        finish(path, as_json, None, ())
        sys.stdout.flush()
    except OSError as error:
        fail(f"nobody takes the summary ({error.strerror or error}); `cereloop show {path}` prints it")


class _Page(Console):
    """A console that leaves it to the command what a reader who has gone means."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def fail(sentence: str) -> None:
    """One sentence on standard error, if anybody is there: the exit code says it anyway."""
    with contextlib.suppress(OSError):
        typer.echo(f"cereloop: {sentence}", err=True)


@contextmanager
def stop_flag() -> Iterator[Callable[[], bool]]:
    """Ctrl-C asks for an orderly end (ramp, closed file); a second one interrupts at once."""
    asked: list[bool] = []

    def note(_number: int, _frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(True)

    saved = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, saved)


@contextmanager
def progress_bar(what: str, quiet: bool) -> Iterator[Callable[[Any], None] | None]:
    """A bar on standard error, in simulated time; nothing where machines read."""
    if quiet:
        yield None
        return
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=1.0, state="")

        def update(at: Any) -> None:
            total = at.total_s or 1.0
            shown = f" {at.level_ua / 1000:.2f} mA · evidence {at.evidence:.1f}"
            state = f"{at.phase}{'' if getattr(at, 'is_blinded', False) else shown}"
            bar.update(task, completed=min(at.done_s / total, 1.0), state=state)

        yield update


def _version(value: bool) -> None:
    if value:
        typer.echo(f"cereloop {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Options before the command."""


@functools.cache
def _whole_app() -> typer.Typer:
    """The command line with the commands of all modules, which join it once."""
    from loop import cli_accuracy, cli_campaign, cli_devices, cli_dose, cli_estimate, cli_study, cli_tools

    for module in (cli_tools, cli_devices, cli_estimate, cli_accuracy, cli_study, cli_dose, cli_campaign):
        module.register(app)
    return app


def main() -> None:
    """Run the command line; bad input ends in one sentence, never in a traceback."""
    try:
        _run_app()
    finally:
        _flush_or_drop()


def _flush_or_drop() -> None:
    """What nobody takes any more is dropped: flushed at Python's own exit it would fail, and replace the exit code by 120."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _run_app() -> None:
    try:
        _whole_app()()
    except ImportError as error:
        # A kernel that was not built, or by another version (F53); whatever else is missing is a defect.
        if "cext.kernel" not in str(error):
            raise
        fail(str(error))
        sys.exit(Exit.MISSING)
    except (ConfigError, LayoutError, CalibrationError, EstimatorError, SealError, ChecklistError) as error:
        fail(str(error))
        sys.exit(Exit.BAD_INPUT)
    except JournalError as error:
        fail(str(error))
        sys.exit(Exit.BAD_INPUT)
    except ZeroUnconfirmedError as error:
        fail(str(error))
        fail(SWITCH_OFF)
        sys.exit(Exit.ZERO_UNCONFIRMED)
    except (SourceError, SessionError, DeviceError, DoseBookError) as error:
        fail(str(error))
        sys.exit(Exit.MISSING)
    except BrokenPipeError:
        sys.exit(Exit.DONE)
    except KeyboardInterrupt:
        fail("interrupted")
        sys.exit(Exit.INTERRUPTED)
    except OSError as error:
        fail(f"{error.filename or 'system'}: {error.strerror or error}")
        sys.exit(Exit.MISSING)
