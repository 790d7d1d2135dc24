"""A whole valid configuration as text, and ways to change single values of it."""

from __future__ import annotations

from loop import config
from loop.config import Config

TEXT = """
[session]
arm = "closed_loop"
participant = "P01"
duration_s = 600.0

[source]
kind = "lsl"
name = "amplifier"

[channels]
bad = []
rail_uv = 187500.0
line_hz = 50

[estimator]
warmup_s = 1.0

[policy]
threshold = 8.0
release = 4.0
drift = 0.25
expected_offset = 0.0
expected_gain = 0.0
min_outcomes = 2
refractory_s = 5.0
max_duty = 0.5
duty_window_s = 60.0

[gate]
sense_s = 2.0
settle_s = 5.0

[stimulation]
polarity = "cathodal"
electrode = "pad"
contact_area_cm2 = 25.0
level_ua = 100
ramp_s = 2.0
hold_s = 3.0

[limits]
max_level_ua = 2000
max_density_ua_cm2 = 100.0
max_slew_ua_s = 100
max_charge_uc = 2400000
max_on_time_s = 1200.0
arm_below_ohm = 10000
stop_above_ohm = 20000

[device]
driver = "simulated"
port = ""

[markers.rename]
"target" = "STIM/NOX/100"
"""


def configured(*overrides: str) -> Config:
    """The configuration above, with single values changed, such as ``gate.sense_s=3``."""
    return config.parse(TEXT, "study.toml", overrides)
