"""What may flow while answers are missing: never less than any of the levels that could be in force."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from devices.outstanding import Outstanding

BUDGET = 100


def test_a_level_sent_counts_until_a_later_one_has_been_taken() -> None:
    owed = Outstanding(BUDGET)
    owed.sent(1, 200)
    assert owed.assumed_ua == 200
    owed.sent(2, -50)
    assert owed.assumed_ua == 200
    owed.confirmed(1, 120, holds=True)
    assert owed.assumed_ua == 200
    owed.confirmed(2, -80, holds=True)
    assert owed.assumed_ua == 80
    owed.confirmed(2, 0, holds=False)
    assert owed.assumed_ua == 0


def test_doubt_is_told_once_and_lasts_until_everything_is_answered() -> None:
    owed = Outstanding(BUDGET, first_seq=10)
    assert not owed.overdue(0)
    owed.sent(11)
    assert not owed.overdue(0)
    owed.sent(12)
    assert not owed.overdue(BUDGET)
    assert owed.overdue(BUDGET + 1)
    assert owed.uncertain
    assert not owed.overdue(10 * BUDGET)
    owed.answered(11)
    assert owed.uncertain
    owed.answered(12)
    assert not owed.uncertain
    assert not owed.overdue(20 * BUDGET)


def test_a_late_answer_to_something_old_does_not_help_what_is_new() -> None:
    owed = Outstanding(BUDGET)
    owed.sent(1)
    owed.overdue(0)
    owed.answered(1)
    owed.sent(2)
    owed.overdue(50)
    owed.answered(1)
    assert owed.overdue(50 + BUDGET + 1)


@given(st.lists(st.tuples(st.integers(-2000, 2000), st.booleans()), min_size=1, max_size=30))
def test_no_level_that_the_device_may_hold_is_above_what_is_assumed(steps: list[tuple[int, bool]]) -> None:
    """The device takes each level or has not seen it yet, in order; it may be anywhere on its way."""
    owed, taken, level = Outstanding(BUDGET), 0, 0
    sent: list[int] = []
    for wish, takes_all in steps:
        sent.append(wish)
        owed.sent(len(sent), wish)
        if takes_all:
            taken, level = len(sent), wish
            owed.confirmed(taken, level, holds=True)
        assert owed.assumed_ua >= max(abs(value) for value in [level, *sent[taken:]])
