"""A simulated participant: a brain that expects, errs and learns, and that the current changes.

The samples are what an amplifier would give; what is true behind them is kept apart, in `Patient.truth` and
`Patient.offsets`. Every number is in `assumptions`, with what is known of it, or in the task's TOML file. In words:

- A head of four shells (`head`); ongoing background, alpha, muscle with bursts, blinks, mains and sensor noise (`ongoing`).
- The participant plays a task (`task`, `paradigm`), forms a belief v about each cue, and errs: |PE| = g |u - v| + p, with u
  the strength of the noxious stimulus, 1 where it is the calibrated one (`person`). Beliefs wander by noise of their own,
  which markers cannot know. In trains of touches the belief is that of the next beat; at the end of heat, that it ends now.
- Each error shows as activity of two sources in the posterior fossa, of size `pe_amplitude_nam` |PE|, or of a source
  elsewhere (`responses`). Cues and stimuli evoke potentials; in the profile ``full`` they also move the same cerebellar
  sources, a late outcome is an error when it was due, and noxious stimuli startle the neck: made to mislead.
- Current takes a share from each error and adds it to the learning rate, by a fast and a slow effect whose sign is a
  hypothesis: ``paper`` (cathodal lowers the error), ``reversed`` (as in the only pain data, Bocci 2015) or ``null``. It
  leaves an artefact at the electrodes, and beyond `rail_uv` the amplifier is saturated (`artefact`).
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from devices.mock import assumptions as known
from devices.mock import head
from devices.mock.artefact import Artefact
from devices.mock.background import Background
from devices.mock.ongoing import Blocks, Ongoing, Stream, blink_topography, muscle_topographies, pulses, unit_peak
from devices.mock.paradigm import Trial, timetable
from devices.mock.patient_settings import BlockName, PatientSettings
from devices.mock.person import Person
from devices.mock.responses import Responses
from devices.mock.task import Outcome, load_task

Float32s = npt.NDArray[np.float32]
Float64s = npt.NDArray[np.float64]

_OFFSET: Final = "offset"


@dataclass(frozen=True, slots=True)
class TrialTruth:
    """What was true at one outcome; nothing of it can be read from the samples alone.

    `delta` is u - v, `pe` the size of the error after the current's `effect` on it, `expected` the belief v before. `late`
    outcomes came after their time. In trains (block T) `cue` is ``reg`` or ``jit`` and `place` counts touches from 1; u is 1
    for a touch; elsewhere `place` is 0.
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
    late: bool
    place: int


@dataclass(frozen=True, slots=True)
class OffsetTruth:
    """What was true at one end of heat: `expected` is the belief that it would end then, `delta` what it lacked to 1."""

    number: int
    block: BlockName
    off_sample: int
    expected: float
    delta: float
    pe: float
    effect: float
    late: bool


class _Page(NamedTuple):
    """A block of samples as laid out for playing: `eeg` (n, n_channels) in microvolts, and its blinks (n,) of height 1."""

    eeg: Float64s
    ongoing: Ongoing
    blink: Float64s


class Patient:
    """A head that gives samples when time is let pass.

    The samples depend on the settings and on the current at each sample, never on how many are asked for at once.

    Parameters
    ----------
    settings : PatientSettings
        Who it is.
    background : Background, optional
        Ongoing activity that was made before, for patients who share it; the samples are the same without.

    Attributes
    ----------
    settings : PatientSettings
        As given.
    n_samples : int
        Length of the session.
    truth : list of TrialTruth
        One for each outcome so far.
    offsets : list of OffsetTruth
        One for each end of heat so far.
    person : Person
        Traits, beliefs, and the current's effect.
    error_topography_uv : ndarray (n_channels,)
        What the source of the error shows at 1 nAm, in microvolts.

    Raises
    ------
    ValueError
        If an electrode's label, or the pad's, is no place of the 10-05 system; the task cannot be used; or the background was
        made for another seed, cap or rate.
    """

    def __init__(self, settings: PatientSettings, background: Background | None = None) -> None:
        self.settings = settings
        self.truth: list[TrialTruth] = []
        self.offsets: list[OffsetTruth] = []
        self.person = Person(settings)
        plan = timetable(
            np.random.default_rng([settings.seed, 1]),
            load_task(settings.task),
            sfreq_hz=settings.sfreq_hz,
            n_samples=round(settings.duration_s * settings.sfreq_hz),
            rest_s=settings.rest_s,
            blocks=settings.blocks,
            rounds=settings.rounds,
            noxious=settings.noxious_intensity,
            innocuous=settings.innocuous_intensity,
        )
        self.n_samples = plan.n_samples
        self._events = sorted(
            [
                (sample, kind, trial)
                for trial in plan.trials
                for kind, sample in enumerate((trial.cue_sample, trial.due_sample, trial.outcome_sample, trial.off_sample))
                if sample is not None
            ],
            key=lambda event: (event[0], event[2].number, event[1]),
        )
        self._next_event = 0
        self._plan = plan
        # (sample, order of coming, text): markers of one sample keep their order.
        self._markers = [(sample, order, text) for order, (sample, text) in enumerate(plan.markers)]
        aware = f"RESP/AWARE/{int(self.person.is_aware())}"
        self._markers += [(sample, len(self._markers) + k, aware) for k, sample in enumerate(plan.awareness)]
        heapq.heapify(self._markers)
        directions = head.electrode_directions(settings.labels)
        self._responses = Responses(settings, self.person, directions)
        self._artefact = Artefact(settings, directions)
        self._visual = unit_peak(head.radial_dipole(directions, head.from_mni(head.VISUAL)))
        self._muscle = muscle_topographies(directions).T
        self._blinks = blink_topography(directions)
        if background is not None:
            background.check(settings)
        self._blocks: Blocks = Stream(settings) if background is None else background
        self._pending: list[tuple[int, Float64s]] = []
        self._page_number = 0
        self._page_first = 0
        self._page = self._laid_out()
        self._position = 0

    @property
    def labels(self) -> tuple[str, ...]:
        """Electrodes, in the order of the samples' columns."""
        return self.settings.labels

    @property
    def positions_m(self) -> tuple[head.Point, ...]:
        """Electrodes in head coordinates, in metres."""
        return head.electrode_positions_m(self.settings.labels)

    @property
    def error_topography_uv(self) -> Float64s:
        """What the source of the error shows at 1 nAm (n_channels,), in microvolts against infinity."""
        return self._responses.error_topography

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
            upto = min(stop, self._page_first + len(self._page.eeg))
            if self._next_event < len(self._events):
                upto = min(upto, self._events[self._next_event][0])
            out[self._position - begin : upto - begin] = self._record(self._position, upto, current_ua)
            self._position = upto
            if upto == self._page_first + len(self._page.eeg):
                self._turn_page()
        markers = []
        while self._markers and self._markers[0][0] < stop:
            sample, _, text = heapq.heappop(self._markers)
            markers.append((sample, text))
        return out, markers

    def _turn_page(self) -> None:
        self._page_first += len(self._page.eeg)
        self._page_number += 1
        self._page = self._laid_out()
        self._artefact.turn_page()
        pending, self._pending = self._pending, []
        for first, part in pending:
            self._add(first, part)

    def _laid_out(self) -> _Page:
        """The next block of ongoing activity, as large as this patient has it, and as what they do in rest changes it."""
        s = self.settings
        block = self._blocks.block(self._page_number)
        first, n = self._page_first, len(block.eeg)
        alpha = s.alpha_uv * self.person.alpha_gain * block.alpha.astype(np.float64)
        muscle = s.muscle_uv * self.person.muscle_gain * block.muscle.astype(np.float64)
        blink = block.blink.astype(np.float64)
        for activity in self._plan.activities:
            here = slice(max(0, activity.first - first), max(0, min(n, activity.stop - first)))
            if here.start >= here.stop:
                continue
            match activity.doing:
                case "eyes_closed":
                    alpha[here] *= known.EYES_CLOSED_ALPHA
                    blink[here] = 0.0
                case "clench":
                    muscle[:, here] *= known.CLENCH_GAIN
                case "blink":
                    began_s, ended_s = activity.first / s.sfreq_hz, activity.stop / s.sfreq_hz
                    told_s = np.arange(began_s + known.TOLD_BLINK_S, ended_s, known.TOLD_BLINK_S)
                    blink += pulses(told_s, known.BLINK_SD_S, first, n, s.sfreq_hz)
                case "eyes_open":
                    pass
        eeg = block.eeg.astype(np.float64)
        eeg += alpha[:, None] * self._visual
        eeg += muscle.T @ self._muscle
        eeg += (s.blink_uv * blink)[:, None] * self._blinks
        return _Page(eeg, block, blink)

    def _add(self, first: int, part: Float64s) -> None:
        """Lay `part` over the samples from `first` on; what reaches beyond this block waits."""
        at = first - self._page_first
        room = len(self._page.eeg) - at
        self._page.eeg[at : at + len(part)] += part[:room]
        if len(part) > room:
            self._pending.append((first + room, part[room:]))

    def _meet_events(self) -> None:
        while self._next_event < len(self._events) and self._events[self._next_event][0] == self._position:
            _, kind, trial = self._events[self._next_event]
            self._next_event += 1
            if kind == 2:
                self._feel(trial)
            elif kind == 3:
                self._end_heat(trial)
            elif trial.place == 0 and kind == 0:
                rng = np.random.default_rng([self.settings.seed, 5, trial.number])
                self._add(trial.cue_sample, self._responses.cue(trial, rng))
            elif kind == 1 and trial.due_sample < trial.outcome_sample:
                self._miss(trial)

    def _miss(self, trial: Trial) -> None:
        """Nothing came when it was due; it will come late."""
        size = self.settings.sized("timing_error")
        if size == 0.0:
            return
        rng = np.random.default_rng([self.settings.seed, 7, trial.number])
        strength, phase = rng.standard_normal(2).tolist()
        pe = self.person.error(size * self.person.expects(trial.cue, trial.told))
        self._add(trial.due_sample, self._responses.error(pe, strength, phase, rng))

    def _feel(self, trial: Trial) -> None:
        """The outcome: belief, error, and all that they evoke."""
        person = self.person
        rng = np.random.default_rng([self.settings.seed, 6, trial.number])
        wander, strength, phase, jitter, judged, foreseen = rng.standard_normal(6).tolist()
        noxious = trial.outcome == "NOX"
        if trial.place == 1:
            person.forget(trial.cue)
        expected = person.expects(trial.cue, trial.told)
        effect = person.effect
        if trial.place:
            u = 0.0 if trial.outcome == "OMIT" else 1.0
            certain = known.JITTERED if trial.cue == "jit" else 1.0
            delta = u - certain * expected
            surprise = known.NEW_TRAIN * u if trial.place == 1 else delta
            pe = person.error(known.TOUCH * surprise)
            person.learn(trial.cue, expected, u - expected, known.TRAIN_NOISE * wander)
            expected *= certain
        else:
            u = trial.level if noxious else 0.0
            delta = u - expected
            pe = person.error(delta)
            if trial.told is None:
                person.learn(trial.cue, expected, delta, wander)
        person.remember(pe)

        felt = {"NOX": u, "INN": known.INNOCUOUS, "OMIT": 0.0}[trial.outcome]
        part = self._responses.error(pe, strength, phase, rng)
        part += self._responses.felt(felt, pe, jitter, rng)
        if noxious:
            part += self._responses.startle(u, pe, rng)
        self._add(trial.outcome_sample, part)

        if trial.rated is not None:
            self._say(trial.rated, trial.number, f"RATE/PAIN/{person.rates_pain(trial, expected, judged)}")
        if trial.asked is not None:
            self._say(trial.asked, trial.number, f"RATE/EXPECT/{person.rates_expectation(trial.cue, trial.told, foreseen)}")
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
                late=trial.outcome_sample > trial.due_sample,
                place=trial.place,
            )
        )

    def _end_heat(self, trial: Trial) -> None:
        """Heat ends: an error as far as its end was not expected then."""
        assert trial.off_sample is not None
        assert trial.off_due_sample is not None
        person = self.person
        rng = np.random.default_rng([self.settings.seed, 8, trial.number])
        wander, strength, phase, jitter = rng.standard_normal(4).tolist()
        late = trial.off_sample > trial.off_due_sample
        learned = person.expects(_OFFSET, None)
        expected = 0.0 if late else learned
        delta = 1.0 - expected
        effect = person.effect
        pe = person.error(delta)
        if not late:
            person.learn(_OFFSET, learned, delta, wander)
        share = known.OFFSET_SHARE if self.settings.offset_share is None else self.settings.offset_share
        part = self._responses.error(share * pe, strength, phase, rng)
        part += self._responses.felt(0.0, pe, jitter, rng)
        self._add(trial.off_sample, part)
        self.offsets.append(
            OffsetTruth(
                number=trial.number,
                block=trial.block,
                off_sample=trial.off_sample,
                expected=expected,
                delta=delta,
                pe=share * pe,
                effect=effect,
                late=late,
            )
        )

    def _say(self, sample: int, number: int, text: str) -> None:
        heapq.heappush(self._markers, (sample, number, text))

    def _record(self, first: int, stop: int, current_ua: float) -> Float64s:
        """Samples `first` to `stop` as the converter gives them, and what the current leaves behind."""
        a, b = first - self._page_first, stop - self._page_first
        page = self._page
        self.person.feel(stop - first, current_ua)
        eeg = self._artefact.add(page.eeg[a:b], a, current_ua, page.ongoing, page.blink)
        steps = eeg / known.STEP_UV
        np.rint(steps, out=steps)
        rail = self.settings.rail_uv / known.STEP_UV
        np.minimum(steps, rail, out=steps)
        np.maximum(steps, -rail, out=steps)
        steps *= known.STEP_UV
        return steps
