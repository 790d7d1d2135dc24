"""A readout of what a stimulus evokes in the cortex: for caps without posterior-fossa sites, and for errors that cortex shows.

Causal waveform (1–20 Hz) and theta power in windows after each event, weighed by a linear discriminant that a calibration
fitted. The vocabulary names the classes: the score rises with ``STIM/NOX`` (target, error) and falls with ``STIM/INN``
(standard, correct); ``[markers.rename]`` puts other names onto them; ``STIM/OMIT`` evokes no stimulus response and teaches
nothing. What the index is worth is judged against the surprise of the policy's learner, not against the class: where targets
are neither rare nor told of, the two have nothing to do with each other, and the calibration says so. It knows nothing of the
posterior fossa, and says that in every output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import signal

from cext.kernel import Kernel
from cext.params import KernelParams
from loop import markers
from loop.calibration.errors import CalibrationError
from loop.calibration.file import DO_NOT_GO_ON, DRAFT, Calibration, Rest, check_fit
from loop.config import Config
from loop.errors import LayoutError
from loop.estimator import FEATURE_RATE_HZ, LEAST_RATE_HZ, MOST_RATE_HZ, TAU_MUSCLE_S, TAU_THETA_S, design
from loop.estimators.discriminant import fit_discriminant
from loop.estimators.protocol import KnownOutcome
from loop.events import Layout
from loop.montage import is_eeg_label, standard_label
from loop.policy import Happened, surprise_of, update_belief
from loop.readout import Readout

Float64s = npt.NDArray[np.float64]

KIND: Final = "event_readout"
WAVEFORM_HZ: Final = (1.0, 20.0)
# Windows in ticks of 20 ms after the event: the waveform in steps of 60 ms from 100 to 700 ms; theta 300–700 ms, and the
# 100 ms before the event as what it is measured against. Chosen, like all else here, by leave-one-run-out cross-validation on
# the first three runs of one oddball recording: subtracting a baseline cost 0.04 of AUC, alpha and beta gained nothing.
WAVEFORM_WINDOWS: Final = tuple((tick, tick + 3) for tick in range(5, 35, 3))
THETA_WINDOWS: Final = ((-5, 0), (15, 35))
# A larger cap is read at these sites; more channels would add weights to fit, and little that these do not see.
SITES: Final = ("Fz", "FCz", "Cz", "CPz", "Pz", "POz", "Oz", "F3", "F4", "C3", "C4", "P3", "P4", "PO7", "PO8")
MOST_CHANNELS: Final = 16
# From here on the average over channels stands for the reference; with fewer it would take away what is common to all.
LEAST_FOR_AVERAGE: Final = 8
_LEAST_REST_S: Final = 60.0


class EventReadout:
    """The kernel of one layout with waveform and theta chains, and what it says of itself.

    Parameters
    ----------
    config : Config
        Uses `channels`, and of `estimator` the warm-up.
    layout : Layout
    calibration : Calibration or None
        Without one there is no estimate.

    Raises
    ------
    LayoutError
        If the rate is outside 128 to 4096 Hz, or no EEG channel remains.
    CalibrationError
        If the calibration is missing, belongs to another stream, montage or estimator, has no readout, or says not to go on
        where a gate may open on the evidence.
    """

    is_stand_in: Final = False

    def __init__(self, config: Config, layout: Layout, calibration: Calibration | None) -> None:
        if not LEAST_RATE_HZ <= layout.sfreq_hz <= MOST_RATE_HZ:
            raise LayoutError(
                f"the stream has {layout.sfreq_hz:g} samples a second; {LEAST_RATE_HZ:g} to {MOST_RATE_HZ:g} can be worked on"
            )
        if calibration is None:
            raise CalibrationError(
                f"{KIND} estimates nothing without a calibration; make one from recordings with STIM/NOX and STIM/INN "
                "(`cereloop calibrate`) and name it in `estimator.calibration`"
            )
        check_fit(calibration, layout, KIND, (*config.channels.bad, *config.channels.pads))
        if calibration.readout is None and calibration.verdict != DRAFT:
            raise CalibrationError(
                f"the calibration has no readout, and {KIND} is nothing without one; record more trials and calibrate anew"
            )
        if calibration.verdict == DO_NOT_GO_ON and config.may_follow_evidence:
            raise CalibrationError(
                "the calibration says `do not go on`: its readout may know nothing, and a gate would follow noise; "
                "calibrate anew, or look at it in feedback_only"
            )
        sites = channels_of(config, layout, calibration.rest.bad)
        labels = [standard_label(layout.labels[i]) for i in sites]
        self.used = np.zeros(len(layout.labels), dtype=np.bool_)
        self.used[sites] = True
        self.params, streams, self.learned = _params(config, layout, sites, labels)
        self.kernel = Kernel(self.params)
        self.columns = tuple(self.params.column_names(streams))
        self.readout = calibration.readout
        if self.readout is not None and self.readout.names != self.learned:
            raise CalibrationError("the calibration's readout has other features than this version makes; calibrate anew")
        made = calibration.created[:10]
        self.name = f"event readout (cortical waveform and theta on {len(sites)} channels), calibrated on {made}"
        notes = ["event readout: tells STIM/NOX from STIM/INN; it is no posterior-fossa index"]
        notes += design(layout.sfreq_hz, config.channels.line_hz).notes
        if not self.params.reference.any():
            notes.append(f"{len(sites)} channels are too few for an average reference: the recording's own is kept")
        self.notes = tuple(notes)
        self.scale_uv = np.array(layout.to_uv)


class EventReadoutPlugin:
    """Event-related waveforms and theta power, weighed by shrinkage LDA; see `EventReadout`."""

    name: Final = KIND
    summary: Final = "what a stimulus evokes: causal 1–20 Hz waveform and theta after it, LDA of STIM/NOX against STIM/INN"
    target: Final = "the surprise of the stimuli"
    claim: Final = (
        "The index is an event readout: how far what a stimulus evoked resembles what STIM/NOX, not STIM/INN, evoked in the "
        "calibration. It is no posterior-fossa index."
    )
    needs_calibration: Final = True

    def build(self, config: Config, layout: Layout, calibration: Calibration | None) -> EventReadout:
        """Set up the kernel. Raises LayoutError, CalibrationError."""
        return EventReadout(config, layout, calibration)

    def learn_rest(self, config: Config, layout: Layout, rest_uv: Float64s) -> Rest:
        """Bad channels, where rest is long enough and channels are enough to compare; all else comes from trials.

        Raises
        ------
        LayoutError
            If no EEG channel remains.
        CalibrationError
            If too few channels are good.
        """
        from loop.calibration.rest import LEAST_CHANNELS, rest_statistics

        out = _left_out(config)
        labels = [standard_label(label) for label in layout.labels]
        candidates = np.array([is_eeg_label(label) and label not in out for label in labels])
        n, rest_s = int(candidates.sum()), len(rest_uv) / layout.sfreq_hz
        bad: dict[str, str] = {}
        notes: list[str] = []
        if n < LEAST_CHANNELS or rest_s < _LEAST_REST_S:
            why = f"{n} channels" if n < LEAST_CHANNELS else f"{rest_s:.0f} s of rest"
            least = f"it takes {LEAST_CHANNELS} channels and {_LEAST_REST_S:.0f} s"
            notes.append(f"bad channels were not looked for: {why} cannot tell ({least}); name them in channels.bad")
        else:
            channels = config.channels
            bank = design(layout.sfreq_hz, channels.line_hz)
            found = rest_statistics(
                rest_uv, layout.sfreq_hz, layout.labels, candidates, bank, rail_uv=channels.rail_uv, line_hz=channels.line_hz
            )
            bad, notes = found.bad, list(found.notes)
        return Rest(bad=bad, figures={"channels": float(len(channels_of(config, layout, bad)))}, notes=tuple(notes))

    def target_of(self, outcomes: Sequence[KnownOutcome]) -> Float64s:
        """How surprising each stimulus was to the policy's learner; NaN for an omission, which evokes no stimulus response."""
        belief: tuple[tuple[str, float], ...] = ()
        target = np.full(len(outcomes), np.nan)
        for i, one in enumerate(outcomes):
            happened = Happened(event=i, cue=one.cue, intensity=one.intensity, told=one.told)
            if one.kind != "OMIT":
                target[i] = surprise_of(belief, happened)
            if one.told is None:
                belief = update_belief(belief, one.cue, one.intensity)
        return target

    def fit(self, names: Sequence[str], features: Float64s, outcomes: Sequence[KnownOutcome]) -> Readout:
        """Shrinkage LDA of STIM/NOX against STIM/INN. Raises ReadoutError, SessionError (scikit-learn is missing)."""
        is_nox = np.array([one.kind == "NOX" for one in outcomes], dtype=np.bool_)
        return fit_discriminant(names, features, is_nox, self.target_of(outcomes))


def channels_of(config: Config, layout: Layout, bad: dict[str, str]) -> list[int]:
    """Indices of the channels that are read. Raises LayoutError if none remains, or one that the config names is not there."""
    labels = [standard_label(label) for label in layout.labels]
    out = _left_out(config)
    for name in sorted(out):
        if name not in labels:
            have = ", ".join(labels)
            raise LayoutError(f"channels.bad or channels.pads names `{name}`, which is not in this stream; it has {have}")
    out |= {standard_label(name) for name in bad}
    eeg = [i for i, label in enumerate(labels) if is_eeg_label(label) and label not in out]
    if not eeg:
        raise LayoutError(f"no EEG channel is left to read: this stream has {', '.join(labels[:12])}")
    if len(eeg) <= MOST_CHANNELS:
        return eeg
    sites = [i for i in eeg if labels[i] in SITES]
    return (sites if len(sites) >= LEAST_FOR_AVERAGE else eeg)[:MOST_CHANNELS]


def _left_out(config: Config) -> set[str]:
    return {standard_label(name) for name in (*config.channels.bad, *config.channels.pads)}


def _params(
    config: Config, layout: Layout, sites: list[int], labels: list[str]
) -> tuple[KernelParams, list[str], tuple[str, ...]]:
    """The kernel's parameters, the names of its streams, and of its event features."""
    sfreq_hz, n_channels, n = layout.sfreq_hz, len(layout.labels), len(sites)
    bank = design(sfreq_hz, config.channels.line_hz)
    # High-pass and notch come before every band of the bank; a band of order 1 is one section.
    common = bank.theta[:-1]
    waveform = np.concatenate([common, signal.butter(2, WAVEFORM_HZ[1], fs=sfreq_hz, output="sos")])
    banks = [(waveform, 0.0)] * n + [(bank.theta, TAU_THETA_S)] * n
    streams = [f"{kind}_{label}" for kind in ("WAVE", "THETA") for label in labels]
    pooling = [[i] for i in range(2 * n)]
    rows = [*sites, *sites]
    if bank.muscle is not None:
        streams.append("EMG")
        pooling.append(list(range(2 * n, 3 * n)))
        banks += [(bank.muscle, TAU_MUSCLE_S)] * n
        rows += sites
    features = [(channel, window) for channel in range(n) for window in WAVEFORM_WINDOWS]
    features += [(n + channel, window) for channel in range(n) for window in THETA_WINDOWS]
    names = tuple(f"{streams[stream]}_{20 * start:+d}_{20 * stop:+d}ms" for stream, (start, stop) in features)
    n_sections = np.array([len(sections) for sections, _ in banks])
    sos = np.tile([1.0, 0.0, 0.0, 1.0, 0.0, 0.0], (len(banks), int(n_sections.max()), 1))
    for i, (sections, _) in enumerate(banks):
        sos[i, : len(sections)] = sections
    pool = np.zeros((len(pooling), len(banks)))
    for stream, members in enumerate(pooling):
        pool[stream, members] = 1.0 / len(members)
    used = np.zeros(n_channels, dtype=np.bool_)
    used[sites] = True
    params = KernelParams(
        sfreq_hz=sfreq_hz,
        feature_rate_hz=FEATURE_RATE_HZ,
        n_channels=n_channels,
        used=used,
        reference=used / n if n >= LEAST_FOR_AVERAGE else np.zeros(n_channels),
        projection=np.eye(n_channels)[rows],
        sos=sos,
        n_sections=n_sections,
        smoothing=np.array([math.exp(-1.0 / (tau_s * sfreq_hz)) if tau_s else 0.0 for _, tau_s in banks]),
        pooling=pool,
        linear=np.arange(len(banks)) < n,
        n_learned=0,
        muscle_stream=len(streams) - 1 if bank.muscle is not None else -1,
        regress_muscle=False,
        use_basis=False,
        use_forward_model=False,
        use_innovation=False,
        warmup_samples=round(config.estimator.warmup_s * sfreq_hz),
        event_stream=np.array([stream for stream, _ in features]),
        windows=np.array([window for _, window in features]),
        baseline=np.array(THETA_WINDOWS[0]),
        baseline_weight=0.0,
        # No marker drives or freezes anything; the kernel is only told which channels they come on.
        freeze_channels=np.arange(len(markers.CHANNELS)),
        freeze_ticks=0,
        basis_channel=np.array([], dtype=np.int64),
        basis_tau_s=np.array([]),
        rail_uv=np.full(n_channels, config.channels.rail_uv),
        flat_samples=max(2, round(config.channels.flat_s * sfreq_hz)),
    )
    return params, streams, names


PLUGIN: Final = EventReadoutPlugin()
