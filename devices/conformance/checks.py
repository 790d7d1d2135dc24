"""The checks, each one promise of the interface; `CHECKS` lists them all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from devices.conformance.any_bench import LEASE_MS, STEP_S, require_closed, require_doubt, require_identity
from devices.conformance.bench import HOLDING, SLEW_UA_S, ZERO_UA, Bench
from devices.conformance.rig import ConformanceError, Rig, require
from devices.limits import ABORT_SLEW_UA_S
from devices.stimulator import (
    DeviceError,
    DeviceLostError,
    DeviceRefusedError,
    DeviceState,
    DeviceUncertainError,
    DeviceUnfitError,
    StopClass,
)


def opens_and_closes_again_and_again(rig: Rig) -> None:
    """`open` and `close` are idempotent; a closed driver can be opened anew; close before open does no harm."""
    bench = Bench(rig)
    bench.driver.close()
    who = bench.driver.open()
    require(bench.driver.open() == who, "a second open() tells another identity")
    bench.driver.close()
    bench.driver.close()
    require(bench.driver.open() == who, "after close() and open() another identity answers")
    bench.step()
    bench.at_zero("after open()")
    bench.driver.close()


def identifies_itself_as_what_it_is(rig: Rig) -> None:
    """Maker, model, serial number and firmware are told, and an emulator says that it is one (I30)."""
    require_identity(Bench(rig).open())


def refuses_a_device_that_fails_its_self_check(rig: Rig) -> None:
    """A device whose own self-test finds a defect is not opened, and makes no current."""
    bench = Bench(rig)
    if not rig.fail_self_check():
        return
    try:
        bench.driver.open()
    except DeviceUnfitError:
        bench.at_zero("with a defect found")
        bench.driver.close()
        return
    raise ConformanceError("the device's self-test finds a defect, and open() did not raise DeviceUnfitError")


def declares_what_can_be(rig: Rig) -> None:
    """The capabilities do not contradict themselves, and the opened device claims no more than the mode declares."""
    bench = Bench(rig)
    bench.open()
    can, declared = bench.can, rig.declared
    ends = can.self_expiring_lease or can.hardware_watchdog
    require((can.host_timeout_s > 0.0) == ends, "host_timeout_s must be positive exactly where something ends silence")
    require(can.max_level_ua >= 1 and can.resolution_ua > 0.0, "max_level_ua and resolution_ua must be positive")
    require(can.command_latency_s > 0.0 and can.readback_interval_s > 0.0, "latency and read-back interval must be positive")
    require(0.0 <= can.min_transition_s <= (can.max_transition_s or math.inf), "min_transition_s exceeds max_transition_s")
    require(not can.whole_gate or can.max_hold_s is not None, "a whole gate needs max_hold_s")
    require(not can.whole_gate or hasattr(bench.driver, "run_gate"), "whole_gate is declared, but run_gate is missing")
    require(can.max_level_ua <= declared.max_level_ua, "the opened device claims a greater level than its mode declares")
    for flag in ("self_expiring_lease", "hardware_watchdog", "measures_current"):
        require(getattr(declared, flag) or not getattr(can, flag), f"the opened device claims {flag}, its mode does not")
    for bound in ("command_latency_s", "host_timeout_s", "min_transition_s", "readback_interval_s"):
        require(getattr(can, bound) <= getattr(declared, bound), f"the opened device has a longer {bound} than its mode")


def is_silent_before_open(rig: Rig) -> None:
    """Before `open` every verb raises DeviceLostError and nothing reaches the device."""
    bench = Bench(rig)
    driver = bench.driver
    verbs: Sequence[Callable[[], object]] = (
        lambda: driver.arm(bench.level_ua, SLEW_UA_S), driver.disarm, lambda: driver.set_level(0, LEASE_MS), driver.heartbeat,
        lambda: driver.stop(StopClass.S0_CUT), driver.reset_fault, lambda: driver.poll(rig.now_ns()),
    )  # fmt: skip
    require_closed(verbs)


def makes_no_current_unarmed(rig: Rig) -> None:
    """A level before arming makes no current, whether it is refused aloud or passed over."""
    bench = Bench(rig)
    bench.open()
    try:
        bench.ask(bench.level_ua)
        bench.run(0.5, bench.driver.heartbeat)
    except DeviceRefusedError:
        bench.run(0.3, bench.driver.heartbeat)
    require(bench.peak_ua <= ZERO_UA, f"{bench.peak_ua:.0f} uA flowed before arming")
    require(bench.readbacks[-1].state is DeviceState.IDLE, "a level before arming led out of IDLE")


def arms_at_zero(rig: Rig) -> None:
    """Arming and waiting armed make no current; disarming leads back to IDLE."""
    bench = Bench(rig)
    bench.arm()
    bench.run(0.5, bench.driver.heartbeat)
    require(bench.peak_ua <= ZERO_UA, f"{bench.peak_ua:.0f} uA flowed while armed, before any level")
    bench.driver.disarm()
    bench.until(lambda r: r.state is DeviceState.IDLE, "IDLE after disarm()")


def rises_holds_and_reports(rig: Rig) -> None:
    """Ramp and hold in both directions; what is reported is what flows."""
    one_way = (1,) if rig.declared.leads == "anodal" else (-1,)
    signs = one_way if rig.declared.unipolar else (1, -1)
    bench = Bench(rig)
    for sign in signs:
        keep = bench.hold(sign)
        bench.readbacks.clear()
        start_ns = rig.now_ns()
        bench.run(max(0.5, 4 * bench.can.readback_interval_s), keep)
        wanted = sign * bench.level_ua
        flows = rig.current_ua()
        require(abs(flows - wanted) <= rig.tolerance_ua, f"{wanted} uA held, but {flows:.0f} uA flow")
        require(bench.driver.assumed_ua >= bench.level_ua, f"assumed_ua is {bench.driver.assumed_ua} at {wanted} uA")
        _reports_are_true(bench, wanted, start_ns)
        bench.driver.stop(StopClass.S0_CUT)
        bench.until(lambda r: r.state is DeviceState.IDLE and r.commanded_ua == 0, "IDLE after a cut")
        bench.driver.close()


def _reports_are_true(bench: Bench, wanted: int, start_ns: int) -> None:
    reports = bench.readbacks
    span_s = (bench.rig.now_ns() - start_ns) / 1e9
    least = math.floor(span_s / (bench.can.readback_interval_s + STEP_S) / 2)
    require(len(reports) >= max(1, least), f"{len(reports)} reports in {span_s:.2f} s; at least {least} follow from "
            "readback_interval_s")  # fmt: skip
    for report in reports:
        require(start_ns <= report.t_ns <= bench.rig.now_ns(), "a report is not stamped with the time given to poll()")
        require(report.state is DeviceState.ACTIVE, f"{report.state.name} reported while current is held")
        require(report.commanded_ua == wanted, f"a set point of {report.commanded_ua} uA reported, {wanted} uA commanded")
        require(not report.fault, f"fault {report.fault} reported by a sound device")
        if not bench.can.measures_current:
            require(report.measured_ua is None, "a current is reported as measured, but measures_current is False")
            continue
        measured = report.measured_ua
        near = measured is not None and abs(measured - wanted) <= 2 * bench.rig.tolerance_ua
        require(near, f"{measured} uA measured while {wanted} uA flow")
    seqs = [report.ack_seq for report in reports]
    require(seqs == sorted(seqs) and seqs[-1] > seqs[0], "ack_seq does not rise while commands are acknowledged")
    require(len({report.boot_count for report in reports}) == 1, "boot_count changes without a restart")


def ends_a_lease_that_is_not_renewed(rig: Rig) -> None:
    """Signs of life renew no lease: without a set point the device goes to zero by itself and stays there."""
    bench = Bench(rig)
    can = rig.declared
    if not can.self_expiring_lease:
        return
    bench.hold()
    ramp_s = bench.level_ua / ABORT_SLEW_UA_S
    if can.whole_gate:
        bound_s = (can.max_hold_s or 0.0) + 2 * max(bench.level_ua / SLEW_UA_S, can.min_transition_s) + bench.cut_s
    else:
        bound_s = LEASE_MS / 1000.0 + ramp_s + bench.cut_s
    bench.until_zero(bound_s, "a lease that is not renewed", bench.driver.heartbeat)
    bench.peak_ua = 0.0
    bench.run(0.3, bench.driver.heartbeat)
    require(bench.peak_ua <= ZERO_UA, "the current came back after its lease had ended")


def ends_the_silence_of_its_host(rig: Rig) -> None:
    """The host timeout really fires: no call at all, not even a poll, and the current ends within its bound."""
    bench = Bench(rig)
    if not (rig.declared.hardware_watchdog or rig.declared.self_expiring_lease):
        return
    bench.hold()
    bench.until_zero(bench.silence_s, "a silent host", poll=False)
    bench.peak_ua = 0.0
    for _ in range(30):
        bench.step(poll=False)
    require(bench.peak_ua <= ZERO_UA, "the current came back after the host timeout")


def _stops(rig: Rig, stop_class: StopClass) -> None:
    bench = Bench(rig)
    name = stop_class.name
    for state in ("idle", "armed", "rising", "holding", "falling"):
        _bring_to(bench, state)
        bench.driver.stop(stop_class)
        bench.until_zero(bench.stop_s(stop_class), f"{name} while {state}", bench.driver.heartbeat)
        bench.until(lambda r: r.state is DeviceState.IDLE and r.commanded_ua == 0, f"IDLE after {name} while {state}",
                    bench.driver.heartbeat)  # fmt: skip
        bench.peak_ua = 0.0
        _try_to_go_on(bench)
        require(bench.peak_ua <= ZERO_UA, f"{name} while {state}: {bench.peak_ua:.0f} uA flowed without a new arming (I07)")
        bench.driver.close()


def _bring_to(bench: Bench, state: str) -> None:
    if state == "idle":
        bench.open()
        return
    bench.arm()
    if state == "armed":
        return
    if state == "rising":
        bench.run(0.7 * bench.ramp_s, bench.begin())
        return
    keep = bench.rise()
    if state == "falling":
        bench.driver.stop(StopClass.S2_SESSION_RAMP)
        bench.run(0.05, bench.driver.heartbeat)
    else:
        bench.run(0.02, keep)


def _try_to_go_on(bench: Bench) -> None:
    """Ask for current again, as a host does that has missed the stop."""
    try:
        for _ in range(20):
            bench.step(lambda: bench.ask(bench.level_ua))
    except DeviceError:
        bench.run(0.1)


def stops_at_once_from_every_state(rig: Rig) -> None:
    """S0 cuts within the latency, and no current comes back without arming."""
    _stops(rig, StopClass.S0_CUT)


def aborts_from_every_state(rig: Rig) -> None:
    """S1 ramps down at 2 mA/s (cuts where the device has no ramp), and no current comes back without arming."""
    _stops(rig, StopClass.S1_ABORT_RAMP)


def ends_the_session_from_every_state(rig: Rig) -> None:
    """S2 ramps down at the latched slew (cuts where the device has no ramp), and no current comes back without arming."""
    _stops(rig, StopClass.S2_SESSION_RAMP)


def keeps_the_latched_limit(rig: Rig) -> None:
    """What was latched at arming is not exceeded, nor what the device can; refused before it flows."""
    bench = Bench(rig)
    bench.open()
    above = bench.can.max_level_ua + 1
    bench.refused(lambda: bench.driver.arm(above, SLEW_UA_S), f"arming with {above} uA")
    bench.driver.close()
    bench.arm()
    for level in (2 * bench.level_ua, -bench.level_ua) if bench.can.unipolar else (2 * bench.level_ua, -2 * bench.level_ua):
        bench.refused(partial(bench.ask, level), f"a level of {level} uA")
    most = bench.level_ua + rig.tolerance_ua
    require(bench.peak_ua <= most, f"{bench.peak_ua:.0f} uA flowed above the latched {bench.level_ua} uA")


def assumes_the_larger_current_when_replies_are_lost(rig: Rig) -> None:
    """UNCERTAIN: told once by poll; nothing but stops is taken; it ends once the device has answered."""
    bench = Bench(rig)
    keep = bench.hold()
    rig.lose_replies()
    require(_told_to_doubt(bench, keep), "replies are lost, and poll never raised DeviceUncertainError")
    assumed = bench.driver.assumed_ua
    require(assumed >= bench.level_ua, f"uncertain, and {assumed} uA assumed where {bench.level_ua} uA may flow")
    require_doubt((
        ("a renewed level", partial(bench.ask, bench.level_ua)),
        ("arming", partial(bench.driver.arm, bench.level_ua, SLEW_UA_S)),
    ))  # fmt: skip
    bench.run(0.05, bench.driver.heartbeat)
    bench.driver.stop(StopClass.S1_ABORT_RAMP)
    bench.until_zero(bench.stop_s(StopClass.S1_ABORT_RAMP), "S1 while replies are lost", bench.driver.heartbeat)
    rig.restore_replies()
    bench.until(lambda r: r.state is DeviceState.IDLE and r.commanded_ua == 0, "IDLE once replies arrive again",
                bench.driver.heartbeat)  # fmt: skip


def _told_to_doubt(bench: Bench, keep: Callable[[], None]) -> bool:
    """Go on until poll says that it is in doubt; before it does, no level may be refused for that reason."""
    end_ns = bench.rig.now_ns() + round((1.0 + 4 * bench.can.readback_interval_s) * 1e9)
    while bench.rig.now_ns() < end_ns:
        try:
            keep()
        except DeviceUncertainError:
            return False
        try:
            bench.step()
        except DeviceUncertainError:
            return True
    return False


def ends_at_zero_when_the_line_breaks(rig: Rig) -> None:
    """A pulled cable is told as DeviceLostError, the device ends the current by itself, and close never raises."""
    bench = Bench(rig)
    keep = bench.hold()
    rig.break_line()
    start_ns = rig.now_ns()
    told = False
    while not told and rig.now_ns() - start_ns < 1e9:
        try:
            keep()
            rig.pass_time(STEP_S)
            bench.driver.poll(rig.now_ns())
        except DeviceLostError:
            told = True
        except DeviceUncertainError:
            continue
    require(told, "the line broke, and neither a command nor poll raised DeviceLostError within 1 s")
    if rig.declared.hardware_watchdog or rig.declared.self_expiring_lease:
        bench.until_zero(bench.silence_s, "a broken line", poll=False)
    bench.driver.close()


def latches_its_own_fault(rig: Rig) -> None:
    """A fault of the device ends the current, is reported, bars arming, and is cleared by a reset alone."""
    bench = Bench(rig)
    keep = bench.hold()
    if not rig.break_device():
        return
    try:
        bench.until(lambda r: bool(r.fault), "a fault of the device", keep)
    except DeviceRefusedError:
        bench.until(lambda r: bool(r.fault), "a fault of the device")
    bench.until_zero(bench.cut_s, "a fault of the device")
    bench.refused(lambda: bench.driver.arm(bench.level_ua, SLEW_UA_S), "arming with a latched fault")
    bench.at_zero("with a latched fault")
    bench.driver.reset_fault()
    bench.until(lambda r: r.state is DeviceState.IDLE and not r.fault, "IDLE after reset_fault()", bench.driver.heartbeat)


def finds_no_current_after_another_host(rig: Rig) -> None:
    """A host that dies under current leaves nothing behind that the next `open` does not end."""
    bench = Bench(rig)
    bench.hold()
    rig.renew()
    bench.open()
    bench.at_zero("after open() by another host")
    bench.driver.close()


def ends_at_zero_when_closed(rig: Rig) -> None:
    """`close` under current cuts."""
    bench = Bench(rig)
    bench.hold()
    bench.driver.close()
    bench.until_zero(bench.cut_s, "close() under current", poll=False)


def lets_go_towards_zero_by_levels(rig: Rig) -> None:
    """The current follows falling levels to zero, as in an abort that the guard itself ramps; then it stays armed."""
    bench = Bench(rig)
    bench.hold()
    if bench.can.whole_gate:
        return
    for level in range(bench.level_ua, -1, -5):
        bench.step(partial(bench.driver.set_level, level, LEASE_MS))
    zero = partial(bench.driver.set_level, 0, LEASE_MS)
    bench.until_zero(bench.cut_s + bench.level_ua / ABORT_SLEW_UA_S, "falling levels", zero)
    bench.until(lambda r: r.state in HOLDING and r.commanded_ua == 0, "ARMED or ACTIVE at zero", zero)


CHECKS: Final[tuple[Callable[[Rig], None], ...]] = (
    opens_and_closes_again_and_again,
    identifies_itself_as_what_it_is,
    refuses_a_device_that_fails_its_self_check,
    declares_what_can_be,
    is_silent_before_open,
    makes_no_current_unarmed,
    arms_at_zero,
    rises_holds_and_reports,
    lets_go_towards_zero_by_levels,
    ends_a_lease_that_is_not_renewed,
    ends_the_silence_of_its_host,
    stops_at_once_from_every_state,
    aborts_from_every_state,
    ends_the_session_from_every_state,
    keeps_the_latched_limit,
    assumes_the_larger_current_when_replies_are_lost,
    ends_at_zero_when_the_line_breaks,
    latches_its_own_fault,
    finds_no_current_after_another_host,
    ends_at_zero_when_closed,
)
"""Every check, each to be run on a rig of its own."""
