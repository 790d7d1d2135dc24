"""What cereloop publishes on LSL, for LabRecorder and anybody else: its events as markers, its features as a stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from devices import liblsl
from devices.clock import SystemClock
from loop.events import Decision, Features, MarkerOut, Output, Setup
from loop.screen import View, blinded
from loop.sources.lsl import clock_difference_ns
from loop.sources.lsl_markers import OWN_EVENTS, OWN_FEATURES

EVENTS = OWN_EVENTS
FEATURES = OWN_FEATURES


class Outlets:
    """Two outlets: ``cereloop-events`` (TDCS/… and GATE/…) and ``cereloop-features`` (the columns of the estimator).

    Parameters
    ----------
    session : str
        Goes into the outlets' source ids, so that two sessions can be told apart.
    reach : {"network", "machine"}
        How far the outlets are heard.
    view : {"open", "blinded"}
        ``blinded`` publishes no decisions: they would tell the arm.
    """

    def __init__(self, session: str, reach: liblsl.Reach, view: View = "open") -> None:
        self._view = view
        self._pylsl: Any = liblsl.load(reach)
        info = self._pylsl.StreamInfo(EVENTS, "Markers", 1, 0.0, "string", f"{session}-events")
        self._events = self._pylsl.StreamOutlet(info)
        self._features: Any = None
        self._session = session
        self._to_lsl_ns = -clock_difference_ns(self._pylsl, SystemClock())

    def __call__(self, outputs: Sequence[Output]) -> None:
        """Publish one step's outputs; pushing to LSL does not wait for anybody."""
        for output in outputs if self._view == "open" else blinded(outputs):
            if isinstance(output, Features):
                if self._features is not None and self._features.have_consumers():
                    stamps = ((output.t_ns + self._to_lsl_ns) * 1e-9).tolist()
                    self._features.push_chunk(np.ascontiguousarray(output.values), stamps)
            elif isinstance(output, MarkerOut):
                self._push(output.text, output.t_ns)
            elif isinstance(output, Decision):
                self._push(f"GATE/{'ON' if output.wanted == 'open' else 'OFF'}/{output.evidence:.2f}", output.t_ns)
            elif isinstance(output, Setup):
                self._open_features(output.columns)

    def _push(self, text: str, t_ns: int) -> None:
        self._events.push_sample([text], (t_ns + self._to_lsl_ns) * 1e-9)

    def _open_features(self, columns: Sequence[str]) -> None:
        info = self._pylsl.StreamInfo(FEATURES, "Features", len(columns), 50.0, "double64", f"{self._session}-features")
        channels = info.desc().append_child("channels")
        for column in columns:
            channels.append_child("channel").append_child_value("label", column)
        self._features = self._pylsl.StreamOutlet(info)
