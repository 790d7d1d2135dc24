"""Start, arming and the code that the operator types (I06, I09, I27, I28, I30)."""

from __future__ import annotations

import math

import msgspec
import pytest
from guard_doubles import (
    CAPABILITIES,
    HARDWARE,
    Bench,
    FakeStimulator,
    make_settings,
)

from devices import link
from devices.stimulator import (
    DeviceNotFoundError,
    DeviceRefusedError,
    DeviceState,
)

# ---- start


def test_the_first_thing_is_zero() -> None:
    bench = Bench()
    assert bench.device.calls == [("open",)]
    bench.tick()
    assert bench.device.calls[1] == ("disarm",)
    assert bench.phase == "zeroing"
    bench.run(1.0, until="safe")
    assert bench.device.state is DeviceState.IDLE


def test_a_silent_device_latches_at_the_start() -> None:
    bench = Bench()
    bench.device.mute = True
    bench.run(1.2, until="latched")
    assert bench.reason == "the device does not report: zero cannot be confirmed"


def test_a_current_that_nobody_commanded_latches_at_the_start() -> None:
    bench = Bench()
    bench.device.added_ua = 60.0
    bench.run(1.2, until="latched")
    assert bench.reason.startswith("current though none was commanded: 60.0 uA")


def test_a_latched_device_latches_the_guard_at_the_start() -> None:
    bench = Bench()
    bench.device.fault = "host_timeout"
    bench.run(1.2, until="latched")
    assert bench.reason == "device fault: host_timeout"
    bench.run(0.2)
    bench.reset()
    bench.run(1.0, until="safe")


def test_a_device_that_cannot_be_opened_is_told() -> None:
    device = FakeStimulator()
    device.raises["open"] = DeviceNotFoundError("nothing answers at /dev/null")
    with pytest.raises(DeviceNotFoundError, match="nothing answers"):
        Bench(device=device)


# ---- arming (I27, I28, I30)


def test_arming_latches_the_limits_in_the_device() -> None:
    bench = Bench().to_armed()
    assert ("arm", 200, 100) in bench.device.calls


@pytest.mark.parametrize(
    ("impedance", "why"),
    [
        (None, "the impedance is not known"),
        (math.nan, "the impedance is not known"),
        (10_000.0, "impedance 10000 ohm; below 10000 ohm is needed"),
        (799.0, "the electrodes look shorted"),
    ],
)
def test_arming_needs_a_good_impedance(impedance: float | None, why: str) -> None:
    bench = Bench()
    bench.device.impedance_ohm = impedance
    bench.to_safe()
    bench.arm()
    assert bench.phase == "safe"
    assert why in bench.refusals[-1]
    bench.device.impedance_ohm = 9999.0
    bench.run(0.1)
    bench.arm()
    assert bench.phase == "armed"


def test_arming_needs_confirmed_zero() -> None:
    bench = Bench().to_safe()
    bench.device.added_ua = 15.0
    bench.run(0.1)
    bench.arm()
    assert bench.refusals == ["not armed: the device does not confirm zero current"]


def test_a_wrong_code_does_not_arm_and_three_make_a_new_one() -> None:
    bench = Bench().to_safe()
    first = bench.core.welcome().arm_code
    for _ in range(2):
        bench.arm("WRONG")
    assert bench.core.welcome().arm_code == first
    bench.arm("WRONG")
    second = bench.core.welcome().arm_code
    assert second != first
    assert [message.arm_code for message in bench.sent if isinstance(message, link.Welcome)] == [second]
    bench.arm(first)
    assert bench.phase == "safe"
    assert bench.refusals[-1] == "not armed: the code is wrong"
    bench.arm(f" {second.lower()} ")
    assert bench.phase == "armed"


def test_a_code_arms_once() -> None:
    bench = Bench().to_safe()
    code = bench.core.welcome().arm_code
    bench.arm(code)
    bench.stop(2)
    assert bench.phase == "safe"
    bench.run(0.2)
    bench.arm(code)
    assert bench.phase == "safe"
    assert bench.refusals == ["not armed: the code is wrong"]


def test_start_twice_is_refused_with_the_reason() -> None:
    bench = Bench().to_armed()
    bench.arm()
    assert bench.refusals == ["not armed: the guard is armed (armed)"]


def test_arming_expires_after_60_s_without_a_command() -> None:
    bench = Bench().to_armed()
    bench.run(59.8)
    assert bench.phase == "armed"
    bench.run(0.3, until="safe")
    assert bench.reason == "arming expired: no command for 60 s"
    assert bench.device.state is DeviceState.IDLE


def test_simulated_input_never_arms_hardware() -> None:
    bench = Bench(device=FakeStimulator(identity=HARDWARE)).to_safe()
    bench.arm()
    assert bench.phase == "safe"
    assert "simulated input never drives real hardware" in bench.refusals[-1]
    # The text of the checklist is for the process to judge; the core only asks whether there is one.
    real = Bench(make_settings(input_is_simulated=False, checklist="filled in"), FakeStimulator(identity=HARDWARE)).to_safe()
    real.arm()
    assert real.phase == "armed"


@pytest.mark.parametrize(
    ("changes", "polarity", "why"),
    [
        (
            dict(self_expiring_lease=False, hardware_watchdog=False),
            "anodal",
            "neither a lease nor a watchdog",
        ),
        (dict(unipolar=True), "cathodal", "unipolar, its leads give anodal current"),
        (dict(unipolar=True, leads="cathodal"), "anodal", "unipolar, its leads give cathodal current"),
    ],
)
def test_an_unfit_device_is_never_armed(changes: dict[str, bool], polarity: str, why: str) -> None:
    device = FakeStimulator(msgspec.structs.replace(CAPABILITIES, **changes))
    bench = Bench(make_settings(polarity=polarity), device).to_safe()
    bench.arm()
    assert bench.phase == "safe"
    assert why in bench.refusals[-1]


def test_a_device_that_refuses_to_be_armed_leaves_the_guard_safe() -> None:
    device = FakeStimulator()
    bench = Bench(device=device).to_safe()
    device.raises["arm"] = DeviceRefusedError("limit too high")
    bench.arm()
    assert bench.phase == "safe"
    assert bench.refusals == ["the device refused: limit too high"]


def test_a_device_that_disarms_itself_ends_the_arming() -> None:
    bench = Bench().to_live()
    bench.device.state = DeviceState.IDLE
    bench.run(0.5, until="safe")
    assert bench.reason == "the device disarmed itself"


# ---- hello (I06)


def test_hello_compares_version_and_settings() -> None:
    bench = Bench()
    good = link.Hello(version=link.LINK_VERSION, settings_sha256=bench.core._digest)
    assert isinstance(bench.core.hello(good), link.Welcome)
    other = bench.core.hello(msgspec.structs.replace(good, settings_sha256="0" * 64))
    assert isinstance(other, link.Refused) and "settings differ" in other.reason
    old = bench.core.hello(msgspec.structs.replace(good, version=99))
    assert isinstance(old, link.Refused) and "link version 99" in old.reason
