"""The checks of a pulse stimulator, each one promise of the interface; `PULSE_CHECKS` lists them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from msgspec.structs import replace

from devices.conformance.any_bench import LEASE_MS, require_closed, require_doubt, require_identity
from devices.conformance.pulse_bench import HOLDING, PATIENCE_S, PulseBench
from devices.conformance.pulse_rig import PulseRig
from devices.conformance.rig import ConformanceError, require
from devices.pulses import PulseState
from devices.stimulator import DeviceError, DeviceLostError, DeviceRefusedError, DeviceUncertainError, StopClass


def opens_and_closes_again_and_again(rig: PulseRig) -> None:
    """`open` and `close` are idempotent; a closed driver can be opened anew; close before open does no harm."""
    bench = PulseBench(rig)
    bench.driver.close()
    who = bench.driver.open()
    require(bench.driver.open() == who, "a second open() tells another identity")
    bench.driver.close()
    bench.driver.close()
    require(bench.driver.open() == who, "after close() and open() another identity answers")
    bench.driver.close()


def identifies_itself_as_what_it_is(rig: PulseRig) -> None:
    """Maker, model, serial number and firmware are told, and an emulator says that it is one (I30)."""
    require_identity(PulseBench(rig).open())


def declares_what_can_be(rig: PulseRig) -> None:
    """The capabilities do not contradict themselves, and the opened device claims no more than the mode declares."""
    bench = PulseBench(rig)
    bench.open()
    can, declared = bench.can, rig.declared
    require((can.host_timeout_s > 0.0) == can.hardware_watchdog, "host_timeout_s must be positive exactly with a watchdog")
    require(1 <= can.max_intensity_percent <= 100, "max_intensity_percent is outside 1 .. 100")
    require(can.min_interval_ms >= 1 and can.max_train_pulses >= 1, "no train is possible")
    require(can.max_train_s * 1000 >= can.min_interval_ms, "max_train_s is shorter than one interval")
    require(can.command_latency_s > 0.0 and can.readback_interval_s > 0.0, "latency and read-back interval must be positive")
    for flag in ("self_expiring_lease", "hardware_watchdog", "counts_pulses", "measures_temperature"):
        require(getattr(declared, flag) or not getattr(can, flag), f"the opened device claims {flag}, its mode does not")
    bench.run(1.5, bench.driver.heartbeat)
    told = any(readback.coil_c is not None for readback in bench.readbacks)
    require(told or not can.measures_temperature, "measures_temperature is declared, and no report carries the coil's")


def is_silent_before_open(rig: PulseRig) -> None:
    """Before `open` every verb raises DeviceLostError and nothing reaches the device."""
    bench = PulseBench(rig)
    driver = bench.driver
    verbs: Sequence[Callable[[], object]] = (
        lambda: driver.arm(bench.limits()), driver.disarm, lambda: driver.fire(bench.train(), LEASE_MS), driver.heartbeat,
        lambda: driver.stop(StopClass.S0_CUT), driver.reset_fault, lambda: driver.poll(rig.now_ns()),
    )  # fmt: skip
    require_closed(verbs)


def gives_no_pulse_unarmed(rig: PulseRig) -> None:
    """A train before arming is refused and gives no pulse."""
    bench = PulseBench(rig)
    bench.open()
    bench.refused(lambda: bench.driver.fire(bench.train(), LEASE_MS), "a train before arming")
    bench.run(1.2, bench.driver.heartbeat)
    require(not rig.pulses(), "a pulse came before arming")


def arms_without_a_pulse(rig: PulseRig) -> None:
    """Arming and waiting armed give no pulse and an intensity of zero; disarming leads back to IDLE."""
    bench = PulseBench(rig)
    bench.arm()
    bench.run(1.0, bench.driver.heartbeat)
    require(not rig.pulses(), "a pulse came while armed, before any train")
    require(bench.readbacks[-1].intensity_percent == 0, "armed, and the intensity is not zero before any train")
    bench.driver.disarm()
    bench.until(lambda r: r.state is PulseState.IDLE, "IDLE after disarm()", bench.driver.heartbeat)


def gives_what_was_asked_and_reports_it(rig: PulseRig) -> None:
    """Two trains: as many pulses as asked, none too strong, none too early, and never fewer reported than given."""
    bench = PulseBench(rig)
    bench.arm()
    for number in (1, 2):
        train = bench.fire(2)
        try:
            bench.driver.fire(train, LEASE_MS)
        except DeviceRefusedError:
            pass
        else:
            raise ConformanceError("a second train was taken while the first runs")
        seen: set[PulseState] = set()
        end_ns = rig.now_ns() + round((train.pulses * train.interval_ms / 1000 + bench.can.min_gap_s + PATIENCE_S) * 1e9)
        while rig.now_ns() < end_ns:
            given = len(rig.pulses())
            fresh = bench.step(bench.driver.heartbeat)
            seen |= {readback.state for readback in fresh}
            require(all(r.pulses >= given for r in fresh), f"fewer than {given} pulses were reported, which had been given")
            require(bench.driver.assumed_pulses >= given, f"assumed_pulses is below {given}, which had been given")
            if any(r.state is PulseState.ARMED and r.ready for r in fresh):
                break
        require(PulseState.FIRING in seen, "FIRING was not reported during a train")
        due = number * train.pulses
        require(len(rig.pulses()) == due, f"{len(rig.pulses())} pulses where {due} were due")
    times = [t_ns for t_ns, _ in rig.pulses()]
    shortest_ms = min(b - a for a, b in zip(times, times[1:], strict=False)) / 1e6
    # The clock of an emulator and its host's are one; a tenth of a percent is what two crystals differ at most.
    require(shortest_ms >= 0.999 * bench.can.min_interval_ms, f"two pulses came {shortest_ms:.1f} ms apart")
    strongest, asked = max(percent for _, percent in rig.pulses()), rig.intensity_percent
    require(strongest <= asked + 0.5, f"a pulse of {strongest:.1f} % where {asked} % were asked")


def ends_a_train_that_is_not_renewed(rig: PulseRig) -> None:
    """A host that polls and says nothing else: the train ends with its lease."""
    bench = PulseBench(rig)
    bench.arm()
    bench.fire(3)
    since_ns = rig.now_ns()
    bound_s = LEASE_MS / 1000.0 + bench.latency_s
    end_ns = since_ns + round((bound_s + bench.watch_s) * 1e9)
    while rig.now_ns() < end_ns:
        bench.step()
    late = [t_ns for t_ns, _ in rig.pulses() if t_ns > since_ns + round(bound_s * 1e9)]
    require(not late, f"{len(late)} pulses came after the lease of {LEASE_MS} ms had ended")


def ends_the_silence_of_its_host(rig: PulseRig) -> None:
    """No call at all, not even a poll: no pulse comes after the host timeout, or after the train that runs."""
    bench = PulseBench(rig)
    bench.arm()
    train = bench.fire(bench.can.max_train_pulses)
    bounds = [train.pulses * train.interval_ms / 1000.0] if bench.can.self_expiring_lease else []
    bounds += [bench.can.host_timeout_s] if bench.can.hardware_watchdog else []
    if bounds:
        bench.no_pulse_after(rig.now_ns(), min(bounds) + bench.latency_s, bench.watch_s, "a silent host", poll=False)


def _stops(rig: PulseRig, stop_class: StopClass) -> None:
    bench = PulseBench(rig)
    name = stop_class.name
    for state in ("idle", "armed", "firing"):
        if state == "idle":
            bench.open()
        else:
            bench.arm()
        if state == "firing":
            bench.fire(3)
        bench.driver.stop(stop_class)
        bench.no_pulse_after(rig.now_ns(), bench.latency_s, 1.1 * bench.can.min_interval_ms / 1000, f"{name} while {state}")
        bench.until(lambda r: r.state is PulseState.IDLE, f"IDLE after {name} while {state}", bench.driver.heartbeat)
        before = len(rig.pulses())
        bench.refused(lambda: bench.driver.fire(bench.train(), LEASE_MS), f"a train after {name} without a new arming (I07)")
        require(len(rig.pulses()) == before, f"a pulse came after {name} without a new arming (I07)")
        bench.driver.close()


def stops_at_once_from_every_state(rig: PulseRig) -> None:
    """S0: no further pulse, remote control given up, and nothing comes back without arming."""
    _stops(rig, StopClass.S0_CUT)


def aborts_from_every_state(rig: PulseRig) -> None:
    """S1: no further pulse, and nothing comes back without arming."""
    _stops(rig, StopClass.S1_ABORT_RAMP)


def ends_the_session_from_every_state(rig: PulseRig) -> None:
    """S2: no further pulse, and nothing comes back without arming."""
    _stops(rig, StopClass.S2_SESSION_RAMP)


def keeps_the_latched_limits(rig: PulseRig) -> None:
    """Intensity, interval, length and number latched at arming, or the device's own, are not exceeded."""
    bench = PulseBench(rig)
    bench.open()
    too_much = replace(bench.limits(), max_intensity_percent=bench.can.max_intensity_percent + 1)
    bench.refused(lambda: bench.driver.arm(too_much), "arming above the device's greatest intensity")
    too_fast = replace(bench.limits(), min_interval_ms=bench.can.min_interval_ms - 1)
    bench.refused(lambda: bench.driver.arm(too_fast), "arming below the device's shortest interval")
    bench.driver.close()
    bench.arm(pulses=2)
    train = bench.train(2)
    for what, wrong in (
        ("a stronger train", replace(train, intensity_percent=train.intensity_percent + 1)),
        ("a faster train", replace(train, interval_ms=train.interval_ms - 1)),
        ("an endless train", replace(train, pulses=bench.can.max_train_pulses + 1)),
        ("an empty train", replace(train, pulses=0)),
        ("more pulses than latched", replace(train, pulses=3)),
    ):
        bench.refused(partial(bench.driver.fire, wrong, LEASE_MS), what, 0.1)
    require(not rig.pulses(), "a pulse came of a train that was refused")
    bench.fire(2)
    bench.until(lambda r: r.state is PulseState.ARMED, "ARMED after a train", bench.driver.heartbeat, 2 * PATIENCE_S)
    bench.refused(lambda: bench.driver.fire(bench.train(1), LEASE_MS), "a pulse beyond the latched number")


def assumes_the_most_when_replies_are_lost(rig: PulseRig) -> None:
    """UNCERTAIN: told once by poll; nothing but stops is taken; it ends once the device has answered."""
    bench = PulseBench(rig)
    bench.arm()
    bench.fire(2)
    rig.lose_replies()
    told = False
    end_ns = rig.now_ns() + round((1.0 + 4 * bench.can.readback_interval_s) * 1e9)
    while rig.now_ns() < end_ns and not told:
        try:
            bench.step(bench.driver.heartbeat)
        except DeviceUncertainError:
            told = True
    require(told, "replies are lost, and poll never raised DeviceUncertainError")
    require_doubt((
        ("a train", lambda: bench.driver.fire(bench.train(), LEASE_MS)),
        ("arming", lambda: bench.driver.arm(bench.limits())),
    ))  # fmt: skip
    bench.driver.stop(StopClass.S1_ABORT_RAMP)
    bench.no_pulse_after(rig.now_ns(), bench.latency_s, bench.watch_s, "S1 while replies are lost")
    given = len(rig.pulses())
    require(bench.driver.assumed_pulses >= given, f"{given} pulses were given, {bench.driver.assumed_pulses} are assumed")
    rig.restore_replies()
    bench.until(lambda r: r.state is PulseState.IDLE, "IDLE once replies arrive again", bench.driver.heartbeat, 2 * PATIENCE_S)


def ends_when_the_line_breaks(rig: PulseRig) -> None:
    """A pulled cable is told as DeviceLostError, the device ends the train by itself, and close never raises."""
    bench = PulseBench(rig)
    bench.arm()
    train = bench.fire(3)
    rig.break_line()
    since_ns = rig.now_ns()
    told = False
    while not told and rig.now_ns() - since_ns < 1e9:
        try:
            bench.step(bench.driver.heartbeat)
        except DeviceLostError:
            told = True
        except DeviceUncertainError:
            continue
    require(told, "the line broke, and neither a command nor poll raised DeviceLostError within 1 s")
    bound_s = min(train.pulses * train.interval_ms / 1000.0, rig.declared.host_timeout_s or 1e9) + bench.latency_s
    bench.no_pulse_after(since_ns, bound_s, bench.watch_s, "a broken line", poll=False)
    bench.driver.close()


def reports_its_own_fault(rig: PulseRig) -> None:
    """A fault of the device ends the train, is reported, bars arming while it lasts, and is left by a reset."""
    bench = PulseBench(rig)
    bench.arm()
    bench.fire(3)
    if not rig.break_device():
        return
    since_ns = rig.now_ns()
    bench.until(lambda r: bool(r.fault), "a fault of the device", bench.driver.heartbeat)
    bench.no_pulse_after(since_ns, bench.latency_s, bench.watch_s, "a fault of the device")
    bench.refused(lambda: bench.driver.arm(bench.limits()), "arming with a fault")
    rig.mend_device()
    bench.driver.reset_fault()
    bench.until(lambda r: r.state is PulseState.IDLE and not r.fault, "IDLE after reset_fault()", bench.driver.heartbeat)


def finds_no_train_after_another_host(rig: PulseRig) -> None:
    """A host that dies in a train leaves nothing behind that the next `open` does not end."""
    bench = PulseBench(rig)
    bench.arm()
    bench.fire(3)
    rig.renew()
    since_ns = rig.now_ns()
    bench.open()
    bench.no_pulse_after(since_ns, bench.latency_s, bench.watch_s, "open() by another host")
    require(bench.readbacks[-1].state not in HOLDING, "armed after open()")


def ends_when_closed(rig: PulseRig) -> None:
    """`close` in a train ends it."""
    bench = PulseBench(rig)
    bench.arm()
    bench.fire(3)
    bench.driver.close()
    bench.no_pulse_after(rig.now_ns(), bench.latency_s, bench.watch_s, "close() in a train", poll=False)


def never_raises_by_closing_a_broken_device(rig: PulseRig) -> None:
    """`close` after any error is silent, and `open` finds the device again."""
    bench = PulseBench(rig)
    bench.arm()
    rig.lose_replies()
    try:
        bench.run(1.5, bench.driver.heartbeat)
    except DeviceError:
        bench.driver.close()
    rig.restore_replies()
    bench.open()
    bench.driver.close()


PULSE_CHECKS: Final[tuple[Callable[[PulseRig], None], ...]] = (
    opens_and_closes_again_and_again,
    identifies_itself_as_what_it_is,
    declares_what_can_be,
    is_silent_before_open,
    gives_no_pulse_unarmed,
    arms_without_a_pulse,
    gives_what_was_asked_and_reports_it,
    ends_a_train_that_is_not_renewed,
    ends_the_silence_of_its_host,
    stops_at_once_from_every_state,
    aborts_from_every_state,
    ends_the_session_from_every_state,
    keeps_the_latched_limits,
    assumes_the_most_when_replies_are_lost,
    ends_when_the_line_breaks,
    reports_its_own_fault,
    finds_no_train_after_another_host,
    ends_when_closed,
    never_raises_by_closing_a_broken_device,
)
"""Every check, each to be run on a rig of its own."""
