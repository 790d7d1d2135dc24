"""The suite itself: a driver that breaks one promise fails the check that guards it, and passes the others it should."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

import pytest
from msgspec.structs import replace

from devices import conformance
from devices.conformance import CHECKS, ConformanceError, Rig
from devices.mock.rigs import VirtualReferenceRig
from devices.reference import ReferenceStimulator
from devices.reference_hello import Greeting
from devices.stimulator import Capabilities, DeviceError, DeviceUncertainError, Identity, Readback, StopClass

NAMED = {check.__name__: check for check in CHECKS}


class DeafToStops(ReferenceStimulator):
    """Swallows the abort."""

    def stop(self, stop_class: StopClass) -> None:
        if stop_class is not StopClass.S1_ABORT_RAMP:
            super().stop(stop_class)


class GoesOnAlone(ReferenceStimulator):
    """Renews the last level by itself, from whatever call: a driver with a helpful thread."""

    level_ua = 0

    def set_level(self, level_ua: int, lease_ms: int) -> None:
        self.level_ua = level_ua
        super().set_level(level_ua, lease_ms)

    def heartbeat(self) -> None:
        super().set_level(self.level_ua, 250)


class ArmsBehindTheBack(ReferenceStimulator):
    """Arms anew where it finds the device disarmed."""

    def poll(self, t_ns: int) -> list[Readback]:
        readbacks = super().poll(t_ns)
        if readbacks and readbacks[-1].state == 0:
            self.arm(2000, 200)
        return readbacks


class SaysHardware(ReferenceStimulator):
    """Hides that it is an emulator."""

    def open(self) -> Identity:
        return replace(super().open(), emulator=False)


class ReportsItsWish(ReferenceStimulator):
    """Reports as measured what was commanded, with a factor lost."""

    def poll(self, t_ns: int) -> list[Readback]:
        return [replace(readback, measured_ua=readback.commanded_ua / 1000.0) for readback in super().poll(t_ns)]


class NeverInDoubt(ReferenceStimulator):
    """Bears lost replies in silence."""

    def poll(self, t_ns: int) -> list[Readback]:
        try:
            return super().poll(t_ns)
        except DeviceUncertainError:
            return []


class ForgetsToCut(ReferenceStimulator):
    """Closes the line without a word."""

    def close(self) -> None:
        self._identity = None
        self._wire.close()


class SkipsTheSelfTest(ReferenceStimulator):
    """Opens whatever answers."""

    def open(self) -> Identity:
        with patch.object(Greeting, "test", lambda _greeting: None):
            return super().open()


class ClaimsALongerWire(ReferenceStimulator):
    """Declares less in the mode than the opened device takes."""

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, host_timeout_s=30.0)


class RaisesWhenLost(ReferenceStimulator):
    """Lets the error of a broken line out of close."""

    def close(self) -> None:
        if self._identity is not None:
            self.stop(StopClass.S0_CUT)
        super().close()


class IgnoresTheLimit(ReferenceStimulator):
    """Latches the device's own ceiling in place of the session's."""

    def arm(self, max_level_ua: int, max_slew_ua_s: int) -> None:
        super().arm(2000, max_slew_ua_s)


FOUND = [
    (DeafToStops, "aborts_from_every_state"),
    (GoesOnAlone, "ends_a_lease_that_is_not_renewed"),
    (ArmsBehindTheBack, "stops_at_once_from_every_state"),
    (SaysHardware, "identifies_itself_as_what_it_is"),
    (SkipsTheSelfTest, "refuses_a_device_that_fails_its_self_check"),
    (ReportsItsWish, "rises_holds_and_reports"),
    (NeverInDoubt, "assumes_the_larger_current_when_replies_are_lost"),
    (ForgetsToCut, "ends_at_zero_when_closed"),
    (ClaimsALongerWire, "declares_what_can_be"),
    (RaisesWhenLost, "ends_at_zero_when_the_line_breaks"),
    (IgnoresTheLimit, "keeps_the_latched_limit"),
]


@pytest.mark.parametrize(("driver", "check"), FOUND, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_driver_fails_the_check_that_guards_the_promise(driver: type[ReferenceStimulator], check: str) -> None:
    with pytest.raises((ConformanceError, DeviceError)):
        NAMED[check](VirtualReferenceRig(make=driver))


class WeakDevice(VirtualReferenceRig):
    """An emulator whose host timeout never fires."""

    def __init__(self) -> None:
        super().__init__()
        self._model.firmware.__class__ = _Patient


class _Patient(type(VirtualReferenceRig()._model.firmware)):  # type: ignore[misc]
    @property
    def timeout_k(self) -> int | None:
        return None

    def tick(self, k: int) -> None:
        self._heard_k, self._lease_k = k, k + 1000
        super().tick(k)


def test_a_device_that_bears_a_silent_host_is_found() -> None:
    with pytest.raises(ConformanceError, match=r"a silent host: \d+ uA still flow after"):
        conformance.checks.ends_the_silence_of_its_host(WeakDevice())


def test_every_check_says_what_it_is_for() -> None:
    assert len(NAMED) == len(CHECKS)
    assert all(check.__doc__ for check in CHECKS)


def test_a_driver_without_the_flag_is_asked_nothing_of_it() -> None:
    rig: Rig = VirtualReferenceRig()
    rig.declared = replace(rig.declared, self_expiring_lease=False, hardware_watchdog=False)
    asked: list[Callable[[Rig], None]] = [NAMED["ends_a_lease_that_is_not_renewed"], NAMED["ends_the_silence_of_its_host"]]
    for check in asked:
        check(rig)
    assert rig.now_ns() == 0
