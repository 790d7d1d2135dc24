"""Errors that the command line must know before it has loaded anything heavy."""

from __future__ import annotations

from typing import Final


class LayoutError(ValueError):
    """A layout that the estimator cannot work on, such as "no posterior pair in this cap: needs PO9 and PO10"."""


class SessionError(Exception):
    """A session cannot start or did not end as it should; one sentence says what and what to do."""


SWITCH_OFF: Final = "zero current is NOT confirmed: switch the stimulator off by hand, then take off the electrodes"


class ZeroUnconfirmedError(SessionError):
    """A session broke off, and nobody can say that no current flows: that outweighs why it broke off."""
