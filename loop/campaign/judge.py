"""What is made of one run: the answer that was seen, the worst that flowed, and whether all is within the row's bounds."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from devices.limits import MAX_LEVEL_UA, gate_dose
from devices.mock.meter import MeterError, time_to_zero
from devices.refproto import ZERO_UA
from devices.stimulator import DeviceState
from devices.units import NS_PER_S
from loop.campaign.rig import Rig
from loop.campaign.rows import Row
from loop.campaign.scenes import Case
from loop.events import GateChange
from loop.gate import Phase

STEEPEST_RISE_UA_S: Final = 200.0
"""Never above 0.2 mA/s, whoever drives (I03)."""
STEEPEST_ABORT_UA_S: Final = 2000.0
# The meter's slope over 100 ms of an output stage whose gain, offset and steps are not exact.
_SLOPE_SLACK: Final = 1.05
_SLOPE_SLACK_UA_S: Final = 40.0
_GAIN_SLACK: Final = 1.02
_SETTLED_S: Final = 0.3
_SEEN_THROUGH_S: Final = 1.6


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one row.

    `answer` is ``S0``, ``S1``, ``S2``, ``on`` (the current went on), ``ended`` (so did the gate, which was over within the
    bound), ``zero`` (none flowed), ``refused``, ``loaded`` (what was damaged is good all the same) or ``broken``; `zero_s` the
    seconds to zero current, None where none was owed. Currents are magnitudes at the electrode in uA, slopes in uA/s over
    100 ms, charges in uC. `wrong` is empty or one sentence.
    """

    row: str
    seed: str
    answer: str
    zero_s: float | None = None
    bound_s: float | None = None
    peak_ua: float = 0.0
    rise_ua_s: float = 0.0
    fall_ua_s: float = 0.0
    beyond_uc: float = 0.0
    wrong: str = ""


def watched(rig: Rig, case: Case) -> None:
    """Let a run go on until the current has been zero for a while, or its time is over."""
    since: list[int] = []

    def settled() -> bool:
        if rig.level_ua > ZERO_UA:
            since.clear()
        elif not since:
            since.append(rig.t_ns)
        return bool(since) and rig.t_ns - since[0] >= _SETTLED_S * NS_PER_S

    rig.run(case.watch_s, None if case.to_the_end == "yes" else settled)
    if rig.guard.phase in ("aborting", "ending") or rig.engine.phase is Phase.STOPPED:
        # A stop that came late in the run is seen through.
        rig.run(_SEEN_THROUGH_S, settled)


def answer_of(rig: Rig, flowed: bool) -> str:
    """The highest stop that was seen; ``on`` where there was none, ``ended`` where the gate was over by itself."""
    seen = set(rig.phases[1:])
    if "latched" in seen or rig.model.firmware.state is DeviceState.FAULT:
        return "S0"
    if "aborting" in seen or rig.phases[-1] == "stopped":
        return "S1"
    if "ending" in seen or rig.engine.phase is Phase.ENDED:
        return "S2"
    asked = any(isinstance(o, GateChange) and o.after == Phase.RAMP_DOWN and "operator" in o.reason for o in rig.outputs)
    if asked:
        return "S2"
    if flowed and any(isinstance(o, GateChange) and o.after == Phase.SETTLE for o in rig.outputs):
        return "ended"
    return "on" if flowed else "zero"


def judged(rig: Rig, row: Row, case: Case, seed: str, flowed: bool) -> Run:
    """Judge a run that is over; `flowed` says whether current flowed when the fault came."""
    answer = answer_of(rig, flowed)
    bound_s = case.bound_s if case.bound_s is not None else row.bound_s
    from_ns = case.from_ns(rig) if callable(case.from_ns) else case.from_ns
    meter = rig.model.meter
    peak = max([meter.peak_ua, *(abs(record.current_ua) for record in rig.records)])
    dose = gate_dose(rig.config.stimulation) if rig.config.stimulation is not None else None
    beyond = max(0.0, meter.charge_uc - (dose.charge_uc if dose is not None else 0))
    # Where the current may go on, a gate that is over by itself ends by its own ramp, in its own time.
    in_time = ("S0", "S1", "S2") if "on" in (case.answers or row.answers) else ("S0", "S1", "S2", "ended")
    zero_s = _to_zero(rig, from_ns) if answer in in_time else None
    wrong = _wrong(rig, row, case, answer, flowed=flowed) or _late(zero_s, bound_s) or case.check(rig)
    return Run(
        row=row.id,
        seed=seed,
        answer=answer,
        zero_s=zero_s,
        bound_s=bound_s if zero_s is not None else None,
        peak_ua=peak,
        rise_ua_s=meter.max_rise_ua_s,
        fall_ua_s=meter.max_fall_ua_s,
        beyond_uc=beyond,
        wrong=wrong or _beyond(rig, row, answer, peak, beyond),
    )


def _to_zero(rig: Rig, from_ns: int) -> float:
    try:
        return time_to_zero(rig.records, from_ns)
    except MeterError:
        return 0.0 if rig.level_ua <= ZERO_UA else math.inf


def _late(zero_s: float | None, bound_s: float | None) -> str:
    if zero_s is None or bound_s is None or zero_s <= bound_s:
        return ""
    return f"zero after {zero_s:.3f} s, {bound_s:g} s allowed"


def _wrong(rig: Rig, row: Row, case: Case, answer: str, *, flowed: bool) -> str:
    wanted = case.answers or row.answers
    if answer == "ended":
        return ""
    if flowed and answer not in wanted:
        return f"answer {answer}, not {' or '.join(wanted)}: {rig.guard.state.reason}"
    stops = {"S0", "S1", "S2"}
    if stops.isdisjoint(wanted) and answer in stops:
        return f"a false stop {answer}: {rig.guard.state.reason}"
    if answer in stops and rig.level_ua > ZERO_UA:
        return f"{rig.level_ua:.0f} uA still flow at the end"
    return ""


def _beyond(rig: Rig, row: Row, answer: str, peak_ua: float, beyond_uc: float) -> str:
    """What no fault but one of the output stage itself may make flow (I01, I03, I04)."""
    if rig.dac_ua > MAX_LEVEL_UA:
        return f"the converter was set to {rig.dac_ua:.0f} uA"
    if row.moves_current:
        return ""
    assert rig.config.stimulation is not None
    if peak_ua > _GAIN_SLACK * rig.config.stimulation.level_ua + ZERO_UA:
        return f"{peak_ua:.0f} uA flowed, {rig.config.stimulation.level_ua} were configured"
    if rig.model.meter.max_rise_ua_s > STEEPEST_RISE_UA_S:
        return f"the current rose by {rig.model.meter.max_rise_ua_s:.0f} uA/s"
    steepest = {"S0": math.inf, "S1": STEEPEST_ABORT_UA_S}.get(answer, STEEPEST_RISE_UA_S)
    if rig.model.meter.max_fall_ua_s > _SLOPE_SLACK * steepest + _SLOPE_SLACK_UA_S:
        return f"the current fell by {rig.model.meter.max_fall_ua_s:.0f} uA/s in {answer}"
    if beyond_uc > 0.0:
        return f"{beyond_uc:.0f} uC flowed beyond the reservation"
    return ""
