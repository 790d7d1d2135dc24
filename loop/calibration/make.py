"""Makes a calibration: rest teaches the spatial filters, instructed trials the readout, and both are judged for the user."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from loop import config as configuration
from loop.calibration import file
from loop.calibration.file import Calibration, Rest
from loop.calibration.inputs import Take, rest_uv
from loop.calibration.validity import LASTS_DAYS
from loop.config import Config
from loop.estimators import registry
from loop.estimators.protocol import KnownOutcome
from loop.events import Calibrated, Chunk, Marker, SegmentStart
from loop.markers import stated_expectation
from loop.perception import Judged, Perception
from loop.readout import Readout, ReadoutError

Float64s = npt.NDArray[np.float64]

_GOOD_SENSITIVITY: Final = 0.5
_MOST_INVALID: Final = 0.4


class Made(NamedTuple):
    """A calibration, and what its quality page shows: features (n, n_features), the outcomes, and the rest block in µV."""

    calibration: Calibration
    names: tuple[str, ...]
    features: Float64s
    outcomes: tuple[KnownOutcome, ...]
    rest_uv: Float64s


def make(take: Take, config: Config, today: dt.date, versions: dict[str, str], said: Callable[[str], None]) -> Made:
    """Calibrate an estimator on a recording.

    Parameters
    ----------
    take : Take
        The recording, to be played as often as needed.
    config : Config
        Names estimator, channels, pads and vocabulary, as the sessions to come will.
    today : datetime.date
        When; the calibration expires 30 days later.
    versions : dict
        Software, for the record.
    said : callable
        Told what is done next, in a few words.

    Raises
    ------
    LayoutError, CalibrationError, EstimatorError
        If the recording does not do; one sentence says what it lacks.
    """
    plugin = registry.find(config.estimator.kind)
    said("reading the rest block")
    rest_samples = rest_uv(take, config.markers.rename)
    said("learning from rest")
    rest = plugin.learn_rest(config, take.layout, rest_samples)
    draft = Calibration(
        version=file.VERSION,
        estimator=plugin.name,
        participant=config.session.participant,
        created=today.isoformat(),
        expires=(today + dt.timedelta(days=LASTS_DAYS)).isoformat(),
        layout=take.layout,
        layout_sha256=file.montage_digest(take.layout),
        excluded=(*config.channels.bad, *config.channels.pads),
        rest=rest,
        readout=None,
        quality={},
        verdict=file.DRAFT,
        notes=(),
        source=take.source,
        config=configuration.encode(config).decode(),
        versions=versions,
    )
    said("playing the trials through the estimator")
    names, judged = _play(take, config, draft)
    outcomes = tuple(_known(one, config) for one in judged)
    features = np.array(
        [one.features if one.features is not None else (math.nan,) * len(names) for one in judged], dtype=np.float64
    ).reshape(-1, len(names))
    said("fitting the readout")
    readout: Readout | None = None
    problem = ""
    try:
        readout = plugin.fit(names, features, outcomes)
    except ReadoutError as error:
        problem = f"no readout: {error}"
    quality, verdict, notes = judge(rest, readout, features, problem, plugin.target)
    calibration = Calibration(
        **{
            **{name: getattr(draft, name) for name in draft.__struct_fields__},
            "readout": readout,
            "quality": quality,
            "verdict": verdict,
            "notes": notes,
        }
    )
    return Made(calibration, names, features, outcomes, rest_samples)


def judge(
    rest: Rest, readout: Readout | None, features: Float64s, problem: str, target: str
) -> tuple[dict[str, float], str, tuple[str, ...]]:
    """Figures, a verdict (``go on``, ``go on with care``, ``do not go on``) and the reasons for it.

    A cross-validated correlation is trusted where its 95 % interval (Fisher) lies above zero.
    """
    quality = dict(rest.figures)
    facts = list(rest.notes)
    doubts: list[str] = []
    reasons: list[str] = []
    invalid = float(np.isnan(features).any(axis=1).mean()) if len(features) else 1.0
    quality["invalid_share"] = invalid
    if len(features) and invalid > _MOST_INVALID:
        doubts.append(f"{100 * invalid:.0f} % of the outcomes were disturbed: look after impedances, neck and jaw")
    sensitivity = quality.get("relative_sensitivity")
    if sensitivity is not None and sensitivity < _GOOD_SENSITIVITY:
        doubts.append(f"pads and bad channels leave {100 * sensitivity:.0f} % of the full cap's sensitivity: move the pads")
    if readout is None:
        reasons.append(problem)
    else:
        reach = 1.96 / math.sqrt(max(1, readout.n_trials - 3))
        low, high = (math.tanh(math.atanh(readout.r_cv) + side * reach) for side in (-1.0, 1.0))
        quality |= {"r_cv": readout.r_cv, "r_cv_low": low, "r_cv_high": high, "trials": float(readout.n_trials)}
        sentence = (
            f"on trials it was not fitted on, the readout follows {target} with r {readout.r_cv:.2f} "
            f"(95 % interval {low:.2f} to {high:.2f}, {readout.n_trials} trials)"
        )
        if low > 0.0:
            facts.append(sentence)
        else:
            reasons.append(f"{sentence}: it may know nothing, and a closed loop would follow noise")
    verdict = file.DO_NOT_GO_ON if reasons else "go on with care" if doubts else "go on"
    return quality, verdict, (*reasons, *doubts, *facts)


def _play(take: Take, config: Config, draft: Calibration) -> tuple[tuple[str, ...], list[Judged]]:
    """All outcomes of the recording with their features, as a session would judge them."""
    perception = Perception(config)
    perception.take_calibration(Calibrated(t_ns=0, text=file.encode(draft)))
    judged: list[Judged] = []
    for event in take.play():
        match event:
            case SegmentStart():
                perception.start_segment(event)
            case Marker():
                perception.take_marker(event, perception.read_marker(event))
            case Chunk():
                judged += [one for one in perception.take_chunk(event, []).judged if one.meaning is not None]
    return perception.learned, judged


def _known(judged: Judged, config: Config) -> KnownOutcome:
    assert judged.meaning is not None
    text = judged.meaning.text
    return KnownOutcome(
        kind=text.split("/")[1] if text.startswith("STIM/") else text,
        cue=judged.cue,
        intensity=min(1.0, 100.0 * judged.meaning.intensity / config.markers.full_intensity),
        told=stated_expectation(judged.cue, config.markers.grades),
    )
