"""The simulated patient as a source that can be played: closed loop without any hardware."""

from __future__ import annotations

import msgspec
import numpy as np

from devices.mock.background import Background
from devices.mock.patient import OffsetTruth, Patient, TrialTruth
from devices.mock.patient_settings import PatientSettings
from devices.mock.task import with_text
from loop.config import Config, ConfigError
from loop.events import Block, Layout, SourceInfo


class PatientPlayback:
    """A simulated patient, played as fast as it is read; implements `Playback`.

    Parameters
    ----------
    settings : PatientSettings
        Who is simulated.
    background : Background, optional
        Ongoing activity made before, for patients who share it; the samples are the same without.

    Attributes
    ----------
    layout : Layout
        The simulated cap, in microvolts.
    info : SourceInfo
        Always simulated; its identity is the settings as JSON, from which the patient can be made again: a task of the user's
        own is in it, not only its path.
    n_samples : int
        Length of the session.

    Raises
    ------
    ConfigError
        If the settings cannot be played: an unknown electrode, a task that cannot be used, a background of another patient.
    """

    def __init__(self, settings: PatientSettings, background: Background | None = None) -> None:
        try:
            settings = with_text(settings)
            self._patient = Patient(settings, background)
        except ValueError as error:
            raise ConfigError(f"table `patient`: {error}") from error
        n_channels = len(settings.labels)
        self.layout = Layout(
            labels=settings.labels,
            units=("microvolts",) * n_channels,
            to_uv=(1.0,) * n_channels,
            sfreq_hz=settings.sfreq_hz,
            positions_m=self._patient.positions_m,
        )
        self.info = SourceInfo(
            kind="patient",
            identity=msgspec.json.encode(settings, order="deterministic").decode(),
            simulated=True,
            dtype="float32",
        )
        self.n_samples: int | None = self._patient.n_samples
        self._first = 0

    @property
    def truth(self) -> tuple[TrialTruth, ...]:
        """What was true in each trial so far; for judging estimates, never for making them."""
        return tuple(self._patient.truth)

    @property
    def offsets(self) -> tuple[OffsetTruth, ...]:
        """What was true at each end of heat so far."""
        return tuple(self._patient.offsets)

    def read(self, n: int, current_ua: float) -> Block | None:
        """The next samples.

        Parameters
        ----------
        n : int
            At most so many; fewer at the end.
        current_ua : float
            Current at the electrode over the target during them, in microamperes; negative is cathodal.

        Returns
        -------
        Block or None
            Samples (n, n_channels) float32 in microvolts; None at the end.
        """
        if n < 1:
            raise ValueError(f"a block has at least one sample, not {n}")
        samples, markers = self._patient.advance(n, current_ua)
        if len(samples) == 0:
            return None
        first, self._first = self._first, self._first + len(samples)
        rate = self.layout.sfreq_hz
        stamps = np.rint(np.arange(first, self._first) * 1e9 / rate).astype(np.int64)
        return Block(first, stamps, samples, [(round(sample * 1e9 / rate), text) for sample, text in markers])


def patient_for(config: Config) -> PatientPlayback:
    """The configured patient, who stays at least as long as the session lasts.

    Raises
    ------
    ConfigError
        If there is no [patient] table.
    """
    if config.patient is None:
        raise ConfigError("key `patient` is missing: a simulated participant needs a [patient] table")
    duration_s = max(config.patient.duration_s, config.session.duration_s)
    return PatientPlayback(msgspec.structs.replace(config.patient, duration_s=duration_s))


def patient_from_identity(identity: str) -> PatientPlayback:
    """Make a patient again from the identity in its `SourceInfo`.

    Raises
    ------
    msgspec.ValidationError
        If the text does not hold a patient's settings.
    """
    return PatientPlayback(msgspec.json.decode(identity, type=PatientSettings, strict=True))
