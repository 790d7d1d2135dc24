"""Each transition of the guard changes exactly these fields, from a state in which every field holds something unusual.

What a transition forgets to clear, or clears without need, is a stop that comes too late or current that comes back (I07, I08).
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from guard_doubles import CAPABILITIES, EMULATOR, make_settings
from msgspec.structs import replace

from devices import guard, link
from devices import guard_requests as requests
from devices import guard_rules as rules
from devices.guard_checks import abort_level, judge
from devices.guard_dose import settle
from devices.guard_params import make_params
from devices.guard_plan import gate_cost, planned_ua
from devices.guard_state import (
    NEVER,
    Announce,
    ArmDevice,
    Book,
    Booked,
    BookFailed,
    DeviceFailure,
    DeviceStop,
    DisarmDevice,
    EngineGone,
    Exit,
    ExitCode,
    Garbage,
    Leaving,
    Params,
    Phase,
    ResetDevice,
    Send,
    Settle,
    State,
    Terminate,
    Tick,
    arm_code,
    report,
)
from devices.guard_stops import latch, stop
from devices.stimulator import DeviceState, GatePlan, Readback, StopClass
from devices.units import NS_PER_MS, NS_PER_S

NOW = 1000 * NS_PER_S
S0, S1, S2 = StopClass.S0_CUT, StopClass.S1_ABORT_RAMP, StopClass.S2_SESSION_RAMP
PARAMS: Params = make_params(make_settings(), CAPABILITIES, EMULATOR, b"exact")
AT_ZERO = Readback(
    t_ns=NOW - 1,
    state=DeviceState.IDLE,
    commanded_ua=0,
    measured_ua=1.0,
    voltage_mv=None,
    impedance_ohm=5000.0,
    ack_seq=77,
    boot_count=3,
    fault="",
)
# Nothing here is what a field begins with, so that whatever a transition sets, or forgets, shows.
ODD = State(
    phase=Phase.LIVE,
    reason="odd",
    stop_class=None,
    level_ua=150,
    target_ua=160,
    lease_ns=NOW + 11,
    last_seq=40,
    credit=12,
    tick_ns=NOW - 13,
    slow_ns=NOW + 14,
    phase_ns=NOW - 15 * NS_PER_S,
    from_ua=16,
    run_ns=NOW - 17,
    zero_ns=NOW - 18 * NS_PER_S,
    rise_ns=NOW - 19,
    readback=AT_ZERO,
    heard_ns=NOW - 1,
    off_ns=NOW - 21,
    ohm_ns=NOW - 22,
    off_seen_ns=NOW - 23,
    ohm_seen_ns=NOW - 24,
    boot_count=3,
    ack_seq=77,
    ack_ns=NOW - 25,
    silences=0,
    blind=True,
    reserved_uc=5000,
    reserved_ms=26_000,
    booking=0,
    booking_ns=NOW - 27,
    gate_fc=28 * NS_PER_S + 1,
    gate_ns=29 * NS_PER_MS + 1,
    used_fc=30 * NS_PER_S,
    used_ns=31 * NS_PER_MS,
    flowed=True,
    garbage_ns=(NOW - 32,),
    dropped=33,
    refused_ns=NOW - 34 * NS_PER_S,
    wrong_codes=1,
    code_index=35,
    leaving=Leaving.STAYS,
    leaving_ns=NOW - 36,
    exited=False,
)
REST = replace(ODD, level_ua=0, target_ua=0, flowed=False)
# What every stop under current clears.
CLEARED = {"target_ua": 0, "credit": 0, "lease_ns": NEVER, "run_ns": NEVER, "phase_ns": NOW, "off_ns": NEVER, "ohm_ns": NEVER}


def changes(before: State, after: State) -> dict[str, Any]:
    """Fields that differ."""
    return {name: getattr(after, name) for name in State.__struct_fields__ if getattr(after, name) != getattr(before, name)}


def refusal(seq: int, reason: str) -> list[Any]:
    return [Send(link.Refused(seq=seq, reason=reason))]


def test_the_odd_state_is_odd_in_every_field_that_a_transition_sets() -> None:
    fresh_state = State()
    same = {name for name in State.__struct_fields__ if getattr(ODD, name) == getattr(fresh_state, name)}
    assert same == {"stop_class", "silences", "booking", "leaving", "exited"}


# ---- stops


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.LATCHED])
def test_a_cut_latches_clears_all_that_could_drive_and_keeps_the_dose(phase: Phase) -> None:
    before = replace(ODD, phase=phase, stop_class=S1)
    after, actions = latch(before, NOW, "why")
    assert changes(before, after) == {
        **CLEARED, "phase": Phase.LATCHED, "stop_class": S0, "reason": "why", "level_ua": 0, "from_ua": 150, "zero_ns": NOW,
    }  # fmt: skip
    assert actions == [DeviceStop(S0)]
    assert stop(PARAMS, before, NOW, S0, "why") == (after, actions)


def test_a_latch_keeps_its_first_reason_and_repeats_the_cut() -> None:
    before = replace(ODD, phase=Phase.LATCHED, stop_class=S0)
    assert latch(before, NOW, "another") == (before, [DeviceStop(S0)])


@pytest.mark.parametrize(("stop_class", "phase"), [(S1, Phase.ABORTING), (S2, Phase.ENDING)])
@pytest.mark.parametrize("device_ramp", [True, False])
@pytest.mark.parametrize("whole_gate", [True, False])
def test_a_ramp_begins_at_the_present_level(stop_class: StopClass, phase: Phase, device_ramp: bool, whole_gate: bool) -> None:
    plan = GatePlan(level_ua=100, rise_ms=1, hold_ms=1, fall_ms=1) if whole_gate else None
    params = replace(PARAMS, device_ramp=device_ramp, plan=plan)
    after, actions = stop(params, ODD, NOW, stop_class, "why")
    assert changes(ODD, after) == {**CLEARED, "phase": phase, "stop_class": stop_class, "reason": "why", "from_ua": 150}
    by_device = device_ramp if stop_class is S1 else whole_gate
    assert actions == ([DeviceStop(stop_class)] if by_device else [])


@pytest.mark.parametrize(("stop_class", "phase"), [(S1, Phase.STOPPED), (S2, Phase.SAFE)])
@pytest.mark.parametrize("before_phase", [Phase.ARMED, Phase.LIVE])
def test_a_stop_at_zero_disarms(stop_class: StopClass, phase: Phase, before_phase: Phase) -> None:
    before = replace(REST, phase=before_phase)
    after, actions = stop(PARAMS, before, NOW, stop_class, "why")
    wanted = {**CLEARED, "phase": phase, "reason": "why", "from_ua": 0}
    del wanted["target_ua"]  # is 0 already
    assert changes(before, after) == wanted | ({"stop_class": S1} if stop_class is S1 else {})
    assert actions == [DisarmDevice()]


def test_an_abort_takes_over_a_session_ramp_even_at_its_last_microamp() -> None:
    before = replace(REST, phase=Phase.ENDING, stop_class=S2)
    after, actions = stop(PARAMS, before, NOW, S1, "why")
    assert (after.phase, after.stop_class, actions) == (Phase.ABORTING, S1, [DeviceStop(S1)])


@pytest.mark.parametrize(("in_force", "asked"), [(S1, S1), (S1, S2), (S2, S2)])
def test_no_stop_is_downgraded_or_begun_anew(in_force: StopClass, asked: StopClass) -> None:
    before = replace(ODD, phase=Phase.ABORTING if in_force is S1 else Phase.ENDING, stop_class=in_force)
    assert stop(PARAMS, before, NOW, asked, "again") == (before, [])


@pytest.mark.parametrize("phase", [Phase.ZEROING, Phase.SAFE])
def test_before_arming_there_is_nothing_to_ramp_down(phase: Phase) -> None:
    before = replace(REST, phase=phase)
    assert stop(PARAMS, before, NOW, S1, "why") == (before, [])


# ---- requests


@pytest.mark.parametrize("phase", [Phase.STOPPED, Phase.LATCHED])
def test_a_reset_forgets_what_was_wrong_and_nothing_else(phase: Phase) -> None:
    before = replace(REST, phase=phase, stop_class=S1)
    after, actions = requests.reset(PARAMS, before, NOW, link.Reset(seq=41, operator="who"))
    assert changes(before, after) == {
        "last_seq": 41, "phase": Phase.ZEROING, "stop_class": None, "reason": "reset by who", "phase_ns": NOW, "zero_ns": NOW,
        "boot_count": None, "blind": False, "garbage_ns": (), "off_ns": NEVER, "ohm_ns": NEVER,
    }  # fmt: skip
    assert actions == [ResetDevice()]


def test_a_reset_is_refused_by_name() -> None:
    latched = replace(REST, phase=Phase.LATCHED, stop_class=S0)
    ask = link.Reset(seq=41, operator="who")
    counted = replace(latched, last_seq=41)
    leaving = replace(latched, leaving=Leaving.GOODBYE)
    assert requests.reset(PARAMS, leaving, NOW, ask) == (
        replace(leaving, last_seq=41),
        refusal(41, "the guard is about to end"),
    )
    flowing = replace(latched, zero_ns=NOW)
    assert requests.reset(PARAMS, flowing, NOW, ask)[1] == refusal(41, "not reset: zero current is not confirmed")
    assert requests.reset(PARAMS, replace(latched, phase=Phase.SAFE), NOW, ask) == (
        replace(counted, phase=Phase.SAFE),
        refusal(41, "nothing to reset: the guard is safe"),
    )
    again = replace(latched, last_seq=41)
    assert requests.reset(PARAMS, again, NOW, ask) == (replace(again, dropped=34), []), "a number must rise"


def test_a_booking_that_fails_leaves_no_reservation() -> None:
    before = replace(ODD, booking=40)
    after, actions = requests.book_failed(PARAMS, before, NOW, BookFailed(40, "full"))
    assert changes(before, after) == {"reserved_uc": 0, "reserved_ms": 0, "booking": 0, "booking_ns": NEVER, "target_ua": 0}
    assert actions == refusal(40, "dose: the ledger could not be written: full")
    assert requests.book_failed(PARAMS, before, NOW, BookFailed(39, "full")) == (before, [])


def test_a_booking_that_is_on_disk_frees_the_way_once() -> None:
    before = replace(ODD, booking=40)
    after, actions = requests.booked(PARAMS, before, NOW, Booked(40))
    assert changes(before, after) == {"booking": 0, "booking_ns": NEVER}
    assert actions == [Send(report(PARAMS, after, NOW))]
    assert requests.booked(PARAMS, before, NOW, Booked(39)) == (before, [])


@pytest.mark.parametrize("phase", [Phase.ARMED, Phase.LIVE])
def test_a_reservation_begins_a_new_gate(phase: Phase) -> None:
    before = replace(REST, phase=phase)
    after, actions = requests.reserve(PARAMS, before, NOW, link.Reserve(seq=41, charge_uc=700, on_time_ms=800))
    assert changes(before, after) == {
        "last_seq": 41, "reserved_uc": 700, "reserved_ms": 800, "booking": 41, "booking_ns": NOW, "gate_fc": 0, "gate_ns": 0,
    }  # fmt: skip
    assert actions == [Book(41, 700, 800)]


def test_a_reservation_is_refused_by_name_and_to_the_last_unit() -> None:
    def ask(before: State, charge_uc: int = 700, on_time_ms: int = 800, seq: int = 41) -> tuple[dict[str, Any], list[Any]]:
        after, actions = requests.reserve(
            PARAMS, before, NOW, link.Reserve(seq=seq, charge_uc=charge_uc, on_time_ms=on_time_ms)
        )
        return changes(before, after), actions

    armed = replace(REST, phase=Phase.ARMED)
    left_uc, left_ms = PARAMS.max_charge_uc - 30, PARAMS.max_on_time_ms - 31
    assert ask(armed, left_uc, left_ms)[1] == [Book(41, left_uc, left_ms)]
    assert ask(armed, left_uc + 1) == ({"last_seq": 41}, refusal(41, f"dose: {left_uc + 1} uC asked, {left_uc} uC left"))
    assert ask(armed, on_time_ms=left_ms + 1)[1] == refusal(41, f"dose: {left_ms + 1} ms with current asked, {left_ms} ms left")
    spent = replace(armed, used_fc=(PARAMS.max_charge_uc + 5) * NS_PER_S, used_ns=0)
    assert ask(spent)[1] == refusal(41, "dose: 700 uC asked, 0 uC left")
    late = replace(armed, used_ns=(PARAMS.max_on_time_ms + 5) * NS_PER_MS)
    assert ask(late)[1] == refusal(41, "dose: 800 ms with current asked, 0 ms left")
    part = replace(armed, used_fc=30 * NS_PER_S + 1, used_ns=31 * NS_PER_MS + 1)
    assert ask(part, left_uc)[1] == refusal(41, f"dose: {left_uc} uC asked, {left_uc - 1} uC left"), "rounded up"
    assert ask(part, on_time_ms=left_ms)[1] == refusal(41, f"dose: {left_ms} ms with current asked, {left_ms - 1} ms left")
    assert ask(armed, charge_uc=0)[1] == ask(armed, on_time_ms=0)[1] == refusal(41, "an empty reservation")
    assert ask(replace(REST, phase=Phase.SAFE))[1] == refusal(41, "no dose is reserved while safe (odd)")
    for unsettled in (replace(armed, level_ua=1), replace(armed, target_ua=1), replace(armed, flowed=True)):
        assert ask(unsettled)[1] == refusal(41, "the gate before is not settled: zero current is not confirmed yet")
    assert ask(armed, seq=40) == ({"dropped": 34}, [])


def test_arming_begins_its_minute_and_changes_the_code() -> None:
    safe = replace(REST, phase=Phase.SAFE)
    after, actions = requests.arm(PARAMS, safe, NOW, link.Arm(seq=41, code=f" {arm_code(PARAMS, safe).lower()} "))
    assert changes(safe, after) == {
        "last_seq": 41, "phase": Phase.ARMED, "phase_ns": NOW, "reason": "armed", "wrong_codes": 0, "code_index": 36,
    }  # fmt: skip
    assert actions == [ArmDevice(PARAMS.max_level_ua, 100), Announce()]


def test_wrong_codes_are_counted_and_the_third_makes_a_new_one() -> None:
    safe = replace(REST, phase=Phase.SAFE)
    after, actions = requests.arm(PARAMS, safe, NOW, link.Arm(seq=41, code="XXXXX"))
    assert changes(safe, after) == {"last_seq": 41, "wrong_codes": 2}
    assert actions == refusal(41, "not armed: the code is wrong")
    third, actions = requests.arm(PARAMS, after, NOW, link.Arm(seq=42, code="XXXXX"))
    assert changes(after, third) == {"last_seq": 42, "wrong_codes": 0, "code_index": 36}
    assert actions == [*refusal(42, "not armed: the code was wrong three times; there is a new code"), Announce()]
    assert requests.arm(PARAMS, safe, NOW, link.Arm(seq=40, code="XXXXX")) == (replace(safe, dropped=34), [])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"phase": Phase.ARMED}, "the guard is armed (odd)"),
        ({"leaving": Leaving.GOODBYE}, "the guard is about to end"),
        ({"used_fc": PARAMS.max_charge_uc * NS_PER_S}, "the session's dose is used up"),
        ({"used_ns": PARAMS.max_on_time_ms * NS_PER_MS}, "the session's dose is used up"),
        ({"readback": None}, "the device does not confirm zero current"),
        ({"heard_ns": NOW - PARAMS.stale_ns - 1}, "the device does not confirm zero current"),
        ({"zero_ns": NOW}, "the device does not confirm zero current"),
        ({"readback": replace(AT_ZERO, measured_ua=10.5)}, "the device does not confirm zero current"),
        ({"readback": replace(AT_ZERO, commanded_ua=1)}, "the device does not confirm zero current"),
        (
            {"readback": replace(AT_ZERO, impedance_ohm=None)},
            "the impedance is not known: check the electrodes and wait for the device to measure it",
        ),
        (
            {"readback": replace(AT_ZERO, impedance_ohm=float("nan"))},
            "the impedance is not known: check the electrodes and wait for the device to measure it",
        ),
        (
            {"readback": replace(AT_ZERO, impedance_ohm=10_000.0)},
            "impedance 10000 ohm; below 10000 ohm is needed: improve the contact",
        ),
        ({"readback": replace(AT_ZERO, impedance_ohm=799.0)}, "impedance 799 ohm: the electrodes look shorted"),
    ],
)
def test_arming_is_refused_by_name(change: dict[str, Any], why: str) -> None:
    safe = replace(REST, phase=Phase.SAFE, **{key: value for key, value in change.items() if key != "phase"})
    safe = replace(safe, phase=change.get("phase", Phase.SAFE))
    after, actions = requests.arm(PARAMS, safe, NOW, link.Arm(seq=41, code=arm_code(PARAMS, safe)))
    assert changes(safe, after) == {"last_seq": 41}
    assert actions == refusal(41, f"not armed: {why}")


@pytest.mark.parametrize("ohm", [800.0, 9999.0])
def test_arming_takes_the_impedance_up_to_its_limits(ohm: float) -> None:
    safe = replace(REST, phase=Phase.SAFE, readback=replace(AT_ZERO, impedance_ohm=ohm))
    assert requests.arm(PARAMS, safe, NOW, link.Arm(seq=41, code=arm_code(PARAMS, safe)))[0].phase is Phase.ARMED


def test_a_level_is_taken_with_the_shorter_of_two_leases() -> None:
    near = link.Command(seq=41, level_ua=120, deadline_ns=NOW + 5, decision=1)
    far = msgspec.structs.replace(near, deadline_ns=NOW + 10 * NS_PER_S)
    after, actions = requests.command(PARAMS, ODD, NOW, near)
    assert changes(ODD, after) == {"last_seq": 41, "lease_ns": NOW + 5, "target_ua": 120}
    assert actions == []
    assert requests.command(PARAMS, ODD, NOW, far)[0].lease_ns == NOW + PARAMS.lease_ns
    armed = replace(ODD, phase=Phase.ARMED)
    assert changes(armed, requests.command(PARAMS, armed, NOW, near)[0]) == {
        "last_seq": 41, "lease_ns": NOW + 5, "target_ua": 120, "phase": Phase.LIVE, "phase_ns": NOW,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("before", "level_ua", "deadline_ns", "why"),
    [
        (replace(ODD, phase=Phase.SAFE), 100, NOW + 1, "no level while safe (odd)"),
        (ODD, 100, NOW, "the command came 0 ms after its deadline"),
        (ODD, 100, NOW - 7 * NS_PER_MS, "the command came 7 ms after its deadline"),
        (
            ODD,
            PARAMS.max_level_ua + 1,
            NOW + 1,
            f"level {PARAMS.max_level_ua + 1} uA is above the limit of {PARAMS.max_level_ua} uA",
        ),
        (replace(REST, reserved_uc=0), 100, NOW + 1, "no dose is reserved for this level: send Reserve first"),
        (replace(REST, reserved_ms=0), 100, NOW + 1, "no dose is reserved for this level: send Reserve first"),
        (replace(REST, flowed=True), 100, NOW + 1, "no dose is reserved for this level: send Reserve first"),
        (replace(REST, readback=None), 100, NOW + 1, "the device does not report"),
        (replace(REST, heard_ns=NOW - PARAMS.stale_ns - 1), 100, NOW + 1, "the device does not report"),
        (REST, 100, NOW + 1, "the device is not armed (it says IDLE)"),
        (
            replace(REST, readback=replace(AT_ZERO, state=DeviceState.ARMED, impedance_ohm=20_001.0)),
            100,
            NOW + 1,
            "impedance 20001 ohm, above the stop limit of 20000 ohm",
        ),
    ],
)
def test_a_level_is_refused_by_name_and_renews_nothing(before: State, level_ua: int, deadline_ns: int, why: str) -> None:
    order = link.Command(seq=41, level_ua=level_ua, deadline_ns=deadline_ns, decision=1)
    after, actions = requests.command(PARAMS, before, NOW, order)
    assert changes(before, after) == {"last_seq": 41, "dropped": 34, "refused_ns": NOW}
    assert actions == refusal(41, why)
    soon = replace(before, refused_ns=NOW - PARAMS.slow_ns + 1)
    assert requests.command(PARAMS, soon, NOW, order) == (replace(soon, last_seq=41, dropped=34), []), "said once in 50 ms"
    assert requests.command(PARAMS, replace(before, refused_ns=NOW - PARAMS.slow_ns), NOW, order)[1], "and then again"


@pytest.mark.parametrize("state", [DeviceState.ARMED, DeviceState.ACTIVE])
@pytest.mark.parametrize("ohm", [None, 20_000.0])
def test_a_level_from_zero_is_taken_where_all_is_well(state: DeviceState, ohm: float | None) -> None:
    ready = replace(REST, readback=replace(AT_ZERO, state=state, impedance_ohm=ohm))
    order = link.Command(seq=41, level_ua=PARAMS.max_level_ua, deadline_ns=NOW + 1, decision=1)
    assert requests.command(PARAMS, ready, NOW, order)[0].target_ua == PARAMS.max_level_ua
    zero = msgspec.structs.replace(order, level_ua=0)
    assert requests.command(PARAMS, replace(REST, reserved_uc=0), NOW, zero)[1] == [], "zero needs no reservation"


# ---- time, link, process


def test_a_late_tick_counts_at_most_a_second_and_only_where_current_was_commanded() -> None:
    late_ns = PARAMS.tick_ns + PARAMS.late_ns + 1
    for before, counted_ns in (
        (replace(ODD, tick_ns=NOW - late_ns), late_ns),
        (replace(ODD, tick_ns=NOW - 5 * NS_PER_S), NS_PER_S),
        (replace(REST, tick_ns=NOW - late_ns), 0),
    ):
        after, actions = guard._late(before, NOW, rules.stalled(PARAMS, before, NOW))
        assert after.tick_ns == NOW
        assert (after.gate_fc - before.gate_fc, after.gate_ns - before.gate_ns) == (before.level_ua * counted_ns, counted_ns)
        assert (after.phase, after.level_ua, actions) == (Phase.LATCHED, 0, [DeviceStop(S0)])
        ms = (NOW - before.tick_ns) // NS_PER_MS
        assert after.reason == f"the guard's tick came after {ms} ms: suspended or stalled"
    assert rules.stalled(PARAMS, replace(ODD, tick_ns=NOW - late_ns + 1), NOW) == "", "not late yet"
    assert rules.stalled(PARAMS, replace(ODD, tick_ns=NEVER), NOW) == "", "no tick before"


def test_the_third_garbage_within_a_second_cuts_and_two_do_not() -> None:
    second = replace(ODD, garbage_ns=(NOW - NS_PER_S, NOW - NS_PER_S + 1))
    after, actions = guard._ended(PARAMS, second, NOW, Garbage("junk"))
    assert changes(second, after) == {"garbage_ns": (NOW - NS_PER_S + 1, NOW), "dropped": 34}
    assert actions == []
    third = replace(ODD, garbage_ns=(NOW - 2, NOW - 1))
    after, actions = guard._ended(PARAMS, third, NOW, Garbage("junk"))
    assert (after.phase, after.garbage_ns, after.dropped) == (Phase.LATCHED, (NOW - 2, NOW - 1, NOW), 34)
    assert after.reason == "garbage from the engine, 3 times in 1 s: junk"
    assert actions == [DeviceStop(S0)]


@pytest.mark.parametrize(
    ("event", "leaving", "stop_class", "reason"),
    [
        (link.Goodbye(reason="over"), Leaving.GOODBYE, S2, "goodbye: over"),
        (EngineGone(), Leaving.ENGINE_GONE, S1, "the engine has gone"),
        (Terminate(), Leaving.TERMINATED, S1, "the guard was asked to end"),
    ],
)
def test_who_leaves_stops_the_current_by_the_right_class(
    event: Any, leaving: Leaving, stop_class: StopClass, reason: str
) -> None:
    handler = guard._HANDLERS[type(event)]
    after, actions = handler(PARAMS, ODD, NOW, event)
    stopped, wanted = stop(PARAMS, replace(ODD, leaving=leaving, leaving_ns=NOW), NOW, stop_class, reason)
    assert (after, actions) == (stopped, wanted)
    gone = replace(ODD, leaving=Leaving.TERMINATED)
    assert handler(PARAMS, gone, NOW, event)[0].leaving_ns == gone.leaving_ns, "a graver reason is kept"
    assert guard._ended(PARAMS, replace(ODD, leaving=Leaving.GOODBYE), NOW, EngineGone())[1] == []


@pytest.mark.parametrize("kind", ["lost", "protocol", "refused"])
@pytest.mark.parametrize("phase", [Phase.SAFE, Phase.ARMED, Phase.LIVE, Phase.ENDING])
@pytest.mark.parametrize("level_ua", [0, 150])
def test_a_failing_device_is_cut_unless_it_only_refused_at_zero(kind: str, phase: Phase, level_ua: int) -> None:
    before = replace(ODD, phase=phase, level_ua=level_ua)
    after, actions = guard._device_failure(PARAMS, before, NOW, DeviceFailure(kind, "what"))
    if kind == "refused" and not level_ua and phase in (Phase.ARMED, Phase.LIVE):
        ended, wanted = stop(PARAMS, before, NOW, S2, "the device refused: what")
        assert (after, actions) == (ended, [*wanted, Send(link.Refused(seq=40, reason="the device refused: what"))])
    else:
        assert (after, actions) == latch(before, NOW, f"device {kind}: what")


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("level_ua", [0, 150])
@pytest.mark.parametrize("blind", [True, False])
def test_an_overdue_reply_is_a_silence_under_current_and_blinds_an_abort(phase: Phase, level_ua: int, blind: bool) -> None:
    before = replace(ODD, phase=phase, level_ua=level_ua, blind=blind)
    after, actions = guard._device_failure(PARAMS, before, NOW, DeviceFailure("uncertain", "what"))
    if phase in (Phase.LIVE, Phase.ENDING) and level_ua:
        assert (after, actions) == guard._silenced(PARAMS, before, NOW, "what")
    elif phase in (Phase.ARMED, Phase.LIVE):
        assert (after, actions) == stop(PARAMS, before, NOW, S2, "the device is silent: what")
    else:
        assert (after, actions) == (replace(before, blind=blind or phase is Phase.ABORTING), [])


def test_the_second_silence_cuts() -> None:
    first, actions = guard._silenced(PARAMS, ODD, NOW, "why")
    assert (first, actions) == stop(PARAMS, replace(ODD, silences=1, blind=True), NOW, S1, "why")
    again = replace(ODD, silences=1, blind=False)
    assert guard._silenced(PARAMS, again, NOW, "why") == latch(
        replace(again, silences=2, blind=True), NOW, "why, for the second time"
    )


def test_settling_moves_the_gate_to_what_is_used_rounded_up() -> None:
    after, actions = settle(ODD)
    assert changes(ODD, after) == {
        "used_fc": ODD.used_fc + ODD.gate_fc, "used_ns": ODD.used_ns + ODD.gate_ns, "gate_fc": 0, "gate_ns": 0,
        "reserved_uc": 0, "reserved_ms": 0, "booking_ns": NEVER, "flowed": False,
    }  # fmt: skip
    assert actions == [Settle(29, 30)]
    assert settle(replace(ODD, booking=9))[0].booking == 0
    for waits in (
        replace(REST, phase=Phase.ARMED),
        replace(REST, phase=Phase.LIVE),
        replace(REST, phase=Phase.SAFE, reserved_uc=0),
    ):
        assert settle(waits) == (waits, [])
    assert settle(replace(REST, phase=Phase.SAFE))[1] == [Settle(29, 30)]


def test_a_ledger_is_waited_for_a_second() -> None:
    before = replace(REST, booking=40, target_ua=100, booking_ns=NOW - PARAMS.book_ns)
    assert rules.wait_for_ledger(PARAMS, before, NOW, target_ua=0) == (before, [])
    late = replace(before, booking_ns=NOW - PARAMS.book_ns - 1)
    after, actions = rules.wait_for_ledger(PARAMS, late, NOW, target_ua=0)
    assert changes(late, after) == {"booking": 0, "booking_ns": NEVER, "target_ua": 0, "flowed": True}
    assert actions == refusal(40, "dose: the ledger has not committed within 1000 ms")


def test_the_guard_leaves_at_confirmed_zero_or_gives_up_after_five_seconds() -> None:
    safe = replace(REST, phase=Phase.SAFE, leaving=Leaving.GOODBYE)
    out = replace(safe, exited=True)
    wanted = [DisarmDevice(), Send(report(PARAMS, out, NOW)), Exit(ExitCode.ENDED)]
    assert rules.leave(PARAMS, safe, NOW, report, is_zero=True) == (out, wanted)
    latched = replace(safe, phase=Phase.LATCHED, stop_class=S0)
    assert rules.leave(PARAMS, latched, NOW, report, is_zero=True)[1][1] == Send(
        report(PARAMS, replace(latched, exited=True), NOW)
    )
    gone = replace(safe, leaving=Leaving.ENGINE_GONE)
    assert rules.leave(PARAMS, gone, NOW, report, is_zero=True)[1][-1] == Exit(ExitCode.ENGINE_LOST)
    assert rules.leave(PARAMS, safe, NOW, report, is_zero=False) == (safe, []), "not yet"
    assert rules.leave(PARAMS, replace(ODD, leaving=Leaving.GOODBYE), NOW, report, is_zero=True)[1] == [], (
        "not while current flows"
    )
    long = NOW - PARAMS.give_up_ns
    deaf = replace(safe, heard_ns=NOW - NS_PER_S, leaving_ns=long - 1, phase_ns=long - 1)
    after, actions = rules.leave(PARAMS, deaf, NOW, report, is_zero=False)
    assert changes(deaf, after) == {"exited": True}
    assert actions == [DeviceStop(S0), Send(report(PARAMS, after, NOW)), Exit(ExitCode.ZERO_UNCONFIRMED)]
    assert rules.leave(PARAMS, replace(deaf, leaving_ns=long, phase_ns=long), NOW, report, is_zero=False)[1] == []
    assert rules.leave(PARAMS, replace(deaf, phase_ns=long), NOW, report, is_zero=False)[1] == []
    fresh = replace(deaf, heard_ns=NOW)
    assert rules.leave(PARAMS, fresh, NOW, report, is_zero=False)[1] == [], "a device that reports is waited for"
    told = replace(fresh, leaving=Leaving.TERMINATED)
    assert rules.leave(PARAMS, told, NOW, report, is_zero=False)[1][-1] == Exit(ExitCode.ZERO_UNCONFIRMED)
    assert guard.step(PARAMS, out, NOW, Tick()) == (out, [])


# ---- numbers


def test_the_abort_ramp_is_two_milliamps_a_second_from_where_it_began() -> None:
    began = replace(ODD, from_ua=1000, phase_ns=NOW)
    assert [abort_level(PARAMS, began, NOW + ms * NS_PER_MS) for ms in (-10, 0, 1, 250, 499, 500, 900)] == [
        1000, 1000, 998, 500, 2, 0, 0,
    ]  # fmt: skip
    assert abort_level(PARAMS, began, NOW + 1) == 999, "rounded against the current"


def test_a_plan_is_straight_up_hold_and_straight_down() -> None:
    plan = GatePlan(level_ua=-100, rise_ms=10, hold_ms=20, fall_ms=50)
    at = {0: 1, 1: 10, 5: 50, 10: 100, 29: 100, 31: 98, 79: 2, 80: 0, 81: 0}
    assert {ms: planned_ua(plan, ms * NS_PER_MS) for ms in at} == at
    assert planned_ua(plan, 1 * NS_PER_MS + 1) == 11, "rounded up"
    assert gate_cost(plan) == (100 * (10 + 50 + 40) * NS_PER_MS // 2, 80 * NS_PER_MS)


def test_what_a_single_reading_says_at_once() -> None:
    """Each reading that is enough for a cut, on both sides of its limit."""
    live = replace(ODD, readback=None, off_ns=NEVER, ohm_ns=NEVER, off_seen_ns=NEVER, ohm_seen_ns=NEVER)
    good = replace(AT_ZERO, state=DeviceState.ACTIVE, commanded_ua=150, measured_ua=150.0)
    over = PARAMS.over_current_ua
    for change, reason in (
        ({"boot_count": 4}, "the device restarted (boot 3 -> 4)"),
        ({"fault": "button"}, "device fault: button"),
        ({"state": DeviceState.FAULT}, "device fault: unnamed"),
        (
            {"commanded_ua": PARAMS.max_level_ua + 1},
            f"set point {PARAMS.max_level_ua + 1} uA is above {PARAMS.max_level_ua} uA",
        ),
        ({"commanded_ua": -1}, "set point -1 uA has the wrong sign"),
        ({"measured_ua": float("nan")}, "the device measures nan uA, which is no number"),
        ({"measured_ua": over + 1.0}, f"over-current: {over + 1} uA measured, above {over} uA"),
        ({"measured_ua": -26.0}, "wrong polarity: -26 uA measured"),
    ):
        verdict = judge(PARAMS, live, NOW, replace(good, **change))
        assert verdict.stop is S0
        assert verdict.reason.endswith(reason)
    for change in ({}, {"measured_ua": float(over)}, {"measured_ua": -25.0}, {"commanded_ua": PARAMS.max_level_ua}):
        assert judge(PARAMS, live, NOW, replace(good, **change)).stop is None
    assert judge(PARAMS, replace(live, boot_count=None), NOW, replace(good, boot_count=9)).stop is None


def test_words_from_outside_are_cut_to_what_the_link_carries() -> None:
    long = "x" * 600
    armed = replace(REST, phase=Phase.ARMED)
    talkative = replace(REST, phase=Phase.SAFE, reason=long[:500])
    goodbye = guard._ended(PARAMS, ODD, NOW, link.Goodbye(reason=long))
    texts = [
        guard._device_failure(PARAMS, ODD, NOW, DeviceFailure("lost", long))[0].reason,
        guard._device_failure(PARAMS, armed, NOW, DeviceFailure("refused", long))[0].reason,
        guard._device_failure(PARAMS, armed, NOW, DeviceFailure("uncertain", long))[0].reason,
        guard._ended(PARAMS, replace(ODD, garbage_ns=(NOW, NOW)), NOW, Garbage(long))[0].reason,
        goodbye[0].reason,
        requests.book_failed(PARAMS, replace(ODD, booking=40), NOW, BookFailed(40, long))[1][0].message.reason,
        requests.reserve(PARAMS, talkative, NOW, link.Reserve(seq=41, charge_uc=1, on_time_ms=1))[1][0].message.reason,
        requests.command(PARAMS, talkative, NOW, link.Command(seq=41, level_ua=1, deadline_ns=NOW + 1, decision=1))[1][
            0
        ].message.reason,
    ]
    assert {len(text) for text in texts} == {500}
    arm = link.Arm(seq=41, code="XXXXX")
    assert len(requests.arm(PARAMS, replace(talkative, phase=Phase.STOPPED), NOW, arm)[1][0].message.reason) == 400 + len(
        "not armed: "
    )
