"""The commands of a blinded study: ``allocate`` and ``unblind``."""

from __future__ import annotations

import getpass
import secrets
import socket
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from loop import allocation, sealing
from loop.cli import JsonOption, fail
from loop.sealing import SealError


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(allocate)
    app.command()(unblind)


def allocate(
    trial: Annotated[str, typer.Argument(help="Name of the study.")],
    arms: Annotated[str, typer.Option(help="Arms, with commas: of closed_loop, open_loop, sham, yoked.")],
    codes: Annotated[int, typer.Option(help="How many participants.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.json", help="The sealed allocation.")],
    officer_key: Annotated[Path, typer.Option(metavar="FILE", help="The unblinding officer's key: keep it away from here.")],
    machine_key: Annotated[Path, typer.Option(metavar="FILE", help="The session computer's key.")],
    block: Annotated[int | None, typer.Option(help="Codes in a block; twice the number of arms unless given.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides arms and codes; by chance unless given.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Allot codes to arms, block-randomised and sealed, so that session file and screen show the code alone.

    Writes the allocation and two new keys. Give the officer's key to somebody who runs no session; the machine's key stays on
    the session computer, readable by the account that records. A session takes its arm by `session.arm = "allotted"` and the
    table `[allocation]` with `file`, `machine_key` and `code`.

    Example: `cereloop allocate pilot --arms closed_loop,sham --codes 40 -o pilot.json --officer-key o.key --machine-key m.key`
    """
    chosen = [one.strip() for one in arms.split(",") if one.strip()]
    for one in chosen:
        if one not in allocation.ARMS:
            raise SealError(f"--arms: {one!r} is no arm that can be allotted; there are {', '.join(allocation.ARMS)}")
    for path in (out, officer_key, machine_key):
        if path.exists():
            raise SealError(f"{path} exists already; nothing is written over, name another file")
    if len({path.absolute() for path in (out, officer_key, machine_key)}) < 3:
        raise SealError("--out, --officer-key and --machine-key name the same file; give three")
    officer, machine = sealing.new_pair(), sealing.new_pair()
    made = allocation.make(
        trial,
        chosen,  # type: ignore[arg-type]
        codes,
        2 * len(chosen) if block is None else block,
        secrets.randbits(63) if seed is None else seed,
        officer.public,
        machine,
    )
    sealing.write_key(officer_key, officer.private, "officer")
    sealing.write_key(machine_key, machine.private, "machine")
    allocation.write(made, out)
    if as_json:
        typer.echo(msgspec.json.encode({"allocation": str(out), "codes": list(made.entries)}).decode())
        return
    typer.echo(f"{codes} codes of {trial} in {out}, in order of enrolment:")
    for start in range(0, len(made.entries), 10):
        typer.echo("  " + " ".join(list(made.entries)[start : start + 10]))
    typer.echo(f"officer's key  {officer_key}: give it to the unblinding officer and delete it here")
    typer.echo(f"machine's key  {machine_key}: stays here; whoever can read it can read the arms")


def unblind(
    file: Annotated[Path, typer.Argument(metavar="ALLOCATION", help="The file that `cereloop allocate` wrote.")],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="The unblinding officer's key.")],
    who: Annotated[str, typer.Option(help="Who unblinds.")],
    why: Annotated[str, typer.Option(help="For what reason.")],
    code: Annotated[list[str] | None, typer.Option(help="A code; repeatable. All of them unless given.")] = None,
    machine_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the machine's key here, to open session files with.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Tell the arms of codes. Needs the officer's key; who, when and why is logged beside the allocation before it is told.

    Example: `cereloop unblind pilot.json --key officer.key --who "Dr Roe" --why "serious event" --code K7RFM`
    """
    if not who.strip() or not why.strip():
        raise SealError("--who and --why: name who unblinds, and the reason; both are logged")
    sealed, digest = allocation.load(file)
    private = sealing.read_key(key)
    codes = list(code or sealed.entries)
    arms: dict[str, Any] = {one: allocation.unblind(sealed, one, private) for one in codes}
    log = allocation.note_unblinding(file, digest, who, why, codes, f"{getpass.getuser()}@{socket.gethostname()}")
    if machine_key is not None:
        sealing.write_key(machine_key, allocation.machine_key_of(sealed, private), "machine")
    if as_json:
        typer.echo(msgspec.json.encode({"arms": arms, "log": str(log)}).decode())
        return
    for one, arm in arms.items():
        typer.echo(f"{one}  {arm}")
    fail(f"logged in {log}")
