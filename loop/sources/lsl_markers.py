"""The marker stream beside an LSL stream: looked for in the background, never waited for, never fatal to lose."""

from __future__ import annotations

import time
from typing import Any, Final

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
        self._resolver: Any = pylsl.ContinuousResolver(pred=wanted, forget_after=2.0)
        self._inlet: Any = None
        self._uid = ""
        self._lost: set[str] = set()
        self._next_try_s = 0.0
        self._held: list[tuple[float, str]] = []

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
        # A stream that was lost stays listed for a while; of several, the youngest is the one in use.
        found = [info for info in self._resolver.results() if info.uid() not in self._lost]
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

    def pull(self) -> list[tuple[float, str]]:
        """Markers that have arrived since the last call.

        Returns
        -------
        list of (float, str)
            Stamp on this machine's LSL clock in seconds, and text: the first channel, numbers in digits.
            Until the sender's clock is known, some tenths of a second after the stream was found, markers are
            held back.
        """
        self.poll()
        if self._inlet is None:
            return []
        try:
            rows, stamps_s = self._inlet.pull_chunk(0.0, _MOST_AT_ONCE)
            self._held += [(stamp, str(row[0])) for stamp, row in zip(stamps_s, rows, strict=True)]
            if not self._held:
                return []
            correction_s = self._inlet.time_correction(0.0)
        except self._pylsl.util.TimeoutError:
            del self._held[:-_MOST_HELD]
            return []
        except (RuntimeError, UnicodeDecodeError):
            self._lost.add(self._uid)
            self._inlet = None
            self._held.clear()
            return []
        out = [(stamp + correction_s, text) for stamp, text in self._held]
        self._held.clear()
        return out

    def close(self) -> None:
        """Let go of the stream and stop looking."""
        self._inlet = None
        self._resolver = None
