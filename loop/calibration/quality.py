"""The quality page of a calibration: one HTML file of words and pictures that says whether to go on, and why."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any, Final

import mne
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from loop.calibration.errors import CalibrationError
from loop.calibration.make import Made
from loop.estimators import registry
from loop.estimators.protocol import Plugin
from loop.montage import standard_label

Float64s = npt.NDArray[np.float64]

_COLOURS: Final = {"go on": "#17692f", "go on with care": "#8a5a00", "do not go on": "#a01818"}
_FIGURES: Final = {
    "clean_rest_s": "clean rest, s",
    "channels": "channels in use",
    "relative_sensitivity": "sensitivity left by pads and bad channels (1: none lost)",
    "invalid_share": "share of disturbed outcomes",
    "trials": "trials the readout rests on",
    "r_cv": "readout against what it shall follow, on trials it was not fitted on: r",
    "r_cv_low": "… 95 % interval from",
    "r_cv_high": "… to",
    "equal_nam": "source that equals the output at rest, nAm",
    "other_side": "what passes from the other side (0: nothing)",
    "visual": "what passes from V1 (0: nothing)",
    "midcingulate": "what passes from the midcingulate cortex (0: nothing)",
}


def page_of(made: Made, path: Path) -> Path:
    """Write the page.

    Parameters
    ----------
    made : Made
        A calibration with what it was made from.
    path : Path
        Where to; an existing page is replaced.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    CalibrationError
        If it cannot be written.
    """
    calibration = made.calibration
    rows = "".join(
        f"<tr><td>{html.escape(_words(name))}</td><td>{value:.3g}</td></tr>"
        for name, value in sorted(calibration.quality.items(), key=lambda item: _place(item[0]))
    )
    bad = "".join(f"<li>{html.escape(name)}: {html.escape(why)}</li>" for name, why in calibration.rest.bad.items())
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in calibration.notes)
    plugin = registry.find(calibration.estimator)
    pictures = [_patterns(made), _spectra(made), _trials(made, plugin)]
    text = f"""<!doctype html><html lang="en"><meta charset="utf-8">
<title>calibration of {html.escape(calibration.participant)}</title>
<style>body{{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}}td{{padding:0 1em 0 0}}img{{max-width:100%}}
h1 span{{color:{_COLOURS.get(calibration.verdict, "#a01818")}}}</style>
<h1>Calibration: <span>{html.escape(calibration.verdict)}</span></h1>
<p>Participant {html.escape(calibration.participant)}, estimator {html.escape(calibration.estimator)},
made {calibration.created}, good until {calibration.expires}.
Left out on demand: {html.escape(", ".join(calibration.excluded) or "nothing")}.</p>
<ul>{notes}</ul>{f"<p>Channels found bad:</p><ul>{bad}</ul>" if bad else ""}
{"".join(f'<p><img alt="{alt}" src="data:image/png;base64,{data}"></p>' for alt, data in pictures if data)}
<table>{rows}</table>
<p>{html.escape(plugin.claim)} Research use only.</p></html>
"""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CalibrationError(f"{path}: {(error.strerror or str(error)).lower()}; name another file with --out") from error
    return path


def _split(name: str) -> tuple[str, str]:
    """A figure's kind, and the band and side that it is of, if any."""
    kind = next((known for known in _FIGURES if name.endswith(f"_{known}")), name) if name not in _FIGURES else name
    return kind, name.removesuffix(kind).strip("_").replace("_", " ") if kind != name else ""


def _words(name: str) -> str:
    kind, where = _split(name)
    return _FIGURES.get(kind, kind) + (f", {where}" if where else "")


def _place(name: str) -> tuple[int, str]:
    kind, where = _split(name)
    names = list(_FIGURES)
    return names.index(kind) if kind in names else len(names), where


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return base64.b64encode(buffer.getvalue()).decode()


def _filters(made: Made) -> dict[str, Float64s]:
    n = len(made.calibration.layout.labels)
    return {k: v.array for k, v in made.calibration.rest.coefficients.items() if v.shape == (n,)}


def _patterns(made: Made) -> tuple[str, str]:
    """Where on the scalp each filter's output shows at rest (covariance times weights): what it picks up, not its weights."""
    filters = _filters(made)
    if not filters:
        return "patterns", ""
    used = np.any([weights != 0.0 for weights in filters.values()], axis=0)
    names = [standard_label(label) for label, one in zip(made.calibration.layout.labels, used, strict=True) if one]
    info = mne.create_info(names, made.calibration.layout.sfreq_hz, "eeg")
    known = mne.channels.get_builtin_montages()
    info.set_montage("colin27_1005" if "colin27_1005" in known else "standard_1005", on_missing="ignore", verbose="ERROR")
    samples = np.nan_to_num(made.rest_uv[:, used])
    samples -= samples.mean(axis=1, keepdims=True)
    covariance = samples.T @ samples / len(samples)
    figure = Figure(figsize=(10, 3), layout="constrained")
    for axes, (name, weights) in zip(figure.subplots(1, len(filters), squeeze=False)[0], filters.items(), strict=True):
        mne.viz.plot_topomap(covariance @ weights[used], info, axes=axes, show=False, contours=4)
        axes.set_title(name.replace("_", " "), fontsize=9)
    return "scalp patterns of the spatial filters", _png(figure)


def _spectra(made: Made) -> tuple[str, str]:
    filters = _filters(made)
    if not filters or len(made.rest_uv) < 2 * made.calibration.layout.sfreq_hz:
        return "spectra", ""
    from scipy import signal

    sfreq_hz = made.calibration.layout.sfreq_hz
    samples = np.nan_to_num(made.rest_uv)
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    for name, weights in filters.items():
        frequencies, power = signal.welch(samples @ weights, sfreq_hz, nperseg=round(2 * sfreq_hz), average="median")
        shown = (frequencies >= 1.0) & (frequencies <= min(100.0, 0.45 * sfreq_hz))
        axes.loglog(frequencies[shown], power[shown], label=name.replace("_", " "), linewidth=1)
    axes.set(xlabel="Hz", ylabel="µV²/Hz", title="spectra of the filtered rest")
    axes.legend(fontsize=8)
    return "spectra of the filtered rest", _png(figure)


def _trials(made: Made, plugin: Plugin) -> tuple[str, str]:
    """Index against what it shall follow, trial by trial."""
    readout = made.calibration.readout
    if readout is None:
        return "trials", ""
    target = plugin.target_of(made.outcomes)
    points = [
        (value, readout.apply(row.tolist()))
        for value, row in zip(target.tolist(), made.features, strict=True)
        if np.isfinite(value) and np.isfinite(row).all()
    ]
    if not points:
        return "trials", ""
    error, value = np.array(points).T
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes: Any = figure.subplots()
    axes.plot(error, value, ".", alpha=0.6)
    line = np.array([0.0, 1.0])
    axes.plot(line, readout.b0 + readout.b1 * line, "k-", linewidth=1)
    axes.set(xlabel=plugin.target, ylabel="E", title="points: fitted on them; line: holds on new trials")
    return f"index against {plugin.target}, with the line that holds on trials the readout was not fitted on", _png(figure)
