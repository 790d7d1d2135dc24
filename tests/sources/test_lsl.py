"""Real LSL streams on this machine: what is sent arrives, and a lost stream is not mistaken for another."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pylsl
import pytest
from sources_helpers import Part, counting

from devices import liblsl
from devices.clock import SystemClock
from devices.mock.amplifier import Amplifier
from loop.sources.errors import SourceError, SourceLostError
from loop.sources.lsl import LslSource, clock_difference_ns, predicate, what_there_is
from loop.sources.lsl_markers import OWN_EVENTS, OWN_FEATURES

Amplify = Callable[..., Callable[[], None]]


def amp(name: str, labels: tuple[str, ...] = ("Cz", "Oz", "PO9", "PO10"), **changes: Any) -> Amplifier:
    given: dict[str, Any] = {
        "labels": labels,
        "units": ("microvolts",) * len(labels),
        "sfreq_hz": 500.0,
        "name": name,
        "source_id": f"id-{name}",
        "marker_name": f"markers-{name}",
    }
    return Amplifier(**(given | changes))


@pytest.fixture
def source(unique: str) -> Iterator[LslSource]:
    made = LslSource(name=unique, marker_name=f"markers-{unique}", timeout_s=10.0, clock=Ahead())
    yield made
    made.close()


class Ahead(SystemClock):
    """An engine's clock an hour ahead of LSL's, as after an hour of sleep."""

    def now_ns(self) -> int:
        return super().now_ns() + 3_600_000_000_000


def in_time(what: str, seconds: float = 30.0) -> Iterator[None]:
    """Turns of a loop that fails when it takes too long."""
    give_up_s = time.monotonic() + seconds
    while time.monotonic() < give_up_s:
        yield
    pytest.fail(f"{what} did not happen within {seconds:g} s")


def until_lost(source: LslSource) -> str:
    """Pull until the stream is lost; the message of the loss."""
    try:
        for _ in in_time("the loss"):
            source.pull(1.0)
    except SourceLostError as error:
        return str(error)
    raise AssertionError


def take(source: LslSource, n: int) -> tuple[np.ndarray, np.ndarray, list[tuple[int, str]]]:
    """Exactly what arrives until `n` samples are there, and the markers seen meanwhile."""
    stamps, samples, markers = [], [], []
    while sum(map(len, stamps)) < n:
        got = source.pull(5.0)
        assert got is not None, "nothing arrived for five seconds"
        stamps.append(got[0])
        samples.append(got[1])
        markers += source.pull_markers()
    return np.concatenate(stamps), np.concatenate(samples), markers


@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_samples_arrive_bit_by_bit_and_stamps_to_the_microsecond(
    source: LslSource, unique: str, amplify: Amplify, dtype: str
) -> None:
    n = 250
    values = np.random.default_rng(5).normal(scale=1000.0, size=(n, 4)).astype(dtype)
    blocks = [
        Part(k, values[k : k + 25], [(round(k * 2e6), f"CUE/{k}")] if k % 50 == 0 else [], 500.0) for k in range(0, n, 25)
    ]
    amplify(blocks, amp(unique, dtype=dtype))
    source.open()
    assert source.info.dtype == dtype
    began = Ahead().now_ns()
    stamps, samples, markers = take(source, n)
    assert samples.dtype == np.dtype(dtype)
    assert samples.tobytes() == values.tobytes()
    assert np.abs(np.diff(stamps) - 2_000_000).max() < 1_000
    # Stamps lie on the engine's clock: each sample was sent when it was due.
    assert -2e9 < stamps[0] - began < 2e9
    assert Ahead().now_ns() > stamps[-1]
    for _ in in_time("the last marker"):
        markers += source.pull_markers()
        if len(markers) == 5:
            break
    assert [text for _, text in markers] == [f"CUE/{k}" for k in range(0, n, 50)]
    for stamp, text in markers:
        # Both streams' clocks are measured separately, to some tens of microseconds.
        assert abs(stamp - int(stamps[int(text[4:])])) < 500_000


def test_the_handshake_tells_all_there_is(source: LslSource, unique: str, amplify: Amplify) -> None:
    places = ((0.0, 0.01, 0.1), (0.0, -0.09, 0.03), (-0.05, -0.06, 0.0), (0.05, -0.06, 0.0))
    amplify(counting(5000, 4), amp(unique, positions_m=places))
    layout = source.open()
    assert layout == source.layout
    assert layout.labels == ("Cz", "Oz", "PO9", "PO10")
    assert layout.units == ("microvolts",) * 4
    assert layout.sfreq_hz == 500.0
    assert np.allclose(layout.positions_m, places, atol=1e-6)
    assert source.info.simulated
    assert source.info.kind == "lsl"
    assert f'"source_id":"id-{unique}"' in source.info.identity


def test_a_lost_stream_raises_and_a_swapped_one_is_seen_on_reopening(source: LslSource, unique: str, amplify: Amplify) -> None:
    end = amplify(counting(50_000, 4), amp(unique))
    first = source.open()
    take(source, 20)
    end()
    assert until_lost(source).startswith(f"The LSL stream `{unique}` is lost: ")
    with pytest.raises(SourceLostError):
        source.pull(0.0)
    amplify(counting(50_000, 4), amp(unique, ("Cz", "Oz", "PO10", "PO9")))
    second = source.reopen()
    assert second.labels == ("Cz", "Oz", "PO10", "PO9")
    assert second.digest != first.digest
    _, samples, _ = take(source, 20)
    assert samples.shape[1] == 4


def test_a_killed_sender_is_lost_too(source: LslSource, unique: str) -> None:
    code = f"""
import time
from devices import liblsl
from devices.mock.amplifier import Amplifier, _outlets
pylsl = liblsl.load("machine")
a = Amplifier(labels=("Cz",), units=("uV",), sfreq_hz=500.0, name={unique!r}, source_id="id-{unique}", marker_name="m-{unique}")
outlet, _ = _outlets(pylsl, a)
outlet.wait_for_consumers(20.0)
while True:
    outlet.push_sample([1.0])
    time.sleep(0.002)
"""
    sender = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    try:
        source.open()
        take(source, 5)
    finally:
        os.kill(sender.pid, signal.SIGKILL)
        sender.wait()
    assert "lost" in until_lost(source)


def test_any_marker_stream_is_none_of_our_own(unique: str) -> None:
    library = liblsl.load("machine")
    source = LslSource(name=unique, marker_name="")
    names = [OWN_EVENTS, f"markers-{unique}"]
    infos = [library.StreamInfo(name, "Markers", 1, 0.0, "string", f"{unique}-{name}") for name in names]
    outlets = [library.StreamOutlet(info) for info in infos]
    ours = f"starts-with(source_id,'{unique}')"
    for _ in in_time("both streams"):
        if len(library.resolve_bypred(ours, 2, 1.0)) == len(outlets):
            break
    (found,) = library.resolve_bypred(f"{ours} and {source._marker_wanted}", 2, 1.0)
    assert found.name() == f"markers-{unique}"


def test_waiting_costs_no_cpu_and_ends_in_time(source: LslSource, unique: str, amplify: Amplify) -> None:
    hold = threading.Event()

    def nothing() -> Iterator[Part]:
        hold.wait(30.0)
        yield from ()

    end = amplify(nothing(), amp(unique))
    source.open()
    wall, cpu = time.monotonic(), time.thread_time()
    assert source.pull(0.5) is None
    assert 0.45 < time.monotonic() - wall < 5.0
    assert time.thread_time() - cpu < 0.1
    assert source.pull(0.0) is None
    hold.set()
    end()


def test_channels_that_are_no_electrodes_are_left_out(source: LslSource, unique: str, amplify: Amplify) -> None:
    amplify(counting(5000, 4), amp(unique, ("Cz", "Right AUX", "PO9", "PO10")))
    assert source.open().labels == ("Cz", "PO9", "PO10")
    assert source.notes == ("Left out, not scalp EEG: Right AUX.",)
    _, samples, _ = take(source, 20)
    assert np.array_equal(samples[:2], [[0, 2, 3], [4, 6, 7]])


def test_markers_may_come_late_and_go(unique: str, amplify: Amplify) -> None:
    amplify(counting(50_000, 4), amp(unique, marker_name=f"other-{unique}"))
    source = LslSource(name=unique, marker_name=f"late-{unique}")
    source.open()
    for turn in range(2):
        assert source.pull_markers() == []
        info = pylsl.StreamInfo(f"late-{unique}", "Markers", 1, 0.0, "int32", f"late-id-{unique}-{turn}")
        outlet = pylsl.StreamOutlet(info)
        give_up_s = time.monotonic() + 20.0
        got: list[tuple[int, str]] = []
        sent_ns = 0
        while not got:
            assert time.monotonic() < give_up_s
            if outlet.have_consumers() and not sent_ns:
                outlet.push_sample([40 + turn])
                sent_ns = SystemClock().now_ns()
            source.pull(0.1)
            got += source.pull_markers()
        assert [text for _, text in got] == [str(40 + turn)]
        assert abs(got[0][0] - sent_ns) < 50_000_000
        del outlet
        for _ in in_time("the loss of the markers"):
            if source._markers is None or not source._markers.connected:
                break
            source.pull(0.1)
            source.pull_markers()
    source.close()


def test_no_stream_says_what_there_is(unique: str, amplify: Amplify) -> None:
    amplify(counting(5000, 4), amp(unique), wait_for_consumers_s=30.0)
    seen = LslSource(name=unique, marker_name="", marker_type="")
    seen.open()
    wrong = LslSource(name=f"{unique}x", timeout_s=0.3)
    with pytest.raises(
        SourceError,
        match=f"No LSL stream .*{unique}x.* within 0.3 s; there are: .*'{unique}' .type EEG, 4 ch",
    ):
        wrong.open()
    seen.close()
    wrong.close()


def test_what_cereloop_publishes_is_not_offered_as_a_stream() -> None:
    own = [pylsl.StreamInfo(OWN_EVENTS, "Markers", 1, 0.0, "string"), pylsl.StreamInfo(OWN_FEATURES, "Features", 9, 50.0)]
    other = pylsl.StreamInfo("amplifier", "EEG", 8, 250.0)
    said = what_there_is([*own, other])
    assert said.startswith("there are: 'amplifier' (type EEG, 8 channels, 250 Hz")
    assert "cereloop" not in said
    assert what_there_is(own).startswith("there is none but what a running session of cereloop publishes")
    assert what_there_is([]).startswith("there is no LSL stream at all")


def test_two_streams_that_fit_are_refused(unique: str, amplify: Amplify) -> None:
    amplify(counting(5000, 4), amp(unique, source_id=f"a-{unique}"))
    amplify(counting(5000, 4), amp(unique, source_id=f"b-{unique}"))
    source = LslSource(name=unique, timeout_s=10.0)
    with pytest.raises(SourceError, match=r"2 LSL streams fit .*; say more exactly which: .*a-.*b-|.*b-.*a-"):
        open_once_both_are_there(source, unique, 2)
    source.close()
    one = LslSource(name=unique, source_id=f"b-{unique}")
    one.open()
    assert f"b-{unique}" in one.info.identity
    one.close()


def test_two_outlets_with_one_source_id_are_refused_under_any_name(unique: str, amplify: Amplify) -> None:
    amplify(counting(50, 4), amp(unique, source_id=f"s-{unique}"))
    amplify(counting(50, 4), amp(f"{unique}-b", source_id=f"s-{unique}"))
    source = LslSource(name=unique, timeout_s=10.0)
    with pytest.raises(SourceError, match="same source id"):
        open_once_both_are_there(source, unique, 2)
    source.close()


def open_once_both_are_there(source: LslSource, unique: str, n: int) -> None:
    there = f"type='EEG' and (starts-with(name,'{unique}'))"
    assert len(pylsl.resolve_bypred(there, n, 10.0)) == n
    source.open()


@pytest.mark.parametrize(
    ("rate", "form", "desc", "why"),
    [
        (0.0, "float32", True, "irregular sampling rate"),
        (50.0, "float32", True, "sampled at 50 Hz"),
        (500.0, "string", True, "carries text, not numbers"),
        (500.0, "float32", False, "does not describe its 1 channels"),
    ],
)
def test_streams_that_cannot_be_used(unique: str, rate: float, form: str, desc: bool, why: str) -> None:
    info = pylsl.StreamInfo(unique, "EEG", 1, rate, form, f"u-{unique}")
    if desc:
        channel = info.desc().append_child("channels").append_child("channel")
        channel.append_child_value("label", "Cz").append_child_value("unit", "uV")
    outlet = pylsl.StreamOutlet(info)
    source = LslSource(name=unique)
    with pytest.raises(SourceError, match=why):
        source.open()
    source.close()
    del outlet


def test_the_clock_offset_can_be_measured_again(source: LslSource, unique: str, amplify: Amplify) -> None:
    amplify(counting(50_000, 4), amp(unique))
    source.open()
    first = source.clock_offset_ns()
    began = time.monotonic()
    later = [source.clock_offset_ns() for _ in range(50)]
    assert time.monotonic() - began < 1.0
    assert max(abs(value - first) for value in later) < 1_000_000


def test_lsl_time_is_mapped_to_the_engines_clock() -> None:
    class Stepping:
        """LSL lags the engine by an hour; a reading takes 7 microseconds, and every third 500."""

        def __init__(self) -> None:
            self.now = 7_200_000_000_000
            self.reads = 0

        def now_ns(self) -> int:
            self.now += 3_500
            return self.now

        def wall_ns(self) -> int:
            raise AssertionError("the wall clock is not asked")

        def local_clock(self) -> float:
            self.reads += 1
            self.now += 500_000 if self.reads % 3 else 0
            return (self.now - 3_600_000_000_000) / 1e9

    clock = Stepping()
    assert abs(clock_difference_ns(clock, clock) - 3_600_000_000_000) <= 3_500


def test_what_is_asked_for_cannot_break_out_of_its_quotes() -> None:
    assert predicate("a", "EEG", "") == "name='a' and (type='EEG' or type='eeg')"
    assert predicate("it's", "", "") == 'name="it\'s"'
    for bad in ("'\"", "a\nb", "\x00"):
        with pytest.raises(SourceError, match="cannot be looked for"):
            predicate(bad, "", "")
    with pytest.raises(SourceError, match="No stream was asked for"):
        predicate("", "", "")


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        (None, "[log]\nlevel = -3\n"),
        ("[lab]\nSessionID = a", "[lab]\nSessionID = a\n[log]\nlevel = -3\n"),
        ("[ log ]\nlevel = 4", None),
    ],
)
def test_a_users_own_settings_are_kept(user: str | None, expected: str | None) -> None:
    assert liblsl.settings("network", user) == expected
    machine = liblsl.settings("machine", user)
    assert machine is not None
    assert "ResolveScope = machine" in machine


def test_liblsl_is_silent_and_local(unique: str) -> None:
    """In a process of its own, without the tests' settings file: nothing on the screen, discovery on loopback only."""
    code = f"""
from devices import liblsl
pylsl = liblsl.load("machine")
outlet = pylsl.StreamOutlet(pylsl.StreamInfo({unique!r}, "EEG", 1, 500.0, "float32", "q"))
assert len(pylsl.resolve_byprop("name", {unique!r}, 1, 10.0)) == 1
"""
    environment = {key: value for key, value in os.environ.items() if key != "LSLAPICFG"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_stamps_stay_as_sent_even_when_they_jump(source: LslSource, unique: str, amplify: Amplify) -> None:
    blocks = counting(40, 4)
    blocks[2].stamps_ns = blocks[2].stamps_ns + 500_000_000
    blocks[3].stamps_ns = blocks[3].stamps_ns + 500_000_000
    amplify(blocks, amp(unique))
    source.open()
    stamps, _, _ = take(source, 40)
    steps = np.diff(stamps)
    assert math.isclose(steps[19], 502_000_000, abs_tol=1_000)
    assert np.abs(np.delete(steps, 19) - 2_000_000).max() < 1_000
