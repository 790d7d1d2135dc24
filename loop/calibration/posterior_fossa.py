"""What rest teaches the posterior-fossa estimator: spatial filters per band and side, bad channels, expected sensitivity."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from loop.calibration.file import Array, Rest
from loop.calibration.head_model import head_model
from loop.calibration.rest import rest_statistics
from loop.calibration.spatial import Side, lcmv_weights, lead_fields, relative_sensitivity, sensitivity
from loop.config import Config
from loop.estimator import design
from loop.events import Layout
from loop.montage import is_eeg_label, standard_label

Float64s = npt.NDArray[np.float64]


def learn_rest(config: Config, layout: Layout, rest_uv: Float64s) -> Rest:
    """Spatial filters for the channels that remain once pads, known bad ones and newly found bad ones are out (K1).

    Parameters
    ----------
    config : Config
        Uses `channels` and `estimator.forward`.
    layout : Layout
    rest_uv : ndarray, shape (n_times, n_channels)
        Rest without task and current, in microvolts.

    Returns
    -------
    Rest
        `figures`: for each band and side ``equal_nam`` (the source whose output equals that of rest), ``other_side``,
        ``visual`` and ``midcingulate`` (what passes from there, relative to the side itself); ``relative_sensitivity``, the
        worst of them, against the same cap with nothing left out.

    Raises
    ------
    CalibrationError
        If there is too little clean rest, too few good channels, or no usable head model.
    """
    out = {standard_label(label) for label in (*config.channels.bad, *config.channels.pads)}
    eeg = np.array([is_eeg_label(label) for label in layout.labels])
    candidates = eeg & np.array([standard_label(label) not in out for label in layout.labels])
    found = rest_statistics(
        rest_uv,
        layout.sfreq_hz,
        layout.labels,
        candidates,
        design(layout.sfreq_hz, config.channels.line_hz),
        rail_uv=config.channels.rail_uv,
        line_hz=config.channels.line_hz,
    )
    head = head_model(layout.labels, layout.positions_m or None, config.estimator.forward or None)
    fields = lead_fields(head, found.good)
    coefficients: dict[str, Array] = {}
    figures: dict[str, float] = {"clean_rest_s": found.clean_s, "channels": float(found.good.sum())}
    relative = []
    sides: tuple[tuple[Side, Float64s], ...] = (("left", fields.left), ("right", fields.right))
    bands = (
        ("theta", found.covariance_theta, found.sd_theta_uv, found.floor_theta_uv),
        ("beta", found.covariance_beta, found.sd_beta_uv, found.floor_beta_uv),
    )
    for band, covariance, sd_uv, floor_uv in bands:
        noise_uv = float(np.median(floor_uv[found.good]))
        coefficients[f"{band}_both"] = Array.of(lcmv_weights(covariance, fields.left + fields.right, found.good))
        brain_uv = float(np.sqrt(max(np.median(sd_uv[found.good]) ** 2 - noise_uv**2, 1e-6)))
        for side, lead in sides:
            weights = lcmv_weights(covariance, lead, found.good)
            coefficients[f"{band}_{side}"] = Array.of(weights)
            worth = sensitivity(head, found.good, side, weights, covariance)
            figures |= {
                f"{band}_{side}_equal_nam": worth.equal_nam,
                f"{band}_{side}_other_side": worth.other_side,
                f"{band}_{side}_visual": worth.visual,
                f"{band}_{side}_midcingulate": worth.midcingulate,
            }
            relative.append(
                relative_sensitivity(head, found.good, head, eeg & head.placed, side, brain_uv=brain_uv, noise_uv=noise_uv)
            )
    figures["relative_sensitivity"] = min(relative)
    return Rest(coefficients=coefficients, bad=found.bad, figures=figures, notes=(f"head model: {head.kind}", *found.notes))
