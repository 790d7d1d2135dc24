"""Clients of mne-realtime feed the loop: over a real LSL stream from its own mock, and by hand."""

from __future__ import annotations

import io
import multiprocessing
from collections.abc import Iterator

import mne
import mne_realtime
import msgspec
import numpy as np
import pytest

from devices import link
from devices.clock import SystemClock, VirtualClock
from devices.reference import CAPABILITIES
from devices.stimulator import Identity
from loop.api import load_config
from loop.errors import SessionError
from loop.events import Incident, Input, Output
from loop.live import LiveSession
from loop.operator import OperatorLine
from loop.recorder import RecorderStatus
from loop.screen import Screen
from loop.sources.errors import SourceError, SourceLostError
from loop.sources.realtime import LSLClient, RealtimeSource

INFO = mne.create_info(["Cz", "PO10", "EOG1"], 250.0, ["eeg", "eeg", "eog"])


class Client:
    """A client that hands over given buffers."""

    host = "here"

    def __init__(self, *buffers: np.ndarray, info: mne.Info | None = INFO) -> None:
        self.info = info
        self._buffers = buffers

    def get_measurement_info(self) -> mne.Info | None:
        return self.info

    def iter_raw_buffers(self) -> Iterator[np.ndarray]:
        yield from self._buffers


def test_a_mock_lsl_stream_of_mne_realtime_arrives(unique: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A forked child would inherit liblsl's locks without its threads.
    spawn = multiprocessing.get_context("spawn").Process
    monkeypatch.setattr(mne_realtime.mock_lsl_stream, "Process", spawn)
    data = np.random.default_rng(0).normal(scale=1e-5, size=(2, 2_000)).astype(np.float32).astype(np.float64)
    info = mne.create_info(["Cz", "PO10"], 250.0, "eeg")
    raw = mne.io.RawArray(data, info, verbose="error")
    with (
        mne_realtime.MockLSLStream(unique, raw, "eeg"),
        LSLClient(info=info, host=unique, wait_max=30.0, verbose="error") as client,
    ):
        source = RealtimeSource(client)
        stamps, samples = [], []
        while sum(map(len, stamps)) < 100:
            got = source.pull(10.0)
            assert got is not None
            stamps.append(got[0])
            samples.append(got[1])
        now = SystemClock().now_ns()
        epoch = client.get_data_as_epoch(n_samples=5, timeout=10.0)
    sent = data.T
    got_samples = np.concatenate(samples)
    begin = int(np.flatnonzero(sent[:, 0] == got_samples[0, 0])[0])
    assert np.array_equal(got_samples, sent[(begin + np.arange(len(got_samples))) % len(sent)])
    assert set(np.diff(np.concatenate(stamps)).tolist()) == {4_000_000}
    assert now - 2_000_000_000 < stamps[-1][-1] < now + 1_000_000_000
    assert epoch.get_data(copy=True).shape == (1, 2, 5)


def test_stamps_are_counted_from_the_first_arrival() -> None:
    clock = VirtualClock(5_000_000_000)
    source = RealtimeSource(Client(np.ones((3, 4)), np.zeros((3, 0)), 2 * np.ones((3, 2))), clock=clock)
    assert source.info.kind == "realtime"
    assert not source.info.carries_time
    assert source.layout.labels == ("Cz", "PO10")
    assert source.layout.to_uv == (1e6, 1e6)
    assert source.notes == ("Left out, not scalp EEG: EOG1.",)
    first = source.pull(1.0)
    assert first is not None
    assert first[0].tolist() == [4_988_000_000, 4_992_000_000, 4_996_000_000, 5_000_000_000]
    assert first[1].shape == (4, 2)
    clock.advance_to(9_000_000_000)
    second = source.pull(1.0)
    assert second is not None
    assert second[0].tolist() == [5_004_000_000, 5_008_000_000]
    assert np.array_equal(second[1], np.full((2, 2), 2.0))
    with pytest.raises(SourceLostError, match="no more samples"):
        source.pull(1.0)


def test_nothing_for_a_while_is_none() -> None:
    source = RealtimeSource(Client(np.zeros((3, 0)), np.zeros((3, 0)), np.ones((3, 1))))
    assert source.pull(0.0) is None


def test_another_number_of_channels_ends_the_stream() -> None:
    source = RealtimeSource(Client(np.ones((4, 2))))
    with pytest.raises(SourceLostError, match=r"\(4, 2\) where 3 channels"):
        source.pull(1.0)


def test_clients_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(SourceError, match="start it first"):
        RealtimeSource(Client(info=None))
    with pytest.raises(SourceError, match="'furlong' is no unit"):
        RealtimeSource(Client(), unit="furlong")
    with pytest.raises(SourceError, match="no EEG channels; it has: 1 EOG"):
        RealtimeSource(Client(info=mne.create_info(["A"], 250.0, "eog")))
    raw = mne.io.RawArray(np.zeros((3, 10)), INFO, verbose="error")
    with pytest.raises(SourceError, match="does not hand over its samples as they come"):
        RealtimeSource(mne_realtime.MockRtClient(raw))


class Kept:
    """A recorder that keeps what it is given."""

    def __init__(self) -> None:
        self.outputs: list[Output] = []

    def record(self, _event: Input, outputs: list[Output]) -> int:
        self.outputs += outputs
        return len(self.outputs)

    def pump(self) -> None:
        pass

    def status(self) -> RecorderStatus:
        return RecorderStatus(recorded=0, committed=0, lag_s=0.0, backlog_bytes=0, lost="")


def session(client: Client, kept: Kept, welcome: link.Welcome | None = None) -> LiveSession:
    config = load_config("replay", ["source.path='-'", "session.duration_s=1"])
    nobody = io.StringIO()
    return LiveSession(
        config, RealtimeSource(client), kept, None, welcome, OperatorLine(nobody), Screen("json", nobody), SystemClock()
    )


def test_a_client_feeds_a_whole_session_without_current() -> None:
    info = mne.create_info(["PO9", "PO10", "Oz", "Cz"], 250.0, "eeg")
    noise = np.random.default_rng(0).normal(scale=1e-5, size=(20, 4, 10))
    kept = Kept()
    # What is there before the session begins is no part of it: the first buffer is empty, and ends that.
    session(Client(np.zeros((4, 0)), *noise, info=info), kept).run()
    kinds = {type(output).__name__ for output in kept.outputs}
    assert {"Setup", "Features", "Finished"} <= kinds
    lost = [output.detail for output in kept.outputs if isinstance(output, Incident) and output.name == "source_lost"]
    assert lost == ["The Client has no more samples."]


def test_it_never_drives_a_real_stimulator() -> None:
    info = mne.create_info(["PO9", "PO10", "Oz", "Cz"], 250.0, "eeg")
    real = link.Welcome(
        version=1,
        identity=Identity(maker="m", model="m", serial_number="1", firmware="1", emulator=False),
        capabilities=CAPABILITIES,
        max_level_ua=1000,
        limit_reasons=[],
        arm_code="ABCDE",
    )
    with pytest.raises(SessionError, match="never a real stimulator"):
        session(Client(info=info), Kept(), real)
    emulated = msgspec.structs.replace(real, identity=msgspec.structs.replace(real.identity, emulator=True))
    session(Client(info=info), Kept(), emulated)
