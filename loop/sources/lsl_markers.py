"""The marker stream beside an LSL stream: looked for in the background, never waited for, never fatal to lose."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

# What cereloop itself publishes: no session takes it for what the participant was shown.
OWN_EVENTS: Final = "cereloop-events"
OWN_FEATURES: Final = "cereloop-features"
_RETRY_S: Final = 0.25
_MOST_AT_ONCE: Final = 256
_MOST_HELD: Final = 4096


class MarkerInlet:
    """Markers of the stream that meets a condition, whenever there is one.

    Parameters
    ----------
    pylsl : module
        The library.
    wanted : str
        XPath condition on the stream's description.
    """

    def __init__(self, pylsl: Any, wanted: str) -> None:
        self._pylsl = pylsl
        self._wanted = wanted
        self._resolver: Any = pylsl.ContinuousResolver(pred=wanted, forget_after=2.0)
        self._inlet: Any = None
        self._uid = ""
        self._lost: set[str] = set()
        self._next_try_s = 0.0
        self._held: list[tuple[float, str]] = []
        self._correction_s: float | None = None

    @property
    def connected(self) -> bool:
        """Whether there is a marker stream at present."""
        return self._inlet is not None

    def poll(self) -> None:
        """Connect to the marker stream if one has appeared."""
        now_s = time.monotonic()
        if self._inlet is not None or now_s < self._next_try_s:
            return
        self._next_try_s = now_s + _RETRY_S
        self._connect(self._resolver.results())

    def find(self, timeout_s: float) -> None:
        """Look for the marker stream at once, for so long; for the handshake, not for the loop."""
        if self._inlet is None:
            self._connect(self._pylsl.resolve_bypred(self._wanted, 1, timeout_s))

    def _connect(self, listed: Sequence[Any]) -> None:
        # A stream that was lost stays listed for a while; of several, the youngest is the one in use.
        found = [info for info in listed if info.uid() not in self._lost]
        if not found:
            return
        info = max(found, key=lambda each: each.created_at())
        try:
            inlet = self._pylsl.StreamInlet(info, max_buflen=60, recover=False)
            inlet.open_stream(1.0)
        except RuntimeError:
            self._lost.add(info.uid())
            return
        self._inlet, self._uid = inlet, info.uid()
        self._correction_s = None
        # The first call only sets the measurement of the clock going.
        self._measure(0.0)

    def _measure(self, timeout_s: float) -> None:
        try:
            self._correction_s = float(self._inlet.time_correction(timeout_s))
        except self._pylsl.util.TimeoutError:
            return
        except RuntimeError:
            self._lose()

    def _lose(self) -> None:
        self._lost.add(self._uid)
        self._inlet = None

    def settle(self, timeout_s: float) -> None:
        """Wait until the clock of the stream is known, if there is a stream; for the handshake, not for the loop."""
        if self._inlet is not None and self._correction_s is None:
            self._measure(timeout_s)

    def pull(self) -> list[tuple[float, str]]:
        """Markers that have arrived since the last call.

        Returns
        -------
        list of (float, str)
            Stamp on this machine's LSL clock in seconds, and text: the first channel, numbers in digits. Until the
            sender's clock is known, some tenths of a second after the stream was found, markers are held back.
        """
        self.poll()
        if self._inlet is not None:
            try:
                rows, stamps_s = self._inlet.pull_chunk(0.0, _MOST_AT_ONCE)
            except (RuntimeError, UnicodeDecodeError):
                self._lose()
            else:
                self._held += [(stamp, str(row[0])) for stamp, row in zip(stamps_s, rows, strict=True)]
        if not self._held:
            return []
        if self._inlet is not None:
            self._measure(0.0)
        if self._correction_s is None:
            # A stream that was lost before its clock was known leaves stamps that mean nothing here.
            self._held = [] if self._inlet is None else self._held[-_MOST_HELD:]
            return []
        out = [(stamp + self._correction_s, text) for stamp, text in self._held]
        self._held = []
        return out

    def close(self) -> None:
        """Let go of the stream and stop looking."""
        self._inlet = None
        self._resolver = None
