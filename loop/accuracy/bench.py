"""Runs the benchmark: seeds times scenes times columns, two seeds at a time, the same figures whatever the order."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import stats

from devices.mock.background import Background
from devices.mock.person import Person
from loop.accuracy import columns
from loop.accuracy.metrics import auc, correlation, partial
from loop.accuracy.play import Played, play
from loop.accuracy.scenes import JUDGED_BLOCKS, Scene

Float64s = npt.NDArray[np.float64]

OURS: Final = "ours, causal"
NO_MUSCLE: Final = "without muscle regression"
NO_MODEL: Final = "without forward model"
RAW: Final = "raw PO10 band power"
RIDGE: Final = "sensor-space ridge"
TEMPLATE: Final = "RtEpochs template"
BOUND: Final = "non-causal bound"
ORACLE: Final = "oracle"
MARKERS: Final = "markers alone"
FUSED: Final = "fused"
COLUMNS: Final[tuple[str, ...]] = (OURS, NO_MUSCLE, NO_MODEL, RAW, RIDGE, TEMPLATE, BOUND, ORACLE, MARKERS, FUSED)
SHORT_COLUMNS: Final[tuple[str, ...]] = (OURS, RAW, BOUND, MARKERS, FUSED)

_PROCESSES: Final = 2
_EXPECTED: Final = 0.3
_THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Score(msgspec.Struct, frozen=True, kw_only=True):
    r"""One column in one session: correlation with \|PE\|, large against small, and correlation beyond markers."""

    r: float
    auc: float
    partial: float


class Law(msgspec.Struct, frozen=True, kw_only=True):
    r"""How the index followed the truth of one session, E = offset + slope \|PE\| + noise, and what the readout says of itself.

    From this the trial-level simulation draws. `persistence` and `gain` are p and g of this patient, \|PE\| = g \|delta\| + p.
    """

    offset: float
    slope: float
    noise: float
    b0: float
    b1: float
    sigma: float
    r_cv: float
    group: str
    persistence: float
    gain: float


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """One seed in one scene.

    `z_mean`, `z_sd` and `z_p` (Kolmogorov–Smirnov against the standard normal) are of z on outcomes that the markers expected;
    `gates` are the outcomes at which one opened, counted from 1, in `hours`; `valid` is the share of judged
    outcomes that the estimate rests on, `delay_s` the longest time from outcome to decision.
    """

    scene: str
    seed: int
    group: str
    scores: dict[str, Score]
    law: Law
    z_mean: float
    z_sd: float
    z_p: float
    gates: tuple[int, ...]
    hours: float
    valid: float
    r_cv: float
    verdict: str
    delay_s: float


def session_of(scene: Scene, seed: int, background: Background, wanted: Sequence[str] = COLUMNS) -> Session:
    """Play and judge one seed in one scene.

    Parameters
    ----------
    scene : Scene
    seed : int
    background : Background
        Of this seed.
    wanted : sequence of str
        Columns; `OURS`, `MARKERS` and `FUSED` always come.
    """
    played = play(scene.settings(seed), background)
    config = scene.config()
    own = columns.ours(played, config)
    values = {OURS: own.estimate, MARKERS: own.surprise, FUSED: own.fused}
    if NO_MUSCLE in wanted:
        values[NO_MUSCLE] = columns.ours(played, scene.config("estimator.muscle_regression=false")).estimate
    if NO_MODEL in wanted:
        values[NO_MODEL] = columns.ours(played, scene.config("estimator.forward_model=false")).estimate
    if RAW in wanted:
        values[RAW] = columns.raw_band_power(played, config)
    if {RIDGE, BOUND, ORACLE} & set(wanted):
        epochs = columns.epochs_of(played, config)
        if RIDGE in wanted:
            values[RIDGE] = columns.sensor_ridge(epochs)
        if BOUND in wanted:
            values[BOUND] = columns.non_causal(epochs, own.calibration)
        if ORACLE in wanted:
            values[ORACLE] = columns.oracle(epochs, played)
    if TEMPLATE in wanted:
        values[TEMPLATE] = columns.rt_template(played)
    return _judge(scene, seed, played, own, values)


def run(
    scenes: Sequence[Scene], seeds: Sequence[int], done: Callable[[int], None], wanted: Sequence[str] = COLUMNS
) -> tuple[Session, ...]:
    """All sessions, in the order of seeds and then scenes.

    Parameters
    ----------
    scenes : sequence of Scene
    seeds : sequence of int
    done : callable
        Told how many sessions are done, as they come in.
    wanted : sequence of str
        Columns.
    """
    found: dict[int, tuple[Session, ...]] = {}
    with (
        _one_thread_each(),
        futures.ProcessPoolExecutor(min(_PROCESSES, len(seeds)), multiprocessing.get_context("spawn")) as pool,
    ):
        waiting = {pool.submit(_seed, tuple(scenes), seed, tuple(wanted)): seed for seed in seeds}
        for future in futures.as_completed(waiting):
            found[waiting[future]] = future.result()
            done(sum(len(sessions) for sessions in found.values()))
    return tuple(session for seed in seeds for session in found[seed])


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """The processes are as many as the cores; linear algebra with threads of its own would only get in their way."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _seed(scenes: tuple[Scene, ...], seed: int, wanted: tuple[str, ...]) -> tuple[Session, ...]:
    background = Background(scenes[0].settings(seed))
    return tuple(session_of(scene, seed, background, wanted) for scene in scenes)


def _judge(scene: Scene, seed: int, played: Played, own: columns.Ours, values: dict[str, Float64s]) -> Session:
    truth = np.array([one.pe for one in played.learned])
    judged = np.array([one.block in JUDGED_BLOCKS for one in played.learned])
    sound = judged & np.all([np.isfinite(column) for column in values.values()], axis=0)
    kinds = np.array([[one.outcome == kind for kind in ("NOX", "INN")] for one in played.learned], dtype=np.float64)
    known = np.column_stack([own.surprise, kinds])
    scores: dict[str, Score] = {
        name: Score(
            r=correlation(values[name][sound], truth[sound]),
            auc=auc(values[name][sound], truth[sound]),
            partial=math.nan if name == MARKERS else partial(values[name][sound], truth[sound], known[sound]),
        )
        for name in COLUMNS
        if name in values
    }
    expected = judged & np.isfinite(own.z) & (own.surprise < _EXPECTED)
    z = own.z[expected]
    readout = own.readout
    slope, offset = np.polyfit(truth[sound], own.estimate[sound], 1)
    noise = float(np.std(own.estimate[sound] - offset - slope * truth[sound], ddof=2))
    settings = scene.settings(seed)
    person = Person(settings)
    first, last = played.learned[0].outcome_sample, played.learned[-1].outcome_sample
    return Session(
        scene=scene.name,
        seed=seed,
        group=settings.group,
        scores=scores,
        law=Law(
            offset=float(offset),
            slope=float(slope),
            noise=noise,
            b0=readout.b0,
            b1=readout.b1,
            sigma=readout.sigma,
            r_cv=readout.r_cv,
            group=settings.group,
            persistence=person.persistence,
            gain=person.gain,
        ),
        z_mean=float(z.mean()),
        z_sd=float(z.std(ddof=1)),
        z_p=float(stats.kstest(z, "norm").pvalue),
        gates=own.gates,
        hours=(last - first) / played.layout.sfreq_hz / 3600.0,
        valid=float(np.isfinite(own.estimate[judged]).mean()),
        r_cv=readout.r_cv,
        verdict=own.calibration.verdict,
        delay_s=float(own.delay_s.max()),
    )
