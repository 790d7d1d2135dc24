"""Every state of the pulse guard's decision part times every input, on a coarse grid of times (I08).

One tick is a second, as long as every time-out or half of it, and a gate is two trains of one pulse, so that the reachable
states, seen relative to now, are finitely many. What an edge must hold is asserted on every edge.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from devices import link
from devices.guard_state import (
    NEVER,
    Booked,
    BookFailed,
    BookPulses,
    DeviceFailure,
    DeviceStop,
    DisarmDevice,
    EngineGone,
    Exit,
    Garbage,
    Leaving,
    Phase,
    ResetDevice,
    SettlePulses,
    Terminate,
    Tick,
    arm_code,
)
from devices.pulse_guard import step
from devices.pulse_guard_state import (
    ArmPulses,
    FireTrain,
    PulseGuardState,
    PulseInput,
    PulseParams,
    disarmed,
    initial,
)
from devices.pulses import PulseLimits, PulseReadback, PulseState, Train
from devices.stimulator import StopClass
from devices.units import NS_PER_S

S = NS_PER_S
NOW = 1000 * S
PARAMS = PulseParams(
    limits=PulseLimits(max_intensity_percent=50, max_pulses=2, min_interval_ms=1000),
    train=Train(intensity_percent=50, pulses=1, interval_ms=1000),
    max_coil_c=40.0,
    measures_temperature=True,
    forbidden="",
    arm_secret=b"x",
    tick_ns=S,
    late_ns=S,
    lease_ns=2 * S,
    slow_ns=S,
    lag_ns=S // 2,
    stale_ns=S,
    confirm_ns=S,
    blind_ns=2 * S,
    zeroing_ns=S,
    device_arm_ns=2 * S,
    train_slack_ns=S,
    arm_valid_ns=S,
    garbage_ns=S,
    give_up_ns=S,
    book_ns=S,
)
QUIET = (Phase.ZEROING, Phase.SAFE, Phase.ARMED, Phase.ABORTING, Phase.ENDING, Phase.STOPPED, Phase.LATCHED)
RANK = {Phase.LATCHED: 0, Phase.ABORTING: 1, Phase.STOPPED: 1, Phase.ENDING: 2}


def _readbacks(state: PulseGuardState) -> Iterator[tuple[str, PulseReadback]]:
    armed = state.armed_ns != NEVER
    says = PulseState.FIRING if state.train_ns != NEVER else PulseState.ARMED if armed else PulseState.IDLE
    good = PulseReadback(
        t_ns=NOW, state=says, intensity_percent=50, pulses=state.given, ready=armed, coil_c=25.0, ack_seq=1, boot_count=1,
        fault="",
    )  # fmt: skip
    yield "readback: good", good
    yield "readback: idle", replace(good, state=PulseState.IDLE, ready=False)
    yield "readback: armed", replace(good, state=PulseState.ARMED, ready=True)
    yield "readback: not ready", replace(good, ready=False)
    yield "readback: firing", replace(good, state=PulseState.FIRING)
    yield "readback: too many", replace(good, pulses=state.given + 1)
    yield "readback: too strong", replace(good, intensity_percent=51)
    yield "readback: warm", replace(good, coil_c=40.1)
    yield "readback: fault", replace(good, state=PulseState.FAULT, fault="broken")
    yield "readback: restarted", replace(good, boot_count=2)
    yield "readback: uncertain", replace(good, state=PulseState.UNCERTAIN)


def _inputs(params: PulseParams, state: PulseGuardState) -> Iterator[tuple[str, int, PulseInput]]:
    """Name, time that passes before it, and the input; everything but a tick comes at once or too late."""
    yield "tick", S, Tick()
    yield "tick: late", 3 * S, Tick()
    for name, readback in _readbacks(state):
        yield name, 0, readback
    until = NOW + 2 * S
    for percent in (0, 50):
        yield f"pulses {percent}", 0, link.Pulses(seq=1, intensity_percent=percent, deadline_ns=until, decision=0)
    yield "pulses: late", 0, link.Pulses(seq=1, intensity_percent=50, deadline_ns=NOW, decision=0)
    yield "pulses: old", 0, link.Pulses(seq=0, intensity_percent=50, deadline_ns=until, decision=0)
    yield "pulses: too strong", 0, link.Pulses(seq=1, intensity_percent=51, deadline_ns=until, decision=0)
    yield "arm", 0, link.Arm(seq=1, code=arm_code(params, state))
    yield "arm: wrong code", 0, link.Arm(seq=1, code="?")
    yield "reserve", 0, link.ReservePulses(seq=1, pulses=2)
    yield "reserve: too much", 0, link.ReservePulses(seq=1, pulses=3)
    yield "booked", 0, Booked(1)
    yield "booked: another", 0, Booked(2)
    yield "book failed", 0, BookFailed(1, "full")
    for stop_class in (0, 1, 2):
        yield f"stop {stop_class}", 0, link.Stop(stop_class=stop_class, reason="")
    yield "reset", 0, link.Reset(seq=1, operator="x")
    yield "goodbye", 0, link.Goodbye(reason="")
    yield "engine gone", 0, EngineGone()
    yield "terminate", 0, Terminate()
    yield "garbage", 0, Garbage("")
    for kind in ("refused", "lost", "uncertain"):
        yield f"device {kind}", 0, DeviceFailure(kind, "")


def _since(value: int, now: int, most: int) -> int:
    """`value` seen from `now`, moved to `NOW`; ages beyond `most` seconds are all alike."""
    return NEVER if value == NEVER else NOW - min(now - value, most * S)


def _canonical(state: PulseGuardState, now: int) -> PulseGuardState:
    """The same state as if it were `NOW`, without what decides nothing in its phase."""
    if state.exited:
        return PulseGuardState(exited=True)
    phase = state.phase
    timed = phase in (Phase.ZEROING, Phase.ARMED, Phase.ABORTING, Phase.ENDING)
    resting = phase in (Phase.SAFE, Phase.STOPPED, Phase.LATCHED)
    phase_ns = _since(state.phase_ns, now, 3) if timed else NEVER
    leaving_ns = NEVER
    if resting and state.leaving:
        phase_ns = leaving_ns = _since(max(state.phase_ns, state.leaving_ns), now, 2)
    readback = state.readback
    if readback is not None:
        live = phase in (Phase.SAFE, Phase.ARMED, Phase.LIVE)
        keeps = readback.state if live or readback.state in (PulseState.IDLE, PulseState.FAULT) else PulseState.ARMED
        readback = replace(
            readback, t_ns=NOW, ack_seq=0, boot_count=1, intensity_percent=0, pulses=0, state=keeps,
            coil_c=readback.coil_c if live else 25.0, ready=readback.ready and phase is Phase.LIVE,
            fault=readback.fault if phase in (Phase.ZEROING, Phase.SAFE) else "",
        )  # fmt: skip
    in_gate = state.armed_ns != NEVER
    done = phase is Phase.LATCHED or bool(state.leaving)
    return PulseGuardState(
        phase=phase,
        reason="",
        stop_class=state.stop_class,
        wanted_percent=state.wanted_percent,
        lease_ns=NEVER if state.lease_ns <= now else NOW + state.lease_ns - now,
        tick_ns=NOW if state.tick_ns != NEVER else NEVER,
        slow_ns=NOW if state.slow_ns != NEVER else NEVER,
        phase_ns=phase_ns,
        armed_ns=_since(state.armed_ns, now, 1),
        was_ready=state.was_ready,
        train_ns=_since(state.train_ns, now, 3),
        rest_ns=_since(state.rest_ns, now, 3) if in_gate and state.train_ns == NEVER else NEVER,
        train_pulses=state.train_pulses if in_gate else 0,
        given=state.given if in_gate else 0,
        begun_ns=_since(state.begun_ns, now, 1),
        seen=min(state.seen, 1),
        quiet_ns=NEVER if in_gate else _since(state.quiet_ns, now, 2),
        readback=readback,
        heard_ns=_since(state.heard_ns, now, 2),
        boot_count=1 if state.boot_count is not None else None,
        silences=0 if done else min(state.silences, 1),
        blind=state.blind and phase in (Phase.ABORTING, Phase.ENDING),
        reserved=state.reserved,
        booking=1 if state.booking else 0,
        booking_ns=_since(state.booking_ns, now, 2),
        used=0 if done else min(state.used, PARAMS.limits.max_pulses),
        flowed=state.flowed,
        leaving=state.leaving,
        leaving_ns=leaving_ns,
    )


def _check(name: str, event: PulseInput, now: int, old: PulseGuardState, new: PulseGuardState, actions: list[Any]) -> None:
    """What holds on every edge."""
    fires = [action.train for action in actions if isinstance(action, FireTrain)]
    arms = [action.limits for action in actions if isinstance(action, ArmPulses)]
    stops = [action.stop_class for action in actions if isinstance(action, DeviceStop)]
    if fires or arms:
        assert isinstance(event, Tick) and old.phase is new.phase is Phase.LIVE, "only a tick of an armed gate gives"
        assert new.lease_ns > now and old.wanted_percent == 50, "no pulse without a lease and a wish"
        assert new.stop_class is None and not new.leaving
        assert old.reserved and not old.booking, "a pulse before the reservation is on disk"
    if arms:
        assert old.armed_ns == NEVER and not old.flowed and new.given == 0
        assert [(one.max_pulses, one.max_intensity_percent) for one in arms] == [(old.reserved, 50)]
    if fires:
        assert len(fires) == 1 and not arms and old.train_ns == NEVER and old.armed_ns != NEVER
        assert fires[0].intensity_percent == 50 and fires[0].interval_ms == 1000
        assert new.given == old.given + fires[0].pulses <= old.reserved, "more than was reserved"
        assert old.readback is not None and old.readback.state is PulseState.ARMED and old.readback.ready
        assert now - old.heard_ns <= PARAMS.stale_ns and old.heard_ns - old.armed_ns >= PARAMS.lag_ns
    if new.phase in QUIET:
        assert new.armed_ns == new.train_ns == NEVER and not new.wanted_percent, "armed outside a gate"
    if old.armed_ns != NEVER and new.armed_ns == NEVER:
        assert stops or any(isinstance(action, DisarmDevice) for action in actions), "a gate that ends without a word"
    if new.armed_ns != NEVER and isinstance(event, Tick):
        assert new.lease_ns > now
    if old.phase in RANK and new.phase in RANK:
        assert RANK[new.phase] <= RANK[old.phase], "a stop was downgraded"
    if new.phase is Phase.LATCHED and old.phase is not Phase.LATCHED:
        assert stops and stops[0] is StopClass.S0_CUT
    if old.phase in (Phase.LATCHED, Phase.STOPPED) and new.phase not in (old.phase, Phase.LATCHED):
        assert isinstance(event, link.Reset) and new.phase is Phase.ZEROING
        assert disarmed(PARAMS, old, now) and any(isinstance(action, ResetDevice) for action in actions)
    if new.phase is Phase.ARMED and old.phase not in (Phase.ARMED, Phase.LIVE):
        assert name == "arm" and old.phase is Phase.SAFE and disarmed(PARAMS, old, now)
    if new.phase is Phase.LIVE and old.phase is not Phase.LIVE:
        assert name in {"pulses 0", "pulses 50"} and old.phase is Phase.ARMED
    if old.phase is Phase.ABORTING and new.phase is not old.phase:
        assert new.phase in (Phase.STOPPED, Phase.LATCHED)
    if (name == "stop 0" or name == "tick: late") and old.tick_ns != NEVER:
        assert new.phase is Phase.LATCHED
    if name in {"readback: too strong", "readback: restarted", "readback: fault"} and old.phase is Phase.LIVE:
        assert new.phase is Phase.LATCHED
    if name == "readback: too many" and old.armed_ns != NEVER and now - old.armed_ns >= PARAMS.lag_ns:
        assert new.phase is Phase.LATCHED
    if name == "readback: warm" and old.armed_ns != NEVER:
        assert new.phase in (Phase.ABORTING, Phase.LATCHED)
    if name in {"pulses: late", "pulses: old", "pulses: too strong", "arm: wrong code", "reserve: too much"}:
        assert (new.phase, new.wanted_percent, new.lease_ns, new.reserved, new.armed_ns) == (
            old.phase, old.wanted_percent, old.lease_ns, old.reserved, old.armed_ns,
        )  # fmt: skip
    for action in actions:
        if isinstance(action, BookPulses):
            assert old.phase in (Phase.ARMED, Phase.LIVE) and old.armed_ns == NEVER and not old.flowed
        if isinstance(action, SettlePulses):
            assert new.reserved == 0 and disarmed(PARAMS, new, now) and action.pulses == old.seen
        if isinstance(action, Exit):
            assert new.leaving is not Leaving.STAYS and new.armed_ns == NEVER
            assert action.code == 4 or disarmed(PARAMS, new, now)
    assert new.used >= old.used


class Exploration:
    """All reachable states, how often each phase is left for which other, and the number of edges."""

    def __init__(self, params: PulseParams) -> None:
        start = _canonical(initial(params), NOW)
        self.states: set[PulseGuardState] = {start}
        self.moves: Counter[tuple[Phase, str, Phase]] = Counter()
        self.edges = 0
        self.by_phase: Counter[Phase] = Counter()
        waiting = deque([start])
        while waiting:
            old = waiting.popleft()
            if old.exited:
                continue
            self.by_phase[old.phase] += 1
            for name, later, event in _inputs(params, old):
                if old.tick_ns == NEVER and not isinstance(event, Tick):
                    continue
                now = NOW + later
                new, actions = step(params, old, now, event)
                if isinstance(event, Garbage):
                    # Once and twice only count; the third time within a second is what this edge stands for.
                    assert replace(new, garbage_ns=(), dropped=0) == old
                    new, actions = step(params, step(params, new, now, event)[0], now, event)
                    assert new.phase is Phase.LATCHED
                self.edges += 1
                try:
                    _check(name, event, now, old, new, actions)
                except AssertionError as error:
                    raise AssertionError(f"{name}\nfrom {old}\nto {new}\ndoing {actions}\n{error}") from error
                self.moves[old.phase, name, new.phase] += 1
                seen = _canonical(new, now)
                if seen not in self.states:
                    self.states.add(seen)
                    waiting.append(seen)


@pytest.fixture(scope="module")
def explored() -> Exploration:
    return Exploration(PARAMS)


def test_every_edge_holds(explored: Exploration) -> None:
    print(f"\n{len(explored.states)} states, {explored.edges} edges, {dict(explored.by_phase)}")
    assert set(explored.by_phase) == set(Phase)
    assert len(explored.states) > 1000


def test_the_emergency_stop_latches_every_phase(explored: Exploration) -> None:
    reached = {(old, new) for old, name, new in explored.moves if name == "stop 0"}
    assert reached == {(phase, Phase.LATCHED) for phase in Phase}


def test_every_phase_is_left_only_as_designed(explored: Exploration) -> None:
    """The graph of phases is that of the guard of a current; a new arrow is a decision, not an accident."""
    z, s, a, live, ab, e, st, lat = Phase
    arrows = {(old, new) for old, _, new in explored.moves if old is not new}
    designed = {
        (z, s), (z, lat), (s, a), (s, lat), (a, live), (a, s), (a, st), (a, lat), (a, e), (a, ab), (live, a), (live, s),
        (live, ab), (live, e), (live, st), (live, lat), (ab, st), (ab, lat), (e, s), (e, ab), (e, lat), (st, z), (st, lat),
        (lat, z),
    }  # fmt: skip
    assert arrows <= designed, arrows - designed
    assert designed - arrows <= {(a, e), (a, ab)}, designed - arrows
