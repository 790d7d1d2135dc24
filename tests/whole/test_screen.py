"""What a running session tells a person: one sentence for what befalls many channels at once."""

from __future__ import annotations

import io

from loop.events import Incident, MarkerOut, Tick
from loop.screen import Screen


def bad(channel: str, name: str = "channel_flat") -> Incident:
    return Incident(t_ns=0, name=name, detail=channel, answer="its samples are left out")


def said(*outputs: Incident | MarkerOut) -> list[str]:
    stream = io.StringIO()
    screen = Screen("text", stream)
    screen.show(Tick(t_ns=0), outputs)
    screen.close()
    return [line.removeprefix("     0.0 s  ") for line in stream.getvalue().splitlines()]


def test_a_cap_that_turns_bad_at_once_is_one_line() -> None:
    channels = [bad(f"E{k}") for k in range(1, 65)]
    assert said(*channels) == ["channel_flat: E1, E2, E3, E4, E5, E6 and 58 more (its samples are left out)"]
    assert said(*channels[:3]) == ["channel_flat: E1, E2, E3 (its samples are left out)"]


def test_what_differs_stays_apart_and_in_order() -> None:
    told = said(bad("Cz"), bad("Oz", "channel_railed"), MarkerOut(t_ns=0, text="TDCS/ON/1"), bad("Pz", "channel_railed"))
    assert told == [
        "channel_flat: Cz (its samples are left out)",
        "channel_railed: Oz (its samples are left out)",
        "channel_railed: Pz (its samples are left out)",
    ]
