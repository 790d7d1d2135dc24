"""Looks through the markers of the timing block (trains of touches) and of the offset block (heat that ends)."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import Counter
from typing import Final, Literal, NamedTuple

import numpy as np

from devices.units import NS_PER_MS, NS_PER_S

Use = Literal["replay", "closed loop", "calibration", "harm guard", "timing", "block T", "block O"]
State = Literal["ok", "missing", "note"]

DUE_NS: Final = 50 * NS_PER_MS
_TRAIN: Final = re.compile(r"TRAIN/(\d+)/(reg|jit)")
_LEAST_TRAINS: Final = 20
_LEAST_TOUCHES: Final = 3
_STEADY_NS: Final = 20 * NS_PER_MS
_LEAST_ENDS: Final = 10
_LONGEST_NS: Final = 30 * NS_PER_S


class Finding(NamedTuple):
    """One thing about the markers, and for which use it matters; a note is only worth knowing."""

    use: Use
    state: State
    detail: str


class Train(NamedTuple):
    """One train: when its touches came, and how many of those that were due did not."""

    kind: str
    touches_ns: list[int]
    omitted_ns: list[int]


def trains_of(known: list[tuple[int, str]]) -> list[Train]:
    """The trains among markers (time in ns, canonical text) in order of time; each lasts until the next train, cue or block."""
    touches = [stamp_ns for stamp_ns, text in known if text.startswith(("STIM/INN/", "STIM/NOX/"))]
    found: list[Train] = []
    running = False
    # Who announces a train together with its first touch may send either first.
    for stamp_ns, text in sorted(known, key=lambda mark: (mark[0], mark[1].startswith("STIM/") or mark[1] == "OUT_DUE")):
        if match := _TRAIN.fullmatch(text):
            found.append(Train(match[2], [], []))
            running = True
        elif text.startswith(("CUE/", "BLOCK/", "SESSION/", "TRIAL/")):
            running = False
        elif not running:
            continue
        elif text.startswith("STIM/INN/"):
            found[-1].touches_ns.append(stamp_ns)
        elif text == "OUT_DUE" and not _any_near(touches, stamp_ns):
            found[-1].omitted_ns.append(stamp_ns)
    return found


def check_trains(known: list[tuple[int, str]]) -> list[Finding]:
    """What the timing block lacks; nothing where there is no sign of it."""
    trains = trains_of(known)
    block = any(text == "BLOCK/T/START" for _, text in known)
    if not trains and not block:
        return []
    if not trains:
        return [_missing("no TRAIN/<k>/reg or TRAIN/<k>/jit: nobody can tell which touches belong together")]
    found: list[Finding] = []
    if not block:
        found.append(_note("no BLOCK/T/START around the trains"))
    kinds = Counter(train.kind for train in trains)
    counted = f"{kinds['reg']} regular and {kinds['jit']} jittered trains"
    if min(kinds["reg"], kinds["jit"]) < _LEAST_TRAINS:
        found.append(_missing(f"{counted}; a comparison needs {_LEAST_TRAINS} of each"))
    else:
        found.append(Finding("block T", "ok", counted))
    short = [train for train in trains if len(train.touches_ns) < _LEAST_TOUCHES]
    if short:
        found.append(_missing(f"{len(short)} trains have fewer than {_LEAST_TOUCHES} STIM/INN: too few to learn a beat from"))
    for kind, word in (("reg", "regular"), ("jit", "jittered")):
        omitted = sum(len(train.omitted_ns) for train in trains if train.kind == kind)
        detail = f"{omitted} omissions after {word} touches"
        if omitted < _LEAST_TRAINS:
            found.append(_missing(f"{detail}; {_LEAST_TRAINS} are needed: OUT_DUE with STIM/OMIT, or alone, where one was due"))
        else:
            found.append(Finding("block T", "ok", detail))
    return [*found, *_beat(trains)]


def _beat(trains: list[Train]) -> list[Finding]:
    """Whether regular trains are regular, jittered ones are not, and omissions are marked when the next touch was due."""
    spread = {}
    for kind in ("reg", "jit"):
        gaps = [gap for train in trains if train.kind == kind for gap in np.diff(train.touches_ns).tolist()]
        if not gaps:
            return []
        spread[kind] = float(np.max(np.abs(np.array(gaps) - np.median(gaps))))
    found: list[Finding] = []
    if spread["reg"] > _STEADY_NS:
        found.append(_missing(f"regular touches miss their beat by up to {spread['reg'] / NS_PER_MS:.0f} ms; 20 ms at most"))
    if spread["jit"] <= _STEADY_NS:
        found.append(_missing("jittered touches are as regular as the others: nothing to compare"))
    regular = [train for train in trains if train.kind == "reg" and train.touches_ns]
    beat_ns = float(np.median([gap for train in regular for gap in np.diff(train.touches_ns).tolist()]))
    ends = [(train.touches_ns[-1], train.omitted_ns[0]) for train in regular if train.omitted_ns]
    astray = sum(abs(omitted_ns - last_ns - beat_ns) > DUE_NS for last_ns, omitted_ns in ends)
    if astray:
        found.append(_missing(f"{astray} omissions are marked more than 50 ms off the beat of {beat_ns / NS_PER_S:.3f} s"))
    elif ends:
        found.append(Finding("block T", "ok", f"a beat of {beat_ns / NS_PER_S:.3f} s, omissions marked on it"))
    return found


def check_heat(known: list[tuple[int, str]]) -> list[Finding]:
    """What the offset block lacks; nothing where there is no sign of it."""
    inside = any(text == "BLOCK/O/START" for _, text in known)
    ends = [stamp_ns for stamp_ns, text in known if text == "STIM_OFF"]
    if not ends and not inside:
        return []
    if not ends:
        return [Finding("block O", "missing", "no STIM_OFF: nobody can tell when the heat ended")]
    found: list[Finding] = []
    if not inside:
        found.append(Finding("block O", "note", "no BLOCK/O/START around the heat"))
    starts = _heat_starts(known)
    lasted, orphans = [], 0
    taken: set[int] = set()
    for end_ns in ends:
        at = bisect_left(starts, end_ns) - 1
        if at < 0 or at in taken or end_ns - starts[at] > _LONGEST_NS:
            orphans += 1
            continue
        taken.add(at)
        lasted.append(end_ns - starts[at])
    detail = f"{len(lasted)} stimuli with their end"
    if len(lasted) < _LEAST_ENDS:
        found.append(Finding("block O", "missing", f"{detail}; onset against offset needs {_LEAST_ENDS}"))
    else:
        lengths_s = np.array(lasted) / NS_PER_S
        middle_s = float(np.median(lengths_s))
        other = int(np.sum(np.abs(lengths_s - middle_s) > DUE_NS / NS_PER_S))
        unlike = f", {other} of another length" if other else ""
        found.append(Finding("block O", "ok", f"{detail}, {middle_s:.2f} s long{unlike}"))
    if orphans:
        found.append(Finding("block O", "missing", f"{orphans} STIM_OFF without a STIM/NOX of its own in the 30 s before"))
    endless = _endless(known, starts, taken)
    if endless:
        found.append(Finding("block O", "missing", f"{endless} STIM/NOX of block O are never followed by STIM_OFF"))
    return found


def _heat_starts(known: list[tuple[int, str]]) -> list[int]:
    return [stamp_ns for stamp_ns, text in known if text.startswith("STIM/NOX/")]


def _endless(known: list[tuple[int, str]], starts: list[int], taken: set[int]) -> int:
    """Noxious stimuli between BLOCK/O/START and BLOCK/O/END that no STIM_OFF belongs to."""
    began: int | None = None
    count = 0
    for stamp_ns, text in known:
        if text == "BLOCK/O/START":
            began = stamp_ns
        elif text == "BLOCK/O/END" and began is not None:
            here = range(bisect_left(starts, began), bisect_right(starts, stamp_ns))
            count += sum(i not in taken for i in here)
            began = None
    return count


def _any_near(sorted_ns: list[int], stamp_ns: int) -> bool:
    at = bisect_left(sorted_ns, stamp_ns - DUE_NS)
    return at < len(sorted_ns) and sorted_ns[at] <= stamp_ns + DUE_NS


def _missing(detail: str) -> Finding:
    return Finding("block T", "missing", detail)


def _note(detail: str) -> Finding:
    return Finding("block T", "note", detail)
