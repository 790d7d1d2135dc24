"""The driver of Starstim against the emulated NIC: handshake, modes, status traps, stops, and every way it goes wrong."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from nic2_bench import PLAN, Bench

from devices.driver import DriverError
from devices.mock.nic2_rigs import VirtualNicRig, options
from devices.nic2 import DRIVER, Nic2Stimulator
from devices.nic2_modes import Mode
from devices.nic2_table import Status
from devices.registry import choose
from devices.settings import Device
from devices.stimulator import (
    DeviceError,
    DeviceLostError,
    DeviceNotFoundError,
    DeviceProtocolError,
    DeviceRefusedError,
    DeviceState,
    DeviceUncertainError,
    GatePlan,
    StopClass,
)

MODES: tuple[Mode, ...] = ("peak", "timed", "plain")


# ---- opening


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("consent_rejected", DeviceRefusedError, "the operator rejected remote control in NIC"),
        ("consent_delayed:delay_s=60", DeviceRefusedError, "nobody allowed remote control in NIC within 20 s"),
        ("other_version", DeviceNotFoundError, "241, which is no status of version 04.07; this may be another version"),
        ("half_open", DeviceNotFoundError, "does not answer as NIC2 does"),
        ("garbage", DeviceError, "answered with"),
        ("hang_up", DeviceLostError, "is cut"),
    ],
)
def test_what_keeps_it_from_opening(fault: str, error: type[DeviceError], words: str) -> None:
    bench = Bench("peak", fault)
    with pytest.raises(error, match=words):
        bench.driver.open()
    assert bench.meter.peak_ua == 0.0


def test_consent_may_take_its_time() -> None:
    bench = Bench("peak", "consent_delayed:delay_s=8")
    assert bench.driver.open().emulator
    assert bench.rig.now_ns() > 8e9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"channels": 20}, "has 8 channels; key `device.options.channels` says 20"),
        ({"protocol": "nobody-made-it"}, "LOAD_PROTOCOL nobody-made-it: is there a protocol of this name"),
        ({"impedance_protocol": "cereloop-zero"}, "no impedance at an electrode in use; give it current in the protocol"),
    ],
)
def test_what_the_operator_must_set_right(change: dict[str, object], words: str) -> None:
    bench = Bench(given=replace(options("peak"), **change))
    with pytest.raises(DeviceRefusedError, match=words):
        bench.driver.open()


def test_the_version_is_agreed_before_anything_else_is_said() -> None:
    bench = Bench()
    bench.driver.open()
    assert bench.sent[0] == b"\x8304.07\x00"
    assert {data[:1] for data in bench.sent[: bench.sent.index(b"\x80")]} == {b"\x83"}


def test_an_impedance_check_leaves_full_behind_and_nobody_believes_it() -> None:
    bench = Bench("timed")
    bench.driver.open()
    assert (bench.model.program.main, bench.model.program.phase) == (Status.PROTOCOL_LOADED, Status.STIMULATION_FULL)
    readback = bench.run(500)[-1]
    assert readback.state is DeviceState.IDLE
    assert readback.impedance_ohm == pytest.approx(8000.0, rel=0.01)
    bench.driver.arm(1000, 100)
    bench.driver.run_gate(PLAN)
    bench.run(150)
    assert not any(data[:1] == b"\x92" for data in bench.sent), "a change before the protocol ran"


# ---- what it may be told


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"mode": ""}, "`device.mode` is missing"),
        ({"port": "nic:70000"}, "`device.port` is"),
        ({"mode": "timed"}, "protocol_s` is missing"),
        ({"mode": "timed", "protocol_s": 12.0}, "accept_unproven_expiry` is not true"),
        ({"returns": [1]}, "does not fit 8 channels"),
        ({"returns": []}, "length"),
        ({"target": 9}, "does not fit"),
        ({"version": "01.00"}, "version"),
    ],
)
def test_settings_that_are_refused_name_their_key(table: dict[str, object], words: str) -> None:
    own = {"channels": 8, "target": 1, "returns": [2, 3], "protocol": "a", "impedance_protocol": "b"}
    own |= {key: value for key, value in table.items() if key not in ("mode", "port")}
    device = Device(
        driver="nic2",
        port=str(table.get("port", "127.0.0.1")),
        mode=str(table.get("mode", "peak")),
        options=own,  # type: ignore[arg-type]
    )
    with pytest.raises(DriverError, match=words) as error:
        choose(device).build()
    assert "\n" not in str(error.value)


def test_capabilities_by_mode() -> None:
    peak, timed, plain = (DRIVER.capabilities(mode, options(mode)) for mode in MODES)
    assert (peak.self_expiring_lease, peak.host_timeout_s, peak.max_hold_s) == (True, 30.0, 10.0)
    assert (timed.self_expiring_lease, timed.host_timeout_s, timed.max_hold_s) == (True, 12.0, 12.0)
    assert (plain.self_expiring_lease, plain.hardware_watchdog, plain.whole_gate) == (False, False, False)
    assert all("not proven" in one.caveat for one in (peak, timed))
    assert not any(one.measures_current for one in (peak, timed, plain))


# ---- gates


def test_one_gate_is_one_peak_and_sums_to_zero() -> None:
    bench = Bench()
    bench.gate(GatePlan(level_ua=-201, rise_ms=3000, hold_ms=2000, fall_ms=3000))
    bench.run(9000)
    assert [data for data in bench.sent if data[0] in (0x92, 0x98)] == [b"\x98-201;101;100;0;0;0;0;0;3000;2000;3000\x00"]
    assert bench.model.imbalance_ua < 1e-6
    assert bench.meter.peak_ua == pytest.approx(201, abs=4)
    assert bench.meter.max_rise_ua_s < 75
    assert bench.run(100)[-1].state is DeviceState.ARMED
    bench.driver.run_gate(PLAN)
    with pytest.raises(DeviceRefusedError, match="a gate runs already"):
        bench.driver.run_gate(PLAN)


def test_timed_gates_follow_each_other_each_in_a_protocol_of_its_own() -> None:
    bench = Bench("timed")
    bench.arm()
    for _ in range(2):
        bench.driver.run_gate(PLAN)
        with pytest.raises(DeviceRefusedError, match="a gate runs already|not ready"):
            bench.driver.run_gate(PLAN)
        bench.run(6000)
        assert bench.current_ua == pytest.approx(-200, abs=4)
        states = {readback.state for readback in bench.run(11_000)}
        assert states == {DeviceState.ACTIVE, DeviceState.ARMED}
        assert bench.current_ua == 0.0
    assert bench.meter.max_rise_ua_s < 75


def test_a_timed_gate_must_fill_its_protocol() -> None:
    bench = Bench("timed")
    bench.arm()
    with pytest.raises(DeviceRefusedError, match="a gate of 6 s; the NIC protocol is to last as long, or up to 5 s longer"):
        bench.driver.run_gate(replace(PLAN, rise_ms=2000, hold_ms=2000, fall_ms=2000))


def test_a_protocol_that_does_not_start_ends_the_gate() -> None:
    bench = Bench("timed")
    bench.arm()
    bench.model.program._protocol = None
    bench.driver.run_gate(PLAN)
    bench.model.program._next = None
    bench.run(7000)
    assert "did not start within 5 s" in bench.run(200)[-1].fault
    assert bench.meter.peak_ua < 1.0


# ---- what happens to the current when this program dies: stated assumptions of the emulator


@pytest.mark.parametrize(("mode", "after_s", "flows"), [("peak", 10.0, False), ("timed", 10.0, False), ("plain", 60.0, True)])
def test_the_client_dies_under_current(mode: Mode, after_s: float, flows: bool) -> None:
    bench = Bench(mode)
    bench.arm()
    if mode == "plain":
        bench.run(4000, lambda: bench.driver.set_level(-200, 250))
    else:
        bench.driver.run_gate(PLAN)
        bench.run(4500)
    assert bench.current_ua == pytest.approx(-200, abs=4)
    bench.rig.break_line()
    bench.rig.pass_time(after_s)
    assert (abs(bench.current_ua) > 10.0) is flows


# ---- stops


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("at_ms", [500, 2000, 5000, 10_500])
@pytest.mark.parametrize("stop_class", list(StopClass))
def test_stops_never_let_the_current_come_back(mode: Mode, at_ms: int, stop_class: StopClass) -> None:
    bench = Bench(mode, seed=at_ms)
    bench.arm()
    if mode == "plain":
        bench.run(at_ms, lambda: bench.driver.set_level(-200, 250))
    else:
        bench.driver.run_gate(PLAN)
        bench.run(at_ms)
    bench.driver.stop(stop_class)
    bench.run(300)
    size = abs(bench.current_ua)
    for _ in range(400):
        bench.driver.stop(StopClass.S0_CUT if stop_class is StopClass.S0_CUT else StopClass.S2_SESSION_RAMP)
        bench.run(10)
        assert abs(bench.current_ua) <= size + 0.5
        size = abs(bench.current_ua)
    assert size < 10.0
    assert bench.driver.assumed_ua == 0
    last = bench.run(200)[-1]
    assert (last.state, last.commanded_ua, last.fault) == (DeviceState.IDLE, 0, "")
    bench.driver.disarm()
    bench.run(4000)
    bench.driver.arm(1000, 100)


def test_a_deaf_abort_is_repeated_and_told() -> None:
    bench = Bench()
    bench.gate()
    bench.run(4000)
    bench.rig.inject("deaf_abort")
    bench.driver.stop(StopClass.S1_ABORT_RAMP)
    last = bench.run(4000)[-1]
    assert last.state is DeviceState.FAULT
    assert "press abort in NIC's window now" in last.fault
    assert last.commanded_ua == -200
    assert bench.driver.assumed_ua == 200
    assert bench.sent.count(b"\x8a") >= 6
    bench.model.clear("deaf_abort")
    last = bench.run(2000)[-1]
    assert (last.commanded_ua, bench.driver.assumed_ua) == (0, 0)
    assert bench.current_ua == 0.0


# ---- faults


def test_the_abort_button_in_nic_is_respected_until_an_operator_resets() -> None:
    bench = Bench()
    bench.gate()
    bench.run(4000)
    bench.rig.inject("nic_abort")
    states = [readback.state for readback in bench.run(2000)]
    assert states[-1] is DeviceState.IDLE
    bench.driver.disarm()
    bench.run(3000)
    assert bench.model.program.main is Status.PROTOCOL_ABORTED
    with pytest.raises(DeviceRefusedError, match="not ready"):
        bench.driver.arm(1000, 100)
    bench.driver.reset_fault()
    bench.run(5000)
    bench.driver.arm(1000, 100)


def test_an_error_of_the_protocol_is_a_latched_fault() -> None:
    bench = Bench()
    bench.gate()
    bench.run(4000)
    bench.rig.inject("protocol_error")
    last = bench.run(1500)[-1]
    assert (last.state, last.fault) == (DeviceState.FAULT, "NIC's protocol ended in an error")
    with pytest.raises(DeviceRefusedError, match="reset first"):
        bench.driver.arm(1000, 100)


@pytest.mark.parametrize("fault", ["lost_replies", "half_open"])
def test_a_late_reply_makes_uncertain_and_only_stops_go_out(fault: str) -> None:
    bench = Bench()
    bench.gate()
    bench.run(4000)
    bench.rig.inject(fault)
    with pytest.raises(DeviceUncertainError, match="up to 200 uA may flow"):
        bench.run(2000)
    assert bench.driver.assumed_ua == 200
    bench.sent.clear()
    for verb in (lambda: bench.driver.arm(1000, 100), lambda: bench.driver.run_gate(PLAN)):
        with pytest.raises(DeviceUncertainError):
            verb()
    bench.driver.stop(StopClass.S1_ABORT_RAMP)
    bench.run(4000)
    assert set(bench.sent) <= {b"\x8a", b"\x84"}
    if fault != "half_open":
        assert bench.current_ua == 0.0
    bench.model.clear(fault)
    last = bench.run(8000)[-1]
    assert (last.state, last.commanded_ua, bench.driver.assumed_ua) == (DeviceState.IDLE, 0, 0)
    assert bench.current_ua == 0.0


def test_stale_replies_are_dropped_before_the_mark() -> None:
    bench = Bench()
    bench.gate(GatePlan(level_ua=-620, rise_ms=10_000, hold_ms=10_000, fall_ms=10_000))
    bench.run(4000)
    bench.rig.inject("slow_replies:delay_ms=1500")
    with pytest.raises(DeviceUncertainError):
        bench.run(3000)
    bench.model.clear("slow_replies")
    readbacks = bench.run(5000)
    assert readbacks[-1].state is DeviceState.ACTIVE, "no reply was taken for another's"


def test_garbage_is_a_protocol_error() -> None:
    bench = Bench()
    bench.gate()
    bench.run(1000)
    bench.rig.inject("garbage")
    with pytest.raises(DeviceProtocolError):
        bench.run(3000)


def test_a_connection_that_ends_is_told_and_stays_lost() -> None:
    bench = Bench()
    bench.gate()
    bench.run(4000)
    bench.rig.inject("hang_up")
    with pytest.raises(DeviceLostError):
        bench.run(200)
    with pytest.raises(DeviceLostError):
        bench.driver.stop(StopClass.S0_CUT)
    bench.driver.close()


def test_a_status_that_lies_makes_no_peak_out_of_nothing() -> None:
    bench = Bench("peak", "deaf_peak")
    bench.gate()
    bench.run(5000)
    assert bench.meter.peak_ua < 1.0  # nobody can tell: the device measures nothing, which the table of times says


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=12), st.booleans())
def test_any_bytes_end_in_an_error_of_the_device(parts: list[bytes], opened: bool) -> None:
    rig = VirtualNicRig()
    if opened:
        rig.driver.open()
    chunks = iter(parts)
    real = rig.wire.read
    rig.wire.read = lambda: real()[: 0 if opened else None] + next(chunks, b"")  # type: ignore[method-assign]
    with contextlib.suppress(DeviceError):
        if not opened:
            rig.driver.open()
        for _ in range(300):
            rig.pass_time(0.01)
            with contextlib.suppress(DeviceUncertainError, DeviceProtocolError):
                rig.driver.poll(rig.now_ns())
    rig.driver.close()


VERBS = st.sampled_from(["gate", "wait", "s0", "s1", "s2", "arm", "disarm", "reset", "nic_abort", "level"])


@settings(max_examples=40, deadline=None)
@example("peak", 0, [("reset", 270), ("reset", 630), ("reset", 700), ("gate", 320)])
@given(st.sampled_from(MODES), st.integers(0, 99), st.lists(st.tuples(VERBS, st.integers(10, 4000)), max_size=12))
def test_whatever_is_asked_the_currents_sum_to_zero_within_what_was_armed(
    mode: Mode, seed: int, verbs: list[tuple[str, int]]
) -> None:
    bench = Bench(mode, seed=seed)
    bench.arm(300)
    driver: Nic2Stimulator = bench.driver  # type: ignore[assignment]
    for verb, ms in verbs:
        with contextlib.suppress(DeviceRefusedError):
            match verb:
                case "gate":
                    driver.run_gate(replace(PLAN, level_ua=-PLAN.level_ua if ms % 2 else PLAN.level_ua))
                case "s0" | "s1" | "s2":
                    driver.stop(StopClass(int(verb[1])))
                case "arm":
                    driver.arm(300, 100)
                case "disarm":
                    driver.disarm()
                case "reset":
                    driver.reset_fault()
                case "nic_abort":
                    bench.rig.inject("nic_abort")
                case "level":
                    driver.set_level(ms % 301, 250)
        bench.run(ms)
        assert driver.assumed_ua >= abs(bench.current_ua) - 10.0
    assert bench.model.imbalance_ua < 1e-6
    assert bench.meter.peak_ua <= 300 * 1.01 + 1
    assert bench.meter.max_rise_ua_s <= 102
