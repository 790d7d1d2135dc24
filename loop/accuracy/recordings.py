"""What an estimate is worth on real recordings: how well it tells two kinds of stimuli apart, and what it makes of rest."""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import stats

from devices.units import NS_PER_S
from loop import config as configuration
from loop.calibration import file
from loop.calibration.inputs import take_of_playback
from loop.calibration.make import make
from loop.config import Config
from loop.estimators import registry
from loop.reader import Session
from loop.run import play
from loop.sources.recording import RecordingPlayback, open_recording

Float64s = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

PERMUTATIONS: Final = 2000
"""Shuffles of the labels behind a chance level."""
_FIRST_MARKER_S: Final = 3.5
_STEP_S: Final = (0.5, 0.7)
_SHARE: Final = 0.4
# A short rest is played this often in a row, each time with new markers: the null of an uncalibrated estimator takes a minute.
_TIMES: Final = 3
_OUTCOMES_AN_HOUR: Final = 400.0
# A gate could open from here on, with the least of baseline trials that the harm guard accepts: the control must not be safe
# for want of time.
_SENSE_S: Final = 10.0
_BASELINE_TRIALS: Final = 10


class Separation(msgspec.Struct, frozen=True, kw_only=True):
    """How well the index tells STIM/NOX from STIM/INN.

    `auc` is the chance that a STIM/NOX has the higher index of a random pair; `chance` what 95 % of shuffled labels stay below,
    `p` the share of shuffles that reach `auc`. `nox` and `inn` count the outcomes with an index, `left_out` those without.
    """

    name: str
    auc: float
    chance: float
    p: float
    nox: int
    inn: int
    left_out: int


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """An estimator on rest with random fake markers: `auc` is the mean over seeds, `se` its standard error.

    `refused` counts the seeds whose calibration closed_loop refuses, since it found nothing; they were played in feedback_only.
    `gates` counts those that opened, `alarms` the seeds whose evidence would have opened one in either arm, `alarms_per_hour`
    their rate at 400 outcomes an hour, over all `outcomes` that were judged.
    """

    estimator: str
    seeds: int
    auc: float
    se: float
    outcomes: int
    refused: int
    gates: int
    alarms: int
    alarms_per_hour: float


def auc_of(index: Float64s, is_nox: Bools) -> float:
    """Area under the curve by ranks (Mann–Whitney); NaN where a class is empty."""
    n, m = int(is_nox.sum()), int((~is_nox).sum())
    if not n or not m:
        return float("nan")
    ranks = stats.rankdata(index)
    return float((ranks[is_nox].sum() - n * (n + 1) / 2.0) / (n * m))


def separation_of(paths: Sequence[str | Path], permutations: int = PERMUTATIONS) -> list[Separation]:
    """How well the index of finished sessions tells STIM/NOX from STIM/INN: one row a session, and one of all together.

    Parameters
    ----------
    paths : sequence of str or Path
        Session files.
    permutations : int
        Shuffles of the labels, within each session, from a fixed seed.

    Returns
    -------
    list of Separation
        The last one, of all sessions, is called ``all``; it is left out where there is one session.

    Raises
    ------
    JournalError
        If a file is no session file.
    """
    rng = np.random.default_rng(0)
    rows, found = [], []
    for path in paths:
        with Session.open(path) as session:
            outcomes = [one for one in session.outcomes if one.text.startswith("STIM/") and one.text != "STIM/OMIT"]
        index = np.array([np.nan if one.index is None else one.index for one in outcomes], dtype=np.float64)
        is_nox = np.array([one.text.startswith("STIM/NOX") for one in outcomes], dtype=np.bool_)
        found.append((index, is_nox))
        rows.append(_row(Path(path).name, [found[-1]], permutations, rng))
    return [*rows, _row("all", found, permutations, rng)] if len(rows) > 1 else rows


def control_of(recording: str | Path, config: Config, seeds: Sequence[int]) -> Control:
    """Play rest with random fake markers: whatever the index tells apart then, it makes up, and no gate may open.

    An estimator that needs a calibration is calibrated on the first half, with fake markers too, and plays the second; another
    one plays the whole recording. Each plays its part three times in a row.

    Parameters
    ----------
    recording : str or Path
        Rest. Its own markers are not used.
    config : Config
        Names the estimator; the rest is that of a closed_loop session on the simulated stimulator.
    seeds : sequence of int
        One session each.

    Raises
    ------
    SourceError, LayoutError, CalibrationError, EstimatorError, ConfigError
        One sentence each.
    """
    plugin = registry.find(config.estimator.kind)
    scores = []
    refused = gates = alarms = judged = 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            rng = np.random.default_rng(seed)
            chosen = _eager(config)
            if plugin.needs_calibration:
                first = _Part(recording, 0.0, 0.5, rng)
                made = make(take_of_playback(first.open), chosen, dt.date(2000, 1, 1), {}, _silent)
                path = Path(folder) / f"{seed}.json"
                file.save(made.calibration, path)
                chosen = _replaced(chosen, "estimator", calibration=str(path))
                if made.calibration.verdict == file.DO_NOT_GO_ON:
                    refused += 1
                    chosen = _replaced(chosen, "session", arm="feedback_only")
                part = _Part(recording, 0.5, 1.0, rng)
            else:
                part = _Part(recording, 0.0, 1.0, rng)
            session_path = Path(folder) / f"{seed}.sqlite"
            play(chosen, part.open(), "replay", session_path)
            scores.append(separation_of([session_path], permutations=1)[0].auc)
            with Session.open(session_path) as session:
                gates += sum(gate.after == "RAMP_UP" for gate in session.gates)
                evidence = [one.evidence for one in session.outcomes if one.index is not None]
            judged += len(evidence)
            alarms += max(evidence, default=0.0) >= config.policy.threshold
    known = np.array(scores)[np.isfinite(scores)]
    return Control(
        estimator=plugin.name,
        seeds=len(seeds),
        auc=float(known.mean()) if len(known) else float("nan"),
        se=float(known.std(ddof=1) / np.sqrt(len(known))) if len(known) > 1 else float("nan"),
        outcomes=judged,
        refused=refused,
        gates=gates,
        alarms=alarms,
        alarms_per_hour=_OUTCOMES_AN_HOUR * alarms / judged if judged else float("nan"),
    )


def _row(name: str, parts: list[tuple[Float64s, Bools]], permutations: int, rng: np.random.Generator) -> Separation:
    sound = [(index[np.isfinite(index)], is_nox[np.isfinite(index)]) for index, is_nox in parts]
    index = np.concatenate([one for one, _ in sound])
    is_nox = np.concatenate([one for _, one in sound])
    auc = auc_of(index, is_nox)
    shuffled = np.array(
        [auc_of(index, np.concatenate([rng.permutation(one) for _, one in sound])) for _ in range(permutations)]
    )
    known = np.isfinite(auc)
    return Separation(
        name=name,
        auc=auc,
        chance=float(np.quantile(shuffled, 0.95)) if known else float("nan"),
        p=float((1 + (shuffled >= auc).sum()) / (1 + permutations)) if known else float("nan"),
        nox=int(is_nox.sum()),
        inn=int((~is_nox).sum()),
        left_out=sum(len(whole) for whole, _ in parts) - len(index),
    )


class _Part:
    """A stretch of a recording, in a row with itself, with random markers; `start` and `stop` are shares of the recording."""

    def __init__(self, recording: str | Path, start: float, stop: float, rng: np.random.Generator) -> None:
        self._recording = recording
        whole = open_recording(recording)
        assert whole.n_samples is not None
        self._first, self._last = round(start * whole.n_samples), round(stop * whole.n_samples)
        self._n = _TIMES * (self._last - self._first)
        self._markers = list(_fake(rng, self._n / whole.layout.sfreq_hz))

    def open(self) -> RecordingPlayback:
        """The stretch from its start."""
        whole = open_recording(self._recording)

        _, samples = whole.rows(self._first, self._last)
        again = np.tile(samples, (_TIMES, 1))
        stamps_ns = np.rint(np.arange(self._n) * NS_PER_S / whole.layout.sfreq_hz).astype(np.int64)

        def rows(start: int, stop: int) -> tuple[Int64s, npt.NDArray[Any]]:
            return stamps_ns[start:stop], again[start:stop]

        return RecordingPlayback(rows, self._n, whole.layout, whole.info, self._markers)


def _fake(rng: np.random.Generator, duration_s: float) -> Iterator[tuple[int, str]]:
    """STIM/NOX and STIM/INN at the pace of an oddball; where one falls has nothing to do with the samples."""
    t_s = _FIRST_MARKER_S
    while t_s < duration_s:
        yield round(t_s * NS_PER_S), "STIM/NOX/100" if rng.random() < _SHARE else "STIM/INN/0"
        t_s += rng.uniform(*_STEP_S)


def _eager(config: Config) -> Config:
    """The same session, ready to open a gate as soon as the configuration's limits permit."""
    chosen = _replaced(config, "session", arm="closed_loop")
    chosen = _replaced(chosen, "gate", sense_s=_SENSE_S)
    chosen = _replaced(chosen, "markers", imply_out_due=True, rename={})
    return _replaced(chosen, "harm", min_baseline=_BASELINE_TRIALS)


def _replaced(config: Config, table: str, **values: Any) -> Config:
    changed = msgspec.structs.replace(config, **{table: msgspec.structs.replace(getattr(config, table), **values)})
    return configuration.decode(configuration.encode(changed))


def _silent(_: str) -> None:
    """Nobody is told how far it is."""
