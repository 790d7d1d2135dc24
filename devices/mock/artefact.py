"""What a current does to the recording: offset, drift, ramp corners, heartbeat, breathing, contact noise, larger blinks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from devices.mock import assumptions as known
from devices.mock import head, ongoing
from devices.mock.ongoing import Ongoing
from devices.mock.patient_settings import PatientSettings

Float64s = npt.NDArray[np.float64]


class Artefact:
    """The current's own voltage at the electrodes, linear in it, and what body and contacts make of it.

    Parameters
    ----------
    settings : PatientSettings
        Where the pad lies, and the offset beside it.
    directions : ndarray (n_channels, 3)
        Unit vectors to the electrodes.

    Raises
    ------
    ValueError
        If the pad's label is no place of the 10-05 system.
    """

    def __init__(self, settings: PatientSettings, directions: Float64s) -> None:
        self._dt_s = 1.0 / settings.sfreq_hz
        self._blink_uv = settings.blink_uv
        pad = head.electrode_directions([settings.pad_label])[0]
        self._beside = np.exp(-head.RADIUS_M * np.linalg.norm(directions - pad, axis=1) / known.PAD_REACH_M)
        reach = known.PAD_FAR + (1.0 - known.PAD_FAR) * self._beside
        self._offset_uv_per_ma = 1e3 * settings.pad_offset_mv_per_ma * reach
        self._blinks = ongoing.blink_topography(directions)
        self._crept_ma = self._followed_ma = 0.0
        self._block: tuple[Float64s, Float64s] | None = None

    def turn_page(self) -> None:
        """Another block of ongoing activity begins."""
        self._block = None

    def add(self, eeg: Float64s, first: int, current_ua: float, block: Ongoing, blink: Float64s) -> Float64s:
        """Samples with what the current adds.

        Parameters
        ----------
        eeg : ndarray (n, n_channels)
            Without current, in microvolts; left as it is.
        first : int
            Where in `block` they begin.
        current_ua : float
            During all of them.
        block : Ongoing
            Gives heart, breath and contact noise.
        blink : ndarray
            All blinks of the block.

        Returns
        -------
        ndarray (n, n_channels)
        """
        if current_ua == 0.0 and self._crept_ma == 0.0 and self._followed_ma == 0.0:
            return eeg
        ma = current_ua / 1000.0
        if self._block is None:
            self._block = self._per_ma(block, blink)
        signed, unsigned = self._block
        here = slice(first, first + len(eeg))
        out: Float64s = eeg + self._seen_ma(len(eeg), ma)[:, None] * self._offset_uv_per_ma
        out += ma * signed[here]
        out += abs(ma) * unsigned[here]
        return out

    def _seen_ma(self, n: int, ma: float) -> Float64s:
        """Current (n,) whose voltage the electrodes show: it creeps in, and swings at corners of a ramp."""
        crept, followed = self._crept_ma, self._followed_ma
        to_crept, to_followed = self._dt_s / known.CREEP_S, self._dt_s / known.CORNER_S
        trace = []
        for _ in range(n):
            crept += (ma - crept) * to_crept
            followed += (ma - followed) * to_followed
            trace.append(ma + known.CREEP * crept + known.CORNER * (ma - followed))
        self._crept_ma, self._followed_ma = crept, followed
        return np.array(trace)

    def _per_ma(self, block: Ongoing, blink: Float64s) -> tuple[Float64s, Float64s]:
        """What a milliampere adds over this block (n, n_channels): what turns with its sign, and what does not."""
        body = known.HEART_UV_PER_MA * block.heart.astype(np.float64) + known.BREATH_UV_PER_MA * block.breath
        signed = body[:, None] * self._beside
        unsigned = (known.CONTACT_UV_PER_MA * block.contact.astype(np.float64))[:, None] * self._beside
        unsigned += (known.BLINK_PER_MA * self._blink_uv * blink)[:, None] * self._blinks
        return signed, unsigned
