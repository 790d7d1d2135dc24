"""Looks at everything a live session needs before anybody arms: stream, layout, clock, device, limits, impedance, disk."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from devices import checklist, limits, link
from devices.clock import SystemClock
from devices.dose_book import DoseBookError
from devices.driver import DriverError
from devices.pulse_settings import PulseSettings
from devices.pulses import PulseCapabilities
from devices.registry import choose
from devices.settings import Device, Settings
from devices.stimulator import Capabilities
from devices.time_to_zero import TimeToZero, time_to_no_pulse, time_to_zero
from devices.units import NS_PER_S
from loop import config as configuration
from loop.allotment import allotment_of
from loop.calibration.errors import CalibrationError
from loop.config import Config, ConfigError
from loop.dose_report import dose_report, path_of, sentence
from loop.errors import LayoutError, SessionError
from loop.estimators.errors import EstimatorError
from loop.events import Calibrated, Chunk, Incident, SegmentStart
from loop.guard_child import GuardProcess
from loop.perception import Perception
from loop.run import build_estimator, calibration_text, checklist_text, open_source
from loop.sealing import SealError
from loop.session_file import JournalError
from loop.sources.errors import SourceError
from loop.sources.lsl import LslSource

_WATCH_S: Final = 4.0
_DEVICE_S: Final = 2.0
_LEAST_FREE_BYTES: Final = 1 << 30
_RATE_TOLERANCE: Final = 0.02


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at; `ok` is None where it is only worth knowing."""

    item: str
    ok: bool | None
    detail: str


class Preflight(msgspec.Struct, frozen=True, kw_only=True):
    """All findings, and how long the current takes to zero after each kind of fault."""

    findings: list[Finding]
    time_to_zero: list[TimeToZero]

    @property
    def ready(self) -> bool:
        """Whether nothing stands in the way."""
        return all(finding.ok is not False for finding in self.findings)


def preflight(config: Config) -> Iterator[Finding | TimeToZero]:
    """Look at one thing after the other and tell each as soon as it is known.

    Parameters
    ----------
    config : Config
        Of a live session.
    """
    yield from _disk(config)
    simulated = True
    try:
        with open_source(config) as source:
            simulated = source.info.simulated
            yield from _stream(config, source)
    except SourceError as error:
        yield Finding(item="stream", ok=False, detail=str(error))
    yield _arm(config)
    if config.stimulates:
        form = _form(config)
        yield form
        yield from _device(config, simulated, "" if form.ok is False else checklist_text(config))


def _arm(config: Config) -> Finding:
    """Which arm it works in; of an allotted one that it can be found out, and no more."""
    try:
        allotment = allotment_of(config)
    except (SealError, ConfigError, JournalError) as error:
        return Finding(item="arm", ok=False, detail=str(error))
    if config.allocation is not None:
        return Finding(item="arm", ok=True, detail=f"allotted to code {config.allocation.code}; the record will be sealed")
    trace = allotment.event.trace if allotment.event is not None else ()
    said = f"yoked to {config.session.yoked_to}: {len(trace)} gates" if config.session.arm == "yoked" else config.session.arm
    return Finding(item="arm", ok=True, detail=said)


def _form(config: Config) -> Finding:
    """The pre-arm checklist, before anybody sits down."""
    where = config.session.checklist
    if not where:
        detail = "none is named by session.checklist; a real stimulator needs one (`cereloop checklist`)"
        if config.pulses is not None:
            detail = "there is none for magnetic stimulation yet, so only an emulator can be armed"
        return Finding(item="checklist", ok=None, detail=detail)
    today = dt.datetime.now().astimezone().date()
    if config.stimulation is None:
        detail = "there is no form for magnetic stimulation; leave session.checklist empty"
        return Finding(item="checklist", ok=False, detail=detail)
    try:
        form = checklist.parse(checklist_text(config), where)
        checklist.check(form, config.session.participant, config.stimulation, today, where)
    except checklist.ChecklistError as error:
        return Finding(item="checklist", ok=False, detail=str(error))
    said = f"{where}: complete, of {form.session.date} by {form.session.operator}"
    return Finding(item="checklist", ok=True, detail=said)


def _disk(config: Config) -> Iterator[Finding]:
    folder = config.session.directory
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        yield Finding(item="disk", ok=False, detail=f"session.directory {folder}: {error.strerror}")
        return
    writable = os.access(folder, os.W_OK)
    detail = f"{free / 1e9:.1f} GB free in {Path(folder).resolve()}" + ("" if writable else ", which is not writable")
    yield Finding(item="disk", ok=writable and free >= _LEAST_FREE_BYTES, detail=detail)


def _stream(config: Config, source: LslSource) -> Iterator[Finding]:
    layout = source.layout
    what = f"{len(layout.labels)} channels at {layout.sfreq_hz:g} Hz, {source.info.dtype}, in {', '.join(set(layout.units))}"
    what += ", simulated" if source.info.simulated else ""
    yield Finding(item="stream", ok=True, detail=what)
    for note in source.notes:
        yield Finding(item="stream", ok=None, detail=note)
    try:
        estimator = build_estimator(config, layout, calibration_text(config))
    except (LayoutError, CalibrationError, EstimatorError) as error:
        yield Finding(item="layout", ok=False, detail=str(error))
        return
    fits = not (estimator.is_stand_in and config.may_follow_evidence)
    yield Finding(item="layout", ok=fits, detail=estimator.name)
    for note in estimator.notes:
        yield Finding(item="layout", ok=None, detail=note)
    yield Finding(item="clock", ok=True, detail=f"offset to the stream's clock {source.clock_offset_ns() / NS_PER_S:+.6f} s")
    yield from _watch(config, source)


def _watch(config: Config, source: LslSource) -> Iterator[Finding]:
    """Listen for a few seconds: rate, age, faults of time, channels, units, markers."""
    clock = SystemClock()
    perception = Perception(config)
    if text := calibration_text(config):
        perception.take_calibration(Calibrated(t_ns=clock.now_ns(), text=text))
    start = SegmentStart(
        t_ns=clock.now_ns(), segment=1, layout=source.layout, source=source.info, clock_offset_ns=source.clock_offset_ns()
    )
    perception.start_segment(start)
    incidents: dict[str, Incident] = {}
    samples, oldest_s, first_ns, last_ns, markers = 0, 0.0, 0, 0, 0
    end_ns = clock.now_ns() + round(_WATCH_S * NS_PER_S)
    while clock.now_ns() < end_ns:
        pulled = source.pull(0.1)
        markers += len(source.pull_markers())
        if pulled is None:
            continue
        stamps_ns, values = pulled
        now_ns = clock.now_ns()
        first_ns = first_ns or int(stamps_ns[0])
        last_ns = int(stamps_ns[-1])
        oldest_s = max(oldest_s, (now_ns - last_ns) / NS_PER_S)
        seen = perception.take_chunk(Chunk(now_ns, 1, samples, stamps_ns, values), [])
        samples += len(stamps_ns)
        for output in seen.outputs:
            if isinstance(output, Incident):
                incidents.setdefault(f"{output.name} {output.detail}", output)
    if samples < 2:
        yield Finding(item="samples", ok=False, detail=f"no samples came in {_WATCH_S:g} s: is the amplifier running?")
        return
    rate_hz = (samples - 1) * NS_PER_S / max(last_ns - first_ns, 1)
    right = abs(rate_hz / source.layout.sfreq_hz - 1.0) <= _RATE_TOLERANCE
    yield Finding(item="rate", ok=right, detail=f"{rate_hz:.1f} Hz measured, {source.layout.sfreq_hz:g} Hz announced")
    yield Finding(item="age", ok=oldest_s < 0.2, detail=f"samples are at most {1000 * oldest_s:.0f} ms old on arrival")
    for incident in incidents.values():
        yield Finding(item="signal", ok=False, detail=f"{incident.name}: {incident.detail}")
    if not incidents:
        yield Finding(item="signal", ok=True, detail="no gap, no bad channel, plausible unit")
    needs = config.may_follow_evidence
    yield Finding(
        item="markers",
        ok=True if markers else None,
        detail=f"{markers} came in {_WATCH_S:g} s" + ("" if markers or not needs else "; closed_loop needs outcome markers"),
    )


def _device(config: Config, simulated: bool, form: str) -> Iterator[Finding | TimeToZero]:
    name = f"check-{os.getpid()}"
    guarded: Settings | PulseSettings
    if config.pulses is not None:
        guarded = configuration.pulse_guard_settings(config, name, input_is_simulated=simulated, checklist=form)
    else:
        guarded = configuration.guard_settings(config, name, input_is_simulated=simulated, checklist=form)
    for finding in _driver(guarded.device):
        yield finding
        if finding.ok is False:
            return
    try:
        guard = GuardProcess(guarded)
    except SessionError as error:
        yield Finding(item="device", ok=False, detail=str(error))
        yield from time_to_zero_of(config)
        return
    try:
        welcome = guard.welcome
        who = f"{welcome.identity.maker} {welcome.identity.model}, {welcome.identity.serial_number}"
        yield Finding(item="device", ok=True, detail=who)
        for sentence in welcome.limit_reasons:
            yield Finding(item="limit", ok=True, detail=sentence)
        if config.dose.ledger or not welcome.identity.emulator:
            yield _dose(config, emulated=welcome.identity.emulator)
        if isinstance(guarded, PulseSettings):
            yield _coil(guard, guarded.pulse_limits.max_coil_c)
            if welcome.pulse_capabilities is not None:
                yield from time_to_no_pulse(welcome.pulse_capabilities)
        elif welcome.capabilities is not None:
            yield _contact(guard, guarded.limits.arm_below_ohm)
            ramp_s = guarded.stimulation.ramp_s
            yield from time_to_zero(welcome.capabilities, limits.effective(guarded, welcome.capabilities), ramp_s)
    finally:
        guard.client.send(link.Goodbye(reason="check is done"))
        with contextlib.suppress(SessionError):
            guard.close()


def _dose(config: Config, *, emulated: bool) -> Finding:
    """What the ledger leaves of the session to come; had it spoken against one, the guard would not have started."""
    try:
        report = dose_report(
            path_of(config.dose), config.session.participant, SystemClock(), config.dose, config.limits, emulated=emulated
        )
    except DoseBookError as error:
        return Finding(item="dose", ok=False, detail=str(error))
    said = sentence(report) if config.pulses is None else report.refusal or "a session may begin or go on"
    return Finding(item="dose", ok=not report.refusal, detail=f"{report.participant}: {said}")


def _driver(device: Device) -> Iterator[Finding]:
    """Which driver in which mode, and what about it is not proven on hardware."""
    try:
        choice = choose(device)
        caveat = choice.capabilities.caveat
    except DriverError as error:
        yield Finding(item="driver", ok=False, detail=str(error))
        return
    yield Finding(item="driver", ok=True, detail=f"{device.driver}, mode {choice.mode}: {choice.driver.modes[choice.mode]}")
    if caveat:
        yield Finding(item="driver", ok=None, detail=caveat)


def _contact(guard: GuardProcess, arm_below_ohm: int) -> Finding:
    """Wait for the guard to be safe and the device to have measured the impedance."""
    deadline_s = time.monotonic() + _DEVICE_S
    phase, reason = "silent", ""
    while time.monotonic() < deadline_s and not guard.client.closed:
        for message in guard.client.receive():
            if not isinstance(message, link.Report):
                continue
            phase, reason = message.phase, message.reason
            if phase == "safe" and message.impedance_ohm is not None:
                ok = message.impedance_ohm < arm_below_ohm
                detail = f"{message.impedance_ohm / 1000:.1f} kΩ; arming needs less than {arm_below_ohm / 1000:g} kΩ"
                return Finding(item="impedance", ok=ok, detail=detail)
        time.sleep(0.01)
    return Finding(item="impedance", ok=False, detail=f"not measured within {_DEVICE_S:g} s; the guard is {phase} ({reason})")


def _coil(guard: GuardProcess, max_coil_c: float) -> Finding:
    """Wait for the guard to be safe and the device to have told the coil's temperature."""
    deadline_s = time.monotonic() + 2 * _DEVICE_S
    phase, reason = "silent", ""
    while time.monotonic() < deadline_s and not guard.client.closed:
        for message in guard.client.receive():
            if not isinstance(message, link.Report):
                continue
            phase, reason = message.phase, message.reason
            if phase == "safe" and message.coil_c is not None:
                detail = f"{message.coil_c:.1f} degrees Celsius; arming needs at most {max_coil_c:g}"
                return Finding(item="coil", ok=message.coil_c <= max_coil_c, detail=detail)
        time.sleep(0.01)
    detail = f"no temperature within {2 * _DEVICE_S:g} s; the guard is {phase} ({reason})"
    return Finding(item="coil", ok=False, detail=detail)


def time_to_zero_of(config: Config) -> list[TimeToZero]:
    """The table of the configured driver, where the device itself cannot be asked."""
    if config.device is not None and config.pulses is not None:
        can = choose(config.device).capabilities
        return time_to_no_pulse(can) if isinstance(can, PulseCapabilities) else []
    guarded = configuration.guard_settings(config, "check", input_is_simulated=True)
    assert config.stimulation is not None
    try:
        capabilities = choose(guarded.device).capabilities
    except DriverError:
        return []  # the guard has said what is wrong with it
    if not isinstance(capabilities, Capabilities):
        return []
    return time_to_zero(capabilities, limits.effective(guarded, capabilities), config.stimulation.ramp_s)
