"""The one place that loads liblsl: without its log on the user's screen, kept to this machine where asked.

liblsl reads its settings once, at first use. What a user set in an ``lsl_api.cfg`` is respected; only its
log, which would run through every screen, is turned off unless that file speaks of it.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from types import ModuleType

Reach = Literal["network", "machine"]

_QUIET = "[log]\nlevel = -3\n"

# Discovery by multicast over the loopback interface, with no hops allowed: nothing leaves the host. LSL's own
# scope "machine" sends to one port, which only one of several programs hears.
_MACHINE_ONLY = """\
[ports]
IPv6 = disable
[multicast]
ResolveScope = machine
AddressesOverride = {239.255.172.215}
TTLOverride = 0
Interfaces = {127.0.0.1}
[lab]
KnownPeers = {127.0.0.1}
"""

_lock = threading.Lock()
_loaded: ModuleType | None = None


def _user_settings() -> str | None:
    """Text of the settings file that liblsl itself would read, in its own order of search."""
    named = os.environ.get("LSLAPICFG")
    places = [Path(named)] if named else []
    places += [
        Path("lsl_api.cfg"),
        Path("~/lsl_api/lsl_api.cfg").expanduser(),
        Path("/etc/lsl_api/lsl_api.cfg"),
    ]
    for place in places:
        try:
            return place.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
    return None


def settings(reach: Reach, user: str | None) -> str | None:
    """Settings that liblsl is to be given.

    Parameters
    ----------
    reach : {"network", "machine"}
        ``machine`` keeps discovery on this host whatever the user's file says.
    user : str or None
        Text of the user's own settings file.

    Returns
    -------
    str or None
        Text in liblsl's own format; None where the user's file shall be read as it is.
    """
    if reach == "machine":
        return _MACHINE_ONLY + _QUIET
    if user is None:
        return _QUIET
    if "[log]" in user.replace(" ", "").lower():
        return None
    return f"{user.rstrip()}\n{_QUIET}"


def load(reach: Reach = "network") -> ModuleType:
    """Import pylsl with the settings in place.

    Parameters
    ----------
    reach : {"network", "machine"}
        How far streams are looked for and announced. Only the first call in a process decides; liblsl cannot
        change later.

    Returns
    -------
    module
        ``pylsl``.
    """
    global _loaded  # noqa: PLW0603  # liblsl itself is one for the whole process
    with _lock:
        if _loaded is None:
            import pylsl

            content = settings(reach, _user_settings())
            if content is not None:
                pylsl.set_config_content(content)
            _loaded = pylsl
        return _loaded
