"""A simulation that opens its gate within three minutes."""

QUICK = [
    "session.duration_s=240",
    "patient.rest_s=0",
    "harm.min_baseline=10",
    "harm.min_probe=10",
    "policy.threshold=0.5",
    "policy.release=0.1",
    "policy.drift=0.0",
    "policy.expected_offset=-3.0",
    "policy.min_outcomes=2",
    "policy.refractory_s=1",
    "policy.max_duty=1.0",
    "gate.sense_s=5",
    "stimulation.hold_s=10",
    "stimulation.ramp_s=20",
]
