"""What can be wrong with a current source behind a LabJack; the emergency button is on no LabJack."""

from __future__ import annotations

from typing import Final

from devices.mock.fault_spec import FaultSpec
from devices.mock.reference_faults import FAULTS

_NAMES: Final = (
    "garbage", "truncated", "over_current", "gain_x2", "offset", "low_supply", "wrong_polarity", "open_circuit", "chatter",
    "motion", "reset", "stuck_output", "stuck_adc", "slow_replies", "lost_replies", "half_open", "impedance_rise", "short",
    "bridge",
)  # fmt: skip

LABJACK_FAULTS: Final[dict[str, FaultSpec]] = {name: FAULTS[name] for name in _NAMES}
