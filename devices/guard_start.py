"""What the guard process needs before it can serve: its settings, the checklist's word, and the open device at zero."""

from __future__ import annotations

import datetime as dt
import secrets
from pathlib import Path
from typing import Final

import msgspec

from devices import checklist
from devices.clock import Clock
from devices.dose_book import DoseBook, DoseBookError, PulseBook, ThreadClerk
from devices.driver import DriverError
from devices.guard_core import GuardCore
from devices.guard_shell import GuardShell
from devices.guard_state import FOREVER
from devices.limits import LimitError
from devices.pulse_core import PulseGuardCore
from devices.pulse_settings import PulseLimitError, PulseSettings, decode
from devices.registry import current_choice, pulse_choice
from devices.settings import Settings
from devices.stimulator import DeviceError
from devices.units import NS_PER_S

MAX_SETTINGS_BYTES: Final = 65_536


class StartError(Exception):
    """The guard refuses to start; the text is one sentence for the operator."""


def read_settings(path: Path) -> Settings | PulseSettings:
    """Read and strictly decode the guard's settings.

    Raises
    ------
    StartError
        If the file cannot be read or is not what `settings.encode` wrote; names the file and the key.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SETTINGS_BYTES + 1)
    except OSError as error:
        raise StartError(f"settings {path}: {error.strerror}") from error
    if len(data) > MAX_SETTINGS_BYTES:
        raise StartError(f"settings {path}: more than {MAX_SETTINGS_BYTES} bytes")
    try:
        return decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StartError(f"settings {path}: {error}") from error


def checklist_end_ns(settings: Settings | PulseSettings, clock: Clock) -> int:
    """Judge the pre-arm checklist, if there is one; until when it holds, on the lease clock.

    Raises
    ------
    StartError
        One sentence that names the item.
    """
    if not settings.checklist:
        return FOREVER
    if isinstance(settings, PulseSettings):
        raise StartError("there is no pre-arm checklist for magnetic stimulation; leave session.checklist empty")
    wall_s = clock.wall_ns() / NS_PER_S
    today = dt.date.fromtimestamp(wall_s)  # noqa: DTZ012 - the form's date is the day here
    try:
        form = checklist.parse(settings.checklist)
        checklist.check(form, settings.participant, settings.stimulation, today)
    except checklist.ChecklistError as error:
        raise StartError(str(error)) from error
    return clock.now_ns() + round((checklist.end_of_day_s(today) - wall_s) * NS_PER_S)


def open_core(settings: Settings | PulseSettings, book: PulseBook, clerks: list[ThreadClerk], clock: Clock) -> GuardShell:
    """Open the configured device, drop it to zero, and bind the guard to it.

    Parameters
    ----------
    settings : Settings or PulseSettings
    book : PulseBook
    clerks : list of ThreadClerk
        The one who does the bookings is added here; the caller lets it go.
    clock : Clock

    Raises
    ------
    StartError
        If there is no such driver or it runs in no process, the device is not to be had, or must not be used in this mode
        or with this input (I30), or if checklist or ledger speak against a session.
    """

    def clerk(own: DoseBook) -> ThreadClerk:
        clerks.append(ThreadClerk(own))
        return clerks[-1]

    arm_until_ns = checklist_end_ns(settings, clock)
    try:
        core: GuardShell
        secret = secrets.token_bytes(32)
        if isinstance(settings, PulseSettings):
            core = PulseGuardCore(settings, pulse_choice(settings.device)[0], secret, book, clerk, arm_until_ns)
        else:
            core = GuardCore(settings, current_choice(settings.device)[0], secret, book, clerk, arm_until_ns)
    except (DriverError, DeviceError, LimitError, PulseLimitError, DoseBookError) as error:
        raise StartError(str(error)) from error
    if core.forbidden:
        core.close()
        raise StartError(core.forbidden)
    return core
