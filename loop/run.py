"""Puts the parts of a session together: simulate, replay and live, from a configuration to a closed session file."""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from devices import checklist, link, priority, settings
from devices.children import module_command
from devices.clock import SystemClock, VirtualClock
from devices.guard_state import ExitCode
from devices.link_socket import GuardClient, GuardUnreachableError, socket_path
from devices.pulse_settings import PulseSettings
from loop import config as configuration
from loop.allotment import allotment_of
from loop.calibration import file as calibration_file
from loop.calibration.validity import check_date
from loop.config import Config, ConfigError
from loop.errors import SessionError, ZeroUnconfirmedError
from loop.estimators import registry
from loop.estimators.protocol import Estimator
from loop.events import Layout, Playback
from loop.inline_recorder import InlineRecorder
from loop.live import LiveSession
from loop.operator import OperatorLine
from loop.recorder import ProcessRecorder
from loop.screen import Screen
from loop.session_file import JournalError, Mode, SessionMeta
from loop.virtual import Progress, VirtualSession

if TYPE_CHECKING:
    from loop.sources.lsl import LslSource

SIMULATE_CHUNK_S: Final = 0.05
REPLAY_CHUNK_S: Final = 0.1
# Long enough for an operator's consent at the device's own screen; a guard that cannot start says so at once.
_GUARD_START_S: Final = 120.0
_GUARD_END_S: Final = 5.0
_LAST_WORDS_S: Final = 2.0
_GUARD_SAYS: Final = "cereloop guard: "
_AT_ZERO: Final = (ExitCode.ENDED, ExitCode.ENGINE_LOST)
"""A guard that was killed, broke, or is still busy has not confirmed zero."""
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


class GuardProcess:
    """The guard as a child that outlives us if need be.

    Parameters
    ----------
    guarded : Settings or PulseSettings
        What it shall read by itself.

    Raises
    ------
    SessionError
        If it refuses to start; its own sentence says why.
    """

    def __init__(self, guarded: settings.Settings | PulseSettings) -> None:
        self._socket = socket_path(guarded.session)
        self._settings_path = self._socket.with_suffix(".settings.json")
        self._log_path = self._socket.with_suffix(".log")
        descriptor = os.open(self._settings_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(settings.encode(guarded))
        command = module_command(
            "devices.guard_process",
            *("--settings", str(self._settings_path), "--socket", str(self._socket), "--log", str(self._log_path)),
        )
        # A session of its own: the terminal's Ctrl-C and hang-up are for us alone.
        self._process = subprocess.Popen(
            command, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            self.client, self.welcome = self._connect(settings.digest(guarded))
        except SessionError:
            self._process.terminate()
            raise

    @property
    def pid(self) -> int:
        """The guard's process id."""
        return self._process.pid

    def close(self) -> int | None:
        """Let go of the link and wait for the guard's end; its exit code, or None if it is still busy getting to zero."""
        self.client.close()
        try:
            code: int | None = self._process.wait(_GUARD_END_S)
        except subprocess.TimeoutExpired:
            return None
        with contextlib.suppress(OSError):  # a file left behind is nothing beside how the guard has ended
            self._settings_path.unlink(missing_ok=True)
            if code == 0:
                self._log_path.unlink(missing_ok=True)
        return code

    def _connect(self, digest: str) -> tuple[GuardClient, link.Welcome]:
        deadline_s = time.monotonic() + _GUARD_START_S
        client: GuardClient | None = None
        while client is None:
            try:
                client = GuardClient.connect(self._socket, 0.05)
            except GuardUnreachableError as error:
                if self._process.poll() is not None:
                    raise SessionError(self._last_words()) from error
                if time.monotonic() > deadline_s:
                    raise SessionError(self._silence()) from error
        client.send(link.Hello(version=link.LINK_VERSION, settings_sha256=digest))
        while time.monotonic() < deadline_s and not client.closed:
            for message in client.receive():
                if isinstance(message, link.Welcome):
                    return client, message
                if isinstance(message, link.Refused):
                    raise SessionError(f"the guard refused us: {message.reason}")
            time.sleep(0.002)
        raise SessionError(self._last_words() if client.closed else self._silence())

    def _last_words(self) -> str:
        """Why it did not start, in its own words; the link is gone a moment before the process is."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LAST_WORDS_S)
        if self._process.poll() is None or self._process.stderr is None:
            return f"the guard closed the link without a word; its log is {self._log_path}"
        lines = self._process.stderr.read().decode("utf-8", "replace").strip().splitlines()
        if not lines:
            return f"the guard ended with code {self._process.returncode} and gave no reason; its log is {self._log_path}"
        return f"the guard did not start: {lines[-1].removeprefix(_GUARD_SAYS)}"

    def _silence(self) -> str:
        return (
            f"the guard did not answer within {_GUARD_START_S:g} s: is a question open at the device or in its program? "
            f"Its log is {self._log_path}"
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
        If it breaks off later, and zero current is not confirmed.
    """
    from loop.outlets import Outlets

    priority.claim_share()  # before liblsl starts its threads: what keeps them waiting ages the samples
    clock = SystemClock()
    form = checklist_text(config) if config.stimulates else ""
    with open_source(config) as source:
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
        where = path if path is not None else new_path(config, "live")
        name = f"{where.stem}-{os.getpid()}"
        guard: GuardProcess | None = None
        recorder: ProcessRecorder | None = None
        zero = True
        try:
            try:
                if config.stimulates:
                    make = configuration.guard_settings if config.pulses is None else configuration.pulse_guard_settings
                    guarded = make(config, name, input_is_simulated=source.info.simulated, checklist=form)
                    guard = GuardProcess(guarded)
                meta = session_meta(config, "live", name, msgspec.json.encode(source.info).decode(), allotment.sealed, form)
                recorder = ProcessRecorder(where, meta, clock, machine_key=allotment.machine_key)
                session = LiveSession(
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
                )
                session.run()
            finally:
                # Only the guard's own word makes it so: whatever interrupts the wait for it leaves zero unconfirmed.
                zero = guard is None
                try:
                    zero = guard is None or guard.close() in _AT_ZERO
                finally:
                    if recorder is not None:
                        recorder.close()
        except BaseException as error:
            if zero:
                raise
            raise ZeroUnconfirmedError(f"the session broke off: {error or type(error).__name__}") from error
    return where, zero
