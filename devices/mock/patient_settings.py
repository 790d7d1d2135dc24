"""What a simulated patient can be told: settings alone, light enough for any program that only reads a configuration."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

Group = Literal["HC", "CC", "FM"]
BlockName = Literal["I", "A", "P", "V"]

LABELS: Final = (
    "Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "FC5", "FC1", "FCz", "FC2", "FC6",
    "T7", "C3", "Cz", "C4", "T8", "TP9", "CP5", "CP1", "CP2", "CP6", "TP10",
    "P9", "P7", "P3", "Pz", "P4", "P8", "P10", "PO9", "PO10", "O1", "Oz", "O2", "I1", "Iz", "I2",
)  # fmt: skip
"""Electrodes of the simulated cap; the posterior ring is complete."""


class PatientSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is simulated, and what is recorded.

    `pe_amplitude_nam` is the size of the prediction-error sources in nAm at |PE| = 1 (0: there are none);
    `sensory_nam`, `anticipation_nam` and `startle` size what could be mistaken for them. `pad_label` is where
    the electrode over the target lies; the other one is far away. `blocks` follow each other in turn after
    `rest_s` of rest.
    """

    seed: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0
    group: Group = "FM"
    plasticity: Literal["paper", "reversed", "null"] = "paper"
    pe_amplitude_nam: Annotated[float, Meta(ge=0.0, le=1000.0)] = 8.0
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
    sensory_nam: Annotated[float, Meta(ge=0.0, le=1000.0)] = 2.0
    anticipation_nam: Annotated[float, Meta(ge=0.0, le=1000.0)] = 2.0
    startle: Annotated[float, Meta(ge=0.0, le=100.0)] = 1.0
    pad_label: str = "PO10"
    pad_offset_mv_per_ma: Annotated[float, Meta(ge=0.0, le=1000.0)] = 150.0
    rail_uv: Annotated[float, Meta(gt=0.0, le=400_000.0)] = 187_500.0
