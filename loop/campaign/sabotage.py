"""Starts a process of cereloop that SIGUSR1 makes go wrong from within: ``python -m loop.campaign.sabotage KIND ARGUMENT ...``.

A test double around the shipped command: nothing in the engine knows of it. With ``hardware`` the mock stimulator gives itself
out as no emulator, for the row that needs a device which is none.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from typing import Any, Final

KINDS: Final = ("raise", "collect", "slow", "block", "nan", "junk", "hardware", "none")
_COLLECT_S: Final = 0.3
_SLOW_S: Final = 0.4
_BLOCK_S: Final = 30.0
_PACKETS: Final = 5


class SabotageError(RuntimeError):
    """What the engine is made to raise."""


def engine_goes_wrong(kind: str) -> None:
    """Let the engine's step, or its link, go wrong once SIGUSR1 has come."""
    from devices.link_socket import GuardClient
    from loop.engine import Engine
    from loop.events import Chunk, Input, Output

    asked: list[bool] = []
    signal.signal(signal.SIGUSR1, lambda *_: asked.append(True))
    sound: Callable[[Engine, Input], list[Output]] = Engine.step
    send = GuardClient.send

    def step(engine: Engine, event: Input) -> list[Output]:
        if not asked:
            return sound(engine, event)
        match kind:
            case "raise":
                raise SabotageError("the engine was made to raise")
            case "collect" | "block":
                asked.clear()
                time.sleep(_COLLECT_S if kind == "collect" else _BLOCK_S)
            case "slow":
                time.sleep(_SLOW_S)
            case "nan" if isinstance(event, Chunk):
                event.samples[:] = float("nan")
        return sound(engine, event)

    def babble(client: GuardClient, message: Any) -> bool:
        if asked:
            asked.clear()
            for _ in range(_PACKETS):
                client._socket.send(b"\xc1 this is no message")  # noqa: SLF001 - the engine's own connection
        return send(client, message)

    if kind == "junk":
        setattr(GuardClient, "send", babble)  # noqa: B010 - replaced on purpose
    else:
        setattr(Engine, "step", step)  # noqa: B010 - likewise


def device_is_no_emulator() -> None:
    """Let the mock stimulator say of itself that it is hardware."""
    import msgspec

    from devices.mock.stimulator import StimulatorModel

    make = StimulatorModel.__init__

    def made(model: StimulatorModel, *arguments: Any, **more: Any) -> None:
        make(model, *arguments, **more)
        identity = model._identity  # noqa: SLF001 - a lie about what it is
        model._identity = msgspec.structs.replace(identity, emulator=False)  # noqa: SLF001

    setattr(StimulatorModel, "__init__", made)  # noqa: B010 - replaced on purpose


def main() -> None:
    """The shipped command line, with what goes wrong in place."""
    kind = sys.argv.pop(1)
    if kind == "hardware":
        device_is_no_emulator()
    elif kind != "none":
        engine_goes_wrong(kind)
    from loop.cli import main as cereloop

    cereloop()


if __name__ == "__main__":
    main()
