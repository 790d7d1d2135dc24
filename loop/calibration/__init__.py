"""From a recording with rest and instructed trials to an estimator that knows this person, this cap and these pads."""
