"""The ledger behind a guard as a real process: reserved before current flows, untouched meanwhile, settled after (I04)."""

from __future__ import annotations

import datetime as dt
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from guard_rig import Engine, GuardProcess, MockDevice, short_directory
from test_checklist import filled

from devices import ledger, link
from devices.dose import DoseSession
from devices.guard_process import APART_SUFFIX
from devices.guard_state import ExitCode
from devices.ledger import Ledger
from devices.ledger_book import sessions_of
from devices.limits import gate_dose
from devices.settings import Dose

LEVEL = 40
Start = Callable[..., GuardProcess]


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


@pytest.fixture
def device(directory: Path) -> Iterator[MockDevice]:
    rig = MockDevice(directory)
    yield rig
    rig.close()


@pytest.fixture
def start(directory: Path, device: MockDevice) -> Iterator[Start]:
    guards: list[GuardProcess] = []

    def begin(port: str = device.port, folder: Path = directory, **changes: object) -> GuardProcess:
        guards.append(GuardProcess(folder, port, **changes))  # type: ignore[arg-type]
        return guards[-1]

    yield begin
    for guard in guards:
        guard.close()


@pytest.fixture
def dose(directory: Path) -> Dose:
    path = directory / "dose.sqlite"
    ledger.create(path)
    return Dose(ledger=str(path))


def session_of(dose: Dose) -> DoseSession:
    """The one emulated session of P001."""
    (session,) = sessions_of(Ledger(Path(dose.ledger)), "P001", emulated=True)
    return session


def end(engine: Engine) -> int:
    """Goodbye, and the guard's exit code."""
    engine.wanted_ua = None
    engine.client.send(link.Goodbye(reason="end of test"))
    engine.until(lambda: engine.client.closed)
    return engine.guard.end()[0]


def test_a_gate_is_on_disk_before_it_flows_and_no_file_is_touched_until_it_has(dose: Dose, start: Start) -> None:
    engine = Engine(start(dose=dose))
    most = gate_dose(engine.guard.settings.stimulation)
    engine.to_live(LEVEL)
    path = Path(dose.ledger)
    assert (session_of(dose).open_uc, session_of(dose).open_ms) == (most.charge_uc, most.on_time_ms)
    changed_ns = path.stat().st_mtime_ns
    engine.until(lambda: engine.report is not None and engine.report.charge_uc > LEVEL)
    assert path.stat().st_mtime_ns == changed_ns
    engine.wanted_ua = 0
    engine.until(lambda: engine.report is not None and engine.report.level_ua == 0 and engine.report.reserved_uc == 0)
    assert end(engine) == ExitCode.ENDED
    session = session_of(dose)
    assert session.closed
    assert engine.report is not None
    assert LEVEL <= session.charge_uc == engine.report.charge_uc < most.charge_uc
    assert session.open_uc == 0
    code, errors = start(dose=dose).end()
    assert code == ExitCode.REFUSED
    assert errors.startswith("cereloop guard: dose of P001: the last session (test) is 0 h 00 min ago")
    assert errors.count("\n") == 1


def test_a_guard_killed_under_current_is_followed_by_one_with_the_remaining_dose_only(
    dose: Dose, start: Start, directory: Path
) -> None:
    rival = directory / "rival"
    rival.mkdir(mode=0o700)
    other = MockDevice(rival)
    engine = Engine(start(dose=dose, session="first"))
    most = gate_dose(engine.guard.settings.stimulation)
    engine.to_live(LEVEL)
    second = start(port=other.port, folder=rival, dose=dose, session="rival")
    engine.until(lambda: second.process.poll() is not None)
    code, errors = second.end()
    assert code == ExitCode.REFUSED
    assert "another guard is at work for participant P001" in errors
    engine.guard.signal(signal.SIGKILL)
    engine.guard.end()
    again = Engine(start(port=other.port, folder=rival, dose=dose, session="second"))
    again.until(again.phase("safe"))
    assert again.report is not None and again.report.charge_uc == most.charge_uc
    assert again.welcome is not None
    assert "session first was cut short and goes on with what is left" in again.welcome.limit_reasons[-1]
    assert end(again) == ExitCode.ENDED
    assert not session_of(dose).closed, "a guard that booked nothing ends nobody's session"
    other.close()


def test_an_emulators_own_ledger_lies_beside_the_socket_and_goes_with_the_session(start: Start, directory: Path) -> None:
    engine = Engine(start())
    engine.to_live(LEVEL)
    apart = (directory / "guard.sock").with_suffix(APART_SUFFIX)
    assert session_of(Dose(ledger=str(apart))).open_uc > 0
    assert end(engine) == ExitCode.ENDED
    assert not list(directory.glob("*dose*"))


def test_a_form_that_is_not_whole_or_not_of_today_refuses_the_start(start: Start) -> None:
    today = dt.datetime.now().astimezone().date()
    code, errors = start(checklist=filled(today, seizure_ever='"yes"')).end()
    assert code == ExitCode.REFUSED
    assert errors == (
        "cereloop guard: checklist: item `contraindications.seizure_ever` is 'yes', and only \"no\" lets a session be armed\n"
    )
    code, errors = start(checklist=filled(today - dt.timedelta(days=1))).end()
    assert code == ExitCode.REFUSED
    assert "item `session.date`" in errors
    engine = Engine(start(checklist=filled(today)))
    engine.to_live(LEVEL)
    assert end(engine) == ExitCode.ENDED
