"""The markers of a recording: what is there for which use, and what is missing, in words."""

from __future__ import annotations

from devices.units import NS_PER_S
from loop.marker_check import Finding, check_markers

GRADES = (0.6, 1.0, 1.0)


def trials(n: int, cue: str = "CUE/P75/I2", wait_s: float = 2.0, stimulus: str = "STIM/NOX/60") -> list[tuple[int, str]]:
    marks = []
    for k in range(n):
        at = (100 + 10 * k) * NS_PER_S
        out = at + round(wait_s * NS_PER_S)
        marks += [(at, cue), (out, "OUT_DUE"), (out, stimulus)]
    return marks


REST = [(0, "BLOCK/R/START"), (90 * NS_PER_S, "BLOCK/R/END")]
RATED = [(5000 * NS_PER_S, "RATE/PAIN/40")]


def judged(
    marks: list[tuple[int, str]], *, implied: bool = False, rename: dict[str, str] | None = None, **more: str
) -> list[Finding]:
    return check_markers(marks, rename or {}, GRADES, implied=implied, **more)


def missing(marks: list[tuple[int, str]], **more: bool) -> str:
    return " | ".join(f"{one.use}: {one.detail}" for one in judged(marks, **more) if one.state == "missing")


def test_a_whole_recording_lacks_nothing() -> None:
    found = judged(REST + trials(30) + RATED)
    assert [one for one in found if one.state != "ok"] == []
    assert {one.use for one in found} == {"replay", "closed loop", "timing", "calibration", "harm guard"}


def test_an_event_readout_needs_both_kinds_and_nothing_else() -> None:
    few = judged(trials(30), estimator="event_readout")
    wanted = "30 STIM/NOX and 0 STIM/INN; a discriminant needs 10 of each and 40 in all; several recordings can be joined"
    assert [one.detail for one in few if one.use == "calibration"] == [wanted]
    enough = judged(trials(30) + trials(30, stimulus="STIM/INN/0"), estimator="event_readout")
    assert [(one.state, one.detail) for one in enough if one.use == "calibration"] == [("ok", "30 STIM/NOX and 30 STIM/INN")]
    assert [one for one in judged(trials(30), estimator="somebodys") if one.use == "calibration"] == []


def test_each_thing_that_is_missing_is_named_with_what_is_wanted() -> None:
    assert "no STIM/NOX" in missing(REST)
    assert "9 outcomes: 9 NOX; 10 open a gate" in missing(REST + trials(9))
    assert "0 s between BLOCK/R/START and BLOCK/R/END; spatial filters need 60 s" in missing(trials(30))
    assert "19 cues that state what to expect; a readout needs 20" in missing(REST + trials(19))
    assert "0 cues that state" in missing(REST + trials(30, cue="CUE/H"))
    assert "current flowed" in missing([*REST, *trials(30), (1, "TDCS/RAMP_UP/1.0")])


def test_a_stimulus_that_nobody_announced_is_missing_unless_it_is_implied() -> None:
    bare = [mark for mark in REST + trials(30) if mark[1] != "OUT_DUE"]
    assert "30 outcomes came without OUT_DUE within 50 ms, the first at 102.0 s" in missing(bare)
    assert missing(bare, implied=True) == ""


def test_an_outcome_that_was_due_and_did_not_come_is_an_omission() -> None:
    marks = [mark for mark in REST + trials(30) if not mark[1].startswith("STIM")]
    found = judged(marks)
    assert Finding("closed loop", "note", "30 times OUT_DUE without a stimulus: taken as omissions") in found
    assert missing(marks) == ""


def test_what_is_only_worth_knowing_stops_nobody() -> None:
    jittered = [mark for k in range(30) for mark in trials(30, wait_s=2.0 + 0.01 * k)[3 * k : 3 * k + 3]]
    notes = " | ".join(one.detail for one in judged([*REST[:1], *jittered, (1, "strange")]) if one.state == "note")
    assert "spread over" in notes
    assert "BLOCK/R/START is never followed by BLOCK/R/END" in notes
    assert "1 markers outside the vocabulary: `strange` (1)" in notes
    assert "no RATE/PAIN" in notes
    assert "no cue before them" in " ".join(one.detail for one in judged([(0, "OUT_DUE"), (0, "STIM/INN/20")]))


def test_other_names_are_read_through_the_table() -> None:
    named = [(stamp, "bang" if text.startswith("STIM") else text) for stamp, text in REST + trials(30) + RATED]
    assert "`bang` (30)" in " ".join(one.detail for one in judged(named))
    assert all(one.state == "ok" for one in judged(named, rename={"bang": "STIM/NOX/60"}))


def test_no_markers_at_all() -> None:
    assert [one.detail for one in judged([])] == ["no markers: there are frames to look at, but no outcome to judge"]
