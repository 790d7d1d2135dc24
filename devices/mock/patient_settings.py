"""What a simulated patient can be told: settings alone, light enough for any program that only reads a configuration."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from devices.mock import assumptions as known

Group = Literal["HC", "CC", "FM", "normative"]
Profile = Literal["plain", "full"]
PeSite = Literal["posterior_fossa", "V1", "midcingulate", "wrong_lobule", "rotated"]
Nuisance = Literal["sensory_nam", "anticipation_nam", "timing_error", "startle"]
BlockName = Literal["R", "I", "A", "P", "V", "T", "O"]

LABELS: Final = (
    "Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "FC5", "FC1", "FCz", "FC2", "FC6",
    "T7", "C3", "Cz", "C4", "T8", "TP9", "CP5", "CP1", "CP2", "CP6", "TP10",
    "P9", "P7", "P3", "Pz", "P4", "P8", "P10", "PO9", "PO10", "O1", "Oz", "O2", "I1", "Iz", "I2",
)  # fmt: skip
"""Electrodes of the simulated cap; the posterior ring is complete."""


_PROFILES: Final[dict[Profile, dict[Nuisance, float]]] = {
    "plain": {"sensory_nam": 0.0, "anticipation_nam": 0.0, "timing_error": 0.0, "startle": 0.0},
    "full": {
        "sensory_nam": known.SENSORY_NAM,
        "anticipation_nam": known.ANTICIPATION_NAM,
        "timing_error": known.TIMING_ERROR,
        "startle": known.STARTLE,
    },
}


class PatientSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is simulated, and what is recorded.

    `group` is healthy control, chronic pain control, fibromyalgia, or ``normative``: nobody real, but who learns and errs
    exactly as the learner that the evidence is measured against.

    `pe_amplitude_nam` is the size of the sources that go with the error, in nAm at |PE| = 1 (0: there are none), and `pe_site`
    where they lie: the posterior fossa, or a control place (``wrong_lobule`` is VIIb in place of Crus I, ``rotated`` VIIb
    with moments turned by 37 degrees).

    `profile` says what could be mistaken for them: ``plain`` has the ongoing nuisances and the potentials that cue and outcome
    evoke; ``full`` adds sensory and anticipatory activity of the same cerebellar sources, an error where an outcome is late,
    and a startle of the neck muscles. `sensory_nam`, `anticipation_nam`, `timing_error` and `startle` set one of these over the
    profile; the other sizes are the same in both.

    `plasticity` is the hypothesis about the current's sign; the slow effect builds up faster while errors are large, as far
    as `state_dependence` says (0: not at all).

    `task` names a task that ships, or a TOML file, or is its text; `blocks` of it follow each other in turn after `rest_s` of
    rest, until the session ends: after `duration_s`, or sooner, once they have been played `rounds` times. `offset_share` is
    the size of the error's source where heat ends, relative to where it begins. `pad_label` is where the electrode over the
    target lies; the other one is far away.
    """

    seed: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0
    group: Group = "FM"
    plasticity: Literal["paper", "reversed", "null"] = "paper"
    state_dependence: Annotated[float, Meta(ge=0.0, le=10.0)] = 0.0
    profile: Profile = "full"
    pe_amplitude_nam: Annotated[float, Meta(ge=0.0, le=1000.0)] = known.PE_NAM
    pe_site: PeSite = "posterior_fossa"
    sensory_nam: Annotated[float, Meta(ge=0.0, le=1000.0)] | None = None
    anticipation_nam: Annotated[float, Meta(ge=0.0, le=1000.0)] | None = None
    timing_error: Annotated[float, Meta(ge=0.0, le=10.0)] | None = None
    startle: Annotated[float, Meta(ge=0.0, le=100.0)] | None = None
    offset_share: Annotated[float, Meta(ge=0.0, le=10.0)] | None = None
    vertex_uv: Annotated[float, Meta(ge=0.0, le=100.0)] = known.VERTEX_UV
    vertex_pe_uv: Annotated[float, Meta(ge=0.0, le=100.0)] = known.VERTEX_PE_UV
    visual_uv: Annotated[float, Meta(ge=0.0, le=100.0)] = known.VISUAL_UV
    sfreq_hz: Annotated[float, Meta(ge=128.0, le=4096.0)] = 500.0
    duration_s: Annotated[float, Meta(ge=2.0, le=86400.0)] = 1800.0
    rest_s: Annotated[float, Meta(ge=0.0, le=3600.0)] = 120.0
    task: Annotated[str, Meta(min_length=1)] = "paradigm"
    blocks: tuple[BlockName, ...] = ("A", "P", "V")
    rounds: Annotated[int, Meta(ge=1, le=1000)] | None = None
    noxious_intensity: Annotated[int, Meta(ge=1, le=100)] = 60
    innocuous_intensity: Annotated[int, Meta(ge=1, le=100)] = 20
    labels: Annotated[tuple[str, ...], Meta(min_length=1)] = LABELS
    background_uv: Annotated[float, Meta(ge=0.0, le=1000.0)] = known.BACKGROUND_UV
    alpha_uv: Annotated[float, Meta(ge=0.0, le=1000.0)] = known.ALPHA_UV
    muscle_uv: Annotated[float, Meta(ge=0.0, le=1000.0)] = known.MUSCLE_UV
    blink_uv: Annotated[float, Meta(ge=0.0, le=1000.0)] = known.BLINK_UV
    line_uv: Annotated[float, Meta(ge=0.0, le=1000.0)] = known.LINE_UV
    line_hz: Annotated[float, Meta(gt=0.0, le=60.0)] = 50.0
    sensor_uv: Annotated[float, Meta(ge=0.0, le=100.0)] = known.SENSOR_UV
    pad_label: str = "PO10"
    pad_offset_mv_per_ma: Annotated[float, Meta(ge=0.0, le=1000.0)] = known.PAD_MV_PER_MA
    rail_uv: Annotated[float, Meta(gt=0.0, le=400_000.0)] = known.RAIL_UV

    def sized(self, name: Nuisance) -> float:
        """Size of one thing that the profile decides, unless it is set."""
        own: float | None = getattr(self, name)
        return _PROFILES[self.profile][name] if own is None else own
