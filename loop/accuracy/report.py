"""What the benchmark found, as tables, one figure and a verdict on each target."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from devices.mock.patient_settings import Group
from loop.accuracy.bench import BOUND, COLUMNS, FUSED, MARKERS, OURS, RAW, Score, Session
from loop.accuracy.many import WITHIN, Gated, counted, gated
from loop.accuracy.metrics import Interval, difference_of, mean_of
from loop.accuracy.scenes import BLOCKS, CONTROL_NAM, EFFECTS_NAM, Scene
from loop.config import PolicyTable

MEASURES: Final = ("r", "auc", "partial")
GATED_SESSIONS: Final = 200
_KS_P: Final = 0.01
_GO_ON: Final = "do not go on"


class ColumnRow(msgspec.Struct, frozen=True, kw_only=True):
    """One column in one scene: means over seeds, and ours minus it in r, paired."""

    column: str
    r: Interval | None
    auc: Interval | None
    partial: Interval | None
    behind: Interval | None


class SceneReport(msgspec.Struct, frozen=True, kw_only=True):
    """One scene over all seeds. `usable` is the share of calibrations whose verdict was not ``do not go on``."""

    scene: str
    seeds: int
    columns: tuple[ColumnRow, ...]
    z_mean: Interval | None
    z_sd: Interval | None
    z_fits: float
    gates_an_hour: float
    gated_within: float
    valid: float
    r_cv: Interval | None
    usable: float
    delay_s: float


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A number to hold, and what came out; `held` is None where this form of the benchmark does not show it."""

    name: str
    wanted: str
    found: str
    held: bool | None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the benchmark says."""

    seeds: tuple[int, ...]
    scenes: tuple[SceneReport, ...]
    gated: dict[str, tuple[Gated, ...]]
    targets: tuple[Target, ...]
    notes: tuple[str, ...]


NOTES: Final = (
    "AUC: a judged outcome whose |PE| lies above the session's median against one that does not",
    "partial: correlation of index and |PE| once what markers know (normative surprise, kind of outcome) is taken off both",
    "z: index minus what markers let one expect, in the readout's sd, where |d| < 0.3; it fits where KS p > 0.01",
    "non-causal bound: our filters, trials and ridge with zero-phase bands and windows that follow the source's own course",
    "oracle: besides, the source's true topography and weights learned from the truth of the other test trials",
    "gates over 200 sessions: trial by trial with the measured law of a session of that group, the policy's own code, no EEG",
    "a calibration that said `do not go on` is used here all the same; a user would not",
)


def report_of(sessions: Sequence[Session], scenes: Sequence[Scene], policy: PolicyTable) -> Report:
    """Sum up what `bench.run` gave."""
    by_scene = {scene.name: [one for one in sessions if one.scene == scene.name] for scene in scenes}
    rows = tuple(_scene(name, of) for name, of in by_scene.items())
    many: dict[str, tuple[Gated, ...]] = {}
    for size in EFFECTS_NAM:
        of = by_scene.get(f"plain, a = {size:g}", [])
        usable = [one for one in of if one.verdict != _GO_ON]
        for name, those in ((_all(size), of), (f"{_all(size)}, usable calibrations ({len(usable)} of {len(of)})", usable)):
            if those:
                laws = [one.law for one in those]
                many[name] = tuple(gated(who, laws, policy, GATED_SESSIONS) for who in ("no excess", "HC", "CC", "FM"))
    seeds = tuple(dict.fromkeys(one.seed for one in sessions))
    return Report(seeds=seeds, scenes=rows, gated=many, targets=_targets(rows, by_scene, many), notes=NOTES)


def render(report: Report, console: Console) -> None:
    """Print it for a reader with 80 columns or more."""
    for scene in report.scenes:
        table = Table(title=f"{scene.scene}  ({scene.seeds} seeds)", title_justify="left", box=None, pad_edge=False)
        table.add_column("", no_wrap=True)
        for name in ("r", "AUC", "partial r", "ours − it"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in scene.columns:
            behind = None if row.column == OURS else row.behind
            table.add_row(row.column, *(_cell(value) for value in (row.r, row.auc, row.partial, behind)))
        console.print(table)
        console.print(
            f"z mean {_cell(scene.z_mean)}, sd {_cell(scene.z_sd)}, fits in {100 * scene.z_fits:.0f} % · gates an hour "
            f"{scene.gates_an_hour:.2f} · gated within {WITHIN}: {100 * scene.gated_within:.0f} % · valid "
            f"{100 * scene.valid:.0f} % · calibration r {_cell(scene.r_cv)}, usable {100 * scene.usable:.0f} % · decided after "
            f"{1e3 * scene.delay_s:.0f} ms",
            highlight=False,
        )
        console.print()
    for size, rows in report.gated.items():
        _print_gates(f"gates, {size}: {GATED_SESSIONS} sessions each", rows, console)
    _print_targets(report.targets, report.notes, console)


class GateReport(msgspec.Struct, frozen=True, kw_only=True):
    """Gates counted in whole sessions with EEG, all of them and those whose calibration did not say ``do not go on``."""

    seeds: tuple[int, ...]
    gated: tuple[Gated, ...]
    usable: tuple[Gated, ...]
    targets: tuple[Target, ...]


def gates_of(sessions: Sequence[Session], groups: Sequence[Group]) -> GateReport:
    """Sum up sessions of scenes made by `scenes.of_group`."""

    def count(those: Sequence[Session]) -> tuple[Gated, ...]:
        by_group = [(group, [one for one in those if one.group == group]) for group in groups]
        return tuple(
            counted(group, [one.gates for one in of], sum(one.hours for one in of)) for group, of in by_group if of
        )

    gated = count(sessions)
    return GateReport(
        seeds=tuple(dict.fromkeys(one.seed for one in sessions)),
        gated=gated,
        usable=count([one for one in sessions if one.verdict != _GO_ON]),
        targets=_gate_targets({one.who: one for one in gated}, "normative"),
    )


def render_gates(report: GateReport, console: Console) -> None:
    """Print it for a reader with 80 columns or more."""
    _print_gates(f"gates in sessions with EEG, a = {CONTROL_NAM:g}", report.gated, console)
    _print_gates("those of them whose calibration said to go on", report.usable, console)
    notes = (
        f"outcomes of the blocks {', '.join(BLOCKS[1:])} without current, profile plain; {len(report.seeds)} seeds a group",
        "normative: learns and errs exactly as the learner that evidence is measured against, so each gate is false",
    )
    _print_targets(report.targets, notes, console)


def _print_gates(title: str, rows: Sequence[Gated], console: Console) -> None:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("patients", "sessions", f"within {WITHIN} trials", "ever", "an hour", "median trial"):
        table.add_column(name, justify="left" if name == "patients" else "right")
    for one in rows:
        table.add_row(
            one.who,
            str(one.sessions),
            f"{100 * one.within:.0f} % ({100 * one.within_low:.0f}–{100 * one.within_high:.0f})",
            f"{100 * one.ever:.0f} % ({100 * one.ever_low:.0f}–{100 * one.ever_high:.0f})",
            f"{one.an_hour:.2f}",
            "–" if one.median_trial is None else f"{one.median_trial:.0f}",
        )
    console.print(table)
    console.print()


def _print_targets(targets: Sequence[Target], notes: Sequence[str], console: Console) -> None:
    marks = {True: "[green]held  [/]", False: "[red]missed[/]", None: "–     "}
    for target in targets:
        console.print(f"{marks[target.held]} {target.name}: {target.found} (wanted {target.wanted})", highlight=False)
    console.print()
    for note in notes:
        console.print(f"[dim]{note}[/]", highlight=False)


def draw(report: Report, path: Path) -> None:
    """Write the figure: r over the source's size for each column, and AUC of every scene, with 95 % intervals.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    known = {scene.scene: scene for scene in report.scenes}
    for column in COLUMNS:
        points = [
            (size, row.r)
            for size in EFFECTS_NAM
            if (scene := known.get(f"plain, a = {size:g}"))
            for row in scene.columns
            if row.column == column and row.r is not None
        ]
        if points:
            sizes = [size for size, _ in points]
            style = {"linewidth": 2.5, "color": "k"} if column == OURS else {"linewidth": 1.0}
            means = [value.mean for _, value in points]
            halves = [value.mean - value.low for _, value in points]
            left.errorbar(sizes, means, yerr=halves, capsize=2, label=column, **style)
    left.axhline(0.0, color="0.7", linewidth=0.8, zorder=0)
    left.set(xlabel="size of the error's source, nAm at |PE| = 1", ylabel="r with |PE|", title="profile plain")
    left.legend(fontsize=8)
    bars = [(scene.scene, row.auc) for scene in report.scenes for row in scene.columns if row.column == OURS and row.auc]
    bars.reverse()
    right.errorbar(
        [value.mean for _, value in bars],
        range(len(bars)),
        xerr=[value.mean - value.low for _, value in bars],
        fmt="ko",
        capsize=2,
    )
    right.set_yticks(range(len(bars)), [name for name, _ in bars], fontsize=8)
    right.axvline(0.5, color="0.7", linewidth=0.8, zorder=0)
    right.set(xlabel="AUC, large against small |PE|", title="ours, causal")
    figure.savefig(path)


def _scene(name: str, sessions: Sequence[Session]) -> SceneReport:
    def values(column: str, measure: str) -> list[float]:
        return [float(getattr(one.scores[column], measure)) for one in sessions]

    columns = [column for column in COLUMNS if all(column in one.scores for one in sessions)]
    return SceneReport(
        scene=name,
        seeds=len(sessions),
        columns=tuple(
            ColumnRow(
                column=column,
                **{measure: mean_of(values(column, measure)) for measure in MEASURES},
                behind=difference_of(values(OURS, "r"), values(column, "r")),
            )
            for column in columns
        ),
        z_mean=mean_of([one.z_mean for one in sessions]),
        z_sd=mean_of([one.z_sd for one in sessions]),
        z_fits=_share([one.z_p > _KS_P for one in sessions]),
        gates_an_hour=sum(len(one.gates) for one in sessions) / sum(one.hours for one in sessions),
        gated_within=_share([bool(one.gates) and one.gates[0] <= WITHIN for one in sessions]),
        valid=sum(one.valid for one in sessions) / len(sessions),
        r_cv=mean_of([one.r_cv for one in sessions]),
        usable=_share([one.verdict != _GO_ON for one in sessions]),
        delay_s=max(one.delay_s for one in sessions),
    )


def _targets(
    rows: Sequence[SceneReport], by_scene: dict[str, list[Session]], many: dict[str, tuple[Gated, ...]]
) -> tuple[Target, ...]:
    known = {row.scene: row for row in rows}
    null, main = known.get("plain, a = 0"), known.get(f"plain, a = {CONTROL_NAM:g}")
    out = [
        _bound("null: |r|", "≤ 0.05", _of(null, OURS, "r"), lambda x: abs(x) <= 0.05),
        _bound("null: AUC", "0.47–0.53", _of(null, OURS, "auc"), lambda x: 0.47 <= x <= 0.53),
    ]
    out += [
        _bound(f"{name}: AUC", "≤ 0.56", _of(known.get(name), OURS, "auc"), lambda x: x <= 0.56)
        for name in ("startle only, a = 0", "source in V1", "source in midcingulate")
    ]
    for measure, least in (("r", 0.35), ("auc", 0.70), ("partial", 0.25)):
        name = f"plain, a = {CONTROL_NAM:g}: {measure}"
        out.append(_bound(name, f"≥ {least:.2f}", _of(main, OURS, measure), partial(operator.le, least)))
    ours, bound = _of(main, OURS, "r"), _of(main, BOUND, "r")
    share = None if ours is None or bound is None else ours.mean / bound.mean
    out.append(Target(name="share of the non-causal bound", wanted="≥ 0.85", found=_number(share), held=_holds(share, 0.85)))
    raw = None if main is None else next((row.behind for row in main.columns if row.column == RAW), None)
    out.append(_bound("ours minus raw PO10 power, r", "≥ 0.10", raw, lambda x: x >= 0.10))
    gain = difference_of(*(_scores(by_scene.get("plain, a = 12", ()), column) for column in (FUSED, MARKERS)))
    out.append(
        Target(
            name="fused minus markers alone, r, a = 12",
            wanted="interval above 0",
            found=_cell(gain),
            held=None if gain is None else gain.low > 0.0,
        )
    )
    for row in (null, main):
        if row is not None:
            out.append(_bound(f"{row.scene}: sd of z", "0.9–1.1", row.z_sd, lambda x: 0.9 <= x <= 1.1))
            out.append(
                Target(name=f"{row.scene}: z fits", wanted="≥ 0.90 of seeds", found=f"{row.z_fits:.2f}", held=row.z_fits >= 0.9)
            )
    out += _gate_targets({one.who: one for one in many.get(_all(CONTROL_NAM), ())}, "no excess")
    usable = next((rows for name, rows in many.items() if name.startswith(f"{_all(CONTROL_NAM)}, usable")), ())
    out += [
        Target(
            name=f"FM gated within {WITHIN} trials, calibrations that said to go on",
            wanted="≥ 0.80",
            found=f"{one.within:.2f}",
            held=one.within >= 0.8,
        )
        for one in usable
        if one.who == "FM"
    ]
    return tuple(out)


def _gate_targets(gated: dict[str, Gated], nobody: str) -> tuple[Target, ...]:
    """`nobody` is what those are called whose every gate is false."""
    out = []
    if none := gated.get(nobody):
        out.append(Target(name="false gates an hour", wanted="≤ 0.60", found=f"{none.an_hour:.2f}", held=none.an_hour <= 0.6))
    if erring := gated.get("FM"):
        found = f"{erring.within:.2f} ({erring.within_low:.2f}–{erring.within_high:.2f})"
        held = erring.within >= 0.8
        out.append(Target(name=f"FM gated within {WITHIN} trials", wanted="≥ 0.80", found=found, held=held))
    if healthy := gated.get("HC"):
        found = f"{healthy.ever:.2f} ({healthy.ever_low:.2f}–{healthy.ever_high:.2f})"
        out.append(Target(name="HC ever gated in 160 trials", wanted="stated", found=found, held=None))
    return tuple(out)


def _all(size_nam: float) -> str:
    return f"a = {size_nam:g}"


def _scores(sessions: Sequence[Session], column: str) -> list[float]:
    scores: list[Score | None] = [one.scores.get(column) for one in sessions]
    return [math.nan if score is None else score.r for score in scores]


def _of(scene: SceneReport | None, column: str, measure: str) -> Interval | None:
    if scene is None:
        return None
    found: Interval | None = next((getattr(row, measure) for row in scene.columns if row.column == column), None)
    return found


def _bound(name: str, wanted: str, value: Interval | None, holds: Callable[[float], bool]) -> Target:
    return Target(name=name, wanted=wanted, found=_cell(value), held=None if value is None else holds(value.mean))


def _holds(value: float | None, least: float) -> bool | None:
    return None if value is None else value >= least


def _share(facts: Sequence[bool]) -> float:
    return sum(facts) / len(facts)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _cell(value: Interval | None) -> str:
    return "–" if value is None else f"{value.mean:.3f} ± {value.mean - value.low:.3f}"
