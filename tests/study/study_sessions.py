"""A sealed allocation with a code of each arm, and simulated sessions that follow it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import loop
from loop import allocation, sealing
from loop.config import Config

OPEN = [
    "session.duration_s=70", "patient.rest_s=0", "gate.sense_s=5", "policy.refractory_s=0", "policy.max_duty=1.0",
    "stimulation.level_ua=200", "stimulation.ramp_s=4", "stimulation.hold_s=8",
]  # fmt: skip


class Study(NamedTuple):
    """The files of a study, and one code of each arm."""

    file: Path
    officer: Path
    machine: Path
    codes: dict[str, str]

    def overrides(self, code: str, **more: Any) -> list[str]:
        table = {"file": str(self.file), "machine_key": str(self.machine), "code": code}
        words = [f"allocation.{key}='{value}'" for key, value in table.items()]
        return [*OPEN, "session.arm=allotted", *words, *(f"{key.replace('__', '.')}='{value}'" for key, value in more.items())]


def study(folder: Path, arms: tuple[Any, ...] = ("open_loop", "sham", "yoked")) -> Study:
    officer, machine = sealing.new_pair(), sealing.new_pair()
    made = allocation.make("pilot", arms, 2 * len(arms), len(arms), 7, officer.public, machine)
    files = folder / "pilot.json", folder / "officer.key", folder / "machine.key"
    allocation.write(made, files[0])
    sealing.write_key(files[1], officer.private, "officer")
    sealing.write_key(files[2], machine.private, "machine")
    codes = {allocation.arm_of(made, code, machine.private): code for code in made.entries}
    return Study(*files, codes)


def config(*overrides: str) -> Config:
    return loop.load_config("simulate", overrides)
