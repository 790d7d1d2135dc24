"""Dose over sessions and days: the entries of one participant folded into sessions, and what follows from them. Pure.

A *session* here is a stimulation session: it begins with its first reservation, and counts once anything has been reserved
that was not wholly refunded. It ends in order by ``close``; one that a crash cut short goes on with what is left of its dose.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from devices.units import NS_PER_MS

NS_PER_H: Final = 3_600 * 1_000_000_000
_NS_PER_MIN: Final = 60 * 1_000_000_000

Kind = Literal["begin", "resume", "reserve", "settle", "close"]


class Moment(msgspec.Struct, frozen=True):
    """A time on the wall clock (ns since 1970) and, within one boot of one machine, on a clock that nobody can set."""

    wall_ns: int
    boot: str
    boot_ns: int

    def later(self, ns: int) -> Moment:
        """The same, `ns` later."""
        return Moment(self.wall_ns + ns, self.boot, self.boot_ns + ns)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the ledger.

    `session` is the number of the row that began the session. `name` and `device` are told where a guard takes a session up
    (``begin``, ``resume``); `run` is that guard's own number, new with every start. ``reserve`` carries what is reserved,
    ``settle`` what was used of it, in microcoulomb and milliseconds, or in magnetic pulses and milliseconds. `emulated` is
    current that no body received; of a `blinded` session amounts would tell the arm.
    """

    seq: int
    participant: str
    emulated: bool
    kind: Kind
    session: int
    run: str
    name: str = ""
    device: str = ""
    blinded: bool = False
    at: Moment
    charge_uc: int = 0
    on_time_ms: int = 0
    pulses: int = 0


class DoseSession(msgspec.Struct, frozen=True, kw_only=True):
    """One stimulation session as the ledger knows it; an open reservation counts in full (I04).

    `flowed` is when the last settled gate ended, `until` when the gate of the open reservation would.
    """

    number: int
    name: str
    device: str
    blinded: bool
    began: Moment
    flowed: Moment
    until: Moment
    charge_uc: int = 0
    on_time_ms: int = 0
    open_uc: int = 0
    open_ms: int = 0
    closed: bool = False
    pulses: int = 0
    open_pulses: int = 0

    @property
    def last(self) -> Moment:
        """When current last flowed, or may last have flowed."""
        return self.until if self.open_uc or self.open_ms else self.flowed

    @property
    def counted_uc(self) -> int:
        """Charge that counts, in microcoulomb."""
        return self.charge_uc + self.open_uc

    @property
    def counted_ms(self) -> int:
        """Time with current that counts, in milliseconds."""
        return self.on_time_ms + self.open_ms

    @property
    def counted_pulses(self) -> int:
        """Magnetic pulses that count."""
        return self.pulses + self.open_pulses

    @property
    def counts(self) -> bool:
        """Whether any current flowed, or may have flowed."""
        return self.counted_uc > 0 or self.counted_ms > 0


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Where a participant stands: which session goes on, if any, or from when a new one may begin.

    `goes_on` is None where a new session would begin; `used_uc` and `used_ms` count against the session's limits. `wait_ns` is
    0 where a session may begin or go on now. `refusal` says why not, in one sentence; empty where it may.
    """

    goes_on: DoseSession | None
    used_uc: int
    used_ms: int
    sessions: int
    wait_ns: int
    refusal: str


def fold(entries: Iterable[Entry]) -> tuple[DoseSession, ...]:
    """The sessions of one participant, in the order in which they began.

    Raises
    ------
    ValueError
        If the entries could not have been written by a guard; names the row.
    """
    sessions: dict[int, DoseSession] = {}
    for entry in entries:
        old = sessions.get(entry.session)
        new = _begun(entry) if entry.kind == "begin" else _gone_on(old, entry)
        least = min(entry.charge_uc, entry.on_time_ms, entry.pulses)
        if new is None or (old is not None and entry.kind == "begin") or least < 0:
            raise ValueError(f"row {entry.seq}: `{entry.kind}` cannot stand there")
        sessions[entry.session] = new
    return tuple(sessions.values())


def _begun(entry: Entry) -> DoseSession | None:
    if entry.session != entry.seq:
        return None
    return DoseSession(
        number=entry.seq,
        name=entry.name,
        device=entry.device,
        blinded=entry.blinded,
        began=entry.at,
        flowed=entry.at,
        until=entry.at,
    )


def _gone_on(session: DoseSession | None, entry: Entry) -> DoseSession | None:
    if session is None or session.closed:
        return None
    replace = msgspec.structs.replace
    match entry.kind:
        case "reserve":
            # Another gate replaces a reservation that was not used; what a dead guard left open was counted by `resume`.
            until = entry.at.later(entry.on_time_ms * NS_PER_MS)
            return replace(
                session, open_uc=entry.charge_uc, open_ms=entry.on_time_ms, open_pulses=entry.pulses, until=until
            )
        case "settle":
            anything = entry.charge_uc or entry.on_time_ms
            return replace(
                session,
                charge_uc=session.charge_uc + entry.charge_uc,
                on_time_ms=session.on_time_ms + entry.on_time_ms,
                open_uc=0,
                open_ms=0,
                pulses=session.pulses + entry.pulses,
                open_pulses=0,
                flowed=entry.at if anything else session.flowed,
            )
        case "resume":
            return replace(
                session,
                charge_uc=session.counted_uc,
                on_time_ms=session.counted_ms,
                open_uc=0,
                open_ms=0,
                pulses=session.counted_pulses,
                open_pulses=0,
                flowed=session.last,
                blinded=session.blinded or entry.blinded,
            )
        case _:
            return replace(session, closed=True)


def elapsed_ns(then: Moment, now: Moment) -> int:
    """Time from `then` to `now`; within one boot a wall clock that was set forward gains nothing."""
    wall_ns = now.wall_ns - then.wall_ns
    return min(wall_ns, now.boot_ns - then.boot_ns) if then.boot and then.boot == now.boot else wall_ns


def standing(sessions: Iterable[DoseSession], now: Moment, interval_ns: int, most_sessions: int | None) -> Standing:
    """Where a participant stands at `now`.

    Parameters
    ----------
    sessions : iterable of DoseSession
        What `fold` made of the participant's entries.
    now : Moment
    interval_ns : int
        From the last current of a session to the first of the next.
    most_sessions : int or None
        How many sessions the study allows in all; None for no such limit.
    """
    counting = [session for session in sessions if session.counts]
    last = max(counting, key=lambda session: session.last.wall_ns, default=None)
    wait_ns = 0 if last is None else max(0, interval_ns - elapsed_ns(last.last, now))
    if last is not None and wait_ns and not last.closed:
        return Standing(
            goes_on=last,
            used_uc=last.counted_uc,
            used_ms=last.counted_ms,
            sessions=len(counting),
            wait_ns=0,
            refusal="",
        )
    refusal = ""
    if last is not None and wait_ns:
        refusal = (
            f"the last session ({last.name}) is {_hours(max(0, interval_ns - wait_ns))} ago and {_hours(interval_ns)} must "
            f"lie between two; wait another {_hours(wait_ns + _NS_PER_MIN - 1)}"
        )
    elif most_sessions is not None and len(counting) >= most_sessions:
        refusal = f"{len(counting)} sessions are on record and dose.max_sessions allows {most_sessions}"
    return Standing(goes_on=None, used_uc=0, used_ms=0, sessions=len(counting), wait_ns=wait_ns, refusal=refusal)


def _hours(ns: int) -> str:
    minutes = ns // _NS_PER_MIN
    return f"{minutes // 60} h {minutes % 60:02d} min"
