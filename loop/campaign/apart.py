"""Rows that strike no running session: streams to choose from, configuration, dose and the guard's socket.

Each driver takes its row and a seed, and gives one `Run`. Nothing here makes a current but F54, on the virtual clock.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import secrets
import socket
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from devices import ledger, link
from devices.dose_book import DoseBookError, MemoryDoseBook
from devices.guard_core import GuardCore
from devices.ledger_book import LedgerBook, sessions_of
from devices.limits import gate_dose
from devices.link_server import LinkServer
from devices.link_socket import GuardClient
from devices.mock.stimulator import StimulatorModel
from devices.reference import InProcessWire, ReferenceStimulator
from devices.settings import Dose, Settings
from devices.stimulator import Identity
from devices.units import NS_PER_MS, NS_PER_S
from loop import config as configuration
from loop.campaign.judge import Run, judged, watched
from loop.campaign.rig import START_NS, Rig, base_text, drawn
from loop.campaign.rows import Row
from loop.campaign.scenes import Case
from loop.config import Config, ConfigError, guard_settings

Driver = Callable[[Row, str], Run]

_WILD: Final = ("nan", "-inf", "true", '"8"', "1e9", "-1", "[]", "{}", "0", "99999999999999999999")
_NAMES_PLACE: Final = re.compile(r"`[^`]+`|at line \d+|at end of document|not UTF-8|(stimulation|limits)\.\w+")
_HARDWARE: Final = Identity(maker="campaign", model="a real stimulator", serial_number="1", firmware="1", emulator=False)
DAY_NS: Final = 86_400 * NS_PER_S


def _refused(row: Row, seed: str, wrong: str) -> Run:
    return Run(row=row.id, seed=seed, answer="refused" if not wrong else "on", wrong=wrong)


# ---- F50 to F53


def _damaged(rng: random.Random) -> bytes:
    text = base_text()
    lines = text.splitlines()
    values = [number for number, line in enumerate(lines) if " = " in line]
    at = rng.choice(values)
    key = lines[at].partition(" = ")[0]
    match rng.choice(("value", "key", "cut", "bytes", "unit")):
        case "value":
            lines[at] = f"{key} = {rng.choice(_WILD)}"
        case "key":
            lines[at] = f"{key}x = 1"
        case "cut":
            return text.encode()[: rng.randrange(len(text))]
        case "bytes":
            data = bytearray(text.encode())
            for _ in range(rng.randint(1, 20)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            return bytes(data)
        case _:
            lines[at] = lines[at].replace("_ua", "_ma").replace("_s ", "_ms ").replace("_ohm", "_kohm").replace("_uc", "_c")
    return "\n".join(lines).encode()


def _config(row: Row, seed: str) -> Run:
    """A damaged file loads to something within the ceilings, or is refused in one line that names file and key."""
    with tempfile.TemporaryDirectory(prefix="cereloop-campaign-") as folder:
        path = Path(folder) / "study.toml"
        path.write_bytes(_damaged(random.Random(seed)))
        try:
            loaded = configuration.load(path)
        except ConfigError as error:
            said = str(error)
            good = said.startswith(str(path)) and "\n" not in said and _NAMES_PLACE.search(said)
            return _refused(row, seed, "" if good else f"refused without file and key: {said[:200]}")
    return Run(row=row.id, seed=seed, answer="loaded", wrong=_above_a_ceiling(loaded))


def _above_a_ceiling(loaded: Config) -> str:
    if loaded.stimulation is None or loaded.device is None or not loaded.stimulates:
        return ""
    if loaded.device.driver != "simulated":
        return ""
    core = _core(guard_settings(loaded, "campaign", input_is_simulated=True))
    most = core.params.max_level_ua
    core.close()
    return "" if most <= 2000 and core.params.slew_na_s <= 100_000 else f"a damaged file allows {most} uA"


def _core(settings: Settings, identity: Identity | None = None) -> GuardCore:
    from devices.clock import VirtualClock

    driver = ReferenceStimulator(InProcessWire(StimulatorModel(START_NS), VirtualClock(START_NS)))
    if identity is not None:
        opened = driver.open
        driver.open = lambda: opened() and identity  # type: ignore[method-assign]
    return GuardCore(settings, driver, b"campaign", MemoryDoseBook())


def _hash(row: Row, seed: str) -> Run:
    """A guard whose settings differ in anything from the engine's refuses to work with it."""
    rng = random.Random(seed)
    core = _core(guard_settings(drawn(rng), "campaign", input_is_simulated=True))
    other = guard_settings(drawn(rng), "campaign", input_is_simulated=True)
    from devices.settings import digest

    answer = core.hello(link.Hello(version=link.LINK_VERSION, settings_sha256=digest(other)))
    core.close()
    return _refused(row, seed, "" if isinstance(answer, link.Refused) else "other settings were welcomed")


def _simulated_input(row: Row, seed: str) -> Run:
    """Simulated samples, and a device that is no emulator: nothing arms."""
    core = _core(guard_settings(drawn(random.Random(seed)), "campaign", input_is_simulated=True), _HARDWARE)
    t_ns = START_NS
    while core.phase != "safe" and t_ns < START_NS + 2 * NS_PER_S:
        t_ns += 10 * NS_PER_MS
        core.tick(t_ns)
    said = core.handle(t_ns, link.Arm(seq=1, code=core.welcome().arm_code))
    armed = core.phase == "armed"
    core.close()
    good = not armed and "simulated" in core.params.forbidden and any(isinstance(one, link.Refused) for one in said)
    return _refused(row, seed, "" if good else "a device that is no emulator was armed on simulated input")


def _kernel(row: Row, seed: str) -> Run:
    """A kernel that is missing or of another version is named before anything begins."""
    rng = random.Random(seed)
    abi = rng.choice((None, -1, rng.randrange(1, 1 << 31)))
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write_fd, _imported(abi).encode())
        finally:
            os._exit(0)
    os.close(write_fd)
    with os.fdopen(read_fd) as file:
        said = file.read()
    os.waitpid(pid, 0)
    return _refused(row, seed, "" if "cext.kernel" in said else f"a foreign kernel was loaded ({said})")


def _imported(abi: int | None) -> str:
    for name in [name for name in sys.modules if name == "cext" or name.startswith("cext.")]:
        del sys.modules[name]
    foreign: Any = types.ModuleType("cext.kernel")
    foreign.KERNEL_ABI = abi
    foreign.Kernel = object
    sys.modules["cext.kernel"] = foreign if abi is not None else None  # type: ignore[assignment]
    try:
        import cext
    except ImportError as error:
        return str(error)
    return f"loaded {cext.__name__}"


# ---- F54


def _dose(row: Row, seed: str) -> Run:
    rng = random.Random(seed)
    return _used_up(row, seed) if rng.random() < 0.5 else _many_sessions(row, seed, rng)


def _used_up(row: Row, seed: str) -> Run:
    """An engine that reserves less than it asks for: the guard ramps down in time, and no more than that flows."""
    rng = random.Random(seed)
    rig = Rig(seed, drawn(rng, rng.randint(50, 300)))
    assert rig.config.stimulation is not None
    whole = gate_dose(rig.config.stimulation)
    share = rng.uniform(0.3, 0.8)
    charge_uc, on_time_ms = round(share * whole.charge_uc), round(share * whole.on_time_ms)

    def less(message: link.ToGuard) -> link.ToGuard:
        if not isinstance(message, link.Reserve):
            return message
        return msgspec.structs.replace(message, charge_uc=charge_uc, on_time_ms=on_time_ms)

    rig.tamper = less
    rig.to_sense()
    rig.run(5.0, lambda: rig.level_ua > 12.0)
    rig.watch()
    ramp_s = rig.config.stimulation.ramp_s
    spent: list[int] = []
    rig.every_turn = lambda: spent.append(rig.t_ns) if not spent and rig.guard.phase == "ending" else None
    case = Case(lambda r: spent[0] if spent else r.t_ns, 60.0, bound_s=ramp_s + 0.3)
    watched(rig, case)
    run = judged(rig, row, case, seed, flowed=True)
    beyond = max(0.0, rig.model.meter.charge_uc - charge_uc)
    wrong = run.wrong or (f"{beyond:.0f} uC beyond the reservation" if beyond > 0.0 else "")
    return msgspec.structs.replace(run, beyond_uc=beyond, wrong=wrong)


class _SetClock:
    """A clock that the run sets."""

    def __init__(self) -> None:
        self.t_ns = 1_800_000_000 * NS_PER_S

    def wall_ns(self) -> int:
        return self.t_ns

    def now_ns(self) -> int:
        return self.t_ns


def _many_sessions(row: Row, seed: str, rng: random.Random) -> Run:
    """Crashed and short sessions on one ledger never add up to more than one session's dose in 24 h."""
    clock = _SetClock()
    base = guard_settings(drawn(rng), "campaign", input_is_simulated=True)
    cap_uc, cap_ms = base.limits.max_charge_uc, round(base.limits.max_on_time_s * 1000)
    with tempfile.TemporaryDirectory(prefix="cereloop-campaign-") as folder:
        path = Path(folder) / "dose.sqlite"
        ledger.create(path)
        began_ns, spent_uc = clock.t_ns, 0
        for number in range(6):
            settings = msgspec.structs.replace(
                base, session=f"s{number}", participant="P001", checklist="x", dose=Dose(ledger=str(path))
            )
            book = LedgerBook(settings, path.with_name("apart"), clock)
            try:
                book.take(_HARDWARE)
            except DoseBookError:
                break
            used_uc, used_ms = book.used()
            for _ in range(rng.randint(1, 3)):
                ask_uc, ask_ms = rng.randint(1, cap_uc), rng.randint(1, cap_ms)
                if used_uc + ask_uc > cap_uc or used_ms + ask_ms > cap_ms:
                    continue  # what the guard would refuse
                book.reserve(ask_uc, ask_ms)
                flowed_uc = rng.randint(0, ask_uc)
                spent_uc += flowed_uc
                clock.t_ns += rng.randint(1, 600) * NS_PER_S
                if rng.random() < 0.5:
                    break  # a crash under current: never settled
                book.settle(flowed_uc, ask_ms)
                used_uc, used_ms = used_uc + flowed_uc, used_ms + ask_ms
            else:
                if rng.random() < 0.5:
                    book.finish()
            book.close()
            clock.t_ns += rng.randint(1, 3600) * NS_PER_S
        whole = ledger.Ledger(path)
        sessions = sessions_of(whole, "P001", emulated=False)
        whole.close()
    beyond = max(0, spent_uc - cap_uc)
    wrong = f"{beyond} uC beyond a session's dose" if beyond and clock.t_ns - began_ns < DAY_NS else ""
    if len(sessions) > 1:
        wrong = wrong or f"{len(sessions)} sessions within 24 h"
    return Run(row=row.id, seed=seed, answer="refused", beyond_uc=float(beyond), wrong=wrong)


# ---- F55


def _socket(row: Row, seed: str) -> Run:
    """Junk, crowds and silence on the guard's own socket; the engine's words still arrive, and the bystanders stay few."""
    rng = random.Random(seed)
    with contextlib.ExitStack() as own:
        folder = own.enter_context(tempfile.TemporaryDirectory(prefix="clc"))
        server = LinkServer(Path(folder) / f"{secrets.token_hex(3)}.sock")
        own.callback(server.close)
        crowd: list[socket.socket] = []
        own.callback(_close_all, crowd)
        most = 0
        engine = GuardClient.connect(server.path, 1.0)
        own.callback(engine.close)
        (peer,) = server.accept(0)
        peer.is_engine = True
        for number in range(rng.randint(1, 40)):
            with contextlib.suppress(OSError):
                one = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                one.settimeout(0.0)
                crowd.append(one)
                one.connect(os.fspath(server.path))
                one.send(rng.randbytes(rng.choice((1, 50, 5000, 100_000))))
            server.accept(number)
            most = max(most, len(server.peers))
            for stranger in [one for one in server.peers if not one.is_engine]:
                for packet in server.read(stranger)[0]:
                    if _understood(packet):
                        return _refused(row, seed, "junk was taken for a message")
        word = link.Stop(stop_class=1, reason=seed[:100])
        sent = engine.send(word)
        heard = [link.decode_to_guard(packet) for packet in server.read(peer)[0]]
        gone = server.expired(10 * NS_PER_S)
    wrong = "" if sent and heard == [word] else "the engine was not heard"
    if most > 9:
        wrong = wrong or f"{most} connections were held"
    if any(one.is_engine for one in gone):
        wrong = wrong or "the engine was let go"
    return Run(row=row.id, seed=seed, answer="on", wrong=wrong)


def _close_all(crowd: list[socket.socket]) -> None:
    for one in crowd:
        one.close()


def _understood(packet: bytes) -> bool:
    try:
        link.decode_to_guard(packet)
    except link.LinkError:
        return False
    return True


# ---- F08


class _Info:
    """One stream of a made-up network, as liblsl describes it."""

    def __init__(self, name: str, source_id: str, uid: str) -> None:
        self._said = {"name": name, "type": "EEG", "source_id": source_id, "uid": uid, "hostname": "host"}

    def __getattr__(self, name: str) -> Callable[[], Any]:
        said = object.__getattribute__(self, "_said")
        known = {**said, "channel_count": 8, "nominal_srate": 250.0}
        if name not in known:
            raise AttributeError(name)
        return lambda: known[name]


def _two_outlets(row: Row, seed: str) -> Run:
    """Several outlets that could be meant: none is taken."""
    from loop.sources.errors import SourceError
    from loop.sources.lsl import LslSource

    rng = random.Random(seed)
    same = rng.random() < 0.7
    infos = [_Info("eeg" if not same or rng.random() < 0.5 else f"other {n}", "amp" if same else f"amp {n}", str(n)) for n in
             range(rng.randint(2, 6))]
    infos[0] = _Info("eeg", "amp" if same else "amp 0", "0")
    rng.shuffle(infos[1:])

    class Network:
        """Finds the first, then all."""

        @staticmethod
        def resolve_bypred(_wanted: str, least: int, _timeout_s: float) -> list[_Info]:
            return infos[:1] if least == 1 else infos

    source = object.__new__(LslSource)
    source._pylsl, source._wanted, source._timeout_s = Network, "name='eeg'", 0.1
    try:
        source._resolve()
    except SourceError as error:
        return _refused(row, seed, "" if "\n" not in str(error) else "not one sentence")
    return _refused(row, seed, "one of several outlets was taken")


APART: Final[dict[str, Driver]] = {
    "F08": _two_outlets,
    "F50": _config,
    "F51": _hash,
    "F52": _simulated_input,
    "F53": _kernel,
    "F54": _dose,
    "F55": _socket,
}
