"""What is done to real processes for each row: signals, a stream that goes wrong, faults on the device's control channel."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, NamedTuple

from devices.link_socket import find_guards, stop_all
from devices.units import NS_PER_S
from loop.campaign.children import CLOCK, Child, RealError, kill
from loop.campaign.pairs import bound as pair_bound
from loop.campaign.rows import PAIR_FIRST, PAIR_SECOND
from loop.campaign.slot import LEVEL_UA, PYTHON, RAMP_S, Slot

NO_BOUND: Final = float("inf")


class RealCase(NamedTuple):
    """How a real run is judged: as `scenes.Case`; `after` says whether the session can be used again, or must go."""

    at_ns: int | Callable[[Slot], int]
    after: Literal["same", "drop"] = "drop"
    answers: tuple[str, ...] = ()
    bound_s: float | None = None
    watch_s: float = 4.0
    check: Callable[[Slot], str] = lambda _: ""
    mend: Callable[[Slot], None] = lambda _: None


class RealScene(NamedTuple):
    """A row's harm, where the session must be for it, and from within what goes wrong (see `sabotage`)."""

    act: Callable[[Slot, int], RealCase]
    at: Literal["HOLD", "RAMP_UP"] = "HOLD"
    kind: str = "none"


def _mended(slot: Slot) -> None:
    slot.stream_does("ok")


def _stream(command: str, **more: object) -> RealScene:
    def act(slot: Slot, _trial: int) -> RealCase:
        return RealCase(slot.stream_does(command), "same", mend=_mended)._replace(**more)  # type: ignore[arg-type]

    return RealScene(act)


def _signal(kind: str) -> RealScene:
    """Bad samples while current flows: it goes on."""
    return _stream(f"alter {kind}", answers=("on",), watch_s=1.5)


def _reopened(kind: str) -> RealScene:
    def act(slot: Slot, _trial: int) -> RealCase:
        at_ns = slot.stream_does("close")
        time.sleep(0.3)  # how long the amplifier is away
        slot.stream_does(f"open {kind}")
        check = _saw("layout_changed") if kind != "same" else (lambda _: "")
        return RealCase(at_ns, watch_s=6.0, check=check, mend=_new_stream)

    return RealScene(act)


def _new_stream(slot: Slot) -> None:
    if slot.outlet is not None:
        slot.outlet.close()
    slot.outlet = None


def _saw(*names: str) -> Callable[[Slot], str]:
    """That the session has told one of these incidents, within some seconds."""

    def check(slot: Slot) -> str:
        end_s = time.monotonic() + 6.0
        while time.monotonic() < end_s:
            if any(event.get("name") in names for event in slot.hear()):
                return ""
            time.sleep(0.1)  # the session's own lines are read by a thread
        return f"the session did not say {' or '.join(names)}"

    return check


def _cable(slot: Slot, _trial: int) -> RealCase:
    return RealCase(slot.stream_does("close"), mend=_new_stream)


def _outlet_signal(number: int) -> RealScene:
    def act(slot: Slot, _trial: int) -> RealCase:
        at_ns = slot.with_stream().signal(number)
        return RealCase(at_ns, "same" if number == signal.SIGSTOP else "drop", mend=_outlet_back)

    return RealScene(act)


def _outlet_back(slot: Slot) -> None:
    if slot.outlet is not None and slot.outlet.alive:
        kill(slot.outlet.pid, signal.SIGCONT)
    slot.with_stream()


def _drifts(slot: Slot, _trial: int) -> RealCase:
    at_ns = slot.stream_does("rate 1.03")

    def seen(after: Slot) -> int:
        told = [int(event["t_ns"]) for event in after.hear() if event.get("name") == "rate_drift"]
        return min([at_ns + 20 * NS_PER_S, *told])

    return RealCase(seen, watch_s=24.0, check=_saw("rate_drift"), mend=_new_stream)


def _pids(slot: Slot, *who: str) -> list[int]:
    assert slot.live is not None
    known = {"engine": slot.live.pid, "guard": slot.guard_pid, "recorder": slot.recorder_pid}
    return [known[one] for one in who]


def _to_processes(number: int, *who: str, back: bool = False) -> RealScene:
    """A signal to these processes; SIGSTOP is taken back afterwards, and must revive nothing."""

    def act(slot: Slot, _trial: int) -> RealCase:
        pids = _pids(slot, *who)
        at_ns = CLOCK.now_ns()
        for pid in pids:
            kill(pid, number)

        def mend(_: Slot) -> None:
            for pid in pids:
                kill(pid, signal.SIGCONT)

        return RealCase(at_ns, "same" if back else "drop", mend=mend if back else (lambda _: None))

    return RealScene(act)


def _suspended(slot: Slot, _trial: int) -> RealCase:
    pids = _pids(slot, "engine", "guard", "recorder")
    at_ns = CLOCK.now_ns()
    for pid in pids:
        kill(pid, signal.SIGSTOP)
    time.sleep(1.0)  # how long the host sleeps
    for pid in reversed(pids):
        kill(pid, signal.SIGCONT)
    return RealCase(at_ns, check=_saw("guard_latched"))


def _from_within(kind: str, **more: object) -> RealScene:
    def act(slot: Slot, _trial: int) -> RealCase:
        assert slot.live is not None
        return RealCase(slot.live.signal(signal.SIGUSR1))._replace(**more)  # type: ignore[arg-type]

    return RealScene(act, kind=kind)


def _overload(slot: Slot, _trial: int) -> RealCase:
    load = [
        subprocess.Popen([PYTHON, "-c", "while True: pass"], cwd=slot.folder) for _ in range(2 * (os.cpu_count() or 1))
    ]
    at_ns = CLOCK.now_ns()

    def mend(_: Slot) -> None:
        for one in load:
            one.kill()
            one.wait()

    def last_lease(after: Slot) -> int:
        stopped = [int(e["t_ns"]) for e in after.hear() if e.get("name") in ("guard_aborting", "guard_latched", "abort")]
        return max(at_ns, min(stopped, default=at_ns) - NS_PER_S // 4)

    return RealCase(last_lease, answers=("on", "S1", "S0"), watch_s=3.0, mend=mend)


# ---- device


def _device(text: str, **more: object) -> RealScene:
    name = text.partition(":")[0]

    def act(slot: Slot, _trial: int) -> RealCase:
        case = RealCase(int(slot.tell(f"inject {text}")["t_ns"]), "same", mend=lambda s: _cleared(s, name))
        return case._replace(**more)  # type: ignore[arg-type]

    return RealScene(act)


def _cleared(slot: Slot, name: str) -> None:
    slot.tell(f"clear {name}")


def _stuck(slot: Slot, _trial: int) -> RealCase:
    """It shows when the level moves: a pause asks for a ramp down, by the tolerance within a known time."""
    assert slot.live is not None
    slot.tell("inject stuck_output")
    at_ns = CLOCK.now_ns()
    slot.live.send("pause")
    # Raised cosine from 200 uA: 50 uA less after a third of the ramp.
    return RealCase(at_ns + round(RAMP_S / 3.0 * NS_PER_S), mend=lambda s: _cleared(s, "stuck_output"))


# ---- operator


def press(slot: Slot, trial: int) -> tuple[int, str]:
    """Emergency stop: at the terminal, from another one, or the button on the device, in turn."""
    assert slot.live is not None
    at_ns = CLOCK.now_ns()
    how = ("terminal", "another terminal", "button")[trial % 3]
    if how == "terminal":
        slot.live.send("cut")
    elif how == "another terminal":
        _stop_all(slot)
    else:
        at_ns = int(slot.tell("inject emergency_button")["t_ns"])
    return at_ns, how


def _stop_all(slot: Slot) -> None:
    stop_all("campaign", directory=slot.runtime / "cereloop", timeout_s=2.0)


def _emergency(slot: Slot, trial: int) -> RealCase:
    at_ns, how = press(slot, trial)
    return RealCase(at_ns, "drop" if how == "button" else "same", check=_saw("guard_latched"))


def _held(slot: Slot, _trial: int) -> RealCase:
    assert slot.live is not None
    at_ns = CLOCK.now_ns()
    for _ in range(20):
        slot.live.send("cut")
    _stop_all(slot)
    return RealCase(at_ns, "same", check=_saw("guard_latched"))


def _dead_engine(slot: Slot, _trial: int) -> RealCase:
    assert slot.live is not None
    slot.live.signal(signal.SIGKILL)
    at_ns = CLOCK.now_ns()
    _stop_all(slot)
    # The guard may have ramped down already, and be gone.
    return RealCase(at_ns, answers=("S0", "S1"))


def _start_twice(slot: Slot, _trial: int) -> RealCase:
    assert slot.live is not None
    slot.live.send(f"arm {slot.code}")
    return RealCase(CLOCK.now_ns(), "same", watch_s=1.0, check=_saw("guard_refused"))


def _start_latched(slot: Slot, trial: int) -> RealCase:
    assert slot.live is not None
    at_ns, _ = press(slot, trial)
    time.sleep(0.5)  # at zero, as an operator would try again
    slot.live.send(f"arm {slot.code}")
    return RealCase(at_ns, bound_s=0.25, check=_saw("guard_refused"))


def _stop_in_ramp(slot: Slot, _trial: int) -> RealCase:
    assert slot.live is not None
    time.sleep(1.2)  # some way up the ramp
    at_ns = CLOCK.now_ns()
    slot.live.send("stop")
    return RealCase(at_ns, bound_s=RAMP_S + 0.3, watch_s=6.0)


# ---- host


def _no_room(slot: Slot, _trial: int) -> RealCase:
    """The session's file may grow no further, as on a full disk."""
    fill(slot)
    at_ns = CLOCK.now_ns()

    def noticed(after: Slot) -> int:
        told = [int(event["t_ns"]) for event in after.hear() if "recorder_lost" in str(event.get("detail", ""))]
        return min(told, default=at_ns)

    return RealCase(noticed, watch_s=8.0)


def fill(slot: Slot) -> None:
    """Let the recorder write no more to its file."""
    resource.prlimit(slot.recorder_pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))


def _junk(slot: Slot, _trial: int) -> RealCase:
    """Junk, crowds and silent strangers on the guard's socket."""
    at_ns = CLOCK.now_ns()
    # Guards that were killed have left theirs behind.
    path = max(find_guards(slot.runtime / "cereloop"), key=lambda one: one.stat().st_mtime_ns)
    crowd = []
    for number in range(50):
        one = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        one.settimeout(0.1)
        crowd.append(one)
        try:
            one.connect(os.fspath(path))
            one.send(os.urandom(1 + 997 * number))
        except OSError:
            continue

    def mend(_: Slot) -> None:
        for one in crowd:
            one.close()

    return RealCase(at_ns, "same", watch_s=1.5, mend=mend)


# ---- pairs


def _half(name: str, slot: Slot, trial: int) -> int:
    """One of two faults; the time just before, ns."""
    at_ns = CLOCK.now_ns()
    match name:
        case "gap":
            return slot.stream_does("drop 10")
        case "SIGSTOP engine":
            kill(_pids(slot, "engine")[0], signal.SIGSTOP)
        case "disk full":
            fill(slot)
        case "wrong acknowledgement":
            slot.tell("inject wrong_ack")
        case "emergency stop":
            press(slot, 1 + trial % 2)
        case "engine SIGKILL":
            kill(_pids(slot, "engine")[0], signal.SIGKILL)
        case "guard SIGKILL":
            kill(_pids(slot, "guard")[0], signal.SIGKILL)
        case "impedance rise":
            slot.tell("inject impedance_rise:over_s=0,factor=8")
        case _:
            raise RealError(f"no such fault: {name}")
    return at_ns


def _pair(first: str, second: str) -> RealScene:
    def act(slot: Slot, trial: int) -> RealCase:
        times = {first: _half(first, slot, trial), second: _half(second, slot, trial)}
        begun_ns = times[first]
        delays = {name: (at_ns - begun_ns) / NS_PER_S for name, at_ns in times.items()}
        if first == "disk full":
            # Seen with the next write, up to a second later; the other fault counts.
            begun_ns, allowed_s = times[second], {"engine SIGKILL": 1.2, "guard SIGKILL": 0.42, "impedance rise": 1.4}[second]
        else:
            allowed_s = pair_bound(first, second, delays)
        return RealCase(begun_ns, answers=("S0", "S1"), bound_s=allowed_s, mend=_all_mended)

    return RealScene(act)


def _all_mended(slot: Slot) -> None:
    _mended(slot)
    for name in ("wrong_ack", "impedance_rise"):
        _cleared(slot, name)


SCENES: Final[dict[str, RealScene]] = {
    "F01": _stream("drop 0.6"),
    "F02": RealScene(_cable),
    "F03": _outlet_signal(signal.SIGSTOP),
    "F04": _outlet_signal(signal.SIGKILL),
    "F05": _reopened("same"),
    "F06": _reopened("swapped"),
    "F07": _reopened("rate"),
    "F09": _stream("shift 3600"),
    "F10": RealScene(_drifts),
    "F11": _stream("hold 0.8"),
    "F12": _stream("twice", answers=("S1", "on"), watch_s=2.0),
    "F13": _signal("nan"),
    "F14": _signal("rail"),
    "F15": _signal("flat"),
    "F16": _signal("move"),
    "F17": _signal("line"),
    "F18": _signal("muscle"),
    "F19": _signal("leak"),
    "F20": _to_processes(signal.SIGKILL, "engine"),
    "F21": _to_processes(signal.SIGABRT, "engine"),
    "F22": _from_within("raise"),
    "F23": _to_processes(signal.SIGSTOP, "engine", back=True),
    "F24": _from_within("collect"),
    "F25": _from_within("slow"),
    "F26": _from_within("block"),
    "F27": RealScene(_overload),
    "F28": _to_processes(signal.SIGKILL, "guard"),
    "F29": _to_processes(signal.SIGSTOP, "guard", back=True),
    "F30": _to_processes(signal.SIGKILL, "guard", "engine"),
    "F31": _from_within("junk"),
    "F32": _device("wrong_ack"),
    "F33": _device("over_current:extra_ua=400"),
    "F34": _device("wrong_polarity"),
    "F35": _device("open_circuit"),
    "F36": _device("reset:boot_ms=150"),
    "F37": RealScene(_stuck),
    "F38": _device("lost_replies"),
    # While the line is half open nothing reports zero, so the guard refuses a reset (I07); once it carries again a reset is
    # taken within some tenths of a second on a serial line, after up to a second more where NIC is asked for its mark.
    "F39": _device("half_open", after="drop"),
    "F40": _device("impedance_rise:over_s=0"),
    "F41": RealScene(_emergency),
    "F42": RealScene(_held),
    "F43": RealScene(_dead_engine),
    "F44": RealScene(_start_twice),
    "F45": RealScene(_start_latched),
    "F46": RealScene(_stop_in_ramp, at="RAMP_UP"),
    "F47": RealScene(_no_room),
    "F48": _to_processes(signal.SIGKILL, "recorder"),
    "F49": RealScene(_suspended),
    "F55": RealScene(_junk),
    **{f"F56 {first} + {second}": _pair(first, second) for first in PAIR_FIRST for second in PAIR_SECOND},
}


# ---- rows that must not start at all


def _ended(child: Child, patience_s: float = 40.0) -> tuple[int, str]:
    try:
        code = child.process.wait(patience_s)
    except subprocess.TimeoutExpired:
        child.close()
        return -1, "it did not end"
    return code, child.errors().strip()


def _says(child: Child, *words: str, codes: tuple[int, ...] = (2, 3)) -> str:
    """Empty where the command refused in one sentence with one of these words."""
    code, said = _ended(child)
    child.close()
    if code in codes and "Traceback" not in said and any(word in said for word in words):
        return ""
    return f"code {code}: {said[-200:]}"


def _two_outlets(slot: Slot) -> str:
    slot.with_stream()
    slot.with_device()
    rival = slot.module("loop.campaign.outlet", slot.name)
    try:
        rival.line(lambda line: "streaming" in line)
        return _says(slot.start(), "same source id")
    finally:
        rival.close()


def _bad_config(slot: Slot) -> str:
    return _says(slot.start("stimulation.level_ua=nan"), "stimulation.level_ua")


def _other_settings(slot: Slot) -> str:
    """A guard that has read other settings than the engine's."""
    from devices import link
    from devices.link_socket import GuardClient
    from devices.settings import digest, encode
    from loop import config as configuration
    from loop.config import guard_settings

    slot.with_device()
    texts = ('device.driver="reference"', f'device.port="{slot.folder / "port"}"')
    ours, theirs = (
        guard_settings(
            configuration.parse(slot.config.read_text(), "campaign.toml", (*texts, f"stimulation.level_ua={level}")),
            "campaign",
            input_is_simulated=True,
        )
        for level in (LEVEL_UA, LEVEL_UA + 1)
    )
    settings, path = slot.folder / "settings.json", slot.runtime / "other.sock"
    settings.write_bytes(encode(theirs))
    guard = slot.module("devices.guard_process", "--settings", str(settings), "--socket", str(path))
    try:
        end_s = time.monotonic() + 10.0
        while not Path(path).exists() and time.monotonic() < end_s:
            time.sleep(0.02)  # the guard says nothing when it listens
        client = GuardClient.connect(path, 5.0)
        client.send(link.Hello(version=link.LINK_VERSION, settings_sha256=digest(ours)))
        while time.monotonic() < end_s:
            for message in client.receive():
                if isinstance(message, link.Refused) and "settings" in message.reason:
                    return ""
                if isinstance(message, link.Welcome):
                    return "other settings were welcomed"
            time.sleep(0.01)  # as above
        return "no answer"
    finally:
        guard.close()


def _hardware(slot: Slot) -> str:
    slot.with_stream()
    device = slot.with_device("hardware")
    try:
        return _says(slot.start(), "simulated input never drives real hardware")
    finally:
        device.close()
        slot.stimulator = None


_FOREIGN: Final = """
import sys, types
foreign = types.ModuleType("cext.kernel")
foreign.KERNEL_ABI = -1
sys.modules["cext.kernel"] = foreign
sys.argv = ["cereloop", "simulate", "--duration", "5"]
from loop.cli import main
main()
"""


def _foreign_kernel(slot: Slot) -> str:
    return _says(Child([PYTHON, "-c", _FOREIGN], slot.folder, slot.environment), "cext.kernel")


def _second_session(slot: Slot) -> str:
    """A ledger that has seen a session: a second one within 24 h does not start."""
    from devices import ledger

    path = slot.folder / f"dose-{time.monotonic_ns()}.sqlite"
    ledger.create(path)
    named = f'dose.ledger="{path}"'
    slot.begin(named)
    assert slot.live is not None
    slot.event(lambda event: event.get("after") == "HOLD")
    slot.live.send("stop")
    _ended(slot.live)
    slot.drop_session()
    return _says(slot.start(named), "24 h", "interval", "wait")


REFUSALS: Final[dict[str, Callable[[Slot], str]]] = {
    "F08": _two_outlets,
    "F50": _bad_config,
    "F51": _other_settings,
    "F52": _hardware,
    "F53": _foreign_kernel,
    "F54": _second_session,
}
