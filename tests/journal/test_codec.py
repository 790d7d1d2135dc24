"""Every event survives the way to a row and back; no bytes do harm."""

from __future__ import annotations

import math
from typing import Any, get_args

import hypothesis.extra.numpy as hnp
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_helpers import chunk, features, report, samples_at

from devices import link
from loop import events
from loop.events import Chunk, Features
from loop.journal import chunk_body, chunk_stamps, decode, encode_input, encode_output
from loop.session_file import INPUT_KINDS, KINDS, OUTPUT_KINDS, JournalError, LogRow, Row, frame, unframe

INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(max_size=20)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
SMALL = (*get_args(events.SmallInput), *get_args(events.SmallOutput))


def structs(kind: type[msgspec.Struct]) -> st.SearchStrategy[msgspec.Struct]:
    """Values of a struct, each field after its type, with limits from the struct's own constraints."""
    fields = {field.name: values(field.type) for field in msgspec.structs.fields(kind)}
    return st.builds(kind, **fields)


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type."""
    parsed = msgspec.inspect.type_info(kind)
    return of_type(parsed)


def of_type(info: Any) -> st.SearchStrategy[Any]:
    """Values of a type as msgspec sees it."""
    match info:
        case msgspec.inspect.IntType(ge=low, le=high):
            return st.integers(-(2**63) if low is None else low, 2**63 - 1 if high is None else high)
        case msgspec.inspect.StrType(min_length=low, max_length=high):
            return st.text(min_size=low or 0, max_size=min(high or 20, 20))
        case msgspec.inspect.FloatType():
            return FINITE
        case msgspec.inspect.BoolType():
            return st.booleans()
        case msgspec.inspect.NoneType():
            return st.none()
        case msgspec.inspect.LiteralType(values=words):
            return st.sampled_from(words)
        case msgspec.inspect.UnionType(types=types):
            return st.one_of([of_type(each) for each in types])
        case msgspec.inspect.VarTupleType(item_type=item):
            return st.lists(of_type(item), max_size=4).map(tuple)
        case msgspec.inspect.ListType(item_type=item):
            return st.lists(of_type(item), max_size=4)
        case msgspec.inspect.TupleType(item_types=items):
            return st.tuples(*map(of_type, items))
        case msgspec.inspect.StructType(cls=cls):
            return structs(cls)
    raise AssertionError(f"no strategy for {info}")


CHUNKS = st.builds(
    lambda n, channels, dtype, t_ns, segment, first, current, data: Chunk(
        t_ns,
        segment,
        first,
        data.draw(hnp.arrays(np.int64, n)),
        data.draw(hnp.arrays(dtype, (n, channels))),
        current,
    ),
    st.integers(0, 5),
    st.integers(0, 4),
    st.sampled_from(["f4", "f8", "f2", "i1", "i2", "i4", "i8", "u1", "u2", ">f4", ">i4"]),
    INT64,
    INT64,
    INT64,
    FINITE,
    st.data(),
)


def same_arrays(left: np.ndarray, right: np.ndarray) -> bool:
    """Equal in shape, type and every bit, whatever the byte order in memory."""
    native = left.astype(left.dtype.newbyteorder("="))
    return native.shape == right.shape and native.dtype == right.dtype and native.tobytes() == right.tobytes()


@pytest.mark.parametrize("kind", SMALL, ids=lambda kind: kind.__name__)
def test_small_values_round_trip(kind: type[msgspec.Struct]) -> None:
    @settings(max_examples=25, deadline=None)
    @given(structs(kind))
    def check(value: Any) -> None:
        encode = encode_output if isinstance(value, get_args(events.SmallOutput)) else _encode_stored
        row = encode(value)
        assert row.t_ns == value.t_ns
        assert row.kind == kind.__struct_config__.tag
        assert decode(row) == value
        assert encode(decode(row)) == row

    check()


def _encode_stored(value: events.Input) -> Row:
    return encode_input(value, store_samples=True)


def test_every_kind_of_event_has_a_kind_of_row() -> None:
    inputs = {kind.__struct_config__.tag for kind in get_args(events.SmallInput)}
    outputs = {kind.__struct_config__.tag for kind in get_args(events.SmallOutput)}
    assert set(INPUT_KINDS) == inputs | {"chunk"}
    assert set(OUTPUT_KINDS) == outputs | {"features"}


@settings(max_examples=80, deadline=None)
@given(CHUNKS)
def test_stored_chunks_round_trip(value: Chunk) -> None:
    found = decode(encode_input(value, store_samples=True))
    assert isinstance(found, Chunk)
    assert (found.t_ns, found.segment, found.first) == (value.t_ns, value.segment, value.first)
    assert math.copysign(1, found.current_ua) == math.copysign(1, value.current_ua)
    assert found.current_ua == value.current_ua
    assert same_arrays(value.stamps_ns, found.stamps_ns)
    assert same_arrays(value.samples, found.samples)


def test_samples_that_are_not_stored_come_from_the_source() -> None:
    value = chunk(3)
    row = encode_input(value, store_samples=False)
    asked: list[tuple[int, int, float]] = []

    def source(first: int, n: int, current_ua: float) -> np.ndarray:
        asked.append((first, n, current_ua))
        return samples_at(first, n)

    found = decode(row, source)
    assert isinstance(found, Chunk)
    assert asked == [(60, 20, 0.25)]
    assert same_arrays(value.samples, found.samples)
    assert same_arrays(value.stamps_ns, chunk_stamps(row))
    with pytest.raises(JournalError, match="give the source"):
        decode(row)


@pytest.mark.parametrize(
    "wrong", [np.zeros((19, 4), "f4"), np.zeros((20, 5), "f4"), np.zeros((20, 4), "f8"), np.zeros(80, "f4")]
)
def test_a_source_that_gives_other_samples_is_refused(wrong: np.ndarray) -> None:
    row = encode_input(chunk(0), store_samples=False)
    with pytest.raises(JournalError, match="not its source"):
        decode(row, lambda *_: wrong)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 5), st.integers(0, 5), st.data())
def test_features_round_trip(n: int, k: int, data: st.DataObject) -> None:
    value = Features(
        data.draw(hnp.arrays(np.int64, n)),
        data.draw(hnp.arrays(np.int64, n)),
        data.draw(hnp.arrays(np.float64, (n, k))),
        data.draw(hnp.arrays(np.uint32, n)),
    )
    found = decode(encode_output(value))
    assert isinstance(found, Features)
    for name in ("sample", "t_ns", "values", "flags"):
        assert same_arrays(getattr(value, name), getattr(found, name))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused_not_lost(bad: float) -> None:
    broken = report(5)
    assert isinstance(broken.message, link.Report)
    broken = msgspec.structs.replace(broken, message=msgspec.structs.replace(broken.message, measured_ua=bad))
    with pytest.raises(JournalError, match="finite"):
        encode_input(broken, store_samples=True)
    with pytest.raises(JournalError, match="finite"):
        encode_input(Chunk(0, 1, 0, np.zeros(1, "i8"), np.zeros((1, 1), "f4"), bad), store_samples=True)


def test_a_text_with_the_word_null_is_not_taken_for_a_missing_number() -> None:
    value = events.Marker(t_ns=1, stamp_ns=2, text="null")
    assert decode(encode_input(value, store_samples=True)) == value


@pytest.mark.parametrize(
    "value",
    [
        events.Marker(t_ns=1, stamp_ns=2, text="\ud800"),
        Chunk(0, 1, 0, np.zeros(2, "i8"), np.zeros((3, 1), "f4")),
        Chunk(0, 1, 0, np.zeros(3, "i8"), np.zeros(3, "f4")),
        Chunk(0, 1, 0, np.zeros(1, "i8"), np.zeros((1, 1), "c8")),
    ],
    ids=["surrogate", "stamps", "shape", "complex"],
)
def test_what_cannot_be_kept_is_refused(value: events.Input) -> None:
    with pytest.raises(JournalError):
        encode_input(value, store_samples=True)


def test_feature_arrays_that_disagree_are_refused() -> None:
    good = features(1)
    with pytest.raises(JournalError, match="cannot be recorded"):
        encode_output(Features(good.sample, good.t_ns, good.values[0], good.flags))
    with pytest.raises(JournalError, match="cannot be recorded"):
        encode_output(Features(good.sample, good.t_ns, good.values, np.zeros(2, np.uint32)))


@pytest.mark.parametrize(
    "body",
    [
        '{"segment":1,"first":0,"n":2000000000,"current_ua":0,"dtype":"<f8","channels":65536,"stored":true}',
        '{"segment":1,"first":0,"n":99999999999999999999,"current_ua":0,"dtype":"<f8","channels":1,"stored":true}',
        '{"segment":1,"first":0,"n":-1,"current_ua":0,"dtype":"<f8","channels":1,"stored":true}',
        '{"segment":1,"first":0,"n":1,"current_ua":0,"dtype":"|O","channels":1,"stored":true}',
        '{"n":2000000000,"k":60000}',
        "[" * 100_000,
    ],
)
def test_hostile_sizes_cost_no_memory(body: str) -> None:
    for kind in ("chunk", "features"):
        with pytest.raises(JournalError):
            decode(Row(0, kind, body.encode(), b"\0" * 64))


@settings(max_examples=150, deadline=None)
@given(
    INT64,
    st.sampled_from(sorted(KINDS)) | TEXT,
    st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.none() | st.binary(max_size=60),
)
def test_any_bytes_decode_to_a_typed_error(t_ns: int, kind: str, body: bytes, data: bytes | None) -> None:
    with pytest.raises(JournalError):
        decode(Row(t_ns, kind, body, data))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_changed_byte_decodes_to_an_event_or_a_typed_error(data: st.DataObject) -> None:
    rows = [encode_input(chunk(1), store_samples=True), encode_output(features(1)), _encode_stored(report(9))]
    row = data.draw(st.sampled_from(rows))
    body = bytearray(row.body)
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode(row._replace(body=bytes(body)))
    except JournalError:
        return


def test_a_time_that_differs_between_column_and_body_is_refused() -> None:
    for row in (_encode_stored(report(9)), encode_output(features(1))):
        with pytest.raises(JournalError, match="t_ns"):
            decode(row._replace(t_ns=row.t_ns + 1))
    with pytest.raises(JournalError, match="data"):
        decode(_encode_stored(report(9))._replace(data=b""))


def test_chunk_body_tells_what_a_chunk_is() -> None:
    body = chunk_body(encode_input(chunk(2), store_samples=True))
    assert (body.first, body.n, body.channels, body.dtype, body.stored) == (40, 20, 4, "<f4", True)


ROWS = st.builds(
    LogRow,
    INT64,
    INT64,
    INT64,
    st.sampled_from(sorted(KINDS)),
    st.none() | st.integers(0, 2**63 - 1),
    st.binary(max_size=40),
    st.none() | st.binary(max_size=40),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(ROWS, max_size=4), st.integers(0, 300))
def test_frames_round_trip_and_wait_for_their_end(rows: list[LogRow], missing: int) -> None:
    stream = b"".join(map(frame, rows))
    cut = max(len(stream) - missing, 0)
    buffer = bytearray(stream[:cut])
    found: list[LogRow] = []
    start = 0
    while (taken := unframe(buffer, start)) is not None:
        row, packed = taken
        found.append(row)
        assert packed == frame(row)
        start += len(packed)
    assert found == rows[: len(found)]
    whole = sum(len(frame(row)) for row in rows[: len(found) + 1])
    assert len(found) == len(rows) or whole > cut


@settings(max_examples=80, deadline=None)
@given(ROWS, ROWS)
def test_different_rows_have_different_frames(left: LogRow, right: LogRow) -> None:
    assert (frame(left) == frame(right)) == (left == right)


@settings(max_examples=80, deadline=None)
@given(st.binary(min_size=44, max_size=200))
def test_bytes_that_are_no_frame_are_refused_or_wait(junk: bytes) -> None:
    try:
        found = unframe(bytearray(junk), 0)
    except JournalError:
        return
    assert found is None or len(found[1]) <= len(junk)


def test_an_outcome_without_the_later_fields_can_still_be_read() -> None:
    body = {
        "kind": "outcome", "t_ns": 7, "event": 1, "text": "STIM/NOX/100", "sample": 1, "decided_sample": 2,
        "features": [1.0, None], "invalid": 0.0, "index": 0.5, "surprise": 0.5, "expected": None,
        "excess": None, "evidence": 0.0, "reason": "early",
    }  # fmt: skip
    found = decode(Row(7, "outcome", msgspec.json.encode(body), None))
    assert isinstance(found, events.Outcome)
    assert (found.cue, found.intensity, found.d_kalman, found.fused) == ("", None, None, None)
