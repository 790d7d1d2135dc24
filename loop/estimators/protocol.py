"""What an estimator must provide: short enough that a plug-in is one file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from cext import Output
from loop.calibration.file import Calibration, Rest
from loop.config import Config
from loop.events import Layout
from loop.readout import Readout

Float64s = npt.NDArray[np.float64]


class KnownOutcome(NamedTuple):
    """An outcome of a calibration recording, beside its features.

    `kind` is ``NOX``, ``INN`` or ``OMIT``; `intensity` the noxious intensity relative to the calibrated one (0 where there was
    none); `told` the expectation that the cue stated, None where it had to be learned.
    """

    kind: str
    cue: str
    intensity: float
    told: float | None


class EventKernel(Protocol):
    """What runs per sample; `cext.Kernel` is one."""

    @property
    def sample_count(self) -> int:
        """Samples processed so far."""
        ...

    def process(self, samples: Float64s, exclude: npt.NDArray[np.uint8], impulses: npt.NDArray[np.int64]) -> Output:
        """Work on a chunk.

        Parameters
        ----------
        samples : ndarray, shape (n, n_channels), float64
            Microvolts.
        exclude : ndarray, shape (n,), uint8
            Not 0 where a sample must not be used (current was flowing).
        impulses : ndarray, shape (k, 3), int64
            Sample relative to this chunk's first, marker channel (`loop.markers.CHANNELS`; -1: none), event id (-1: none).

        Returns
        -------
        cext.Output
            Frames at 50 Hz, and the events whose windows have passed. The same bytes for every chunking.
        """
        ...

    def reset_segment(self) -> Output:
        """Forget what must not reach over a break; events that it cuts short come out as not valid."""
        ...

    def get_state(self) -> bytes:
        """All that the next output depends on."""
        ...

    def set_state(self, state: bytes) -> None:
        """Continue from what `get_state` of a kernel with the same parameters gave. Raises ValueError."""
        ...


class Estimator(Protocol):
    """One session's estimator.

    Attributes
    ----------
    kernel : EventKernel
    name : str
        What it is, in words; part of every output.
    columns, learned, notes : tuple of str
        Names of the feature columns, of the event features, and sentences for the reader.
    used : ndarray of bool, shape (n_channels,)
        Channels that the estimate rests on.
    scale_uv : ndarray, shape (n_channels,)
        Microvolts per unit of the stream.
    readout : Readout or None
        Turns event features into the index; None while there is no calibration.
    is_stand_in : bool
        Whether it rests on channels that it does not recommend, so that closed_loop must ask for them by name.
    """

    kernel: EventKernel
    name: str
    columns: tuple[str, ...]
    learned: tuple[str, ...]
    notes: tuple[str, ...]
    used: npt.NDArray[np.bool_]
    scale_uv: Float64s
    readout: Readout | None
    is_stand_in: bool


class Plugin(Protocol):
    """A kind of estimator, as it is registered under the entry point ``cereloop.estimators``.

    Attributes
    ----------
    name : str
        As `estimator.kind` in the configuration names it.
    summary : str
        One line for ``cereloop estimators``.
    target : str
        What the readout follows, in words that fit into "the readout follows ...".
    claim : str
        A sentence or two on what the index is, and what it is not; for whoever reads its pages.
    needs_calibration : bool
        Whether `build` refuses to work without one.
    """

    name: str
    summary: str
    target: str
    claim: str
    needs_calibration: bool

    def build(self, config: Config, layout: Layout, calibration: Calibration | None) -> Estimator:
        """Set up an estimator for a stream.

        Raises
        ------
        LayoutError
            If the stream's channels or rate do not do.
        CalibrationError
            If the calibration does not fit the stream, or a needed one is missing.
        """
        ...

    def learn_rest(self, config: Config, layout: Layout, rest_uv: Float64s) -> Rest:
        """What the rest block teaches, before any trial: coefficients for `build`, bad channels, figures for the reader.

        Parameters
        ----------
        config : Config
        layout : Layout
        rest_uv : ndarray, shape (n_times, n_channels)
            Microvolts; may be empty where the recording has no rest block.

        Raises
        ------
        CalibrationError
            If there is too little to learn from.
        """
        ...

    def target_of(self, outcomes: Sequence[KnownOutcome]) -> Float64s:
        """What the readout shall follow, as a number for each outcome, in order; NaN where it teaches nothing."""
        ...

    def fit(self, names: Sequence[str], features: Float64s, outcomes: Sequence[KnownOutcome]) -> Readout:
        """Fit the readout on the events of the calibration recording.

        Parameters
        ----------
        names : sequence of str
            `Estimator.learned`.
        features : ndarray, shape (n, n_features)
            One row an outcome; NaN where it was not valid.
        outcomes : sequence of KnownOutcome

        Raises
        ------
        ReadoutError
            If there are too few outcomes of the kind that it learns from.
        """
        ...
