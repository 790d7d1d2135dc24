"""Bytes on their way out of an emulated device, on its 1 ms grid: late where they are told to be, but never out of order."""

from __future__ import annotations

from collections import deque
from typing import Final

MAX_OUTPUT_BYTES: Final = 65_536


class Outbox:
    """What a device has sent and its line has not yet carried."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._n_bytes = 0

    def send(self, data: bytes, due_k: int) -> None:
        """Let `data` leave at grid index `due_k`, or with what was sent before it and leaves later."""
        if self._n_bytes + len(data) > MAX_OUTPUT_BYTES:
            return  # nobody reads: what is new is lost, as on a line without flow control
        if self._waiting:
            due_k = max(due_k, self._waiting[-1][0])
        self._waiting.append((due_k, data))
        self._n_bytes += len(data)

    def take(self, now_k: int) -> bytes:
        """What has left by grid index `now_k`."""
        parts = []
        while self._waiting and self._waiting[0][0] <= now_k:
            parts.append(self._waiting.popleft()[1])
        data = b"".join(parts)
        self._n_bytes -= len(data)
        return data

    def clear(self) -> None:
        """Drop everything."""
        self._waiting.clear()
        self._n_bytes = 0
