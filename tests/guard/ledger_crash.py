"""Kills a guard's bookings at every change of a file, and looks at what the next guard makes of it.

Run under LD_PRELOAD with `crash_shim.c`: ``python ledger_crash.py SHIM FOLDER``; prints one JSON object a crash.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from ledger_rig import SetClock, past, taken

from devices import ledger
from devices.dose_book import DoseBookError

SHIM = ctypes.CDLL(sys.argv[1])
FOLDER = Path(sys.argv[2])
CLOCK = SetClock()




def bookings(path: Path, acknowledge: int) -> None:
    """Two gates and an end in order."""
    clock = SetClock(CLOCK.wall_s, CLOCK.boot_s)
    book = taken(path, clock, session="crashed")
    steps = (
        lambda: book.reserve(1000, 2000),
        lambda: book.settle(400, 900),
        lambda: book.reserve(500, 800),
        lambda: book.settle(200, 300),
        book.finish,
    )
    for step in steps:
        step()
        os.write(acknowledge, b".")


def crashed(n: int, permille: int, work: object, path: Path) -> tuple[bool, int]:
    """Fork, crash at change `n`; whether it crashed, and how many steps it had acknowledged."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        SHIM.crash_at(n, permille)
        try:
            work(path, writing)  # type: ignore[operator]
        finally:
            os._exit(0)
    os.close(writing)
    steps = len(os.read(reading, 100)) if work is bookings else 0
    while work is bookings and (more := os.read(reading, 100)):
        steps += len(more)
    os.close(reading)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status), steps


def main() -> None:
    base = FOLDER / "base.sqlite"
    past(base, CLOCK)
    for permille in (0, 500, 999):
        for n in range(1000):
            path = FOLDER / "ledger.sqlite"
            shutil.copy(base, path)
            died, steps = crashed(n, permille, bookings, path)
            clock = SetClock(CLOCK.wall_s + 10, CLOCK.boot_s + 10)
            found: dict[str, object] = {"n": n, "permille": permille, "steps": steps, "died": died, "work": "book"}
            try:
                book = taken(path, clock, session="next")
                found["used"] = book.used()[0]
                book.reserve(1, 1)
                found["goes_on"] = bool(book._standing and book._standing.goes_on)
                book.close()
            except DoseBookError as error:
                found["refused"] = str(error)
            print(json.dumps(found))
            for left in FOLDER.glob("ledger.sqlite*"):
                left.unlink()
            if not died:
                break
    for n in range(1000):
        path = FOLDER / "new.sqlite"
        died, _ = crashed(n, 500, lambda made, _: ledger.create(made), path)
        whole = not path.exists() or ledger.Ledger(path).next_seq == 0
        if not path.exists():
            ledger.create(path)
        path.unlink()
        print(json.dumps({"n": n, "died": died, "whole": whole, "work": "create"}))
        if not died:
            break


main()
