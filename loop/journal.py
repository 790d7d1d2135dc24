"""Events to rows and back: the pure codec of the session file.

Small values are the JSON of their struct, tagged with their kind. Arrays go into `data`, always
little-endian, in C order:

- ``chunk``: `stamps_ns` int64 (n,), then, if ``stored``, the samples (n, channels) in the stream's own type
  ``dtype``. Where they are not stored they are made again from the source by `first`, `n` and `current_ua`.
- ``features``: `sample` int64 (n,), `t_ns` int64 (n,), `values` float64 (n, k), `flags` uint32 (n,).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Final, Literal, TypeVar, get_args

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from loop.events import Chunk, Features, Input, Output, SmallInput, SmallOutput
from loop.sealing import RowSeal
from loop.session_file import JournalError, LogRow, Row

Samples = Callable[[int, int, float], npt.NDArray[Any]]
"""Makes samples again: ``samples(first, n, current_ua)`` -> (n, channels) in the stream's own type."""

_DType = Literal["<f4", "<f8", "<f2", "|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8"]
_WIRE: Final = {np.dtype(name).newbyteorder(order): np.dtype(name) for name in get_args(_DType) for order in "<>"}
_INT64: Final = np.dtype("<i8")
_FLOAT64: Final = np.dtype("<f8")
_UINT32: Final = np.dtype("<u4")
_Count = Annotated[int, Meta(ge=0, le=2**31)]
_T = TypeVar("_T", bound=msgspec.Struct)


class ChunkBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """JSON of a chunk: what its bytes are, and from what they can be made again."""

    segment: int
    first: int
    n: _Count
    current_ua: float
    dtype: _DType
    channels: Annotated[int, Meta(ge=0, le=65_536)]
    stored: bool


class FeaturesBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """JSON of feature frames: `n` frames of `k` columns."""

    n: _Count
    k: Annotated[int, Meta(ge=0, le=65_536)]


_ENCODE = msgspec.json.Encoder().encode
_CHUNK_BODY = msgspec.json.Decoder(ChunkBody, strict=True)
_FEATURES_BODY = msgspec.json.Decoder(FeaturesBody, strict=True)


def _decoder(struct: type[_T]) -> tuple[str, msgspec.json.Decoder[_T]]:
    return str(struct.__struct_config__.tag), msgspec.json.Decoder(struct, strict=True)


_DECODERS: Final[dict[str, msgspec.json.Decoder[Any]]] = dict(
    _decoder(struct) for struct in (*get_args(SmallInput), *get_args(SmallOutput))
)


def encode_input(event: Input, *, store_samples: bool) -> Row:
    """Row of an input.

    Parameters
    ----------
    event : Input
        What the engine is about to be given.
    store_samples : bool
        Whether a chunk's samples go into the row, or only what they can be made again from.

    Raises
    ------
    JournalError
        If the event cannot be recorded without loss: a number that is not finite, a text that is not Unicode,
        arrays whose shapes disagree.
    """
    return _encode_chunk(event, store_samples=store_samples) if isinstance(event, Chunk) else _encode_small(event)


def encode_output(output: Output) -> Row:
    """Row of an output; raises as `encode_input` does."""
    return _encode_features(output) if isinstance(output, Features) else _encode_small(output)


def encode_step(
    seq: int, wall_ns: int, event: Input, outputs: Iterable[Output], *, store_samples: bool, seal: RowSeal | None = None
) -> list[LogRow]:
    """Rows of one step of the engine: the input as `seq`, then its outputs, each with `seq` as its cause.

    In a blinded session `seal` closes the rows that would tell the arm.
    """
    t_ns, kind, body, data = encode_input(event, store_samples=store_samples)
    rows = [LogRow(seq, t_ns, wall_ns, kind, None, body, data)]
    for number, output in enumerate(outputs, seq + 1):
        t_ns, kind, body, data = encode_output(output)
        rows.append(LogRow(number, t_ns, wall_ns, kind, seq, body, data))
    return rows if seal is None else [seal.closed(row) for row in rows]


def decode(row: Row, samples: Samples | None = None) -> Input | Output:
    """The event or output that a row holds.

    Parameters
    ----------
    row : Row
        Any content; nothing in it is trusted.
    samples : Samples, optional
        Makes a chunk's samples again where the row does not store them.

    Raises
    ------
    JournalError
        If the row is not one that `encode_input` or `encode_output` writes, or if samples are needed and not
        to be had.
    """
    if row.kind == "chunk":
        return _decode_chunk(row, samples)
    if row.kind == "features":
        return decode_features(row)
    decoder = _DECODERS.get(row.kind)
    if decoder is None:
        raise JournalError(f"a row of kind {row.kind[:40]!r} is neither input nor output")
    value: SmallInput | SmallOutput = _parse(decoder, row)
    if value.t_ns != row.t_ns:
        raise JournalError(f"a row of kind {row.kind} has t_ns {row.t_ns}, its body says {value.t_ns}")
    if row.data is not None:
        raise JournalError(f"a row of kind {row.kind} has data where none belong")
    return value


def chunk_body(row: Row) -> ChunkBody:
    """What a chunk's row says of itself, checked against the length of its data. Raises JournalError."""
    body: ChunkBody = _parse(_CHUNK_BODY, row)
    expected = body.n * 8
    if body.stored:
        expected += body.n * body.channels * int(body.dtype[2])
    _check_length(row, expected)
    return body


def chunk_stamps(row: Row) -> npt.NDArray[np.int64]:
    """Stamps of a chunk's samples in nanoseconds, (n,), stored samples or not. Raises JournalError."""
    body = chunk_body(row)
    return np.frombuffer(row.data or b"", dtype="<i8", count=body.n).astype(np.int64, copy=False)


def decode_features(row: Row) -> Features:
    """Feature frames of a row. Raises JournalError."""
    body: FeaturesBody = _parse(_FEATURES_BODY, row)
    n, k = body.n, body.k
    _check_length(row, n * (8 + 8 + 8 * k + 4))
    data = row.data or b""
    features = Features(
        sample=np.frombuffer(data, "<i8", n).astype(np.int64, copy=False),
        t_ns=np.frombuffer(data, "<i8", n, 8 * n).astype(np.int64, copy=False),
        values=np.frombuffer(data, "<f8", n * k, 16 * n).astype(np.float64, copy=False).reshape(n, k),
        flags=np.frombuffer(data, "<u4", n, (16 + 8 * k) * n).astype(np.uint32, copy=False),
    )
    if row.t_ns != _features_time(features):
        raise JournalError(f"a row of kind features has t_ns {row.t_ns}, which is not the time of its last frame")
    return features


def _encode_small(value: SmallInput | SmallOutput) -> Row:
    kind = str(value.__struct_config__.tag)
    try:
        body = _ENCODE(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise JournalError(f"a value of kind {kind} cannot be written as JSON: {error}") from error
    # msgspec writes NaN and infinities as null: harmless only where null is what was there.
    if b"null" in body and not _reads_back(body, value, kind):
        raise JournalError(f"a value of kind {kind} holds a number that is not finite")
    return Row(value.t_ns, kind, body, None)


def _reads_back(body: bytes, value: msgspec.Struct, kind: str) -> bool:
    try:
        return bool(_DECODERS[kind].decode(body) == value)
    except msgspec.DecodeError:
        return False


def _encode_chunk(chunk: Chunk, *, store_samples: bool) -> Row:
    samples, stamps = chunk.samples, chunk.stamps_ns
    dtype = _WIRE.get(samples.dtype)
    if dtype is None or samples.ndim != 2 or stamps.shape != samples.shape[:1]:
        raise JournalError(
            f"a chunk of shape {samples.shape}, type {samples.dtype}, stamps {stamps.shape} cannot be kept; "
            "(n_times, n_channels) of a number type with one stamp a sample is needed"
        )
    if not math.isfinite(chunk.current_ua):
        raise JournalError("a chunk holds a current that is not finite")
    n, channels = samples.shape
    body = ChunkBody(
        segment=chunk.segment,
        first=chunk.first,
        n=n,
        current_ua=chunk.current_ua,
        dtype=dtype.str,
        channels=channels,
        stored=store_samples,
    )
    data = _bytes(stamps, _INT64)
    if store_samples:
        data += _bytes(samples, dtype)
    return Row(chunk.t_ns, "chunk", _ENCODE(body), data)


def _encode_features(features: Features) -> Row:
    values = features.values
    n, k = values.shape if values.ndim == 2 else (-1, -1)
    if not features.sample.shape == features.t_ns.shape == features.flags.shape == (n,):
        raise JournalError(
            f"feature frames of shapes {features.sample.shape}, {features.t_ns.shape}, {values.shape} and "
            f"{features.flags.shape} cannot be recorded; (n,), (n,), (n, k) and (n,) are needed"
        )
    data = b"".join(
        (
            _bytes(features.sample, _INT64),
            _bytes(features.t_ns, _INT64),
            _bytes(values, _FLOAT64),
            _bytes(features.flags, _UINT32),
        )
    )
    return Row(_features_time(features), "features", _ENCODE(FeaturesBody(n=n, k=k)), data)


def _bytes(array: npt.NDArray[Any], dtype: np.dtype[Any]) -> bytes:
    return (array if array.dtype is dtype else array.astype(dtype, copy=False)).tobytes()


def _features_time(features: Features) -> int:
    return int(features.t_ns[-1]) if len(features.t_ns) else 0


def _decode_chunk(row: Row, samples: Samples | None) -> Chunk:
    body = chunk_body(row)
    data = row.data or b""
    dtype = np.dtype(body.dtype)
    shape = (body.n, body.channels)
    if body.stored:
        values = np.frombuffer(data, dtype, body.n * body.channels, 8 * body.n).reshape(shape)
        values = values.astype(dtype.newbyteorder("="), copy=False)
    elif samples is None:
        raise JournalError("the samples of this session are not stored; give the source they can be made again from")
    else:
        values = np.asarray(samples(body.first, body.n, body.current_ua))
        if values.shape != shape or values.dtype.newbyteorder("<") != dtype.newbyteorder("<"):
            raise JournalError(
                f"sample {body.first} on: the source gives {values.shape} and type {values.dtype}; the "
                f"session had {shape} and {dtype.name}: this is not its source"
            )
    return Chunk(row.t_ns, body.segment, body.first, chunk_stamps(row), values, body.current_ua)


def _check_length(row: Row, expected: int) -> None:
    found = -1 if row.data is None else len(row.data)
    if found != expected:
        said = "no data" if found < 0 else f"{found} bytes of data"
        raise JournalError(f"a row of kind {row.kind} has {said}; its body asks for {expected} bytes")


def _parse(decoder: msgspec.json.Decoder[_T], row: Row) -> _T:
    try:
        return decoder.decode(row.body)
    except (ValueError, RecursionError) as error:
        raise JournalError(f"the body of a row of kind {row.kind} cannot be read: {error}") from error
