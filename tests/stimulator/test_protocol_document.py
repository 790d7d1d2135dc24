"""The written protocol and the code say the same: frames, checksums, codes, tables, every state times every command."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from devices import refframe
from devices import refproto as proto
from devices.mock.firmware import SETTLE_MS, Firmware
from devices.mock.stimulator import LIMITS_EVERY
from devices.reference import REPLY_BUDGET_NS
from devices.refframe import Decoder, crc16
from devices.refproto import AckResult, Code, Defect, FaultCode
from devices.stimulator import DeviceState, Identity, StopClass
from devices.units import NS_PER_MS

TEXT = resources.files("devices").joinpath("reference_serial_protocol.md").read_text(encoding="utf-8")
FRAMES = re.findall(r"^([<>]) (.+?) {2,}((?:[0-9a-f]{2} ?)+)$", TEXT, re.MULTILINE)
LAB = Identity(maker="Lab", model="S1", serial_number="7", firmware="1.0", emulator=False)
ARMED, ACTIVE, FAULT = DeviceState.ARMED, DeviceState.ACTIVE, DeviceState.FAULT

# What each line of the worked session says, written once more in terms of the code.
SESSION: list[tuple[int, proto.HostMessage | proto.DeviceMessage]] = [
    (1, proto.Stop(StopClass.S0_CUT)),
    (2, proto.Identify()),
    (1, proto.Ack(2, AckResult.OK)),
    (2, proto.IdentityReply(2, 1, LAB)),
    (3, proto.SelfTest()),
    (3, proto.Ack(3, AckResult.OK)),
    (4, proto.SelfTestResult(3, Defect(0))),
    (4, proto.Arm(1000, 100)),
    (5, proto.Ack(4, AckResult.OK)),
    (6, proto.Limits(4, 1000, 100, 250, 1000)),
    (7, proto.Report(ARMED, 0, 0.9, 2, 5120, 4, 3, 0)),
    (5, proto.SetLevel(-200, 250)),
    (6, proto.Heartbeat()),
    (9, proto.Report(ACTIVE, -200, -201.3, -1030, 5117, 6, 3, 0)),
    (7, proto.Stop(StopClass.S1_ABORT_RAMP)),
    (8, proto.Disarm()),
    (9, proto.ResetFault()),
    (10, proto.Query()),
    (30, proto.Report(FAULT, 0, None, None, None, 10, 3, FaultCode.HOST_TIMEOUT)),
    (31, proto.Ack(11, AckResult.OVER_LIMIT)),
]
SAID = {
    "IDENTIFY": proto.Identify(), "ARM": proto.Arm(1000, 100), "DISARM": proto.Disarm(), "HEARTBEAT": proto.Heartbeat(),
    "SET_LEVEL 100": proto.SetLevel(100, 250), "SET_LEVEL 0": proto.SetLevel(0, 250), "RESET_FAULT": proto.ResetFault(),
    "STOP 0": proto.Stop(StopClass(0)), "STOP 1": proto.Stop(StopClass(1)), "STOP 2": proto.Stop(StopClass(2)),
    "QUERY": proto.Query(), "SELF_TEST": proto.SelfTest(),
}  # fmt: skip
STATES = [state.name for state in DeviceState if state is not DeviceState.UNCERTAIN]


def rows(first: str) -> list[list[str]]:
    """The cells of the table whose head begins with `first`."""
    table = next(part for part in TEXT.split("\n\n") if re.match(rf"\| *{first} *\|", part))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


@pytest.mark.parametrize("index", range(len(SESSION)))
def test_worked_frames(index: int) -> None:
    sender, words, written = FRAMES[index]
    seq, message = SESSION[index]
    data = bytes.fromhex(written)
    assert proto.encode(seq, message) == data
    (frame,) = Decoder(refframe.MAX_HOST_PAYLOAD if sender == ">" else refframe.MAX_DEVICE_PAYLOAD).feed(data)
    assert (proto.parse_host if sender == ">" else proto.parse_device)(frame) == message
    assert Code(frame.command).name == words.split()[0]


def test_every_frame_written_is_compared_and_every_message_is_shown() -> None:
    assert len(FRAMES) == len(SESSION)
    assert {Code(bytes.fromhex(written)[8]) for _, _, written in FRAMES} == set(Code)


def test_checksums() -> None:
    table = rows("bytes")
    assert len(table) == 4
    for written, value in table:
        digits = re.search(r"`([0-9a-f ]+)`", written)
        assert crc16(bytes.fromhex(digits[1]) if digits else b"") == int(value.strip("`"), 16)


def test_codes() -> None:
    commands = [row for part in TEXT.split("\n\n") if re.match(r"\| code ", part) for row in
                ([cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines()[2:])]  # fmt: skip
    assert {int(code, 16): name for code, name, *_ in commands} == {code.value: code.name for code in Code}


@pytest.mark.parametrize(
    ("first", "names"),
    [
        ("result", {result.value: result.name for result in AckResult}),
        ("state", {state.value: state.name for state in DeviceState if state is not DeviceState.UNCERTAIN}),
        ("fault", {fault.value: fault.name for fault in FaultCode}),
        ("bit", {defect.value: defect.name for defect in Defect}),
    ],
)
def test_tables_of_values(first: str, names: dict[int, str]) -> None:
    assert {int(row[0], 0): row[1] for row in rows(first)} == names


def brought_to(state: str) -> tuple[Firmware, int, int]:
    """A device in this state, the last sequence number and the time (ms)."""
    device = Firmware()
    script: list[proto.HostMessage] = [proto.Arm(1000, 100), proto.SetLevel(100, 250), proto.Stop(StopClass.S2_SESSION_RAMP)]
    if state == "FAULT":
        device.press_button()
    steps = {"ARMED": 1, "ACTIVE": 2, "RAMPING_DOWN": 3}.get(state, 0)
    k = 0
    for seq, message in enumerate(script[:steps], start=1):
        device.handle(seq, message, k)
        if isinstance(message, proto.SetLevel):
            for k in range(1, 100):
                device.tick(k)
    assert device.state.name == state
    return device, steps, k


@pytest.mark.parametrize("column", range(len(STATES)), ids=STATES)
def test_every_state_times_every_command(column: int) -> None:
    table = rows("command")
    assert sorted(row[0].strip("`") for row in table) == sorted(SAID)
    for name, *cells in table:
        device, seq, k = brought_to(STATES[column])
        answer = device.handle(seq + 1, SAID[name.strip("`")], k)
        assert answer is not None
        assert f"{answer.result.name} → {device.state.name}" == cells[column], name


def test_numbers_in_the_text_are_those_of_the_code() -> None:
    for words in (
        f"{proto.HOST_TIMEOUT_MS} ms   |",
        f"| longest lease                                                      | {proto.MAX_LEASE_MS} ms",
        f"1 … {proto.MAX_LEVEL_UA} µA and 1 … {proto.MAX_SLEW_UA_S} µA/s",
        f"1: down at {proto.DOWN_SLEW_UA_S} µA/s",
        f"have been zero for {SETTLE_MS} ms",
        f"at most {proto.ZERO_UA:g} µA",
        f"The reference serial protocol, version {refframe.VERSION}.{proto.MINOR}",
        f"at most {refframe.MAX_HOST_PAYLOAD} from the host, at most {refframe.MAX_DEVICE_PAYLOAD} from the device",
        "after every tenth REPORT",
        f"acknowledged for\n{REPLY_BUDGET_NS // NS_PER_MS} ms",
    ):
        assert words in TEXT, words
    assert LIMITS_EVERY == 10
