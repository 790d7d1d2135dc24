"""Tests that every estimator must pass: for our built-ins, and for whoever writes a plug-in.

A plug-in's own test file needs no more than this::

    import pytest
    from loop.estimators.testkit import CHECKS, Subject
    from my_package import PLUGIN

    SUBJECT = Subject(PLUGIN)

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_my_plugin(check):
        check(SUBJECT)

A check raises `BrokenRuleError`, an AssertionError whose sentence says what is wrong. The plug-in need not be registered.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from cext import NO_IMPULSES, Output
from loop.calibration import file
from loop.calibration.errors import CalibrationError
from loop.calibration.file import Calibration
from loop.config import Config
from loop.errors import LayoutError
from loop.estimators.protocol import Estimator, EventKernel, Plugin
from loop.estimators.registry import shortcomings
from loop.estimators.testkit_recording import CAP, RATES_HZ, Recording, configuration, draft, layout_of, noise_uv
from loop.readout import Readout, ReadoutError

Float64s = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]

_LONGEST_SENTENCE: Final = 400
_PIECES: Final = (1, 1, 1, 0, 7, 2, 64, 5, 333, 1, 0, 20, 1000)


class BrokenRuleError(AssertionError):
    """The plug-in breaks a rule; one sentence says which and how."""


class Subject:
    """A plug-in on a recording of its own: a minute of rest, then stimuli of two kinds with told expectations.

    Parameters
    ----------
    plugin : Plugin
    labels : sequence of str
        The cap. The default has sites over frontal, central and posterior cortex and the posterior fossa.
    sfreq_hz : float
    overrides : sequence of str
        Further settings, such as ``"channels.bad=['Oz']"``.
    """

    def __init__(
        self, plugin: Plugin, labels: Sequence[str] = CAP, sfreq_hz: float = 250.0, overrides: Sequence[str] = ()
    ) -> None:
        self.plugin = plugin
        self.config: Config = configuration(plugin.name, overrides)
        self.recording = Recording.make(layout_of(labels, sfreq_hz))
        self.layout = self.recording.layout

    @cached_property
    def calibration(self) -> Calibration:
        """The plug-in's own calibration on the recording."""
        recording, plugin = self.recording, self.plugin
        begun = draft(plugin.name, self.config, self.layout, plugin.learn_rest(self.config, self.layout, recording.rest_uv))
        estimator = plugin.build(self.config, self.layout, begun)
        found = _in_pieces(estimator.kernel, recording.trials_uv, recording.impulses, [recording.trials_uv.shape[0]])
        features = np.full((len(recording.outcomes), len(estimator.learned)), np.nan)
        valid = found.event_valid.astype(bool)
        features[found.event_id[valid]] = found.event_features[valid]
        readout = plugin.fit(estimator.learned, features, recording.outcomes)
        return msgspec.structs.replace(begun, readout=readout, verdict="go on")

    def built(self) -> Estimator:
        """A new estimator with the calibration."""
        return self.plugin.build(self.config, self.layout, self.calibration)

    @property
    def stretch(self) -> tuple[Float64s, Int64s]:
        """Samples (n, n_channels) of the first seconds of trials, and their impulses."""
        n = round(14.0 * self.layout.sfreq_hz)
        impulses = self.recording.impulses
        return self.recording.trials_uv[:n].copy(), impulses[impulses[:, 0] < n - round(0.1 * self.layout.sfreq_hz)]


Check = Callable[[Subject], None]


def says_what_it_is(subject: Subject) -> None:
    """Name, summary, target and claim are words that a list, a page and a sentence can show; every verb is there."""
    plugin = subject.plugin
    problem = shortcomings(plugin.name, plugin)
    _require(not problem, f"the plug-in cannot be registered: {problem}")
    for attribute in ("summary", "target", "claim"):
        words = getattr(plugin, attribute)
        _require(words.strip() and "\n" not in words, f"`{attribute}` must be one line of words, it is {words!r}")


def calibrates(subject: Subject) -> None:
    """Rest and trials give a readout with a noise, the same one each time, that survives its file."""
    plugin, recording = subject.plugin, subject.recording
    target = np.asarray(plugin.target_of(recording.outcomes))
    _require(target.shape == (len(recording.outcomes),), f"target_of gave shape {target.shape}, not one number an outcome")
    calibration = subject.calibration
    readout = calibration.readout
    _require(isinstance(readout, Readout), f"fit gave {type(readout).__name__}, not a Readout")
    assert readout is not None
    estimator = subject.built()
    _require(readout.names == tuple(estimator.learned), "the readout's names are not those of `learned`")
    numbers = [*readout.weights, *readout.median, *readout.scale, readout.intercept, readout.b0, readout.b1, readout.sigma]
    _require(bool(np.isfinite(numbers).all()), "the readout holds numbers that are not finite")
    _require(readout.sigma > 0.0, f"the readout's sigma is {readout.sigma:g}; noise must be above zero")
    again = file.decode(file.encode(calibration))
    _require(again == calibration, "the calibration does not read back from its file as it was written")
    twin = Subject(plugin, subject.layout.labels, subject.layout.sfreq_hz)
    twin.config = subject.config
    _require(twin.calibration == calibration, "two calibrations on the same recording differ")
    rebuilt = plugin.build(subject.config, subject.layout, again)
    samples, impulses = subject.stretch
    one, other = (_in_pieces(each.kernel, samples, impulses, [len(samples)]) for each in (estimator, rebuilt))
    _require(_same(one, other), "an estimator from the calibration's file gives other bytes than one from memory")


def describes_its_output(subject: Subject) -> None:
    """Columns, features and scales have the sizes that the output and the stream have; nothing is named twice."""
    estimator = subject.built()
    samples, impulses = subject.stretch
    out = _in_pieces(estimator.kernel, samples, impulses, [len(samples)])
    n = len(subject.layout.labels)
    _require(out.frames.shape[1] == len(estimator.columns), "`columns` does not name every column of the frames")
    _require(out.event_features.shape[1] == len(estimator.learned), "`learned` does not name every event feature")
    for names in (estimator.columns, estimator.learned):
        _require(len(set(names)) == len(names), "a column or feature is named twice")
    used = np.asarray(estimator.used)
    _require(used.shape == (n,) and bool(used.any()), "`used` must tell of every channel, and use at least one")
    scale_uv = np.asarray(estimator.scale_uv)
    _require(np.array_equal(scale_uv, np.array(subject.layout.to_uv)), "`scale_uv` is not the layout's `to_uv`")
    _require(out.channel_flags.shape == (len(out.frames), n), "`channel_flags` must tell of every channel")
    seconds = len(samples) / subject.layout.sfreq_hz
    _require(abs(len(out.frames) - 50.0 * seconds) <= 1.0, f"{len(out.frames)} frames in {seconds:g} s; there are 50 a second")
    _require(bool(out.event_valid.any()), "no event of a clean recording is valid")


def works_at_every_rate(subject: Subject) -> None:
    """128 to 4096 Hz, whole numbers or not: it works, or says in a sentence that the rate does not do."""
    plugin = subject.plugin
    for sfreq_hz in RATES_HZ:
        layout = layout_of(subject.layout.labels, sfreq_hz)
        samples = noise_uv(layout, 6.0, seed=3)
        try:
            calibration: Calibration | None = None
            if plugin.needs_calibration:
                empty = np.empty((0, len(layout.labels)))
                calibration = draft(plugin.name, subject.config, layout, plugin.learn_rest(subject.config, layout, empty))
            estimator = plugin.build(subject.config, layout, calibration)
        except LayoutError as error:
            _sentence(error, f"the refusal of {sfreq_hz:g} Hz")
            continue
        at = np.array([[round(4.0 * sfreq_hz), 3, 1]])
        out = _in_pieces(estimator.kernel, samples, at, [len(samples)])
        _require(abs(len(out.frames) - 300) <= 1, f"at {sfreq_hz:g} Hz there are {len(out.frames)} frames in 6 s, not 300")
        _require(bool(out.event_valid.all()) and len(out.event_id) == 1, f"at {sfreq_hz:g} Hz a clean event is not valid")


def chunking_is_invariant(subject: Subject) -> None:
    """The same samples in other pieces give the same bytes, and leave the same state (I14)."""
    samples, impulses = subject.stretch
    whole, pieces = subject.built().kernel, subject.built().kernel
    want = _in_pieces(whole, samples, impulses, [len(samples)])
    found = _in_pieces(pieces, samples, impulses, _PIECES)
    for name, a, b in zip(Output._fields, _arrays(want), _arrays(found), strict=True):
        _require(a.tobytes() == b.tobytes(), f"`{name}` depends on how the samples were cut into chunks")
    _require(whole.get_state() == pieces.get_state(), "the state depends on how the samples were cut into chunks")
    _require(whole.sample_count == pieces.sample_count == len(samples), "`sample_count` is not the number of samples")


def state_is_whole(subject: Subject) -> None:
    """A state that is put into a new kernel goes on with the same bytes; a damaged one is refused and changes nothing."""
    samples, impulses = subject.stretch
    half = len(samples) // 2
    first, later = impulses[impulses[:, 0] < half], _shifted(impulses[impulses[:, 0] >= half], half)
    kernel, fresh = subject.built().kernel, subject.built().kernel
    _in_pieces(kernel, samples[:half], first, [half])
    state = kernel.get_state()
    _require(isinstance(state, bytes), f"get_state gave {type(state).__name__}, not bytes")
    _require(kernel.get_state() == state, "get_state changes the state")
    before = fresh.get_state()
    for what, damaged in (("empty", b""), ("cut off", state[:-1]), ("altered", state[:-1] + bytes([state[-1] ^ 1]))):
        try:
            fresh.set_state(damaged)
        except ValueError as error:
            _sentence(error, f"the refusal of an {what} state")
        else:
            raise BrokenRuleError(f"a state that is {what} is taken; refuse it with a ValueError")
        _require(fresh.get_state() == before, f"a state that is {what} is refused, but has changed the kernel")
    fresh.set_state(state)
    _require(fresh.sample_count == half, "set_state does not bring back the number of samples")
    want, found = (_in_pieces(each, samples[half:], later, [len(samples) - half]) for each in (kernel, fresh))
    _require(_same(want, found), "a restored state goes on with other bytes: something that matters is not in it")
    _require(kernel.get_state() == fresh.get_state(), "a restored state ends in another state")


def future_changes_nothing(subject: Subject) -> None:
    """What was put out before a moment does not depend on samples after it: the estimator is causal (I18)."""
    samples, impulses = subject.stretch
    for cut in (len(samples) // 2, len(samples) // 2 + 37):
        other = samples.copy()
        other[cut:] = -5.0 * other[cut:][::-1] + 40.0
        a, b = (_in_pieces(subject.built().kernel, each, impulses, [len(samples)]) for each in (samples, other))
        n = int((a.frame_sample < cut).sum())
        pairs = list(zip(Output._fields, _arrays(a), _arrays(b), strict=True))
        for name, left, right in pairs[:4]:
            _require(left[:n].tobytes() == right[:n].tobytes(), f"`{name}` of the past changed with samples of the future")
        for name, left, right in pairs[4:]:
            early = left[a.event_tick_sample < cut].tobytes() == right[b.event_tick_sample < cut].tobytes()
            _require(early, f"`{name}` of a decided event changed with samples after its decision")
        _require(bool((a.event_tick_sample >= a.event_sample).all()), "an event was decided before it happened")


def survives_bad_samples(subject: Subject) -> None:
    """NaN and infinity are flagged, make no valid event of what they touch, and are over once the filters have settled."""
    samples, impulses = subject.stretch
    estimator = subject.built()
    bad = int(np.flatnonzero(estimator.used)[0])
    sfreq_hz = subject.layout.sfreq_hz
    at = round(6.0 * sfreq_hz)
    for value in (np.nan, np.inf, -np.inf):
        spoilt = samples.copy()
        spoilt[at : at + 3, bad] = value
        out = _in_pieces(subject.built().kernel, spoilt, impulses, [len(samples)])
        touched = (out.frame_sample >= at) & (out.frame_sample < at + 0.02 * sfreq_hz)
        _require(bool((out.frame_flags[touched] != 0).all()), f"a frame that rests on {value} has no flag")
        valid = out.event_valid.astype(bool)
        sound = bool(np.isfinite(out.event_features[valid]).all())
        _require(sound, f"beside {value} an event is valid, but its features are not finite")
        close = (out.event_sample <= at + 3) & (out.event_sample > at - 0.3 * sfreq_hz)
        _require(not valid[close].any(), f"an event right before {value} is valid")
        _require(bool(out.frame_flags[-1] == 0), f"{value} in three samples still flags frames seconds later")
        later = out.event_sample > at + 5.0 * sfreq_hz
        _require(bool(valid[later].all()), f"{value} in three samples spoils events five seconds later")


def excluded_samples_do_not_matter(subject: Subject) -> None:
    """Samples under current are marked as excluded: nothing that comes out or is learned may depend on them (I16)."""
    samples, impulses = subject.stretch
    sfreq_hz = subject.layout.sfreq_hz
    exclude = np.zeros(len(samples), dtype=np.uint8)
    inside = slice(round(6.0 * sfreq_hz), round(7.0 * sfreq_hz))
    exclude[inside] = 1
    other = samples.copy()
    other[inside] = 1000.0 + 3.0 * other[inside]
    kernels = subject.built().kernel, subject.built().kernel
    a, b = (
        _in_pieces(kernel, each, impulses, [len(samples)], exclude)
        for kernel, each in zip(kernels, (samples, other), strict=True)
    )
    _require(_same(a, b), "what excluded samples hold changes the output")
    touched = (a.frame_sample > inside.start) & (a.frame_sample < inside.stop)
    _require(bool((a.frame_flags[touched] != 0).all()), "a frame of excluded samples has no flag")
    within = (a.event_sample >= inside.start) & (a.event_sample < inside.stop)
    _require(not a.event_valid[within].any(), "an event among excluded samples is valid")


def unused_channels_do_not_matter(subject: Subject) -> None:
    """A channel that `used` does not name may hold anything."""
    samples, impulses = subject.stretch
    unused = ~np.asarray(subject.built().used)
    other = samples.copy()
    other[:, unused] = np.nan
    a, b = (_in_pieces(subject.built().kernel, each, impulses, [len(samples)]) for each in (samples, other))
    for name, left, right in zip(Output._fields, _arrays(a), _arrays(b), strict=True):
        same = name == "channel_flags" or left.tobytes() == right.tobytes()
        _require(same, f"`{name}` depends on a channel that `used` does not name")


def events_are_answered_once(subject: Subject) -> None:
    """Each event comes out once, with its own sample; a new segment ends those that wait as not valid, and counts on."""
    samples, impulses = subject.stretch
    kernel = subject.built().kernel
    out = _in_pieces(kernel, samples, impulses, [len(samples)])
    asked = {int(ident): int(sample) for sample, _, ident in impulses if ident >= 0}
    _require(len(set(out.event_id.tolist())) == len(out.event_id), "an event came out twice")
    answered = zip(out.event_id.tolist(), out.event_sample.tolist(), strict=True)
    wrong = [ident for ident, at in answered if asked.get(ident) != at]
    _require(not wrong, f"event {wrong[:1]} came out with another sample than it was given, or was never asked for")
    lost = kernel.reset_segment()
    _require(len(lost.frame_sample) == 0, "reset_segment gave frames")
    waiting = set(asked) - set(out.event_id.tolist())
    _require(bool(waiting), "no event waits at the end of the stretch: events must wait for their windows")
    _require(set(lost.event_id.tolist()) == waiting, "reset_segment does not give back the events that it cut short")
    _require(not lost.event_valid.any(), "an event that a new segment cut short is valid")
    _require(kernel.sample_count == len(samples), "reset_segment must not change `sample_count`")
    again = _in_pieces(kernel, samples, impulses, [len(samples)])
    early = again.event_sample < len(samples) + round(0.5 * subject.layout.sfreq_hz)
    _require(not again.event_valid[early].any(), "an event right after a new segment is valid: filters must settle first")


def stays_quiet(subject: Subject) -> None:
    """No warning, of NumPy or anybody, whatever the samples are: they would fill an operator's screen."""
    samples, impulses = subject.stretch
    constant = np.full_like(samples, 7.0)
    spoilt = samples.copy()
    spoilt[100:400:3] = np.nan
    absurd = samples * 1e150
    kinds = {"noise": samples, "a constant": constant, "NaN": spoilt, "absurd numbers": absurd, "zeros": 0.0 * samples}
    for what, each in kinds.items():
        with warnings.catch_warnings(), np.errstate(all="raise", under="ignore"):
            warnings.simplefilter("error")
            try:
                _in_pieces(subject.built().kernel, each, impulses, _PIECES)
            except (Warning, FloatingPointError) as error:
                raise BrokenRuleError(f"{what} in the samples makes it warn: {error}") from error


def refuses_in_a_sentence(subject: Subject) -> None:
    """What does not fit is refused with the right error and one sentence, before anything runs."""
    plugin, config, layout = subject.plugin, subject.config, subject.layout
    calibration = subject.calibration
    other_cap = msgspec.structs.replace(layout, labels=(*layout.labels[1:], layout.labels[0]))
    absent = configuration(plugin.name, ["channels.bad=['Q77']"])
    cases: list[tuple[str, type[Exception] | tuple[type[Exception], ...], Callable[[], object]]] = [
        ("another estimator's calibration", CalibrationError,
         lambda: plugin.build(config, layout, msgspec.structs.replace(calibration, estimator="somebody_else"))),
        ("the calibration of another cap", CalibrationError, lambda: plugin.build(config, other_cap, calibration)),
        ("a bad channel that the stream does not have", (LayoutError, CalibrationError),
         lambda: plugin.build(absent, layout, None if not plugin.needs_calibration else calibration)),
        ("a readout from no trials", ReadoutError,
         lambda: plugin.fit(subject.built().learned, np.empty((0, len(subject.built().learned))), ())),
        ("a readout from disturbed trials alone", ReadoutError,
         lambda: plugin.fit(
             subject.built().learned,
             np.full((len(subject.recording.outcomes), len(subject.built().learned)), np.nan),
             subject.recording.outcomes,
         )),
    ]  # fmt: skip
    if plugin.needs_calibration:
        cases.append(("no calibration", CalibrationError, lambda: plugin.build(config, layout, None)))
    for what, wanted, act in cases:
        try:
            act()
        except wanted as error:
            _sentence(error, f"the refusal of {what}")
        except Exception as error:
            raise BrokenRuleError(f"{what} raises {type(error).__name__} ({error}), not {wanted}") from error
        else:
            raise BrokenRuleError(f"{what} is not refused")


CHECKS: Final[tuple[Check, ...]] = (
    says_what_it_is, calibrates, describes_its_output, works_at_every_rate, chunking_is_invariant, state_is_whole,
    future_changes_nothing, survives_bad_samples, excluded_samples_do_not_matter, unused_channels_do_not_matter,
    events_are_answered_once, stays_quiet, refuses_in_a_sentence,
)  # fmt: skip
"""All checks, in the order in which a new plug-in best meets them."""


def _require(ok: object, sentence: str) -> None:
    if not ok:
        raise BrokenRuleError(sentence)


def _sentence(error: Exception, what: str) -> None:
    words = str(error)
    good = words.strip() and "\n" not in words and len(words) <= _LONGEST_SENTENCE
    _require(good, f"{what} must be one sentence of at most {_LONGEST_SENTENCE} characters, it is {words!r}")


def _in_pieces(
    kernel: EventKernel,
    samples: Float64s,
    impulses: Int64s,
    lengths: Sequence[int],
    exclude: npt.NDArray[np.uint8] | None = None,
) -> Output:
    """Process samples in pieces of these lengths, again and again, each impulse with the piece that it falls in."""
    skip = np.zeros(len(samples), dtype=np.uint8) if exclude is None else exclude
    parts: list[Output] = []
    at, turn = 0, 0
    while at < len(samples):
        stop = min(at + lengths[turn % len(lengths)], len(samples))
        turn += 1
        inside = impulses[(impulses[:, 0] >= at) & (impulses[:, 0] < stop)]
        new = _shifted(inside, at) if len(inside) else NO_IMPULSES
        parts.append(kernel.process(np.ascontiguousarray(samples[at:stop]), skip[at:stop], new))
        at = stop
    return Output(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _same(a: Output, b: Output) -> bool:
    pairs = zip(_arrays(a), _arrays(b), strict=True)
    return all(x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in pairs)


def _arrays(out: Output) -> list[npt.NDArray[Any]]:
    return list(out)


def _shifted(impulses: Int64s, by: int) -> Int64s:
    return np.ascontiguousarray(impulses - np.array([by, 0, 0], dtype=np.int64))
