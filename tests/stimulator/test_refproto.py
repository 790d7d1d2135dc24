"""The codec of the reference serial protocol: layout by hand, round trips, and any bytes at all (I29)."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices import refproto as proto
from devices.refframe import (
    CRC_BYTES,
    HEADER_BYTES,
    MAX_DEVICE_PAYLOAD,
    MAX_HOST_PAYLOAD,
    MAX_SEQ,
    Decoder,
    Frame,
    crc16,
    frame_bytes,
)
from devices.stimulator import DeviceState, Identity, StopClass

I32 = st.integers(-(2**31) + 1, 2**31 - 1)
U32 = st.integers(0, 2**32 - 2)
SEQ = st.integers(1, MAX_SEQ)
TEXT = st.text(max_size=8)
HOST = st.one_of(
    st.sampled_from(list(proto._BARE.values())),
    st.builds(proto.Arm, U32, U32),
    st.builds(proto.SetLevel, I32, st.integers(0, 65_535)),
    st.builds(proto.Stop, st.sampled_from(StopClass)),
)
DEVICE = st.one_of(
    st.builds(proto.Limits, U32, U32, U32, st.integers(0, 65_535), st.integers(0, 65_535)),
    st.builds(proto.SelfTestResult, U32, st.integers(0, 65_535).map(proto.Defect)),
    st.builds(proto.Ack, U32, st.sampled_from(proto.AckResult)),
    st.builds(
        proto.Report,
        st.sampled_from([s for s in DeviceState if s is not DeviceState.UNCERTAIN]),
        I32,
        st.none() | I32.map(lambda tenths: tenths / 10.0),
        st.none() | I32,
        st.none() | U32,
        U32,
        st.integers(0, 65_535),
        st.integers(0, 255),
    ),
    st.builds(
        proto.IdentityReply,
        U32,
        st.integers(0, 255),
        st.builds(
            Identity, maker=TEXT, model=TEXT, serial_number=TEXT, firmware=TEXT, emulator=st.booleans()
        ),
    ),
)


def parse_or_refuse(frame: Frame) -> None:
    """Anything but a message or a `FrameError` fails the test."""
    for parse in (proto.parse_host, proto.parse_device):
        with contextlib.suppress(proto.FrameError):
            parse(frame)


def test_checksum_is_the_published_one() -> None:
    assert crc16(b"123456789") == 0x29B1


def test_set_level_frame_by_hand() -> None:
    body = bytes.fromhex("01 06 07000000 04 38ffffff fa00".replace(" ", ""))
    expected = b"\xc5\x3e" + body + struct.pack("<H", crc16(body))
    assert proto.encode(7, proto.SetLevel(-200, 250)) == expected


def test_report_payload_by_hand() -> None:
    report = proto.Report(DeviceState.ACTIVE, 200, -1.5, -40, None, 9, 2, 1)
    frame = Decoder().feed(proto.encode(3, report))[0]
    assert (frame.seq, frame.command) == (3, 0x83)
    assert frame.payload.hex() == "02c8000000f1ffffffd8ffffffffffffff09000000020001"


@given(SEQ, HOST)
def test_host_messages_come_back(seq: int, message: proto.HostMessage) -> None:
    frames = Decoder(MAX_HOST_PAYLOAD).feed(proto.encode(seq, message))
    assert [(frame.seq, proto.parse_host(frame)) for frame in frames] == [(seq, message)]


@given(SEQ, DEVICE)
def test_device_messages_come_back(seq: int, message: proto.DeviceMessage) -> None:
    frames = Decoder().feed(proto.encode(seq, message))
    assert [(frame.seq, proto.parse_device(frame)) for frame in frames] == [(seq, message)]


@given(st.lists(st.binary(max_size=600), max_size=8), st.booleans())
def test_any_bytes_leave_the_decoder_standing(chunks: list[bytes], synced: bool) -> None:
    decoder = Decoder()
    for chunk in chunks:
        for frame in decoder.feed(b"\xc5\x3e\x01" + chunk if synced else chunk):
            parse_or_refuse(frame)
        assert decoder.pending <= HEADER_BYTES + MAX_DEVICE_PAYLOAD + CRC_BYTES


@given(st.integers(0, 255), st.binary(max_size=MAX_DEVICE_PAYLOAD))
def test_any_payload_parses_or_is_refused_with_a_reason(command: int, payload: bytes) -> None:
    parse_or_refuse(Frame(1, command, payload))


@given(st.lists(st.tuples(SEQ, HOST), max_size=6), st.lists(st.integers(1, 40), max_size=20))
def test_chunking_is_invariant(messages: list[tuple[int, proto.HostMessage]], cuts: list[int]) -> None:
    data = b"\x00junk" + b"\xc5".join(proto.encode(seq, message) for seq, message in messages)
    whole = Decoder()
    pieces, at, frames = Decoder(), 0, []
    for cut in cuts:
        frames += pieces.feed(data[at : at + cut])
        at += cut
    frames += pieces.feed(data[at:])
    assert frames == whole.feed(data)
    assert len(frames) == len(messages)
    assert (pieces.skipped, pieces.corrupt) == (whole.skipped, whole.corrupt)


@given(st.binary(max_size=300), st.data())
def test_a_good_frame_is_found_behind_garbage(garbage: bytes, data: st.DataObject) -> None:
    """At most two frames' worth of later bytes are needed to see through a false header."""
    good = proto.encode(data.draw(SEQ), proto.Stop(StopClass.S0_CUT))
    decoder = Decoder(MAX_HOST_PAYLOAD)
    frames = decoder.feed(garbage + good + bytes(2 * (HEADER_BYTES + MAX_HOST_PAYLOAD + CRC_BYTES)))
    assert proto.Stop(StopClass.S0_CUT) in [proto.parse_host(f) for f in frames if f.command == 0x06]


@given(st.integers(0, 18), st.integers(1, 255))
def test_a_changed_byte_never_passes(position: int, flip: int) -> None:
    data = bytearray(proto.encode(9, proto.Arm(2000, 100)))
    data[position] ^= flip
    decoder = Decoder(MAX_HOST_PAYLOAD)
    assert decoder.feed(bytes(data) + bytes(40)) == []
    assert decoder.skipped >= len(data)


def test_causes_of_rejection_are_counted_apart() -> None:
    decoder = Decoder(MAX_HOST_PAYLOAD)
    wrong_version = bytearray(frame_bytes(1, 5))
    wrong_version[2] = 9
    broken = bytearray(frame_bytes(2, 5))
    broken[-1] ^= 1
    decoder.feed(bytes(wrong_version) + bytes(broken) + frame_bytes(3, 5, bytes(9)) + bytes(20))
    assert (decoder.bad_version, decoder.bad_checksum, decoder.overlong) == (1, 1, 1)
    assert decoder.corrupt == 3


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (Frame(1, 0x77, b""), "0x77"),
        (Frame(1, proto.Code.SET_LEVEL, b"\0\0"), "takes 6 bytes"),
        (Frame(1, proto.Code.STOP, b"\x03"), "stop class 3"),
        (Frame(1, proto.Code.HEARTBEAT, b"\0"), "takes 0 bytes"),
        (Frame(1, proto.Code.REPORT, b""), "none that a host sends"),
    ],
)
def test_host_frames_refused(frame: Frame, words: str) -> None:
    with pytest.raises(proto.FrameError, match=words):
        proto.parse_host(frame)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (Frame(1, proto.Code.REPORT, b"\x09" + bytes(23)), "state 9"),
        (Frame(1, proto.Code.ACK, bytes(4) + b"\x63"), "result 99"),
        (Frame(1, proto.Code.IDENTITY, bytes(6) + b"\x05ab"), "maker"),
        (Frame(1, proto.Code.IDENTITY, bytes(10) + b"x"), "left over"),
        (Frame(1, proto.Code.IDENTITY, bytes(6) + b"\x01\xff\0\0\0"), "UTF-8"),
    ],
)
def test_device_frames_refused(frame: Frame, words: str) -> None:
    with pytest.raises(proto.FrameError, match=words):
        proto.parse_device(frame)


def test_too_long_a_name_is_an_error_of_the_sender() -> None:
    who = Identity(maker="m" * 33, model="", serial_number="", firmware="", emulator=True)
    with pytest.raises(ValueError, match="longer than 32 bytes"):
        proto.encode(1, proto.IdentityReply(1, 1, who))
