"""Latency from a sample in LSL to a command at the guard's driver, beside a bare pylsl pull-and-send on the same stream.

Everything runs as in a live session, each in a process of its own: an outlet, the engine with its recorder, the guard with its
driver, the mock stimulator. Only the driver is wrapped, to note when a set point is handed to it. The bare yardstick is what
anybody would write first: pull a chunk, send one packet over a local socket to another process. The two run at the same time,
on two outlets of one process that send half a chunk apart, so that both see the same machine and neither waits for the other.
Both are measured from the time stamp of the newest sample, so the outlet's own delay is in both.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from devices import link, settings
from devices.children import module_command
from devices.clock import SystemClock
from devices.guard_core import GuardCore, MemoryDoseBook
from devices.guard_process import GuardLoop, Log
from devices.link_server import LinkServer
from devices.link_socket import GuardClient, socket_path
from devices.reference import ReferenceStimulator, SerialWire
from devices.units import NS_PER_S
from loop import config as configuration
from loop.config import Config
from loop.events import Chunk, Tick
from loop.operator import Act
from loop.presets import preset_path
from loop.reader import Session

_STREAM: Final = "cereloop-bench"
_BARE_STREAM: Final = "cereloop-bench-bare"
_PAIR: Final = struct.Struct("<qq")
_START_S: Final = 20.0
_LEVEL_UA: Final = 20
_WARM_S: Final = 2.0
_CHUNK: Final = 20
_PERIOD_NS: Final = 1_000_000


class Percentiles(msgspec.Struct, frozen=True, kw_only=True):
    """Microseconds; `n` is the number of chunks measured."""

    n: int
    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float


class LatencyBench(msgspec.Struct, frozen=True, kw_only=True):
    """Ours beside the bare one; ratios of the percentiles."""

    bare: Percentiles
    loop: Percentiles
    ratio_p50: float
    ratio_p99: float


def bench_latency(seconds: float) -> LatencyBench:
    """Measure both for `seconds`, at the same time."""
    with tempfile.TemporaryDirectory() as folder, _child("outlets"):
        with _bare(Path(folder)) as bare_log:
            loop = _loop(Path(folder), seconds)
        bare = _settled(_read_pairs(bare_log), last_s=seconds)
    ours, yardstick = _percentiles(loop), _percentiles(bare)
    return LatencyBench(
        bare=yardstick,
        loop=ours,
        ratio_p50=ours.p50_us / yardstick.p50_us,
        ratio_p99=ours.p99_us / yardstick.p99_us,
    )


def _percentiles(latencies_ns: list[int]) -> Percentiles:
    values = np.array(latencies_ns) / 1e3
    p50, p99, p999 = np.percentile(values, [50.0, 99.0, 99.9])
    return Percentiles(
        n=len(values), p50_us=float(p50), p99_us=float(p99), p999_us=float(p999), max_us=float(values.max())
    )


# ---- the parent's side


@contextmanager
def _child(role: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = module_command("loop.bench_latency", role, *arguments)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the {role} of the latency measurement did not start")
        yield process
    finally:
        process.terminate()
        process.wait(_START_S)


@contextmanager
def _bare(folder: Path) -> Iterator[Path]:
    """The yardstick, for as long as the block lasts; yields where its pairs of times will be."""
    path, log = folder / "bare.sock", folder / "bare.log"
    with _child("receiver", str(path), str(log)) as receiver:
        with _child("puller", str(path)):
            yield log
        receiver.wait(_START_S)


def _loop(folder: Path, seconds: float) -> list[int]:
    """Latencies (ns) of chunks that a command followed at once."""
    out, log, port, file = folder / "loop.sqlite", folder / "guard.log", folder / "stimulator", folder / "config.json"
    config = _config(port, folder, seconds)
    guarded = configuration.guard_settings(config, f"bench-{os.getpid()}", input_is_simulated=True)
    (folder / "settings.json").write_bytes(settings.encode(guarded))
    file.write_bytes(configuration.encode(config))
    where = socket_path(guarded.session)
    with ExitStack() as stack:
        command = module_command("devices.mock.stimulator_process", "--link", str(port))
        device = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        stack.callback(device.terminate)
        assert device.stdout is not None
        device.stdout.readline()
        stack.enter_context(_child("guard", str(folder / "settings.json"), str(where), str(log)))
        engine = stack.enter_context(_child("engine", str(file), str(where), str(out)))
        engine.wait(seconds + 3 * _START_S)
    applied = dict(_read_pairs(log))
    pairs = []
    newest_ns: int | None = None
    from loop.engine import LEASE_NS

    with Session.open(out) as session:
        for row in session.rows(kinds=("chunk", "tick", "marker", "device", "clock_offset")):
            value = session.value(row)
            if isinstance(value, Chunk):
                newest_ns = int(value.stamps_ns[-1]) if len(value.stamps_ns) else None
            elif isinstance(value, Tick):
                at_ns = applied.get(value.t_ns + LEASE_NS)
                if newest_ns is not None and at_ns is not None:
                    pairs.append((newest_ns, at_ns))
                newest_ns = None
    return _settled(pairs)


def _config(port: Path, folder: Path, seconds: float) -> Config:
    overrides = [
        "session.arm='open_loop'",
        f"session.directory='{folder}'",
        f"session.duration_s={seconds + 30.0}",
        f"source.name='{_STREAM}'",
        f"device.port='{port}'",
        f"stimulation.level_ua={_LEVEL_UA}",
        "stimulation.ramp_s=1.0",
        f"stimulation.hold_s={max(seconds, 2.0)}",
        "gate.sense_s=1.0",
        "policy.max_duty=1.0",
        "policy.duty_window_s=3600.0",
    ]
    return configuration.load(preset_path("live-mock"), overrides)


def _settled(pairs: list[tuple[int, int]], last_s: float | None = None) -> list[int]:
    """Latencies in nanoseconds, without the first moments, or of the last `last_s` alone."""
    if not pairs:
        raise RuntimeError("the latency measurement saw no chunk; is another program using this machine to the full?")
    begin = pairs[0][0] + round(_WARM_S * NS_PER_S)
    if last_s is not None:
        begin = max(begin, pairs[-1][0] - round(last_s * NS_PER_S))
    # Only a pull that ends with the last sample of a chunk counts: in a half one the newest stamp is older than the chunk.
    phases = [round(stamp / _PERIOD_NS) % _CHUNK for stamp, _ in pairs]
    last = max(set(phases), key=phases.count)
    return [at - stamp for (stamp, at), phase in zip(pairs, phases, strict=True) if phase == last and stamp >= begin]


def _read_pairs(path: Path) -> list[tuple[int, int]]:
    data = path.read_bytes()
    return list(_PAIR.iter_unpack(data[: len(data) - len(data) % _PAIR.size]))


# ---- the children


def _outlets() -> None:
    from devices.mock.amplifier import Amplifier, stream
    from loop.bench_kernel import Noise

    def send(name: str) -> None:
        noise = Noise(24 * 3600)
        labels, units = noise.layout.labels, noise.layout.units
        amplifier = Amplifier(labels=labels, units=units, sfreq_hz=noise.layout.sfreq_hz, name=name, source_id=name,
                              marker_name=f"{name}-markers")
        stream(iter(lambda: noise.read(_CHUNK, 0.0), None), amplifier, chunk_s=_CHUNK * _PERIOD_NS / NS_PER_S)

    threading.Thread(target=send, args=(_BARE_STREAM,), daemon=True).start()
    time.sleep(_CHUNK * _PERIOD_NS / NS_PER_S / 2.0)
    print("ready", flush=True)
    send(_STREAM)


def _receiver(path: str, log: str) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen(1)
    print("ready", flush=True)
    connection, _ = listener.accept()
    clock, pairs = SystemClock(), bytearray()
    while packet := connection.recv(64):
        pairs += _PAIR.pack(int.from_bytes(packet[:8], "little", signed=True), clock.now_ns())
    Path(log).write_bytes(pairs)


def _puller(path: str) -> None:
    from devices import liblsl
    from loop.sources.lsl import clock_difference_ns

    pylsl: Any = liblsl.load("machine")
    (info,) = pylsl.resolve_byprop("name", _BARE_STREAM, 1, _START_S)
    inlet = pylsl.StreamInlet(info, recover=False)
    inlet.open_stream(_START_S)
    offset_ns = round(inlet.time_correction(_START_S) * 1e9) + clock_difference_ns(pylsl, SystemClock())
    buffer = np.empty((256, info.channel_count()), dtype=np.float32)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(path)
    print("ready", flush=True)
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    while not ended:
        _, stamps = inlet.pull_chunk(0.5, 256, buffer, min_samples=1, as_numpy=True)
        if len(stamps):
            stamp_ns = round(stamps[-1] * 1e9) + offset_ns
            connection.send(stamp_ns.to_bytes(8, "little", signed=True) + bytes(40))
    connection.close()


class _NotingDriver(ReferenceStimulator):
    """The real driver, with a note of when each set point is handed to it."""

    def __init__(self, port: str) -> None:
        super().__init__(SerialWire(port))
        self._clock = SystemClock()
        self.called_ns = 0

    def set_level(self, level_ua: int, lease_ms: int) -> None:
        self.called_ns = self._clock.now_ns()
        super().set_level(level_ua, lease_ms)


class _NotingCore(GuardCore):
    """The real guard, with a note of which command led to which call of the driver."""

    def __init__(self, guarded: settings.Settings, driver: _NotingDriver, secret: bytes) -> None:
        super().__init__(guarded, driver, secret, MemoryDoseBook())
        self._noting = driver
        self.pairs = bytearray()

    def handle(self, t_ns: int, message: link.ToGuard) -> list[link.FromGuard]:
        before = self._noting.called_ns
        out = super().handle(t_ns, message)
        if isinstance(message, link.Command) and self._noting.called_ns != before:
            self.pairs += _PAIR.pack(message.deadline_ns, self._noting.called_ns)
        return out


def _guard(settings_path: str, where: str, log: str) -> None:
    guarded = settings.decode(Path(settings_path).read_bytes())
    server = LinkServer(Path(where))
    core = _NotingCore(guarded, _NotingDriver(guarded.device.port), b"bench")
    null = os.open(os.devnull, os.O_WRONLY)
    loop = GuardLoop(core, server, Log(null), SystemClock())
    print("ready", flush=True)
    try:
        loop.run()
    finally:
        core.close()
        server.close()
        Path(log).write_bytes(core.pairs)


class _Arming:
    """Stands in for the operator: types the code once the device has had time to measure the impedance."""

    is_terminal = False

    def __init__(self, code: str) -> None:
        self._code = code
        self._at_s = time.monotonic() + 1.5

    def read(self) -> list[Act]:
        """The code, once."""
        if self._code and time.monotonic() >= self._at_s:
            code, self._code = self._code, ""
            return [Act("arm", code)]
        return []


def _engine(config_path: str, where: str, out: str) -> None:
    from loop.live import LiveSession
    from loop.outlets import Outlets
    from loop.recorder import ProcessRecorder
    from loop.run import open_source, session_meta
    from loop.screen import Screen

    config = configuration.decode(Path(config_path).read_bytes())
    guarded = configuration.guard_settings(config, Path(where).stem, input_is_simulated=True)
    with open_source(config) as source:
        client = GuardClient.connect(where, _START_S)
        client.send(link.Hello(version=link.LINK_VERSION, settings_sha256=settings.digest(guarded)))
        welcome: link.Welcome | None = None
        while welcome is None:
            welcome = next((m for m in client.receive() if isinstance(m, link.Welcome)), None)
        clock, screen = SystemClock(), Screen("quiet")
        recorder = ProcessRecorder(out, session_meta(config, "live", "bench", ""), clock)
        operator: Any = _Arming(welcome.arm_code)
        print("ready", flush=True)
        outlets = Outlets("bench", config.source.reach)
        LiveSession(config, source, recorder, client, welcome, operator, screen, clock, outlets).run()
        recorder.close()
        client.close()


_ROLES: Final[dict[str, Callable[..., None]]] = {
    "outlets": _outlets,
    "receiver": _receiver,
    "puller": _puller,
    "guard": _guard,
    "engine": _engine,
}

if __name__ == "__main__":
    _ROLES[sys.argv[1]](*sys.argv[2:])
