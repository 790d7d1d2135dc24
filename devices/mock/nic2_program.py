"""The program NIC2 in the mock: requests in, replies and channel currents out; counts milliseconds, reads no clock.

What the vendor documents is followed: the order of statuses, what is refused when, the traps (STIMULATION_FULL before a change
has arrived, and left behind by an impedance check; no impedance without current in the protocol; no integer, no current).
What nobody documents is an assumption, stated here and to be tested on a dummy head:

- When the client's connection ends, the program goes on: a change (146) persists, a peak (152) expires by itself, a protocol
  ends when its own duration is over.
- Abort and the end of a protocol take the current down at 2 mA/s, in at least 0.1 s.
- A change or a second peak that comes while a peak runs is ignored; so is everything online before STIMULATION_FULL.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from devices.mock.faults import ActiveFaults
from devices.nic2_codec import MAX_CHANNEL_UA, MAX_TIME_MS, MIN_TIME_MS, Request, parse_numbers
from devices.nic2_table import Op, OpcodeTable, Status

SYNC_MS: Final = 300
LOAD_MS: Final = 200
START_MS: Final = 200
FULL_MS: Final = 300
IMPEDANCE_MS: Final = 500
END_SLEW_UA_MS: Final = 2.0
MATNIC_LINE: Final = "NIC 2, emulated; MatNIC 04.07"
NIC1_STATUS: Final = 241

_STILL_BUSY: Final = frozenset({Status.SYNCHRONIZING, Status.PROTOCOL_LOADING, Status.PROTOCOL_RUNNING})
_ALWAYS: Final = frozenset({Op.VERSION, Op.QUERY_STATUS})


class NicProtocol(msgspec.Struct, frozen=True, kw_only=True):
    """A protocol as an operator has made it in NIC: 0 uA on all channels, unless it is for the impedance check."""

    duration_ms: int
    has_current: bool = False


class _Leg(msgspec.Struct, frozen=True):
    """A straight way of the currents, from where the leg before ended."""

    end_k: int
    to_ua: tuple[float, ...]


class NicProgram:
    """NIC2 with a Starstim of so many channels.

    Parameters
    ----------
    table : OpcodeTable
        Version it speaks.
    channels : int
        Of the device.
    protocols : dict
        What an operator has made, by name.
    faults : ActiveFaults
        What is wrong.
    measure : callable
        Gives the impedance of every channel now, ohm.

    Attributes
    ----------
    main, phase : Status
        What the two queries are answered with.
    currents_ua : tuple of float
        One a channel, signed.
    refused : list of str
        Names of requests that had no effect, newest last; at most 20.
    """

    def __init__(
        self,
        table: OpcodeTable,
        channels: int,
        protocols: dict[str, NicProtocol],
        faults: ActiveFaults,
        measure: Callable[[], tuple[float, ...]],
    ) -> None:
        self.main = Status.SYNCHRONIZING
        self.phase = Status.STIMULATION_FINISHED
        self.currents_ua: tuple[float, ...] = (0.0,) * channels
        self.refused: list[str] = []
        self._table = table
        self._channels = channels
        self._protocols = protocols
        self._faults = faults
        self._measure = measure
        self._allowed = False
        self._asked_k: int | None = None
        self._next: tuple[int, Status] | None = None
        self._protocol: NicProtocol | None = None
        self._running_since_k = 0
        self._ohms: tuple[float, ...] = (0.0,) * channels
        self._legs: list[_Leg] = []
        self._from = (0, self.currents_ua)
        self._peaking = False

    @property
    def runs(self) -> bool:
        """Whether the output is connected: a protocol runs or is being aborted."""
        return self.main in (Status.PROTOCOL_RUNNING, Status.PROTOCOL_ABORTING) or bool(self._legs)

    def client_gone(self) -> None:
        """The connection has ended: remote control must be allowed anew; what runs, runs on."""
        self._allowed = False
        self._asked_k = None

    # ---- requests

    def admits(self, request: Request) -> bool:
        """Whether whoever asks may: version and status always, the rest once the operator has allowed it."""
        op = request.op
        if op is None or (op not in _ALWAYS and not self._allowed):
            self._refuse("an unknown opcode" if op is None else op.name)
            return False
        return True

    def handle(self, request: Request, k: int) -> bytes:
        """Answer one request at `k` (ms) that changes nothing at the electrodes; empty where there is no reply."""
        if not self.admits(request):
            return b""
        match request.op:
            case Op.VERSION:
                return self._version(request.text, k)
            case Op.QUERY_STATUS:
                return self._status(self._main(k))
            case Op.QUERY_STATUS_PROTOCOL:
                return self._status(Status.STIMULATION_FULL if "lying_full" in self._faults else self.phase)
            case Op.READ_CHANNELS:
                return bytes([self._channels])
            case Op.READ_MATNIC_VERSION:
                return MATNIC_LINE.encode() + b"\n"
            case Op.READ_DEVICE_SETTINGS:
                return b"0.0 (emulated)\t127.0.0.1\temulated\tStarstim emulator\n"
            case Op.GET_IMPEDANCE:
                return ";".join(f"{ohm:.0f}" for ohm in self._ohms).encode() + b"\n"
        return b""

    def obey(self, request: Request, k: int) -> None:
        """Carry out one admitted request at `k` (ms)."""
        op = request.op
        if op is not None and not self._obey(op, request.text, k):
            self._refuse(op.name)

    def _version(self, said: str, k: int) -> bytes:
        if "other_version" in self._faults:
            return bytes([NIC1_STATUS])
        if said != self._table.version:
            return self._status(Status.VERSION_RECEIVED)
        if self._asked_k is None:
            self._asked_k = k
            if self.main in (Status.SYNCHRONIZING, Status.REMOTE_CONTROL_ALLOWED):
                self.main = Status.SYNCHRONIZING
        if k - self._asked_k < SYNC_MS:
            return self._status(Status.SYNCHRONIZING)
        if self.main is Status.SYNCHRONIZING:
            self.main = Status.IDLE
        return self._status(Status.IDLE)

    def _main(self, k: int) -> Status:
        if not self._allowed and self._asked_k is not None and self.main is not Status.SYNCHRONIZING:
            if "consent_rejected" in self._faults:
                return Status.REMOTE_CONTROL_REJECTED
            if k - self._asked_k < SYNC_MS + self._faults.value("consent_delayed", "delay_s", 0.0) * 1000.0:
                return Status.IDLE
            self._allowed = True
            if self.main is Status.IDLE:
                self.main = Status.REMOTE_CONTROL_ALLOWED
            return Status.REMOTE_CONTROL_ALLOWED
        return self.main

    def _obey(self, op: Op, text: str, k: int) -> bool:
        """Do what changes something; False where NIC would not."""
        main = self.main
        if op is Op.ABORT_PROTOCOL:
            return "deaf_abort" not in self._faults and self._abort(k)
        if op is Op.ONLINE_ATDCS_CHANGE or op is Op.ONLINE_ATDCS_PEAK:
            return main is Status.PROTOCOL_RUNNING and self._online(op, text, k)
        if main in _STILL_BUSY or self._next is not None:
            return False
        if op is Op.LOAD_PROTOCOL:
            self._protocol = self._protocols.get(text)
            self.main = Status.PROTOCOL_LOADING
            self._next = (k + LOAD_MS, Status.PROTOCOL_ERROR if self._protocol is None else Status.PROTOCOL_LOADED)
            return True
        if op is Op.UNLOAD_PROTOCOL:
            self._protocol, self.main = None, Status.PROTOCOL_NOT_LOADED
            return True
        if op is Op.START_PROTOCOL and main is Status.PROTOCOL_LOADED:
            self._next = (k + START_MS, Status.PROTOCOL_RUNNING)
            return True
        if op is Op.CHECK_IMPEDANCE and self._protocol is not None and text in ("DC", "AC"):
            self.main = Status.CHECK_IMPEDANCE
            self._next = (k + IMPEDANCE_MS, Status.CHECK_IMPEDANCE_FINISHED)
            return True
        return False

    def _online(self, op: Op, text: str, k: int) -> bool:
        times = 1 if op is Op.ONLINE_ATDCS_CHANGE else 3
        if self.phase is not Status.STIMULATION_FULL or self._peaking:
            return False
        if op is Op.ONLINE_ATDCS_PEAK and "deaf_peak" in self._faults:
            return False
        numbers = parse_numbers(text, self._channels + times)
        if numbers is None:
            # "Floating point values result in zero current being applied."
            self._legs = [_Leg(k + MIN_TIME_MS, (0.0,) * self._channels)]
            self._from = (k, self.currents_ua)
            return False
        wanted, spans = numbers[: self._channels], numbers[self._channels :]
        if any(abs(one) > MAX_CHANNEL_UA for one in wanted) or not all(MIN_TIME_MS <= one <= MAX_TIME_MS for one in spans):
            return False
        there = tuple(float(one) for one in wanted)
        before = self.currents_ua
        self._from = (k, before)
        if times == 1:
            self._legs = [_Leg(k + spans[0], there)]
        else:
            up, stay, down = spans
            self._legs = [_Leg(k + up, there), _Leg(k + up + stay, there), _Leg(k + up + stay + down, before)]
            self._peaking = True
        return True

    def _abort(self, k: int) -> bool:
        if self.main is not Status.PROTOCOL_RUNNING and not (self._next and self._next[1] is Status.PROTOCOL_RUNNING):
            return False
        self.main, self.phase = Status.PROTOCOL_ABORTING, Status.STIMULATION_RAMPDOWN
        self._next = (self._down(k), Status.PROTOCOL_ABORTED)
        return True

    def _down(self, k: int) -> int:
        """Begin the way to zero; returns when it ends."""
        most = max(abs(one) for one in self.currents_ua)
        end_k = k + max(MIN_TIME_MS, round(most / END_SLEW_UA_MS))
        self._from, self._legs, self._peaking = (k, self.currents_ua), [_Leg(end_k, (0.0,) * self._channels)], False
        return end_k

    def _refuse(self, what: str) -> None:
        self.refused = [*self.refused[-19:], what]

    def _status(self, status: Status) -> bytes:
        return bytes([self._table.statuses[status]])

    # ---- time

    def nothing_until(self, k: int) -> int | None:
        """The next index at which something happens by itself; None where nothing will, `k` where something moves."""
        if self.runs:
            return k
        return None if self._next is None else self._next[0]

    def tick(self, k: int) -> None:
        """One millisecond: timers, then the currents."""
        if self._next is not None and k >= self._next[0]:
            self._arrive(self._next[1], k)
        if self.main is Status.PROTOCOL_RUNNING and self._protocol is not None:
            ran_ms = k - self._running_since_k
            if self.phase is Status.STIMULATION_RAMPUP and ran_ms >= FULL_MS:
                self.phase = Status.STIMULATION_FULL
            if ran_ms >= self._protocol.duration_ms and self.phase is not Status.STIMULATION_RAMPDOWN:
                self.phase = Status.STIMULATION_RAMPDOWN
                self._next = (self._down(k), Status.PROTOCOL_FINISHED)
        self._move(k)

    def press_abort(self, k: int) -> None:
        """The operator's abort button in NIC."""
        self._abort(k)

    def fail(self, k: int) -> None:
        """The protocol ends in an error."""
        if self.main is Status.PROTOCOL_RUNNING:
            self.phase = Status.STIMULATION_RAMPDOWN
            self._next = (self._down(k), Status.PROTOCOL_ERROR)

    def _arrive(self, status: Status, k: int) -> None:
        self._next = None
        self.main = status
        if status is Status.PROTOCOL_RUNNING:
            self._running_since_k, self.phase = k, Status.STIMULATION_RAMPUP
        elif status is Status.CHECK_IMPEDANCE_FINISHED:
            measured = self._protocol is not None and self._protocol.has_current
            self._ohms = self._measure() if measured else (0.0,) * self._channels
            self.phase = Status.STIMULATION_FULL  # the trap: left behind, though nothing is stimulated
        elif status in (Status.PROTOCOL_ABORTED, Status.PROTOCOL_FINISHED, Status.PROTOCOL_ERROR):
            self.phase = Status.STIMULATION_FINISHED

    def _move(self, k: int) -> None:
        while self._legs:
            leg = self._legs[0]
            begin_k, begin = self._from
            if k < leg.end_k:
                share = (k - begin_k) / (leg.end_k - begin_k)
                self.currents_ua = tuple(a + (b - a) * share for a, b in zip(begin, leg.to_ua, strict=True))
                return
            self.currents_ua = leg.to_ua
            self._from = (leg.end_k, leg.to_ua)
            self._legs.pop(0)
        self._peaking = False
