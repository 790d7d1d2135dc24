"""Puts the parts of a session together: simulate, replay and live, from a configuration to a closed session file."""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from devices import checklist, priority
from devices.clock import SystemClock, VirtualClock
from loop import config as configuration
from loop.allotment import allotment_of
from loop.calibration import file as calibration_file
from loop.calibration.validity import check_date
from loop.config import Config, ConfigError
from loop.errors import SWITCH_OFF, SessionError, ZeroUnconfirmedError
from loop.estimators import registry
from loop.estimators.protocol import Estimator
from loop.events import Layout, Playback, SourceInfo
from loop.guard_child import AT_ZERO, GuardProcess
from loop.inline_recorder import InlineRecorder
from loop.live import LiveSession
from loop.operator import OperatorLine
from loop.recorder import ProcessRecorder
from loop.screen import Screen
from loop.session_file import JournalError, Mode, SessionMeta
from loop.signals import signals_noted
from loop.virtual import Progress, VirtualSession

if TYPE_CHECKING:
    from loop.sources.lsl import LslSource

SIMULATE_CHUNK_S: Final = 0.05
REPLAY_CHUNK_S: Final = 0.1
_SOFTWARE: Final = ("cereloop", "numpy", "scipy", "mne", "mne-realtime", "pylsl", "msgspec", "pyserial")


class Played(NamedTuple):
    """A finished virtual session: where its file lies, and sentences on the limits that were in force."""

    path: Path
    limits: tuple[str, ...]


def play(
    config: Config,
    playback: Playback,
    mode: Mode,
    path: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Played:
    """Run a whole session on the virtual clock and write its file.

    Parameters
    ----------
    config : Config
    playback : Playback
        A recording or a simulated patient.
    mode : {"replay", "simulate"}
    path : Path, optional
        Where the session file goes; named after mode, participant and time in the configured directory unless given.
    progress, stop : callable, optional
        As for `VirtualSession.run`.

    Raises
    ------
    LayoutError
        If the estimator cannot work on the source's channels.
    CalibrationError
        If the configured calibration cannot be read, or does not fit.
    SealError, ConfigError
        If the arm cannot be found out.
    JournalError
        If the file cannot be written.
    """
    calibration = calibration_text(config)
    build_estimator(config, playback.layout, calibration)
    allotment = allotment_of(config)
    where = path if path is not None else new_path(config, mode)
    clock = VirtualClock()
    # Nothing of this machine or moment goes into the record of a virtual session: the same inputs give the same bytes.
    source = msgspec.json.encode(playback.info).decode()
    meta = session_meta(config, mode, f"{mode}-{config.session.participant}", source, allotment.sealed)
    recorder = InlineRecorder(where, meta, clock, machine_key=allotment.machine_key)
    try:
        chunk_s = SIMULATE_CHUNK_S if mode == "simulate" else REPLAY_CHUNK_S
        session = VirtualSession(
            config,
            playback,
            recorder,
            clock,
            meta.session,
            chunk_s=chunk_s,
            calibration=calibration,
            allotted=allotment.event,
        )
        session.run(progress, stop)
    finally:
        recorder.close()
    return Played(where, session.limits)


def calibration_text(config: Config) -> str:
    """Text of the configured calibration file, empty where none is configured. Raises CalibrationError."""
    return calibration_file.encode(calibration_file.load(config.estimator.calibration)) if config.estimator.calibration else ""


def checklist_text(config: Config) -> str:
    """Text of the configured pre-arm form, empty where none is configured. Raises ChecklistError."""
    return checklist.read(Path(config.session.checklist).expanduser()) if config.session.checklist else ""


def build_estimator(config: Config, layout: Layout, calibration: str) -> Estimator:
    """The session's estimator, as the engine will build it: to refuse early what cannot work.

    Raises
    ------
    LayoutError, CalibrationError, EstimatorError
    """
    parsed = calibration_file.decode(calibration) if calibration else None
    return registry.find(config.estimator.kind).build(config, layout, parsed)


def new_path(config: Config, mode: Mode) -> Path:
    """A file name that is not taken: mode, participant, local time.

    Raises
    ------
    JournalError
        If the configured directory does not exist.
    """
    folder = Path(config.session.directory)
    if not folder.is_dir():
        raise JournalError(f"key `session.directory`: {folder} is no directory; make it or name another")
    stem = f"cereloop-{mode}-{config.session.participant}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, number = folder / f"{stem}.sqlite", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}.sqlite"
    return path


def session_meta(config: Config, mode: Mode, name: str, source: str, sealed: str = "", form: str = "") -> SessionMeta:
    """What a session file says of its session; `form` is the text of the pre-arm checklist."""
    versions = {"python": platform.python_version()}
    for package in _SOFTWARE:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return SessionMeta(
        session=name,
        mode=mode,
        config_text=configuration.encode(config).decode(),
        config_format="json",
        versions=versions,
        source=source,
        sealed=sealed,
        checklist=form,
    )


@contextlib.contextmanager
def open_source(config: Config) -> Iterator[LslSource]:
    """Open the configured LSL stream. Raises SourceError, ConfigError."""
    if config.source.kind != "lsl":
        raise ConfigError(
            f"key `source.kind` is {config.source.kind}: a live session takes lsl; `cereloop mock amplifier` streams a "
            "recording or a patient as LSL"
        )
    from loop.sources.lsl import LslSource

    table = config.source
    source = LslSource(
        name=table.name,
        type=table.type,
        source_id=table.source_id,
        marker_name=table.marker_name,
        timeout_s=table.timeout_s,
        reach=table.reach,
    )
    try:
        source.open()
        yield source
    finally:
        source.close()


class _Ending:
    """How a live session ends: `zero` says whether zero current is known, which only the guard's own word makes so."""

    zero = True


def live(config: Config, path: Path | None, screen: Screen, operator: OperatorLine) -> tuple[Path, bool]:
    """Run a live session to its end.

    Parameters
    ----------
    config : Config
    path : Path, optional
        Where the session file goes.
    screen : Screen
    operator : OperatorLine

    Returns
    -------
    tuple of Path and bool
        The session file, and whether zero current is confirmed (as it is where there was no guard).

    Raises
    ------
    SourceError, LayoutError, CalibrationError, ChecklistError, SessionError, JournalError
        If anything needed is missing; nothing has flowed then.
    ZeroUnconfirmedError
        If it breaks off later, whatever by, and zero current is not confirmed.
    """
    priority.claim_share()  # before liblsl starts its threads: what keeps them waiting ages the samples
    where = path if path is not None else new_path(config, "live")
    form = checklist_text(config) if config.stimulates else ""
    ending = _Ending()
    try:
        with open_source(config) as source:
            _live(config, where, form, source, screen, operator, ending)
    except BaseException as error:
        if ending.zero:
            raise
        raise ZeroUnconfirmedError(f"the session broke off: {error or type(error).__name__}") from error
    return where, ending.zero


def _live(
    config: Config, where: Path, form: str, source: LslSource, screen: Screen, operator: OperatorLine, ending: _Ending
) -> None:
    from loop.outlets import Outlets

    calibration = calibration_text(config)
    if calibration and not source.info.simulated:
        check_date(calibration_file.decode(calibration), dt.datetime.now(tz=dt.UTC).date(), config.session.participant)
    estimator = build_estimator(config, source.layout, calibration)
    if estimator.is_stand_in and config.may_follow_evidence:
        raise SessionError(
            f"closed_loop needs PO9 and PO10, which this stream lacks ({estimator.name}); name a pair in [estimator] "
            "if you mean it"
        )
    allotment = allotment_of(config)
    name = f"{where.stem}-{os.getpid()}"
    clock, signals = SystemClock(), list[str]()
    # Outermost first: the guard is waited for, and the operator told, before the recorder may take its time; until that is
    # over no signal interrupts anything.
    with contextlib.ExitStack() as last, _guarded(config, name, form, source.info, screen, ending) as guard:
        last.enter_context(signals_noted(signals))
        meta = session_meta(config, "live", name, msgspec.json.encode(source.info).decode(), allotment.sealed, form)
        recorder = ProcessRecorder(where, meta, clock, machine_key=allotment.machine_key)
        last.callback(recorder.close)
        LiveSession(
            config,
            source,
            recorder,
            guard.client if guard is not None else None,
            guard.welcome if guard is not None else None,
            operator,
            screen,
            clock,
            Outlets(name, config.source.reach, "blinded" if allotment.sealed else "open"),
            calibration,
            allotment.event,
            signals,
        ).run()


@contextlib.contextmanager
def _guarded(
    config: Config, name: str, form: str, info: SourceInfo, screen: Screen, ending: _Ending
) -> Iterator[GuardProcess | None]:
    """The guard, where current may flow; afterwards `ending` knows whether it has confirmed zero, and so does the operator."""
    if not config.stimulates:
        yield None
        return
    make = configuration.guard_settings if config.pulses is None else configuration.pulse_guard_settings
    guard = GuardProcess(make(config, name, input_is_simulated=info.simulated, checklist=form))
    ending.zero = False
    try:
        yield guard
    finally:
        ending.zero = guard.close() in AT_ZERO
        if not ending.zero:
            screen.say(SWITCH_OFF)
