"""The calibration file: everything that an estimator learned of one person, cap and montage, tied to the layout it fits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from loop.calibration.errors import CalibrationError
from loop.events import Layout, SourceInfo
from loop.readout import Readout

VERSION: Final = 1
# The verdict on a calibration that is still being made.
DRAFT: Final = "draft"
DO_NOT_GO_ON: Final = "do not go on"
MAX_BYTES: Final = 16_000_000

Float64s = npt.NDArray[np.float64]


class Array(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A float64 array as text that reads back to the same bits."""

    shape: tuple[int, ...]
    values: tuple[float, ...]

    @classmethod
    def of(cls, array: npt.NDArray[Any]) -> Array:
        """Take an array's values, in C order."""
        return cls(tuple(array.shape), tuple(np.asarray(array, dtype=np.float64).ravel().tolist()))

    @property
    def array(self) -> Float64s:
        """The array again."""
        return np.array(self.values, dtype=np.float64).reshape(self.shape)


class Rest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an estimator learned at rest.

    `coefficients` are the estimator's own; `bad` are channels to leave out, with the reason; `figures` and `notes` are for
    the reader.
    """

    coefficients: dict[str, Array] = {}
    bad: dict[str, str] = {}
    figures: dict[str, float] = {}
    notes: tuple[str, ...] = ()


class Calibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One calibration; `rest` and `readout` are what an estimator uses, all else is to judge and to repeat it.

    `excluded` are the channels left out on demand (pads, known bad ones). `config` is the configuration as canonical JSON,
    `config_sha256` its digest; `source` names the recording by path and SHA-256.
    """

    version: int
    estimator: str
    participant: str
    created: str
    expires: str
    layout: Layout
    layout_sha256: str
    excluded: tuple[str, ...]
    rest: Rest
    readout: Readout | None
    quality: dict[str, float]
    verdict: Annotated[str, Meta(min_length=1)]
    notes: tuple[str, ...]
    source: SourceInfo
    config: str
    versions: dict[str, str]

    @property
    def learner_rate(self) -> float:
        """Rate of the normative learner (K12) that the readout's `b0` and `b1` belong to."""
        return self.quality.get("learner_rate", 0.25)


def encode(calibration: Calibration) -> str:
    """Canonical JSON text: what is written, hashed and put into a session's record."""
    return msgspec.json.format(msgspec.json.encode(calibration, order="deterministic"), indent=1).decode()


def decode(text: str | bytes, where: str = "calibration") -> Calibration:
    """Read back what `encode` wrote.

    Raises
    ------
    CalibrationError
        If the text is no calibration of this version; names the key.
    """
    try:
        calibration = msgspec.json.decode(text, type=Calibration, strict=True)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CalibrationError(f"{where}: not a calibration file: {error}; make one with `cereloop calibrate`") from error
    if calibration.version != VERSION:
        raise CalibrationError(f"{where}: has format {calibration.version}, this software reads {VERSION}; calibrate anew")
    if montage_digest(calibration.layout) != calibration.layout_sha256:
        raise CalibrationError(f"{where}: its layout and the layout's hash do not fit each other; calibrate anew")
    for name, array in calibration.rest.coefficients.items():
        if math.prod(array.shape) != len(array.values) or not np.isfinite(array.values).all():
            raise CalibrationError(f"{where}: coefficients `{name}` are damaged; calibrate anew")
    return calibration


def load(path: str | Path) -> Calibration:
    """Read a calibration file.

    Raises
    ------
    CalibrationError
        If it cannot be read or is none.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        words = (error.strerror or str(error)).lower()
        raise CalibrationError(f"{path}: {words}; give the path of a file that `cereloop calibrate` wrote") from error
    if len(data) > MAX_BYTES:
        raise CalibrationError(f"{path}: longer than {MAX_BYTES} bytes; this is no calibration file")
    return decode(data, str(path))


def save(calibration: Calibration, path: str | Path) -> None:
    """Write a calibration file; an existing one is kept until the new one is whole.

    Raises
    ------
    CalibrationError
        If it cannot be written.
    """
    target = Path(path)
    draft = target.with_name(f".{target.name}.part")
    try:
        draft.write_text(encode(calibration), encoding="utf-8")
        draft.replace(target)
    except OSError as error:
        raise CalibrationError(f"{path}: {(error.strerror or str(error)).lower()}; name another file with --out") from error


def digest(text: str) -> str:
    """SHA-256 of a calibration's text, as hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def montage_digest(layout: Layout) -> str:
    """SHA-256 over labels, their order and the rate: what a calibration is tied to.

    Units are left out: samples are brought to microvolts before a calibration sees them, so that one made from a file serves
    the stream of the same cap.
    """
    return hashlib.sha256(msgspec.json.encode((layout.labels, layout.sfreq_hz))).hexdigest()


def check_fit(calibration: Calibration, layout: Layout, estimator: str, excluded: tuple[str, ...]) -> None:
    """Refuse a calibration that belongs to another estimator, stream or montage.

    Raises
    ------
    CalibrationError
        Saying what differs.
    """
    if calibration.estimator != estimator:
        raise CalibrationError(
            f"the calibration was made for estimator {calibration.estimator}, this session uses {estimator}; calibrate anew"
        )
    if calibration.layout_sha256 != montage_digest(layout):
        raise CalibrationError(
            f"the calibration does not fit this stream: {_difference(calibration.layout, layout)}; calibrate with this cap"
        )
    if set(calibration.excluded) != set(excluded):
        raise CalibrationError(
            f"the calibration left out {_names(calibration.excluded)}, this session leaves out {_names(excluded)} "
            "(`channels.bad`, `channels.pads`); calibrate with the pads where they will be"
        )


def _difference(had: Layout, has: Layout) -> str:
    if had.sfreq_hz != has.sfreq_hz:
        return f"it had {had.sfreq_hz:g} samples a second, this one {has.sfreq_hz:g}"
    if had.labels != has.labels:
        missing = [label for label in had.labels if label not in has.labels]
        more = [label for label in has.labels if label not in had.labels]
        if missing or more:
            return f"missing here: {_names(missing)}; new here: {_names(more)}"
    return "the channels come in another order"


def _names(labels: tuple[str, ...] | list[str] | Mapping[str, str]) -> str:
    return ", ".join(list(labels)[:8]) or "nothing"
