"""Looks through a recording's markers and says what is missing for which use, before anybody relies on them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from devices.units import NS_PER_MS, NS_PER_S
from loop import estimator as posterior_fossa
from loop.calibration.errors import CalibrationError
from loop.config import Config
from loop.errors import LayoutError
from loop.estimators import event_readout, registry
from loop.estimators.discriminant import MIN_CLASS, MIN_TRIALS
from loop.estimators.errors import EstimatorError
from loop.events import Layout
from loop.marker_blocks import DUE_NS, Finding, Use, check_heat, check_trains, trains_of
from loop.markers import canonical, meaning, stated_expectation
from loop.sources.recording import open_recording

_CUE_REACH_NS: Final = 10 * NS_PER_S
_STEADY_NS: Final = 50 * NS_PER_MS
_MOST_CATCH: Final = 0.2
_LEAST_TOLD: Final = 20
_LEAST_OUTCOMES: Final = 10
_LEAST_REST_S: Final = 60.0
_SHOWN: Final = 6
_READ_S: Final = 5.0
# The vocabulary beside what the estimate uses; numbers and free text at the end are the writer's.
_OTHER: Final = re.compile(
    r"SESSION/(START|END)|BLOCK/[RIAPVTO]/(START|END)|TRIAL/\d+|STIM_OFF|TRAIN/\d+/(reg|jit)|RATE/(PAIN|EXPECT)/\d{1,3}"
    r"|RESP/AWARE/[01]|TDCS/(ARM|RAMP_UP|ON|RAMP_DOWN|OFF|ABORT/.+)(/[\d.]+)?|GATE/(ON|OFF)/.+|IMP/[\d.]+"
    r"|ART/\w+/(ON|OFF)|NOTE/.*|BAD_.*"
)

def check_recording(path: str | Path, config: Config) -> list[Finding]:
    """What stands in a recording: its channels, as the estimator sees them, and its markers.

    Parameters
    ----------
    path : str or Path
        Anything that can be replayed.
    config : Config
        Its vocabulary, channels and estimator.

    Raises
    ------
    SourceError
        If the file cannot be read.
    """
    playback = open_recording(path)
    layout = playback.layout
    found = _estimator(config, layout)
    marks: list[tuple[int, str]] = []
    n = max(1, round(_READ_S * layout.sfreq_hz))
    while (block := playback.read(n, 0.0)) is not None:
        marks += block.markers
    vocabulary = config.markers
    kind, implied = config.estimator.kind, vocabulary.imply_out_due
    return [*found, *check_markers(marks, vocabulary.rename, vocabulary.grades, implied=implied, estimator=kind)]


def check_markers(
    marks: Sequence[tuple[int, str]],
    rename: Mapping[str, str],
    grades: Sequence[float],
    *,
    implied: bool,
    estimator: str = posterior_fossa.KIND,
) -> list[Finding]:
    """Judge markers against the vocabulary.

    Parameters
    ----------
    marks : sequence of (int, str)
        Time in nanoseconds and text, as they stand in the recording.
    rename : mapping
        Other names, as in ``[markers.rename]``.
    grades : sequence of float
        Strength of the grades of stated cues.
    implied : bool
        Whether every stimulus counts as announced (`markers.imply_out_due`).
    estimator : str
        Decides what a calibration needs; of a plug-in only its author knows.

    Returns
    -------
    list of Finding
    """
    if not marks:
        return [Finding("replay", "note", "no markers: there are frames to look at, but no outcome to judge")]
    known = sorted((stamp_ns, canonical(text, rename)) for stamp_ns, text in marks)
    needs = _blocks(known, grades) if estimator == posterior_fossa.KIND else []
    needs = _kinds(known) if estimator == event_readout.KIND else needs
    return [
        *_words(known),
        *_outcomes(known, implied=implied),
        *needs,
        *_extras(known),
        *check_trains(known),
        *check_heat(known),
    ]


def _estimator(config: Config, layout: Layout) -> list[Finding]:
    """What the estimator says of these channels."""
    try:
        plugin = registry.find(config.estimator.kind)
        if plugin.needs_calibration:
            learned = plugin.learn_rest(config, layout, np.empty((0, len(layout.labels))))
            detail = f"{plugin.name} needs a calibration first (`cereloop calibrate`)"
            return [Finding("replay", "note", one) for one in (detail, *learned.notes)]
        estimator = plugin.build(config, layout, None)
    except (LayoutError, CalibrationError, EstimatorError) as error:
        return [Finding("replay", "missing", str(error))]
    found = [Finding("replay", "note" if estimator.is_stand_in else "ok", estimator.name)]
    return [*found, *(Finding("replay", "note", note) for note in estimator.notes)]


def _kinds(known: list[tuple[int, str]]) -> list[Finding]:
    """What a discriminant needs of each kind of stimulus."""
    kinds = Counter(text.split("/")[1] for _, text in known if meaning(text).kind == "outcome")
    enough = min(kinds["NOX"], kinds["INN"]) >= MIN_CLASS and kinds["NOX"] + kinds["INN"] >= MIN_TRIALS
    wants = f"a discriminant needs {MIN_CLASS} of each and {MIN_TRIALS} in all; several recordings can be joined"
    return [_wanted("calibration", enough, f"{kinds['NOX']} STIM/NOX and {kinds['INN']} STIM/INN", wants)]


def _words(known: list[tuple[int, str]]) -> list[Finding]:
    strange = Counter(text for _, text in known if meaning(text).kind == "other" and not _OTHER.fullmatch(text))
    if not strange:
        return [Finding("replay", "ok", f"{len(known)} markers, all in the vocabulary")]
    shown = ", ".join(f"`{text[:40]}` ({n})" for text, n in strange.most_common(_SHOWN))
    more = f" and {len(strange) - _SHOWN} more" if len(strange) > _SHOWN else ""
    hint = "put those that matter onto the vocabulary in [markers.rename]"
    return [Finding("replay", "note", f"{sum(strange.values())} markers outside the vocabulary: {shown}{more}; {hint}")]


def _outcomes(known: list[tuple[int, str]], *, implied: bool) -> list[Finding]:
    read = [(stamp_ns, meaning(text)) for stamp_ns, text in known]
    outcomes = [(stamp_ns, one) for stamp_ns, one in read if one.kind == "outcome"]
    dues = [stamp_ns for stamp_ns, one in read if one.kind == "out_due"]
    cues = [stamp_ns for stamp_ns, one in read if one.kind == "cue"]
    omitted = [due for due in dues if not any(abs(due - stamp_ns) <= DUE_NS for stamp_ns, _ in outcomes)]
    n = len(outcomes) + len(omitted)
    if not n:
        return [Finding("closed loop", "missing", "no STIM/NOX, STIM/INN, STIM/OMIT or OUT_DUE: closed_loop would never open")]
    kinds = Counter(one.text.split("/")[1] for _, one in outcomes)
    counted = ", ".join(f"{kinds[kind]} {kind}" for kind in ("NOX", "INN", "OMIT") if kinds[kind])
    found = [_wanted("closed loop", n >= _LEAST_OUTCOMES, f"{n} outcomes: {counted or 'omissions only'}", "10 open a gate")]
    if omitted:
        found.append(Finding("closed loop", "note", f"{len(omitted)} times OUT_DUE without a stimulus: taken as omissions"))
    unannounced = [stamp_ns for stamp_ns, _ in outcomes if not any(abs(due - stamp_ns) <= DUE_NS for due in dues)]
    if unannounced and not implied:
        at_s = (unannounced[0] - known[0][0]) / NS_PER_S
        detail = f"{len(unannounced)} outcomes came without OUT_DUE within 50 ms, the first at {at_s:.1f} s"
        found.append(Finding("closed loop", "missing", f"{detail}; send it, or set markers.imply_out_due for old recordings"))
    in_trains = {stamp_ns for train in trains_of(known) for stamp_ns in (*train.touches_ns, *train.omitted_ns)}
    waits, lonely = [], 0
    for stamp_ns in [*(stamp_ns for stamp_ns, _ in outcomes), *omitted]:
        if any(abs(stamp_ns - touch_ns) <= DUE_NS for touch_ns in in_trains):
            continue
        before = [cue for cue in cues if 0 < stamp_ns - cue <= _CUE_REACH_NS]
        if before:
            waits.append(stamp_ns - before[-1])
        else:
            lonely += 1
    if lonely:
        detail = f"{lonely} outcomes have no cue before them: what was expected is taken as a half"
        found.append(Finding("closed loop", "note", detail))
    return [*found, *_waits(waits)]


def _waits(waits_ns: list[int]) -> list[Finding]:
    """Whether outcomes come at a fixed time after their cue, but for a few catch trials."""
    if not waits_ns:
        return []
    waits = np.array(waits_ns)
    middle = float(np.median(waits))
    off = int(np.sum(np.abs(waits - middle) > _STEADY_NS))
    detail = f"{middle / NS_PER_S:.2f} s from cue to outcome"
    if off > _MOST_CATCH * len(waits):
        spread_ns = float(np.percentile(waits, 90) - np.percentile(waits, 10))
        detail += f", spread over {spread_ns / NS_PER_MS:.0f} ms: a cerebellum needs it fixed"
        return [Finding("timing", "note", detail)]
    return [Finding("timing", "ok", f"{detail}, in {off} of {len(waits)} another" if off else detail)]


def _blocks(known: list[tuple[int, str]], grades: Sequence[float]) -> list[Finding]:
    open_ns: dict[str, int] = {}
    rest_s = 0.0
    for stamp_ns, text in known:
        if match := re.fullmatch(r"BLOCK/([RIAPVTO])/(START|END)", text):
            if match[2] == "START":
                open_ns[match[1]] = stamp_ns
            elif match[1] in open_ns:
                began_ns = open_ns.pop(match[1])
                rest_s += (stamp_ns - began_ns) / NS_PER_S if match[1] == "R" else 0.0
    found = [
        Finding("calibration", "note", f"BLOCK/{name}/START is never followed by BLOCK/{name}/END") for name in sorted(open_ns)
    ]
    detail = f"{rest_s:.0f} s between BLOCK/R/START and BLOCK/R/END"
    found.append(_wanted("calibration", rest_s >= _LEAST_REST_S, detail, f"spatial filters need {_LEAST_REST_S:.0f} s"))
    told = sum(
        1 for _, text in known if text.startswith("CUE/") and stated_expectation(text.removeprefix("CUE/"), grades) is not None
    )
    wants = f"a readout needs {_LEAST_TOLD}, such as CUE/P75/I2"
    found.append(_wanted("calibration", told >= _LEAST_TOLD, f"{told} cues that state what to expect", wants))
    return found


def _wanted(use: Use, enough: object, detail: str, wants: str) -> Finding:
    """Fine as it is, or missing and what is wanted."""
    return Finding(use, "ok", detail) if enough else Finding(use, "missing", f"{detail}; {wants}")


def _extras(known: list[tuple[int, str]]) -> list[Finding]:
    ratings = sum(text.startswith("RATE/PAIN/") for _, text in known)
    found = [
        Finding("harm guard", "ok", f"{ratings} pain ratings")
        if ratings
        else Finding("harm guard", "note", "no RATE/PAIN: the harm guard has the index alone, which sees less")
    ]
    if any(text.startswith(("TDCS/RAMP_UP", "TDCS/ON")) for _, text in known):
        found.append(Finding("calibration", "missing", "current flowed (TDCS markers): do not calibrate on this recording"))
    return found
