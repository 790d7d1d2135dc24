"""A test kit for estimators: what a session relies on, asked of any plug-in.

A plug-in's own tests call `check_plugin` with the configurations and layouts that it means to serve::

    from loop.estimators.kit import check_plugin

    def test_it_keeps_the_protocol():
        check_plugin(MyPlugin(), config, layout)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cext import Output
from loop import config as configuration
from loop.calibration import file
from loop.calibration.errors import CalibrationError
from loop.calibration.file import Calibration
from loop.config import Config
from loop.estimators.protocol import Estimator, KnownOutcome, Plugin
from loop.events import Layout, SourceInfo
from loop.readout import Readout, ReadoutError

Float64s = npt.NDArray[np.float64]
Make = Callable[[], Estimator]

FRAME_RATE_HZ: Final = 50
_AFTER_WARMUP_S: Final = 9.0
_SPREAD_UV: Final = 10.0
_REST_S: Final = 30.0
_FITTED: Final = 160
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_DTYPES: Final = ("i8", "f8", "u4", "u1", "i8", "i8", "f8", "f8", "u1", "i8")


class _Scene(NamedTuple):
    """A made-up recording: samples (n, n_channels) in µV, exclusion (n,), and impulses (k, 3) by absolute sample."""

    samples: Float64s
    exclude: npt.NDArray[np.uint8]
    impulses: npt.NDArray[np.int64]

    def play(self, estimator: Estimator, cuts: Sequence[int] = ()) -> Output:
        """All outputs of the scene, given in the chunks that `cuts` (absolute samples) make."""
        parts, start = [], 0
        for stop in [*sorted(cuts), len(self.samples)]:
            parts.append(self.part(estimator, start, stop))
            start = stop
        return Output(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def part(self, estimator: Estimator, start: int, stop: int) -> Output:
        """The outputs of samples `start` to `stop`; a chunk brings the impulses that lie in it."""
        inside = (self.impulses[:, 0] >= start) & (self.impulses[:, 0] < stop)
        rows = self.impulses[inside] - np.array([start, 0, 0])
        return estimator.kernel.process(self.samples[start:stop].copy(), self.exclude[start:stop].copy(), rows)


def check_plugin(plugin: Plugin, config: Config, layout: Layout, seed: int = 1) -> None:
    """Ask of a plug-in what a session relies on.

    Parameters
    ----------
    plugin : Plugin
    config : Config
        `estimator.kind` should name the plug-in; channels and warm-up are used as a session would.
    layout : Layout
        A stream that the plug-in serves.
    seed : int
        Of the made-up samples.

    Raises
    ------
    AssertionError
        With a sentence that says what does not hold. It asks in turn: name, summary and the calibration it needs; shapes and
        names; the same bytes for any chunks; nothing from the future; states that continue; no trace of excluded samples;
        missing samples flagged and recovered from; breaks; the fit.
    """
    _check_words(plugin)
    calibration = _calibration(plugin, config, layout, seed)

    def make() -> Estimator:
        return plugin.build(config, layout, calibration)

    first = make()
    _check_description(first, layout)
    scene = _scene(layout, config.estimator.warmup_s, seed)
    whole = scene.play(first)
    _check_shapes(first, whole, scene, layout)
    _check_chunks(make, scene, whole, seed)
    _check_future(make, scene, whole, seed)
    _check_states(make, scene, whole)
    _check_exclusion(make, scene, layout, seed)
    _check_missing(make, scene, config.estimator.warmup_s, layout)
    _check_break(make, scene)
    _check_fit(plugin, first.learned, seed)


# ---- what it says of itself


def _check_words(plugin: Plugin) -> None:
    _demand(
        isinstance(plugin.name, str) and _NAME.fullmatch(plugin.name) is not None,
        f"its name is {plugin.name!r}; a configuration can name lower-case letters, digits and underscores",
    )
    _demand(
        isinstance(plugin.summary, str) and plugin.summary != "" and "\n" not in plugin.summary,
        "its summary is not one line",
    )
    _demand(isinstance(plugin.needs_calibration, bool), "`needs_calibration` is not True or False")


def _calibration(plugin: Plugin, config: Config, layout: Layout, seed: int) -> Calibration | None:
    """A draft as `cereloop calibrate` makes it, from made-up rest; None where the plug-in does without."""
    if not plugin.needs_calibration:
        return None
    try:
        plugin.build(config, layout, None)
    except CalibrationError:
        pass
    else:
        _demand(ok=False, sentence="it says that it needs a calibration, and is built without one")
    rest = plugin.learn_rest(config, layout, _noise(round(_REST_S * layout.sfreq_hz), layout, seed))
    draft = Calibration(
        version=file.VERSION,
        estimator=plugin.name,
        participant=config.session.participant,
        created="2000-01-01",
        expires="2000-01-31",
        layout=layout,
        layout_sha256=file.montage_digest(layout),
        excluded=(*config.channels.bad, *config.channels.pads),
        rest=rest,
        readout=None,
        quality={},
        verdict="draft",
        notes=(),
        source=SourceInfo(kind="patient", identity="kit", simulated=True, dtype="float64"),
        config=configuration.encode(config).decode(),
        versions={},
    )
    read_back = file.decode(file.encode(draft))
    _demand(read_back == draft, "what it learned at rest does not survive being written to a file")
    return read_back


def _check_description(estimator: Estimator, layout: Layout) -> None:
    n = len(layout.labels)
    _demand(isinstance(estimator.name, str) and estimator.name != "", "its estimator has no name")
    for what in ("columns", "learned"):
        names = getattr(estimator, what)
        fits = isinstance(names, tuple) and len(names) > 0 and all(isinstance(name, str) and name for name in names)
        _demand(fits and len(set(names)) == len(names), f"`{what}` is not a tuple of different names")
    _demand(
        isinstance(estimator.notes, tuple) and all(isinstance(note, str) and note for note in estimator.notes),
        "`notes` is not a tuple of sentences",
    )
    _demand(
        estimator.used.shape == (n,) and estimator.used.dtype == np.bool_ and bool(estimator.used.any()),
        f"`used` does not say for each of {n} channels whether it is used, or none is",
    )
    _demand(
        estimator.scale_uv.shape == (n,) and bool(np.isfinite(estimator.scale_uv).all()),
        f"`scale_uv` is not one finite factor for each of {n} channels",
    )
    _demand(isinstance(estimator.is_stand_in, bool), "`is_stand_in` is not True or False")
    readout = estimator.readout
    _demand(
        readout is None or (isinstance(readout, Readout) and readout.names == estimator.learned),
        "its readout rests on other features than `learned` names",
    )
    _demand(estimator.kernel.sample_count == 0, "a new kernel's sample count is not 0")


# ---- what it computes


def _check_shapes(estimator: Estimator, out: Output, scene: _Scene, layout: Layout) -> None:
    n, n_frames, n_events = len(scene.samples), len(out.frame_sample), len(out.event_id)
    shapes = (
        (n_frames,), (n_frames, len(estimator.columns)), (n_frames,), (n_frames, len(layout.labels)),
        (n_events,), (n_events,), (n_events, len(estimator.learned)), (n_events,), (n_events,), (n_events,),
    )  # fmt: skip
    for name, array, shape, dtype in zip(Output._fields, out, shapes, _DTYPES, strict=True):
        _demand(
            array.shape == shape and array.dtype == np.dtype(dtype),
            f"`{name}` has shape {array.shape} and type {array.dtype}, not {shape} and {np.dtype(dtype)}",
        )
    _demand(estimator.kernel.sample_count == n, "its sample count is not the number of samples it was given")
    wanted = n / layout.sfreq_hz * FRAME_RATE_HZ
    _demand(abs(n_frames - wanted) <= 2, f"it gave {n_frames} frames, not {wanted:.0f} ({FRAME_RATE_HZ} a second)")
    steps = np.diff(out.frame_sample)
    _demand(
        bool((steps > 0).all()) and bool((out.frame_sample >= 0).all()) and bool((out.frame_sample < n).all()),
        "its frames are not in order, or lie beyond the samples given",
    )
    _demand(not out.frame_flags[-FRAME_RATE_HZ:].any(), "clean samples are still flagged long after warm-up")
    asked = {int(ident): int(sample) for sample, _, ident in scene.impulses.tolist() if ident >= 0}
    _demand(len(set(out.event_id.tolist())) == n_events, "an event came out twice")
    for ident, sample, decided in zip(
        out.event_id.tolist(), out.event_sample.tolist(), out.event_tick_sample.tolist(), strict=True
    ):
        _demand(asked.get(ident) == sample, f"event {ident} came out with sample {sample}, not {asked.get(ident)}")
        _demand(sample <= decided < n, f"event {ident} of sample {sample} says it was decided at {decided}")
    valid = out.event_valid != 0
    _demand(bool(valid.any()), "none of the events amid clean samples is valid")
    _demand(
        bool(np.isfinite(out.event_features[valid]).all()) and bool(np.isin(out.event_valid, (0, 1)).all()),
        "an event that counts as valid has features that are not finite",
    )


def _check_chunks(make: Make, scene: _Scene, whole: Output, seed: int) -> None:
    n = len(scene.samples)
    rng = np.random.default_rng(seed)
    single = range(n // 2, n // 2 + 40)
    ways = (sorted(rng.integers(0, n, 30).tolist() * 2), [*single], [*range(16, n, 16)])
    states = set()
    for cuts in ways:
        estimator = make()
        _demand(_same(scene.play(estimator, cuts), whole), "other chunks of the same samples give other outputs (I14)")
        states.add(estimator.kernel.get_state())
    _demand(len(states) == 1, "other chunks of the same samples lead to another state (I14)")
    estimator = make()
    before = estimator.kernel.get_state()
    empty = scene.part(estimator, 0, 0)
    _demand(not len(empty.frame_sample) and not len(empty.event_id), "a chunk without samples gives outputs")
    _demand(estimator.kernel.get_state() == before, "a chunk without samples changes the state")


def _check_future(make: Make, scene: _Scene, whole: Output, seed: int) -> None:
    n = len(scene.samples)
    for share in (0.45, 0.6, 0.75, 0.9):
        now = round(share * n)
        samples = scene.samples.copy()
        samples[now:] += 5.0 * _SPREAD_UV * np.random.default_rng(seed).standard_normal(samples[now:].shape)
        late = scene.impulses[:, 0] >= now
        other = _Scene(samples, scene.exclude, scene.impulses[~late]).play(make())
        _demand(
            _same(_until(other, now), _until(whole, now)),
            "what it gave out by some sample changes with samples or markers after it: it looks ahead (I18)",
        )


def _check_states(make: Make, scene: _Scene, whole: Output) -> None:
    n = len(scene.samples)
    for split in (0, n // 3, 2 * n // 3 + 1):
        one, two = make(), make()
        head = scene.part(one, 0, split)
        state = one.kernel.get_state()
        _demand(isinstance(state, bytes) and len(state) > 0, "its state is not bytes")
        two.kernel.set_state(state)
        _demand(two.kernel.get_state() == state, "a state that was set is not the state that is read")
        tail = scene.part(two, split, n)
        both = Output(*(np.concatenate(pair) for pair in zip(head, tail, strict=True)))
        _demand(_same(both, whole), "a state does not hold all that the next output depends on")


def _check_exclusion(make: Make, scene: _Scene, layout: Layout, seed: int) -> None:
    n = len(scene.samples)
    start, stop = round(0.4 * n), round(0.4 * n + layout.sfreq_hz)
    exclude = scene.exclude.copy()
    exclude[start:stop] = 1
    impulses = np.concatenate([scene.impulses, [[start + (stop - start) // 2, -1, 900]]])
    outs = []
    for offset in (0.0, 500.0):
        samples = scene.samples.copy()
        samples[start:stop] = offset + _noise(stop - start, layout, seed + 1 + round(offset)) * (1.0 + offset / 50.0)
        outs.append(_Scene(samples, exclude, impulses[np.argsort(impulses[:, 0], kind="stable")]).play(make()))
    here, there = outs
    _demand(
        here.frames.tobytes() == there.frames.tobytes() and _same_events(here, there),
        "samples that were excluded (current was flowing) leave a trace in what it gives out (I16)",
    )
    inside = (here.frame_sample >= start) & (here.frame_sample < stop)
    _demand(bool((here.frame_flags[inside] != 0).all()), "frames from excluded samples carry no flag")
    _demand(not here.event_valid[here.event_id == 900].any(), "an event amid excluded samples counts as valid")


def _check_missing(make: Make, scene: _Scene, warmup_s: float, layout: Layout) -> None:
    n = len(scene.samples)
    gap = round((warmup_s + 1.0) * layout.sfreq_hz)
    estimator = make()
    for value in (np.nan, np.inf):
        samples = scene.samples.copy()
        samples[gap, int(np.flatnonzero(estimator.used)[0])] = value
        impulses = np.concatenate([scene.impulses, [[gap, -1, 901]]])
        out = _Scene(samples, scene.exclude, impulses[np.argsort(impulses[:, 0], kind="stable")]).play(make())
        _demand(bool(out.frame_flags[out.frame_sample >= gap][0] != 0), f"a sample that is {value} in a used channel is not flagged")
        _demand(not out.event_valid[out.event_id == 901].any(), f"an event at a sample that is {value} counts as valid")
        last = out.frames[-1]
        _demand(
            not out.frame_flags[-FRAME_RATE_HZ:].any() and bool(np.isfinite(last[np.isfinite(scene.play(make()).frames[-1])]).all()),
            f"it does not recover from one sample that is {value}",
        )
    if not estimator.used.all():
        samples = scene.samples.copy()
        samples[n // 2 :, int(np.flatnonzero(~estimator.used)[0])] = np.nan
        out, plain = _Scene(samples, scene.exclude, scene.impulses).play(make()), scene.play(make())
        _demand(
            out.frames.tobytes() == plain.frames.tobytes() and _same_events(out, plain),
            "a channel that it does not use, according to `used`, changes what it gives out",
        )


def _check_break(make: Make, scene: _Scene) -> None:
    n = len(scene.samples)
    estimator = make()
    split = int(scene.impulses[scene.impulses[:, 2] >= 0][-1, 0]) + 1
    head = scene.part(estimator, 0, split)
    lost = estimator.kernel.reset_segment()
    asked = scene.impulses[(scene.impulses[:, 2] >= 0) & (scene.impulses[:, 0] < split), 2].tolist()
    _demand(not len(lost.frame_sample), "a break gives frames")
    _demand(
        sorted([*head.event_id.tolist(), *lost.event_id.tolist()]) == sorted(asked) and not lost.event_valid.any(),
        "a break does not give back every waiting event once, as not valid",
    )
    _demand(estimator.kernel.sample_count == split, "a break changes the sample count")
    _demand(not len(estimator.kernel.reset_segment().event_id), "a second break gives events again")
    rows = np.array([[0, -1, 902]], dtype=np.int64)
    out = estimator.kernel.process(scene.samples[split:].copy(), scene.exclude[split:].copy(), rows)
    _demand(bool(out.frame_flags[0] != 0), "the first frame after a break carries no flag: the filters have not settled")
    early = out.event_valid[out.event_id == 902]
    _demand(not early.any(), f"an event in the first sample after a break counts as valid ({n - split} samples later)")


# ---- what it learns


def _check_fit(plugin: Plugin, names: tuple[str, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    told = rng.choice([0.0, 0.25, 0.5, 0.75, 1.0], _FITTED)
    noxious = rng.random(_FITTED) < told
    outcomes = [
        KnownOutcome("NOX" if hit else "INN", f"P{round(100 * p)}/I2", float(hit), float(p))
        for hit, p in zip(noxious.tolist(), told.tolist(), strict=True)
    ]
    features = rng.standard_normal((_FITTED, len(names)))
    features[::9] = np.nan
    readout = plugin.fit(names, features, outcomes)
    _demand(isinstance(readout, Readout) and readout.names == names, "its fit gives no readout of the features it was given")
    lengths = {len(readout.median), len(readout.scale), len(readout.weights)}
    _demand(lengths == {len(names)}, "its readout has not one weight a feature")
    numbers = [*readout.median, *readout.scale, *readout.weights, readout.intercept, readout.b0, readout.b1, readout.sigma]
    _demand(bool(np.isfinite(numbers).all()) and readout.sigma > 0.0, "its readout has numbers that are not finite")
    _demand(min(readout.scale) > 0.0, "its readout divides by zero")
    _demand(plugin.fit(names, features.copy(), outcomes) == readout, "fitting twice on the same outcomes gives two readouts")
    try:
        plugin.fit(names, features[:2], outcomes[:2])
    except ReadoutError:
        return
    _demand(ok=False, sentence="it fits a readout on two outcomes, instead of raising ReadoutError")


# ---- parts


def _demand(ok: bool, sentence: str) -> None:
    if not ok:
        raise AssertionError(sentence)


def _noise(n: int, layout: Layout, seed: int) -> Float64s:
    """Noise about as red as EEG: white, plus a slow part twice as large, around an offset of each channel."""
    rng = np.random.default_rng(seed)
    n_ch = len(layout.labels)
    slow = np.cumsum(rng.standard_normal((n, n_ch)), axis=0) / np.sqrt(layout.sfreq_hz)
    slow -= np.linspace(0.0, 1.0, n)[:, None] * slow[-1:] if n else 0.0
    return 0.5 * _SPREAD_UV * (rng.standard_normal((n, n_ch)) + slow) + rng.normal(0.0, 100.0, n_ch)


def _scene(layout: Layout, warmup_s: float, seed: int) -> _Scene:
    n = round((warmup_s + _AFTER_WARMUP_S) * layout.sfreq_hz)
    rows = []
    for ident, at_s in enumerate((0.5, warmup_s + 2.0, warmup_s + 2.3, warmup_s + 4.5, warmup_s + 6.0, warmup_s + 8.8)):
        sample = round(at_s * layout.sfreq_hz)
        rows.append((sample - round(0.4 * layout.sfreq_hz), ident % 3, -1))
        rows.append((sample, -1, ident))
        rows.append((sample, 3 + ident % 3, -1))
    rows.sort()
    return _Scene(_noise(n, layout, seed), np.zeros(n, dtype=np.uint8), np.array(rows, dtype=np.int64))


def _same(a: Output, b: Output) -> bool:
    return all(x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


def _same_events(a: Output, b: Output) -> bool:
    return all(x.tobytes() == y.tobytes() for x, y in zip(a[4:], b[4:], strict=True))


def _until(out: Output, now: int) -> Output:
    """What was given out by samples before `now`."""
    frames, events = out.frame_sample < now, out.event_tick_sample < now
    return Output(*(array[frames] for array in out[:4]), *(array[events] for array in out[4:]))
