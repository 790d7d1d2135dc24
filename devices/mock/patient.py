"""A simulated participant: a brain that expects, errs and learns, and that the current changes.

The samples are what an amplifier would give; what is true behind them is kept apart in `Patient.truth`.
Assumptions, and how well each is founded (E established, S single study or contested, A assumed):

- Head: four shells, radial sources, electrodes on the 10-05 grid; see `head` (E as an approximation, A that
  folding is none).
- Prediction-error sources in Crus I, right 1, left 0.6; beta 14-30 Hz around 0.16 s (sd 0.06) and theta 5.5
  Hz around 0.28 s (sd 0.09) after the outcome, size `pe_amplitude_nam` times |PE| (S that beta and theta
  carry omission responses; A shape and size: nobody has measured it. 8 nAm give about 1.4 microvolts at |PE|
  = 1).
- Belief v for each cue: v += alpha (u - v) + N(0, 0.12), u = 1 after the calibrated noxious stimulus and 0
  otherwise, start 0.5; |PE| = g |u - v| + p. The noise stands for what markers cannot know (A).
- Groups: HC alpha .25+-.08, p .03+-.03, g 1+-.15; CC .22+-.08, .06+-.05, 1.1+-.2, vertex potential x 1.3,
  muscle x 1.5; FM .08+-.04, .15+-.08, 1.15+-.2, pain x 1.3, alpha rhythm x 0.8 (S direction, A every number).
- Current: i is the cathodal current in units of 2 mA. A fast effect follows with 5 s, a slow one with 300 s
  while current flows and back with 1800 s (S: short stimulation leaves no after-effect, minutes do). |PE| is
  multiplied by 1 - effect, the learning rate by 1 + effect, effect = .10 fast + .25 slow, times 1 + .6 N (A).
  The sign is a hypothesis: ``paper`` (cathodal lowers the error), ``reversed`` (as in the only pain data,
  Bocci 2015) or ``null``.
- Artefact: offset of `pad_offset_mv_per_ma` beside the pad, fading over 35 mm to a tenth, plus a tenth more
  that creeps in over 30 s; heartbeat 15 and breathing 20 microvolts per mA, contact noise 2, blinks 10 %
  larger per mA (S existence: Gebodh 2019, Noury 2016; A sizes). Beyond `rail_uv` the amplifier is saturated.
- Vertex potential (9 u + 2 |PE|) microvolts at 210 and 360 ms, visual potential 6 microvolts at the cue (E
  existence, A size).
- Sensory and anticipatory activity of the same cerebellar sources, and a startle of the neck muscles 60-180
  ms after noxious stimuli that grows with |PE|: made to mislead (A).
- Background f^-1.3 at 8 microvolts, alpha 8, muscle 3 at the worst site with four bursts a minute, 12 blinks
  a minute, mains 1.5, sensor 0.6 (E existence, A sizes).
- The converter rounds to 1/32 microvolt, so that the last bits of the arithmetic never show.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from devices.mock import head
from devices.mock.ongoing import Filter, Generator, band, gaussian, muscle_topographies, unit_peak
from devices.mock.paradigm import Outcome, Trial, timetable
from devices.mock.patient_settings import BlockName, Group, PatientSettings

Float32s = npt.NDArray[np.float32]
Float64s = npt.NDArray[np.float64]

_STEPS_PER_UV: Final = 32.0
_CURRENT_ON_UA: Final = 10.0
_ANTICIPATION: Final = {"H": 1.0, "N": 0.6, "L": 0.3}
_AFTER_OUTCOME_S: Final = 1.0
_SETTLE_S: Final = 0.5
_INNOCUOUS_LEVEL: Final = 0.3
_PAD_REACH_M: Final = 0.035
_CREEP: Final = 0.1


@dataclass(frozen=True, slots=True)
class _Traits:
    """Means and spreads of a group, and what else sets it apart."""

    alpha: tuple[float, float]
    persistence: tuple[float, float]
    gain: tuple[float, float]
    vertex: float = 1.0
    muscle: float = 1.0
    pain: float = 1.0
    alpha_rhythm: float = 1.0


_GROUPS: Final[dict[Group, _Traits]] = {
    "HC": _Traits((0.25, 0.08), (0.03, 0.03), (1.0, 0.15)),
    "CC": _Traits((0.22, 0.08), (0.06, 0.05), (1.1, 0.2), vertex=1.3, muscle=1.5),
    "FM": _Traits((0.08, 0.04), (0.15, 0.08), (1.15, 0.2), pain=1.3, alpha_rhythm=0.8),
}


@dataclass(frozen=True, slots=True)
class TrialTruth:
    """What was true in one trial; nothing of it can be read from the samples alone.

    `delta` is u - v, `pe` the size of the error after the current's `effect` on it, `expected` the belief v
    before.
    """

    number: int
    block: BlockName
    cue: str
    cue_sample: int
    outcome_sample: int
    outcome: Outcome
    intensity: int
    noxious: bool
    expected: float
    delta: float
    pe: float
    effect: float


class Patient:
    """A head that gives samples when time is let pass.

    The samples depend on the settings and on the current at each sample, never on how many are asked for at
    once.

    Parameters
    ----------
    settings : PatientSettings
        Who it is.

    Attributes
    ----------
    settings : PatientSettings
        As given.
    n_samples : int
        Length of the session.
    truth : list of TrialTruth
        One for each outcome so far.

    Raises
    ------
    ValueError
        If an electrode's label, or the pad's, is no place of the 10-05 system.
    """

    def __init__(self, settings: PatientSettings) -> None:
        self.settings = settings
        self.truth: list[TrialTruth] = []
        self.n_samples = round(settings.duration_s * settings.sfreq_hz)
        self._traits = _GROUPS[settings.group]
        self._person()
        self._topographies()
        plan = timetable(
            np.random.default_rng([settings.seed, 1]),
            sfreq_hz=settings.sfreq_hz,
            n_samples=self.n_samples,
            rest_s=settings.rest_s,
            blocks=settings.blocks,
            noxious=settings.noxious_intensity,
            innocuous=settings.innocuous_intensity,
        )
        self._events = sorted(
            [(trial.cue_sample, 0, trial) for trial in plan.trials]
            + [(trial.outcome_sample, 1, trial) for trial in plan.trials],
            key=lambda event: event[:2],
        )
        self._next_event = 0
        # (sample, order of coming, text): markers of one sample keep their order.
        self._markers = [(sample, order, text) for order, (sample, text) in enumerate(plan.markers)]
        heapq.heapify(self._markers)
        self._belief: dict[str, float] = {}
        self._generator = Generator(
            settings,
            alpha_uv=settings.alpha_uv * self._traits.alpha_rhythm,
            muscle_uv=settings.muscle_uv * self._traits.muscle,
        )
        self._block_first = 0
        self._block = self._generator.next()
        self._artefact: tuple[Float64s, Float64s] | None = None
        self._pending: list[tuple[int, Float64s]] = []
        self._position = 0
        self._fast = self._slow = self._crept = 0.0

    @property
    def labels(self) -> tuple[str, ...]:
        """Electrodes, in the order of the samples' columns."""
        return self.settings.labels

    @property
    def positions_m(self) -> tuple[head.Point, ...]:
        """Electrodes in head coordinates, in metres."""
        return head.electrode_positions_m(self.settings.labels)

    def _person(self) -> None:
        rng = np.random.default_rng([self.settings.seed, 4])
        traits = self._traits
        alpha, persistence, gain, response = rng.standard_normal(4).tolist()
        self._alpha = min(0.6, max(0.02, traits.alpha[0] + traits.alpha[1] * alpha))
        self._persistence = max(0.0, traits.persistence[0] + traits.persistence[1] * persistence)
        self._gain = max(0.2, traits.gain[0] + traits.gain[1] * gain)
        sign = {"paper": 1.0, "reversed": -1.0, "null": 0.0}[self.settings.plasticity]
        self._response = (0.10 * sign * (1.0 + 0.6 * response), 0.25 * sign * (1.0 + 0.6 * response))

    def _topographies(self) -> None:
        s = self.settings
        directions = head.electrode_directions(s.labels)
        self._crus = np.stack([head.radial_dipole(directions, head.from_mni(p)) for p in (head.CRUS_LEFT, head.CRUS_RIGHT)])
        self._vertex = unit_peak(head.radial_dipole(directions, head.from_mni(head.MIDCINGULATE)))
        self._visual = unit_peak(head.radial_dipole(directions, head.from_mni(head.VISUAL)))
        self._error = head.error_topography(directions, s.pe_site)
        self._neck = s.muscle_uv * self._traits.muscle * s.sized("startle") * muscle_topographies(directions).max(axis=1)
        pad = head.electrode_directions([s.pad_label])[0]
        beside = np.exp(-head.RADIUS_M * np.linalg.norm(directions - pad, axis=1) / _PAD_REACH_M)
        self._beside_pad = beside
        self._offset_uv_per_ma = 1e3 * s.pad_offset_mv_per_ma * (0.1 + 0.9 * beside)
        self._beta = band(14.0, 30.0, s.sfreq_hz)
        self._muscular = band(25.0, 200.0, s.sfreq_hz)

    def advance(self, n: int, current_ua: float) -> tuple[Float32s, list[tuple[int, str]]]:
        """Let time pass.

        Parameters
        ----------
        n : int
            Number of samples.
        current_ua : float
            Current at the electrode over the target during them, in microamperes; negative is cathodal.

        Returns
        -------
        samples : ndarray (n, n_channels), float32
            Microvolts; fewer rows at the session's end, none after it.
        markers : list of (int, str)
            Sample, counted from the session's start, and text.

        Raises
        ------
        ValueError
            If `n` is negative or the current is not finite.
        """
        if n < 0 or not math.isfinite(current_ua):
            raise ValueError(f"cannot advance by {n} samples at {current_ua} microamperes")
        stop = min(self._position + n, self.n_samples)
        out = np.empty((stop - self._position, len(self.settings.labels)), dtype=np.float32)
        begin = self._position
        while self._position < stop:
            self._meet_events()
            upto = min(stop, self._block_first + len(self._block.eeg))
            if self._next_event < len(self._events):
                upto = min(upto, self._events[self._next_event][0])
            out[self._position - begin : upto - begin] = self._record(self._position, upto, current_ua)
            self._position = upto
            if upto == self._block_first + len(self._block.eeg):
                self._turn_page()
        markers = []
        while self._markers and self._markers[0][0] < stop:
            sample, _, text = heapq.heappop(self._markers)
            markers.append((sample, text))
        return out, markers

    def _turn_page(self) -> None:
        self._block_first += len(self._block.eeg)
        self._block = self._generator.next()
        self._artefact = None
        pending, self._pending = self._pending, []
        for first, part in pending:
            self._add(first, part)

    def _add(self, first: int, part: Float64s) -> None:
        """Lay `part` over the samples from `first` on; what reaches beyond this block waits."""
        at = first - self._block_first
        room = len(self._block.eeg) - at
        self._block.eeg[at : at + len(part)] += part[:room]
        if len(part) > room:
            self._pending.append((first + room, part[room:]))

    def _meet_events(self) -> None:
        while self._next_event < len(self._events) and self._events[self._next_event][0] == self._position:
            _, kind, trial = self._events[self._next_event]
            self._next_event += 1
            if kind == 0:
                self._see(trial)
            else:
                self._feel(trial)

    def _noise(self, rng: np.random.Generator, sos: Float64s, n: int) -> Float64s:
        """Noise (n,) of power 1 in a band, from a filter that has forgotten its start."""
        lead = round(_SETTLE_S * self.settings.sfreq_hz)
        return Filter(sos, ())(rng.standard_normal(n + lead))[lead:]

    def _see(self, trial: Trial) -> None:
        """The cue: a visual potential, and activity that grows towards the outcome."""
        s = self.settings
        rng = np.random.default_rng([s.seed, 5, trial.number])
        t_s = np.arange(trial.outcome_sample - trial.cue_sample) / s.sfreq_hz
        seen_uv = s.visual_uv * (gaussian(t_s, 0.10, 0.02) - gaussian(t_s, 0.17, 0.03))
        part = seen_uv[:, None] * self._visual
        share = _ANTICIPATION.get(trial.cue, trial.told)
        nam = s.sized("anticipation_nam")
        if nam > 0.0 and share:
            waiting = share * nam * t_s / t_s[-1] * self._noise(rng, self._beta, len(t_s))
            part += waiting[:, None] * self._crus.sum(axis=0)
        self._add(trial.cue_sample, part)

    def _feel(self, trial: Trial) -> None:
        """The outcome: belief, error, and all that they evoke."""
        s, traits = self.settings, self._traits
        rng = np.random.default_rng([s.seed, 6, trial.number])
        wander, strength, phase, jitter, judged = rng.standard_normal(5).tolist()
        noxious = trial.outcome == "NOX"
        expected = self._belief.get(trial.cue, 0.5) if trial.told is None else trial.told
        u = trial.level if noxious else 0.0
        delta = u - expected
        effect = min(0.9, max(-0.9, self._response[0] * self._fast + self._response[1] * self._slow))
        pe = (self._gain * abs(delta) + self._persistence) * (1.0 - effect)
        if trial.told is None:
            learned = expected + self._alpha * (1.0 + effect) * delta + 0.12 * wander
            self._belief[trial.cue] = min(1.0, max(0.0, learned))

        n = round(_AFTER_OUTCOME_S * s.sfreq_hz)
        t_s = np.arange(n) / s.sfreq_hz
        beta = self._noise(rng, self._beta, n)
        other = self._noise(rng, self._beta, n)
        neck = self._noise(rng, self._muscular, n)
        theta = np.cos(2.0 * math.pi * 5.5 * t_s + 0.4 * phase)
        error = (1.0 + 0.3 * strength) * gaussian(t_s, 0.16, 0.06) * beta + gaussian(t_s, 0.28, 0.09) * theta
        felt = {"NOX": u, "INN": _INNOCUOUS_LEVEL, "OMIT": 0.0}[trial.outcome]
        sensed = s.sized("sensory_nam") * felt * gaussian(t_s, 0.12, 0.05) * other
        late = t_s - 0.02 * jitter
        size_uv = traits.vertex * (s.vertex_uv * felt * traits.pain + s.vertex_pe_uv * pe)
        part = (s.pe_amplitude_nam * pe * error)[:, None] * self._error
        part += sensed[:, None] * self._crus.sum(axis=0)
        part += (size_uv * (gaussian(late, 0.36, 0.06) - gaussian(late, 0.21, 0.03)))[:, None] * self._vertex
        if noxious:
            startled = u * (0.4 + pe) * ((t_s >= 0.06) & (t_s < 0.18)) * neck
            part += startled[:, None] * self._neck
        self._add(trial.outcome_sample, part)

        if trial.rated is not None:
            pain = trial.intensity * traits.pain * (0.7 + 0.3 * expected) if noxious else 0.2 * trial.intensity
            text = f"RATE/PAIN/{min(100, max(0, round(pain + 6.0 * judged)))}"
            heapq.heappush(self._markers, (trial.rated, trial.number, text))
        self.truth.append(
            TrialTruth(
                number=trial.number,
                block=trial.block,
                cue=trial.cue,
                cue_sample=trial.cue_sample,
                outcome_sample=trial.outcome_sample,
                outcome=trial.outcome,
                intensity=trial.intensity,
                noxious=noxious,
                expected=expected,
                delta=delta,
                pe=pe,
                effect=effect,
            )
        )

    def _record(self, first: int, stop: int, current_ua: float) -> Float64s:
        """Samples `first` to `stop` as the converter gives them, and what the current leaves behind."""
        a, b = first - self._block_first, stop - self._block_first
        eeg = self._block.eeg[a:b]
        crept = self._let_current_act(stop - first, current_ua)
        if crept is not None:
            ma = current_ua / 1000.0
            if self._artefact is None:
                self._artefact = self._per_ma()
            signed, unsigned = self._artefact
            eeg = eeg + (ma + _CREEP * crept)[:, None] * self._offset_uv_per_ma
            eeg += ma * signed[a:b]
            eeg += abs(ma) * unsigned[a:b]
        steps = eeg * _STEPS_PER_UV
        np.rint(steps, out=steps)
        rail = self.settings.rail_uv * _STEPS_PER_UV
        np.minimum(steps, rail, out=steps)
        np.maximum(steps, -rail, out=steps)
        steps /= _STEPS_PER_UV
        return steps

    def _per_ma(self) -> tuple[Float64s, Float64s]:
        """What a milliampere adds over this block (n, n_channels): what turns with its sign, and what does not."""
        block = self._block
        signed = (15.0 * block.heart + 20.0 * block.breath)[:, None] * self._beside_pad
        unsigned = (2.0 * block.contact)[:, None] * self._beside_pad
        unsigned += (0.1 * block.blink)[:, None] * self._generator.blink_topography
        return signed, unsigned

    def _let_current_act(self, n: int, current_ua: float) -> Float64s | None:
        """Step the effects sample by sample; the crept offset (n,) in mA, None where no current ever flowed."""
        fast, slow, crept = self._fast, self._slow, self._crept
        if current_ua == 0.0 and fast == 0.0 and slow == 0.0 and crept == 0.0:
            return None
        dt_s = 1.0 / self.settings.sfreq_hz
        ma = current_ua / 1000.0
        i = -ma / 2.0
        to_fast, to_crept = dt_s / 5.0, dt_s / 30.0
        target, to_slow = (i, dt_s / 300.0) if abs(current_ua) > _CURRENT_ON_UA else (0.0, dt_s / 1800.0)
        trace = []
        for _ in range(n):
            fast += (i - fast) * to_fast
            slow += (target - slow) * to_slow
            crept += (ma - crept) * to_crept
            trace.append(crept)
        self._fast, self._slow, self._crept = fast, slow, crept
        return np.array(trace)
