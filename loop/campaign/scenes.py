"""What is done to the virtual rig for each row of the hazard table that strikes a running session.

A scene is given the rig at its moment and a seeded generator, does its harm (now, or by appointment), and says how the run is
judged.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

import cext
from devices import link
from devices.stimulator import StopClass
from devices.units import NS_PER_MS, NS_PER_S
from loop.campaign.rig import LABELS, RATE_HZ, Rig, layout
from loop.events import Chunk, Features, Incident, Marker, Outcome, RecorderLost, SourceLost
from loop.gate import Phase

When = Literal["current", "any", "rising", "moving"]
HOUR_NS: Final = 3600 * NS_PER_S
DRIFT_S: Final = 20.0
"""How long a wrong rate can last before it is seen: the framer judges whole windows of 10 s, of which one may be half good."""
_BRIDGE_SHOWS_UA: Final = 300.0
"""Below this a bridge of saline, which leaves some hundred ohm, need not measure as a short."""


class Case(NamedTuple):
    """How one run is judged.

    `from_ns` is the moment of the fault, or a function of the rig after the run where it shows only later. `answers` and
    `bound_s` replace those of the row where this variant differs. `watch_s` is how long the run goes on at most; it is over
    sooner once the current has been zero for 0.3 s, unless `to_the_end`. `check` finds what else is wrong, in one sentence.
    """

    from_ns: int | Callable[[Rig], int]
    watch_s: float = 2.2
    answers: tuple[str, ...] = ()
    bound_s: float | None = None
    to_the_end: Literal["yes", "no"] = "no"
    check: Callable[[Rig], str] = lambda _: ""


class Scene(NamedTuple):
    """A row's harm, the moments that it strikes, the current that must flow then, and for how many seconds more."""

    act: Callable[[Rig, random.Random], Case]
    when: When = "current"
    least_ua: float = 0.0
    least_s: float = 0.0


# ---- stream


def _gap(rig: Rig, rng: random.Random) -> Case:
    rig.stream.state = "drops"
    rig.after(rng.uniform(0.25, 3.0), lambda: _flow(rig))
    return Case(rig.t_ns)


def _flow(rig: Rig) -> None:
    rig.stream.state = "flows"


def _cable(rig: Rig, rng: random.Random) -> Case:
    rig.stream.state = "drops"
    rig.after(rng.uniform(0.0, 0.3), lambda: rig.feed(SourceLost(t_ns=rig.t_ns, reason="the stream was lost")))
    return Case(rig.t_ns)


def _outlet_frozen(rig: Rig, rng: random.Random) -> Case:
    rig.stream.state = "holds"
    rig.after(rng.uniform(0.5, 3.0), lambda: _flow(rig))
    return Case(rig.t_ns)


def _outlet_killed(rig: Rig, rng: random.Random) -> Case:
    rig.stream.state = "drops"
    rig.after(rng.uniform(0.0, 0.1), lambda: rig.feed(SourceLost(t_ns=rig.t_ns, reason="the sender has gone")))
    return Case(rig.t_ns)


def _restarted(rig: Rig, rng: random.Random) -> Case:
    case = _outlet_killed(rig, rng)
    rig.after(rng.uniform(0.15, 1.0), lambda: _again(rig, layout()))
    return case


def _again(rig: Rig, changed: object) -> None:
    rig.restart_stream(changed)  # type: ignore[arg-type]
    _flow(rig)


def _swapped(rig: Rig, rng: random.Random) -> Case:
    labels = list(LABELS)
    while tuple(labels) == LABELS:
        rng.shuffle(labels)
    case = _outlet_killed(rig, rng)
    rig.after(rng.uniform(0.15, 1.0), lambda: _again(rig, layout(tuple(labels))))
    return case._replace(check=_refuses_layout, to_the_end="yes")


def _other_layout(rig: Rig, rng: random.Random) -> Case:
    other = rng.choice(
        (layout(rate_hz=RATE_HZ * rng.choice((0.5, 2.0, 4.0))), layout(to_uv=1000.0), layout(LABELS[: rng.randint(3, 7)]))
    )
    case = _outlet_killed(rig, rng)
    rig.after(rng.uniform(0.15, 1.0), lambda: _again(rig, other))
    return case._replace(check=_refuses_layout, to_the_end="yes")


def _refuses_layout(rig: Rig) -> str:
    if "layout_changed" not in rig.incidents():
        return "another layout was not noticed"
    refused_ns = next(o.t_ns for o in rig.outputs if isinstance(o, Incident) and o.name == "layout_changed")
    late = any(isinstance(o, Features) and len(o.t_ns) and int(o.t_ns[-1]) > refused_ns for o in rig.outputs)
    return "samples of another layout were worked on" if late else ""


def _clock_jump(rig: Rig, rng: random.Random) -> Case:
    rig.stream.shift_ns = rng.choice((HOUR_NS, -HOUR_NS))
    return Case(rig.t_ns)


def _rate_off(rig: Rig, rng: random.Random) -> Case:
    rig.stream.set_rate(rig.t_ns, rng.choice((0.97, 1.03)))
    seen_ns = rig.t_ns + round(DRIFT_S * NS_PER_S)
    return Case(lambda r: min(seen_ns, _stopped_ns(r)), DRIFT_S + 2.2)


def _stopped_ns(rig: Rig) -> int:
    """When the engine first stopped the gate because of the stream; far in the future if it never did."""
    return min((o.t_ns for o in rig.outputs if isinstance(o, Incident) and o.name == "abort"), default=1 << 62)


def _old_burst(rig: Rig, rng: random.Random) -> Case:
    if rng.random() < 0.5:
        return _outlet_frozen(rig, rng)
    # The stream goes on, but what comes is old: no sign of life.
    rig.stream.shift_ns = -rng.randint(250, 5000) * NS_PER_MS
    return Case(rig.t_ns)


def _twice_or_swapped(rig: Rig, rng: random.Random) -> Case:
    pulled = None
    rig.stream.state = "holds"
    rig.run(0.045)
    rig.stream.state = "flows"
    pulled = rig.stream.pull(rig.t_ns)
    assert pulled is not None
    stamps, samples = pulled
    half = len(stamps) // 2
    first, second = (stamps[:half], samples[:half]), (stamps[half:], samples[half:])
    order = (first, second, second) if rng.random() < 0.5 else (second, first)
    at = rig.stream.handed - len(stamps)
    for piece, values in order:
        rig.feed(Chunk(t_ns=rig.t_ns, segment=rig.segment, first=at, stamps_ns=piece, samples=values))
        at += len(piece)
    return Case(rig.t_ns, answers=("S1", "on"), bound_s=1.4)


# ---- signal

Alter = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]


def _signal(make: Callable[[random.Random], Alter], flag: int = 0) -> Callable[[Rig, random.Random], Case]:
    """A scene that changes samples; at zero current `flag` must then be among the kernel's flags."""

    def act(rig: Rig, rng: random.Random) -> Case:
        rig.stream.alter = make(rng)
        senses = rig.level_ua == 0.0 and flag

        def check(after: Rig) -> str:
            flags = [int(np.bitwise_or.reduce(o.flags)) for o in after.outputs if isinstance(o, Features) and len(o.flags)]
            if senses and not any(one & flag for one in flags):
                return "the samples were not flagged"
            return _no_evidence(after)

        return Case(rig.t_ns, 0.7, check=check)

    return act


def _no_evidence(rig: Rig) -> str:
    taken = any(isinstance(o, Outcome) and not o.reason for o in rig.outputs)
    return "an outcome became evidence" if taken else ""


def _channels(rng: random.Random) -> list[int]:
    return rng.sample(range(len(LABELS)), rng.randint(1, len(LABELS)))


def _to(value: Callable[[random.Random], float]) -> Callable[[random.Random], Alter]:
    def make(rng: random.Random) -> Alter:
        # PO9 among them: what no channel of the estimator sees needs no flag. Were it every channel, it would be F26's "nan".
        columns, number = sorted({0, *_channels(rng)} - {rng.randrange(1, len(LABELS))}), value(rng)

        def alter(samples: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            samples[:, columns] = number
            return samples

        return alter

    return make


def _added(wave: Callable[[random.Random, int], npt.NDArray[np.float64]]) -> Callable[[random.Random], Alter]:
    def make(rng: random.Random) -> Alter:
        columns = _channels(rng)

        def alter(samples: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            samples[:, columns] += wave(rng, len(samples))[:, None]
            return samples

        return alter

    return make


def _leak(rig: Rig, rng: random.Random) -> Case:
    gain = rng.uniform(-5.0, 5.0)

    def alter(samples: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return samples + gain * rig.model.current_ua

    def mark() -> None:
        for text in ("OUT_DUE", "STIM/NOX/100"):
            rig.feed(Marker(t_ns=rig.t_ns, stamp_ns=rig.t_ns, text=text))

    rig.stream.alter = alter
    rig.after(0.05, mark)
    return Case(rig.t_ns, 1.5, check=_no_evidence)


# ---- engine, guard, link


def _engine_dies(least_s: float, most_s: float) -> Callable[[Rig, random.Random], Case]:
    def act(rig: Rig, rng: random.Random) -> Case:
        rig.after(rng.uniform(least_s, most_s), lambda: rig.kill("engine"))
        return Case(rig.t_ns)

    return act


def _engine_freezes(least_s: float, most_s: float) -> Callable[[Rig, random.Random], Case]:
    def act(rig: Rig, rng: random.Random) -> Case:
        rig.freeze("engine")
        rig.after(rng.uniform(least_s, most_s), lambda: rig.thaw("engine"))
        return Case(rig.t_ns, 3.6 if most_s > 1.0 else 2.2)

    return act


def _slow(rig: Rig, rng: random.Random) -> Case:
    rig.engine_late = lambda: round(rng.uniform(0.26, 1.0) * NS_PER_S)
    return Case(rig.t_ns)


def _estimator_fails(rig: Rig, rng: random.Random) -> Case:
    match rng.choice(("blocks", "raises", "nan")):
        case "blocks":
            rig.freeze("engine")
            return Case(rig.t_ns)
        case "raises":
            return _engine_dies(0.0, 0.005)(rig, rng)
        case _:
            rig.stream.alter = lambda samples: np.full_like(samples, np.nan)
            return Case(rig.t_ns, check=_no_evidence)


def _overload(rig: Rig, rng: random.Random) -> Case:
    rig.engine_late = lambda: round(min(rng.expovariate(1 / 0.06), 0.6) * NS_PER_S)
    rig.guard_late = lambda: round(min(rng.expovariate(1 / 0.01), 0.14) * NS_PER_S)
    # Who bears the load need not stop; a stop is owed from the moment that the lease was renewed last.
    return Case(lambda r: max(r.t0_ns, r.stop_ns - 250 * NS_PER_MS), 3.0, answers=("on", "S1", "S0"))


def _guard_dies(rig: Rig, _rng: random.Random) -> Case:
    rig.kill("guard")
    return Case(rig.t_ns)


def _guard_freezes(rig: Rig, rng: random.Random) -> Case:
    rig.freeze("guard")
    rig.after(rng.uniform(0.3, 1.5), lambda: rig.thaw("guard"))
    return Case(rig.t_ns, 2.0, to_the_end="yes", check=_latched)


def _latched(rig: Rig) -> str:
    return "" if rig.guard.phase == "latched" else f"the guard woke up {rig.guard.phase.value}"


def _both_die(rig: Rig, rng: random.Random) -> Case:
    first, second = rng.sample(("engine", "guard"), 2)
    rig.kill(first)  # type: ignore[arg-type]
    rig.after(rng.uniform(0.0, 0.005), lambda: rig.kill(second))  # type: ignore[arg-type]
    # A guard that outlives the engine by a tick has already told the device to ramp down.
    return Case(rig.t_ns, answers=("S0", "S1") if first == "engine" else ())


def _bad_link(rig: Rig, rng: random.Random) -> Case:
    kind = rng.choice(("garbage", "truncated", "replayed", "expired", "flooded"))
    seq = rig.guard.state.last_seq
    order = link.Command(seq=seq + 1, level_ua=2000, deadline_ns=rig.t_ns + 250 * NS_PER_MS, decision=1)
    if kind in ("replayed", "expired"):
        old = link.Command(seq=max(seq - 1, 1), level_ua=2000, deadline_ns=order.deadline_ns, decision=1)
        late = link.Command(seq=seq, level_ua=2000, deadline_ns=rig.t_ns - rng.randint(0, NS_PER_S), decision=1)
        for number in range(20):
            rig.after(0.02 * number + 0.001, lambda: rig.wire(link.encode(old if kind == "replayed" else late)))
        return Case(rig.t_ns, 0.7, answers=("on",))
    times = sorted(rng.uniform(0.0, 0.9) for _ in range(3))
    for at_s in times:
        if kind == "flooded":
            rig.after(at_s, rig.flood)
        elif kind == "garbage":
            rig.after(at_s, lambda: rig.wire(rng.randbytes(rng.randint(0, 400))))
        else:
            rig.after(at_s, lambda: rig.wire(link.encode(order)[: rng.randint(0, 10)]))
    return Case(rig.t_ns + round(times[-1] * NS_PER_S), 1.4, to_the_end="yes", check=_latched)


# ---- device


def _device(*texts: str, check: Callable[[Rig], str] = lambda _: "") -> Callable[[Rig, random.Random], Case]:
    """One of these faults; ``{a..b}`` stands for a number drawn between a and b, whole ones for whole bounds."""

    def act(rig: Rig, rng: random.Random) -> Case:
        return Case(rig.inject(filled(rng.choice(texts), rng)), check=check)

    return act


def filled(text: str, rng: random.Random) -> str:
    """`text` with numbers drawn for its ranges."""
    while "{" in text:
        before, _, rest = text.partition("{")
        spread, _, after = rest.partition("}")
        low, high = spread.split("..")
        number = rng.uniform(float(low), float(high))
        text = f"{before}{number:.6g}{after}"
    return text


def _reset(rig: Rig, rng: random.Random) -> Case:
    """The brown-out itself takes the current away; that the device has forgotten everything shows once it is up again."""
    boot_ms = rng.uniform(1.0, 2000.0)
    return Case(rig.inject(f"reset:boot_ms={boot_ms:.0f}"), boot_ms / 1000.0 + 0.5, to_the_end="yes", check=_latched)


def _over_current(rig: Rig, rng: random.Random) -> Case:
    least = 120.0 + 0.15 * rig.level_ua
    which = rng.choice(("over_current:extra_ua", "offset:offset_ua"))
    sign = rng.choice((1, -1)) if which.startswith("offset") else 1
    # An offset against the sign of the level lowers the current at first; what counts is that it is off.
    return Case(rig.inject(f"{which}={sign * rng.uniform(least, least + 1500.0):.1f}"))


def _stuck(rig: Rig, rng: random.Random) -> Case:
    rig.inject(rng.choice(("stuck_output", "stuck_adc")))
    frozen_ua = rig.level_ua
    shown: list[int] = []

    def notice() -> None:
        level = rig.guard.state.level_ua
        if not shown and abs(level - frozen_ua) > max(50.0, 0.1 * level):
            shown.append(rig.t_ns)

    rig.every_turn = notice
    # What is stuck at the right value is no fault yet; it shows once the level has moved away by more than the tolerance.
    return Case(lambda r: shown[0] if shown else r.t_ns, 6.0, answers=("S0", "on") if not shown else ())


def _impedance(rig: Rig, rng: random.Random) -> Case:
    texts = ["impedance_rise:over_s=0,factor={6..20}", "short:ohm={10..250}"]
    if rig.level_ua >= _BRIDGE_SHOWS_UA and rig.gate_phase is not Phase.RAMP_DOWN:
        texts.append("bridge:over_s=0")
    text = rng.choice(texts)
    return Case(rig.inject(filled(text, rng)))


# ---- operator, host


def emergency(rig: Rig, rng: random.Random) -> None:
    """Stop at the terminal, from another one, or by the button on the device."""
    how = rng.choice(("terminal", "stranger", "button"))
    if how == "terminal" and rig.engine_life == "running":
        rig.operator("cut")
    elif how == "button":
        rig.inject("emergency_button")
    else:
        rig.stranger(link.Stop(stop_class=int(StopClass.S0_CUT), reason="emergency stop"))


def _emergency(rig: Rig, rng: random.Random) -> Case:
    emergency(rig, rng)
    return Case(rig.t_ns, to_the_end="yes", watch_s=0.8, check=_latched)


def _held(rig: Rig, rng: random.Random) -> Case:
    emergency(rig, rng)
    for number in range(rng.choice((1, 60))):
        rig.after(0.015 * (number + 1), lambda: rig.stranger(link.Stop(stop_class=0, reason="emergency stop")))
    return Case(rig.t_ns, to_the_end="yes", watch_s=1.0, check=_latched)


def _dead_engine_stop(rig: Rig, rng: random.Random) -> Case:
    rig.kill("engine")
    rig.run(rng.uniform(0.0, 0.4))
    from_ns = rig.t_ns
    rig.stranger(link.Stop(stop_class=0, reason="emergency stop"))
    # The abort after the engine's death may have brought zero already, and the guard then ends.
    return Case(from_ns, answers=("S0", "S1") if rig.level_ua <= 10.0 else ())


def _start_twice(rig: Rig, _rng: random.Random) -> Case:
    rig.arm()
    return Case(rig.t_ns, 0.5, check=lambda r: "" if any("not armed" in why for why in r.refusals()) else "not refused")


def _start_latched(rig: Rig, rng: random.Random) -> Case:
    emergency(rig, rng)
    from_ns = rig.t_ns
    for at_s in (0.4, 0.6):
        rig.after(at_s, rig.arm)
    forced = link.Command(seq=1 << 40, level_ua=500, deadline_ns=from_ns + NS_PER_S, decision=1)
    rig.after(0.8, lambda: rig.wire(link.encode(forced)))

    def check(after: Rig) -> str:
        return _latched(after) or ("" if any("latched" in why for why in after.refusals()) else "not refused with the reason")

    return Case(from_ns, 1.5, bound_s=0.25, to_the_end="yes", check=check)


def _stop_in_ramp(rig: Rig, _rng: random.Random) -> Case:
    top_ua = rig.level_ua
    rig.operator("stop")
    assert rig.config.stimulation is not None
    ramp_s = rig.config.stimulation.ramp_s

    def check(after: Rig) -> str:
        most = max((abs(record.current_ua) for record in after.records), default=0.0)
        return f"a peak of {most:.0f} uA after a stop at {top_ua:.0f} uA" if most > 1.02 * top_ua + 12.0 else ""

    return Case(rig.t_ns, ramp_s + 1.0, bound_s=ramp_s + 0.3, check=check)


def _record_lost(reason: str) -> Callable[[Rig, random.Random], Case]:
    def act(rig: Rig, rng: random.Random) -> Case:
        rig.after(rng.uniform(0.0, 0.2), lambda: rig.feed(RecorderLost(t_ns=rig.t_ns, reason=reason)))
        return Case(rig.t_ns)

    return act


def _suspend(rig: Rig, rng: random.Random) -> Case:
    asleep_s = rng.choice((rng.uniform(0.45, 2.0), rng.uniform(2.0, 60.0)))
    rig.freeze("engine", "guard")
    rig.after(asleep_s, lambda: rig.thaw("engine", "guard"))
    return Case(rig.t_ns, asleep_s + 0.5, to_the_end="yes", check=_latched)


SCENES: Final[dict[str, Scene]] = {
    "F01": Scene(_gap),
    "F02": Scene(_cable),
    "F03": Scene(_outlet_frozen),
    "F04": Scene(_outlet_killed),
    "F05": Scene(_restarted),
    "F06": Scene(_swapped),
    "F07": Scene(_other_layout),
    "F09": Scene(_clock_jump),
    "F10": Scene(_rate_off, "rising", least_s=DRIFT_S + 1.0),
    "F11": Scene(_old_burst),
    "F12": Scene(_twice_or_swapped),
    "F13": Scene(_signal(_to(lambda rng: rng.choice((np.nan, np.inf, -np.inf))), cext.NONFINITE), "any"),
    "F14": Scene(_signal(_to(lambda rng: rng.choice((-1, 1)) * 187_500.0), cext.RAILED), "any"),
    "F15": Scene(_signal(_to(lambda rng: rng.uniform(-50.0, 50.0)), cext.FLAT), "any"),
    "F16": Scene(_signal(_added(lambda rng, n: np.linspace(0.0, rng.uniform(-2000.0, 2000.0), n))), "any"),
    "F17": Scene(_signal(_added(lambda _, n: 300.0 * np.sin(2 * np.pi * 50.0 * np.arange(n) / RATE_HZ))), "any"),
    "F18": Scene(_signal(_added(lambda rng, n: np.array([rng.gauss(0.0, 200.0) for _ in range(n)]))), "any"),
    "F19": Scene(_leak),
    "F20": Scene(_engine_dies(0.0, 0.0)),
    "F21": Scene(_engine_dies(0.0, 0.02)),
    "F22": Scene(_engine_dies(0.0, 0.005)),
    "F23": Scene(_engine_freezes(0.28, 3.0)),
    "F24": Scene(_engine_freezes(0.3, 0.3)),
    "F25": Scene(_slow),
    "F26": Scene(_estimator_fails),
    "F27": Scene(_overload),
    "F28": Scene(_guard_dies),
    "F29": Scene(_guard_freezes),
    "F30": Scene(_both_die),
    "F31": Scene(_bad_link),
    "F32": Scene(_device("wrong_ack:ahead={1000..1e6}", "garbage", "truncated", "bit_flip")),
    "F33": Scene(_over_current, least_ua=60.0),
    "F34": Scene(_device("wrong_polarity"), least_ua=60.0),
    "F35": Scene(_device("open_circuit", "chatter:hz={3..45}"), least_ua=120.0),
    "F36": Scene(_reset),
    "F37": Scene(_stuck, "moving", 60.0),
    "F38": Scene(_device("slow_replies:delay_ms={300..2000}", "lost_replies")),
    "F39": Scene(_device("half_open")),
    "F40": Scene(_impedance, least_ua=120.0),
    "F41": Scene(_emergency, "any"),
    "F42": Scene(_held, "any"),
    "F43": Scene(_dead_engine_stop),
    "F44": Scene(_start_twice),
    "F45": Scene(_start_latched, "any"),
    "F46": Scene(_stop_in_ramp, "rising"),
    "F47": Scene(_record_lost("No space left on device")),
    "F48": Scene(_record_lost("disk I/O error")),
    "F49": Scene(_suspend),
}
