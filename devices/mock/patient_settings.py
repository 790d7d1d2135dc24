"""What a simulated patient can be told: settings alone, light enough for any program that only reads a configuration."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

Group = Literal["HC", "CC", "FM"]
Profile = Literal["plain", "full"]
PeSite = Literal["posterior_fossa", "V1", "midcingulate", "wrong_lobule", "rotated"]
Nuisance = Literal["sensory_nam", "anticipation_nam", "timing_error", "startle"]
BlockName = Literal["I", "A", "P", "V"]

LABELS: Final = (
    "Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "FC5", "FC1", "FCz", "FC2", "FC6",
    "T7", "C3", "Cz", "C4", "T8", "TP9", "CP5", "CP1", "CP2", "CP6", "TP10",
    "P9", "P7", "P3", "Pz", "P4", "P8", "P10", "PO9", "PO10", "O1", "Oz", "O2", "I1", "Iz", "I2",
)  # fmt: skip
"""Electrodes of the simulated cap; the posterior ring is complete."""


_PROFILES: Final[dict[Profile, dict[Nuisance, float]]] = {
    "plain": {"sensory_nam": 0.0, "anticipation_nam": 0.0, "timing_error": 0.0, "startle": 0.0},
    "full": {"sensory_nam": 2.0, "anticipation_nam": 2.0, "timing_error": 0.5, "startle": 1.0},
}


class PatientSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is simulated, and what is recorded.

    `pe_amplitude_nam` is the size of the sources that go with the error, in nAm at |PE| = 1 (0: there are none), and `pe_site`
    where they lie: the posterior fossa, or a control place (``wrong_lobule`` is VIIb in place of Crus I, ``rotated`` VIIb
    with moments turned by 37 degrees).

    `profile` says what could be mistaken for them: ``plain`` has the ongoing nuisances and the potentials that cue and outcome
    evoke; ``full`` adds sensory and anticipatory activity of the same cerebellar sources, an error where an outcome is late,
    and a startle of the neck muscles. `sensory_nam`, `anticipation_nam`, `timing_error` and `startle` set one of these over the
    profile; the other sizes are the same in both.

    `pad_label` is where the electrode over the target lies; the other one is far away. `blocks` follow each other in turn
    after `rest_s` of rest.
    """

    seed: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0
    group: Group = "FM"
    plasticity: Literal["paper", "reversed", "null"] = "paper"
    profile: Profile = "full"
    pe_amplitude_nam: Annotated[float, Meta(ge=0.0, le=1000.0)] = 8.0
    pe_site: PeSite = "posterior_fossa"
    sensory_nam: Annotated[float, Meta(ge=0.0, le=1000.0)] | None = None
    anticipation_nam: Annotated[float, Meta(ge=0.0, le=1000.0)] | None = None
    timing_error: Annotated[float, Meta(ge=0.0, le=10.0)] | None = None
    startle: Annotated[float, Meta(ge=0.0, le=100.0)] | None = None
    vertex_uv: Annotated[float, Meta(ge=0.0, le=100.0)] = 9.0
    vertex_pe_uv: Annotated[float, Meta(ge=0.0, le=100.0)] = 2.0
    visual_uv: Annotated[float, Meta(ge=0.0, le=100.0)] = 6.0
    sfreq_hz: Annotated[float, Meta(ge=128.0, le=4096.0)] = 500.0
    duration_s: Annotated[float, Meta(ge=2.0, le=86400.0)] = 1800.0
    rest_s: Annotated[float, Meta(ge=0.0, le=3600.0)] = 120.0
    blocks: tuple[BlockName, ...] = ("A", "P", "V")
    noxious_intensity: Annotated[int, Meta(ge=1, le=100)] = 60
    innocuous_intensity: Annotated[int, Meta(ge=1, le=100)] = 20
    labels: Annotated[tuple[str, ...], Meta(min_length=1)] = LABELS
    background_uv: Annotated[float, Meta(ge=0.0, le=1000.0)] = 8.0
    alpha_uv: Annotated[float, Meta(ge=0.0, le=1000.0)] = 8.0
    muscle_uv: Annotated[float, Meta(ge=0.0, le=1000.0)] = 3.0
    blink_uv: Annotated[float, Meta(ge=0.0, le=1000.0)] = 120.0
    line_uv: Annotated[float, Meta(ge=0.0, le=1000.0)] = 1.5
    line_hz: Annotated[float, Meta(gt=0.0, le=60.0)] = 50.0
    sensor_uv: Annotated[float, Meta(ge=0.0, le=100.0)] = 0.6
    pad_label: str = "PO10"
    pad_offset_mv_per_ma: Annotated[float, Meta(ge=0.0, le=1000.0)] = 150.0
    rail_uv: Annotated[float, Meta(gt=0.0, le=400_000.0)] = 187_500.0

    def sized(self, name: Nuisance) -> float:
        """Size of one thing that the profile decides, unless it is set."""
        own: float | None = getattr(self, name)
        return _PROFILES[self.profile][name] if own is None else own
