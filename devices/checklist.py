"""The pre-arm checklist: what must have been asked, looked at and measured before anybody arms, as strict data.

One TOML file a participant and day, made from the blank form that ships. Every contraindication needs an explicit "no": an
item that is missing, left open or of another day is named in one sentence, and nothing is armed. The list follows what trials
exclude (DEVICES.md, section 2) plus what lies under a montage over the posterior fossa.
"""

from __future__ import annotations

import datetime as dt
import math
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from devices.settings import Stimulation

MAX_BYTES: Final = 16_384
_BLANK: Final = Path(__file__).with_name("checklist.toml")

No = Literal["no"]
Yes = Literal["yes"]
Words = Annotated[str, Meta(min_length=1, max_length=100)]
Centimetres = Annotated[float, Meta(ge=-60.0, le=60.0)]


class ChecklistError(ValueError):
    """A form that lets nothing be armed; one sentence names file and item and says what to do."""


class _Form(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all parts of the form."""


class Who(_Form, frozen=True):
    """Whose form it is, by whom, and for which day."""

    participant: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,32}\Z")]
    operator: Words
    date: dt.date
    consent: Yes


class Contraindications(_Form, frozen=True):
    """Each an explicit "no"."""

    metal_in_head_or_neck: No
    pacemaker_or_implanted_stimulator: No
    cochlear_implant: No
    shunt_or_head_surgery: No
    posterior_fossa_surgery: No
    skull_defect: No
    epilepsy_self_or_family: No
    seizure_ever: No
    tumour_of_brain_or_skull: No
    neurological_disease_excluded_by_protocol: No
    psychiatric_disease_excluded_by_protocol: No
    neuroactive_drugs_excluded_by_protocol: No
    mania_or_hypomania_now: No
    pregnancy_possible: No
    other_brain_stimulation_within_24_h: No
    skin_lesion_on_head_or_neck: No


class Skin(_Form, frozen=True):
    """The inspection, before the electrodes go on."""

    inspected_under_target: Yes
    inspected_under_return: Yes
    intact: Yes
    clean_and_hair_parted: Yes


class Position(_Form, frozen=True):
    """Where an electrode is on this head: its site in words, and centimetres from a landmark (to the right, upwards)."""

    site: Words
    landmark: Words
    right_cm: Centimetres
    up_cm: Centimetres


class Montage(_Form, frozen=True):
    """Both electrodes; kind and area must be those of the configuration."""

    electrode: Literal["pad", "hd"]
    contact_area_cm2: Annotated[float, Meta(gt=0.0, le=200.0)]
    target: Position
    return_: Position = msgspec.field(name="return")


class Checklist(_Form, frozen=True):
    """A whole form, every item answered."""

    session: Who
    contraindications: Contraindications
    skin: Skin
    montage: Montage


def blank() -> str:
    """The blank form that ships, as TOML."""
    return _BLANK.read_text(encoding="utf-8")


def read(path: Path) -> str:
    """Text of a form's file.

    Raises
    ------
    ChecklistError
        If it cannot be read or is no text.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ChecklistError(f"{path}: longer than {MAX_BYTES} bytes; make a form with `cereloop checklist`")
        return data.decode("utf-8")
    except OSError as error:
        words = (error.strerror or str(error)).lower()
        raise ChecklistError(f"{path}: {words}; make a form with `cereloop checklist` and fill it in") from error
    except UnicodeDecodeError as error:
        raise ChecklistError(f"{path}: not UTF-8 text; make a form with `cereloop checklist`") from error


def parse(text: str, where: str = "checklist") -> Checklist:
    """Turn a form's text into a `Checklist`.

    Parameters
    ----------
    text : str
        TOML.
    where : str
        Its origin, for the error's sentence.

    Raises
    ------
    ChecklistError
        Names the first item that is missing, left open, or answered by anything but what lets a session be armed.
    """
    try:
        tree = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ChecklistError(f"{where}: not valid TOML: {_line(str(error))}") from error
    try:
        _refuse_open(tree, "", where)
        return msgspec.convert(_dated(tree), Checklist, strict=True)
    except msgspec.ValidationError as error:
        raise ChecklistError(f"{where}: {_words(str(error), tree)}") from error
    except RecursionError as error:
        raise ChecklistError(f"{where}: tables are nested too deeply") from error


def check(form: Checklist, participant: str, stimulation: Stimulation, today: dt.date, where: str = "checklist") -> None:
    """Refuse a form that is somebody else's, of another day, or of another montage.

    Parameters
    ----------
    form : Checklist
    participant : str
        Code in the session's configuration.
    stimulation : Stimulation
        What is to flow, and under which electrodes.
    today : datetime.date
        The day here, by the wall clock.
    where : str
        The form's origin, for the error's sentence.

    Raises
    ------
    ChecklistError
    """
    who, montage = form.session, form.montage
    if who.participant.upper() != participant.upper():
        raise ChecklistError(
            f"{where}: item `session.participant` is {who.participant}, this session is of {participant}; use their own form"
        )
    if who.date != today:
        raise ChecklistError(f"{where}: item `session.date` is {who.date}, today is {today}; fill in a form for today")
    if montage.electrode != stimulation.electrode:
        raise ChecklistError(
            f"{where}: item `montage.electrode` is {montage.electrode}, stimulation.electrode is {stimulation.electrode}; "
            "make both say what is on the head"
        )
    if montage.contact_area_cm2 != stimulation.contact_area_cm2:
        raise ChecklistError(
            f"{where}: item `montage.contact_area_cm2` is {montage.contact_area_cm2:g}, stimulation.contact_area_cm2 is "
            f"{stimulation.contact_area_cm2:g}; make both say what is on the head"
        )
    if montage.target == montage.return_:
        raise ChecklistError(f"{where}: items `montage.target` and `montage.return` are the same place; measure both")


def end_of_day_s(today: dt.date) -> float:
    """When `today` ends here, in seconds since 1970: from then on the form is of another day."""
    return dt.datetime.combine(today + dt.timedelta(days=1), dt.time()).timestamp()


def _dated(tree: dict[str, Any]) -> dict[str, Any]:
    """The date may be written with quotes, as the blank form suggests, or without."""
    who = tree.get("session")
    if not isinstance(who, dict) or not isinstance(who.get("date"), str):
        return tree
    try:
        return {**tree, "session": {**who, "date": dt.date.fromisoformat(who["date"])}}
    except ValueError as error:
        raise msgspec.ValidationError("Expected `date` such as 2026-11-24 - at `$.session.date`") from error


def _refuse_open(node: dict[str, Any], path: str, where: str) -> None:
    for name, value in node.items():
        item = f"{path}.{name}" if path else name
        if isinstance(value, dict):
            _refuse_open(value, item, where)
        elif isinstance(value, str) and not value.strip():
            raise ChecklistError(f"{where}: item `{_line(item)}` is not answered; fill it in beside the participant")
        elif isinstance(value, float) and not math.isfinite(value):
            raise ChecklistError(f"{where}: item `{_line(item)}` is {value}; a measured number is needed")


def _words(message: str, tree: dict[str, Any]) -> str:
    """One sentence from msgspec's: the item first, then what stands there and what would have to."""
    said, _, place = message.partition(" - at ")
    path = place.strip("`").removeprefix("$").removeprefix(".")
    if said.startswith("Object missing required field"):
        missing = said.split("`")[1]
        return f"item `{f'{path}.{missing}' if path else missing}` is missing; fill in a whole form"
    if said.startswith("Object contains unknown field"):
        unknown = said.split("`")[1]
        item = _line(f"{path}.{unknown}" if path else unknown)
        return f"item `{item}` is unknown; take the form that `cereloop checklist` makes"
    value: object = tree
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    got = _line(repr(value))
    if path.startswith("contraindications."):
        return f'item `{path}` is {got}, and only "no" lets a session be armed'
    if path.startswith("skin.") or path == "session.consent":
        return f'item `{path}` is {got}, and only "yes" lets a session be armed'
    return f"item `{path or 'top level'}` is {got}: {said[0].lower()}{said[1:]}"


def _line(text: str) -> str:
    """Text from a file as it may stand in a sentence."""
    plain = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return plain if len(plain) <= 120 else f"{plain[:120]}…"
