"""What the operator types: single keys at a terminal, whole lines from a pipe; both become `Operator` inputs."""

from __future__ import annotations

import contextlib
import os
import select
import termios
import tty
from typing import Any, Final, NamedTuple, TextIO

KEYS: Final = {"p": "pause", "c": "resume", "r": "reset", "s": "stop", "x": "cut", "!": "cut"}
HELP: Final = "keys: a arm · p pause · c continue · r reset · s stop (ramp) · x or ! CUT NOW · ? help"
_MOST_BYTES: Final = 4096
_LONGEST_LINE: Final = 200


class Act(NamedTuple):
    """One act of the operator: an `Operator.action` with its detail, ``help``, ``ask`` (a code is asked for), ``bad``."""

    action: str
    detail: str = ""


class OperatorLine:
    """Reads the operator without ever blocking; restores the terminal when closed.

    At a terminal, single keys act at once (`HELP`); after ``a`` the letters up to Enter are the arm code. From a pipe, whole
    lines: ``arm CODE``, ``pause``, ``resume``, ``reset NAME``, ``stop``, ``cut``, ``note TEXT``.

    Parameters
    ----------
    stream : file
        Usually standard input.
    """

    def __init__(self, stream: TextIO) -> None:
        self._fd = -1
        self._saved: list[Any] | None = None
        self._held = ""
        self._typing_code = False
        self._escape = ""
        with contextlib.suppress(OSError, ValueError):
            self._fd = stream.fileno()
        if self._fd >= 0 and os.isatty(self._fd):
            self._saved = termios.tcgetattr(self._fd)
            tty.setcbreak(self._fd)

    @property
    def is_terminal(self) -> bool:
        """Whether single keys are read."""
        return self._saved is not None

    def ask_code(self) -> None:
        """Take the letters that follow as an arm code."""
        self._typing_code, self._held = True, ""

    def never_mind(self) -> None:
        """Take the keys that follow as keys again."""
        self._typing_code, self._held = False, ""

    def read(self) -> list[Act]:
        """All acts typed since the last call."""
        text = self._take()
        if not text:
            return []
        return self._keys(text) if self.is_terminal else self._lines(text)

    def close(self) -> None:
        """Give the terminal back as it was. Idempotent."""
        if self._saved is not None and self._fd >= 0:  # else the terminal has gone
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved)
        self._saved = None
        self._fd = -1

    def _take(self) -> str:
        if self._fd < 0:
            return ""
        try:
            ready, _, _ = select.select([self._fd], [], [], 0)
            data = os.read(self._fd, _MOST_BYTES) if ready else None
        except OSError:
            data = b""
        if data == b"":
            # The terminal or pipe has gone. No operator is no reason to stop: Ctrl-C, `cereloop stop` and the duration remain.
            self._fd = -1
        return (data or b"").decode("utf-8", "replace")

    def _keys(self, text: str) -> list[Act]:
        acts: list[Act] = []
        for key in text:
            if self._swallow(key):
                continue
            if self._typing_code:
                acts.extend(self._code_key(key))
            elif key == "a":
                self.ask_code()
                acts.append(Act("ask"))
            elif key.lower() in KEYS:
                acts.append(Act(KEYS[key.lower()]))
            elif key == "?":
                acts.append(Act("help"))
        return acts

    def _swallow(self, key: str) -> bool:
        """Whether a character belongs to an escape sequence: an arrow key is no command, whatever letter it ends in."""
        before, self._escape = self._escape, ""
        if key == "\x1b":
            self._escape = key
            self._held, self._typing_code = "", False
        elif before == "\x1b" and key in "[O":
            self._escape = key
        elif before == "[" and not "@" <= key <= "~":
            self._escape = before
        else:
            return before in ("[", "O")
        return True

    def _code_key(self, key: str) -> list[Act]:
        if key in "\r\n":
            code, self._held, self._typing_code = self._held, "", False
            return [Act("arm", code.upper())] if code else []
        if key in "\x7f\b":
            self._held = self._held[:-1]
        elif key in "!xX":
            # Nobody in need should have to leave the code prompt first; no code has an X.
            self._held, self._typing_code = "", False
            return [Act("cut")]
        elif key.isalnum() and len(self._held) < _LONGEST_LINE:
            self._held += key
        return []

    def _lines(self, text: str) -> list[Act]:
        *lines, self._held = (self._held + text).split("\n")
        self._held = self._held[:_LONGEST_LINE]
        acts = []
        for line in lines:
            word, _, rest = line.strip()[:_LONGEST_LINE].partition(" ")
            if word in ("arm", "pause", "resume", "reset", "stop", "cut", "note"):
                acts.append(Act(word, rest.strip()))
            elif word:
                acts.append(Act("bad", word))
        return acts
