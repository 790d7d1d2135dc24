"""Any bytes into any parser: a value or one of its typed errors, in bounded time and memory (I29).

``pytest tests/fuzz --inputs 100000 -s`` is the long form and prints what each parser took.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from parsers import PARSERS, Parser

HANGS_AFTER_S = 10.0
MOST_MEMORY = 512 << 20
INTERESTING = (
    b"", b"\x00", b"\xff", b"\x7f\xff\xff\xff", b"\xff" * 8, b'"', b"{", b"[" * 400, b"nan", b"1e999", b"9" * 40, b"\n", b"=",
    b"<", b"\xed\xa0\x80",
)  # fmt: skip


def cut(seed: bytes, draw: st.DrawFn) -> bytes:
    """Good bytes, damaged in one to six places: changed, taken out, doubled, put in, cut off."""
    data = bytearray(seed)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.integers(0, 5)):
            case 0 if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case 1 if data:
                data[at] = draw(st.integers(0, 255))
            case 2:
                del data[at : at + draw(st.integers(1, 16))]
            case 3:
                data[at:at] = data[at : at + draw(st.integers(1, 200))]
            case 4:
                data[at:at] = draw(st.sampled_from(INTERESTING))
            case _:
                del data[at:]
    return bytes(data)


@st.composite
def damaged(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """Mostly damaged good input, now and then anything at all."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.binary(max_size=300))
    return cut(draw(st.sampled_from(seeds)), draw)


@contextmanager
def bounded(what: str) -> Iterator[None]:
    """A hang is a failure after ten seconds, and so is an allocation out of all proportion."""

    def hangs(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"{what} hangs")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = signal.signal(signal.SIGALRM, hangs)
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def many(inputs: int, seeds: list[bytes], read: Callable[[bytes], None]) -> Callable[[], None]:
    """`read` with so many inputs made of `seeds`."""
    run: Callable[[], None] = settings(
        max_examples=inputs,
        deadline=None,
        database=None,
        derandomize=inputs <= 1000,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )(given(damaged(seeds))(read))
    return run


@pytest.fixture(scope="module")
def memory_of_hypothesis(inputs: int) -> None:
    """Hypothesis remembers every input of a run, some hundred MiB for 10^5: taken once before any parser is measured."""
    if inputs > 1000:
        many(inputs, [bytes(range(256))], lambda _data: None)()


@pytest.mark.usefixtures("memory_of_hypothesis")
@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name.replace(" ", "_"))
def test_any_bytes_give_a_value_or_a_typed_error(parser: Parser, inputs: int) -> None:
    taken = {"values": 0, "errors": 0, "mute": 0}
    wanted = max(20, inputs // 10) if parser.slow else inputs

    def read(data: bytes) -> None:
        signal.setitimer(signal.ITIMER_REAL, HANGS_AFTER_S)
        try:
            parser.read(data)
        except parser.errors as error:
            taken["errors"] += 1
            taken["mute"] += not str(error)
        else:
            taken["values"] += 1

    run = many(wanted, parser.seeds(), read)
    peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    with bounded(parser.name):
        run()
    seconds = time.perf_counter() - begun
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_before) / 1024
    print(f"\n{parser.name}: {taken['values']} values, {taken['errors']} errors in {seconds:.0f} s, {grown_mib:+.0f} MiB")
    assert grown_mib < 128
    assert taken["mute"] == 0, "an error without a word"


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name.replace(" ", "_"))
def test_a_seed_is_read_or_refused_by_name(parser: Parser) -> None:
    for seed in parser.seeds():
        with contextlib.suppress(*parser.errors):
            parser.read(seed)
