"""What a session came to, read from its file alone: for people, for machines, and for the last screen of a command."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from devices import link
from devices.units import NS_PER_S
from loop import config as configuration
from loop.events import GateChange
from loop.fragility import Fragility
from loop.fragility_words import rows
from loop.gate import Phase
from loop.reader import Session


class GateOpened(msgspec.Struct, frozen=True, kw_only=True):
    """One opening of the gate: when, for how long, why, and what ended it."""

    at_s: float
    seconds: float
    reason: str
    ended_by: str


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """The index, the markers' model alone, or both fused, against the simulated patient's true prediction error.

    Over outcomes that were evidence. The markers' model needs no EEG: only what goes beyond it is the EEG's.
    """

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
    agreement_markers: Agreement | None
    agreement_fused: Agreement | None
    no_outcomes: str
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
    estimator_kind: str
    fragility: Fragility
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
        agreement=_agreement([(o.t_ns, o.index) for o in used], truth),
        agreement_markers=_agreement([(o.t_ns, o.surprise) for o in used], truth),
        agreement_fused=_agreement([(o.t_ns, o.fused) for o in used], truth),
        no_outcomes="" if len(outcomes) else _why_none(session, config),
        gates=() if hidden else _gates(session.gates, first_ns),
        last_closed_reason=closed[-1] if closed else "",
        charge_mc=max((r.charge_uc for r in reports), default=0) / 1000.0,
        on_time_s=max((r.on_time_ms for r in reports), default=0) / 1000.0,
        peak_ua=max((r.level_ua for r in reports), default=0),
        pulses=max((r.pulses for r in reports), default=0),
        limits=limits,
        incidents=dict(Counter(i.name for i in session.incidents).most_common()),
        ended=finished[-1].reason if finished else "not in order: the record stops without an end",
        estimator_kind=config.estimator.kind,
        fragility=session.fragility(),
        blinded=hidden,
    )


def render(summary: Summary, console: Console) -> None:
    """Print a summary that fits 80 columns."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")

    def row(name: str, text: str) -> None:
        table.add_row(name, Text(text))  # as it is: what stands in square brackets is no markup

    row("arm", f"{summary.arm} ({summary.mode}), {_clock(summary.duration_s)}")
    row("estimator", summary.estimator)
    for note in summary.notes:
        row("", f"note: {note}")
    row("outcomes", f"{summary.outcomes}, of them {summary.evidence_outcomes} as evidence")
    if summary.no_outcomes:
        row("", summary.no_outcomes)
    for reason, count in summary.unused.items():
        row("", f"{count} left out: {reason}")
    if summary.index_mean is not None:
        row("index", f"mean {summary.index_mean:+.2f} sd above the null")
    for what, a in (
        ("against truth", summary.agreement),
        ("markers alone", summary.agreement_markers),
        ("fused", summary.agreement_fused),
    ):
        if a is not None and a.r is not None:
            row(what, f"r = {a.r:.2f} (95 % {a.r_low:.2f} to {a.r_high:.2f}, {a.n} outcomes)")
    for label, sentence in rows(summary.fragility, summary.estimator_kind):
        row(label, sentence)
    if summary.blinded:
        row("sealed", "gates, decisions, currents and charge: this session is blinded (--key opens them)")
    elif summary.gates:
        row("gates", f"{len(summary.gates)} opened")
        for gate in summary.gates:
            row("", f"{_clock(gate.at_s)} for {gate.seconds:.0f} s: {gate.reason}; {gate.ended_by}")
    else:
        row("gates", f"none opened: {summary.last_closed_reason or 'this arm opens none'}")
    if summary.pulses:
        row("pulses", f"{summary.pulses} magnetic pulses")
    elif not summary.blinded:
        row("charge", f"{summary.charge_mc:.1f} mC in {summary.on_time_s:.0f} s, peak {summary.peak_ua / 1000:g} mA")
    for sentence in summary.limits:
        row("limit", sentence)
    for name, count in summary.incidents.items():
        row("incident", f"{count} × {name}")
    row("ended", summary.ended)
    row("session", summary.session)
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


def _agreement(found: Sequence[tuple[int, float | None]], truth: Mapping[int, float] | None) -> Agreement | None:
    if truth is None:
        return None
    pairs = [(value, truth[t_ns]) for t_ns, value in found if t_ns in truth and value is not None]
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


def _why_none(session: Session, config: configuration.Config) -> str:
    """Why a session has no outcome, from its markers."""
    from loop.marker_check import check_markers

    marks = [(marker.stamp_ns, marker.text) for marker in session.markers]
    vocabulary = config.markers
    findings = check_markers(marks, vocabulary.rename, vocabulary.grades, implied=vocabulary.imply_out_due)
    said = [finding.detail for finding in findings if finding.use == "replay" and finding.state == "note"]
    return said[0] if said else "none of its markers names an outcome (STIM/NOX, STIM/INN, STIM/OMIT or OUT_DUE)"


def _short(reason: str) -> str:
    """A reason without its figures, so that like ones are counted together."""
    words = reason.split()
    return " ".join("…" if any(c.isdigit() for c in word) else word for word in words)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min"
