"""What streams say of themselves, true or malicious (I29)."""

from __future__ import annotations

import contextlib
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from loop.sources.description import (
    MAX_CHANNELS,
    MAX_DESCRIPTION_BYTES,
    Channel,
    Description,
    choose_eeg,
    from_pyxdf,
    from_xml,
    layout_of,
)
from loop.sources.errors import SourceError

INFO = "<?xml version='1.0'?><info><name>x</name><desc>{}</desc></info>"
CHANNEL = "<channel><label>{}</label><unit>{}</unit><type>{}</type>{}</channel>"


def described(*channels: str) -> Description:
    return from_xml(INFO.format(f"<channels>{''.join(channels)}</channels>"))


def test_a_description_is_read_in_full() -> None:
    place = "<location><X>1.5</X><Y>-2</Y><Z>90e0</Z></location>"
    text = INFO.format(
        "<cereloop><simulated>true</simulated></cereloop><channels>"
        + CHANNEL.format("Cz", "microvolts", "EEG", place)
        + CHANNEL.format("Oz", "", "", "<location><X>nan</X><Y>1</Y><Z>1</Z></location>")
        + "</channels>"
    )
    assert from_xml(text) == Description(
        (Channel("Cz", "microvolts", "EEG", (1.5, -2.0, 90.0)), Channel("Oz", "", "", None)), simulated=True
    )
    assert not from_xml(INFO.format("<cereloop><simulated>no</simulated></cereloop>")).simulated


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x" * (MAX_DESCRIPTION_BYTES + 1), "larger than"),
        ("<info><desc>", "not valid XML"),
        ("", "not valid XML"),
        ("\x00", "not valid XML"),
        ('<!DOCTYPE a [<!ENTITY b "bb">]><info>&b;</info>', "declarations"),
        (
            INFO.format("<channels>" + "<channel/>" * (MAX_CHANNELS + 1) + "</channels>"),
            "more than 1024 channels",
        ),
    ],
)
def test_what_is_no_description_is_refused(text: str, why: str) -> None:
    with pytest.raises(SourceError, match=why):
        from_xml(text)


CHANNELS = st.lists(
    st.builds(
        CHANNEL.format,
        st.sampled_from(["Cz", "PO10", "", "X", "Cz"]),
        st.sampled_from(["uV", "", "g", "V"]),
        st.sampled_from(["EEG", "", "AUX"]),
        st.sampled_from(["", "<location><X>1</X></location>", "<location><X>1e999</X><Y>0</Y><Z>0</Z></location>"]),
    ),
    max_size=6,
)


@given(
    text=st.one_of(
        st.text(),
        st.binary().map(lambda b: b.decode("latin-1")),
        CHANNELS.map(lambda c: INFO.format(f"<channels>{''.join(c)}</channels>")),
    ),
    n=st.integers(0, 8),
    rate=st.floats(),
)
@example(text="<a>" * 20_000, n=1, rate=500.0)
@example(text=INFO.format("<desc>" * 9_000 + "</desc>" * 9_000), n=1, rate=500.0)
@settings(max_examples=200, deadline=None)
def test_any_text_gives_a_layout_or_a_source_error(text: str, n: int, rate: float) -> None:
    with contextlib.suppress(SourceError):
        layout, chosen, _ = layout_of(from_xml(text), n, rate, "It")
        assert len(layout.labels) == len(layout.units) == len(layout.to_uv) == len(chosen) <= n
        assert all(layout.labels)
        assert 128.0 <= layout.sfreq_hz <= 4096.0


def test_a_hostile_description_costs_bounded_time_and_memory() -> None:
    text = INFO.format("<channels>" + "<channel><label>Cz</label></channel>" * 110_000 + "</channels>")[:MAX_DESCRIPTION_BYTES]
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(SourceError):
        from_xml(text)
    assert time.process_time() - began < 5.0
    assert tracemalloc.get_traced_memory()[1] < 200 * 2**20
    tracemalloc.stop()


NODES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.text(max_size=5) | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["desc", "channels", "channel", "label", "location", "X", "cereloop"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["desc", "name"]), NODES))
@settings(max_examples=300, deadline=None)
def test_any_header_of_an_xdf_file_is_survived(info: dict[str, Any]) -> None:
    assert len(from_pyxdf(info).channels) <= MAX_CHANNELS


@pytest.mark.parametrize(
    ("channels", "n", "rate", "why"),
    [
        ([("Cz", "uV", "EEG", "")], 2, 500.0, "carries 2 channels but describes 1"),
        ([], 2, 500.0, "does not describe its 2 channels"),
        ([("Cz", "", "EEG", "")], 1, 500.0, "Channel Cz of It does not say its unit"),
        ([("Cz", "furlong", "EEG", "")], 1, 500.0, "Channel Cz of It is in 'furlong'"),
        ([("", "uV", "EEG", "")], 1, 500.0, "Channel number 1 of It has no label"),
        ([("Cz", "uV", "EEG", ""), ("Cz", "uV", "EEG", "")], 2, 500.0, "more than one channel called Cz"),
        ([("Cz", "uV", "EMG", "")], 1, 500.0, "no EEG channels; it has: 1 EMG"),
        ([("Cz", "uV", "EEG", "")], 1, 0.0, "irregular"),
        ([("Cz", "uV", "EEG", "")], 1, 100.0, "100 Hz"),
        ([("Cz", "uV", "EEG", "")], 1, float("nan"), "irregular"),
    ],
)
def test_what_is_missing_is_named(channels: list[tuple[str, ...]], n: int, rate: float, why: str) -> None:
    with pytest.raises(SourceError, match=why):
        layout_of(described(*(CHANNEL.format(*c) for c in channels)), n, rate, "It")


@pytest.mark.parametrize(("scale", "kept"), [(1.0, True), (1e-3, True), (1e-5, False), (100.0, False)])
def test_positions_count_as_metres_or_millimetres_of_a_head(scale: float, kept: bool) -> None:
    places = [(90.0, 0.0, 0.0), (0.0, 0.0, 95.0)]
    channels = tuple(
        Channel(label, "uV", "EEG", (x * scale, y * scale, z * scale))
        for label, (x, y, z) in zip(("T8", "Cz"), places, strict=True)
    )
    layout, _, _ = layout_of(Description(channels, simulated=False), 2, 500.0, "It")
    expected = [(0.09, 0.0, 0.0), (0.0, 0.0, 0.095)] if kept else []
    assert [pytest.approx(p) for p in expected] == list(layout.positions_m)


def test_auxiliary_inputs_called_eeg_are_left_out_but_a_net_of_numbers_is_taken() -> None:
    assert choose_eeg(["TP9", "AF7", "Right AUX"], ["eeg"] * 3, "It") == (
        [0, 1],
        ("Left out, not scalp EEG: Right AUX.",),
    )
    assert choose_eeg(["E1", "E2"], ["EEG", ""], "It") == ([0, 1], ())
