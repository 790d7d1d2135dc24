"""The latency table against SCIENCE's, against the filters themselves, and against the configuration."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import signal

from loop import config as configuration
from loop import estimator
from loop.config import Config
from loop.presets import preset_path
from loop.stage_latency import StageLatency, envelope_lag_s, group_delay_s, stage_latencies

THETA_HZ, BETA_HZ = 28.0**0.5, 420.0**0.5


# What the demonstration has shortened, as a study would have it.
STUDY = ("stimulation.hold_s=60", "gate.sense_s=60", "policy.min_outcomes=10")


def preset(name: str, *overrides: str) -> Config:
    return configuration.load(preset_path(name), overrides)


def named(stages: list[StageLatency]) -> dict[str, float]:
    table = {stage.name: stage.delay_s for stage in stages}
    assert len(table) == len(stages)
    return table


@pytest.mark.parametrize(
    ("order", "theta_ms", "theta_lag_ms", "beta_ms", "beta_lag_ms"),
    [(1, 106, 128, 20, 50), (2, 150, 220, 28, 62), (4, 277, 388, 52, 88)],
)
def test_equals_the_table_of_the_design(
    order: int, theta_ms: float, theta_lag_ms: float, beta_ms: float, beta_lag_ms: float
) -> None:
    """Band filters alone, at 500 Hz, by order of their edges."""
    theta = signal.butter(order, estimator.THETA_HZ, "bandpass", fs=500.0, output="sos")
    beta = signal.butter(order, estimator.BETA_HZ, "bandpass", fs=500.0, output="sos")
    assert 1e3 * group_delay_s(theta, THETA_HZ, 500.0) == pytest.approx(theta_ms, abs=1.0)
    assert 1e3 * group_delay_s(beta, BETA_HZ, 500.0) == pytest.approx(beta_ms, abs=0.5)
    assert 1e3 * envelope_lag_s(theta, THETA_HZ, 0.12, 500.0) == pytest.approx(theta_lag_ms, abs=2.5)
    assert 1e3 * envelope_lag_s(beta, BETA_HZ, 0.05, 500.0) == pytest.approx(beta_lag_ms, abs=1.0)


def test_group_delay_is_the_slope_of_the_phase() -> None:
    sections = estimator.design(500.0, 50.0).beta
    step = 1e-4
    _, response = signal.sosfreqz(sections, worN=[BETA_HZ - step, BETA_HZ + step], fs=500.0)
    slope = np.diff(np.unwrap(np.angle(response)))[0] / (2.0 * np.pi * 2.0 * step)
    assert group_delay_s(sections, BETA_HZ, 500.0) == pytest.approx(-slope, rel=1e-5)


def test_a_live_configuration_stage_by_stage() -> None:
    stages = stage_latencies(preset("live-mock", *STUDY))
    delays = named(stages)
    assert delays["theta: band filter"] == pytest.approx(0.106, abs=0.001)
    assert delays["theta: high-pass and notch"] == pytest.approx(0.008, abs=0.002)
    assert delays["beta: band filter"] == pytest.approx(0.020, abs=0.0005)
    assert delays["theta: envelope"] == pytest.approx(0.135, abs=0.01)
    assert delays["beta: envelope"] == pytest.approx(0.052, abs=0.004)
    assert delays["muscle: envelope"] < delays["beta: envelope"]
    assert (delays["beta: end of window"], delays["theta: end of window"]) == (0.36, 0.70)
    assert (delays["chunk"], delays["transport"]) == (0.02, 0.005)
    assert (delays["engine tick"], delays["guard tick"], delays["lease"]) == (0.02, 0.01, 0.25)
    assert (delays["ramp"], delays["hold"], delays["settle"], delays["sense"]) == (20.0, 60.0, 5.0, 60.0)
    assert delays["evidence"] == 110.0
    origins = {stage.name: stage.origin for stage in stages}
    assert {origins[name] for name in ("chunk", "transport", "evidence")} == {"assumed"}
    assert {origins[name] for name in ("ramp", "hold", "settle", "warm-up")} == {"configured"}
    assert all(stage.delay_s > 0.0 and stage.what for stage in stages)


def test_sums_count_nothing_twice() -> None:
    stages = stage_latencies(preset("live-mock"))
    assert [stage.origin for stage in stages].index("sum") == len(stages) - 2
    delays = named(stages)
    assert delays["outcome → index"] == pytest.approx(0.70 + 0.02 + 0.005)
    assert delays["decision → full current"] == pytest.approx(20.0 + 0.02 + 0.01)


def test_the_configuration_changes_what_it_names() -> None:
    base = named(stage_latencies(preset("live-mock", *STUDY)))
    other = preset("live-mock", *STUDY, "stimulation.ramp_s=25", "policy.min_outcomes=20", "estimator.warmup_s=4")
    changed = named(stage_latencies(other))
    moved = {name: changed[name] - base[name] for name in base if changed[name] != base[name]}
    assert moved == pytest.approx({"ramp": 5.0, "evidence": 110.0, "warm-up": 1.0, "decision → full current": 5.0})


def test_what_does_not_apply_is_left_out() -> None:
    replayed = named(stage_latencies(preset("replay", "source.path='x'")))
    assert "ramp" not in replayed
    assert "transport" not in replayed
    assert replayed["outcome → index"] == pytest.approx(0.70 + replayed["chunk"])
    event = named(stage_latencies(preset("simulate", "estimator.kind='event_readout'")))
    assert event["waveform: end of window"] == 0.7
    assert event["outcome → index"] > 0.7
    foreign = named(stage_latencies(preset("simulate", "estimator.kind='other'")))
    assert "outcome → index" not in foreign
    assert "theta: envelope" not in foreign
    assert "evidence" not in named(stage_latencies(preset("simulate", "session.arm='open_loop'")))


def test_the_rate_matters_where_it_must() -> None:
    slow = named(stage_latencies(preset("live-mock"), 128.0))
    assert "muscle: envelope" not in slow
    simulated = preset("simulate", "patient.sfreq_hz=250")
    assert stage_latencies(simulated) == stage_latencies(simulated, 250.0)
    assert stage_latencies(simulated) != stage_latencies(simulated, 500.0)
    for wrong in (100.0, 5000.0, float("nan")):
        with pytest.raises(ValueError, match="128 to 4096"):
            stage_latencies(simulated, wrong)
