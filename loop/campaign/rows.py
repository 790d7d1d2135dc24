"""The rows that the campaign runs, and the pairs, as data: `rows.toml`, in step with the table of hazards."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Final

import msgspec

PAIR_FIRST: Final = ("gap", "SIGSTOP engine", "disk full", "wrong acknowledgement", "emergency stop")
PAIR_SECOND: Final = ("engine SIGKILL", "guard SIGKILL", "impedance rise")


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One row.

    `answers` are those that a run may show, `bound_s` the longest time to zero (None where none is owed). Where
    `moves_current` the fault itself changes the current, so that slope and size are told and not judged. `counted` says from
    when the time is counted where that is not the moment of the fault. A `deep` row kills, freezes or cuts.
    """

    id: str = ""
    group: str
    text: str
    answer: str
    bound: str
    answers: tuple[str, ...]
    bound_s: float | None = None
    moves_current: bool = False
    counted: str = ""
    deep: bool = False


@functools.cache
def rows() -> dict[str, Row]:
    """All rows by id, in the table's order; `F56` stands for the pairs."""
    data = Path(__file__).with_name("rows.toml").read_bytes()
    found = msgspec.toml.decode(data, type=dict[str, Row], strict=True)
    return {name: msgspec.structs.replace(row, id=name) for name, row in found.items()}


def pair_rows() -> dict[str, Row]:
    """The pairs of `F56`, each a row of its own: ``F56 gap + engine SIGKILL``."""
    whole = rows()["F56"]
    return {
        (name := f"F56 {first} + {second}"): msgspec.structs.replace(
            whole, id=name, text=f"{first} + {second}", moves_current="impedance" in second
        )
        for first in PAIR_FIRST
        for second in PAIR_SECOND
    }


def all_rows() -> dict[str, Row]:
    """Rows and pairs, in the order of the table."""
    return {**{name: row for name, row in rows().items() if name != "F56"}, **pair_rows()}
