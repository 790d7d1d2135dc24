"""Who the simulated patient is: traits drawn for a group, beliefs, errors, ratings, and what current does to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from devices.mock import assumptions as known

if TYPE_CHECKING:
    from devices.mock.paradigm import Trial
    from devices.mock.patient_settings import PatientSettings

_CURRENT_ON_UA: Final = 10.0
_SIGNS: Final = {"paper": 1.0, "reversed": -1.0, "null": 0.0}


class Person:
    """Beliefs v for each cue, v += alpha (u - v) + noise; errors |PE| = g |u - v| + p; a slow and a fast effect of current.

    Parameters
    ----------
    settings : PatientSettings
        Group, seed, hypothesis of the current's sign.

    Attributes
    ----------
    alpha, persistence, gain : float
        Learning rate, p and g of this person.
    response : tuple of float
        Shares of the error that the fast and the slow effect take away at 2 mA cathodal.
    vertex_gain, muscle_gain, pain_gain, alpha_gain : float
        What the group does to N2-P2, neck muscle, pain and alpha.
    """

    def __init__(self, settings: PatientSettings) -> None:
        self._settings = settings
        group = settings.group
        rng = np.random.default_rng([settings.seed, 4])
        alpha, persistence, gain, response = (float(value) for value in rng.standard_normal(4))
        self._aware_draw = float(rng.random())
        mean = known.TRAITS[group]
        slowest, fastest = known.ALPHA_LIMITS
        self.alpha = min(fastest, max(slowest, mean[0] + mean[1] * alpha))
        self.persistence = max(0.0, mean[2] + mean[3] * persistence)
        self.gain = max(known.GAIN_LEAST, mean[4] + mean[5] * gain)
        sign = _SIGNS[settings.plasticity] * (1.0 + known.EFFECT_SPREAD * response)
        self.response = (known.EFFECT[0] * sign, known.EFFECT[1] * sign)
        self.vertex_gain = known.VERTEX_GAIN[group]
        self.muscle_gain = known.MUSCLE_GAIN[group]
        self.pain_gain = known.PAIN_GAIN[group]
        self.alpha_gain = known.ALPHA_GAIN[group]
        self._belief_noise = known.BELIEF_NOISE[group]
        self._beliefs: dict[str, float] = {}
        self._fast = self._slow = 0.0
        self._recent = known.STATE_MIDDLE

    def expects(self, key: str, told: float | None) -> float:
        """What is expected before an outcome: what was told, else what was learned about `key`."""
        return self._beliefs.get(key, known.BELIEF_START) if told is None else told

    def error(self, delta: float) -> float:
        """|PE| for a deviation, as the current's effect leaves it."""
        return (self.gain * abs(delta) + self.persistence) * (1.0 - self.effect)

    def learn(self, key: str, expected: float, delta: float, noise: float) -> None:
        """Move the belief about `key`; `noise` has sd 1."""
        learned = expected + self.alpha * (1.0 + self.effect) * delta + self._belief_noise * noise
        self._beliefs[key] = min(1.0, max(0.0, learned))

    def forget(self, key: str) -> None:
        """Start without a belief about `key`, as at a new train."""
        self._beliefs[key] = 0.0

    def remember(self, pe: float) -> None:
        """Take an error into what state-dependent plasticity looks at."""
        self._recent += (pe - self._recent) / known.STATE_TRIALS

    def rates_pain(self, trial: Trial, expected: float, noise: float) -> int:
        """Rating from 0 to 100; `noise` has sd 1."""
        if trial.outcome == "NOX":
            part = known.PAIN_BY_EXPECTATION
            pain = trial.intensity * self.pain_gain * (1.0 - part + part * expected)
            pain *= 1.0 - known.PAIN_BY_EFFECT * self.effect
        else:
            pain = known.PAIN_INNOCUOUS * trial.intensity
        return _rating(pain, noise)

    def rates_expectation(self, key: str, told: float | None, noise: float) -> int:
        """Rating from 0 to 100; `noise` has sd 1."""
        return _rating(100.0 * self.expects(key, told), noise)

    def is_aware(self) -> bool:
        """Whether this person can say which cue predicted what."""
        return self._aware_draw < known.AWARE[self._settings.group]

    @property
    def effect(self) -> float:
        """Share of the error that the current takes away now."""
        effect = self.response[0] * self._fast + self.response[1] * self._slow
        return min(known.EFFECT_MOST, max(-known.EFFECT_MOST, effect))

    @property
    def untouched(self) -> bool:
        """Whether no current ever left a trace."""
        return self._fast == 0.0 and self._slow == 0.0

    def feel(self, n: int, current_ua: float) -> None:
        """Let `n` samples of a current act, one by one."""
        if current_ua == 0.0 and self.untouched:
            return
        dt_s = 1.0 / self._settings.sfreq_hz
        i = -current_ua / 1000.0 / known.FULL_CURRENT_MA
        fast, slow = self._fast, self._slow
        to_fast = dt_s / known.FAST_S
        target, to_slow = 0.0, dt_s / known.SLOW_OFF_S
        if abs(current_ua) > _CURRENT_ON_UA:
            state = self._settings.state_dependence * (self._recent - known.STATE_MIDDLE) / known.STATE_MIDDLE
            target, to_slow = i, dt_s / known.SLOW_ON_S * max(0.0, 1.0 + state)
        for _ in range(n):
            fast += (i - fast) * to_fast
            slow += (target - slow) * to_slow
        self._fast, self._slow = fast, slow


def _rating(value: float, noise: float) -> int:
    return min(100, max(0, round(value + known.RATING_SD * noise)))
