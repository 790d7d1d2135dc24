"""The engine's side of guard and gate: leases, stops, what the guard reports or leaves unsaid, gate changes, markers.

The fold in `engine` decides what the EEG says; everything that can let a current begin, go on or end is here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, Literal

from devices import limits, link
from devices.pulse_settings import gate_s
from devices.settings import Stimulation
from devices.stimulator import Capabilities, StopClass
from devices.units import NS_PER_MS, NS_PER_S
from loop import gate
from loop.config import Config
from loop.events import Device, Finished, ForGuard, GateChange, GuardLost, Incident, MarkerOut, Operator, Output, ToGuard
from loop.gate import Phase, Wish

LEASE_NS: Final = 250 * NS_PER_MS
TICK_NS: Final = 20 * NS_PER_MS
ZERO_UA: Final = 10.0
_CONFIRM_NS: Final = 200 * NS_PER_MS
_RENEW_AT_ZERO_NS: Final = 200 * NS_PER_MS
# The guard reports every 50 ms.
_GUARD_SILENT_NS: Final = 500 * NS_PER_MS
_GUARD_GIVEN_UP_NS: Final = 5 * NS_PER_S
# How long a device holds its last level once its guard has died: the reference device 0.42 s, others as they declare.
_DEVICE_CUTS_S: Final = 0.5
_DEVICE_SLACK_S: Final = 0.1
_LONGEST_CUT_S: Final = 60.0

_MARKER_OF: Final = {
    Phase.RAMP_UP: "RAMP_UP",
    Phase.HOLD: "ON",
    Phase.RAMP_DOWN: "RAMP_DOWN",
    Phase.SETTLE: "OFF",
    Phase.PAUSED: "OFF",
    Phase.ENDED: "OFF",
    Phase.STOPPED: "ABORT",
}


class Steering:
    """The gate's state, what is known of the guard, and all that is said to it.

    Parameters
    ----------
    config : Config
    put : callable
        Takes each output, in the order in which it is to be recorded and carried out.
    """

    def __init__(self, config: Config, put: Callable[[Output], None]) -> None:
        self._config = config
        self._pulses = config.pulses
        self._put = put
        self._gate = gate.GateState()
        self._gate_params = _gate_params(config)
        self._started_ns: int | None = None
        self._excluded: list[tuple[int, int | None]] = []
        self._held = ""
        self._finished = False
        # What was asked for.
        self._wish: Wish = "none"
        self._wish_reason = ""
        self._end_reason = ""
        # What is known of the guard.
        self._guard = "absent" if config.stimulates else ""
        self._guard_reason = ""
        self._guard_heard_ns: int | None = None
        self._guard_is_gone = False
        self._device_cuts_ns = round(_DEVICE_CUTS_S * NS_PER_S)
        self._zero_after_ns = 0
        self._level_seen_ns: int | None = None
        self._charge_uc = 0
        self._reserved_pulses = 0
        self._stopping = False
        self._at_zero = True
        self._ending_since_ns: int | None = None
        self._given_up = False
        # What was said to it.
        self._seq = 0
        self._renewed_ns = -_RENEW_AT_ZERO_NS

    @property
    def phase(self) -> Phase:
        """Where in the cycle the session is."""
        return self._gate.phase

    @property
    def since_ns(self) -> int:
        """When the present phase began."""
        return self._gate.since_ns

    @property
    def level_ua(self) -> int:
        """The level wanted now."""
        return self._gate.level_ua

    @property
    def has_current(self) -> bool:
        """Whether current may flow by the gate's own will."""
        return self._gate.phase in gate.WITH_CURRENT

    @property
    def charge_uc(self) -> int:
        """Charge of this session so far, or its number of pulses, as the guard last reported it."""
        return self._charge_uc

    @property
    def excluded(self) -> list[tuple[int, int | None]]:
        """Stretches with current, (start_ns, stop_ns), the last maybe open: their samples are never evidence (I17)."""
        return self._excluded

    @property
    def finished(self) -> bool:
        """Whether `Finished` has been put out."""
        return self._finished

    # ---- inputs

    @property
    def started_ns(self) -> int | None:
        """When the session began to sense; None before."""
        return self._started_ns

    def take_arm(self, plateau: Literal["held", "released"]) -> None:
        """Learn whether gates are held, or released at once as in sham; before any of them."""
        self._gate_params = self._gate_params._replace(plateau=plateau)

    def tick(self, t_ns: int, decision: int, reason: str, hold_ns: int | None = None) -> None:
        """Let time pass: age the guard, step the gate, renew the lease.

        Parameters
        ----------
        t_ns : int
            Now.
        decision : int
            Number of the decision that wants the gate open; 0 for none.
        reason : str
            That decision's reason.
        hold_ns : int or None
            How long that decision wants the gate held; None: as configured.
        """
        if self._started_ns is not None and t_ns - self._started_ns >= self._config.session.duration_s * NS_PER_S:
            self.ask("end", "the configured duration is over")
        self._age_guard(t_ns)
        self._step_gate(t_ns, decision, reason, hold_ns)
        if self.has_current or self._renews_at_zero(t_ns):
            self._renewed_ns = t_ns
            self._renew(t_ns)
        elif self._gate.phase is Phase.ENDED and self._at_zero:
            self._finish(t_ns)

    def take_device(self, event: Device) -> None:
        """Hear what the guard says."""
        if not self._config.stimulates:
            return
        match event.message:
            case link.Report() as report:
                self._take_report(event.t_ns, report)
            case link.Refused() as refused:
                self.incident(event.t_ns, "guard_refused", refused.reason, "request dropped")
                if self._gate.phase is Phase.RAMP_UP or (self._pulses is not None and self._gate.phase is Phase.HOLD):
                    self._move(event.t_ns, gate.ramp_down(self._gate, event.t_ns, Phase.SETTLE), refused.reason)
            case link.Welcome() as welcome:
                if self._guard != "absent":
                    return  # The guard greets again whenever its arm code changes.
                self._guard = "safe"
                self._device_cuts_ns = _device_cuts_ns(welcome)
                if welcome.capabilities is not None:
                    self._zero_after_ns = _zero_after_ns(welcome.capabilities)
                detail = f"{welcome.identity.maker} {welcome.identity.model} {welcome.identity.serial_number}"
                most = f"{welcome.max_level_ua} µA" if self._pulses is None else f"{welcome.max_intensity_percent} %"
                self.incident(event.t_ns, "guard_ready", detail, f"ceiling {most}")

    def take_guard_lost(self, event: GuardLost) -> None:
        """The link to the guard is gone: the session ends, and the device cuts by itself."""
        self.incident(event.t_ns, "guard_lost", event.reason, "session ends; the device cuts by itself")
        self._guard, self._guard_reason, self._guard_heard_ns = "stopped", event.reason, event.t_ns
        self._guard_is_gone = True
        if self.has_current:
            # What it reported last may be older than the last level.
            self._at_zero = False
        self.ask("end", f"the guard is gone: {event.reason}")

    def take_operator(self, event: Operator) -> None:
        """Do what the operator asks; a cut at once, all else at the next tick."""
        if event.action in ("arm", "reset", "cut") and not self._config.stimulates:
            arm = self._config.session.arm
            self.incident(event.t_ns, "no_guard", f"`{event.action}` in {arm}, which makes no current", "nothing to do")
            return
        match event.action:
            case "arm":
                self._send(event.t_ns, link.Arm(seq=self._next_seq(), code=event.detail))
            case "reset":
                self._send(event.t_ns, link.Reset(seq=self._next_seq(), operator=event.detail or "operator"))
            case "pause":
                self.ask("pause", "paused by the operator")
            case "resume":
                self.ask("resume", "resumed by the operator")
            case "stop":
                self.ask("end", event.detail or "stopped by the operator")
            case "cut":
                self._halt(event.t_ns, StopClass.S0_CUT, "emergency stop by the operator", "S0: cut to zero now, latched")
            case "note":
                pass

    # ---- what the fold asks for

    def ask(self, wish: Wish, reason: str) -> None:
        """Note a wish for the next tick; the end, once asked for, is never taken back."""
        if self._wish != "end":
            self._wish, self._wish_reason = wish, reason

    def abort(self, t_ns: int, reason: str) -> None:
        """S1, by the guard and the gate."""
        self._halt(t_ns, StopClass.S1_ABORT_RAMP, reason, "S1: abort ramp to zero within 1 s")

    def incident(self, t_ns: int, name: str, detail: str, answer: str) -> None:
        """Put an incident on record."""
        self._put(Incident(t_ns=t_ns, name=name, detail=detail, answer=answer))

    # ---- the guard

    def _take_report(self, t_ns: int, report: link.Report) -> None:
        self._guard_heard_ns = t_ns
        if self._stopping and report.phase in ("armed", "live"):
            # Sent before the guard had taken our stop: it must not look like a new arming (I07).
            return
        self._stopping = False
        if report.phase != self._guard and report.phase in ("aborting", "stopped", "latched"):
            answer = "reset and arm again to go on" if report.phase != "aborting" else "abort ramp to zero"
            self.incident(t_ns, f"guard_{report.phase}", report.reason, answer)
        self._guard, self._guard_reason = report.phase, report.reason
        measured = 0.0 if report.measured_ua is None else abs(report.measured_ua)
        self._charge_uc = report.charge_uc if self._pulses is None else report.pulses
        if report.level_ua:
            self._level_seen_ns = t_ns
        passed = self._level_seen_ns is None or t_ns - self._level_seen_ns >= self._zero_after_ns
        silent = report.level_ua == 0 and measured <= ZERO_UA and report.intensity_percent == 0
        self._at_zero = self._given_up or (silent and passed)
        self._take_reserved(t_ns, report.reserved_pulses)

    def _take_reserved(self, t_ns: int, reserved: int) -> None:
        """A gate of pulses ends when all are given: the guard has settled what was reserved for it."""
        was, self._reserved_pulses = self._reserved_pulses, reserved
        if was and not reserved and self._gate.phase is Phase.HOLD and self._guard == "live":
            why = "all pulses of this gate are given"
            self._move(t_ns, gate.ramp_down(self._gate, t_ns, Phase.SETTLE), why)

    def _age_guard(self, t_ns: int) -> None:
        """A silent guard says nothing of the current: what is left is the device's own host timeout."""
        self._age_ending(t_ns)
        if self._guard_heard_ns is None:
            return
        silent_ns = t_ns - self._guard_heard_ns
        if self._guard_is_gone:
            self._at_zero = self._at_zero or silent_ns > self._device_cuts_ns
        elif self.has_current and self._is_guard_silent(t_ns):
            self.abort(t_ns, f"guard_silent: no report for {silent_ns / NS_PER_MS:.0f} ms")

    def _age_ending(self, t_ns: int) -> None:
        """A session that only waits for zero ends all the same when none is confirmed: guard silent, or device out of reach."""
        if not self._waits_for_zero_to_end() or self._guard_is_gone or self._guard_heard_ns is None:
            self._ending_since_ns = None
            return
        if self._ending_since_ns is None:
            self._ending_since_ns = t_ns
        silent_ns = t_ns - self._guard_heard_ns
        if silent_ns > _GUARD_GIVEN_UP_NS:
            self._give_up(t_ns, f"the guard has been silent for {silent_ns / NS_PER_S:.0f} s")
        elif self._guard == "latched" and t_ns - self._ending_since_ns > _GUARD_GIVEN_UP_NS:
            self._give_up(t_ns, "the guard cannot read zero from the device")

    def _give_up(self, t_ns: int, detail: str) -> None:
        self.incident(t_ns, "zero_unconfirmed", f"{detail}: zero current is NOT confirmed", "switch the stimulator off by hand")
        self._at_zero = self._given_up = True

    def _is_guard_silent(self, t_ns: int) -> bool:
        return self._guard_heard_ns is not None and t_ns - self._guard_heard_ns > _GUARD_SILENT_NS

    def _waits_for_zero_to_end(self) -> bool:
        """Whether nothing but a report of zero is missing for the session to end."""
        ends = self._gate.phase is Phase.ENDED or (self._gate.phase is Phase.STOPPED and self._wish == "end")
        return ends and not self._at_zero

    def _renews_at_zero(self, t_ns: int) -> bool:
        """A lease on zero, every 200 ms once the session has begun: it keeps the arming from expiring, and says we live."""
        begun = self._gate.phase in (Phase.SENSE, Phase.SETTLE, Phase.PAUSED) and self._guard in ("armed", "live")
        return begun and t_ns - self._renewed_ns >= _RENEW_AT_ZERO_NS

    def _halt(self, t_ns: int, stop_class: StopClass, reason: str, answer: str) -> None:
        """Stop the guard, and the gate with it; nothing rises before the guard has been armed again (I07)."""
        self.incident(t_ns, "abort" if stop_class else "cut", reason, answer)
        self._send(t_ns, link.Stop(stop_class=stop_class, reason=reason[:500]))
        self._at_zero = False
        if self._guard in ("armed", "live"):
            self._guard, self._guard_reason, self._stopping = "aborting", reason, True
        given = gate.GateInput("aborting", reason, at_zero=False, decision=0, wish="none", reason=reason)
        result = gate.step(self._gate_params, self._gate, t_ns, given)
        if result.state.phase is not self._gate.phase:
            self._move(t_ns, result.state, reason)

    def _renew(self, t_ns: int) -> None:
        """A lease on what the gate wants now: a level, or pulses."""
        message: link.Command | link.Pulses
        seq, until_ns, decision = self._next_seq(), t_ns + LEASE_NS, self._gate.decision
        if self._pulses is None:
            message = link.Command(seq=seq, level_ua=self._gate.level_ua, deadline_ns=until_ns, decision=decision)
        else:
            percent = self._gate.level_ua
            message = link.Pulses(seq=seq, intensity_percent=percent, deadline_ns=until_ns, decision=decision)
        self._send(t_ns, message)

    def _send(self, t_ns: int, message: ForGuard) -> None:
        self._put(ToGuard(t_ns=t_ns, message=message, decision=self._gate.decision))

    def _next_seq(self) -> int:
        self._seq += 1
        return self._seq

    # ---- the gate

    def _step_gate(self, t_ns: int, decision: int, reason: str, hold_ns: int | None) -> None:
        # Arming that nobody has confirmed for a while starts nothing.
        silent = self._guard in ("armed", "live") and self._is_guard_silent(t_ns)
        ready = t_ns - self._gate.since_ns >= self._config.gate.sense_s * NS_PER_S
        given = gate.GateInput(
            guard="silent" if silent else self._guard,
            guard_reason=self._guard_reason,
            at_zero=self._at_zero,
            decision=decision if ready and self._config.stimulates else 0,
            wish=self._wish,
            reason=self._wish_reason if self._wish != "none" else reason,
            hold_ns=hold_ns,
        )
        result = gate.step(self._gate_params, self._gate, t_ns, given)
        if result.held and _without_numbers(result.held) != _without_numbers(self._held):
            self.incident(t_ns, "gate_held", result.held, "the gate stays closed")
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
        self._put(change)
        had_current = before.phase in gate.WITH_CURRENT or before.phase is Phase.STOPPED
        has_current = after in gate.WITH_CURRENT or after is Phase.STOPPED
        if has_current and not had_current:
            self._excluded = [*self._excluded[-7:], (t_ns, None)]
        elif had_current and not has_current:
            self._excluded[-1] = (self._excluded[-1][0], t_ns)
        if before.phase is Phase.IDLE:
            self._started_ns = t_ns
        if after is Phase.RAMP_UP:
            self._reserve(t_ns)
        if had_current or has_current:
            self._mark(t_ns, before, after, reason)

    def _reserve(self, t_ns: int) -> None:
        """Ask for the gate's greatest dose before it flows (I04)."""
        if self._pulses is not None:
            self._send(t_ns, link.ReservePulses(seq=self._next_seq(), pulses=self._pulses.gate_pulses))
            return
        assert self._config.stimulation is not None
        dose = limits.gate_dose(self._config.stimulation)
        self._send(t_ns, link.Reserve(seq=self._next_seq(), charge_uc=dose.charge_uc, on_time_ms=dose.on_time_ms))

    def _mark(self, t_ns: int, before: gate.GateState, after: Phase, reason: str) -> None:
        """Tell other recordings what the stimulator does: ``TDCS/<what>/<mA>``, or ``RTMS/<what>/<percent>``."""
        name = _MARKER_OF.get(after)
        if name is None:
            return
        # A sham's markers are those of a real gate.
        goes_down = after in (Phase.RAMP_DOWN, Phase.STOPPED)
        amplitude = before.shown_ua if goes_down else self._gate_params.level_ua
        amplitude = 0 if name == "OFF" else amplitude
        middle = f"ABORT/{_slug(reason)}" if name == "ABORT" else name
        said = f"TDCS/{middle}/{amplitude / 1000:g}" if self._pulses is None else f"RTMS/{middle}/{amplitude}"
        self._put(MarkerOut(t_ns=t_ns, text=said))

    def _finish(self, t_ns: int) -> None:
        reason = self._end_reason or "ended"
        if self._config.stimulates:
            self._send(t_ns, link.Goodbye(reason=reason[:500]))
        self._finished = True
        self._put(Finished(t_ns=t_ns, reason=reason))


def _gate_params(config: Config) -> gate.GateParams:
    """The gate's times; where pulses are given its level is their intensity in percent, and there is nothing to ramp."""
    stimulation, pulses = config.stimulation, config.pulses
    params = _current_params(config, stimulation)
    if pulses is None:
        return params
    return params._replace(level_ua=pulses.intensity_percent, ramp_ns=0, hold_ns=round(gate_s(pulses) * NS_PER_S))


def _current_params(config: Config, stimulation: Stimulation | None) -> gate.GateParams:
    return gate.GateParams(
        level_ua=stimulation.level_ua if stimulation else 1,
        ramp_ns=round((stimulation.ramp_s if stimulation else 1.0) * NS_PER_S),
        hold_ns=round((stimulation.hold_s if stimulation else 1.0) * NS_PER_S),
        settle_ns=round(config.gate.settle_s * NS_PER_S),
        refractory_ns=round(config.policy.refractory_s * NS_PER_S),
        max_duty=config.policy.max_duty,
        duty_window_ns=round(config.policy.duty_window_s * NS_PER_S),
        confirm_ns=_CONFIRM_NS,
    )


def _device_cuts_ns(welcome: link.Welcome) -> int:
    """How long what was begun may go on once the guard is gone."""
    device = welcome.capabilities
    if device is None:
        pulses = welcome.pulse_capabilities
        return round((_DEVICE_CUTS_S if pulses is None else pulses.host_timeout_s + pulses.command_latency_s + 0.5) * NS_PER_S)
    declared_s = device.host_timeout_s + device.command_latency_s + device.min_transition_s + _DEVICE_SLACK_S
    return round(min(_LONGEST_CUT_S, max(_DEVICE_CUTS_S, declared_s)) * NS_PER_S)


def _zero_after_ns(device: Capabilities) -> int:
    """Where nothing is measured, zero is a matter of time: what was commanded last has then passed the device."""
    return 0 if device.measures_current else round(2.0 * device.command_latency_s * NS_PER_S)


def _without_numbers(text: str) -> str:
    return re.sub(r"[\d.]+", "#", text)


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")[:40] or "unknown"
