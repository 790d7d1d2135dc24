"""What the harm guard finds and what it takes for harm: whole sessions, trial by trial, many at once.

A session is a persistently erring patient (the FM group of the virtual patient) in the blocks A, P and V, seen through an
index of realistic single-trial correlation and through pain ratings. Learning goes on by the true learner while the excess
is taken over the normative one; noise is autocorrelated and levels drift. The loop stimulates whenever the guard allows it:
the worst case for false lock-outs, since every chance to look is used. Sizes without a source are assumptions, as in the
patient; no sample of EEG is made.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from loop.config import HarmTable
from loop.harm import DOUBT, Moments, grown, harm_in, probability_of

Float64s = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# Trials of the blocks A, P and V, and the share of noxious outcomes after the cues H, L and N.
_BLOCKS: Final = ((40, (1.0, 0.0)), (80, (0.75, 0.25, 0.5)), (40, (0.0, 1.0)))
_ALPHA: Final = (0.08, 0.04)
_PERSISTENCE: Final = (0.15, 0.08)
_GAIN: Final = (1.15, 0.2)
_BELIEF_NOISE: Final = 0.12
_PAIN: Final = 60.0 * 1.3
_EXPECTED_SHARE: Final = 0.3
# Spread of |PE| over the trials of such a session.
_PE_SD: Final = 0.31
_NORMATIVE_ALPHA: Final = 0.25
_NORMATIVE_GAIN: Final = 0.5
_INTENSITY: Final = 0.6
# Slow effect of current: time constants with and without, and its share of |PE| at 2 mA.
_TRIAL_S: Final = 11.0
_ON_S: Final = 300.0
_OFF_S: Final = 1800.0
_SLOW_SHARE: Final = 0.25
TRIALS: Final = ((10, 10), (20, 10), (30, 10), (40, 10), (60, 20))
"""Least trials before the first ON block and after each, as the curve varies them."""
EFFECTS: Final = ((0.0, 0.0), (0.25, 5.0), (0.5, 10.0), (0.75, 15.0), (1.0, 20.0))
"""Harm in residual standard deviations of the index and in points of the ratings, as the curve varies it."""
_SETTINGS: Final = ("", "E", "pain", "rated", "probes")
_Z95: Final = 1.959963984540054


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of session.

    Parameters
    ----------
    name : str
        What the row is called.
    index_harm_sd, rating_harm : float
        By how much ON blocks raise index (residual standard deviations) and ratings (of 100), reached after `blocks_to_harm`
        blocks in equal steps.
    reversed_ma : float
        Current that acts with the sign opposite to the paper's on |PE| and learning rate, in milliamperes; 0 for none.
    rated : float
        Share of noxious outcomes with a rating.
    blocks, on_trials, trials : int
        ON blocks at most, trials that pass during each, and trials at which a session ends (11 s each).
    correlation : float
        Of index and |PE| over single trials.
    autocorrelation : float
        Of the noise of successive trials, index and ratings.
    index_drift_sd, rating_drift_sd : float
        Spread over sessions of a linear drift, a hundred trials.
    index_drift, rating_drift : float
        Drift that all sessions share, a hundred trials.
    rating_sd : float
        Noise of single ratings.
    """

    name: str = ""
    index_harm_sd: float = 0.0
    rating_harm: float = 0.0
    blocks_to_harm: int = 1
    reversed_ma: float = 0.0
    rated: float = 0.5
    blocks: int = 6
    on_trials: int = 14
    trials: int = 300
    correlation: float = 0.35
    autocorrelation: float = 0.1
    index_drift_sd: float = 0.1
    rating_drift_sd: float = 2.0
    index_drift: float = 0.0
    rating_drift: float = 0.0
    rating_sd: float = 12.0


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the sessions of one scene: shares, with the Wilson 95 % interval of `locked`.

    `trial` is the median trial of lock-out, None where none locked; `blocks` the mean number of ON blocks given and `delay`
    the mean number of probe trials beyond the least, both over all sessions.
    """

    scene: Scene
    table: HarmTable
    sessions: int
    locked: float
    low: float
    high: float
    by_index: float
    by_ratings: float
    trial: float | None
    blocks: float
    delay: float


class HarmPower(msgspec.Struct, frozen=True, kw_only=True):
    """False lock-outs, power against kinds of harm, and power over effect size, trials and share of ratings."""

    null: tuple[Row, ...]
    harm: tuple[Row, ...]
    curve: tuple[Row, ...]


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    p, z2 = successes / n, _Z95**2
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return middle - half, middle + half


def simulate(table: HarmTable, scene: Scene, sessions: int, seed: int) -> Row:
    """Play `sessions` sessions of one scene.

    Parameters
    ----------
    table : HarmTable
    scene : Scene
    sessions : int
    seed : int
        Same seed, same sessions.

    Returns
    -------
    Row
    """
    rng = np.random.default_rng(seed)
    patients = _Patients(scene, sessions, rng)
    n_probes = scene.blocks + 1
    shape = (sessions, n_probes)
    indices, ratings = (Moments(*(np.zeros(shape) for _ in Moments._fields)) for _ in range(2))
    given = np.zeros(sessions, dtype=np.int64)
    on_left = np.zeros(sessions, dtype=np.int64)
    done, by_index, by_ratings = (np.zeros(sessions, dtype=np.bool_) for _ in range(3))
    locked_at = np.full(sessions, np.nan)
    beyond = np.zeros(sessions, dtype=np.int64)
    for trial in range(scene.trials):
        seen = patients.next(trial, given, on_left > 0)
        on = on_left > 0
        on_left[on] -= 1
        off = ~on & ~done
        _take(indices, off, given, seen.surprise, np.clip(seen.excess_sd, -4.0, 4.0))
        _take(ratings, off & seen.is_rated, given, seen.expected, np.clip(seen.rating, 0.0, 100.0))
        count = np.asarray(indices.n)[np.arange(sessions), given]
        ready = off & (count >= np.where(given > 0, table.min_probe, table.min_baseline))
        if not ready.any():
            if done.all():
                break
            continue
        p_index, p_rating = (probability_of(harm) for harm in harm_in(table, _of(indices, ready), _of(ratings, ready)))
        harmed = np.zeros((2, sessions), dtype=np.bool_)
        harmed[:, ready] = (p_index >= table.probability, p_rating >= table.probability)
        doubtful = np.zeros(sessions, dtype=np.bool_)
        doubtful[ready] = np.maximum(p_index, p_rating) > DOUBT
        by_index |= harmed[0]
        by_ratings |= harmed[1]
        locks = harmed.any(axis=0)
        locked_at[locks] = trial + 1
        beyond += doubtful & ~locks
        clear = ready & ~doubtful & ~locks
        goes_on = clear & (given < scene.blocks)
        done |= locks | (clear & ~goes_on)
        given[goes_on] += 1
        on_left[goes_on] = scene.on_trials
    locked = by_index | by_ratings
    low, high = wilson(int(locked.sum()), sessions)
    return Row(
        scene=scene,
        table=table,
        sessions=sessions,
        locked=float(locked.mean()),
        low=low,
        high=high,
        by_index=float(by_index.mean()),
        by_ratings=float(by_ratings.mean()),
        trial=float(np.nanmedian(locked_at)) if locked.any() else None,
        blocks=float(given.mean()),
        delay=float(beyond.mean()),
    )


def nulls() -> tuple[Scene, ...]:
    """Scenes in which current does nothing: as assumed, more and less kindly, and one that no guard can tell from harm."""
    make = partial(msgspec.structs.replace, Scene())
    return (
        make(name="as assumed"),
        make(name="no ratings", rated=0.0),
        make(name="every noxious outcome rated", rated=1.0),
        make(name="no drift, no autocorrelation", autocorrelation=0.0, index_drift_sd=0.0, rating_drift_sd=0.0),
        make(name="autocorrelation 0.25", autocorrelation=0.25),
        make(name="index follows |PE| more closely, r 0.40", correlation=0.40),
        make(name="ratings scatter more, sd 15", rating_sd=15.0),
        make(name="twelve ON blocks in 90 minutes", blocks=12, trials=500),
        make(name="twelve ON blocks, no drift", blocks=12, trials=500, index_drift_sd=0.0, rating_drift_sd=0.0),
        make(name="habituation: ratings fall by 4 a hundred trials", rating_drift=-4.0),
        make(name="sensitisation: index 0.2, ratings 4 a hundred trials", index_drift=0.2, rating_drift=4.0),
    )


def harms() -> tuple[Scene, ...]:
    """Scenes of harm: rising index and ratings, each alone and both, at once and building up, and the reversed sign."""
    make = partial(msgspec.structs.replace, Scene())
    index = [make(name="index alone", index_harm_sd=sd) for sd in (0.25, 0.5, 0.75, 1.0, 1.5)]
    ratings = [
        make(name="ratings alone", rating_harm=rise, rated=rated)
        for rated in (0.5, 1.0)
        for rise in (5.0, 10.0, 15.0, 20.0, 30.0)
    ]
    built = [
        make(name="both, building up over six blocks", index_harm_sd=sd, rating_harm=rise, blocks_to_harm=6)
        for sd, rise in ((0.5, 10.0), (1.0, 20.0))
    ]
    signs = [make(name="reversed sign as the patient has it", reversed_ma=ma) for ma in (1.0, 2.0)]
    return (*index, *ratings, *built, *signs)


def harm_power(sessions: int = 2000, seed: int = 1, table: HarmTable | None = None) -> HarmPower:
    """Measure false lock-outs and power; the default takes about two minutes on one core.

    Parameters
    ----------
    sessions : int
        For each row; the rows of the curve over trials have half as many.
    seed : int
        Rows share it, so that neighbouring rows differ by what they are told to.
    table : HarmTable, optional
        The guard; default as in `HarmTable`.
    """
    table = table or HarmTable()
    curve = []
    for baseline, probe in TRIALS:
        guard = msgspec.structs.replace(table, min_baseline=baseline, min_probe=probe)
        for rated in (0.0, 0.5, 1.0):
            for sd, rise in EFFECTS:
                scene = Scene(name="both at once", index_harm_sd=sd, rating_harm=rise, rated=rated)
                curve.append(simulate(guard, scene, max(1, sessions // 2), seed))
    return HarmPower(
        null=tuple(simulate(table, scene, sessions, seed) for scene in nulls()),
        harm=tuple(simulate(table, scene, sessions, seed) for scene in harms()),
        curve=tuple(curve),
    )


def render(power: HarmPower, console: Console) -> None:
    """Print the rows as three tables; what is the same in all rows of one stands in its title."""
    for title, rows in (("nothing got worse", power.null), ("harm", power.harm), ("effect size and trials", power.curve)):
        cells = [_setting(row) for row in rows]
        varies = [name for name in _SETTINGS if len({cell[name] for cell in cells}) > 1]
        same = ", ".join(f"{name} {cells[0][name]}".strip() for name in _SETTINGS if name not in varies)
        console.print(f"[italic]{title} ({same})[/italic]" if same else f"[italic]{title}[/italic]", highlight=False)
        table = Table(box=None, pad_edge=False)
        for name in varies:
            table.add_column(name, justify="right" if name else "left", no_wrap=bool(name))
        for name in ("locked", "95 %", "index", "ratings", "trial"):
            table.add_column(name, justify="right", no_wrap=True)
        for row, cell in zip(rows, cells, strict=True):
            table.add_row(
                *(cell[name] for name in varies),
                f"{100 * row.locked:.1f} %",
                f"{100 * row.low:.0f}–{100 * row.high:.0f}",
                f"{100 * row.by_index:.1f} %",
                f"{100 * row.by_ratings:.1f} %",
                "–" if row.trial is None else f"{row.trial:.0f}",
            )
        console.print(table)
        console.print()
    console.print(
        "E: by how many of its sd the index is raised; pain: by how many of 100 the ratings are; rated: share of noxious "
        "outcomes; probes: trials without current before the first ON block and after each; locked: share of sessions, by the "
        "index and by the ratings; trial: median of the lock-out.",
        highlight=False,
    )


def _setting(row: Row) -> dict[str, str]:
    """What a row is about, a cell each of `_SETTINGS`."""
    scene = row.scene
    return {
        "": scene.name + (f", {scene.reversed_ma:g} mA" if scene.reversed_ma else ""),
        "E": f"+{scene.index_harm_sd:g}",
        "pain": f"+{scene.rating_harm:g}",
        "rated": f"{100 * scene.rated:.0f} %",
        "probes": f"{row.table.min_baseline}/{row.table.min_probe}",
    }


class _Seen(NamedTuple):
    """What one trial gives, arrays (n_sessions,)."""

    excess_sd: Float64s
    surprise: Float64s
    rating: Float64s
    expected: Float64s
    is_rated: Bools


class _Patients:
    """Many patients in step: belief, error, index and rating, trial by trial."""

    def __init__(self, scene: Scene, n: int, rng: np.random.Generator) -> None:
        self._scene, self._n, self._rng = scene, n, rng
        traits = rng.standard_normal((4, n))
        self._alpha = np.clip(_ALPHA[0] + _ALPHA[1] * traits[0], 0.02, 0.6)
        self._persistence = np.maximum(_PERSISTENCE[0] + _PERSISTENCE[1] * traits[1], 0.0)
        self._gain = np.maximum(_GAIN[0] + _GAIN[1] * traits[2], 0.2)
        self._response = -_SLOW_SHARE * (1.0 + 0.6 * traits[3]) if scene.reversed_ma else np.zeros(n)
        self._drift = np.stack(
            [
                scene.index_drift + scene.index_drift_sd * rng.standard_normal(n),
                scene.rating_drift + scene.rating_drift_sd * rng.standard_normal(n),
            ]
        )
        self._belief = np.full((n, 3), 0.5)
        self._normative = np.full((n, 3), 0.5)
        self._slow = np.zeros(n)
        self._noise = rng.standard_normal((2, n))
        self._cue, self._noxious = _plan(scene.trials, n, rng)

    def next(self, trial: int, given: Int64s, on: Bools) -> _Seen:
        """One trial of all patients, `given` ON blocks having begun, `on` being under current."""
        scene, rng, rows = self._scene, self._rng, np.arange(self._n)
        rho = scene.autocorrelation
        self._noise = rho * self._noise + math.sqrt(1.0 - rho**2) * rng.standard_normal((2, self._n))
        wander, rated = rng.standard_normal(self._n), rng.random(self._n)
        cue, noxious = self._cue[:, trial], self._noxious[:, trial]

        target = np.where(on, 0.5 * scene.reversed_ma, 0.0)
        self._slow += (target - self._slow) * (1.0 - np.exp(-_TRIAL_S / np.where(on, _ON_S, _OFF_S)))
        effect = np.clip(self._response * self._slow, -0.9, 0.9)
        belief, expected = self._belief[rows, cue], self._normative[rows, cue]
        delta, norm_delta = noxious - belief, _INTENSITY * noxious - expected
        pe = (self._gain * np.abs(delta) + self._persistence) * (1.0 - effect)
        self._belief[rows, cue] = np.clip(belief + self._alpha * (1.0 + effect) * delta + _BELIEF_NOISE * wander, 0.0, 1.0)
        self._normative[rows, cue] = expected + _NORMATIVE_ALPHA * norm_delta

        harm = np.minimum(given / scene.blocks_to_harm, 1.0)
        passed = trial / 100.0
        r = scene.correlation
        index = r / _PE_SD * pe + math.sqrt(1.0 - r**2) * self._noise[0] + passed * self._drift[0] + scene.index_harm_sd * harm
        rating = _PAIN * (1.0 - _EXPECTED_SHARE + _EXPECTED_SHARE * belief) + scene.rating_sd * self._noise[1]
        rating += passed * self._drift[1] + scene.rating_harm * harm
        # A constant offset of the excess is no matter to the guard.
        excess = index - 1.0 - _NORMATIVE_GAIN * np.abs(norm_delta)
        return _Seen(excess, np.abs(norm_delta), rating, expected, (noxious > 0.0) & (rated < scene.rated))


def _plan(trials: int, n: int, rng: np.random.Generator) -> tuple[Int64s, Float64s]:
    """Cue (n, n_trials) and whether the outcome is noxious, blocks in turn, shuffled within."""
    cues: list[Int64s] = []
    outcomes: list[Float64s] = []
    length = block = 0
    while length < trials:
        size, shares = _BLOCKS[block % len(_BLOCKS)]
        cue = np.arange(size) % len(shares)
        rank = np.arange(size) // len(shares)
        each = np.bincount(cue)[cue]
        noxious = (rank < np.rint(each * np.array(shares)[cue])).astype(np.float64)
        order = rng.permuted(np.tile(np.arange(size), (n, 1)), axis=1)
        cues.append(cue[order])
        outcomes.append(noxious[order])
        length, block = length + size, block + 1
    return np.concatenate(cues, axis=1), np.concatenate(outcomes, axis=1)


def _take(moments: Moments, who: Bools, probe: Int64s, x: Float64s, y: Float64s) -> None:
    """Grow, in place, the moments of the probes at which the sessions `who` are."""
    at = (np.flatnonzero(who), probe[who])
    fields = [np.asarray(field) for field in moments]
    for field, value in zip(fields, grown(Moments(*(field[at] for field in fields)), x[who], y[who]), strict=True):
        field[at] = value


def _of(moments: Moments, who: Bools) -> Moments:
    return Moments(*(np.asarray(field)[who] for field in moments))
