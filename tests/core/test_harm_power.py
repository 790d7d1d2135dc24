"""The harm guard's power study: it plays the guard itself, and its figures are the ones the README quotes."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from rich.console import Console

from loop import harm
from loop.accuracy import harm_power
from loop.accuracy.harm_power import HarmPower, Row, Scene, nulls, render, simulate, wilson
from loop.config import HarmTable
from loop.harm import Probing, Stimulating

SESSIONS = 400


def locked(scene: Scene, table: HarmTable | None = None) -> Row:
    return simulate(table or HarmTable(), scene, SESSIONS, seed=77)


def test_wilson_is_the_textbook_interval() -> None:
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(8, 100) == pytest.approx((0.0411, 0.1500), abs=1e-4)


@pytest.mark.parametrize("seed", range(8))
def test_one_session_is_what_the_guard_itself_makes_of_it(seed: int) -> None:
    """The same patient, driven through the guard's own functions, one call a trial."""
    scene = Scene(index_harm_sd=0.8, rating_harm=12.0, rated=0.8, blocks=4, trials=160)
    table = HarmTable()
    row = simulate(table, scene, 1, seed)

    patient = harm_power._Patients(scene, 1, np.random.default_rng(seed))
    state: Probing | Stimulating = Probing()
    on_left = given = delay = 0
    trial_locked, ended = None, False
    for trial in range(scene.trials):
        on = on_left > 0
        seen = patient.next(trial, np.array([given]), np.array([on]))
        if on:
            on_left -= 1
            continue
        if isinstance(state, Stimulating):
            state = harm.end_on(state, 1.0)
        state = harm.take_index(state, seen.excess_sd[0].item(), seen.surprise[0].item())
        if seen.is_rated[0]:
            state = harm.take_rating(state, seen.rating[0].item(), seen.expected[0].item())
        state, verdict = harm.judge(table, state)
        if verdict.kind == "locked":
            trial_locked = trial + 1
            break
        if verdict.kind == "clear" and given == scene.blocks:
            ended = True
            break
        if verdict.kind == "clear":
            state = harm.start_on(state, "cathodal")
            given, on_left = given + 1, scene.on_trials
        elif "more probe trials" in verdict.reason:
            delay += 1
    assert (row.locked, row.trial) == (float(trial_locked is not None), trial_locked)
    assert (row.blocks, row.delay) == (given, delay)
    assert ended or trial_locked or trial == scene.trials - 1


def test_one_seed_gives_one_row() -> None:
    scene = Scene(index_harm_sd=0.5)
    assert simulate(HarmTable(), scene, 50, seed=3) == simulate(HarmTable(), scene, 50, seed=3)
    assert simulate(HarmTable(), scene, 50, seed=3) != simulate(HarmTable(), scene, 50, seed=4)


@pytest.mark.parametrize("scene", nulls()[:7], ids=lambda scene: scene.name)
def test_current_that_does_nothing_locks_at_most_one_session_in_ten(scene: Scene) -> None:
    row = simulate(HarmTable(), scene, 1500, seed=4242)
    print(f"{scene.name}: {100 * row.locked:.1f} % locked, 95 % interval {100 * row.low:.1f} to {100 * row.high:.1f} %")
    assert row.locked <= 0.10


def test_without_the_guards_margin_and_correction_false_lock_outs_would_rise() -> None:
    """The study can tell a guard that is too quick: Bayes factor above 2 instead of 9, no margin."""
    row = locked(Scene(), HarmTable(probability=0.51, margin_sd=0.0))
    assert row.low > 0.15


def test_power_grows_with_the_harm_the_trials_and_the_ratings() -> None:
    by_size = [locked(Scene(index_harm_sd=sd, rated=0.0)).locked for sd in (0.0, 0.5, 1.0)]
    assert by_size[0] + 0.2 < by_size[1] < by_size[2] - 0.2
    by_rise = [locked(Scene(rating_harm=rise)).locked for rise in (0.0, 10.0, 20.0)]
    assert by_rise[0] + 0.1 < by_rise[1] < by_rise[2] - 0.1
    both = Scene(index_harm_sd=0.5, rating_harm=10.0)
    by_share = [locked(msgspec.structs.replace(both, rated=share)).locked for share in (0.0, 0.5, 1.0)]
    assert by_share[0] < by_share[1] < by_share[2]
    by_trials = [locked(both, HarmTable(min_baseline=n)).locked for n in (10, 30)]
    assert by_trials[0] + 0.2 < by_trials[1]


def test_the_default_finds_what_the_readme_says_it_finds() -> None:
    assert locked(Scene(index_harm_sd=1.0, rated=0.0)).low > 0.85
    assert locked(Scene(rating_harm=20.0, rated=1.0)).low > 0.80
    # And misses what it says it misses: the reversed sign at 1 mA, as large as the virtual patient has it.
    assert locked(Scene(reversed_ma=1.0)).high < 0.25


def test_a_harmful_current_is_given_less_of_it() -> None:
    assert locked(Scene(index_harm_sd=1.0)).blocks < 0.5 * locked(Scene()).blocks


def test_the_tables_name_every_row_within_80_columns() -> None:
    row = simulate(HarmTable(), Scene(name="as assumed", reversed_ma=2.0), 20, seed=1)
    long = msgspec.structs.replace(
        row, scene=Scene(name="sensitisation: index 0.2, ratings 4 a hundred trials", rating_harm=20.0)
    )
    console = Console(width=80)
    with console.capture() as captured:
        render(HarmPower(null=(row, long), harm=(row,), curve=(row,)), console)
    lines = captured.get().splitlines()
    assert captured.get().count("as assumed, 2 mA") == 3
    assert "nothing got worse (E +0, rated 50 %, probes 30/10)" in captured.get()
    assert max(map(len, lines)) <= 80
    assert "…" not in captured.get()
