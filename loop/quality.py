"""Per-channel verdicts in words: which channel is bad, since when, and whether the unit can be right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

# Bits of the kernel's channel flags, in order of severity.
VERDICTS: Final = ((1, "non_finite"), (2, "railed"), (4, "flat"))

# A scalp channel's sample-to-sample change: below the least, a unit too small; above the most, one too large.
LEAST_CHANGE_UV: Final = 1e-3
MOST_CHANGE_UV: Final = 1e5
_UNIT_WINDOW_S: Final = 2.0
_HOLD_FRAMES: Final = 50


class Verdict(NamedTuple):
    """A channel turned bad or good again."""

    channel: str
    name: str
    bad: bool


class ChannelWatch:
    """Turns the kernel's per-channel flags into verdicts that do not chatter: good again only after a second without a flag."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = tuple(labels)
        self._current = np.zeros(len(labels), dtype=np.uint8)
        self._quiet = np.zeros(len(labels), dtype=np.int64)
        self._any = False

    @property
    def bad(self) -> dict[str, str]:
        """Channels that are bad now, with the verdict."""
        return {self._labels[i]: _name(int(self._current[i])) for i in np.flatnonzero(self._current)}

    def take(self, channel_flags: npt.NDArray[np.uint8]) -> list[Verdict]:
        """Judge the frames of one chunk; `channel_flags` is (n_frames, n_channels)."""
        if len(channel_flags) == 0 or not (self._any or channel_flags.any()):
            return []
        verdicts = []
        for frame in channel_flags:
            flagged = frame != 0
            self._quiet = np.where(flagged, 0, self._quiet + 1)
            started = flagged & (self._current == 0)
            ended = (self._current != 0) & (self._quiet >= _HOLD_FRAMES)
            verdicts += [Verdict(self._labels[i], _name(int(frame[i])), bad=True) for i in np.flatnonzero(started)]
            now_good = np.flatnonzero(ended)
            verdicts += [Verdict(self._labels[i], _name(int(self._current[i])), bad=False) for i in now_good]
            self._current = np.where(started, frame, np.where(ended, 0, self._current)).astype(np.uint8)
        self._any = bool(self._current.any())
        return verdicts


class UnitWatch:
    """Judges once a segment, over its first two seconds, whether samples can be scalp EEG in the unit they claim."""

    def __init__(self, sfreq_hz: float) -> None:
        self._wanted = int(_UNIT_WINDOW_S * sfreq_hz)
        self._held: list[npt.NDArray[Any]] = []
        self._n = 0
        self._done = False

    def take(self, samples_uv: npt.NDArray[np.float64], used: npt.NDArray[np.bool_]) -> str | None:
        """Collect samples (n_times, n_channels); a sentence when the verdict falls and is bad, else None."""
        if self._done:
            return None
        self._held.append(samples_uv[:, used].copy())
        self._n += len(samples_uv)
        if self._n < self._wanted:
            return None
        self._done = True
        with np.errstate(invalid="ignore", over="ignore"):
            steps = np.abs(np.diff(np.concatenate(self._held), axis=0))
        self._held.clear()
        medians = [np.median(channel[good]) for channel in steps.T if (good := np.isfinite(channel)).any()]
        if not medians:
            return None
        change = float(np.median(medians))
        if 0.0 < change < LEAST_CHANGE_UV:
            return f"samples change by {change:.2g} µV at a time: the unit looks 10^6 too small (volts declared as microvolts?)"
        if change > MOST_CHANGE_UV:
            return f"samples change by {change:.2g} µV at a time: the unit looks 10^6 too large (microvolts declared as volts?)"
        return None


def blindness(channel_flags: npt.NDArray[np.uint8]) -> str:
    """Why samples that arrive are no new valid ones (I12): each is flagged in every channel; empty where one is not.

    Parameters
    ----------
    channel_flags : ndarray (n_frames, n_channels)
        Of the channels that are judged: where none is, nobody can tell.
    """
    blind = channel_flags.size > 0 and bool((channel_flags != 0).all())
    return "every channel is flat, railed or not finite" if blind else ""


def _name(bits: int) -> str:
    return next((name for bit, name in VERDICTS if bits & bit), "bad")
