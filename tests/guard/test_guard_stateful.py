"""Random sessions of engine, guard and device on one virtual clock, with I01-I12 as invariants."""

from __future__ import annotations

import math

import msgspec
import pytest
from guard_doubles import START_NS, TICK, Bench, FakeStimulator, make_settings
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from devices import link
from devices.guard_core import MemoryDoseBook
from devices.guard_state import Phase
from devices.stimulator import DeviceState
from devices.units import NS_PER_MS, NS_PER_S

LEVEL = 120
SESSION = make_settings(level_ua=LEVEL, ramp_s=3.0, hold_s=2.0, max_charge_uc=2500, max_on_time_s=60.0, polarity="cathodal")
RANK = {"latched": 0, "aborting": 1, "stopped": 1, "ending": 2}


class Session(RuleBasedStateMachine):
    """What an engine, an operator, a body and bad luck can do to a guard."""

    def __init__(self) -> None:
        super().__init__()
        self.book = MemoryDoseBook()
        self.device = FakeStimulator()
        self.honest = True
        self.begin()

    def begin(self) -> None:
        """A guard process starts; whatever the device did before, it is at zero now (I09)."""
        self.bench = Bench(SESSION, self.device, self.book)
        self.bench.t_ns = max(START_NS, self.device.now_ns)
        assert self.device.target_or_level() == 0.0
        self.seen = 0
        self.device.history.clear()
        self.last_phase = self.bench.phase
        self.may_rise = False
        self.silent_ns = 0
        self.lie_ns = 0
        self.bench.tick()

    @initialize(level=st.sampled_from([0, 10, 60, LEVEL]))
    def start(self, level: int) -> None:
        self.run(20)
        if self.bench.phase == "safe":
            self.arm()
            self.run(5)
            self.reserve()
            self.bench.wanted_ua = level
            self.run(130)

    # ---- engine and operator

    @rule(ticks=st.integers(1, 100))
    def run(self, ticks: int) -> None:
        for _ in range(ticks):
            self.one_tick()

    def one_tick(self) -> None:
        bench, device = self.bench, self.device
        before = bench.level
        silent = bench.wanted_ua is None
        self.silent_ns = self.silent_ns + TICK if silent else 0
        bench.tick()
        if bench.level > before:
            assert self.may_rise and bench.phase == "live", "a rise without arming (I07)"
            assert bench.level - before <= 2, "slew (I03)"
            assert self.silent_ns <= 250 * NS_PER_MS, "a rise without a lease (I05)"
        if self.silent_ns > 260 * NS_PER_MS and bench.level:
            assert bench.phase in ("aborting", "ending"), "the last output is never held (I12)"
        self.follow()
        lies = abs(device.output_ua() - device.level_ua) > max(50.0, 0.1 * LEVEL) and not device.mute
        self.lie_ns = self.lie_ns + TICK if lies else 0
        if self.lie_ns > 220 * NS_PER_MS:
            assert bench.phase in ("latched", "zeroing"), "read-back off, and no cut (I11)"

    def follow(self) -> None:
        """Phases and true charge since the last look."""
        phase = self.bench.phase
        if phase != self.last_phase:
            if self.last_phase in RANK and phase in RANK:
                assert RANK[phase] <= RANK[self.last_phase], "a stop was downgraded (I08)"
            if phase == "armed" and self.last_phase == "safe":
                self.may_rise = True
            if phase in RANK or phase in ("safe", "zeroing"):
                self.may_rise = False
            self.last_phase = phase

    @rule(level=st.sampled_from([0, 1, 10, 60, LEVEL, LEVEL + 1, 5000]))
    def want(self, level: int) -> None:
        self.bench.wanted_ua = level

    @rule()
    def silence(self) -> None:
        self.bench.wanted_ua = None

    @rule()
    def arm(self) -> None:
        self.bench.arm()
        self.follow()

    @rule()
    def arm_wrongly(self) -> None:
        before = self.bench.phase
        self.bench.arm("AAAAA")
        assert self.bench.phase == before

    @rule()
    def reserve(self) -> None:
        self.bench.reserve()

    @rule()
    def reset(self) -> None:
        flows = abs(self.device.output_ua()) > 10.0 and not self.device.mute
        before = self.bench.phase
        self.bench.reset()
        if flows and self.bench.t_ns - self.device.now_ns == 0 and before == "latched" and self.device.stuck:
            assert self.bench.phase == "latched", "the latch opened under current (I07)"
        self.follow()

    @rule(stop_class=st.integers(0, 2))
    def stop(self, stop_class: int) -> None:
        before = self.bench.level
        self.bench.stop(stop_class)
        assert self.bench.level <= before
        if stop_class == 0:
            assert self.bench.phase == "latched"
            assert self.device.stuck or self.device.deaf or self.device.level_ua == 0.0
        self.follow()

    @rule(level=st.integers(0, 300), late_ms=st.integers(0, 1000))
    def late_command(self, level: int, late_ms: int) -> None:
        before = self.bench.core.state
        self.bench.command(level, deadline_ms=-late_ms)
        after = self.bench.core.state
        assert (after.target_ua, after.lease_ns, after.phase) == (
            before.target_ua,
            before.lease_ns,
            before.phase,
        )

    @rule(level=st.integers(0, 300))
    def old_command(self, level: int) -> None:
        before = self.bench.core.state
        if not before.last_seq:
            return
        self.bench.command(level, seq=before.last_seq)
        assert (before.target_ua, before.lease_ns) == (
            self.bench.core.state.target_ua,
            self.bench.core.state.lease_ns,
        ), "a duplicate counted (I10)"

    @rule(packet=st.binary(max_size=40))
    def garbage(self, packet: bytes) -> None:
        try:
            link.decode_to_guard(packet)
        except link.LinkError:
            self.bench.bytes(packet)
            self.follow()

    @rule(level=st.sampled_from([math.nan, math.inf, -math.inf, None, 1e308, 2**70, -5]))
    def no_level(self, level: object) -> None:
        if level == 2**70:
            level = float(2**70)
        before = self.bench.core.state.target_ua
        self.bench.bytes(
            msgspec.msgpack.encode(
                {
                    "m": "command",
                    "seq": self.bench.next_seq(),
                    "level_ua": level,
                    "deadline_ns": self.bench.t_ns + 10**8,
                    "decision": 0,
                }
            )
        )
        assert self.bench.core.state.target_ua in (before, 0)
        self.follow()

    # ---- bad luck

    @rule(
        gain=st.sampled_from([1.0, 1.04, 0.9, -1.0, 0.0, 3.0]),
        added=st.sampled_from([0.0, 5.0, -60.0, 60.0, 400.0]),
    )
    def lie(self, gain: float, added: float) -> None:
        self.honest = False
        self.device.gain, self.device.added_ua = gain, added

    @rule(value=st.sampled_from([math.nan, math.inf, -math.inf, None]))
    def no_measurement(self, value: float | None) -> None:
        self.honest = False
        self.device.measured = lambda _: value

    @rule(ohm=st.sampled_from([None, 50.0, 5000.0, 9999.0, 15_000.0, 25_000.0, 1e6, math.nan]))
    def impedance(self, ohm: float | None) -> None:
        self.device.impedance_ohm = ohm

    @rule(mute=st.booleans())
    def line(self, mute: bool) -> None:
        self.device.mute = mute

    @rule()
    def reboot(self) -> None:
        self.device.boot_count += 1
        self.device.level_ua = self.device.target_ua = 0.0
        self.device.state = DeviceState.IDLE

    @rule()
    def stick(self) -> None:
        self.honest = False
        self.device.stuck = True

    @rule()
    def heal(self) -> None:
        device = self.device
        device.gain, device.added_ua, device.impedance_ohm = 1.0, 0.0, 5000.0
        device.mute = device.stuck = False
        device.measured = lambda truth: truth

    @rule(late_ms=st.integers(261, 5000))
    def suspend(self, late_ms: int) -> None:
        self.honest = False
        self.bench.tick(after_ns=late_ms * NS_PER_MS)
        assert self.bench.phase == "latched" or self.bench.core.exit_code is not None
        self.follow()

    @precondition(lambda self: not self.device.stuck)
    @rule()
    def guard_dies(self) -> None:
        """SIGKILL: nothing is said to the device; a new guard starts a second later on the same ledger."""
        self.honest = False
        self.device.advance(self.bench.t_ns + NS_PER_S)
        assert self.device.level_ua == 0.0
        owed = self.book.used()[0]
        self.begin()
        assert self.bench.report().charge_uc == owed, "dose is forgotten in a crash (I04)"

    @precondition(lambda self: not self.device.stuck)
    @rule()
    def engine_dies(self) -> None:
        self.bench.engine_gone()
        self.bench.wanted_ua = None
        self.heal()
        self.run(150)
        assert self.bench.core.exit_code is not None
        assert self.device.level_ua == 0.0
        self.begin()

    # ---- at every moment

    @invariant()
    def the_device_is_within_its_limits(self) -> None:
        history = self.device.history
        for (t0, _), (t1, _) in zip(history[self.seen :], history[self.seen + 1 :], strict=False):
            assert t1 >= t0
        assert abs(self.device.level_ua) <= LEVEL, "level (I01)"
        self.seen = len(history)
        sent = [call[1] for call in self.device.calls if call[0] == "set_level"]
        assert all(-LEVEL <= level <= 0 for level in sent), "level or sign (I01)"
        self.device.calls.clear()

    @invariant()
    def no_level_without_lease_or_stop(self) -> None:
        state = self.bench.core.state
        if state.level_ua and state.phase is Phase.LIVE:
            assert state.lease_ns > state.tick_ns
        if state.phase in (Phase.ZEROING, Phase.SAFE, Phase.ARMED, Phase.STOPPED, Phase.LATCHED):
            assert state.level_ua == 0

    @invariant()
    def dose_stays_within_its_caps(self) -> None:
        state = self.bench.core.state
        if self.honest:
            assert state.used_fc + max(state.gate_fc, state.reserved_uc * NS_PER_S) <= 2500 * NS_PER_S, (
                "charge beyond the cap (I04)"
            )


Session.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestSession = pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")(Session.TestCase)
