"""The pre-arm checklist: every item answered, by whom, for whom, today; anything else names the item and arms nothing."""

from __future__ import annotations

import datetime as dt
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from guard_doubles import EMULATOR, HARDWARE, Bench, FakeStimulator, make_settings
from hypothesis import given
from hypothesis import strategies as st
from ledger_rig import SetClock

from devices import checklist
from devices.checklist import Checklist, ChecklistError
from devices.guard_core import GuardCore, MemoryDoseBook
from devices.guard_start import StartError, checklist_end_ns
from devices.units import NS_PER_S

TODAY = dt.date(2026, 11, 24)
STIMULATION = make_settings().stimulation
ANSWERS = {
    "participant": '"P001"',
    "operator": '"AB"',
    "date": "2026-11-24",
    "electrode": '"pad"',
    "contact_area_cm2": "25.0",
    "site": '"PO10"',
    "landmark": '"inion"',
    "right_cm": "3",
    "up_cm": "0.5",
}


def filled(date: dt.date = TODAY, **answers: str) -> str:
    """The blank form that ships, filled in as an operator would, with other answers by item."""
    table, lines = "", []
    given_for = {**ANSWERS, "date": date.isoformat(), **answers}
    for line in checklist.blank().splitlines():
        if line.startswith("["):
            table = line[1 : line.index("]")]
        name, _, rest = line.partition(' = ""')
        if rest or line.endswith(' = ""'):
            usual = '"no"' if table == "contraindications" else '"yes"'
            answer = given_for.get(f"{table}.{name}", given_for.get(name, usual))
            if table == "montage.return" and name == "site":
                answer = '"right buccinator"'
            lines.append(f"{name} = {answer}{rest}")
        else:
            lines.append(line)
    return "\n".join(lines)


def keys(struct: Any, path: str = "") -> list[str]:
    """All items that the form asks for."""
    found = []
    for field in msgspec.structs.fields(struct):
        item = f"{path}{field.encode_name}"
        inner = isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)
        found += keys(field.type, f"{item}.") if inner else [item]
    return found


ITEMS = keys(Checklist)


def tree_items(node: dict[str, Any], path: str = "") -> list[str]:
    found = []
    for name, value in node.items():
        found += tree_items(value, f"{path}{name}.") if isinstance(value, dict) else [f"{path}{name}"]
    return found


def without(item: str, text: str) -> str:
    """The form without one line."""
    table, _, name = item.rpartition(".")
    lines, here = [], ""
    for line in text.splitlines():
        here = line[1 : line.index("]")] if line.startswith("[") else here
        if not (here == table and line.startswith(f"{name} = ")):
            lines.append(line)
    return "\n".join(lines)


def test_the_blank_form_asks_for_exactly_what_is_read_and_answers_nothing() -> None:
    tree = tomllib.loads(checklist.blank())
    assert tree_items(tree) == ITEMS
    assert len([item for item in ITEMS if item.startswith("contraindications.")]) >= 12
    with pytest.raises(ChecklistError, match=r"item `session\.participant` is not answered"):
        checklist.parse(checklist.blank())


def test_a_filled_form_lets_a_session_be_armed() -> None:
    form = checklist.parse(filled())
    checklist.check(form, "P001", STIMULATION, TODAY)
    assert form.session.operator == "AB"
    assert (form.montage.target.right_cm, form.montage.return_.site) == (3.0, "right buccinator")
    quoted = checklist.parse(filled(date=TODAY).replace("date = 2026-11-24", 'date = "2026-11-24"'))
    assert quoted == form


@pytest.mark.parametrize("item", ITEMS)
def test_an_item_that_is_missing_or_left_open_is_named(item: str) -> None:
    with pytest.raises(ChecklistError, match=rf"^P001\.toml: item `{re.escape(item)}` is missing"):
        checklist.parse(without(item, filled()), "P001.toml")
    with pytest.raises(ChecklistError, match=rf"item `{re.escape(item)}` is not answered"):
        checklist.parse(filled(**{item: '" "'}) if "return.site" not in item else filled().replace("right buccinator", " "))


@pytest.mark.parametrize("item", [item for item in ITEMS if item.startswith("contraindications.")])
def test_every_contraindication_needs_an_explicit_no(item: str) -> None:
    for answer in ('"yes"', '"No"', '"unknown"', "false", "0", "[]"):
        with pytest.raises(ChecklistError, match=rf'item `{re.escape(item)}` is .*, and only "no" lets a session be armed'):
            checklist.parse(filled(**{item: answer}))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (filled(intact='"no"'), 'item `skin.intact` is \'no\', and only "yes"'),
        (filled(consent='"no"'), 'item `session.consent` is \'no\', and only "yes"'),
        (filled(right_cm="nan"), "item `montage.target.right_cm` is nan; a measured number is needed"),
        (filled(right_cm='"3.0"'), "item `montage.target.right_cm` is '3.0': expected `float`"),
        (filled(up_cm="500"), "item `montage.target.up_cm` is 500"),
        (filled(contact_area_cm2="inf"), "item `montage.contact_area_cm2` is inf"),
        (filled(participant='"Jane Roe"'), "item `session.participant` is 'Jane Roe'"),
        (filled().replace("date = 2026-11-24", 'date = "24.11.2026"'), "item `session.date`"),
        (filled().replace("date = 2026-11-24", "date = 2026-11-24T10:00:00Z"), "item `session.date`"),
        (filled() + "\nmore = 1\n", "item `montage.return.more` is unknown"),
        ("x = [", "not valid TOML"),
        ("a = " + "[" * 5000, "checklist: "),
        ("skin = 3", "item `skin` is 3: expected `object`"),
        ("", "item `session` is missing"),
    ],
)
def test_what_is_wrong_is_one_sentence_that_names_the_item(text: str, words: str) -> None:
    with pytest.raises(ChecklistError) as caught:
        checklist.parse(text)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(participant="P002"), "item `session.participant` is P001, this session is of P002"),
        (dict(today=TODAY + dt.timedelta(days=1)), "item `session.date` is 2026-11-24, today is 2026-11-25; fill in a form"),
        (dict(today=TODAY - dt.timedelta(days=1)), "item `session.date` is 2026-11-24, today is 2026-11-23"),
        (dict(stimulation=make_settings(electrode="hd").stimulation), "item `montage.electrode` is pad"),
        (dict(stimulation=make_settings(contact_area_cm2=35.0).stimulation), "item `montage.contact_area_cm2` is 25"),
    ],
)
def test_a_form_of_another_person_day_or_montage_is_refused(change: dict[str, Any], words: str) -> None:
    given_for = {"participant": "P001", "stimulation": STIMULATION, "today": TODAY, **change}
    with pytest.raises(ChecklistError) as caught:
        checklist.check(checklist.parse(filled()), where="f.toml", **given_for)
    assert words in str(caught.value)
    assert str(caught.value).startswith("f.toml: ")


def test_two_electrodes_in_one_place_are_refused() -> None:
    form = checklist.parse(filled().replace("right buccinator", "PO10"))
    with pytest.raises(ChecklistError, match="the same place"):
        checklist.check(form, "P001", STIMULATION, TODAY)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x" * 20_000])
def test_a_file_that_is_no_form_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "f.toml"
    with pytest.raises(ChecklistError, match=r"f\.toml: no such file"):
        checklist.read(path)
    path.write_bytes(content)
    with pytest.raises(ChecklistError, match=r"f\.toml: "):
        checklist.read(path)


@given(st.text(max_size=400))
def test_any_text_is_a_form_or_one_sentence(text: str) -> None:
    for given_text in (text, filled() + "\n" + text, filled(operator=f'"""{text[:50]}"""')):
        try:
            checklist.parse(given_text)
        except ChecklistError as error:
            assert len(str(error)) < 1000  # noqa: PT017 - any other exception is what must not come


# ---- the guard


def test_a_real_stimulator_needs_a_form_and_an_emulator_does_not() -> None:
    real = Bench(make_settings(input_is_simulated=False), FakeStimulator(identity=HARDWARE)).to_safe()
    real.arm()
    assert real.phase == "safe"
    (refusal,) = real.refusals
    assert refusal.startswith("not armed: there is no pre-arm checklist, and double 1 is a real stimulator: fill in what")
    emulator = Bench(device=FakeStimulator(identity=EMULATOR)).to_safe()
    emulator.arm()
    assert emulator.phase == "armed"


def test_the_process_judges_the_form_by_itself_also_with_an_emulator() -> None:
    clock = SetClock(wall_s=checklist.end_of_day_s(TODAY) - 12 * 3600, boot_s=50.0)
    good = make_settings(checklist=filled())
    assert checklist_end_ns(good, clock) == round((50.0 + 12 * 3600) * NS_PER_S)
    with pytest.raises(StartError, match=r"item `skin\.intact`"):
        checklist_end_ns(make_settings(checklist=filled(intact='"no"')), clock)
    clock.run(12 * 3600)
    with pytest.raises(StartError, match=r"item `session\.date` is 2026-11-24, today is 2026-11-25"):
        checklist_end_ns(good, clock)


def test_nothing_is_armed_once_the_day_of_the_form_is_over() -> None:
    bench = Bench()
    bench.core = GuardCore(bench.settings, bench.device, b"t", MemoryDoseBook(), arm_until_ns=bench.t_ns + 2 * NS_PER_S)
    bench.to_safe()
    bench.run(2.0)
    bench.arm()
    assert bench.refusals == ["not armed: the pre-arm checklist is out of date: the day that it was filled in for is over"]
