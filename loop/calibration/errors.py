"""What can be wrong with a calibration."""


class CalibrationError(ValueError):
    """A calibration that cannot be made, read or used; one sentence says why and what to do."""
