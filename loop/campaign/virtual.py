"""The campaign on the virtual clock: sessions are played, and at random moments the rows that fit strike a fork of the session.

A fork shares the past of its session and nothing else, so a thousand runs a row cost little more than their last second. Runs
are seeded; two lanes share them, whatever the number of processors, so that the result is the same on every machine.
"""

from __future__ import annotations

import os
import random
import traceback
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from loop.campaign import apart, pairs
from loop.campaign.judge import Run, judged, watched
from loop.campaign.rig import Rig
from loop.campaign.rows import Row, all_rows
from loop.campaign.scenes import SCENES, Scene
from loop.gate import WITH_CURRENT, Phase

LANES: Final = 2
MOMENTS_A_PHASE: Final = 4
MOMENTS: Final = 1 + 3 * MOMENTS_A_PHASE
_WITH_CURRENT_UA: Final = 10.0


def scene_of(name: str) -> Scene | None:
    """What is done in a row of a running session; None for the rows that have a driver of their own."""
    return SCENES.get(name) or pairs.PAIRS.get(name)


def is_virtual(name: str) -> bool:
    """Whether a row can be run on the virtual clock."""
    return scene_of(name) is not None or name in apart.APART


def fits(scene: Scene, rig: Rig) -> bool:
    """Whether a session is at a moment for this scene."""
    if scene.when == "any":
        return True
    if rig.level_ua < max(_WITH_CURRENT_UA, scene.least_ua) or rig.gate_phase not in WITH_CURRENT:
        return False
    if scene.when == "rising":
        return rig.gate_phase is Phase.RAMP_UP and rig.left_s >= scene.least_s
    if scene.when == "moving":
        return rig.gate_phase in (Phase.RAMP_UP, Phase.RAMP_DOWN)
    return True


def moments(rig: Rig, rng: random.Random) -> Iterator[int]:
    """Play a session through one gate, and stop at random moments of every phase of it."""
    rig.to_sense()
    number = 0
    rig.run(rng.uniform(0.05, 0.5))
    yield number
    for phase in (Phase.RAMP_UP, Phase.HOLD, Phase.RAMP_DOWN):
        assert rig.run(60.0, lambda phase=phase: rig.gate_phase is phase)  # type: ignore[misc]
        stimulation = rig.config.stimulation
        assert stimulation is not None
        long_s = stimulation.hold_s if phase is Phase.HOLD else stimulation.ramp_s
        begun_ns = rig.t_ns
        for share in sorted(rng.uniform(0.05, 0.95) for _ in range(MOMENTS_A_PHASE)):
            number += 1
            rig.run_until(max(rig.t_ns, begun_ns + round(share * long_s * 1e9)))
            yield number


def strike(rig: Rig, row: Row, scene: Scene, seed: str) -> Run:
    """One run: the fault now, then the session until it is over."""
    flowed = rig.level_ua > _WITH_CURRENT_UA
    rig.watch()
    case = scene.act(rig, random.Random(seed))
    watched(rig, case)
    return judged(rig, row, case, seed, flowed)


def lane(number: int, runs: int, seed: int, names: list[str], stop: Callable[[], bool]) -> Iterator[Run]:
    """One lane's share of the runs of all rows named; ends early when `stop` says so."""
    known = all_rows()
    quota = {name: runs // LANES + (number < runs % LANES) for name in names if is_virtual(name)}
    # A few runs are spread over a session's moments, many are made at each of them.
    stride = max(1, MOMENTS // max(1, max(quota.values(), default=1)))
    session = number
    while any(quota.values()) and not stop():
        for name in [name for name in apart.APART if quota.get(name)]:
            # As many at a time as a session has moments, so that all rows go on together.
            for _ in range(min(quota[name], MOMENTS)):
                quota[name] -= 1
                yield apart.APART[name](known[name], f"{seed} {name} {number} {quota[name]}")
        wanted = [name for name, left in quota.items() if left and name not in apart.APART]
        if not wanted:
            continue
        rig = Rig(f"{seed} {session}")
        for moment in moments(rig, random.Random(f"moments {seed} {session}")):
            for place, name in enumerate(wanted):
                if (moment + place) % stride and session < LANES:
                    continue
                scene = scene_of(name)
                if quota[name] and scene is not None and fits(scene, rig) and not stop():
                    quota[name] -= 1
                    yield forked(rig, known[name], scene, f"{seed} {session} {moment} {name}")
        session += LANES


def forked(rig: Rig, row: Row, scene: Scene, seed: str) -> Run:
    """`strike` in a fork of this process, which leaves the session untouched."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(read_fd)
            try:
                run = strike(rig, row, scene, seed)
            except Exception:  # noqa: BLE001 - a run that breaks is a result, and is told as one
                run = Run(row=row.id, seed=seed, answer="broken", wrong=traceback.format_exc(limit=-3)[-600:])
            os.write(write_fd, msgspec.json.encode(run))
            code = 0
        finally:
            os._exit(code)
    os.close(write_fd)
    with os.fdopen(read_fd, "rb") as file:
        data = file.read()
    os.waitpid(pid, 0)
    if not data:
        return Run(row=row.id, seed=seed, answer="broken", wrong="the run's process ended without a result")
    return msgspec.json.decode(data, type=Run)
