"""Turns config, channel layout and calibration into the kernel's coefficients; owns the kernel.

With a calibration each band has spatial filters of its own for the left posterior fossa, the right one, and both (K1). Without
one the spatial filter is the average-referenced fallback of one channel a side: it says so in `name`, and what it measures is
a *posterior-fossa prediction-error index* only in name and place.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import signal

from cext.kernel import Kernel
from cext.params import KernelParams
from loop import markers
from loop.calibration.errors import CalibrationError
from loop.calibration.file import Calibration, check_fit
from loop.config import Config
from loop.errors import LayoutError
from loop.events import Layout
from loop.montage import is_eeg_label, standard_label

FEATURE_RATE_HZ: Final = 50
LEAST_RATE_HZ: Final = 128.0
MOST_RATE_HZ: Final = 4096.0
KIND: Final = "posterior_fossa"
SIDED: Final = ("PFT_L", "PFT_R", "PFB_L", "PFB_R")
# Both sides in one filter: what they do together adds up in amplitude there, while log powers of each side only average.
LEARNED: Final = (*SIDED, "PFT_LR", "PFB_LR")
# The calibration's spatial filters, one a learned stream.
WEIGHTS: Final = ("theta_left", "theta_right", "beta_left", "beta_right", "theta_both", "beta_both")

# Pairs (left, right) over or near the posterior fossa, best first; only the first is the recommended site.
PAIRS: Final = (("PO9", "PO10"), ("P9", "P10"), ("I1", "I2"), ("PO7", "PO8"), ("TP9", "TP10"), ("P7", "P8"), ("O1", "O2"))
RING: Final = ("PO9", "PO10", "P9", "P10", "I1", "I2", "TP9", "TP10", "Iz", "PO7", "PO8", "O1", "O2")
CONTROL: Final = ("Oz", "POz", "Pz")

THETA_HZ: Final = (4.0, 7.0)
BETA_HZ: Final = (14.0, 30.0)
TAU_THETA_S: Final = 0.12
TAU_BETA_S: Final = 0.05
TAU_MUSCLE_S: Final = 0.05

# K5: cues tau .1 .3 .7 1.2 s; outcomes .05 .1 .2 .4 .8 s.
CUE_TAUS_S: Final = (0.1, 0.3, 0.7, 1.2)
OUTCOME_TAUS_S: Final = (0.05, 0.1, 0.2, 0.4, 0.8)

# K4: after these the muscle regression rests for [0, .8] s, so that what an outcome evokes is not taken for muscle.
OUTCOMES: Final = ("NOX", "INN", "OMI")
REST_TICKS: Final = 41

# K8 windows in ticks of 20 ms: beta .12–.36 s, theta .30–.62 s (omission responses end by .5 s; filter and envelope lag by
# .12 s), baseline -.60 to -.10 s. A quarter of the baseline is taken off: half a second of it is noisier than what drifts.
BETA_WINDOW: Final = (6, 18)
THETA_WINDOW: Final = (15, 31)
BASELINE: Final = (-30, -5)
BASELINE_WEIGHT: Final = 0.25

# The muscle index is a mean over the ring's first so many: more would need a third set of the kernel's eight lanes.
_MOST_RING: Final = 8
_LEAST_MUSCLE_BAND_HZ: Final = 15.0


class Bank(NamedTuple):
    """Filters of one rate: second-order sections for theta, beta and muscle (None: the rate cannot carry it)."""

    theta: npt.NDArray[np.float64]
    beta: npt.NDArray[np.float64]
    muscle: npt.NDArray[np.float64] | None
    muscle_band_hz: tuple[float, float] | None
    notes: tuple[str, ...]


class Estimator:
    """The kernel of one layout, and what it says of itself.

    Parameters
    ----------
    config : Config
        Uses `channels` and `estimator`.
    layout : Layout
        Channels, units and rate of the stream.
    calibration : Calibration, optional
        Its spatial filters and readout are used; without one the fallback works.

    Attributes
    ----------
    kernel : cext.kernel.Kernel
    used : ndarray of bool, shape (n_channels,)
        Channels that the estimate rests on.
    columns, learned, notes : tuple of str
        Names of the feature columns, of the learned streams, and sentences for the reader.
    name : str
        The spatial filter in words.
    readout : Readout or None
        The calibration's.

    Raises
    ------
    LayoutError
        If a channel that the config names is missing, or the cap has no usable pair.
    CalibrationError
        If the calibration belongs to another stream, montage or estimator.
    """

    def __init__(self, config: Config, layout: Layout, calibration: Calibration | None = None) -> None:
        if not LEAST_RATE_HZ <= layout.sfreq_hz <= MOST_RATE_HZ:
            raise LayoutError(
                f"the stream has {layout.sfreq_hz:g} samples a second; {LEAST_RATE_HZ:g} to {MOST_RATE_HZ:g} can be worked on"
            )
        labels = [standard_label(label) for label in layout.labels]
        index = {label: i for i, label in reversed(list(enumerate(labels)))}
        out = {_find(name, index, "channels.bad") for name in config.channels.bad}
        out |= {_find(name, index, "channels.pads") for name in config.channels.pads}
        if calibration is not None:
            check_fit(calibration, layout, KIND, (*config.channels.bad, *config.channels.pads))
            out |= {_find(name, index, "the calibration's list of bad channels") for name in calibration.rest.bad}
        for name in config.channels.rails_under_current:
            _find(name, index, "channels.rails_under_current")
        eeg = [i for i, label in enumerate(labels) if is_eeg_label(label) and i not in out]
        if calibration is None:
            left, right, pair_note = _pair(config, index, set(eeg))
            sides = [_unit(len(labels), index[label]) for label in (left, right)]
            filters = [*sides, *sides, *[(sides[0] + sides[1]) / math.sqrt(2.0)] * 2]
            self.name = f"fallback: average-referenced {left}/{right}, not calibrated"
            self.is_stand_in = (left, right) != PAIRS[0] and not config.estimator.left
        else:
            if calibration.readout is not None and calibration.readout.names != LEARNED:
                raise CalibrationError(
                    f"the calibration's readout is of {', '.join(calibration.readout.names)}; this estimator has "
                    f"{', '.join(LEARNED)}: calibrate anew"
                )
            filters = _calibrated_filters(calibration, eeg)
            pair_note, self.is_stand_in = "", False
            self.name = f"posterior-fossa spatial filters on {len(eeg)} channels, calibrated on {calibration.created[:10]}"
        control = next((index[name] for name in CONTROL if index.get(name) in eeg), None)
        ring = [index[name] for name in RING if index.get(name) in eeg][:_MOST_RING] or eeg[-2:]
        bank = design(layout.sfreq_hz, config.channels.line_hz)
        notes = [pair_note, *bank.notes]
        if len(eeg) < 8:
            notes.append(f"the average reference rests on only {len(eeg)} channels")
        if control is None:
            notes.append("no occipital control channel (Oz, POz, Pz) in this cap")

        chains: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float]] = []
        pooling: list[list[int]] = []
        streams = list(LEARNED)
        theta, beta = (bank.theta, TAU_THETA_S), (bank.beta, TAU_BETA_S)
        for weights, (sections, tau_s) in zip(filters, (theta, theta, beta, beta, theta, beta), strict=True):
            pooling.append([len(chains)])
            chains.append((weights, sections, tau_s))
        if control is not None:
            for name, (sections, tau_s) in (("OCT", theta), ("OCB", beta)):
                streams.append(name)
                pooling.append([len(chains)])
                chains.append((_unit(len(labels), control), sections, tau_s))
        muscle_stream = -1
        if bank.muscle is not None:
            muscle_stream = len(streams)
            streams.append("EMG")
            pooling.append(list(range(len(chains), len(chains) + len(ring))))
            chains.extend((_unit(len(labels), i), bank.muscle, TAU_MUSCLE_S) for i in ring)

        self.used = np.zeros(len(labels), dtype=np.bool_)
        self.used[eeg] = True
        self.params = _params(config, layout, self.used, chains, pooling, muscle_stream)
        self.kernel = Kernel(self.params)
        self.columns = tuple(self.params.column_names(streams))
        self.learned = LEARNED
        self.readout = calibration.readout if calibration is not None else None
        if calibration is not None and calibration.readout is None:
            notes.append("the calibration has no readout: evidence is judged against pseudo-events, as without one")
        self.notes = tuple(note for note in notes if note)
        self.scale_uv = np.array(layout.to_uv)


def design(sfreq_hz: float, line_hz: float) -> Bank:
    """Causal sections for one rate (K2); a band that the rate cannot carry moves, or is switched off and said so.

    High-pass Butterworth order 2 at 1 Hz, notch (Q 30), band edges of order 1 (theta, beta) and 2 (muscle): minimum-phase,
    because in a causal loop the group delay decides.
    """
    high = signal.butter(2, 1.0, "highpass", fs=sfreq_hz, output="sos")
    common = [high]
    if line_hz < 0.45 * sfreq_hz:
        common.append(signal.tf2sos(*signal.iirnotch(line_hz, 30.0, fs=sfreq_hz)))
    notes = []

    def band(order: int, edges: tuple[float, float]) -> npt.NDArray[np.float64]:
        sections = signal.butter(order, edges, "bandpass", fs=sfreq_hz, output="sos")
        return np.concatenate([*common, np.atleast_2d(sections)])

    top = min(200.0, 0.4 * sfreq_hz)
    bottom = max(top / 2.0, line_hz + 8.0)
    muscle: tuple[float, float] | None = (bottom, top)
    if top - bottom < _LEAST_MUSCLE_BAND_HZ:
        muscle = None
        notes.append(f"no muscle index: {sfreq_hz:g} Hz cannot carry a band above the mains; muscle bursts go unflagged")
    elif top < 199.0 or bottom > 101.0:
        notes.append(f"muscle band moved to {bottom:.0f}–{top:.0f} Hz: {sfreq_hz:g} Hz cannot carry 100–200 Hz")
    return Bank(
        theta=band(1, THETA_HZ),
        beta=band(1, BETA_HZ),
        muscle=None if muscle is None else band(2, muscle),
        muscle_band_hz=muscle,
        notes=tuple(notes),
    )


def _params(
    config: Config,
    layout: Layout,
    used: npt.NDArray[np.bool_],
    chains: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float]],
    pooling: list[list[int]],
    muscle_stream: int,
) -> KernelParams:
    n_sections = np.array([len(sections) for _, sections, _ in chains])
    sos = np.zeros((len(chains), int(n_sections.max()), 6))
    sos[...] = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)
    for i, (_, sections, _) in enumerate(chains):
        sos[i, : len(sections)] = sections
    pool = np.zeros((len(pooling), len(chains)))
    for stream, members in enumerate(pooling):
        pool[stream, members] = 1.0 / len(members)
    basis = [(c, tau) for c in range(3) for tau in CUE_TAUS_S] + [(c, tau) for c in range(3, 6) for tau in OUTCOME_TAUS_S]
    return KernelParams(
        sfreq_hz=layout.sfreq_hz,
        feature_rate_hz=FEATURE_RATE_HZ,
        n_channels=len(layout.labels),
        used=used,
        reference=used / used.sum(),
        projection=np.stack([weights for weights, _, _ in chains]),
        sos=sos,
        n_sections=n_sections,
        smoothing=np.array([math.exp(-1.0 / (tau_s * layout.sfreq_hz)) for _, _, tau_s in chains]),
        pooling=pool,
        n_learned=len(LEARNED),
        muscle_stream=muscle_stream,
        regress_muscle=config.estimator.muscle_regression,
        freeze_channels=np.array([markers.CHANNELS.index(name) for name in OUTCOMES]),
        freeze_ticks=REST_TICKS,
        use_basis=config.estimator.basis,
        use_forward_model=config.estimator.forward_model,
        use_innovation=config.estimator.innovation,
        warmup_samples=round(config.estimator.warmup_s * layout.sfreq_hz),
        windows=np.array([THETA_WINDOW if name.startswith("PFT") else BETA_WINDOW for name in LEARNED]),
        baseline=np.array(BASELINE),
        baseline_weight=BASELINE_WEIGHT,
        basis_channel=np.array([channel for channel, _ in basis]),
        basis_tau_s=np.array([tau for _, tau in basis]),
        rail_uv=np.full(len(layout.labels), config.channels.rail_uv),
        flat_samples=max(2, round(config.channels.flat_s * layout.sfreq_hz)),
    )


def _calibrated_filters(calibration: Calibration, used: list[int]) -> list[npt.NDArray[np.float64]]:
    """The spatial filters in the order of `LEARNED`; they rest on the channels in use and on no other."""
    filters = []
    for name in WEIGHTS:
        stored = calibration.rest.coefficients.get(name)
        if stored is None or stored.shape != (len(calibration.layout.labels),):
            raise CalibrationError(f"the calibration has no spatial filter `{name}` for this cap; calibrate anew")
        weights = stored.array
        if np.delete(weights, used).any() or not weights.any():
            raise CalibrationError(f"the calibration's spatial filter `{name}` rests on channels not in use; calibrate anew")
        filters.append(weights)
    return filters


def _pair(config: Config, index: dict[str, int], eeg: set[int]) -> tuple[str, str, str]:
    if config.estimator.left:
        names = standard_label(config.estimator.left), standard_label(config.estimator.right)
        for name, key in zip(names, ("left", "right"), strict=True):
            if _find(name, index, f"estimator.{key}") not in eeg:
                raise LayoutError(f"estimator.{key} is `{name}`, which is listed as bad or under a pad; choose another channel")
        return *names, _stand_in_note(*names)
    for left, right in PAIRS:
        if index.get(left) in eeg and index.get(right) in eeg:
            return left, right, _stand_in_note(left, right)
    have = ", ".join(list(index)[:12])
    raise LayoutError(f"no posterior pair in this cap: needs PO9 and PO10 (or P9/P10, PO7/PO8, TP9/TP10, O1/O2); it has {have}")


def _stand_in_note(left: str, right: str) -> str:
    if (left, right) == PAIRS[0]:
        return ""
    return f"{left}/{right} stand in for PO9/PO10: this is not a posterior-fossa site"


def _find(name: str, index: dict[str, int], key: str) -> int:
    label = standard_label(name)
    if label not in index:
        raise LayoutError(f"{key} names `{name}`, which is not in this stream; it has {', '.join(index)}")
    return index[label]


def _unit(n: int, i: int) -> npt.NDArray[np.float64]:
    weights = np.zeros(n)
    weights[i] = 1.0
    return weights

