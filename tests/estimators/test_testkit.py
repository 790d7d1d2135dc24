"""The kit finds what is wrong: one plug-in for each check, broken in that one way, fails it for that reason."""

from __future__ import annotations

from typing import Any

import estimators_broken as broken
import pytest

from loop.estimators import registry, testkit
from loop.estimators.testkit import BrokenRuleError, Subject

CASES: dict[str, tuple[Any, str]] = {
    "says_what_it_is": (broken.Mute(), "`summary` must be one line of words"),
    "calibrates": (broken.Fickle(), "two calibrations on the same recording differ"),
    "describes_its_output": (broken.with_estimator(columns=lambda names: names[1:]), "`columns` does not name every column"),
    "works_at_every_rate": (broken.Verbose(), "the refusal of 4096 Hz must be one sentence"),
    "chunking_is_invariant": (broken.with_kernel(broken.ByTheChunk), "`frames` depends on how the samples were cut"),
    "state_is_whole": (broken.with_kernel(broken.Forgetful), "something that matters is not in it"),
    "future_changes_nothing": (broken.with_kernel(broken.ByTheChunk), "of the past changed with samples of the future"),
    "survives_bad_samples": (broken.with_kernel(broken.Careless), "a frame that rests on nan has no flag"),
    "excluded_samples_do_not_matter": (broken.with_kernel(broken.Deaf), "what excluded samples hold changes the output"),
    "unused_channels_do_not_matter": (
        broken.with_estimator(used=lambda used: used & (used.cumsum() > 1)), "depends on a channel that `used` does not name"
    ),
    "events_are_answered_once": (broken.with_kernel(broken.Stutters), "an event came out twice"),
    "stays_quiet": (broken.with_kernel(broken.Loud), "zeros in the samples makes it warn: division by zero"),
    "refuses_in_a_sentence": (broken.Gullible(), "another estimator's calibration is not refused"),
}  # fmt: skip


@pytest.fixture(scope="module")
def sound() -> Subject:
    return Subject(registry.find("posterior_fossa"))


def test_there_is_a_broken_plug_in_for_every_check() -> None:
    assert list(CASES) == [check.__name__ for check in testkit.CHECKS]


@pytest.mark.parametrize("name", CASES)
def test_a_broken_plug_in_fails_for_the_right_reason(name: str, sound: Subject) -> None:
    plugin, words = CASES[name]
    subject = Subject(plugin)
    if name != "calibrates":
        subject.calibration = sound.calibration  # made once for all: what is broken here comes after it
    with pytest.raises(BrokenRuleError) as caught:
        getattr(testkit, name)(subject)
    assert words in str(caught.value)
