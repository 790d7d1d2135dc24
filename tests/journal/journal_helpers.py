"""Sessions to write and read in the tests: small, typical, and the same every time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from devices import link
from devices.clock import VirtualClock
from devices.units import NS_PER_MS
from loop.events import (
    Chunk,
    CouplingEpoch,
    Decision,
    Device,
    Features,
    GateChange,
    Incident,
    Input,
    Layout,
    Marker,
    MarkerOut,
    Operator,
    Outcome,
    Output,
    SegmentStart,
    Setup,
    SourceInfo,
    StimulusEnd,
    Tick,
    ToGuard,
)
from loop.recorder import InlineRecorder
from loop.session_file import LogRow, SessionMeta

COLUMNS = ("error", "surprise", "power")
LAYOUT = Layout(
    labels=("Cz", "PO7", "EOG1", "Iz"),
    units=("microvolts",) * 4,
    to_uv=(1.0, 1.0, 1.0, 0.5),
    sfreq_hz=1000.0,
    positions_m=((0.0, 0.0, 0.1), (-0.05, -0.08, 0.02), (0.0, 0.0, 0.0), (0.0, -0.11, -0.02)),
)
SOURCE = SourceInfo(kind="patient", identity="seed 1", simulated=True, dtype="float32")
META = SessionMeta(
    session="P01-2",
    mode="simulate",
    config_text="# polarity is mandatory\npolarity = 'cathodal'\n",
    versions={"cereloop": "0.1.0", "numpy": "2.4"},
    source=msgspec.json.encode(SOURCE).decode(),
)
STEP_NS = 20 * NS_PER_MS
Steps = Iterator[tuple[Input, list[Output]]]


def samples_at(first: int, n: int) -> np.ndarray:
    """The samples that every test session has from `first` on: (n, 4) float32."""
    index = np.arange(first, first + n, dtype=np.float64)[:, np.newaxis]
    return (np.sin(index * 0.01 * np.arange(1, 5)) * 50).astype(np.float32)


def chunk(number: int, segment: int = 1, n: int = 20, shift_ns: int = 0) -> Chunk:
    """Chunk `number` of 20 ms, its stamps shifted by `shift_ns`."""
    stamps = (np.arange(number * n, (number + 1) * n) * NS_PER_MS + shift_ns).astype(np.int64)
    return Chunk(int(stamps[-1]) + 1, segment, number * n, stamps, samples_at(number * n, n), 0.25 * (number % 2))


def features(number: int) -> Features:
    """One frame that belongs to chunk `number`; the first value of every fifth is missing."""
    values = np.array([[np.nan if number % 5 == 0 else number * 0.5, -0.0, 1e-300]])
    sample = np.array([number * 20 + 19])
    return Features(sample, sample * NS_PER_MS, values, np.array([number % 2], np.uint32))


def outcome(event: int, sample: int) -> Outcome:
    """An outcome at `sample`, decided 30 samples later."""
    return Outcome(
        t_ns=sample * NS_PER_MS,
        event=event,
        text="STIM/NOX/2",
        sample=sample,
        decided_sample=sample + 30,
        features=(1.5, None, -2.25),
        invalid=0.0,
        index=0.75,
        surprise=0.1,
        expected=None,
        excess=0.5,
        evidence=event * 0.5,
        reason="",
        cue="P75/I2",
        intensity=1.0,
        told=0.75,
        d_rescorla_wagner=0.25,
        d_kalman=0.25,
        d_ehgf=0.25,
        kalman_nis=0.5,
        fused=0.3,
        fused_sd=0.1,
    )


def stimulus_end(event: int, sample: int) -> StimulusEnd:
    """The end of a stimulus at `sample`, decided 30 samples later."""
    return StimulusEnd(
        t_ns=sample * NS_PER_MS,
        event=event,
        text="STIM_OFF",
        sample=sample,
        decided_sample=sample + 30,
        features=(1.5, None, -2.25),
        invalid=0.0,
        index=0.75,
        reason="",
    )


def report(t_ns: int) -> Device:
    """A report of the guard."""
    message = link.Report(
        t_ns=t_ns,
        phase="live",
        reason="ok",
        level_ua=200,
        measured_ua=-199.5,
        voltage_mv=None,
        impedance_ohm=5100.0,
        last_seq=7,
        reserved_uc=1000,
        charge_uc=10,
        on_time_ms=50,
        dropped=0,
        lease_left_ms=230,
    )
    return Device(t_ns=t_ns, message=message)


def session_steps(n: int) -> Steps:
    """A session of `n` chunks: ticks, features, an outcome every 10 chunks, a decision on two."""
    yield (
        SegmentStart(t_ns=0, segment=1, layout=LAYOUT, source=SOURCE, clock_offset_ns=-3),
        [Setup(t_ns=0, estimator="näherung", columns=COLUMNS, learned=(), notes=("ok",))],
    )
    yield Operator(t_ns=1, action="arm", detail="code 1234"), []
    for number in range(n):
        event = chunk(number)
        outputs: list[Output] = [features(number)]
        if number % 10 == 9:
            outputs.append(outcome(number // 10 + 1, number * 20 - 20))
        if number % 20 == 19:
            decision = number // 20 + 1
            outputs += [
                Decision(
                    t_ns=event.t_ns,
                    decision=decision,
                    wanted="open",
                    reason="evidence over the bound",
                    evidence=2.0,
                    outcomes=(2 * decision - 1, 2 * decision),
                ),
                GateChange(t_ns=event.t_ns, before="SENSE", after="RAMP_UP", reason="open", decision=decision),
                MarkerOut(t_ns=event.t_ns, text="TDCS/RAMP_UP/1.0"),
            ]
        yield event, outputs
        t_ns = event.t_ns + 1
        if number % 20 == 19:
            message = link.Command(seq=decision, level_ua=150, deadline_ns=t_ns + 250_000_000, decision=decision)
            yield Tick(t_ns=t_ns), [ToGuard(t_ns=t_ns, message=message, decision=decision)]
            yield report(t_ns + 1), []
        else:
            yield Tick(t_ns=t_ns), []
        if number % 15 == 7:
            yield Marker(t_ns=t_ns, stamp_ns=t_ns - 5 * NS_PER_MS, text="STIM/NOX/2"), []
        if number == 11:
            more: list[Output] = [Incident(t_ns=t_ns, name="gap", detail="3 samples", answer="restart")]
            more.append(stimulus_end(1, number * 20 - 30))
            more.append(CouplingEpoch(t_ns=t_ns, sample=number * 20 - 200, imaginary=(0.5, -0.25)))
            yield Tick(t_ns=t_ns + 5), more


def write_session(path: Path, n: int = 60, *, store_samples: bool = True, rows_a_commit: int = 64) -> Path:
    """Write `session_steps` to `path` in this process; returns the path."""
    clock = VirtualClock()
    with InlineRecorder(path, META, clock, store_samples=store_samples, rows_a_commit=rows_a_commit) as recorder:
        for event, outputs in session_steps(n):
            clock.advance_to(max(clock.now_ns(), event.t_ns))
            recorder.record(event, outputs)
    return path


def content(row: LogRow) -> tuple[object, ...]:
    """All of a row but the wall time."""
    return row.seq, row.t_ns, row.kind, row.cause, row.body, row.data


def recording_process(preparation: str) -> tuple[str, ...]:
    """Command of a recording process that first runs `preparation`; `row_writer` is imported."""
    serve = "sys.exit(row_writer.serve(int(sys.argv[1])))"
    code = f"import sys\nfrom loop import row_writer\n{preparation}\n{serve}"
    return sys.executable, "-c", code
