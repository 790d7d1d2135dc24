"""What can be wrong with an estimator's name or plug-in."""


class EstimatorError(ValueError):
    """There is no such estimator, or its plug-in cannot be used; one sentence says why and what to do."""
