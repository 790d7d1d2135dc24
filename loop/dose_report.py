"""What the dose ledger says of one participant: for `cereloop dose`, `cereloop check`, people and machines."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Literal

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from devices import ledger
from devices.clock import Clock
from devices.dose import NS_PER_H, DoseSession, Moment, standing
from devices.ledger import Ledger, LedgerError
from devices.ledger_book import key, moment, sessions_of
from devices.limits import MAX_CHARGE_UC, MAX_ON_TIME_S
from devices.settings import Dose, Limits


class DoseLine(msgspec.Struct, frozen=True, kw_only=True):
    """One stimulation session; `state` is ``ended``, ``cut short`` or ``open`` (a reservation counts in full).

    Charge and time are None where the session is blinded and nobody asked for them.
    """

    began: str
    session: str
    device: str
    charge_mc: float | None
    on_time_s: float | None
    state: str


class DoseReport(msgspec.Struct, frozen=True, kw_only=True):
    """A participant's dose; charge in millicoulomb, times in seconds, moments in UTC.

    `left_charge_mc` and `left_on_time_s` are what may flow now: of the session `goes_on`, which a crash cut short, or of a new
    one. `next_session` is when the next new session may begin. `refusal` says why nothing may flow now; empty where it may.
    Amounts are None where they would tell the arm of a blinded session.
    """

    participant: str
    ledger: str
    emulated: bool
    sessions: list[DoseLine]
    charge_mc: float | None
    on_time_s: float | None
    left_charge_mc: float | None
    left_on_time_s: float | None
    goes_on: str
    next_session: str
    refusal: str


def path_of(dose: Dose) -> Path:
    """The ledger's file by the configuration, or the user's own."""
    return Path(dose.ledger).expanduser() if dose.ledger else ledger.default_path()


def dose_report(
    path: Path,
    participant: str,
    clock: Clock,
    dose: Dose,
    caps: Limits | None,
    *,
    emulated: bool,
    amounts: Literal["blinded", "all"] = "blinded",
) -> DoseReport:
    """Read a participant's dose.

    Parameters
    ----------
    path : Path
        The ledger.
    participant : str
        The code; capitals and small letters are the same.
    clock : Clock
        Whose wall clock says what is now.
    dose : Dose
        What the study narrows over sessions.
    caps : Limits or None
        What it narrows within one; None for the ceilings in code.
    emulated : bool
        Whether to tell the sessions with an emulator instead, which no body received.
    amounts : {"blinded", "all"}
        Whether to leave out what would tell the arm of a blinded session.

    Raises
    ------
    LedgerError
        If the ledger is missing, damaged or busy.
    """
    book = Ledger(path)
    try:
        now = moment(clock)
        sessions = sessions_of(book, participant, emulated=emulated)
        where = standing(sessions, now, round(dose.min_interval_h * NS_PER_H), dose.max_sessions)
        refusal = where.refusal
        try:
            book.check_clock(now)
        except LedgerError as error:
            refusal = str(error)
    finally:
        book.close()
    counting = [session for session in sessions if session.counts]
    most_uc = MAX_CHARGE_UC if caps is None else min(MAX_CHARGE_UC, caps.max_charge_uc)
    most_s = MAX_ON_TIME_S if caps is None else min(MAX_ON_TIME_S, caps.max_on_time_s)
    hide = amounts == "blinded"
    hides_total = hide and any(session.blinded for session in counting)
    hides_left = hide and where.goes_on is not None and where.goes_on.blinded
    return DoseReport(
        participant=key(participant),
        ledger=str(path),
        emulated=emulated,
        sessions=[_line(session, hides=hide and session.blinded) for session in counting],
        charge_mc=None if hides_total else sum(session.counted_uc for session in counting) / 1000,
        on_time_s=None if hides_total else sum(session.counted_ms for session in counting) / 1000,
        left_charge_mc=None if hides_left else 0.0 if refusal else max(0, most_uc - where.used_uc) / 1000,
        left_on_time_s=None if hides_left else 0.0 if refusal else max(0.0, most_s - where.used_ms / 1000),
        goes_on=where.goes_on.name if where.goes_on is not None else "",
        next_session=_next(counting, now, round(dose.min_interval_h * NS_PER_H)),
        refusal=refusal,
    )


def sentence(report: DoseReport) -> str:
    """Where the participant stands now, in one sentence."""
    if report.refusal:
        return f"nothing may flow: {report.refusal}"
    left = "" if report.left_charge_mc is None else f": {_amount(report.left_charge_mc, report.left_on_time_s)} are left"
    if report.goes_on:
        return f"session {report.goes_on} was cut short and goes on{left}"
    return f"a session may begin now{left}"


def render(report: DoseReport, console: Console) -> None:
    """Print a report that fits 80 columns."""
    kind = " with emulators (no body received any of it)" if report.emulated else ""
    count = f"{len(report.sessions)} session{'' if len(report.sessions) == 1 else 's'}"
    total = "amounts are blinded" if report.charge_mc is None else _amount(report.charge_mc, report.on_time_s)
    console.print(f"{report.participant}: {count}{kind}, {total}", highlight=False, markup=False)
    if report.sessions:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("began (UTC)", no_wrap=True)
        table.add_column("charge", justify="right", no_wrap=True)
        table.add_column("current", justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
        table.add_column("session", overflow="fold")
        for line in report.sessions:
            began = line.began[:16].replace("T", " ")
            charge = "blinded" if line.charge_mc is None else f"{line.charge_mc:.1f} mC"
            current = "blinded" if line.on_time_s is None else f"{line.on_time_s:.0f} s"
            table.add_row(began, charge, current, line.state, escape(line.session))
        console.print(table)
    console.print(f"now: {sentence(report)}", highlight=False, markup=False)
    if report.sessions:
        console.print(f"next new session: from {report.next_session}", highlight=False, markup=False)
    console.print(f"ledger: {report.ledger}", highlight=False, markup=False, soft_wrap=True)


def _amount(charge_mc: float, on_time_s: float | None) -> str:
    return f"{charge_mc:.1f} mC and {on_time_s or 0.0:.0f} s"


def _line(session: DoseSession, *, hides: bool) -> DoseLine:
    state = "ended" if session.closed else "open" if session.open_uc or session.open_ms else "cut short"
    return DoseLine(
        began=_utc(session.began.wall_ns),
        session=session.name,
        device=session.device,
        charge_mc=None if hides else session.counted_uc / 1000,
        on_time_s=None if hides else session.counted_ms / 1000,
        state=state,
    )


def _next(counting: list[DoseSession], now: Moment, interval_ns: int) -> str:
    """When a new session may begin, if nothing flows until then; now where it may already."""
    return _utc(max([now.wall_ns, *(session.last.wall_ns + interval_ns for session in counting)]))


def _utc(wall_ns: int) -> str:
    try:
        return dt.datetime.fromtimestamp(-(-wall_ns // 10**9), tz=dt.UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return "a time that no calendar has"
