"""The ongoing activity of one seed, made once and kept, so that many patients can be laid over it."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import msgspec

from devices.mock.ongoing import BLOCK_S, Ongoing, Stream
from devices.mock.patient_settings import PatientSettings

_DECIDED_BY: Final = ("seed", "labels", "sfreq_hz", "background_uv", "line_uv", "line_hz", "sensor_uv")


class Background:
    """What `Patient` makes most of its time with, kept in memory: 4 bytes a sample and channel.

    Whatever else the settings say (group, error, place of its source, profile, alpha, muscle, blinks, blocks, current) may
    differ between the patients that share it. A patient over it gives the same bytes as one of the same settings alone.

    Parameters
    ----------
    settings : PatientSettings
        Of the longest of the patients; seed, cap, rate, background, mains and sensor noise are taken from it.

    Raises
    ------
    ValueError
        If an electrode's label is no place of the 10-05 system.

    Examples
    --------
    ::

        background = Background(settings)
        for size in (0.0, 4.0, 8.0, 12.0, 16.0):
            patient = Patient(msgspec.structs.replace(settings, pe_amplitude_nam=size), background)
    """

    def __init__(self, settings: PatientSettings) -> None:
        self._settings = settings
        # Whoever comes may have alpha and muscle of any size.
        self._stream = Stream(msgspec.structs.replace(settings, alpha_uv=1.0, muscle_uv=1.0))
        self._kept: list[Ongoing] = []

    def block(self, k: int) -> Ongoing:
        """Block `k`, made when it is first asked for."""
        while len(self._kept) <= k:
            self._kept.append(self._stream.block(len(self._kept)))
        return self._kept[k]

    def check(self, settings: PatientSettings) -> None:
        """Refuse a patient whose own background would be another.

        Raises
        ------
        ValueError
            Says what differs.
        """
        for name in _DECIDED_BY:
            theirs, ours = getattr(settings, name), getattr(self._settings, name)
            if theirs != ours:
                raise ValueError(f"{name} is {theirs} but the background was made with {ours}")
        if settings.duration_s > self._settings.duration_s + BLOCK_S:
            longest_s = self._settings.duration_s
            raise ValueError(f"duration_s is {settings.duration_s:g} but the background was made for {longest_s:g}")


class BackgroundAhead(Background):
    """A background of which the next block is made in a thread while the present one is used: for a stream at true rate.

    Made on demand, a block of four seconds holds up the samples for as long as it takes, on a busy machine longer than an
    engine waits for them. Keeps nothing: blocks must be asked for in order.

    Parameters
    ----------
    settings : PatientSettings
        Of the patient.
    """

    def __init__(self, settings: PatientSettings) -> None:
        super().__init__(settings)
        self._maker = ThreadPoolExecutor(1, thread_name_prefix="background")
        self._coming: tuple[int, Future[Ongoing]] = (0, self._maker.submit(self._stream.block, 0))

    def block(self, k: int) -> Ongoing:
        """Block `k`, the one after the last; raises ValueError for any other."""
        number, coming = self._coming
        if k != number:
            raise ValueError(f"block {k} was asked for where {number} follows")
        made = coming.result()
        self._coming = (k + 1, self._maker.submit(self._stream.block, k + 1))
        return made
