"""The arms of a study: what decides when a gate opens, and whether it is held."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

Arm = Literal["closed_loop", "open_loop", "sham", "yoked", "feedback_only"]
Lead = Literal["evidence", "plan", "trace", "nothing"]


class Conduct(NamedTuple):
    """What an arm comes to.

    `lead` is what opens a gate: accumulated evidence, a plan, another session's trace, or (before the arm is known) nothing.
    `plateau` is ``released`` where a gate is ramps only.
    """

    arm: Arm | None
    lead: Lead
    plateau: Literal["held", "released"]


UNKNOWN: Final = Conduct(None, "nothing", "held")


def conduct_of(arm: Arm, sham_follows: Literal["closed_loop", "open_loop"]) -> Conduct:
    """How a session of this arm goes; a sham goes like the arm that it stands in for."""
    shown = sham_follows if arm == "sham" else arm
    lead: Lead = {"open_loop": "plan", "yoked": "trace"}.get(shown, "evidence")  # type: ignore[assignment]
    return Conduct(arm, lead, "released" if arm == "sham" else "held")
