"""The fold: one event in, effects out. Touches no clock, no random generator, no thread and no socket (I23)."""

from __future__ import annotations

import re
from typing import Final

from devices import limits, link
from devices.stimulator import StopClass
from devices.units import NS_PER_MS, NS_PER_S
from loop import gate, policy
from loop.config import Config
from loop.events import (
    Chunk,
    ClockOffset,
    Decision,
    Device,
    Finished,
    GateChange,
    GuardLost,
    Incident,
    Input,
    Marker,
    MarkerOut,
    Operator,
    Outcome,
    Output,
    RecorderLost,
    SegmentStart,
    SourceEnded,
    SourceLost,
    Tick,
    ToGuard,
)
from loop.framing import CLOCK_JUMP_NS, STALE_NS
from loop.gate import Phase, Wish
from loop.perception import Judged, Perception

LEASE_NS: Final = 250 * NS_PER_MS
TICK_NS: Final = 20 * NS_PER_MS
ZERO_UA: Final = 10.0
_RENEW_AT_ZERO_NS: Final = 200 * NS_PER_MS
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
        self._gate = gate.GateState()
        self._gate_params = _gate_params(config)
        self._guard = "absent" if config.stimulates else ""
        self._guard_reason = ""
        self._at_zero = True
        self._seq = 0
        self._reservation = (0, 0)
        if config.stimulation is not None:
            dose = limits.gate_dose(config.stimulation)
            self._reservation = (dose.charge_uc, dose.on_time_ms)
        self._excluded: list[tuple[int, int | None]] = []
        self._started_ns: int | None = None
        self._fresh_ns: int | None = None
        self._stale = False
        self._offset_ns: int | None = None
        self._wish: Wish = "none"
        self._wish_reason = ""
        self._end_reason = ""
        self._stopping = False
        self._guard_is_gone = False
        self._open_decision = 0
        self._open_reason = ""
        self._held = ""
        self._renewed_ns = -_RENEW_AT_ZERO_NS
        self._no_more = ""
        self._last_outcome_ns: int | None = None
        self._finished = False
        self._out: list[Output] = []

    @property
    def phase(self) -> Phase:
        """Where in the cycle the session is."""
        return self._gate.phase

    @property
    def level_ua(self) -> int:
        """The level wanted now."""
        return self._gate.level_ua

    @property
    def evidence(self) -> float:
        """The CUSUM now."""
        return self._policy.evidence

    @property
    def finished(self) -> bool:
        """Whether `Finished` has been put out."""
        return self._finished

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
        """
        self._out = []
        if self._finished:
            return self._out
        match event:
            case Chunk():
                self._take_chunk(event)
            case Tick():
                self._take_tick(event.t_ns)
            case Device():
                self._take_device(event)
            case Marker():
                self._out.extend(self._perception.take_marker(event))
            case Operator():
                self._take_operator(event)
            case SegmentStart():
                self._take_segment(event)
            case ClockOffset():
                self._take_offset(event)
            case SourceLost():
                self._fresh_ns = None
                self._fault(event.t_ns, "source_lost", event.reason)
            case SourceEnded():
                self._ask("end", "the source has no more samples")
            case RecorderLost():
                self._fault(event.t_ns, "recorder_lost", event.reason)
                self._ask("end", f"the record cannot be written: {event.reason}")
            case GuardLost():
                self._incident(event.t_ns, "guard_lost", event.reason, "session ends; the device cuts by itself")
                self._guard, self._guard_reason, self._at_zero = "stopped", event.reason, True
                self._guard_is_gone = True
                self._ask("end", f"the guard is gone: {event.reason}")
        return self._out

    # ---- inputs

    def _take_segment(self, event: SegmentStart) -> None:
        self._out.extend(self._perception.start_segment(event))
        self._offset_ns = event.clock_offset_ns
        self._fresh_ns = None if self._perception.refused else event.t_ns
        self._stale = False
        self._discard_window()
        if self._perception.refused:
            self._fault(event.t_ns, "layout_refused", self._perception.refused)
        elif self._gate.phase in gate.WITH_CURRENT:
            self._fault(event.t_ns, "segment_restarted", "the stream began anew")

    def _take_chunk(self, event: Chunk) -> None:
        seen = self._perception.take_chunk(event, self._excluded)
        self._out.extend(seen.outputs)
        if seen.fresh:
            self._fresh_ns = event.t_ns
            if self._stale:
                self._stale = False
                self._incident(event.t_ns, "fresh_again", "samples arrive in time again", "sense window starts anew")
        if seen.broken:
            self._discard_window()
            if self._gate.phase in gate.WITH_CURRENT:
                self._abort(event.t_ns, seen.broken)
        for judged in seen.judged:
            self._take_judged(judged, "the unit of the samples is implausible" if self._perception.implausible else "")

    def _take_judged(self, judged: Judged, refusal: str) -> None:
        sensed = self._gate.phase is Phase.SENSE and judged.t_ns - _BASELINE_NS >= self._gate.since_ns
        if judged.meaning is None:
            if sensed and judged.features is not None and not refusal:
                self._policy = policy.take_pseudo(self._policy, judged.features)
            return
        if not refusal and not sensed:
            sensing = self._gate.phase is Phase.SENSE
            refusal = "its baseline began before this SENSE window" if sensing else f"overlaps {self._gate.phase}"
        if not refusal and judged.features is None:
            refusal = f"{100 * judged.invalid:.0f} % of its windows were flagged"
        table = self._config.policy
        self._policy, score = policy.score(
            table, self._policy, judged.event, judged.cue, judged.meaning.intensity, judged.features, refusal
        )
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
        )
        self._out.append(outcome)
        if self._config.session.arm != "open_loop" and not score.reason:
            verdict = policy.judge(table, self._policy)
            self._decide(judged.decided_t_ns, verdict.wanted, verdict.reason)

    def _take_tick(self, t_ns: int) -> None:
        if self._started_ns is not None and t_ns - self._started_ns >= self._config.session.duration_s * NS_PER_S:
            self._ask("end", "the configured duration is over")
        self._age_stream(t_ns)
        self._schedule(t_ns)
        self._step_gate(t_ns)
        if self._gate.phase in gate.WITH_CURRENT or self._renews_at_zero(t_ns):
            self._renewed_ns = t_ns
            command = link.Command(
                seq=self._next_seq(),
                level_ua=self._gate.level_ua,
                deadline_ns=t_ns + LEASE_NS,
                decision=self._gate.decision,
            )
            self._send(t_ns, command)
        elif self._gate.phase is Phase.ENDED and self._at_zero:
            self._finish(t_ns)

    def _renews_at_zero(self, t_ns: int) -> bool:
        """A lease on zero, every 200 ms once the session has begun: it keeps the arming from expiring, and says we live."""
        begun = self._gate.phase in (Phase.SENSE, Phase.SETTLE, Phase.PAUSED) and self._guard in ("armed", "live")
        return begun and t_ns - self._renewed_ns >= _RENEW_AT_ZERO_NS

    def _take_device(self, event: Device) -> None:
        if not self._config.stimulates:
            return
        match event.message:
            case link.Report() as report:
                if self._stopping and report.phase in ("armed", "live"):
                    # Sent before the guard had taken our stop: it must not look like a new arming (I07).
                    return
                self._stopping = False
                if report.phase != self._guard and report.phase in ("aborting", "stopped", "latched"):
                    answer = "reset and arm again to go on" if report.phase != "aborting" else "abort ramp to zero"
                    self._incident(event.t_ns, f"guard_{report.phase}", report.reason, answer)
                self._guard, self._guard_reason = report.phase, report.reason
                measured = 0.0 if report.measured_ua is None else abs(report.measured_ua)
                self._at_zero = report.level_ua == 0 and measured <= ZERO_UA
            case link.Refused() as refused:
                self._incident(event.t_ns, "guard_refused", refused.reason, "request dropped")
                if self._gate.phase is Phase.RAMP_UP:
                    self._no_more = refused.reason
                    self._open_decision = 0
                    self._move(event.t_ns, self._gate._replace(phase=Phase.RAMP_DOWN, since_ns=event.t_ns,
                                                               from_ua=self._gate.level_ua), refused.reason)
            case link.Welcome() as welcome:
                if self._guard != "absent":
                    return  # The guard greets again whenever its arm code changes.
                self._guard = "safe"
                detail = f"{welcome.identity.maker} {welcome.identity.model} {welcome.identity.serial_number}"
                self._incident(event.t_ns, "guard_ready", detail, f"ceiling {welcome.max_level_ua} µA")

    def _take_operator(self, event: Operator) -> None:
        if event.action in ("arm", "reset", "cut") and not self._config.stimulates:
            arm = self._config.session.arm
            self._incident(event.t_ns, "no_guard", f"`{event.action}` in {arm}, which makes no current", "nothing to do")
            return
        match event.action:
            case "arm":
                self._send(event.t_ns, link.Arm(seq=self._next_seq(), code=event.detail))
            case "reset":
                self._send(event.t_ns, link.Reset(seq=self._next_seq(), operator=event.detail or "operator"))
            case "pause":
                self._ask("pause", "paused by the operator")
            case "resume":
                self._ask("resume", "resumed by the operator")
            case "stop":
                self._ask("end", event.detail or "stopped by the operator")
            case "cut":
                self._halt(event.t_ns, StopClass.S0_CUT, "emergency stop by the operator", "S0: cut to zero now, latched")
            case "note":
                pass

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
        """What the passing of time alone decides: open_loop's plan, and closed_loop's silence."""
        arm = self._config.session.arm
        if self._gate.phase is not Phase.SENSE or not self._is_seeing():
            return
        elapsed_ns = t_ns - self._gate.since_ns
        if arm == "open_loop":
            if not self._open_decision and elapsed_ns >= self._config.gate.sense_s * NS_PER_S:
                self._decide(t_ns, "open", f"open_loop plan: {self._config.gate.sense_s:g} s of SENSE are over")
        elif arm == "closed_loop":
            last_ns = max(self._last_outcome_ns or 0, self._gate.since_ns)
            if t_ns - last_ns >= _SILENCE_NS:
                self._last_outcome_ns = t_ns
                reason = "no outcomes for 60 s: closed_loop needs STIM/NOX, STIM/INN, STIM/OMIT or OUT_DUE markers"
                self._decide(t_ns, "closed", reason)

    def _step_gate(self, t_ns: int) -> None:
        ready = t_ns - self._gate.since_ns >= self._config.gate.sense_s * NS_PER_S
        may_open = ready and self._config.stimulates and not self._no_more and self._is_seeing()
        given = gate.GateInput(
            guard=self._guard,
            guard_reason=self._guard_reason,
            at_zero=self._at_zero,
            decision=self._open_decision if may_open else 0,
            wish=self._wish,
            reason=self._wish_reason if self._wish != "none" else self._open_reason,
        )
        result = gate.step(self._gate_params, self._gate, t_ns, given)
        if result.held and _without_numbers(result.held) != _without_numbers(self._held):
            self._incident(t_ns, "gate_held", result.held, "the gate stays closed")
        self._held = result.held
        if self._wish in ("pause", "resume"):
            self._wish = "none"
        if Phase.ENDED in (result.state.phase, result.state.after_zero) and not self._end_reason:
            self._end_reason = result.reason or (given.reason if self._wish == "end" else self._guard_reason)
        if result.state.phase is not self._gate.phase:
            self._move(t_ns, result.state, result.reason)
        else:
            self._gate = result.state

    def _move(self, t_ns: int, state: gate.GateState, reason: str) -> None:
        """Enter another phase, with all that hangs on it."""
        before, self._gate = self._gate, state
        after = state.phase
        change = GateChange(t_ns=t_ns, before=before.phase, after=after, reason=reason, decision=state.decision)
        self._out.append(change)
        current_before = before.phase in gate.WITH_CURRENT or before.phase is Phase.STOPPED
        current_after = after in gate.WITH_CURRENT or after is Phase.STOPPED
        if current_after and not current_before:
            self._excluded = [*self._excluded[-7:], (t_ns, None)]
        elif current_before and not current_after:
            self._excluded[-1] = (self._excluded[-1][0], t_ns)
        if before.phase is Phase.IDLE:
            self._started_ns = t_ns
        if after is Phase.SENSE:
            self._policy = policy.start_sense(self._policy)
            self._open_decision = 0
        if after is Phase.RAMP_UP:
            charge_uc, on_time_ms = self._reservation
            reserve = link.Reserve(seq=self._next_seq(), charge_uc=charge_uc, on_time_ms=on_time_ms)
            self._send(t_ns, reserve)
        name = _MARKER_OF.get(after)
        if name is not None and (current_before or current_after):
            goes_down = after in (Phase.RAMP_DOWN, Phase.STOPPED)
            amplitude_ma = before.level_ua / 1000 if goes_down else self._gate_params.level_ua / 1000
            amplitude_ma = 0.0 if name == "OFF" else amplitude_ma
            middle = f"ABORT/{_slug(reason)}" if name == "ABORT" else name
            self._out.append(MarkerOut(t_ns=t_ns, text=f"TDCS/{middle}/{amplitude_ma:g}"))

    def _finish(self, t_ns: int) -> None:
        reason = self._end_reason or "ended"
        if self._config.stimulates:
            self._send(t_ns, link.Goodbye(reason=reason[:500]))
        self._finished = True
        self._out.append(Finished(t_ns=t_ns, reason=reason))

    # ---- small acts

    def _decide(self, t_ns: int, wanted: str, reason: str) -> None:
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
            wanted="open" if is_open else "closed",
            reason=reason,
            evidence=self._policy.evidence,
            outcomes=self._policy.window,
        )
        self._out.append(decision)

    def _fault(self, t_ns: int, name: str, detail: str) -> None:
        """A fault of the input: S1 under current, a discarded window at zero."""
        self._discard_window()
        if self._gate.phase in gate.WITH_CURRENT:
            self._abort(t_ns, f"{name}: {detail}" if detail else name)
        else:
            self._incident(t_ns, name, detail, "sense window discarded")

    def _abort(self, t_ns: int, reason: str) -> None:
        self._halt(t_ns, StopClass.S1_ABORT_RAMP, reason, "S1: abort ramp to zero within 1 s")

    def _halt(self, t_ns: int, stop_class: StopClass, reason: str, answer: str) -> None:
        """Stop the guard, and the gate with it; nothing rises before the guard has been armed again (I07)."""
        self._incident(t_ns, "abort" if stop_class else "cut", reason, answer)
        self._send(t_ns, link.Stop(stop_class=stop_class, reason=reason[:500]))
        self._discard_window()
        self._at_zero = self._guard_is_gone
        if self._guard in ("armed", "live"):
            self._guard, self._guard_reason, self._stopping = "aborting", reason, True
        given = gate.GateInput("aborting", reason, at_zero=False, decision=0, wish="none", reason=reason)
        result = gate.step(self._gate_params, self._gate, t_ns, given)
        if result.state.phase is not self._gate.phase:
            self._move(t_ns, result.state, reason)

    def _discard_window(self) -> None:
        self._policy = policy.start_sense(self._policy)
        self._open_decision = 0

    def _ask(self, wish: Wish, reason: str) -> None:
        if self._wish != "end":
            self._wish, self._wish_reason = wish, reason

    def _send(self, t_ns: int, message: link.Arm | link.Reserve | link.Command | link.Stop | link.Reset | link.Goodbye) -> None:
        self._out.append(ToGuard(t_ns=t_ns, message=message, decision=self._gate.decision))

    def _incident(self, t_ns: int, name: str, detail: str, answer: str) -> None:
        self._out.append(Incident(t_ns=t_ns, name=name, detail=detail, answer=answer))

    def _next_seq(self) -> int:
        self._seq += 1
        return self._seq


_MARKER_OF: Final = {
    Phase.RAMP_UP: "RAMP_UP",
    Phase.HOLD: "ON",
    Phase.RAMP_DOWN: "RAMP_DOWN",
    Phase.SETTLE: "OFF",
    Phase.PAUSED: "OFF",
    Phase.ENDED: "OFF",
    Phase.STOPPED: "ABORT",
}


def _gate_params(config: Config) -> gate.GateParams:
    stimulation = config.stimulation
    return gate.GateParams(
        level_ua=stimulation.level_ua if stimulation else 1,
        ramp_ns=round((stimulation.ramp_s if stimulation else 1.0) * NS_PER_S),
        hold_ns=round((stimulation.hold_s if stimulation else 1.0) * NS_PER_S),
        settle_ns=round(config.gate.settle_s * NS_PER_S),
        refractory_ns=round(config.policy.refractory_s * NS_PER_S),
        max_duty=config.policy.max_duty,
        duty_window_ns=round(config.policy.duty_window_s * NS_PER_S),
    )


def _without_numbers(text: str) -> str:
    return re.sub(r"[\d.]+", "#", text)


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")[:40] or "unknown"
