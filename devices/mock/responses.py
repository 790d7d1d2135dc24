"""What cue, outcome, lateness and offset evoke in the simulated patient, in microvolts at the electrodes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from devices.mock import assumptions as known
from devices.mock import head
from devices.mock.ongoing import Filter, band, gaussian, muscle_topographies, unit_peak

if TYPE_CHECKING:
    from devices.mock.paradigm import Trial
    from devices.mock.patient_settings import PatientSettings
    from devices.mock.person import Person

Float64s = npt.NDArray[np.float64]

_SETTLE_S: Final = 0.5
AFTER_S: Final = 1.0
"""How long an outcome evokes anything."""


class Responses:
    """Waveforms of one patient's sources, and how they show.

    Parameters
    ----------
    settings : PatientSettings
        Sizes, and where the source of the error lies.
    person : Person
        What the group does to them.
    directions : ndarray (n_channels, 3)
        Unit vectors to the electrodes.

    Attributes
    ----------
    error_topography : ndarray (n_channels,)
        Microvolts at 1 nAm of the error's source.
    """

    def __init__(self, settings: PatientSettings, person: Person, directions: Float64s) -> None:
        self._settings = settings
        self._person = person
        fs = settings.sfreq_hz
        sides = [head.radial_dipole(directions, head.from_mni(place)) for place in (head.CRUS_LEFT, head.CRUS_RIGHT)]
        self._both_crus = np.sum(sides, axis=0)
        self._vertex = unit_peak(head.radial_dipole(directions, head.from_mni(head.MIDCINGULATE)))
        self._visual = unit_peak(head.radial_dipole(directions, head.from_mni(head.VISUAL)))
        self.error_topography = head.error_topography(directions, settings.pe_site)
        size_uv = settings.muscle_uv * person.muscle_gain * settings.sized("startle")
        self._neck = size_uv * muscle_topographies(directions).max(axis=1)
        self._beta = band(*known.PE_BETA_HZ, fs)
        self._muscular = band(*known.MUSCLE_HZ, fs)
        self._t_s = np.arange(round(AFTER_S * fs)) / fs

    def cue(self, trial: Trial, rng: np.random.Generator) -> Float64s:
        """Visual potential, and activity that grows towards the outcome, up to when it is due."""
        s = self._settings
        t_s = np.arange(trial.due_sample - trial.cue_sample) / s.sfreq_hz
        p1, p1_sd, n1, n1_sd = known.VISUAL_S
        seen_uv = s.visual_uv * (gaussian(t_s, p1, p1_sd) - gaussian(t_s, n1, n1_sd))
        part = seen_uv[:, None] * self._visual
        share = known.ANTICIPATION.get(trial.cue, trial.told)
        nam = s.sized("anticipation_nam")
        if nam > 0.0 and share:
            waiting = share * nam * t_s / t_s[-1] * self._noise(rng, self._beta, len(t_s))
            part += waiting[:, None] * self._both_crus
        return part

    def error(self, pe: float, strength: float, phase: float, rng: np.random.Generator) -> Float64s:
        """The error's source: induced beta, then theta, of size `pe`; `strength` and `phase` have sd 1."""
        beta = self._noise(rng, self._beta, len(self._t_s))
        theta = np.cos(2.0 * math.pi * known.PE_THETA_HZ * self._t_s + known.PE_THETA_PHASE * phase)
        course = (1.0 + known.PE_BETA_SD * strength) * gaussian(self._t_s, *known.PE_BETA_S) * beta
        course += gaussian(self._t_s, *known.PE_THETA_S) * theta
        return np.asarray((self._settings.pe_amplitude_nam * pe * course)[:, None] * self.error_topography)

    def felt(self, felt: float, pe: float, jitter: float, rng: np.random.Generator) -> Float64s:
        """Sensory source and N2-P2 of a stimulus; `felt` is its strength, `jitter` has sd 1."""
        s, t_s = self._settings, self._t_s
        sensed = s.sized("sensory_nam") * felt * gaussian(t_s, *known.SENSORY_S) * self._noise(rng, self._beta, len(t_s))
        late = t_s - known.VERTEX_JITTER_S * jitter
        size_uv = self._person.vertex_gain * (s.vertex_uv * felt * self._person.pain_gain + s.vertex_pe_uv * pe)
        n2p2 = size_uv * (gaussian(late, *known.P2_S) - gaussian(late, *known.N2_S))
        return np.asarray(sensed[:, None] * self._both_crus + n2p2[:, None] * self._vertex)

    def startle(self, u: float, pe: float, rng: np.random.Generator) -> Float64s:
        """Burst of the neck muscles after a noxious stimulus of strength `u`."""
        begins, ends = known.STARTLE_S
        when = (self._t_s >= begins) & (self._t_s < ends)
        neck = u * (known.STARTLE_BASE + pe) * when * self._noise(rng, self._muscular, len(self._t_s))
        return np.asarray(neck[:, None] * self._neck)

    def _noise(self, rng: np.random.Generator, sos: Float64s, n: int) -> Float64s:
        """Noise (n,) of power 1 in a band, from a filter that has forgotten its start."""
        lead = round(_SETTLE_S * self._settings.sfreq_hz)
        return Filter(sos, ())(rng.standard_normal(n + lead))[lead:]
