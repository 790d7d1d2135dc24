"""The fold: one event in, effects out. Touches no clock, no random generator, no thread and no socket (I23).

What the EEG says and what the policy makes of it is decided here; `steering` speaks with guard and gate.
"""

from __future__ import annotations

from typing import Final, Literal

from devices.units import NS_PER_MS, NS_PER_S
from loop import arms, beliefs, policy
from loop.arms import Conduct
from loop.config import Config
from loop.events import (
    Allotted,
    Calibrated,
    Chunk,
    ClockOffset,
    CouplingEpoch,
    Decision,
    Device,
    GuardLost,
    Input,
    Marker,
    Operator,
    Outcome,
    Output,
    RecorderLost,
    SegmentStart,
    SourceEnded,
    SourceLost,
    StimulusEnd,
    Tick,
    TraceGate,
)
from loop.framing import CLOCK_JUMP_NS, STALE_NS
from loop.fusion import fuse
from loop.gate import Phase
from loop.harm import Verdict as HarmVerdict
from loop.harm_watch import HarmWatch, Noxious
from loop.markers import stated_chance, stated_expectation
from loop.perception import Judged, Perception
from loop.steering import LEASE_NS, TICK_NS, Steering

__all__ = ["LEASE_NS", "TICK_NS", "Engine"]

_SILENCE_NS: Final = 60 * NS_PER_S
# A baseline of 0.6 s before an outcome must lie in SENSE as well (I17).
_BASELINE_NS: Final = 600 * NS_PER_MS


class Engine:
    """All state of a session, moved by `step` alone.

    Parameters
    ----------
    config : Config
        The whole configuration; the engine reads nothing else.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._perception = Perception(config)
        self._policy = policy.PolicyState()
        self._beliefs: beliefs.Beliefs = ()
        self._steering = Steering(config, self._put)
        self._harm = HarmWatch(config)
        self._conduct = _conduct(config)
        self._steering.take_arm(self._conduct.plateau)
        self._harm.take_arm(self._conduct)
        self._trace: tuple[TraceGate, ...] = ()
        self._traced = 0
        self._fresh_ns: int | None = None
        self._stale = False
        self._offset_ns: int | None = None
        self._open_decision = 0
        self._open_reason = ""
        self._locked_said = False
        self._plan_said_ns: int | None = None
        self._last_outcome_ns: int | None = None
        self._out: list[Output] = []

    @property
    def phase(self) -> Phase:
        """Where in the cycle the session is."""
        return self._steering.phase

    @property
    def level_ua(self) -> int:
        """The level wanted now."""
        return self._steering.level_ua

    @property
    def evidence(self) -> float:
        """The CUSUM now."""
        return self._policy.evidence

    @property
    def finished(self) -> bool:
        """Whether `Finished` has been put out."""
        return self._steering.finished

    @property
    def bad_channels(self) -> dict[str, str]:
        """Channels that are bad now, with the verdict."""
        return self._perception.bad_channels

    def step(self, event: Input) -> list[Output]:
        """Take one input.

        Parameters
        ----------
        event : Input
            Times must not run backwards.

        Returns
        -------
        list of Output
            In the order in which they are to be recorded and carried out.

        Raises
        ------
        LayoutError
            If the first segment's layout cannot be worked on.
        CalibrationError
            If the calibration does not fit that layout.
        """
        self._out = []
        if self.finished:
            return self._out
        match event:
            case Chunk():
                self._take_chunk(event)
            case Tick():
                self._take_tick(event.t_ns)
            case Device():
                self._steering.take_device(event)
            case Marker():
                meaning = self._perception.read_marker(event)
                self._harm.take_marker(event.stamp_ns, meaning)
                self._out.extend(self._perception.take_marker(event, meaning))
            case Operator():
                self._steering.take_operator(event)
            case Calibrated():
                self._perception.take_calibration(event)
            case Allotted():
                self._take_allotted(event)
            case SegmentStart():
                self._take_segment(event)
            case ClockOffset():
                self._take_offset(event)
            case SourceLost():
                self._fresh_ns = None
                self._fault(event.t_ns, "source_lost", event.reason)
            case SourceEnded():
                self._steering.ask("end", "the source has no more samples")
            case RecorderLost():
                self._fault(event.t_ns, "recorder_lost", event.reason)
                self._steering.ask("end", f"the record cannot be written: {event.reason}")
            case GuardLost():
                self._steering.take_guard_lost(event)
        return self._out

    # ---- inputs

    def _take_allotted(self, event: Allotted) -> None:
        """The arm, once; nothing that comes later changes it."""
        if self._conduct.arm is not None and self._conduct.arm != event.arm:
            return
        self._conduct = arms.conduct_of(event.arm, self._config.session.sham_follows)
        self._steering.take_arm(self._conduct.plateau)
        self._harm.take_arm(self._conduct)
        self._trace = event.trace

    def _take_segment(self, event: SegmentStart) -> None:
        self._out.extend(self._perception.start_segment(event))
        self._offset_ns = event.clock_offset_ns
        self._fresh_ns = None if self._perception.refused else event.t_ns
        self._stale = False
        self._discard_window()
        if self._perception.refused:
            self._fault(event.t_ns, "layout_refused", self._perception.refused)
        elif self._steering.has_current:
            self._fault(event.t_ns, "segment_restarted", "the stream began anew")

    def _take_chunk(self, event: Chunk) -> None:
        seen = self._perception.take_chunk(event, self._steering.excluded)
        self._out.extend(seen.outputs)
        if seen.fresh:
            self._fresh_ns = event.t_ns
            if self._stale:
                self._stale = False
                self._steering.incident(event.t_ns, "fresh_again", "samples arrive in time again", "sense window starts anew")
        if seen.broken:
            self._discard_window()
            if self._steering.has_current:
                self._steering.abort(event.t_ns, seen.broken)
        for judged in seen.judged:
            self._take_judged(judged, "the unit of the samples is implausible" if self._perception.implausible else "")

    def _take_judged(self, judged: Judged, refusal: str) -> None:
        sensed = self._steering.phase is Phase.SENSE and judged.t_ns - _BASELINE_NS >= self._steering.since_ns
        if judged.meaning is None:
            if sensed and judged.features is not None and not refusal:
                self._policy = policy.take_pseudo(self._policy, judged.features)
            return
        if not refusal and not sensed:
            sensing = self._steering.phase is Phase.SENSE
            refusal = "its baseline began before this SENSE window" if sensing else f"overlaps {self._steering.phase}"
        if not refusal and judged.features is None:
            refusal = f"{100 * judged.invalid:.0f} % of its windows were flagged"
        if judged.meaning.kind == "offset":
            self._take_stimulus_end(judged, judged.meaning.text, refusal)
            return
        table, vocabulary = self._config.policy, self._config.markers
        happened = policy.Happened(
            event=judged.event,
            cue=judged.cue,
            intensity=min(1.0, 100.0 * judged.meaning.intensity / vocabulary.full_intensity),
            told=stated_expectation(judged.cue, vocabulary.grades),
        )
        expectation = policy.expectation_of(self._policy.belief, happened)
        readout = self._perception.readout
        self._policy, score = policy.score(table, self._policy, happened, judged.features, refusal, readout)
        trial = beliefs.Trial(judged.cue, happened.intensity, happened.told, stated_chance(judged.cue))
        errors = beliefs.errors_of(self._beliefs, trial)
        self._beliefs = beliefs.learn(self._beliefs, trial)
        fused = None
        if readout is not None and judged.features is not None:
            fused = fuse(readout, score.surprise, readout.apply(judged.features))
        self._last_outcome_ns = judged.decided_t_ns
        outcome = Outcome(
            t_ns=judged.t_ns,
            event=judged.event,
            text=judged.meaning.text,
            sample=judged.sample,
            decided_sample=judged.decided_sample,
            features=judged.raw,
            invalid=judged.invalid,
            index=score.index,
            surprise=score.surprise,
            expected=score.expected,
            excess=score.excess,
            evidence=score.evidence,
            reason=score.reason,
            cue=judged.cue,
            intensity=happened.intensity,
            told=happened.told,
            d_rescorla_wagner=errors.rescorla_wagner,
            d_kalman=errors.kalman,
            d_ehgf=errors.hgf,
            kalman_nis=errors.kalman_nis,
            fused=None if fused is None else fused.value,
            fused_sd=None if fused is None else fused.sd,
        )
        self._out.append(outcome)
        if happened.intensity == 1.0:
            self._harm.take_noxious(Noxious(judged.t_ns, expectation, is_probe=sensed))
        if score.reason or score.excess is None:
            return
        self._harm.take_index(score.excess, score.surprise)
        harmless = self._judge_harm(judged.decided_t_ns)
        if self._conduct.lead == "evidence":
            verdict = policy.judge(table, self._policy)
            if verdict.wanted == "open" and harmless.kind != "clear":
                self._decide(judged.decided_t_ns, "closed", f"{verdict.reason}, but {harmless.reason}")
            else:
                self._decide(judged.decided_t_ns, verdict.wanted, verdict.reason)

    def _take_stimulus_end(self, judged: Judged, text: str, refusal: str) -> None:
        """The end of a stimulus is kept for comparison: it moves neither evidence nor beliefs."""
        index = policy.index_of(self._policy, judged.features, self._perception.readout)
        if not refusal and index is None:
            refusal = "the null has too few pseudo-events"
        ended = StimulusEnd(
            t_ns=judged.t_ns,
            event=judged.event,
            text=text,
            sample=judged.sample,
            decided_sample=judged.decided_sample,
            features=judged.raw,
            invalid=judged.invalid,
            index=index,
            reason=refusal,
        )
        self._out.append(ended)

    def _judge_harm(self, t_ns: int) -> HarmVerdict:
        """Whether harm stands against a further gate; a lock-out is said once."""
        verdict = self._harm.judge()
        if verdict.kind == "locked" and not self._locked_said:
            self._locked_said = True
            self._steering.incident(t_ns, "harm_lockout", verdict.reason, "no further current in this session")
        return verdict

    def _take_tick(self, t_ns: int) -> None:
        self._age_stream(t_ns)
        self._schedule(t_ns)
        before = self._steering.phase
        self._steering.tick(t_ns, self._open_decision if self._is_seeing() else 0, self._open_reason, self._hold_ns())
        if before is Phase.SENSE and self._steering.phase is Phase.RAMP_UP:
            self._traced += 1
        self._harm.take_charge(self._steering.charge_uc)
        self._harm.enter(self._steering.phase)
        if self._steering.phase is Phase.SENSE and before is not Phase.SENSE:
            self._discard_window()
        for epoch in self._perception.finished_epochs():
            if self._steering.phase is Phase.SENSE and epoch.first_ns >= self._steering.since_ns:
                self._out.append(CouplingEpoch(t_ns=epoch.last_ns, sample=epoch.sample, imaginary=epoch.imaginary))

    def _take_offset(self, event: ClockOffset) -> None:
        if self._offset_ns is not None and abs(event.offset_ns - self._offset_ns) > CLOCK_JUMP_NS:
            change_s = (event.offset_ns - self._offset_ns) / NS_PER_S
            self._fault(event.t_ns, "clock_jump", f"the stream's clock moved by {change_s:.3f} s against ours")
        self._offset_ns = event.offset_ns

    # ---- parts of a tick

    def _age_stream(self, t_ns: int) -> None:
        """No new valid sample within the stale time ends in S1; the last output is never held (I12)."""
        if self._fresh_ns is None or self._stale or t_ns - self._fresh_ns <= STALE_NS:
            return
        self._stale = True
        self._fault(t_ns, "stale", f"no new sample for {(t_ns - self._fresh_ns) / NS_PER_MS:.0f} ms")

    def _is_seeing(self) -> bool:
        """Whether samples arrive in time; without them no gate opens, in whatever arm (I12)."""
        return self._fresh_ns is not None and not self._stale

    def _schedule(self, t_ns: int) -> None:
        """What the passing of time alone decides: a plan, a trace, and the silence of markers."""
        lead = self._conduct.lead
        if self._steering.phase is not Phase.SENSE or not self._is_seeing():
            return
        elapsed_ns = t_ns - self._steering.since_ns
        if lead == "plan":
            if not self._open_decision and elapsed_ns >= self._config.gate.sense_s * NS_PER_S:
                self._follow(t_ns, f"open_loop plan: {self._config.gate.sense_s:g} s of SENSE are over")
        elif lead == "trace":
            if not self._open_decision and self._is_traced(t_ns):
                self._follow(t_ns, f"yoked: gate {self._traced + 1} of {len(self._trace)} in the other session's trace")
        elif lead == "evidence" and self._config.stimulates:
            last_ns = max(self._last_outcome_ns or 0, self._steering.since_ns)
            if t_ns - last_ns >= _SILENCE_NS:
                self._last_outcome_ns = t_ns
                reason = "no outcomes for 60 s: closed_loop needs STIM/NOX, STIM/INN, STIM/OMIT or OUT_DUE markers"
                self._decide(t_ns, "closed", reason)

    def _is_traced(self, t_ns: int) -> bool:
        """Whether the next gate of the trace is due."""
        if self._traced >= len(self._trace) or self._steering.started_ns is None:
            return False
        return t_ns - self._steering.started_ns >= self._trace[self._traced].at_s * NS_PER_S

    def _hold_ns(self) -> int | None:
        """How long the next gate is held where another session says so."""
        if self._conduct.lead != "trace" or self._traced >= len(self._trace):
            return None
        return round(self._trace[self._traced].hold_s * NS_PER_S)

    def _follow(self, t_ns: int, plan: str) -> None:
        """The gate of a schedule, unless the harm guard has locked the session; that is said once a window."""
        since_ns = self._steering.since_ns
        if self._plan_said_ns == since_ns:
            return
        harmless = self._judge_harm(t_ns)
        if harmless.kind != "clear":
            self._plan_said_ns = since_ns
            self._decide(t_ns, "closed", f"{plan}, but {harmless.reason}")
        else:
            self._decide(t_ns, "open", f"{plan}; {harmless.reason}" if harmless.reason else plan)

    # ---- small acts

    def _decide(self, t_ns: int, wanted: Literal["open", "closed"], reason: str) -> None:
        number = self._policy.decision + 1
        is_open = wanted == "open"
        # A window that is not full yet says nothing: it must not forget that the gate was open (hysteresis).
        full = len(self._policy.window) >= self._config.policy.min_outcomes
        self._policy = self._policy._replace(decision=number, wanted=is_open or (self._policy.wanted and not full))
        self._open_decision = number if is_open else 0
        self._open_reason = reason if is_open else ""
        decision = Decision(
            t_ns=t_ns,
            decision=number,
            wanted=wanted,
            reason=reason,
            evidence=self._policy.evidence,
            outcomes=self._policy.window,
        )
        self._out.append(decision)

    def _fault(self, t_ns: int, name: str, detail: str) -> None:
        """A fault of the input: S1 under current, a discarded window at zero."""
        self._discard_window()
        if self._steering.has_current:
            self._steering.abort(t_ns, f"{name}: {detail}" if detail else name)
        else:
            self._steering.incident(t_ns, name, detail, "sense window discarded")

    def _discard_window(self) -> None:
        self._policy = policy.start_sense(self._policy)
        self._open_decision = 0

    def _put(self, output: Output) -> None:
        self._out.append(output)


def _conduct(config: Config) -> Conduct:
    """What the configuration alone says of the arm."""
    arm = config.session.arm
    return arms.UNKNOWN if arm == "allotted" else arms.conduct_of(arm, config.session.sham_follows)
