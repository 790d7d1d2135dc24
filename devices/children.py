"""How cereloop starts a module of its own as a process."""

from __future__ import annotations

import sys


def module_command(name: str, *arguments: str) -> list[str]:
    """The command that runs the installed module `name`.

    With ``-P`` the working directory is no place to import from: in a checkout whose sources are not what is installed, or in a
    folder that happens to hold a `loop` or a `devices`, the children would otherwise run other code than their parent.
    PYTHONPATH still counts. A parent that is run from sources which are not installed (`python -m loop` in such a checkout) has
    installed children: install what you run.
    """
    return [sys.executable, "-P", "-m", name, *arguments]
