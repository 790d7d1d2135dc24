"""Plays a simulated patient once, and gives the samples as what calibration and session get: two recordings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from devices.mock import head
from devices.mock.background import Background
from devices.mock.patient import TrialTruth
from devices.mock.patient_settings import PatientSettings
from loop.calibration.inputs import Take
from loop.events import Block, Chunk, Input, Layout, Marker, SegmentStart, SourceInfo
from loop.sources.patient import PatientPlayback

_BLOCK_S: Final = 2.0
_CALIBRATED: Final = "BLOCK/I/END"
Float32s = npt.NDArray[np.float32]
Float64s = npt.NDArray[np.float64]


class Played(NamedTuple):
    """A whole session.

    `calibration` and `session` are its parts before and after the end of the instructed block, `samples` (n_times, n_channels)
    all of it in microvolts; `told` and `learned` are the truth of the outcomes in each part. `field_uv` (n_channels,) is what
    the error's source shows at 1 nAm.
    """

    layout: Layout
    calibration: Take
    session: Take
    samples: Float32s
    told: tuple[TrialTruth, ...]
    learned: tuple[TrialTruth, ...]
    field_uv: Float64s


def play(settings: PatientSettings, background: Background) -> Played:
    """Let a patient play without current."""
    playback = PatientPlayback(settings, background)
    rate = playback.layout.sfreq_hz
    blocks: list[Block] = []
    cut = 0
    while (block := playback.read(round(_BLOCK_S * rate), 0.0)) is not None:
        ends = [stamp_ns for stamp_ns, text in block.markers if text == _CALIBRATED]
        if ends:
            k = int(np.searchsorted(block.stamps_ns, ends[0]))
            cut = len(blocks) + 1
            blocks += [_part(block, 0, k), _part(block, k, len(block.stamps_ns))]
        else:
            blocks.append(block)
    first = blocks[cut].first
    truth = playback.truth
    samples = np.concatenate([block.samples for block in blocks])
    blocks = [block._replace(samples=samples[block.first : block.first + len(block.stamps_ns)]) for block in blocks]
    return Played(
        layout=playback.layout,
        calibration=_take(playback, blocks[:cut]),
        session=_take(playback, blocks[cut:]),
        samples=samples,
        told=tuple(one for one in truth if one.outcome_sample < first),
        learned=tuple(one for one in truth if one.outcome_sample >= first),
        field_uv=head.error_topography(head.electrode_directions(settings.labels), settings.pe_site),
    )


def _part(block: Block, start: int, stop: int) -> Block:
    stamps = block.stamps_ns[start:stop]
    low = int(stamps[0]) if start else -1
    high = int(block.stamps_ns[stop]) if stop < len(block.stamps_ns) else int(block.stamps_ns[-1]) + 1
    return Block(
        block.first + start,
        stamps,
        block.samples[start:stop],
        [(stamp_ns, text) for stamp_ns, text in block.markers if low <= stamp_ns < high],
    )


def _take(playback: PatientPlayback, blocks: Sequence[Block]) -> Take:
    layout: Layout = playback.layout
    info: SourceInfo = playback.info

    def inputs() -> Iterator[Input]:
        yield SegmentStart(t_ns=0, segment=1, layout=layout, source=info, clock_offset_ns=0)
        for block in blocks:
            if not len(block.stamps_ns):
                continue
            now_ns = int(block.stamps_ns[-1])
            for stamp_ns, text in block.markers:
                yield Marker(t_ns=now_ns, stamp_ns=stamp_ns, text=text)
            yield Chunk(t_ns=now_ns, segment=1, first=block.first, stamps_ns=block.stamps_ns, samples=block.samples)

    return Take(layout, info, inputs)
