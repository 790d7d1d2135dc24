"""Every number that the simulated patient rests on, with what is known of it.

Status: E established or replicated; S a single study, or contested; A assumed, no source. Where existence and direction are
founded but the size is not, the status is that of the size, and the text says so. The modules of the patient take their
numbers from here and from the task's TOML file; ``cereloop mock assumptions`` prints this list.
"""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple, TypeVar

Status = Literal["E", "S", "A"]
_Value = TypeVar("_Value")


class Assumption(NamedTuple):
    """One number, or a few that belong together."""

    name: str
    value: Any
    unit: str
    status: Status
    source: str


_stated: list[Assumption] = []


def _state(name: str, value: _Value, unit: str, status: Status, source: str) -> _Value:
    _stated.append(Assumption(name, value, unit, status, source))
    return value


def _by_group(CC: float = 1.0, FM: float = 1.0) -> dict[str, float]:  # noqa: N803
    """Healthy people and the normative learner at 1."""
    return {"HC": 1.0, "CC": CC, "FM": FM, "normative": 1.0}


# ---- head

SHELLS: Final = _state(
    "shells: brain, fluid, skull, scalp",
    ((0.90, 0.33), (0.92, 1.0), (0.97, 0.004), (1.0, 0.33)),
    "outer radius / head's, S/m",
    "E",
    "MNE's sphere; E as an approximation, A that sources are radial and not folded",
)
RADIUS_M: Final = _state("radius of the head", 0.099, "m", "E", "MNE's fit to the 10-05 electrodes of a grown head")
CENTRE_M: Final = _state("centre of the head", (0.0, 0.012, 0.040), "m, head", "E", "as the radius")
ORIGIN_MNI_MM: Final = _state("origin of head coordinates", (0.0, -28.8, -41.3), "mm, MNI", "E", "fsaverage")
PITCH_DEG: Final = _state("pitch from MNI to head coordinates", 3.25, "degrees", "E", "fsaverage")
CRUS_MM: Final = _state("right Crus I", (36.0, -70.0, -33.0), "mm, MNI", "E", "the left one mirrors it")
VIIB_MM: Final = _state("right VIIb", (34.0, -64.0, -52.0), "mm, MNI", "E", "the left one mirrors it")
VISUAL_MM: Final = _state("V1", (0.0, -92.0, 2.0), "mm, MNI", "E", "both sides as one")
MIDCINGULATE_MM: Final = _state("midcingulate", (0.0, -8.0, 52.0), "mm, MNI", "E", "")
ROTATED_DEG: Final = _state("rotated source", 37.0, "degrees", "A", "from outwards, away from the vertex")

# ---- ongoing activity

BACKGROUND_UV: Final = _state(
    "background", 8.0, "µV rms", "A", "size of a quiet adult's EEG; mean over electrodes, unreferenced"
)
BACKGROUND_SLOPE: Final = _state(
    "background slope", 1.3, "power ~ 1/f^x", "E", "1/f-like spectrum; exponent within the usual 1 to 2"
)
BACKGROUND_DIPOLES: Final = _state("background dipoles", 60.0, "", "A", "anywhere in the brain's shell, turned anyhow")
DIPOLE_DEPTH: Final = _state("depth of background dipoles", (0.45, 0.85), "of the radius", "A", "where cortex lies")
DIPOLE_LOWEST: Final = _state("lowest background dipole", -0.45, "of the radius", "A", "below it is neck")
OWN_NAM: Final = _state("cerebellar own noise", 4.0, "nAm rms", "A", "left and right Crus I, each on its own")
OWN_SLOPE: Final = _state("cerebellar own noise slope", 1.0, "power ~ 1/f^x", "A", "")
SLOWEST_HZ: Final = _state("slowest frequency", 0.3, "Hz", "A", "below it the slopes are flat, so that drifts stay bounded")
ALPHA_UV: Final = _state("alpha", 8.0, "µV rms", "A", "at the electrode over V1 where it is largest; existence E")
ALPHA_HZ: Final = _state("alpha band", (9.0, 11.0), "Hz", "E", "")
ALPHA_WAXING: Final = _state("alpha waxing", 0.5, "sd of log amplitude", "A", "slow lognormal modulation; existence E")
ALPHA_WAXING_HZ: Final = _state("alpha waxing rate", 0.05, "Hz", "A", "")
MUSCLE_UV: Final = _state("muscle", 3.0, "µV rms", "A", "at the worst electrode; existence E: Whitham 2007, worst peripherally")
MUSCLE_HZ: Final = _state("muscle band", (25.0, 200.0), "Hz", "E", "Whitham 2007, Pope 2022: dominates scalp EEG above 20 Hz")
MUSCLE_REACH_M: Final = _state("muscle reach", 0.035, "m", "A", "exp(-d/reach) from the neck, outside the sphere")
MUSCLE_LEFT_MM: Final = _state(
    "neck muscle, left", (-45.0, -85.0, -25.0), "mm, head", "A", "splenius; the right one mirrors it"
)
MUSCLE_MIDDLE_MM: Final = _state("neck muscle, middle", (0.0, -95.0, -20.0), "mm, head", "A", "")
BURSTS_MIN: Final = _state("muscle bursts", 4.0, "1/min", "A", "")
BURST_GAIN: Final = _state("muscle burst gain", (2.0, 6.0), "times", "A", "")
BURST_S: Final = _state("muscle burst length", (0.4, 2.0), "s", "A", "")
BLINK_UV: Final = _state("blink", 120.0, "µV", "E", "at the frontal pole; usual 50 to 200")
BLINKS_MIN: Final = _state("blinks", 12.0, "1/min", "E", "usual 10 to 20")
BLINK_SD_S: Final = _state("blink width", 0.07, "s (sd)", "A", "")
BLINK_REGULARITY: Final = _state("blink regularity", 4.0, "gamma shape of the intervals", "A", "")
EYES: Final = _state("direction of the eyes", (0.0, 1.0, -0.25), "", "A", "")
BLINK_REACH_M: Final = _state("blink reach", 0.04, "m", "A", "exp(-d/reach) from between the eyes")
LINE_UV: Final = _state("mains", 1.5, "µV rms", "A", "with a phase of its own at each electrode")
LINE_SPREAD: Final = _state("mains over electrodes", (0.5, 1.5), "times", "A", "")
SENSOR_UV: Final = _state("sensor noise", 0.6, "µV rms", "A", "white, of each channel; that of good amplifiers with gel")
EYES_CLOSED_ALPHA: Final = _state("alpha with eyes closed", 2.0, "times", "A", "existence E (Berger)")
CLENCH_GAIN: Final = _state("muscle in a clench", 8.0, "times", "A", "all neck muscles at once; existence E")
TOLD_BLINK_S: Final = _state("blinks on request", 1.5, "s apart", "A", "")

# ---- what events evoke

PE_NAM: Final = _state("error source", 8.0, "nAm at |PE| = 1", "A", "nobody has measured it; sweep 0 to 16")
PE_BETA_HZ: Final = _state("error, beta", (14.0, 30.0), "Hz", "S", "Andersen & Dalal 2021: omitted touch, MEG")
PE_BETA_S: Final = _state("error, beta, time", (0.16, 0.06), "s (centre, sd)", "A", "Dalal 2013: modulated 100 to 200 ms")
PE_BETA_SD: Final = _state("error, beta, strength", 0.3, "sd over trials, mean 1", "A", "")
PE_THETA_HZ: Final = _state("error, theta", 5.5, "Hz", "S", "Andersen & Dalal 2021: 4 to 7 Hz")
PE_THETA_S: Final = _state("error, theta, time", (0.28, 0.09), "s (centre, sd)", "A", "")
PE_THETA_PHASE: Final = _state("error, theta, phase", 0.4, "rad (sd over trials)", "A", "")
PE_LEFT: Final = _state("error, left side", 0.6, "of the right", "A", "stimulated side right; cerebellum is ipsilateral (E)")
OFFSET_SHARE: Final = _state(
    "error at offset", 1.0, "of that at onset", "A", "the hypothesis has errors at offset too; size unknown"
)
SENSORY_NAM: Final = _state(
    "sensory source", 2.0, "nAm at the calibrated stimulus", "A", "same places as the error; profile full"
)
SENSORY_S: Final = _state("sensory source, time", (0.12, 0.05), "s (centre, sd)", "A", "Dalal 2013: 100 to 200 ms")
ANTICIPATION_NAM: Final = _state(
    "anticipatory source", 2.0, "nAm just before the outcome", "A", "grows from the cue on; profile full"
)
ANTICIPATION: Final = _state(
    "anticipation after a cue", {"H": 1.0, "N": 0.6, "L": 0.3}, "share", "A", "a stated cue: what it states"
)
TIMING_ERROR: Final = _state(
    "error where an outcome is late", 0.5, "of the expected level", "A", "profile full; existence S: Ernst 2019"
)
STARTLE: Final = _state("startle", 1.0, "of the muscle", "A", "neck burst after noxious stimuli; made to mislead; profile full")
STARTLE_S: Final = _state("startle, time", (0.06, 0.18), "s", "A", "within that of startle reflexes")
STARTLE_BASE: Final = _state(
    "startle without error", 0.4, "u (0.4 + |PE|)", "A", "grows with the error, so that it is adversarial"
)
VERTEX_UV: Final = _state("N2-P2", 9.0, "µV at the calibrated stimulus", "A", "existence and growth with intensity E")
VERTEX_PE_UV: Final = _state(
    "N2-P2 with the error", 2.0, "µV at |PE| = 1", "A", "direction contested: Nickel 2022, Strube 2021"
)
N2_S: Final = _state("N2", (0.21, 0.03), "s (centre, sd)", "E", "laser-evoked: 180 to 260 ms")
P2_S: Final = _state("P2", (0.36, 0.06), "s (centre, sd)", "E", "laser-evoked: 300 to 420 ms")
VERTEX_JITTER_S: Final = _state("N2-P2 jitter", 0.02, "s (sd)", "A", "")
VISUAL_UV: Final = _state("visual potential at the cue", 6.0, "µV", "A", "existence E")
VISUAL_S: Final = _state("visual potential", (0.10, 0.02, 0.17, 0.03), "s (P1 centre, sd, N1 centre, sd)", "A", "existence E")
INNOCUOUS: Final = _state("innocuous stimulus", 0.3, "of the calibrated noxious one, as felt", "A", "")

# ---- belief and behaviour

BELIEF_START: Final = _state("belief before learning", 0.5, "", "A", "")
BELIEF_NOISE: Final = _state(
    "belief noise", {"HC": 0.12, "CC": 0.12, "FM": 0.12, "normative": 0.0}, "sd a trial", "A",
    "without it markers explain everything",
)  # fmt: skip
TRAITS: Final = _state(
    "learning rate, persistence, gain of the error",
    {
        "HC": (0.25, 0.08, 0.03, 0.03, 1.0, 0.15),
        "CC": (0.22, 0.08, 0.06, 0.05, 1.1, 0.2),
        "FM": (0.08, 0.04, 0.15, 0.08, 1.15, 0.2),
        "normative": (0.25, 0.0, 0.0, 0.0, 1.0, 0.0),
    },
    "mean and sd of alpha, p, g; |PE| = g |u - v| + p",
    "A",
    "direction S: Meulders 2015-18, Jenewein 2013 (slower acquisition, impaired extinction); sizes invented; normative: "
    "nobody, but the learner that the evidence is measured against, so that every gate of theirs is false",
)
ALPHA_LIMITS: Final = _state("limits of the learning rate", (0.02, 0.6), "", "A", "what is drawn beyond is moved there")
GAIN_LEAST: Final = _state("least gain of the error", 0.2, "", "A", "")
VERTEX_GAIN: Final = _state("N2-P2 by group", _by_group(CC=1.3), "times", "A", "contested: de Tommaso 2011-17")
MUSCLE_GAIN: Final = _state("muscle by group", _by_group(CC=1.5), "times", "A", "anxiety; size invented")
PAIN_GAIN: Final = _state("pain by group", _by_group(FM=1.3), "times", "A", "hyperalgesia E; size invented")
ALPHA_GAIN: Final = _state("alpha by group", _by_group(FM=0.8), "times", "S", "Villafaina 2019: alpha-2 down")
AWARE: Final = _state(
    "contingency awareness", _by_group(CC=0.86, FM=0.5), "probability", "S", "Meulders: RA patients stand in for CC"
)
PAIN_BY_EXPECTATION: Final = _state("pain that expectation makes", 0.3, "of the whole", "A", "ratings follow expectation: E")
PAIN_INNOCUOUS: Final = _state("rating of an innocuous stimulus", 0.2, "of its intensity", "A", "")
PAIN_BY_EFFECT: Final = _state(
    "pain that the effect on the error takes", 0.5, "times the effect", "A", "S: Bocci 2015 (reversed)"
)
RATING_SD: Final = _state("rating noise", 6.0, "of 100", "A", "")
TOUCH: Final = _state("weight of touch in block T", 0.5, "|PE| of an omission that was certain", "A", "")
JITTERED: Final = _state(
    "belief in a jittered beat", 0.4, "of that in a regular one", "A", "direction S: Andersen & Dalal 2021"
)
TRAIN_NOISE: Final = _state("belief noise in a train", 0.5, "of that after a cue", "A", "")
NEW_TRAIN: Final = _state("surprise of a train's first touch", 1.0, "", "A", "theta at new trains S: Andersen & Dalal 2021")

# ---- response to current

FULL_CURRENT_MA: Final = _state("current that counts as 1", 2.0, "mA, cathodal", "E", "what cerebellar studies of pain used")
FAST_S: Final = _state("fast effect", 5.0, "s", "A", "immediate polarisation E; time constant invented")
SLOW_ON_S: Final = _state("slow effect while current flows", 300.0, "s", "A", "minutes needed: S, PMC1474757")
SLOW_OFF_S: Final = _state("slow effect afterwards", 1800.0, "s", "A", "minutes to hours after minutes of current: S")
EFFECT: Final = _state(
    "effect", (0.10, 0.25), "of |PE| (fast, slow) at 2 mA", "A", "sign is a hypothesis: paper, reversed, null"
)
EFFECT_SPREAD: Final = _state("effect over people", 0.6, "sd, mean 1", "A", "responders differ: E")
EFFECT_MOST: Final = _state("largest effect", 0.9, "", "A", "so that no error changes sign")
STATE_TRIALS: Final = _state("recent errors", 8.0, "trials", "A", "what state-dependent plasticity looks at")
STATE_MIDDLE: Final = _state("ordinary recent error", 0.5, "|PE|", "A", "where state-dependent plasticity has gain 1")

# ---- what current does to the recording

PAD_MV_PER_MA: Final = _state("offset beside the pad", 150.0, "mV/mA", "A", "tens to over 100 mV near pads at 1 to 2 mA")
PAD_FAR: Final = _state("offset far from the pad", 0.1, "of that beside it", "A", "10 to 15 mV/mA")
PAD_REACH_M: Final = _state("reach of the pad", 0.035, "m", "A", "gives about 50 mV/mA half way")
CREEP: Final = _state("offset that creeps in", 0.1, "of the offset", "A", "drift of contacts")
CREEP_S: Final = _state("creep", 30.0, "s", "A", "electrode polarisation: 20 to 60 s")
CORNER: Final = _state(
    "transient at ramp corners", 0.05, "of the offset", "A", "electrode interface, beside the offset's own corner"
)
CORNER_S: Final = _state("transient at ramp corners, time", 0.3, "s", "A", "")
HEART_UV_PER_MA: Final = _state("heartbeat beside the pad", 15.0, "µV/mA", "A", "existence E: Gebodh 2019, Noury 2016; 5 to 20")
HEART_SHAPE: Final = _state(
    "heartbeat's shape", (0.03, -0.4, 0.25, 0.08), "sd s; then size, delay s, sd s", "A", "QRS, then T wave"
)
HEART_S: Final = _state("heartbeat", (0.86, 0.04), "s apart (mean, sd)", "E", "70 a minute")
BREATH_UV_PER_MA: Final = _state("breathing beside the pad", 20.0, "µV/mA", "A", "existence E: Noury 2016")
BREATH_HZ: Final = _state("breathing", 0.25, "Hz", "E", "15 a minute")
HEART_BY_BREATH: Final = _state("heartbeat artefact that breathing moves", 0.3, "share", "A", "non-linear: S, Noury 2016")
CONTACT_UV_PER_MA: Final = _state("contact noise beside the pad", 2.0, "µV/mA", "A", "")
BLINK_PER_MA: Final = _state("blinks under current", 0.1, "larger per mA", "A", "ocular distortion E: Gebodh 2019")
RAIL_UV: Final = _state("amplifier limit", 187_500.0, "µV", "E", "24-bit converter at gain 24; AC-coupled ones have 3200")
STEP_UV: Final = _state("amplifier step", 1.0 / 32.0, "µV", "A", "so that the last bits of the arithmetic never show")

ASSUMPTIONS: Final = tuple(_stated)
"""All of them, in order."""
