"""Nanoseconds in a second and in a millisecond: all that the core needs to know of time, without a clock."""

from __future__ import annotations

from typing import Final

NS_PER_S: Final = 1_000_000_000
NS_PER_MS: Final = 1_000_000
