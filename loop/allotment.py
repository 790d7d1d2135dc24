"""What a session must be told of its arm before it begins: from the sealed allocation, and from the session it is yoked to."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

from devices import link
from devices.units import NS_PER_S
from loop import allocation, sealing
from loop import config as configuration
from loop.config import Config, ConfigError
from loop.events import Allotted, TraceGate
from loop.gate import Phase
from loop.reader import Session

_LEAST_SHARE: Final = 0.5


class Allotment(NamedTuple):
    """What the engine is told (None: nothing), and with what its record is sealed (empty: it is not)."""

    event: Allotted | None
    machine_key: bytes = b""
    sealed: str = ""


def allotment_of(config: Config) -> Allotment:
    """Find out a session's arm.

    Raises
    ------
    SealError
        If allocation, key or code do not do.
    ConfigError, JournalError
        If it is yoked to a session that cannot be repeated.
    """
    table = config.allocation
    if table is None:
        if config.session.arm != "yoked":
            return Allotment(None)
        return Allotment(Allotted(t_ns=0, arm="yoked", trace=trace_of(config, b"")))
    sealed, digest = allocation.load(table.file)
    key = sealing.read_key(table.machine_key)
    arm = allocation.arm_of(sealed, table.code, key)
    if "yoked" in sealed.arms and not config.session.yoked_to:
        raise ConfigError(
            "key `session.yoked_to` is missing: this allocation has a yoked arm; name a session for every code, or the lack of "
            "one tells"
        )
    trace = trace_of(config, key) if arm == "yoked" else ()
    return Allotment(Allotted(t_ns=0, arm=arm, code=table.code, trace=trace), key, digest)


def trace_of(config: Config, machine_key: bytes) -> tuple[TraceGate, ...]:
    """The gates of the session that this one repeats, each held so long that it delivers the same charge.

    Raises
    ------
    ConfigError
        If it was of another level or ramp, stands under another guard's limits, or was a sham.
    JournalError
        If the file cannot be read.
    """
    path = Path(config.session.yoked_to)
    with Session.open(path, machine_key or None) as session:
        theirs = configuration.decode(session.config_text, f"{path}: recorded config")
        ours, given = config.stimulation, theirs.stimulation
        if ours is None or given is None or (ours.level_ua, ours.ramp_s) != (given.level_ua, given.ramp_s):
            raise ConfigError(
                f"key `session.yoked_to`: {path} had another level or ramp ({_plan(given)}, here {_plan(ours)}), so its dose "
                "cannot be matched"
            )
        inputs = [session.value(row) for row in session.rows(kinds=("allotted",))]
        arm: str = next((event.arm for event in inputs if isinstance(event, Allotted)), theirs.session.arm)
        if arm not in ("closed_loop", "open_loop"):
            raise ConfigError(f"key `session.yoked_to`: {path} was no real stimulation (arm {arm}); name a closed_loop session")
        gates = _gates(session, ours.level_ua, ours.ramp_s)
    if given.hold_s > ours.hold_s:
        raise ConfigError(
            f"key `stimulation.hold_s` is {ours.hold_s:g}; {path} held for up to {given.hold_s:g} s, so its dose would not fit"
        )
    return gates


def _gates(session: Session, level_ua: int, ramp_s: float) -> tuple[TraceGate, ...]:
    changes = session.gates
    reports = [(one.t_ns, one.message) for one in session.device_reports if isinstance(one.message, link.Report)]
    began_ns = next((one.t_ns for one in changes if one.after == Phase.SENSE), 0)
    gates: list[TraceGate] = []
    opened_ns: int | None = None
    for change in changes:
        if change.after == Phase.RAMP_UP:
            opened_ns = change.t_ns
        elif opened_ns is not None and change.after not in (Phase.HOLD, Phase.RAMP_DOWN):
            charge_uc = _charge_at(reports, change.t_ns) - _charge_at(reports, opened_ns)
            # Two raised-cosine ramps deliver as much as one at full level.
            full_s = charge_uc / level_ua
            if full_s >= _LEAST_SHARE * ramp_s:
                at_s = (opened_ns - began_ns) / NS_PER_S
                gates.append(TraceGate(at_s=round(at_s, 3), hold_s=round(max(0.0, full_s - ramp_s), 3)))
            opened_ns = None
    return tuple(gates)


def _charge_at(reports: list[tuple[int, link.Report]], t_ns: int) -> int:
    """The guard's count at the first report at or after a time; the last one where none follows."""
    if not reports:
        return 0
    return next((report.charge_uc for at_ns, report in reports if at_ns >= t_ns), reports[-1][1].charge_uc)


def _plan(stimulation: Any) -> str:
    return "none" if stimulation is None else f"{stimulation.level_ua} uA in {stimulation.ramp_s:g} s"
