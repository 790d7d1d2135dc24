"""The Magstim's bytes: the worked examples, replies of every length, and whatever else may come down a line."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices import magstim_codec as codec
from devices.magstim_codec import Command, MagstimCodecError

V5, V7, V9 = (5, 0, 0), (7, 0, 0), (9, 0, 0)
WORKED = [
    (codec.remote_on(), "51 40 6e", 3),
    (codec.REMOTE_OFF, "52 40 6d", 3),
    (codec.power(50), "40 30 35 30 2a", 3),
    (codec.DISARM, "45 41 79", 3),
    (codec.ARM, "45 42 78", 3),
    (codec.FIRE, "45 48 72", 3),
    (codec.TEMPERATURE, "46 40 79", 9),
    (codec.VERSION, "4e 44 6d", 0),
    (codec.parameters(V5), "5c 40 63", 21),
    (codec.parameters(V7), "5c 40 63", 22),
    (codec.parameters(V9), "5c 40 63", 24),
    (codec.frequency(10), "42 30 30 31 30 fc", 4),
    (codec.pulses(V9, 450), "44 30 30 34 35 30 c2", 4),
    (codec.duration(V9, 450), "5b 30 34 35 30 db", 4),
    (codec.duration(V9, 10), "5b 30 30 31 30 e3", 4),
]
ASKABLE = [command for command, _, _ in WORKED]


@pytest.mark.parametrize(("command", "packet", "reply_bytes"), WORKED)
def test_worked_bytes(command: Command, packet: str, reply_bytes: int) -> None:
    assert command.packet.hex(" ") == packet
    assert command.reply_bytes == reply_bytes


def test_older_firmware_takes_shorter_numbers() -> None:
    assert codec.pulses(V7, 450).body == b"D0450"
    assert codec.duration(V7, 450).body == b"[450"


def test_the_unlock_code_takes_the_padding_s_place() -> None:
    assert codec.remote_on("7b21").body == b"Q7b21"
    with pytest.raises(MagstimCodecError, match="letters and digits"):
        codec.remote_on("7b 21")


@pytest.mark.parametrize("make", [lambda: codec.power(101), lambda: codec.power(-1), lambda: codec.duration(V7, 1000),
                                  lambda: codec.pulses(V9, 6001), lambda: codec.frequency(1001)])
def test_a_number_that_no_command_can_carry_is_refused(make) -> None:
    with pytest.raises(MagstimCodecError, match="outside 0"):
        make()


def sealed(body: bytes) -> bytes:
    return body + bytes((codec.checksum(body),))


def test_refusals_are_told_apart() -> None:
    assert codec.take(b"?", codec.ARM)[0].answer == "unknown"
    assert codec.take(sealed(b"@?"), codec.power(1))[0].answer == "bad_data"
    assert codec.take(sealed(b"ES") + b"rest", codec.ARM) == (codec.Reply("conflict"), b"rest")


def test_a_reply_is_taken_only_when_it_is_whole() -> None:
    whole = sealed(b"\\" + bytes((0b10001010, 0b00111010)) + b"0500010000050050" b"0000")
    asked = codec.parameters(V9)
    for length in range(len(whole)):
        assert codec.take(whole[:length], asked) == (None, whole[:length])
    reply, rest = codec.take(whole + b"x", asked)
    assert rest == b"x"
    told = codec.read_parameters(V9, reply)
    assert (told.power_percent, told.tenth_hz, told.pulses, told.duration_tenths, told.wait_tenths) == (50, 10, 5, 50, 0)
    assert told.instrument.armed and told.instrument.coil_present and told.instrument.remote and not told.instrument.standby
    assert told.rapid.train and told.rapid.coil_ready and not told.rapid.wait


@pytest.mark.parametrize(("version", "text"), [(V5, b"05000100005050000"), (V7, b"050001000050500000")])
def test_parameters_of_older_firmware_are_shorter(version, text) -> None:
    told = codec.read_parameters(version, codec.Reply("done", b"\x8a\x3a" + text))
    assert (told.power_percent, told.tenth_hz, told.pulses, told.duration_tenths, told.wait_tenths) == (50, 10, 5, 50, 0)


def test_temperatures_and_versions() -> None:
    assert codec.read_temperature(codec.Reply("done", b"\x8a" + b"254" + b"261")) == (25.4, 26.1)
    assert codec.read_version(codec.Reply("done", b"9.0.0\0")) == (V9, False)
    assert codec.read_version(codec.Reply("done", b"700\0")) == (V7, False)
    assert codec.read_version(codec.Reply("done", b"9.1.2 cereloop emulator\0")) == ((9, 1, 2), True)
    with pytest.raises(MagstimCodecError, match="no firmware version"):
        codec.read_version(codec.Reply("done", b"nine\0"))


def test_a_wrong_checksum_or_letter_is_an_error() -> None:
    good = sealed(b"E\x89")
    with pytest.raises(MagstimCodecError, match="checksum"):
        codec.take(good[:-1] + bytes((good[-1] ^ 1,)), codec.ARM)
    with pytest.raises(MagstimCodecError, match="begins with"):
        codec.take(sealed(b"F\x89"), codec.ARM)


def read_all(reply: codec.Reply, version) -> None:
    """As whatever it might be: a value or a typed error."""
    readers = (codec.read_version, codec.read_instrument, codec.read_temperature, partial(codec.read_parameters, version))
    for read in readers:
        try:
            read(reply)
        except MagstimCodecError:
            continue


@given(st.binary(max_size=200), st.sampled_from(ASKABLE), st.sampled_from([V5, V7, V9]))
def test_any_bytes_give_a_reply_or_a_typed_error(data: bytes, asked: Command, version) -> None:
    try:
        reply, rest = codec.take(data, asked)
    except MagstimCodecError:
        return
    assert data.endswith(rest)
    if reply is None:
        assert rest == data and len(data) < codec.MAX_REPLY_BYTES
        return
    read_all(reply, version)


@given(st.binary(max_size=30), st.sampled_from([V5, V7, V9]))
def test_any_data_of_a_reply_gives_a_value_or_a_typed_error(data: bytes, version) -> None:
    read_all(codec.Reply("done", data), version)
