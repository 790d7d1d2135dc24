"""Streams a recording or the simulated patient as LSL EEG plus markers: what ``cereloop mock amplifier`` does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from devices import liblsl, priority
from devices.mock.amplifier import Amplifier, Block, again_and_again, patient_blocks, stream
from devices.mock.background import BackgroundAhead
from devices.mock.meter import MeterError, MeterReader
from devices.mock.patient import Patient
from devices.mock.patient_settings import PatientSettings
from loop.config import ConfigError
from loop.sources.recording import RecordingPlayback, open_recording


def run_amplifier(
    what: str,
    *,
    name: str,
    source_id: str,
    marker_name: str,
    patient: PatientSettings | None,
    meter: Path | None,
    again: bool,
    chunk_s: float,
    reach: liblsl.Reach,
    say: Callable[[str], None],
) -> int:
    """Stream until the source ends or Ctrl-C.

    Parameters
    ----------
    what : str
        A recording's path, or ``patient``.
    name, source_id, marker_name : str
        Of the LSL stream, and of the marker stream beside it.
    patient : PatientSettings, optional
        Who is simulated; needed for ``patient``.
    meter : Path, optional
        Meter file of a mock stimulator, whose current the patient then feels.
    again : bool
        Start a recording anew whenever it ends.
    chunk_s : float
        Length of a chunk in seconds.
    reach : {"network", "machine"}
        How far the stream is announced.
    say : callable
        Takes sentences for the user.

    Returns
    -------
    int
        Number of samples sent.

    Raises
    ------
    SourceError, ConfigError
        One sentence each.
    """
    priority.claim_share()  # an amplifier has a processor of its own
    if what == "patient":
        blocks, amplifier = _patient(patient, meter, again, (name, source_id, marker_name), chunk_s)
    else:
        if meter is not None:
            raise ConfigError("--meter makes the patient feel a current; a recording cannot")
        blocks, amplifier = _recording(Path(what), again, (name, source_id, marker_name), chunk_s)
    say(
        f"streaming `{name}`: {len(amplifier.labels)} channels at {amplifier.sfreq_hz:g} Hz, markers on "
        f"`{amplifier.marker_name}`; Ctrl-C ends it"
    )
    sent = stream(blocks, amplifier, chunk_s=chunk_s, reach=reach)
    say(f"sent {sent} samples ({sent / amplifier.sfreq_hz:.1f} s)")
    return sent


def _patient(
    settings: PatientSettings | None, meter: Path | None, again: bool, names: tuple[str, str, str], chunk_s: float
) -> tuple[Iterable[Block], Amplifier]:
    if settings is None:
        raise ConfigError("key `patient` is missing: the configuration has no [patient] table to stream")
    current_ua: Callable[[], float] = _no_current if meter is None else _Felt(meter)
    try:
        patient = _patient_ahead(settings)
    except ValueError as error:
        raise ConfigError(f"table `patient`: {error}") from error
    amplifier = Amplifier(
        labels=settings.labels,
        units=("microvolts",) * len(settings.labels),
        sfreq_hz=settings.sfreq_hz,
        positions_m=patient.positions_m,
        name=names[0],
        source_id=names[1],
        marker_name=names[2],
    )
    if again:
        return again_and_again(lambda: patient_blocks(_patient_ahead(settings), current_ua, chunk_s)), amplifier
    return patient_blocks(patient, current_ua, chunk_s), amplifier


def _patient_ahead(settings: PatientSettings) -> Patient:
    return Patient(settings, BackgroundAhead(settings))


class _Felt:
    """The current that a mock stimulator's meter shows now."""

    def __init__(self, path: Path) -> None:
        self._reader = MeterReader(path)
        self._last_ua = 0.0
        try:
            self()
        except MeterError as error:
            raise ConfigError(f"--meter: {error}; start the mock stimulator with --meter first") from error

    def __call__(self) -> float:
        records = self._reader.read_new()
        if records:
            self._last_ua = records[-1].current_ua
        return self._last_ua


def _no_current() -> float:
    return 0.0


def _recording(path: Path, again: bool, names: tuple[str, str, str], chunk_s: float) -> tuple[Iterable[Block], Amplifier]:
    playback = open_recording(path)
    layout = playback.layout
    amplifier = Amplifier(
        labels=layout.labels,
        units=layout.units,
        sfreq_hz=layout.sfreq_hz,
        dtype=playback.info.dtype,
        positions_m=layout.positions_m,
        name=names[0],
        source_id=names[1],
        marker_name=names[2],
    )
    if again:
        return again_and_again(lambda: _blocks(open_recording(path), chunk_s)), amplifier
    return _blocks(playback, chunk_s), amplifier


def _blocks(playback: RecordingPlayback, chunk_s: float) -> Iterator[Block]:
    n = max(1, round(chunk_s * playback.layout.sfreq_hz))
    while (block := playback.read(n, 0.0)) is not None:
        yield block
