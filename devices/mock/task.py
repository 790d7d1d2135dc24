"""A task as data: which blocks there are, with which cues, outcomes, pauses and ratings. Read strictly from TOML."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from devices.mock.patient_settings import BlockName, PatientSettings

Outcome = Literal["NOX", "INN", "OMIT"]
CueName = Literal["H", "L", "N"]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Seconds = Annotated[float, Meta(ge=0.0, le=3600.0)]
Span = tuple[Seconds, Seconds]
Count = Annotated[int, Meta(ge=1, le=1000)]
Percent = Annotated[int, Meta(ge=0, le=100)]

_FOLDER: Final = Path(__file__).resolve().parent / "tasks"


class TaskError(ValueError):
    """A task that cannot be used: no such file, or a key that is unknown, missing or out of range."""


class Timing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all trials share: seconds, or from-to where each draws its own.

    A share `late_share` of the outcomes comes `late_by_s` after its time; its ``OUT_DUE`` comes with it.
    """

    fixation_s: Span
    cue_to_outcome_s: Annotated[float, Meta(ge=0.2, le=60.0)]
    late_share: Share
    late_by_s: Seconds
    silence_s: Seconds
    rating_s: Span
    pause_s: Span


class Stretch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a rest block and what the participant does in it: between `mark`/ON and /OFF, or after the note `mark`."""

    doing: Literal["eyes_open", "eyes_closed", "clench", "blink"]
    seconds: Annotated[float, Meta(gt=0.0, le=3600.0)]
    mark: Annotated[str, Meta(pattern=r"^(ART/\w+|NOTE/.+)$", max_length=60)]
    pause_s: Seconds = 0.0


class Rest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="rest"):
    """A block without trials."""

    stretches: Annotated[tuple[Stretch, ...], Meta(min_length=1)]


class Cued(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="cued"):
    """Trials of cue and outcome.

    `cues` gives the probability of the noxious outcome after each cue that must be learned; `stated` lists probabilities in
    percent that the cue itself tells, each with every one of `grades` (strength relative to the calibrated stimulus). What
    comes instead takes turns through `otherwise`. A share of the noxious outcomes has a `fixed_intensity` instead of the
    individually calibrated one.
    """

    trials: Count
    cues: dict[CueName, Share] = {}
    stated: tuple[Percent, ...] = ()
    grades: tuple[Annotated[float, Meta(gt=0.0, le=2.0)], ...] = (1.0,)
    otherwise: Annotated[tuple[Literal["INN", "OMIT"], ...], Meta(min_length=1)] = ("INN",)
    rated_share: Share = 0.5
    expectation_share: Share = 0.0
    asked_awareness: Literal["no", "at the end"] = "no"
    fixed_share: Share = 0.0
    fixed_intensity: Annotated[int, Meta(ge=1, le=100)] = 45


class Trains(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="trains"):
    """Trains of innocuous touches whose last one is left out, or comes, where it is due."""

    regular: Annotated[int, Meta(ge=0, le=1000)]
    jittered: Annotated[int, Meta(ge=0, le=1000)]
    touches: Annotated[int, Meta(ge=1, le=100)]
    interval_s: Annotated[float, Meta(ge=0.3, le=10.0)]
    jitter: Annotated[float, Meta(ge=0.0, le=0.5)]
    jitter_from: Annotated[int, Meta(ge=2, le=100)]
    omitted_share: Share = 1.0


class Heat(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="heat"):
    """Trials of long heat that begins and ends when the cue says; a share of the ends is late."""

    trials: Count
    cue: Annotated[str, Meta(pattern=r"^([HLN]|P(\d{1,2}|100)/I[1-3])$")]
    heat_s: Annotated[float, Meta(ge=0.5, le=30.0)]
    late_end_share: Share = 0.0
    late_end_by_s: Seconds = 0.6
    rated_share: Share = 0.5
    pause_s: Span


Block = Rest | Cued | Trains | Heat


class Task(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All blocks by the letter of the marker vocabulary."""

    timing: Timing
    blocks: dict[BlockName, Block]


def with_text(settings: PatientSettings) -> PatientSettings:
    """Settings that hold their task's text in place of a file's path, so that they can be used again without the file.

    Raises
    ------
    TaskError
        If the file cannot be read.
    """
    if _is_text(settings.task) or settings.task in shipped():
        return settings
    return msgspec.structs.replace(settings, task=_text(settings.task))


def shipped() -> dict[str, Path]:
    """The tasks that come with cereloop, by name."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.toml"))}


def load_task(task: str) -> Task:
    """Read a task.

    Parameters
    ----------
    task : str
        Name of one that ships, path of a TOML file, or TOML text (anything of more than one line).

    Raises
    ------
    TaskError
        If it cannot be used; says where and why.
    """
    where = "the task given as text" if _is_text(task) else f"task {task}"
    try:
        tree = tomllib.loads(_text(task))
    except tomllib.TOMLDecodeError as error:
        raise TaskError(f"{where}: not TOML: {error}") from error
    try:
        found = msgspec.convert(tree, Task, strict=True)
    except msgspec.ValidationError as error:
        raise TaskError(f"{where}: {error}") from error
    for letter, block in found.blocks.items():
        _check(f"{where}: block {letter}", block)
    for name, span in (("fixation_s", found.timing.fixation_s), ("rating_s", found.timing.rating_s)):
        _check_span(f"{where}: timing.{name}", span)
    _check_span(f"{where}: timing.pause_s", found.timing.pause_s)
    return found


def _is_text(task: str) -> bool:
    return "\n" in task


def _text(task: str) -> str:
    if _is_text(task):
        return task
    path = shipped().get(task, Path(task))
    if path.suffix != ".toml":
        raise TaskError(f"task {task}: neither a file NAME.toml nor one that ships; there are: {', '.join(shipped())}")
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise TaskError(f"task {task}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise TaskError(f"task {task}: not a text file in UTF-8") from error


def _check_span(where: str, span: Span) -> None:
    if span[0] > span[1]:
        raise TaskError(f"{where}: from {span[0]:g} to {span[1]:g} s is no span; write the smaller one first")


def _check(where: str, block: Block) -> None:
    if isinstance(block, Cued):
        if bool(block.cues) == bool(block.stated):
            raise TaskError(f"{where}: needs either `cues` (to be learned) or `stated` (told), not both")
        if len(block.grades) > 3:
            raise TaskError(f"{where}: key `grades` has {len(block.grades)} values; the markers know I1 to I3")
        kinds = len(block.cues) or len(block.stated) * len(block.grades)
        if block.trials < kinds:
            raise TaskError(f"{where}: {block.trials} trials are fewer than its {kinds} cues")
    elif isinstance(block, Trains):
        if block.regular + block.jittered == 0:
            raise TaskError(f"{where}: no trains; give `regular` or `jittered`")
        if block.jitter_from > block.touches:
            raise TaskError(f"{where}: key `jitter_from` is {block.jitter_from}, beyond the {block.touches} touches")
    elif isinstance(block, Heat):
        _check_span(f"{where}: pause_s", block.pause_s)
