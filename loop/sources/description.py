"""What a stream says of itself: the XDF/LSL meta-data of an EEG stream, turned into a layout or refused.

Pure functions over untrusted text (I29): bounded in size, and every defect is a `SourceError` that names the
channel.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from xml.etree import ElementTree as ET

from loop.events import Layout
from loop.montage import is_eeg_label
from loop.sources.errors import SourceError
from loop.sources.units import microvolts_per

MAX_DESCRIPTION_BYTES: Final = 4 * 1024 * 1024
MAX_CHANNELS: Final = 1024
MIN_RATE_HZ: Final = 128.0
MAX_RATE_HZ: Final = 4096.0

# A head's radius; outside it numbers are neither metres nor millimetres from its centre.
_HEAD_M: Final = (0.04, 0.25)

Position = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel as described; empty where the stream says nothing.

    `position` is in the stream's own unit of length.
    """

    label: str
    unit: str
    type: str
    position: Position | None


@dataclass(frozen=True, slots=True)
class Description:
    """The part of a stream's description that matters here."""

    channels: tuple[Channel, ...]
    simulated: bool


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _position(x: str | None, y: str | None, z: str | None) -> Position | None:
    values = (_number(x), _number(y), _number(z))
    if values[0] is None or values[1] is None or values[2] is None:
        return None
    return values[0], values[1], values[2]


def _child(element: ET.Element, name: str) -> str:
    return (element.findtext(name) or "").strip()


def from_xml(text: str) -> Description:
    """Read the description that an LSL stream sends.

    Parameters
    ----------
    text : str
        The XML of ``lsl_get_xml``.

    Returns
    -------
    Description
        Channels in order; as many as are described, which may differ from what the stream carries.

    Raises
    ------
    SourceError
        If the text is too large, is no XML, declares entities, or describes too many channels.
    """
    if len(text) > MAX_DESCRIPTION_BYTES:
        raise SourceError(
            f"The stream's description is larger than {MAX_DESCRIPTION_BYTES} characters; no EEG amplifier needs that."
        )
    if "<!" in text.replace("<!--", ""):
        raise SourceError("The stream's description contains XML declarations (<!...>), which LSL never writes.")
    try:
        root = ET.fromstring(text)  # noqa: S314  # bounded and free of declarations, hence of entities
    except (ET.ParseError, ValueError, RecursionError) as error:
        raise SourceError(f"The stream's description is not valid XML: {error}.") from error
    channels: list[Channel] = []
    for element in root.iterfind("desc/channels/channel"):
        if len(channels) == MAX_CHANNELS:
            raise SourceError(f"The stream describes more than {MAX_CHANNELS} channels.")
        place = element.find("location")
        channels.append(
            Channel(
                label=_child(element, "label"),
                unit=_child(element, "unit"),
                type=_child(element, "type"),
                position=None if place is None else _position(place.findtext("X"), place.findtext("Y"), place.findtext("Z")),
            )
        )
    simulated = (root.findtext("desc/cereloop/simulated") or "").strip().lower() == "true"
    return Description(tuple(channels), simulated)


def _first(node: Any, name: str) -> Any:
    """First child `name` of a node of pyxdf, where each child is a list and an empty one None."""
    if not isinstance(node, Mapping):
        return None
    found = node.get(name)
    return found[0] if isinstance(found, Sequence) and not isinstance(found, str) and found else None


def _text(node: Any, name: str) -> str:
    value = _first(node, name)
    return value.strip() if isinstance(value, str) else ""


def from_pyxdf(info: Mapping[str, Any]) -> Description:
    """Read the description of a stream in an XDF file, as pyxdf's nested dictionaries.

    Parameters
    ----------
    info : mapping
        The ``info`` of a stream.

    Returns
    -------
    Description
        Channels in order; none where the file says nothing.
    """
    desc = _first(info, "desc")
    listed = _first(desc, "channels")
    nodes = listed.get("channel", []) if isinstance(listed, Mapping) else []
    channels = []
    for node in nodes[:MAX_CHANNELS]:
        place = _first(node, "location")
        channels.append(
            Channel(
                label=_text(node, "label"),
                unit=_text(node, "unit"),
                type=_text(node, "type"),
                position=_position(_text(place, "X"), _text(place, "Y"), _text(place, "Z")),
            )
        )
    simulated = _text(_first(desc, "cereloop"), "simulated").lower() == "true"
    return Description(tuple(channels), simulated)


def check_rate(sfreq_hz: float, where: str) -> None:
    """Refuse a sampling rate at which the estimate is not defined.

    Raises
    ------
    SourceError
        If the rate is irregular, or outside 128 to 4096 Hz.
    """
    if not (math.isfinite(sfreq_hz) and sfreq_hz > 0.0):
        raise SourceError(f"{where} has an irregular sampling rate; the loop needs a fixed one, 128 to 4096 Hz.")
    if not MIN_RATE_HZ <= sfreq_hz <= MAX_RATE_HZ:
        raise SourceError(f"{where} is sampled at {sfreq_hz:g} Hz; the loop needs {MIN_RATE_HZ:g} to {MAX_RATE_HZ:g} Hz.")


def choose_eeg(labels: Sequence[str], types: Sequence[str], where: str) -> tuple[list[int], tuple[str, ...]]:
    """Tell scalp electrodes from the rest.

    A channel counts as EEG if its type says so, or says nothing. Amplifiers also label auxiliary inputs as
    EEG, so where at least one label is a site of the 10-05 system, labels that are none are left out; a net
    with names of its own is taken as it is.

    Parameters
    ----------
    labels, types : sequence of str, one a channel
        As the file or stream gives them.
    where : str
        What to call the file or stream in a message.

    Returns
    -------
    chosen : list of int
        Indices of the EEG channels, in order.
    notes : tuple of str
        A sentence on what was left out, if anything was.

    Raises
    ------
    SourceError
        If no channel is left; the message says what there is.
    """
    typed = [i for i, kind in enumerate(types) if kind.strip().lower() in ("eeg", "")]
    if not typed:
        counts: dict[str, int] = {}
        for kind in types:
            counts[kind.upper()] = counts.get(kind.upper(), 0) + 1
        there = ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items())) or "none at all"
        raise SourceError(f"{where} has no EEG channels; it has: {there}.")
    sites = [i for i in typed if is_eeg_label(labels[i])]
    chosen = sites or typed
    left_out = [labels[i] or f"number {i + 1}" for i in range(len(labels)) if i not in set(chosen)]
    notes = (f"Left out, not scalp EEG: {', '.join(left_out)}.",) if left_out else ()
    return chosen, notes


def pick(labels: Sequence[str], wanted: Sequence[str], where: str) -> list[int]:
    """Indices of channels asked for by name.

    Raises
    ------
    SourceError
        If one is not there, or is asked for twice.
    """
    indices = []
    for name in wanted:
        if name not in labels:
            raise SourceError(f"{where} has no channel {name!r}; it has: {', '.join(labels)}.")
        indices.append(list(labels).index(name))
    if not indices or len(set(indices)) != len(indices):
        raise SourceError(f"The channels to be read from {where} must be named once each, and at least one.")
    return indices


def _positions_m(places: Sequence[Position | None]) -> tuple[Position, ...]:
    """Head coordinates in metres, or empty where a channel has none or the numbers fit no head.

    The convention is millimetres, but some software writes metres; a head is never a millimetre wide.
    """
    known = [p for p in places if p is not None]
    if not known or len(known) != len(places):
        return ()
    radius = statistics.median(math.hypot(*p) for p in known)
    scale = 1.0 if radius < 1.0 else 1e-3
    if not _HEAD_M[0] <= radius * scale <= _HEAD_M[1]:
        return ()
    return tuple((x * scale, y * scale, z * scale) for x, y, z in known)


def layout_of(
    description: Description,
    n_channels: int,
    sfreq_hz: float,
    where: str,
    picks: Sequence[str] = (),
    unit: str = "",
) -> tuple[Layout, list[int], tuple[str, ...]]:
    """Turn a description into the layout of its EEG channels.

    Parameters
    ----------
    description : Description
        What the stream says of itself.
    n_channels : int
        How many channels its samples have.
    sfreq_hz : float
        Nominal rate.
    where : str
        What to call the stream in a message.
    picks : sequence of str
        Labels to take instead of all EEG channels.
    unit : str
        Unit to assume for channels that tell none.

    Returns
    -------
    layout : Layout
        Of the channels taken.
    chosen : list of int
        Their places in the stream.
    notes : tuple of str
        What the reader should know.

    Raises
    ------
    SourceError
        If rate, number of channels, a label or a unit is missing or wrong; the message names the channel.
    """
    check_rate(sfreq_hz, where)
    channels = description.channels
    if not channels:
        raise SourceError(
            f"{where} does not describe its {n_channels} channels (no labels); without labels nothing can be placed."
        )
    if len(channels) != n_channels:
        raise SourceError(f"{where} carries {n_channels} channels but describes {len(channels)}.")
    labels = [channel.label for channel in channels]
    notes: tuple[str, ...] = ()
    if picks:
        chosen = pick(labels, picks, where)
    else:
        chosen, notes = choose_eeg(labels, [channel.type for channel in channels], where)
    units, to_uv = [], []
    for i in chosen:
        if not labels[i]:
            raise SourceError(f"Channel number {i + 1} of {where} has no label.")
        told = channels[i].unit or unit
        if not told:
            raise SourceError(f"Channel {labels[i]} of {where} does not say its unit; it must, such as microvolts.")
        factor = microvolts_per(told)
        if factor is None:
            raise SourceError(f"Channel {labels[i]} of {where} is in {told!r}, which is no unit of voltage.")
        units.append(told)
        to_uv.append(factor)
    taken = [labels[i] for i in chosen]
    twice = sorted({label for label in taken if taken.count(label) > 1})
    if twice:
        raise SourceError(f"{where} has more than one channel called {', '.join(twice)}.")
    layout = Layout(
        labels=tuple(taken),
        units=tuple(units),
        to_uv=tuple(to_uv),
        sfreq_hz=sfreq_hz,
        positions_m=_positions_m([channels[i].position for i in chosen]),
    )
    return layout, chosen, notes
