"""The timing and the offset block: what each lacks, in words, and silence where there is no sign of them."""

from __future__ import annotations

import pytest

from devices.units import NS_PER_S
from loop.marker_blocks import Finding, check_heat, check_trains

Marks = list[tuple[int, str]]


def trains(n: int = 25, *, kinds: tuple[str, ...] = ("reg", "jit"), jitter_s: float = 0.2, omit: str = "both") -> Marks:
    marks: Marks = [(0, "BLOCK/T/START")]
    at_s = 1.0
    for k in range(n * len(kinds)):
        kind = kinds[k % len(kinds)]
        marks.append((round(at_s * NS_PER_S), f"TRAIN/{k + 1}/{kind}"))
        for place in range(6):
            moved_s = jitter_s * (-1) ** place if kind == "jit" and place >= 3 else 0.0
            due = round((at_s + 1.5 * place + moved_s) * NS_PER_S)
            marks += [(due, "OUT_DUE"), (due, "STIM/INN/20")]
        due = round((at_s + 9.0) * NS_PER_S)
        marks += [(due, text) for text in {"both": ("OUT_DUE", "STIM/OMIT"), "alone": ("OUT_DUE",), "none": ()}[omit]]
        at_s += 10.5
    marks.append((round(at_s * NS_PER_S), "BLOCK/T/END"))
    return sorted(marks)


def heat(n: int = 12, *, ends: int | None = None) -> Marks:
    marks: Marks = [(0, "BLOCK/O/START"), (20 * n * NS_PER_S, "BLOCK/O/END")]
    for k in range(n):
        start = (20 * k + 2) * NS_PER_S
        marks += [(start, "OUT_DUE"), (start, "STIM/NOX/60")]
        if ends is None or k < ends:
            marks.append((start + 2 * NS_PER_S, "STIM_OFF"))
    return sorted(marks)


def missing(found: list[Finding]) -> str:
    return " | ".join(one.detail for one in found if one.state == "missing")


def test_whole_blocks_lack_nothing() -> None:
    for omit in ("both", "alone"):
        found = check_trains(trains(omit=omit))
        assert {one.state for one in found} == {"ok"}
        assert "a beat of 1.500 s" in " ".join(one.detail for one in found)
    found = check_heat(heat())
    assert [one.detail for one in found] == ["12 stimuli with their end, 2.00 s long"]


def test_no_sign_of_them_is_nothing_to_say() -> None:
    marks = [(0, "BLOCK/A/START"), (5 * NS_PER_S, "STIM/NOX/60")]
    assert check_trains(marks) == []
    assert check_heat(marks) == []


@pytest.mark.parametrize(
    ("marks", "why"),
    [
        ([(0, "BLOCK/T/START")], "no TRAIN/<k>/reg"),
        (trains(5), "5 regular and 5 jittered trains; a comparison needs 20 of each"),
        (trains(kinds=("reg",)), "25 regular and 0 jittered trains"),
        (trains(omit="none"), "0 omissions after regular touches; 20 are needed"),
        (trains(jitter_s=0.0), "jittered touches are as regular as the others"),
        ([mark for mark in trains() if mark[1] != "STIM/INN/20"], "50 trains have fewer than 3 STIM/INN"),
        ([(at + NS_PER_S // 10 if text == "OUT_DUE" and (at - NS_PER_S) % (10.5 * NS_PER_S) == 9 * NS_PER_S else at, text)
          for at, text in trains(omit="alone")], "50 ms off the beat of 1.500 s"),
    ],
)  # fmt: skip
def test_what_the_timing_block_lacks_is_named(marks: Marks, why: str) -> None:
    assert why in missing(check_trains(marks))


def test_regular_touches_off_their_beat_are_noticed() -> None:
    moved = [
        (at + (k % 3) * NS_PER_S // 40 if text == "STIM/INN/20" else at, text)
        for k, (at, text) in enumerate(sorted(trains(), key=lambda mark: mark[1]))
    ]
    assert "regular touches miss their beat by up to 75 ms" in missing(check_trains(sorted(moved)))


@pytest.mark.parametrize(
    ("marks", "why"),
    [
        ([(0, "BLOCK/O/START")], "no STIM_OFF"),
        (heat(4), "4 stimuli with their end; onset against offset needs 10"),
        (heat(14, ends=11), "3 STIM/NOX of block O are never followed by STIM_OFF"),
        (sorted([*heat(), (300 * NS_PER_S, "STIM_OFF")]), "1 STIM_OFF without a STIM/NOX of its own"),
    ],
)
def test_what_the_offset_block_lacks_is_named(marks: Marks, why: str) -> None:
    assert why in missing(check_heat(marks))


def test_trains_and_heat_without_their_block_are_worth_a_note() -> None:
    bare = [mark for mark in [*trains(), *heat()] if not mark[1].startswith("BLOCK/")]
    notes = [one.detail for one in (*check_trains(trains()[1:]), *check_heat(sorted(bare))) if one.state == "note"]
    assert notes == ["no BLOCK/T/START around the trains", "no BLOCK/O/START around the heat"]
