"""LSL on this machine only, real recordings where they are at hand, and streams that tests can end."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

# liblsl reads its settings once, at first use, in this process and in those that it starts.
os.environ["LSLAPICFG"] = str(Path(__file__).with_name("loopback.cfg"))

from devices import liblsl
from devices.mock import amplifier
from loop.sources import lsl

liblsl.load()

RECORDINGS = Path(__file__).resolve().parents[2].parent / "shared" / "recordings"


@pytest.fixture
def recordings() -> Path:
    if not RECORDINGS.is_dir():
        pytest.skip(f"the real recordings are not at {RECORDINGS}")
    return RECORDINGS


@pytest.fixture(autouse=True)
def _near(monkeypatch: pytest.MonkeyPatch) -> None:
    # Over loopback every outlet answers within some milliseconds.
    monkeypatch.setattr(lsl, "_SECOND_LOOK_S", 0.2)


@pytest.fixture
def unique() -> str:
    return f"test-{uuid4().hex[:12]}"


@pytest.fixture
def amplify() -> Iterator[Callable[..., Callable[[], None]]]:
    """Start mock amplifiers in threads; what is returned ends one and waits until its streams are gone."""
    running: list[tuple[threading.Thread, threading.Event]] = []

    def start(blocks: object, what: amplifier.Amplifier, **options: object) -> Callable[[], None]:
        stop = threading.Event()
        options.setdefault("wait_for_consumers_s", 20.0)

        def run() -> None:
            amplifier.stream(blocks, what, stop=stop, **options)

        thread = threading.Thread(target=run)
        thread.start()
        running.append((thread, stop))

        def end() -> None:
            stop.set()
            thread.join()

        return end

    yield start
    for thread, stop in running:
        stop.set()
        thread.join()
