"""The campaign's table: for each row the answers seen, the worst of all its runs, and whether all are within its bounds."""

from __future__ import annotations

from collections import Counter
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from loop.campaign.judge import Run
from loop.campaign.rows import Row, all_rows

_KEPT: Final = 5


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table, on the virtual clock or with real processes.

    `seen` counts the answers, `worst_s` is the longest time to zero current and `bound_s` what that run was allowed; `closest`
    the largest share of its bound that any run took. `wrong` holds the first runs outside their bounds, `failed` their number.
    """

    row: str
    text: str
    expected: str
    runs: int
    seen: dict[str, int]
    worst_s: float | None
    bound_s: float | None
    closest: float | None
    peak_ua: float
    rise_ua_s: float
    fall_ua_s: float
    beyond_uc: float
    counted: str
    failed: int
    wrong: list[Run]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """All rows on one clock, ``virtual`` or ``real``; `asked`: how many runs of a row (of a deep row, if real) were wanted.

    `wanted` and `done` count the runs of all rows together.
    """

    clock: str
    asked: int
    wanted: int
    done: int
    seconds: float
    lines: list[Line]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a campaign found. `complete` is False where it was interrupted; `within` says whether nothing was out of bounds."""

    seed: int
    complete: bool
    within: bool
    seconds: float
    parts: list[Part]


class Tally:
    """Gathers the runs of one part."""

    def __init__(self) -> None:
        self._runs: dict[str, list[Run]] = {}
        self._worst: dict[str, Run] = {}
        self._closest: dict[str, float] = {}
        self._seen: dict[str, Counter[str]] = {}
        self._most: dict[str, list[float]] = {}
        self.failed: Counter[str] = Counter()

    def take(self, run: Run) -> None:
        """Count one run."""
        name = run.row
        self._seen.setdefault(name, Counter())[run.answer] += 1
        most = self._most.setdefault(name, [0.0] * 4)
        for index, value in enumerate((run.peak_ua, run.rise_ua_s, run.fall_ua_s, run.beyond_uc)):
            most[index] = max(most[index], value)
        if run.zero_s is not None and run.zero_s >= (self._worst[name].zero_s or 0.0 if name in self._worst else 0.0):
            self._worst[name] = run
        if run.zero_s is not None and run.bound_s:
            self._closest[name] = max(self._closest.get(name, 0.0), run.zero_s / run.bound_s)
        if run.wrong:
            self.failed[name] += 1
            if len(self._runs.setdefault(name, [])) < _KEPT:
                self._runs[name].append(run)

    @property
    def done(self) -> int:
        """Runs so far."""
        return sum(counter.total() for counter in self._seen.values())

    def lines(self) -> list[Line]:
        """The table so far, in the order of the rows."""
        return [self._line(row) for name, row in all_rows().items() if name in self._seen]

    def _line(self, row: Row) -> Line:
        worst = self._worst.get(row.id)
        peak, rise, fall, beyond = self._most[row.id]
        return Line(
            row=row.id,
            text=row.text,
            expected=row.answer,
            runs=self._seen[row.id].total(),
            seen=dict(sorted(self._seen[row.id].items())),
            worst_s=worst.zero_s if worst is not None else None,
            bound_s=worst.bound_s if worst is not None else None,
            closest=self._closest.get(row.id),
            peak_ua=round(peak, 1),
            rise_ua_s=round(rise, 1),
            fall_ua_s=round(fall, 1),
            beyond_uc=round(beyond, 1),
            counted=row.counted,
            failed=self.failed[row.id],
            wrong=self._runs.get(row.id, []),
        )


def render(report: Report, console: Console) -> None:
    """The tables for people, and the verdict in one sentence."""
    for part in report.parts:
        title = {"virtual": "on the virtual clock", "real": "with real processes, from 0.2 mA"}[part.clock]
        table = Table(box=None, title=f"{title}, {part.seconds:.0f} s", title_justify="left", pad_edge=False, expand=True)
        table.add_column("fault", no_wrap=True, overflow="ellipsis", ratio=1)
        table.add_column("runs", justify="right")
        table.add_column("owed", no_wrap=True)
        table.add_column("seen", overflow="fold", max_width=14)
        for name in ("zero s", "of", "max uA", "uA/s up", "down", "uC over"):
            table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
        for line in part.lines:
            seen = " ".join(f"{answer} {count}" if count != line.runs else answer for answer, count in line.seen.items())
            table.add_row(
                f"{'[red]!![/] ' if line.failed else ''}{line.row}" + ("" if line.row.startswith("F56") else f" {line.text}"),
                str(line.runs),
                "/".join(all_rows()[line.row].answers),
                seen,
                "-" if line.worst_s is None else f"{line.worst_s:.3f}",
                "-" if line.bound_s is None else f"{line.bound_s:.2f}",
                f"{line.peak_ua:.0f}",
                f"{line.rise_ua_s:.0f}",
                f"{line.fall_ua_s:.0f}",
                f"{line.beyond_uc:.0f}",
            )
        console.print(table)
        for line in part.lines:
            for run in line.wrong[:2]:
                console.print(f"!! {line.row} (seed {run.seed!r}): {run.wrong}", highlight=False, markup=False)
    console.print(verdict(report), highlight=False)


def verdict(report: Report) -> str:
    """One sentence."""
    runs = sum(line.runs for part in report.parts for line in part.lines)
    rows = sum(1 for part in report.parts for line in part.lines if line.failed)
    failed = sum(line.failed for part in report.parts for line in part.lines)
    partial = "" if report.complete else "INCOMPLETE, this table is partial; "
    if failed:
        return f"{partial}{failed} of {runs} runs, in {rows} rows, were outside their bounds (seed {report.seed})."
    return f"{partial}{runs} runs, every row within its bounds (seed {report.seed}, {report.seconds:.0f} s)."
