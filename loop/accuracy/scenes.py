"""What is simulated for the benchmark: effect sizes, controls and profiles, one session a seed and scene.

A session is that of the paradigm: rest, the instructed block that calibrates, acquisition, then reversal and probabilistic
cues, on which everything is judged. Seeds take turns in the groups HC, CC and FM. Nothing in cereloop was chosen by looking at
the seeds that the benchmark reports: settings were compared on the development seeds alone.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from devices.mock.patient_settings import BlockName, Group, PatientSettings
from loop.config import Config, load
from loop.presets import preset_path

FIRST_SEED: Final = 1
FIRST_DEVELOPMENT_SEED: Final = 9001
EFFECTS_NAM: Final = (0.0, 4.0, 8.0, 12.0, 16.0)
CONTROL_NAM: Final = 8.0
REST_S: Final = 120.0
BLOCKS: Final[tuple[BlockName, ...]] = ("I", "A", "V", "P")
JUDGED_BLOCKS: Final = ("V", "P")
# The target's pad, and what a sponge there covers.
PADS: Final = ("PO10", "P10", "I2", "O2")

_GROUPS: Final[tuple[Group, ...]] = ("HC", "CC", "FM")
_LONGEST_S: Final = 4000.0


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of patient and what differs in the configuration.

    `patient` holds settings of `PatientSettings` that differ from the profile's, `pads` electrodes that are not recorded from.
    """

    name: str
    patient: dict[str, Any]
    pads: tuple[str, ...] = ()

    def settings(self, seed: int) -> PatientSettings:
        """The patient of one seed."""
        return PatientSettings(
            seed=seed,
            blocks=BLOCKS,
            rounds=1,
            rest_s=REST_S,
            duration_s=_LONGEST_S,
            **{"group": group_of(seed), **self.patient},
        )

    def config(self, *overrides: str) -> Config:
        """The configuration for calibration and session: the shipped `calibrate`, but for pads and `overrides`."""
        pads = "channels.pads=[" + ",".join(f'"{label}"' for label in self.pads) + "]"
        return load(preset_path("calibrate"), (pads, *overrides))


def group_of(seed: int) -> Group:
    """Groups take turns."""
    return _GROUPS[seed % len(_GROUPS)]


def effects(profile: str, sizes_nam: tuple[float, ...] = EFFECTS_NAM) -> tuple[Scene, ...]:
    """The error's source at several sizes."""
    return tuple(
        Scene(name=f"{profile}, a = {size:g}", patient={"profile": profile, "pe_amplitude_nam": size}) for size in sizes_nam
    )


def controls() -> tuple[Scene, ...]:
    """Scenes in which something else moves, or the source is not where it is looked for; profile plain otherwise."""

    def make(name: str, pads: tuple[str, ...] = (), /, **patient: Any) -> Scene:
        return Scene(name=name, patient={"profile": "plain", "pe_amplitude_nam": CONTROL_NAM, **patient}, pads=pads)

    return (
        make("startle only, a = 0", pe_amplitude_nam=0.0, startle=1.0),
        make("source in V1", pe_site="V1"),
        make("source in midcingulate", pe_site="midcingulate"),
        make("startle", startle=1.0),
        make("muscle 6 µV", muscle_uv=6.0),
        make("alpha 16 µV", alpha_uv=16.0),
        make("wrong lobule (VIIb)", pe_site="wrong_lobule"),
        make("VIIb turned by 37°", pe_site="rotated"),
        make("right pad's channels out", PADS),
    )


def long_form() -> tuple[Scene, ...]:
    """All scenes."""
    return (*effects("plain"), *controls(), *effects("full"))


def of_group(group: Group, size_nam: float = CONTROL_NAM) -> Scene:
    """Sessions of one group alone, to count gates in."""
    return Scene(name=group, patient={"profile": "plain", "pe_amplitude_nam": size_nam, "group": group})


def short_form() -> tuple[Scene, ...]:
    """What a minute can show."""
    return (*effects("plain", (0.0, 8.0, 12.0)), controls()[0], controls()[1])
