"""The operator's keys at a real terminal: each acts at once, the code is typed, and the terminal is given back as it was."""

from __future__ import annotations

import os
import pty
import select
import termios
from collections.abc import Callable, Iterator

import pytest

from loop.operator import Act, OperatorLine

Typed = Callable[[str], list[Act]]


@pytest.fixture
def terminal() -> Iterator[tuple[OperatorLine, Typed, int]]:
    """An operator at a terminal, what types there, and the terminal."""
    master, slave = pty.openpty()
    with os.fdopen(slave, "r") as stream:
        operator = OperatorLine(stream)

        def typed(text: str) -> list[Act]:
            os.write(master, text.encode())
            assert select.select([slave], [], [], 10.0)[0], "nothing arrived at the terminal"
            return operator.read()

        yield operator, typed, slave
        operator.close()
    os.close(master)


@pytest.mark.parametrize(
    ("key", "action"),
    [("p", "pause"), ("c", "resume"), ("r", "reset"), ("s", "stop"), ("x", "cut"), ("X", "cut"), ("!", "cut"), ("?", "help")],
)
def test_a_key_acts_at_once(terminal: tuple[OperatorLine, Typed, int], key: str, action: str) -> None:
    operator, typed, _ = terminal
    assert operator.is_terminal
    assert typed(key) == [Act(action)]


def test_keys_that_mean_nothing_and_arrows_do_nothing(terminal: tuple[OperatorLine, Typed, int]) -> None:
    _, typed, _ = terminal
    assert typed("q") == []
    assert typed("\x1b[A\x1b[C\x1b[6~") == [], "an arrow ends in a letter, yet is no command"
    assert typed("s") == [Act("stop")]


def test_the_code_is_typed_and_its_letters_are_no_commands(terminal: tuple[OperatorLine, Typed, int]) -> None:
    _, typed, _ = terminal
    assert typed("a") == [Act("ask")]
    assert typed("spc7") == []
    assert typed("q\x7fr\n") == [Act("arm", "SPC7R")]
    assert typed("s") == [Act("stop")]


@pytest.mark.parametrize("key", ["x", "!"])
def test_the_cut_works_while_a_code_is_typed(terminal: tuple[OperatorLine, Typed, int], key: str) -> None:
    _, typed, _ = terminal
    assert typed(f"aSP{key}") == [Act("ask"), Act("cut")]
    assert typed("p") == [Act("pause")]


def test_a_code_that_nobody_wants_is_forgotten(terminal: tuple[OperatorLine, Typed, int]) -> None:
    operator, typed, _ = terminal
    typed("aSPC")
    operator.never_mind()
    assert typed("s") == [Act("stop")]
    assert typed("aSP\x1b") == [Act("ask")]
    assert typed("s") == [Act("stop")]
    assert typed("a\n") == [Act("ask")], "no code, no arming"


def test_the_terminal_is_given_back_as_it_was() -> None:
    master, slave = pty.openpty()
    with os.fdopen(slave, "r") as stream:
        before = termios.tcgetattr(slave)
        operator = OperatorLine(stream)
        assert termios.tcgetattr(slave) != before
        operator.close()
        assert termios.tcgetattr(slave) == before
        assert not operator.is_terminal
    os.close(master)


def test_a_terminal_that_has_gone_is_no_act() -> None:
    master, slave = pty.openpty()
    with os.fdopen(slave, "r") as stream:
        operator = OperatorLine(stream)
        os.close(master)
        assert operator.read() == []
        assert operator.read() == []
        operator.close()
