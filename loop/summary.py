"""What a session came to, read from its file alone: for people, for machines, and for the last screen of a command."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from devices import link
from devices.units import NS_PER_S
from loop import config as configuration
from loop.events import GateChange, Outcome
from loop.gate import Phase
from loop.reader import Session


class GateOpened(msgspec.Struct, frozen=True, kw_only=True):
    """One opening of the gate: when, for how long, why, and what ended it."""

    at_s: float
    seconds: float
    reason: str
    ended_by: str


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """The index against the simulated patient's true prediction error, over outcomes that were evidence."""

    n: int
    r: float | None
    r_low: float | None
    r_high: float | None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of it; times in seconds, charge in millicoulomb."""

    session: str
    mode: str
    arm: str
    estimator: str
    notes: tuple[str, ...]
    duration_s: float
    outcomes: int
    evidence_outcomes: int
    unused: dict[str, int]
    index_mean: float | None
    agreement: Agreement | None
    gates: tuple[GateOpened, ...]
    last_closed_reason: str
    charge_mc: float
    on_time_s: float
    peak_ua: int
    pulses: int
    """Most magnetic pulses that may have been given."""
    limits: tuple[str, ...]
    incidents: dict[str, int]
    ended: str
    blinded: bool = False
    """Whether gates, decisions and currents are sealed, so that they are not in this summary."""


def summarise(session: Session, truth: Mapping[int, float] | None = None, limits: tuple[str, ...] = ()) -> Summary:
    """Read a finished session.

    Parameters
    ----------
    session : Session
    truth : mapping of int to float, optional
        True absolute prediction error by the outcome's time in nanoseconds; known for a simulated patient only.
    limits : tuple of str, optional
        Sentences on the limits that were in force.
    """
    config = configuration.decode(session.config_text, f"{session.path}: recorded config")
    outcomes = session.outcomes
    used = [o for o in outcomes if o.index is not None and not o.reason]
    unused = Counter(_short(o.reason) for o in outcomes if o.reason)
    setups = session.setups
    finished = session.finished
    hidden = session.is_sealed
    reports = [] if hidden else [d.message for d in session.device_reports if isinstance(d.message, link.Report)]
    closed = [] if hidden else [d.reason for d in session.decisions if d.wanted == "closed"]
    ticks = session.ticks
    first_ns, last_ns = (ticks[0].t_ns, ticks[-1].t_ns) if len(ticks) else (0, 0)
    return Summary(
        session=str(session.path),
        mode=session.mode,
        arm=f"code {config.allocation.code}" if config.allocation is not None else config.session.arm,
        estimator=setups[0].estimator if setups else "none: no samples came",
        notes=setups[0].notes if setups else (),
        duration_s=(last_ns - first_ns) / NS_PER_S,
        outcomes=len(outcomes),
        evidence_outcomes=len(used),
        unused=dict(unused.most_common()),
        index_mean=float(np.mean([o.index for o in used])) if used else None,
        agreement=_agreement(used, truth) if truth is not None else None,
        gates=() if hidden else _gates(session.gates, first_ns),
        last_closed_reason=closed[-1] if closed else "",
        charge_mc=max((r.charge_uc for r in reports), default=0) / 1000.0,
        on_time_s=max((r.on_time_ms for r in reports), default=0) / 1000.0,
        peak_ua=max((r.level_ua for r in reports), default=0),
        pulses=max((r.pulses for r in reports), default=0),
        limits=limits,
        incidents=dict(Counter(i.name for i in session.incidents).most_common()),
        ended=finished[-1].reason if finished else "not in order: the record stops without an end",
        blinded=hidden,
    )


def render(summary: Summary, console: Console) -> None:
    """Print a summary that fits 80 columns."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("arm", f"{summary.arm} ({summary.mode}), {_clock(summary.duration_s)}")
    table.add_row("estimator", summary.estimator)
    for note in summary.notes:
        table.add_row("", f"note: {note}")
    table.add_row("outcomes", f"{summary.outcomes}, of them {summary.evidence_outcomes} as evidence")
    for reason, count in summary.unused.items():
        table.add_row("", f"{count} left out: {reason}")
    if summary.index_mean is not None:
        table.add_row("index", f"mean {summary.index_mean:+.2f} sd above the null")
    if summary.agreement is not None and summary.agreement.r is not None:
        a = summary.agreement
        table.add_row("against truth", f"r = {a.r:.2f} (95 % {a.r_low:.2f} to {a.r_high:.2f}, {a.n} outcomes)")
    if summary.blinded:
        table.add_row("sealed", "gates, decisions, currents and charge: this session is blinded (--key opens them)")
    elif summary.gates:
        table.add_row("gates", f"{len(summary.gates)} opened")
        for gate in summary.gates:
            table.add_row("", f"{_clock(gate.at_s)} for {gate.seconds:.0f} s: {gate.reason}; {gate.ended_by}")
    else:
        table.add_row("gates", f"none opened: {summary.last_closed_reason or 'this arm opens none'}")
    if summary.pulses:
        table.add_row("pulses", f"{summary.pulses} magnetic pulses")
    elif not summary.blinded:
        charge = f"{summary.charge_mc:.1f} mC in {summary.on_time_s:.0f} s, peak {summary.peak_ua / 1000:g} mA"
        table.add_row("charge", charge)
    for sentence in summary.limits:
        table.add_row("limit", sentence)
    for name, count in summary.incidents.items():
        table.add_row("incident", f"{count} × {name}")
    table.add_row("ended", summary.ended)
    table.add_row("session", summary.session)
    console.print(table)


def _gates(changes: Iterable[GateChange], first_ns: int) -> tuple[GateOpened, ...]:
    gates: list[GateOpened] = []
    opened: GateChange | None = None
    for change in changes:
        if change.after == Phase.RAMP_UP:
            opened = change
        elif opened is not None and change.after in (Phase.SETTLE, Phase.PAUSED, Phase.ENDED, Phase.STOPPED):
            at_s = (opened.t_ns - first_ns) / NS_PER_S
            seconds = (change.t_ns - opened.t_ns) / NS_PER_S
            ended = change.reason if change.after == Phase.STOPPED else f"then {change.after}"
            gates.append(GateOpened(at_s=at_s, seconds=seconds, reason=opened.reason, ended_by=ended))
            opened = None
    return tuple(gates)


def _agreement(used: Sequence[Outcome], truth: Mapping[int, float]) -> Agreement:
    pairs = [(o.index, truth[o.t_ns]) for o in used if o.t_ns in truth]
    if len(pairs) < 4:
        return Agreement(n=len(pairs), r=None, r_low=None, r_high=None)
    x, y = np.array(pairs).T
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return Agreement(n=len(pairs), r=None, r_low=None, r_high=None)
    r = float(np.corrcoef(x, y)[0, 1])
    # Fisher's z; exact only for bivariate normal data, enough for a summary.
    half = 1.96 / math.sqrt(len(pairs) - 3)
    z = math.atanh(max(-0.999999, min(0.999999, r)))
    return Agreement(n=len(pairs), r=r, r_low=math.tanh(z - half), r_high=math.tanh(z + half))


def _short(reason: str) -> str:
    words = reason.split()
    return " ".join("#" if any(c.isdigit() for c in word) else word for word in words)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min"
