"""Runs the lanes of the virtual part as processes of their own, and hears their results line by line.

``python -m loop.campaign.lanes NUMBER RUNS SEED ROW ...`` is one lane; it ends when nobody reads it any more.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec

from devices.children import module_command
from loop.campaign.judge import Run
from loop.campaign.virtual import LANES, lane
from loop.errors import SessionError

_NICE: Final = 10


def virtual_runs(runs: int, seed: int, names: Sequence[str], stop: Callable[[], bool]) -> Iterator[Run]:
    """All runs of the rows named, as they come; ends early when `stop` says so.

    Raises
    ------
    SessionError
        If a lane breaks off.
    """
    lanes = [
        subprocess.Popen(
            module_command("loop.campaign.lanes", str(number), str(runs), str(seed), *names),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        for number in range(LANES)
    ]
    try:
        yield from _heard(lanes, stop)
        for one in lanes:
            if not stop() and one.wait() != 0:
                raise SessionError(f"a lane of the campaign ended with code {one.returncode}; its last words are above")
    finally:
        for one in lanes:
            one.terminate()
            one.wait()


def _heard(lanes: list[subprocess.Popen[bytes]], stop: Callable[[], bool]) -> Iterator[Run]:
    held: dict[int, bytes] = {}
    with selectors.DefaultSelector() as selector:
        for one in lanes:
            assert one.stdout is not None
            selector.register(one.stdout, selectors.EVENT_READ)
        while selector.get_map() and not stop():
            for key, _ in selector.select(0.5):
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fileobj)
                *lines, held[key.fd] = (held.get(key.fd, b"") + data).split(b"\n")
                for line in lines:
                    yield msgspec.json.decode(line, type=Run)


def main(arguments: Sequence[str]) -> None:
    """One lane."""
    number, runs, seed, *names = arguments
    os.nice(_NICE)
    for run in lane(int(number), int(runs), int(seed), names, lambda: False):
        sys.stdout.buffer.write(msgspec.json.encode(run) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BrokenPipeError:
        os._exit(0)
