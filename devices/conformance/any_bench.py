"""What the benches of both suites have in common: stepping a rig, waiting for a report, and what every driver must refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Generic, Protocol, TypeVar

from devices.conformance.rig import AnyRig, ConformanceError, require
from devices.stimulator import DeviceError, DeviceLostError, DeviceRefusedError, DeviceUncertainError, Identity

LEASE_MS: Final = 250
STEP_S: Final = 0.01
# What a loaded machine may add to a bound that is measured in real time.
SLACK_S: Final = 0.15

R = TypeVar("R")


class AnyDriver(Protocol[R]):
    """What stepping asks of a driver."""

    def heartbeat(self) -> None:
        """Tell the device that the host lives."""
        ...

    def poll(self, t_ns: int) -> list[R]:
        """All reports since the last call."""
        ...


class AnyBench(Generic[R]):
    """A rig and the reports that its driver has made so far.

    Parameters
    ----------
    rig : Rig or PulseRig
    driver : callable
        The rig's present driver.
    patience_s : float
        How long `until` waits for a report unless told otherwise.
    """

    def __init__(self, rig: AnyRig, driver: Callable[[], AnyDriver[R]], patience_s: float) -> None:
        self._any_rig = rig
        self._any_driver = driver
        self._patience_s = patience_s
        self.readbacks: list[R] = []

    def step(self, act: Callable[[], None] | None = None, *, poll: bool = True) -> list[R]:
        """Ten milliseconds: act, wait, poll."""
        if act is not None:
            act()
        self._any_rig.pass_time(STEP_S)
        fresh = self._any_driver().poll(self._any_rig.now_ns()) if poll else []
        self.readbacks += fresh
        return fresh

    def run(self, seconds: float, act: Callable[[], None] | None = None, *, poll: bool = True) -> None:
        """Step for some time."""
        end_ns = self._any_rig.now_ns() + round(seconds * 1e9)
        while self._any_rig.now_ns() < end_ns:
            self.step(act, poll=poll)

    def until(
        self,
        met: Callable[[R], bool],
        what: str,
        act: Callable[[], None] | None = None,
        patience_s: float | None = None,
    ) -> R:
        """Step until a report meets a condition."""
        patience_s = self._patience_s if patience_s is None else patience_s
        end_ns = self._any_rig.now_ns() + round(patience_s * 1e9)
        while self._any_rig.now_ns() < end_ns:
            for readback in self.step(act):
                if met(readback):
                    return readback
        last = self.readbacks[-1] if self.readbacks else "no report at all"
        raise ConformanceError(f"{what} was not reported within {patience_s:g} s; the last report is {last}")

    def refused(self, act: Callable[[], None], what: str, within_s: float = 0.5) -> None:
        """`act` must be refused, at once or by a later poll."""
        try:
            act()
            self.run(within_s, self._any_driver().heartbeat)
        except DeviceRefusedError:
            return
        raise ConformanceError(f"{what} was not refused: neither the call nor poll raised DeviceRefusedError")


def require_identity(who: Identity) -> None:
    """Every field is filled in, and an emulator says that it is one (I30)."""
    for field in ("maker", "model", "serial_number", "firmware"):
        require(getattr(who, field).strip(), f"the identity's {field} is empty")
    require(who.emulator, "the device under this suite is an emulator, but its identity says that it is real hardware (I30)")


def require_closed(verbs: Iterable[Callable[[], object]]) -> None:
    """None of these may be taken by a driver that is not open."""
    for verb in verbs:
        _must_raise(DeviceLostError, verb, "a driver that is not open took a command; DeviceLostError was due")


def require_doubt(verbs: Iterable[tuple[str, Callable[[], object]]]) -> None:
    """None of these may be taken while replies are lost."""
    for what, verb in verbs:
        _must_raise(DeviceUncertainError, verb, f"{what} was taken while replies are lost; DeviceUncertainError was due")


def _must_raise(error: type[DeviceError], verb: Callable[[], object], sentence: str) -> None:
    try:
        verb()
    except error:
        return
    raise ConformanceError(sentence)
