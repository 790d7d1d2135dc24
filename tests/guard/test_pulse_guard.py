"""The pulse guard with driver and emulated Magstim on one virtual clock: gates, stops, faults and dose, by the pulse meter."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from devices import link
from devices.clock import VirtualClock
from devices.dose_book import MemoryDoseBook
from devices.driver import DriverError
from devices.guard_state import LEASE_MS, Phase
from devices.ledger_book import LedgerBook
from devices.magstim import Mode
from devices.mock.magstim_faults import FAULTS
from devices.mock.pulse_rigs import VirtualMagstimRig
from devices.pulse_core import PulseGuardCore
from devices.pulse_settings import (
    PulseCeilings,
    PulseLimitError,
    PulseSettings,
    PulseStimulation,
    check_pulse_settings,
    decode,
)
from devices.registry import current_choice, pulse_choice
from devices.settings import Device, encode
from devices.stimulator import StopClass
from devices.units import NS_PER_MS, NS_PER_S

STIM = PulseStimulation(intensity_percent=30, interval_ms=1000, train_pulses=3, gate_pulses=7)
LIMITS = PulseCeilings(max_intensity_percent=50, max_pulses=20, min_interval_ms=1000, max_coil_c=39.0)
OPTIONS = {"serial_number": "emulator-1", "unlock_code": "cereloop"}
DEVICE = Device(driver="magstim", mode="train", port="/dev/null", options=OPTIONS)
SETTINGS = PulseSettings(
    session="s", pulses=STIM, pulse_limits=LIMITS, device=DEVICE, input_is_simulated=True, participant="P01"
)


class Bench:
    """Guard, driver and unit; `wish` is what the engine asks for with every tick, None where it is silent."""

    def __init__(self, mode: Mode = "train", settings: PulseSettings = SETTINGS, book: MemoryDoseBook | None = None) -> None:
        self.rig = VirtualMagstimRig(mode)
        self.book = book or MemoryDoseBook()
        self.core = PulseGuardCore(settings, self.rig.driver, b"t", self.book)
        self.seq = 0
        self.wish: int | None = None
        self.said: list[link.FromGuard] = []

    @property
    def t_ns(self) -> int:
        return self.rig.now_ns()

    def tell(self, make: Callable[[int], link.ToGuard]) -> None:
        self.seq += 1
        self.said += self.core.handle(self.t_ns, make(self.seq))

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        end_ns = self.t_ns + round(seconds * NS_PER_S)
        while self.t_ns < end_ns and not until():
            self.rig.pass_time(0.01)
            if self.wish is not None and self.t_ns % (20 * NS_PER_MS) < 10 * NS_PER_MS:
                self.tell(partial(self._pulses, self.wish))
            self.said += self.core.tick(self.t_ns)
        return until()

    def _pulses(self, percent: int, seq: int) -> link.Pulses:
        due_ns = self.t_ns + LEASE_MS * NS_PER_MS
        return link.Pulses(seq=seq, intensity_percent=percent, deadline_ns=due_ns, decision=1)

    def arm(self) -> None:
        assert self.run(3.0, lambda: self.core.phase is Phase.SAFE and self.core.report(self.t_ns).coil_c is not None)
        self.tell(lambda seq: link.Arm(seq=seq, code=self.core.welcome().arm_code))
        assert self.core.phase is Phase.ARMED, self.refusals()
        self.wish = 0
        self.run(0.3)

    def open_gate(self, pulses: int = STIM.gate_pulses) -> None:
        self.tell(lambda seq: link.ReservePulses(seq=seq, pulses=pulses))
        self.wish = STIM.intensity_percent

    def gate(self) -> None:
        self.arm()
        self.open_gate()
        assert self.run(10.0, lambda: len(self.rig.pulses()) >= 2), self.core.state

    def refusals(self) -> list[str]:
        return [message.reason for message in self.said if isinstance(message, link.Refused)]

    def times(self) -> list[float]:
        return [t_ns / NS_PER_S for t_ns, _ in self.rig.pulses()]


@pytest.mark.parametrize("mode", ["train", "single"])
def test_a_gate_gives_what_was_reserved_and_settles_it(mode: Mode) -> None:
    bench = Bench(mode)
    bench.arm()
    assert not bench.rig.model.armed, "the unit is armed for a gate only"
    bench.open_gate()
    assert bench.run(30.0, lambda: bench.core.state.reserved == 0), bench.core.state
    assert len(bench.rig.pulses()) == bench.core.report(bench.t_ns).pulses == bench.book.pulses == STIM.gate_pulses
    assert {percent for _, percent in bench.rig.pulses()} == {30.0}
    times = bench.times()
    assert min(b - a for a, b in zip(times, times[1:], strict=False)) >= 1.0
    assert not bench.rig.model.armed
    bench.run(5.0)
    assert len(bench.rig.pulses()) == STIM.gate_pulses, "a wish that stays open gives nothing that was not reserved"
    bench.wish = 0
    bench.run(0.5)
    bench.open_gate(3)
    assert bench.run(30.0, lambda: bench.book.pulses == 10)


def test_a_gate_is_paused_between_two_pulses_and_the_rest_is_refunded() -> None:
    bench = Bench()
    bench.gate()
    bench.wish = 0
    given = len(bench.rig.pulses())
    assert bench.run(3.0, lambda: bench.core.state.reserved == 0)
    assert bench.core.phase is Phase.LIVE
    assert len(bench.rig.pulses()) <= given + 1
    assert given <= bench.book.pulses <= given + 1 and bench.book.open_pulses == 0


def test_no_lease_no_pulse() -> None:
    bench = Bench()
    bench.gate()
    bench.wish, since = None, bench.t_ns
    bench.run(5.0)
    assert bench.core.phase is Phase.STOPPED and "lease expired" in bench.core.state.reason
    assert all(t_ns <= since + 600 * NS_PER_MS for t_ns, _ in bench.rig.pulses())
    bench.wish = STIM.intensity_percent
    bench.run(5.0)
    assert all(t_ns <= since + 600 * NS_PER_MS for t_ns, _ in bench.rig.pulses()), "a late engine revives nothing"


@pytest.mark.parametrize("stop_class", list(StopClass))
def test_every_stop_ends_a_train_at_once_and_nothing_comes_back(stop_class: StopClass) -> None:
    bench = Bench()
    bench.gate()
    since = bench.t_ns
    bench.tell(lambda _: link.Stop(stop_class=int(stop_class), reason="test"))
    bench.run(6.0)
    phases = {StopClass.S0_CUT: Phase.LATCHED, StopClass.S1_ABORT_RAMP: Phase.STOPPED, StopClass.S2_SESSION_RAMP: Phase.SAFE}
    assert bench.core.phase is phases[stop_class]
    assert all(t_ns <= since + 150 * NS_PER_MS for t_ns, _ in bench.rig.pulses())
    if stop_class is not StopClass.S2_SESSION_RAMP:
        bench.tell(lambda seq: link.Arm(seq=seq, code=bench.core.welcome().arm_code))
        assert bench.core.phase is phases[stop_class], "no arming before a reset (I07)"
        bench.tell(lambda seq: link.Reset(seq=seq, operator="me"))
        assert bench.run(3.0, lambda: bench.core.phase is Phase.SAFE), bench.core.state
    before = bench.book.pulses
    bench.arm()
    bench.open_gate(3)
    assert bench.run(20.0, lambda: bench.book.pulses == before + 3), bench.core.state


@pytest.mark.parametrize("name", sorted(set(FAULTS) - {"runaway"}))
def test_every_fault_of_the_unit_ends_the_gate(name: str) -> None:
    """No pulse later than the bound, and a stop at least as high as the one that is owed."""
    bench = Bench()
    bench.gate()
    since = bench.t_ns
    bench.rig.inject(name)
    if name == "too_strong":  # the unit takes on the wrong intensity with the next setting
        bench.wish = 0
        bench.run(1.0)
        bench.open_gate()
        bench.run(8.0)
        assert max(percent for _, percent in bench.rig.pulses()) == 30.0
    else:
        bench.run(8.0)
        assert all(t_ns <= since + 1.5 * NS_PER_S for t_ns, _ in bench.rig.pulses()), name
    owed = FAULTS[name].answer
    assert owed is not None
    assert bench.core.state.stop_class is not None and bench.core.state.stop_class <= owed, bench.core.state


def test_pulses_that_nothing_stops_raise_the_alarm() -> None:
    bench = Bench()
    bench.gate()
    bench.rig.inject("runaway")
    bench.tell(lambda _: link.Stop(stop_class=1, reason="test"))
    bench.run(6.0)
    assert bench.core.phase is Phase.LATCHED
    assert "ALARM" in bench.core.report(bench.t_ns).reason
    assert bench.book.open_pulses, "what cannot be confirmed is not refunded"


def test_the_sessions_pulses_are_counted_over_gates_and_guards() -> None:
    bench = Bench()
    bench.arm()
    for _ in range(2):
        bench.open_gate()
        assert bench.run(30.0, lambda: bench.core.state.reserved == 0)
        bench.wish = 0
        bench.run(0.5)
    bench.open_gate()
    assert "14" not in bench.refusals()[-1] and "dose: 7 pulses asked, 6 left" in bench.refusals()[-1]
    bench.run(3.0)
    assert len(bench.rig.pulses()) == 14
    again = Bench(book=bench.book)
    again.arm()
    again.open_gate()
    assert "6 left" in again.refusals()[-1]


def test_a_crash_counts_the_whole_reservation_in_the_ledger(tmp_path: Path) -> None:
    clock = VirtualClock(wall_start_ns=10**18)
    identity = VirtualMagstimRig().driver.open()
    book = LedgerBook(SETTINGS, tmp_path / "apart.sqlite", clock)
    book.take(identity)
    book.reserve_pulses(7, 7000)
    book.settle_pulses(5, 5000)
    book.reserve_pulses(7, 7000)
    book.close()
    after = LedgerBook(SETTINGS, tmp_path / "apart.sqlite", clock)
    after.take(identity)
    assert after.used_pulses() == 12
    assert after.used() == (0, 12_000)
    after.close()


def test_real_hardware_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = VirtualMagstimRig()
    identity = replace(bench.driver.open(), emulator=False)
    monkeypatch.setattr(bench.driver, "_identity", identity)
    core = PulseGuardCore(SETTINGS, bench.driver, b"t", MemoryDoseBook())
    assert "simulated input never drives real hardware" in core.forbidden
    core = PulseGuardCore(replace(SETTINGS, input_is_simulated=False), bench.driver, b"t", MemoryDoseBook())
    assert "no pre-arm checklist for magnetic stimulation" in core.forbidden


def test_a_current_is_no_business_of_this_guard() -> None:
    bench = Bench()
    bench.arm()
    bench.tell(lambda seq: link.Reserve(seq=seq, charge_uc=1, on_time_ms=1))
    assert "gives pulses" in bench.refusals()[-1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(max_intensity_percent=81), "pulse_limits.max_intensity_percent is 81; the ceiling in code is 80"),
        (dict(max_pulses=1201), "pulse_limits.max_pulses is 1201"),
        (dict(max_coil_c=40.5), "pulse_limits.max_coil_c is 40.5"),
        (dict(min_interval_ms=999), "pulse_limits.min_interval_ms is 999"),
        (dict(max_intensity_percent=29), "pulses.intensity_percent is 30"),
        (dict(min_interval_ms=1001), "pulses.interval_ms is 1000"),
        (dict(max_pulses=6), "pulses.gate_pulses is 7"),
    ],
)
def test_ceilings_can_only_be_narrowed(change: dict[str, float], words: str) -> None:
    with pytest.raises(PulseLimitError, match=words):
        check_pulse_settings(STIM, replace(LIMITS, **change))


def test_settings_of_either_kind_are_told_apart() -> None:
    assert decode(encode(SETTINGS)) == SETTINGS


def test_drivers_of_either_kind_are_told_apart() -> None:
    with pytest.raises(DriverError, match="it gives pulses"):
        current_choice(DEVICE)
    with pytest.raises(DriverError, match="it makes a current"):
        pulse_choice(Device(driver="reference", port="/dev/null"))
