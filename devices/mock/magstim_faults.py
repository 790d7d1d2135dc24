"""What can go wrong with the emulated Magstim, by name; the same notation as `devices.mock.faults`."""

from __future__ import annotations

from typing import Final

from devices.mock.fault_spec import FaultSpec, Parameter
from devices.stimulator import StopClass

_S0, _S1, _S2 = StopClass.S0_CUT, StopClass.S1_ABORT_RAMP, StopClass.S2_SESSION_RAMP

FAULTS: Final[dict[str, FaultSpec]] = {
    spec.name: spec
    for spec in (
        FaultSpec(name="lost_replies", part="replies", row="F38", answer=_S1, effect="the unit hears, its replies are lost"),
        FaultSpec(name="garbage", part="replies", row="F32", answer=_S0, effect="random bytes come in place of replies"),
        FaultSpec(name="wrong_echo", part="replies", row="F32", answer=_S0, effect="replies name another command"),
        FaultSpec(name="bad_checksum", part="replies", row="F32", answer=_S0, effect="replies have a wrong checksum"),
        FaultSpec(
            name="slow_replies",
            part="replies",
            row="F38",
            answer=_S1,
            effect="replies come late",
            parameters=(Parameter("latency_s", "s", 1.0, 0.0, 10.0),),
        ),
        FaultSpec(
            name="too_strong",
            part="output",
            row="F33",
            answer=_S0,
            effect="the unit takes on another intensity than it was told, and says so",
            parameters=(Parameter("extra_percent", "%", 10.0, 1.0, 100.0),),
        ),
        FaultSpec(
            name="runaway",
            part="output",
            row="F37",
            answer=_S0,
            effect="once begun, pulses go on at the interval whatever the unit is told, until its power is cut",
        ),
        FaultSpec(name="hot_coil", part="sensor", row="F35", answer=_S2, effect="the coil is at 45 degrees Celsius"),
        FaultSpec(name="coil_absent", part="contact", row="F35", answer=_S0, effect="no coil is plugged in"),
        FaultSpec(name="interlock", part="contact", row="F35", answer=_S1, effect="the coil's safety switch is open"),
        FaultSpec(name="error", part="supply", row="F35", answer=_S0, effect="the unit shows an error and disarms"),
        FaultSpec(name="restart", part="supply", row="F36", answer=_S0, effect="the unit loses power for a moment"),
        FaultSpec(name="front_panel", part="operator", row="F35", answer=_S0, effect="somebody takes control at the unit"),
        FaultSpec(name="disarms", part="operator", row="F35", answer=_S1, effect="the unit disarms by itself"),
    )
}
