"""Clients of mne-realtime as sources: for what only they can reach, and for its mock streams.

Such a client hands over samples without their time stamps, so stamps are made here by counting, and
`SourceInfo.carries_time` is false: input of this kind never drives a real stimulator.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import mne
import mne_realtime
import numpy as np
import numpy.typing as npt

from devices import liblsl
from devices.clock import Clock, SystemClock
from loop.events import Layout, SourceInfo
from loop.sources.description import check_rate, choose_eeg
from loop.sources.errors import SourceError, SourceLostError
from loop.sources.units import microvolts_per

Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]
Samples = npt.NDArray[Any]

_IDLE_S: Final = 0.002
_TRIGGER: Final = "STI 014"
_TRIGGER_N: Final = 5
_BUFFER_S: Final = 2.0
_THINNED: Final = 4
_WAIT_S: Final = 0.2


class LSLClient(mne_realtime.LSLClient):  # type: ignore[misc]  # mne-realtime carries no types
    """mne-realtime's LSL client, made to work with present pylsl and to wait without spinning.

    Version 0.3.0 looks for a table in ``pylsl.pylsl``, which is gone since pylsl 1.17, and polls an empty
    inlet as fast as it can. All else, `get_data_as_epoch` and `mne_realtime.RtEpochs` included, is inherited.
    """

    def _connect(self) -> LSLClient:
        pylsl: Any = liblsl.load()
        found = pylsl.resolve_byprop("source_id", self.host, 1, self.wait_max)
        if not found:
            raise RuntimeError(f"no LSL stream with source id {self.host!r}")
        info = found[0]
        self.client = pylsl.StreamInlet(info, max_buflen=60, recover=False)
        self.client.open_stream(self.wait_max)
        self.buffer = np.empty((self.buffer_size, info.channel_count()), dtype=self.client.value_type)
        return self

    def iter_raw_buffers(self) -> Iterator[Samples]:
        """Yield what has arrived, (n_channels, n); an empty array where nothing came for 0.2 s."""
        while True:
            view, _ = self.client.pull_chunk(_WAIT_S, self.buffer_size, self.buffer, min_samples=1, as_numpy=True)
            yield view.T.copy()


def received_epochs(
    samples: Float64s, sfreq_hz: float, labels: Sequence[str], onsets: Sequence[int], window_s: tuple[float, float]
) -> Float64s:
    """Epochs as `mne_realtime.RtEpochs` receives them from a client that sends these samples buffer by buffer.

    Parameters
    ----------
    samples : ndarray, shape (n_times, n_channels)
        In microvolts.
    sfreq_hz : float
    labels : sequence of str
    onsets : sequence of int
        Samples at which a trigger comes.
    window_s : tuple of float
        From where to where around it; what comes before it is the baseline.

    Returns
    -------
    ndarray, shape (n_onsets, n_channels, n_times)
        In microvolts; every fourth sample.
    """
    trigger = np.zeros(len(samples))
    for onset in onsets:
        trigger[onset : onset + _TRIGGER_N] = 1.0
    info = mne.create_info([*labels, _TRIGGER], sfreq_hz, ["eeg"] * len(labels) + ["stim"], verbose="ERROR")
    raw = mne.io.RawArray(np.vstack([samples.T, trigger]), info, verbose="ERROR")
    client = mne_realtime.MockRtClient(raw, verbose="ERROR")
    epochs = mne_realtime.RtEpochs(
        client, 1, *window_s, stim_channel=_TRIGGER, isi_max=1.0, picks=np.arange(len(labels)), verbose="ERROR"
    )
    epochs.start()
    client.send_data(epochs, "all", 0.0, len(samples) / sfreq_hz, round(_BUFFER_S * sfreq_hz))
    # One by one, for its `get_data` does not take what present MNE passes on; and thinned here, for with `decim` it takes the
    # lower rate for that of the samples and cuts elsewhere.
    received = iter(epochs)
    return np.stack([np.asarray(next(received), dtype=np.float64)[:, ::_THINNED] for _ in onsets])


class RealtimeSource:
    """Samples of an mne-realtime client.

    Parameters
    ----------
    client : object
        A started client: it has ``get_measurement_info()`` and ``iter_raw_buffers()`` yielding (n_channels,
        n).
    unit : str
        Unit of its EEG channels. MNE-Python means volts, but a client may pass on whatever its amplifier
        sends.
    clock : Clock, optional
        The engine's clock; the system's unless given.

    Attributes
    ----------
    layout : Layout
        The EEG channels.
    info : SourceInfo
        Of kind ``realtime``, without time.
    notes : tuple of str
        What was left out.

    Raises
    ------
    SourceError
        If the client is not started, or has no EEG channels, a wrong rate or an unknown unit.
    """

    def __init__(self, client: Any, *, unit: str = "V", clock: Clock | None = None) -> None:
        name = type(client).__name__
        where = f"The {name}"
        info = client.get_measurement_info()
        if not isinstance(info, mne.Info):
            raise SourceError(f"{where} has no measurement info; start it first.")
        if not callable(getattr(client, "iter_raw_buffers", None)):
            raise SourceError(f"{where} does not hand over its samples as they come (no iter_raw_buffers).")
        factor = microvolts_per(unit)
        if factor is None:
            raise SourceError(f"{unit!r} is no unit of voltage; say, for example, unit='V' or unit='microvolts'.")
        labels = list(info["ch_names"])
        chosen, self.notes = choose_eeg(labels, info.get_channel_types(), where)
        sfreq_hz = float(info["sfreq"])
        check_rate(sfreq_hz, where)
        self._columns = chosen
        self._n_channels = len(labels)
        self._name = name
        self.layout = Layout(
            labels=tuple(labels[i] for i in chosen),
            units=(unit,) * len(chosen),
            to_uv=(factor,) * len(chosen),
            sfreq_hz=sfreq_hz,
        )
        self.info = SourceInfo(
            kind="realtime",
            identity=f"{name} of mne-realtime at {getattr(client, 'host', 'unknown')}",
            simulated=False,
            carries_time=False,
            dtype="float64",
        )
        self._clock: Clock = clock or SystemClock()
        self._buffers: Iterator[Any] = iter(client.iter_raw_buffers())
        self._zero_ns: int | None = None
        self._count = 0

    def pull(self, timeout_s: float) -> tuple[Int64s, Samples] | None:
        """Wait for samples.

        Parameters
        ----------
        timeout_s : float
            Longest wait in seconds, as far as the client lets it be kept.

        Returns
        -------
        tuple or None
            Stamps (n,) in ns on the engine's clock, counted from the arrival of the first buffer at the
            nominal rate, and samples (n, n_channels) float64; None if nothing came.

        Raises
        ------
        SourceLostError
            If the client has no more, or hands over another number of channels.
        """
        give_up_s = time.monotonic() + timeout_s
        while True:
            try:
                buffer = np.asarray(next(self._buffers), dtype=np.float64)
            except StopIteration:
                raise SourceLostError(f"The {self._name} has no more samples.") from None
            except RuntimeError as error:
                raise SourceLostError(f"The {self._name} is lost: {error}") from error
            if buffer.ndim != 2 or len(buffer) != self._n_channels:
                raise SourceLostError(
                    f"The {self._name} handed over {buffer.shape} where {self._n_channels} channels were expected."
                )
            n = buffer.shape[1]
            if n:
                return self._stamped(n), np.ascontiguousarray(buffer[self._columns].T)
            if time.monotonic() >= give_up_s:
                return None
            # Other clients return at once when they have nothing.
            time.sleep(_IDLE_S)

    def pull_markers(self) -> list[tuple[int, str]]:
        """None: these clients carry samples alone."""
        return []

    def clock_offset_ns(self) -> int:
        """Zero: the stamps are made here, on the engine's clock."""
        return 0

    def reopen(self) -> Layout:
        """A client that has ended cannot be started from here. Raises SourceError, always."""
        raise SourceError(f"The {self._name} has ended; start another client and another session.")

    def close(self) -> None:
        """Leave the client to whoever started it."""

    def _stamped(self, n: int) -> Int64s:
        period_ns = 1e9 / self.layout.sfreq_hz
        if self._zero_ns is None:
            self._zero_ns = self._clock.now_ns() - round((n - 1) * period_ns)
        counted: Int64s = np.rint(np.arange(self._count, self._count + n) * period_ns).astype(np.int64)
        self._count += n
        counted += self._zero_ns
        return counted
