"""What can be wrong with a Starstim, with NIC2, and with who sits before it."""

from __future__ import annotations

from typing import Final

from devices.mock.fault_spec import FaultSpec, Parameter, by_name
from devices.mock.reference_faults import FAULTS
from devices.stimulator import StopClass

_S0, _S1 = StopClass.S0_CUT, StopClass.S1_ABORT_RAMP
_SHARED: Final = (
    "garbage", "over_current", "gain_x2", "wrong_polarity", "open_circuit", "stuck_output", "slow_replies", "lost_replies",
    "half_open", "impedance_rise", "short", "bridge",
)  # fmt: skip

NIC2_FAULTS: Final[dict[str, FaultSpec]] = {name: FAULTS[name] for name in _SHARED} | by_name(
    FaultSpec(
        name="consent_rejected",
        part="operator",
        row="F44",
        answer=_S0,
        effect="the operator answers No when NIC asks whether to allow remote control",
    ),
    FaultSpec(
        name="consent_delayed",
        part="operator",
        row="F44",
        answer=_S0,
        effect="the operator answers Yes late",
        parameters=(Parameter("delay_s", "s", 5.0, 0.0, 3600.0),),
    ),
    FaultSpec(
        name="other_version",
        part="replies",
        row="F32",
        answer=_S0,
        effect="the version handshake is answered as NIC1 does",
    ),
    FaultSpec(
        name="lying_full",
        part="replies",
        row="F32",
        answer=_S0,
        effect="the stimulation is said to be at full current whatever it is",
    ),
    FaultSpec(
        name="deaf_peak",
        part="replies",
        row="F32",
        answer=_S0,
        effect="a peak is taken and nothing comes of it",
    ),
    FaultSpec(
        name="deaf_abort",
        part="line",
        row="F37",
        answer=_S0,
        effect="abort has no effect",
    ),
    FaultSpec(
        name="nic_abort",
        part="operator",
        row="F41",
        answer=_S1,
        effect="the abort button in NIC is pressed",
    ),
    FaultSpec(
        name="protocol_error",
        part="supply",
        row="F36",
        answer=_S0,
        effect="the protocol ends in an error",
    ),
    FaultSpec(
        name="hang_up",
        part="line",
        row="F39",
        answer=_S0,
        effect="NIC ends the connection; what runs, runs on",
    ),
)
