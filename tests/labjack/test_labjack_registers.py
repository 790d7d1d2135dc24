"""The LabJack's frames, byte by byte, and whatever bytes come."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices import labjack_registers as reg
from devices.labjack_registers import RegisterError, ReplyDecoder, RequestDecoder

KEY = 0x5AFE5AFE


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (reg.write_frame(1, reg.DAC0, 0.5), "00 01 00 00 00 0b 01 10 03 e8 00 02 04 3f 00 00 00"),
        (reg.write_frame(2, reg.WATCHDOG_ENABLE, 0), "00 02 00 00 00 0b 01 10 f0 a0 00 02 04 00 00 00 00"),
        (reg.write_frame(3, reg.WATCHDOG_TIMEOUT_S, 1), "00 03 00 00 00 0b 01 10 f0 a4 00 02 04 00 00 00 01"),
        (reg.write_frame(4, reg.WATCHDOG_STRICT, 1), "00 04 00 00 00 0b 01 10 f0 aa 00 02 04 00 00 00 01"),
        (reg.write_frame(5, reg.WATCHDOG_KEY, KEY), "00 05 00 00 00 0b 01 10 f0 ac 00 02 04 5a fe 5a fe"),
        (reg.write_frame(6, reg.WATCHDOG_DAC0, 1), "00 06 00 00 00 0b 01 10 f0 c8 00 02 04 00 00 00 01"),
        (reg.write_frame(7, reg.WATCHDOG_DAC0_V, 0.0), "00 07 00 00 00 0b 01 10 f0 ca 00 02 04 00 00 00 00"),
        (reg.write_frame(9, reg.WATCHDOG_CLEAR, KEY), "00 09 00 00 00 0b 01 10 f0 ae 00 02 04 5a fe 5a fe"),
        (reg.read_frame(10, reg.AIN0), "00 0a 00 00 00 06 01 03 00 00 00 02"),
        (reg.read_frame(11, reg.TEST), "00 0b 00 00 00 06 01 03 d7 3c 00 02"),
    ],
)
def test_frames_are_those_of_the_register_map(frame: bytes, expected: str) -> None:
    assert frame == bytes.fromhex(expected)


@given(st.floats(-10, 10, width=32))
def test_floats_survive_the_way_there_and_back(value: float) -> None:
    assert reg.value_of(reg.DAC0, reg.words_of(reg.DAC0, value)) == value


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300])
def test_what_is_no_number_becomes_no_voltage(value: float) -> None:
    with pytest.raises(RegisterError):
        reg.write_frame(1, reg.DAC0, value)


def test_a_stream_is_cut_into_frames_wherever_it_is_broken() -> None:
    sent = [reg.read_frame(1, reg.AIN0, 2), reg.write_frame(2, reg.DAC0, 0.25), reg.read_frame(3, reg.TEST)]
    whole = b"".join(sent)
    expected = RequestDecoder().feed(whole)
    assert [(one.transaction, one.function, one.address) for one in expected] == [(1, 3, 0), (2, 16, 1000), (3, 3, 55100)]
    for cut in range(len(whole)):
        decoder = RequestDecoder()
        assert decoder.feed(whole[:cut]) + decoder.feed(whole[cut:]) == expected
    answers = reg.reply_frame(expected[0], (1, 2, 3, 4)) + reg.reply_frame(expected[1]) + reg.reply_frame(expected[2], (), 2)
    replies = ReplyDecoder().feed(answers)
    assert [(r.transaction, r.registers, r.exception) for r in replies] == [(1, (1, 2, 3, 4), 0), (2, (), 0), (3, (), 2)]


@pytest.mark.parametrize("decoder", [ReplyDecoder, RequestDecoder])
@given(parts=st.lists(st.binary(max_size=300), max_size=6))
def test_any_bytes_end_in_frames_or_in_one_typed_error(decoder: type, parts: list[bytes]) -> None:
    reader = decoder()
    for part in parts:
        with contextlib.suppress(RegisterError):
            reader.feed(part)
        assert len(reader._frames._buffer) <= reg.MAX_FRAME_BYTES + 300
