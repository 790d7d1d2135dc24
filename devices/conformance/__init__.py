"""Does a driver keep its word? One suite of checks over every driver of a current, run against its emulator.

A driver's author writes one `Rig` (the driver, its emulator on the real transport, and an ammeter that is independent of
both) and runs every check on it. With pytest, from an installed cereloop:

    import pytest
    from devices.conformance import CHECKS

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_my_driver(check, tmp_path):
        with my_rig(tmp_path) as rig:
            check(rig)

Every check starts from a closed driver and a sound device at zero, and gets a rig of its own. A check that fails raises
`ConformanceError`, an AssertionError, with one sentence. `devices.mock.rigs` holds the rigs of the built-in drivers: models
to start from.

Drivers of magnetic stimulators have a suite of their own, in the same spirit: `PULSE_CHECKS` on a `PulseRig`, whose meter
counts pulses; `devices.mock.pulse_rigs` holds its rigs.

What a driver must do follows from its `Capabilities`, mode by mode: the suite holds it to every flag that it raises, and
asks nothing of a flag that it does not raise.
"""

from devices.conformance.checks import CHECKS
from devices.conformance.pulse_checks import PULSE_CHECKS
from devices.conformance.pulse_rig import PulseRig
from devices.conformance.rig import ConformanceError, Rig

__all__ = ["CHECKS", "PULSE_CHECKS", "ConformanceError", "PulseRig", "Rig"]
