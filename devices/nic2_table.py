"""The opcodes and statuses of NIC2's remote stimulation server, as data by protocol version; nothing else knows a number.

Of version 04.07 both tables are as the vendor's public MatNIC client of that version has them. NIC1 listens on the same port
with another table (QUERY_STATUS is 200 there), so a version is agreed before anything else is said.
"""

from __future__ import annotations

import enum
from types import MappingProxyType
from typing import Final

import msgspec


class Op(enum.Enum):
    """What a client may ask for, by the vendor's name."""

    QUERY_STATUS = enum.auto()
    QUERY_STATUS_PROTOCOL = enum.auto()
    READ_MATNIC_VERSION = enum.auto()
    VERSION = enum.auto()
    READ_CHANNELS = enum.auto()
    LOAD_PROTOCOL = enum.auto()
    UNLOAD_PROTOCOL = enum.auto()
    START_PROTOCOL = enum.auto()
    ABORT_PROTOCOL = enum.auto()
    PAUSE_PROTOCOL = enum.auto()
    CHECK_IMPEDANCE = enum.auto()
    CHECK_IMPEDANCE_ABORT = enum.auto()
    GET_IMPEDANCE = enum.auto()
    CONFIGURE_MARKERS = enum.auto()
    ONLINE_ATDCS_CHANGE = enum.auto()
    ONLINE_ATDCS_PEAK = enum.auto()
    READ_DEVICE_SETTINGS = enum.auto()


class Status(enum.Enum):
    """What NIC says of itself (`Op.QUERY_STATUS`, `Op.VERSION`) or of the stimulation (`Op.QUERY_STATUS_PROTOCOL`)."""

    REMOTE_CONTROL_ALLOWED = enum.auto()
    REMOTE_CONTROL_REJECTED = enum.auto()
    VERSION_RECEIVED = enum.auto()
    SYNCHRONIZING = enum.auto()
    IDLE = enum.auto()
    PROTOCOL_NOT_LOADED = enum.auto()
    PROTOCOL_LOADING = enum.auto()
    PROTOCOL_LOADED = enum.auto()
    PROTOCOL_RUNNING = enum.auto()
    PROTOCOL_ERROR = enum.auto()
    PROTOCOL_FINISHED = enum.auto()
    PROTOCOL_PAUSED = enum.auto()
    PROTOCOL_ABORTED = enum.auto()
    PROTOCOL_ABORTING = enum.auto()
    EEG_ON = enum.auto()
    EEG_OFF = enum.auto()
    STIMULATION_RAMPUP = enum.auto()
    STIMULATION_FULL = enum.auto()
    STIMULATION_RAMPDOWN = enum.auto()
    STIMULATION_FINISHED = enum.auto()
    WAITING_FOR_SECOND_SHAM = enum.auto()
    CHECK_IMPEDANCE = enum.auto()
    CHECK_IMPEDANCE_FINISHED = enum.auto()
    CHECK_IMPEDANCE_ABORTING = enum.auto()
    CHECK_IMPEDANCE_ABORTED = enum.auto()
    PULSE_DISABLE = enum.auto()
    PULSE_ENABLE = enum.auto()


class Reply(enum.Enum):
    """How an opcode is answered."""

    NONE = enum.auto()
    STATUS = enum.auto()
    COUNT = enum.auto()
    LINE = enum.auto()


class OpcodeTable(msgspec.Struct, frozen=True, kw_only=True):
    """One version of the protocol.

    Attributes
    ----------
    version : str
        As the client says it in `Op.VERSION`.
    opcodes, statuses : mapping
        Byte of each opcode and status.
    parameters : frozenset of Op
        Opcodes that an ASCII string follows, ended by a NUL, a newline or a carriage return.
    replies : mapping of Op to Reply
        How opcodes are answered; those left out are not.
    """

    version: str
    opcodes: MappingProxyType[Op, int]
    statuses: MappingProxyType[Status, int]
    parameters: frozenset[Op]
    replies: MappingProxyType[Op, Reply]

    def op(self, byte: int) -> Op | None:
        """The opcode of `byte`, None if there is none."""
        return next((op for op, code in self.opcodes.items() if code == byte), None)

    def status(self, byte: int) -> Status | None:
        """The status of `byte`, None if there is none."""
        return next((status for status, code in self.statuses.items() if code == byte), None)

    def reply(self, op: Op) -> Reply:
        """How `op` is answered."""
        return self.replies.get(op, Reply.NONE)


V04_07: Final = OpcodeTable(
    version="04.07",
    opcodes=MappingProxyType({
        Op.QUERY_STATUS: 128, Op.QUERY_STATUS_PROTOCOL: 129, Op.READ_MATNIC_VERSION: 130, Op.VERSION: 131,
        Op.READ_CHANNELS: 132, Op.LOAD_PROTOCOL: 135, Op.UNLOAD_PROTOCOL: 136, Op.START_PROTOCOL: 137,
        Op.ABORT_PROTOCOL: 138, Op.PAUSE_PROTOCOL: 139, Op.CHECK_IMPEDANCE: 140, Op.CHECK_IMPEDANCE_ABORT: 141,
        Op.GET_IMPEDANCE: 142, Op.CONFIGURE_MARKERS: 144, Op.ONLINE_ATDCS_CHANGE: 146, Op.ONLINE_ATDCS_PEAK: 152,
        Op.READ_DEVICE_SETTINGS: 159,
    }),
    statuses=MappingProxyType({status: 200 + i for i, status in enumerate(Status)}),
    parameters=frozenset({
        Op.VERSION, Op.LOAD_PROTOCOL, Op.CHECK_IMPEDANCE, Op.CONFIGURE_MARKERS, Op.ONLINE_ATDCS_CHANGE, Op.ONLINE_ATDCS_PEAK,
    }),
    replies=MappingProxyType({
        Op.QUERY_STATUS: Reply.STATUS, Op.QUERY_STATUS_PROTOCOL: Reply.STATUS, Op.VERSION: Reply.STATUS,
        Op.READ_CHANNELS: Reply.COUNT, Op.READ_MATNIC_VERSION: Reply.LINE, Op.GET_IMPEDANCE: Reply.LINE,
        Op.READ_DEVICE_SETTINGS: Reply.LINE,
    }),
)  # fmt: skip

TABLES: Final = MappingProxyType({V04_07.version: V04_07})
"""Every version that can be spoken. A new one is a new entry, never a change of an old one."""
