"""Where the time goes from brain to current: the delay of every stage, from the filters and the configuration."""

from __future__ import annotations

import math
from typing import Final, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import signal

from devices.guard_state import TICK_NS as GUARD_TICK_NS
from devices.pulse_settings import GATE_ALLOWANCE_S, gate_s
from devices.units import NS_PER_S
from loop import estimator
from loop.config import Config
from loop.estimator import FEATURE_RATE_HZ, KIND
from loop.estimators import event_readout
from loop.run import REPLAY_CHUNK_S, SIMULATE_CHUNK_S
from loop.steering import LEASE_NS
from loop.steering import TICK_NS as ENGINE_TICK_NS

Sections = npt.NDArray[np.float64]

Origin = Literal["computed", "configured", "fixed", "assumed", "sum"]
"""From the filters' coefficients; from the configuration; a constant of the code; typical, not measured here; a sum of rows."""

USUAL_RATE_HZ: Final = 500.0
BURST_SD_S: Final = 0.06
LSL_S: Final = 0.005
AMPLIFIER_CHUNK_S: Final = 0.02
TRIAL_S: Final = 11.0


class StageLatency(msgspec.Struct, frozen=True, kw_only=True):
    """One stage: `what` says what the delay is of, and in which key it can be changed; `origin` where the number is from."""

    name: str
    what: str
    delay_s: float
    origin: Origin


class _Band(NamedTuple):
    name: str
    edges_hz: tuple[float, float]
    sections: Sections
    tau_s: float


def group_delay_s(sections: Sections, frequency_hz: float, sfreq_hz: float) -> float:
    """Group delay of second-order sections in series: the sum over the sections.

    Parameters
    ----------
    sections : ndarray, shape (n_sections, 6)
    frequency_hz, sfreq_hz : float

    Returns
    -------
    float
        Seconds.
    """
    total = 0.0
    for section in sections:
        _, delay = signal.group_delay((section[:3], section[3:]), w=np.array([frequency_hz]), fs=sfreq_hz)
        total += float(delay[0])
    return total / sfreq_hz


def envelope_lag_s(sections: Sections, frequency_hz: float, tau_s: float, sfreq_hz: float) -> float:
    """How much later than a burst its envelope peaks, behind filters and leaky integration (K2, K3).

    The burst is a Gaussian of 60 ms standard deviation at `frequency_hz`; the powers of its sine and cosine are added, so that
    its phase does not matter. Longer bursts lag more: towards group delay plus `tau_s`.

    Parameters
    ----------
    sections : ndarray, shape (n_sections, 6)
    frequency_hz, tau_s, sfreq_hz : float

    Returns
    -------
    float
        Seconds, to one sample.
    """
    n_before, n_after = math.ceil(1.0 * sfreq_hz), math.ceil(3.0 * sfreq_hz)
    t_s = np.arange(-n_before, n_after) / sfreq_hz
    burst = np.exp(-0.5 * (t_s / BURST_SD_S) ** 2 + 2j * np.pi * frequency_hz * t_s)
    power = signal.sosfilt(sections, burst.real) ** 2 + signal.sosfilt(sections, burst.imag) ** 2
    keep = math.exp(-1.0 / (tau_s * sfreq_hz))
    smooth = signal.lfilter([1.0 - keep], [1.0, -keep], power)
    return float(t_s[np.argmax(smooth)])


def stage_latencies(config: Config, sfreq_hz: float | None = None) -> list[StageLatency]:
    """List every stage between an event in the brain and full current, in the order in which they follow each other.

    The windows of the event features already reach over the delay of filters and envelopes, so a sum never counts both. Stages
    that stand for waiting on a grid or for a chunk are given at their longest.

    Parameters
    ----------
    config : Config
    sfreq_hz : float, optional
        Rate of the stream. Without it: the simulated patient's, or 500 Hz, since a stream tells its rate only once it is open.

    Returns
    -------
    list of StageLatency
        The estimator's own stages only if it is a built-in (of `event_readout` its windows); rows of origin ``sum`` come last.

    Raises
    ------
    ValueError
        If the rate is outside 128 to 4096 Hz.
    """
    if sfreq_hz is None:
        sfreq_hz = config.patient.sfreq_hz if config.source.kind == "patient" and config.patient else USUAL_RATE_HZ
    if not estimator.LEAST_RATE_HZ <= sfreq_hz <= estimator.MOST_RATE_HZ:
        raise ValueError(
            f"sfreq_hz is {sfreq_hz:g}; expected {estimator.LEAST_RATE_HZ:g} to {estimator.MOST_RATE_HZ:g} samples a second"
        )
    arrival = _arrival(config)
    stages = list(arrival)
    sums: list[StageLatency] = []
    if config.estimator.kind == KIND:
        stages += _filters(config, sfreq_hz)
        window = _window("theta", estimator.THETA_WINDOW)
        stages += [_window("beta", estimator.BETA_WINDOW), window]
        sums.append(_sum("outcome → index", "the index needs both windows, so it comes with the later one", [window, *arrival]))
    elif config.estimator.kind == event_readout.KIND:
        ticks = event_readout.WAVEFORM_WINDOWS[0][0], event_readout.WAVEFORM_WINDOWS[-1][1]
        stages += [_window("waveform", ticks), _window("theta", event_readout.THETA_WINDOWS[-1])]
        sums.append(_sum("outcome → index", "the index needs every window", [stages[-2], *arrival]))
    if config.stimulates:
        decided, cycle = _to_current(config), _cycle(config)
        stages += [*decided, *cycle]
        sums.append(_sum("decision → full current", "from the verdict to the plateau", decided))
    return stages + sums


def _arrival(config: Config) -> list[StageLatency]:
    """From the sample's own time to the kernel, at the longest."""
    if config.source.kind == "lsl":
        what = "a sample waits for the rest of its chunk; typical, the amplifier's software knows better"
        transport = "Lab Streaming Layer from outlet to inlet, on one machine or a quiet wired network"
        return [
            StageLatency(name="chunk", what=what, delay_s=AMPLIFIER_CHUNK_S, origin="assumed"),
            StageLatency(name="transport", what=transport, delay_s=LSL_S, origin="assumed"),
        ]
    chunk_s = SIMULATE_CHUNK_S if config.source.kind == "patient" else REPLAY_CHUNK_S
    what = "a sample waits for the rest of the chunk that is played at once"
    return [StageLatency(name="chunk", what=what, delay_s=chunk_s, origin="fixed")]


def _filters(config: Config, sfreq_hz: float) -> list[StageLatency]:
    """Filters, envelopes and the feature grid."""
    bank = estimator.design(sfreq_hz, float(config.channels.line_hz))
    # A band of order 1 is one section; what comes before it, high-pass and notch, is common to all bands.
    common = bank.theta[:-1]
    bands = [
        _Band("theta", estimator.THETA_HZ, bank.theta, estimator.TAU_THETA_S),
        _Band("beta", estimator.BETA_HZ, bank.beta, estimator.TAU_BETA_S),
    ]
    if bank.muscle is not None and bank.muscle_band_hz is not None:
        bands.append(_Band("muscle", bank.muscle_band_hz, bank.muscle, estimator.TAU_MUSCLE_S))
    stages = []
    for name, edges_hz, sections, tau_s in bands:
        centre_hz = math.sqrt(edges_hz[0] * edges_hz[1])
        at = f"group delay at the band's centre, {centre_hz:.3g} Hz"
        rows = (
            (f"{name}: high-pass and notch", at, group_delay_s(common, centre_hz, sfreq_hz)),
            (f"{name}: band filter", at, group_delay_s(sections[len(common) :], centre_hz, sfreq_hz)),
            (
                f"{name}: envelope",
                f"a burst of {BURST_SD_S * 1e3:.0f} ms to the peak of its log power, filters included",
                envelope_lag_s(sections, centre_hz, tau_s, sfreq_hz),
            ),
        )
        stages += [StageLatency(name=row, what=what, delay_s=delay_s, origin="computed") for row, what, delay_s in rows]
    what = f"log powers are read off {FEATURE_RATE_HZ} times a second; an event in between counts from its tick on"
    stages.append(StageLatency(name="decimation", what=what, delay_s=1.0 / FEATURE_RATE_HZ, origin="fixed"))
    what = "after a gap or bad samples the filters start anew; until then no frame is valid (estimator.warmup_s)"
    stages.append(StageLatency(name="warm-up", what=what, delay_s=config.estimator.warmup_s, origin="configured"))
    return stages


def _window(name: str, ticks: tuple[int, int]) -> StageLatency:
    start_s, stop_s = (tick / FEATURE_RATE_HZ for tick in ticks)
    what = f"the {name} features of an event are means from {start_s:.2f} to {stop_s:.2f} s after it, filter delays included"
    return StageLatency(name=f"{name}: end of window", what=what, delay_s=stop_s, origin="fixed")


def _to_current(config: Config) -> list[StageLatency]:
    """From a verdict to the plateau."""
    ticks = [
        StageLatency(
            name="engine tick",
            what="the gate steps at ticks; live, a tick follows each chunk at once",
            delay_s=ENGINE_TICK_NS / NS_PER_S,
            origin="fixed",
        ),
        StageLatency(
            name="guard tick",
            what="the guard hands its set points to the driver at ticks of its own",
            delay_s=GUARD_TICK_NS / NS_PER_S,
            origin="fixed",
        ),
    ]
    if config.stimulation is None:
        what = "the stimulator arms and charges before the first pulse, at the longest"
        return [*ticks, StageLatency(name="charge", what=what, delay_s=GATE_ALLOWANCE_S, origin="assumed")]
    what = "zero to full level, a raised cosine; as long again down (stimulation.ramp_s)"
    return [*ticks, StageLatency(name="ramp", what=what, delay_s=config.stimulation.ramp_s, origin="configured")]


def _cycle(config: Config) -> list[StageLatency]:
    """The parts of the cycle that no outcome waits for."""
    n = config.policy.min_outcomes
    rows: list[tuple[str, str, float, Origin]] = [
        _hold(config),
        ("settle", "after zero, until the filters are trusted again (gate.settle_s)", config.gate.settle_s, "configured"),
        ("sense", "at zero current, at the least (gate.sense_s)", config.gate.sense_s, "configured"),
        ("refractory", "between two gates, at the least (policy.refractory_s)", config.policy.refractory_s, "configured"),
        ("lease", "how long current outlives a silent engine, before the guard's ramp", LEASE_NS / NS_PER_S, "fixed"),
    ]
    if config.session.arm == "closed_loop":
        what = f"until {n} outcomes have been judged (policy.min_outcomes), at {TRIAL_S:g} s a trial; with invalid ones, longer"
        rows.insert(3, ("evidence", what, n * TRIAL_S, "assumed"))
    return [StageLatency(name=name, what=what, delay_s=delay_s, origin=origin) for name, what, delay_s, origin in rows]


def _hold(config: Config) -> tuple[str, str, float, Origin]:
    if config.stimulation is not None:
        return "hold", "at full level, blind (stimulation.hold_s)", config.stimulation.hold_s, "configured"
    assert config.pulses is not None
    return "hold", "the gate's pulses, blind, at the longest (pulses.gate_pulses)", gate_s(config.pulses), "configured"


def _sum(name: str, what: str, parts: list[StageLatency]) -> StageLatency:
    names = " + ".join(part.name for part in parts)
    return StageLatency(name=name, what=f"{what}: {names}", delay_s=math.fsum(part.delay_s for part in parts), origin="sum")
