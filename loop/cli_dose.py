"""The commands around a participant's safety on paper: ``dose`` and ``checklist``."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from loop.cli import ConfigOption, JsonOption, SetOption, configured
from loop.config import Config, ConfigError

_CODE = re.compile(r"[A-Za-z0-9_-]{1,32}")


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(dose)
    app.command()(checklist)


def dose(
    participant: Annotated[str | None, typer.Argument(help="The participant's code.")] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    file: Annotated[Path | None, typer.Option("--ledger", metavar="FILE.sqlite", help="Instead of the configured one.")] = None,
    emulated: Annotated[bool, typer.Option("--emulated", help="Sessions with an emulator: no body received them.")] = False,
    unblinded: Annotated[
        bool, typer.Option("--unblinded", help="Tell the charge of blinded sessions too; it gives their arm away.")
    ] = False,
    new: Annotated[bool, typer.Option("--new", help="Make an empty ledger, once, before the first session.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Tell what a participant has received over sessions and days, what is left now, and when the next session may begin.

    The ledger lies in `$XDG_DATA_HOME/cereloop/dose.sqlite`, or `~/.local/share/…`, unless `dose.ledger` names another. It
    holds what truly flowed, in sham sessions too; of blinded sessions the charge is shown only with --unblinded.

    Example: `cereloop dose P001 --config session.toml`
    """
    from devices import ledger
    from devices.clock import SystemClock
    from devices.settings import Dose
    from loop.dose_report import dose_report, path_of, render

    if overrides and config is None:
        raise ConfigError("--set needs --config FILE.toml, whose values it overrides")
    chosen: Config | None = configured(config, "live", overrides, {}) if config is not None else None
    narrowed = chosen.dose if chosen is not None else Dose()
    path = file if file is not None else path_of(narrowed)
    if new:
        ledger.create(path)
        typer.echo(msgspec.json.encode({"ledger": str(path)}).decode() if as_json else f"made an empty ledger: {path}")
        if participant is None:
            return
    if participant is None or not _CODE.fullmatch(participant):
        raise ConfigError(f"dose needs a participant's code, such as P001, not `{(participant or '')[:40]}`")
    report = dose_report(
        path,
        participant,
        SystemClock(),
        narrowed,
        chosen.limits if chosen is not None else None,
        emulated=emulated,
        amounts="all" if unblinded else "blinded",
    )
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
    else:
        render(report, Console())


def checklist(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.toml", help="Where the blank form goes.")] = Path(
        "checklist.toml"
    ),
    as_json: JsonOption = False,
) -> None:
    """Make a blank pre-arm checklist: contraindications, skin, montage, operator and date, to fill in by hand.

    A session with a real stimulator needs one for this participant and today, named by `session.checklist`. What is missing,
    left open or out of date lets nothing be armed; `cereloop check` says which item it is.

    Example: `cereloop checklist --out P001-2026-11-24.toml`
    """
    from devices.checklist import ChecklistError, blank

    try:
        descriptor = os.open(out, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise ChecklistError(f"{out} exists already; a form is never written over another") from error
    except OSError as error:
        raise ChecklistError(f"{out}: {(error.strerror or str(error)).lower()}; name another file with --out") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(blank())
    if as_json:
        typer.echo(msgspec.json.encode({"checklist": str(out)}).decode())
    else:
        typer.echo(f"wrote a blank form: {out}; fill it in beside the participant, then name it by session.checklist")
