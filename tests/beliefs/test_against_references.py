"""K10 against other people's implementations of the same mathematics; `pytest -s` shows the differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from filterpy.kalman import KalmanFilter

from loop import beliefs

EXACT = 1e-12
TRIALS = 400


@pytest.fixture(scope="module")
def differences() -> Iterator[Callable[[str, str, float], None]]:
    """Collects (piece, reference, greatest difference) and prints them as a table at the end."""
    rows: list[tuple[str, str, float]] = []
    yield lambda piece, reference, most: rows.append((piece, reference, most))
    print(f"\n\n{'piece':<34} {'reference':<30} max difference")
    for piece, reference, most in rows:
        print(f"{piece:<34} {reference:<30} {most:.1e}")


def intensities(seed: int) -> list[float]:
    """A probabilistic cue that reverses half-way: nothing, or a graded stimulus."""
    rng = np.random.default_rng(seed)
    noxious = rng.random(TRIALS) < np.where(np.arange(TRIALS) < TRIALS // 2, 0.75, 0.25)
    return (noxious * rng.choice([0.6, 1.0], TRIALS)).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_kalman_equals_filterpy(seed: int, differences: Callable[[str, str, float], None]) -> None:
    theirs = KalmanFilter(dim_x=1, dim_z=1)
    theirs.x[:], theirs.P[:] = beliefs.PRIOR_MEAN, beliefs.PRIOR_VARIANCE
    theirs.F[:], theirs.H[:] = 1.0, 1.0
    theirs.Q[:], theirs.R[:] = beliefs.KALMAN_Q, beliefs.KALMAN_R
    held: beliefs.Beliefs = ()
    most = nis = 0.0
    for u in intensities(seed):
        trial = beliefs.Trial("H", u)
        errors = beliefs.errors_of(held, trial)
        held = beliefs.learn(held, trial)
        theirs.predict()
        theirs.update(u)
        ours = dict(held)["H"].kalman
        most = max(most, abs(ours.value - theirs.x.item()), abs(ours.variance - theirs.P.item()))
        nis = max(nis, abs(errors.kalman_nis - theirs.mahalanobis**2))
        assert errors.kalman == pytest.approx(abs(theirs.y.item()), abs=EXACT)
    differences(f"Kalman, value and variance ({seed})", "filterpy KalmanFilter", most)
    differences(f"Kalman, NIS ({seed})", "filterpy mahalanobis²", nis)
    assert most <= EXACT
    assert nis <= EXACT


def test_ehgf_equals_pyhgf(differences: Callable[[str, str, float], None]) -> None:
    import jax

    jax.config.update("jax_enable_x64", True)
    from pyhgf.model import HGF

    theirs = HGF(
        n_levels=3,
        model_type="binary",
        update_type="eHGF",
        initial_mean={"1": 0.0, "2": 0.0, "3": 0.0},
        initial_precision={"1": 0.0, "2": 1.0, "3": 1.0},
        tonic_volatility={"2": beliefs.OMEGA_2, "3": beliefs.OMEGA_3},
        volatility_coupling={"1": 1.0, "2": beliefs.KAPPA},
    )
    series = [intensities(seed) for seed in range(3)]
    worst = dict.fromkeys(("expectation", "mean 2", "precision 2", "mean 3", "precision 3"), 0.0)
    for us in series:
        theirs.input_data(input_data=(np.array(us) > 0.0).astype(float))
        nodes = theirs.node_trajectories
        held: beliefs.Beliefs = ()
        for k, u in enumerate(us):
            trial = beliefs.Trial("H", u)
            error = beliefs.errors_of(held, trial).hgf
            held = beliefs.learn(held, trial)
            ours = dict(held)["H"].hgf
            chance = float(nodes[0]["expected_mean"][k])
            pairs = {
                "expectation": (error, abs(float(u > 0.0) - chance)),
                "mean 2": (ours.mu_2, float(nodes[1]["mean"][k])),
                "precision 2": (ours.pi_2, float(nodes[1]["precision"][k])),
                "mean 3": (ours.mu_3, float(nodes[2]["mean"][k])),
                "precision 3": (ours.pi_3, float(nodes[2]["precision"][k])),
            }
            for name, (one, other) in pairs.items():
                worst[name] = max(worst[name], abs(one - other))
    for name, most in worst.items():
        differences(f"eHGF, {name}", "pyhgf HGF(binary, 3 levels)", most)
    assert max(worst.values()) <= EXACT
