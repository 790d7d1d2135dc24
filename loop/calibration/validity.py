"""Whether a calibration is still good, and whose it is: asked before a living participant sits down, never of a replay."""

from __future__ import annotations

import datetime as dt
from typing import Final

from loop.calibration.errors import CalibrationError
from loop.calibration.file import Calibration

LASTS_DAYS: Final = 30


def check_date(calibration: Calibration, today: dt.date, participant: str) -> None:
    """Refuse a calibration that has expired or is somebody else's; for sessions with a living participant.

    Raises
    ------
    CalibrationError
    """
    if calibration.participant != participant:
        raise CalibrationError(
            f"the calibration is of participant {calibration.participant}, this session is of {participant}; use their own"
        )
    if today > dt.date.fromisoformat(calibration.expires):
        raise CalibrationError(
            f"the calibration of {calibration.created} expired on {calibration.expires}; calibrate anew (caps and skin change)"
        )
