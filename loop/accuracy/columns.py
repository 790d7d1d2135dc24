"""The estimators that are compared: each gives one number an outcome, for the same outcomes of the same session.

What is called ours is the shipped code: `loop.calibration` on rest and instructed trials, then `loop.perception`, the kernel
and the readout on the rest of the session, and the policy on its evidence. All else is written here, in NumPy and SciPy, as
somebody without cereloop would.
"""

from __future__ import annotations

import datetime as dt
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import signal

from devices.mock import assumptions as known
from loop import policy
from loop.accuracy.play import Played
from loop.accuracy.scenes import REST_S
from loop.calibration import file
from loop.calibration.errors import CalibrationError
from loop.calibration.file import Calibration
from loop.calibration.inputs import Take
from loop.calibration.make import make
from loop.calibration.rest import rest_statistics
from loop.calibration.spatial import lcmv_weights
from loop.config import Config
from loop.estimator import BASELINE, BASELINE_WEIGHT, BETA_WINDOW, TAU_BETA_S, TAU_THETA_S, THETA_WINDOW, WEIGHTS, Bank, design
from loop.events import Calibrated, Chunk, Marker, SegmentStart
from loop.fusion import fuse
from loop.montage import standard_label
from loop.perception import Judged, Perception
from loop.policy import Happened, PolicyState
from loop.readout import Readout, fit_readout

Float64s = npt.NDArray[np.float64]

LEADS_S: Final = (3.0, 2.0)
"""How much of a session an epoch holds before and after its outcome: filters settle before, and run back from after."""
TICK_S: Final = 0.02
_TODAY: Final = dt.date(2000, 1, 1)
_SENSOR_RIDGE: Final = 20.0
_FOLDS: Final = 10
_TEMPLATE_HZ: Final = (1.0, 30.0)
_TEMPLATE_S: Final = (-0.2, 0.7)


class Ours(NamedTuple):
    """What the shipped code made of a session; arrays have one entry an outcome after calibration, NaN where not valid.

    `estimate` is E, `surprise` what markers alone say, `fused` both together (K11), `z` E against what the markers let one
    expect, in the readout's standard deviations. `gates` are the outcomes at which the evidence opened a gate, counted from 1;
    `delay_s` is from outcome to decision, in samples.
    """

    calibration: Calibration
    readout: Readout
    estimate: Float64s
    surprise: Float64s
    fused: Float64s
    z: Float64s
    gates: tuple[int, ...]
    delay_s: Float64s


def ours(played: Played, config: Config) -> Ours:
    """Calibrate on the first part, estimate on the second.

    Raises
    ------
    CalibrationError
        If the calibration has no readout.
    """
    calibration = make(played.calibration, config, _TODAY, {}, lambda _: None).calibration
    readout = calibration.readout
    if readout is None:
        raise CalibrationError(f"no readout: {'; '.join(calibration.notes)}")
    judged = _session(played.session, config, calibration)
    state = PolicyState()
    wanted = False
    rows, gates = [], []
    for number, one in enumerate(judged, start=1):
        assert one.meaning is not None
        intensity = min(1.0, 100.0 * one.meaning.intensity / config.markers.full_intensity)
        state, score = policy.score(config.policy, state, Happened(one.event, one.cue, intensity), one.features, "", readout)
        verdict = policy.judge(config.policy, state)
        if verdict.wanted == "open" and not wanted:
            gates.append(number)
        wanted = verdict.wanted == "open"
        state = state._replace(wanted=wanted)
        value = np.nan if one.features is None else readout.apply(one.features)
        fused = np.nan if one.features is None else fuse(readout, score.surprise, value).value
        delay_s = (one.decided_sample - one.sample) / played.layout.sfreq_hz
        rows.append((value, score.surprise, fused, readout.excess(value, score.surprise), delay_s))
    estimate, surprise, fused_values, z, delays = np.array(rows, dtype=np.float64).T
    return Ours(calibration, readout, estimate, surprise, fused_values, z, tuple(gates), delays)


def raw_band_power(played: Played, config: Config) -> Float64s:
    """Log beta power of one channel, PO10 where it is recorded, no calibration: K2, K3 and K8 alone."""
    column = {"left": "PO9", "right": "PO10"}
    if any(standard_label(label) in column.values() for label in config.channels.pads):
        column = {"left": "TP9", "right": "TP10"}
    perception = Perception(_raw(config, column["left"], column["right"]))
    judged = _run(perception, played.session)
    at = perception.learned.index("PFB_R")
    return np.array([np.nan if one.features is None else one.features[at] for one in judged])


class Epochs(NamedTuple):
    """Average-referenced stretches around all outcomes, (n_outcomes, n_times, n_channels) in µV, from `lead_s` before on."""

    values: npt.NDArray[np.float32]
    sfreq_hz: float
    told: Float64s
    used: npt.NDArray[np.bool_]
    bank: Bank
    config: Config


def epochs_of(played: Played, config: Config) -> Epochs:
    """Cut the session; `told` is the size of the stated error in the instructed trials, in their order."""
    rate = played.layout.sfreq_hz
    out = {standard_label(label) for label in config.channels.pads}
    used = np.array([standard_label(label) not in out for label in played.layout.labels])
    before, after = (round(lead_s * rate) for lead_s in LEADS_S)
    parts = []
    for one in (*played.told, *played.learned):
        part = played.samples[one.outcome_sample - before : one.outcome_sample + after][:, used]
        parts.append(part - part.mean(axis=1, keepdims=True))
    told = np.array([abs(one.delta) for one in played.told])
    return Epochs(np.stack(parts), rate, told, used, design(rate, config.channels.line_hz), config)


def sensor_ridge(epochs: Epochs) -> Float64s:
    """Log theta and beta power of every channel in our windows, ridge regression on the instructed trials."""
    features = []
    for sections, tau_s, window in (
        (epochs.bank.theta, TAU_THETA_S, THETA_WINDOW),
        (epochs.bank.beta, TAU_BETA_S, BETA_WINDOW),
    ):
        keep = np.exp(-1.0 / (tau_s * epochs.sfreq_hz))
        for part in np.array_split(np.arange(epochs.values.shape[2]), 4):
            band = signal.sosfilt(sections, epochs.values[:, :, part], axis=1)
            power = signal.lfilter([1.0 - keep], [1.0, -keep], band**2, axis=1)
            level = np.log(power + 1e-6)
            features.append(_mean(level, epochs, window) - BASELINE_WEIGHT * _mean(level, epochs, BASELINE))
    return _ridge(np.concatenate(features, axis=1), epochs.told, _SENSOR_RIDGE)


def non_causal(epochs: Epochs, calibration: Calibration) -> Float64s:
    """Our filters and readout without the price of causality: zero-phase bands, windows that follow the source's own course."""
    course = ((epochs.bank.theta, known.PE_THETA_S), (epochs.bank.beta, known.PE_BETA_S))
    features = []
    for name in WEIGHTS:
        sections, shape = course[0] if name.startswith("theta") else course[1]
        features.append(_matched(epochs, calibration.rest.coefficients[name].array[epochs.used], sections, shape))
    table = np.column_stack(features)
    n = len(epochs.told)
    readout = fit_readout(WEIGHTS, table[:n], epochs.told)
    return np.array([readout.apply(row.tolist()) for row in table[n:]])


def oracle(epochs: Epochs, played: Played) -> Float64s:
    """As `non_causal`, but with the source's true topography, and weights learned from the truth of the other test trials."""
    rest = played.samples[: round(REST_S * epochs.sfreq_hz)].astype(np.float64)
    found = rest_statistics(
        rest,
        epochs.sfreq_hz,
        played.layout.labels,
        epochs.used,
        epochs.bank,
        rail_uv=epochs.config.channels.rail_uv,
        line_hz=epochs.config.channels.line_hz,
    )
    lead = (played.field_uv - played.field_uv[found.good].mean()) * found.good
    table = np.column_stack(
        [
            _matched(epochs, lcmv_weights(covariance, lead, found.good)[epochs.used], sections, shape)
            for covariance, sections, shape in (
                (found.covariance_theta, epochs.bank.theta, known.PE_THETA_S),
                (found.covariance_beta, epochs.bank.beta, known.PE_BETA_S),
            )
        ]
    )[len(epochs.told) :]
    truth = np.array([one.pe for one in played.learned])
    out = np.empty(len(truth))
    for fold in range(_FOLDS):
        held = np.arange(len(truth)) % _FOLDS == fold
        out[held] = _ridge(np.concatenate([table[~held], table[held]]), truth[~held], 1.0)
    return out


def rt_template(played: Played) -> Float64s:
    """What mne-realtime offers: `RtEpochs` of PO9 and PO10, and how much each resembles the average large-error epoch.

    The template is the average of instructed trials with an error above their median minus that of the others.
    """
    from loop.sources.realtime import received_epochs

    rate = played.layout.sfreq_hz
    labels = [standard_label(label) for label in played.layout.labels]
    pair = [labels.index(name) for name in ("PO9", "PO10")]
    sections = signal.butter(2, _TEMPLATE_HZ, "bandpass", fs=rate, output="sos")
    referenced = played.samples[:, pair] - played.samples.mean(axis=1, keepdims=True)
    filtered = signal.sosfilt(sections, referenced.astype(np.float64), axis=0)
    onsets = [one.outcome_sample for one in (*played.told, *played.learned)]
    epochs = received_epochs(filtered, rate, ("PO9", "PO10"), onsets, _TEMPLATE_S)
    told = np.array([abs(one.delta) for one in played.told])
    n, large = len(told), told > np.median(told)
    template = epochs[:n][large].mean(axis=0) - epochs[:n][~large].mean(axis=0)
    return np.asarray((epochs[n:] * template).sum(axis=(1, 2)), dtype=np.float64)


def _session(take: Take, config: Config, calibration: Calibration) -> list[Judged]:
    perception = Perception(config)
    perception.take_calibration(Calibrated(t_ns=0, text=file.encode(calibration)))
    return _run(perception, take)


def _run(perception: Perception, take: Take) -> list[Judged]:
    judged: list[Judged] = []
    for event in take.play():
        match event:
            case SegmentStart():
                perception.start_segment(event)
            case Marker():
                perception.take_marker(event, perception.read_marker(event))
            case Chunk():
                judged += [one for one in perception.take_chunk(event, []).judged if one.meaning is not None]
    return judged


def _raw(config: Config, left: str, right: str) -> Config:
    table = msgspec.structs.replace(
        config.estimator, left=left, right=right, muscle_regression=False, forward_model=False, innovation=False
    )
    return msgspec.structs.replace(config, estimator=table)


def _mean(level: Float64s, epochs: Epochs, window: tuple[int, int]) -> Float64s:
    """Mean over a window in ticks, both ends in it."""
    zero = round(LEADS_S[0] * epochs.sfreq_hz)
    start, stop = (zero + round(tick * TICK_S * epochs.sfreq_hz) for tick in window)
    return np.asarray(level[:, start : stop + 1].mean(axis=1))


def _matched(epochs: Epochs, weights: Float64s, sections: Float64s, course: tuple[float, float]) -> Float64s:
    """Log power (n_outcomes,) of a filter's zero-phase output, weighted by the square of the source's Gaussian course."""
    band = signal.sosfiltfilt(sections, (epochs.values @ weights.astype(np.float32)).astype(np.float64), axis=1)
    centre_s, sd_s = course
    t_s = np.arange(band.shape[1]) / epochs.sfreq_hz - LEADS_S[0]
    weight = np.exp(-(((t_s - centre_s) / sd_s) ** 2))
    return np.asarray(np.log((band**2) @ weight / weight.sum() + 1e-6))


def _ridge(features: Float64s, target: Float64s, ridge: float) -> Float64s:
    """Fit on the first rows, as many as there are targets; predict the rest."""
    n = len(target)
    centre, scale = features[:n].mean(axis=0), features[:n].std(axis=0)
    x = np.clip((features - centre) / np.maximum(scale, 1e-9), -4.0, 4.0)
    gram = x[:n].T @ x[:n] + ridge * np.eye(x.shape[1])
    return np.asarray(x[n:] @ np.linalg.solve(gram, x[:n].T @ (target - target.mean())))
