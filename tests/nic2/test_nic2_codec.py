"""The codec of NIC2: the worked bytes of the protocol's description, its limits, and any bytes at all."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.nic2_codec import (
    MAX_CHANNEL_UA,
    MAX_LINE_BYTES,
    MAX_PARAMETER_BYTES,
    MAX_PENDING_BYTES,
    Change,
    DeviceSettings,
    Nic2CodecError,
    Peak,
    Replies,
    Request,
    RequestDecoder,
    change,
    check_currents,
    hello,
    parse_impedances,
    parse_numbers,
    parse_settings,
    peak,
    request,
    spread,
)
from devices.nic2_table import TABLES, V04_07, Op, Reply, Status

EIGHT = (-1000, 1000, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (hello(V04_07), bytes.fromhex("83 30 34 2e 30 37 00")),
        (request(V04_07, Op.LOAD_PROTOCOL, "CtDCS"), bytes.fromhex("87 43 74 44 43 53 00")),
        (change(V04_07, Change(EIGHT, 10_000)), b"\x92-1000;1000;0;0;0;0;0;0;10000\x00"),
        (peak(V04_07, Peak(EIGHT, 5000, 10_000, 5000)), b"\x98-1000;1000;0;0;0;0;0;0;5000;10000;5000\x00"),
        (request(V04_07, Op.QUERY_STATUS), b"\x80"),
        (request(V04_07, Op.ABORT_PROTOCOL), b"\x8a"),
    ],
)
def test_worked_bytes(made: bytes, expected: bytes) -> None:
    assert made == expected


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (Status.REMOTE_CONTROL_ALLOWED, 200),
        (Status.IDLE, 204),
        (Status.PROTOCOL_RUNNING, 208),
        (Status.PROTOCOL_ABORTED, 212),
        (Status.STIMULATION_FULL, 217),
        (Status.CHECK_IMPEDANCE_FINISHED, 222),
        (Status.PULSE_ENABLE, 226),
    ],
)
def test_statuses(status: Status, code: int) -> None:
    assert V04_07.statuses[status] == code
    assert V04_07.status(code) is status


def test_every_version_is_a_whole_table() -> None:
    for version, table in TABLES.items():
        assert table.version == version
        assert set(table.opcodes) == set(Op)
        assert set(table.statuses) == set(Status)
        assert len(set(table.opcodes.values())) == len(Op)
        assert all(128 <= code <= 159 for code in table.opcodes.values())


@pytest.mark.parametrize(
    ("currents", "words"),
    [
        ((), "0 channels"),
        ((0,) * 33, "33 channels"),
        ((1000, -999), "sum to 1 uA"),
        ((-1000, 999), "sum to -1 uA"),
        ((1000.0, -1000.0), "no integer"),
        ((True, -1), "no integer"),
        ((2001, -2001), "no integer in"),
    ],
)
def test_currents_that_never_leave(currents: tuple[int, ...], words: str) -> None:
    with pytest.raises(Nic2CodecError, match=words):
        check_currents(currents)
    with pytest.raises(Nic2CodecError):
        change(V04_07, Change(currents, 1000))


@pytest.mark.parametrize("time_ms", [99, 10_001, 1000.0, True, -1])
def test_times_that_never_leave(time_ms: int) -> None:
    with pytest.raises(Nic2CodecError, match="no integer in"):
        change(V04_07, Change(EIGHT, time_ms))
    for times in ((time_ms, 100, 100), (100, time_ms, 100), (100, 100, time_ms)):
        with pytest.raises(Nic2CodecError):
            peak(V04_07, Peak(EIGHT, *times))


@given(
    level=st.integers(-MAX_CHANNEL_UA, MAX_CHANNEL_UA),
    channels=st.integers(2, 32),
    data=st.data(),
)
def test_a_level_is_spread_to_exactly_zero(level: int, channels: int, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(1, channels + 1)))
    returns = order[1 : data.draw(st.integers(2, channels))]
    currents = spread(level, order[0], returns, channels)
    check_currents(currents)
    assert currents[order[0] - 1] == level
    shares = [abs(currents[channel - 1]) for channel in returns]
    assert max(shares) - min(shares) <= 1
    decoded = RequestDecoder(V04_07).feed(change(V04_07, Change(currents, 100)))
    assert parse_numbers(decoded[0].text, channels + 1) == (*currents, 100)


@pytest.mark.parametrize(("target", "returns"), [(1, ()), (1, (1,)), (1, (2, 2)), (0, (1,)), (9, (1,)), (1, (9,))])
def test_a_montage_that_is_none(target: int, returns: tuple[int, ...]) -> None:
    with pytest.raises(Nic2CodecError, match="does not fit"):
        spread(100, target, returns, 8)


@pytest.mark.parametrize("text", ["", "x" * 513, "a\x00b", "naïve", "a\nb"])
def test_parameters_that_would_break_the_framing(text: str) -> None:
    with pytest.raises(Nic2CodecError):
        request(V04_07, Op.LOAD_PROTOCOL, text)


def test_a_parameter_where_none_belongs() -> None:
    with pytest.raises(Nic2CodecError, match="takes no parameter"):
        request(V04_07, Op.QUERY_STATUS, "x")


# ---- replies


def test_replies_are_taken_one_by_one_in_order() -> None:
    replies = Replies(V04_07)
    replies.feed(bytes([208, 217, 8]) + b"1000;2000\r\n04.07\n" + bytes([204]))
    assert replies.take(Op.QUERY_STATUS) is Status.PROTOCOL_RUNNING
    assert replies.take(Op.QUERY_STATUS_PROTOCOL) is Status.STIMULATION_FULL
    assert replies.take(Op.READ_CHANNELS) == 8
    assert replies.take(Op.GET_IMPEDANCE) == "1000;2000"
    assert replies.take(Op.READ_MATNIC_VERSION) == "04.07"
    assert replies.take(Op.VERSION) is Status.IDLE
    assert replies.take(Op.QUERY_STATUS) is None


@pytest.mark.parametrize("byte", [0, 127, 199, 227, 241, 244])
def test_a_status_of_another_version(byte: int) -> None:
    replies = Replies(V04_07)
    replies.feed(bytes([byte]))
    with pytest.raises(Nic2CodecError, match="another version"):
        replies.take(Op.QUERY_STATUS)


def test_a_line_without_an_end_is_bounded() -> None:
    replies = Replies(V04_07)
    replies.feed(b"1" * (MAX_LINE_BYTES + 1))
    with pytest.raises(Nic2CodecError, match="more than"):
        replies.take(Op.GET_IMPEDANCE)
    assert len(replies) == 0
    with pytest.raises(Nic2CodecError, match="answer nothing"):
        replies.feed(bytes(MAX_PENDING_BYTES + 1))


@pytest.mark.parametrize("line", ["8000 5000.5\t1e3", "8000;5000.5;1e3", " 8000, 5000.5, 1000 "])
def test_impedances(line: str) -> None:
    assert parse_impedances(line, 3) == (8000.0, 5000.5, 1000.0)


@pytest.mark.parametrize("line", ["", "1 2", "1 2 x", "1 2 nan", "1 2 inf", "1 2 -3", "1 2 1e10", "1 2 1_0"])
def test_impedances_that_are_none(line: str) -> None:
    with pytest.raises(Nic2CodecError, match="GET_IMPEDANCE"):
        parse_impedances(line, 3)


def test_device_settings() -> None:
    assert parse_settings("1.2\t00:11\tWiFi\tStarStim8") == DeviceSettings("1.2", "00:11", "WiFi", "StarStim8")
    with pytest.raises(Nic2CodecError, match="four texts"):
        parse_settings("1.2 00:11 WiFi StarStim8")


@given(st.lists(st.binary(max_size=200), max_size=20), st.lists(st.sampled_from(list(Op)), max_size=20))
def test_any_replies_give_a_value_or_the_one_error(parts: list[bytes], ops: list[Op]) -> None:
    replies = Replies(V04_07)
    for i, part in enumerate(parts):
        try:
            replies.feed(part)
            for op in ops[i:]:
                taken = replies.take(op)
                if taken is None:
                    break
                expected = {Reply.STATUS: Status, Reply.COUNT: int, Reply.LINE: str}[V04_07.reply(op)]
                assert isinstance(taken, expected)
        except Nic2CodecError:
            pass
        assert len(replies) <= MAX_PENDING_BYTES


@given(st.text(max_size=1500), st.integers(1, 32))
def test_any_line_gives_values_or_the_one_error(line: str, channels: int) -> None:
    for parse in (lambda: parse_impedances(line, channels), lambda: parse_settings(line)):
        with contextlib.suppress(Nic2CodecError):
            parse()


# ---- requests


@given(st.lists(st.binary(max_size=700), max_size=10))
def test_any_requests_decode_whatever_the_chunks(parts: list[bytes]) -> None:
    whole = RequestDecoder(V04_07).feed(b"".join(parts))
    decoder = RequestDecoder(V04_07)
    assert [one for part in parts for one in decoder.feed(part)] == whole
    assert all(len(one.text) <= MAX_PARAMETER_BYTES for one in whole)
    for one in whole:
        parse_numbers(one.text, 9)


def test_a_parameter_may_come_much_later_than_its_opcode() -> None:
    decoder = RequestDecoder(V04_07)
    assert decoder.feed(b"\x8c") == []
    assert decoder.feed(b"DC") == []
    assert decoder.feed(b"\x00\x80\x42") == [Request(Op.CHECK_IMPEDANCE, "DC"), Request(Op.QUERY_STATUS), Request(None)]


def test_a_parameter_that_never_ends_is_dropped() -> None:
    decoder = RequestDecoder(V04_07)
    decoder.feed(b"\x87" + b"x" * (MAX_PARAMETER_BYTES + 1))
    assert decoder.overlong == 1


@pytest.mark.parametrize("text", ["1;2", "1;2;3.0", "1;2;;", "1;2;", "1;2;x", "1;2;1e2", "1;2;\uff11"])
def test_numbers_that_are_none(text: str) -> None:
    assert parse_numbers(text, 3) is None
