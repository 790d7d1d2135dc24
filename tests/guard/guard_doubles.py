"""What the guard's tests share: settings, a stimulator double on the caller's clock, and a bench that binds all three."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from devices import link
from devices.guard_core import DoseBookError, GuardCore, MemoryDoseBook
from devices.limits import gate_dose
from devices.settings import Device, Limits, Settings, Stimulation
from devices.stimulator import Capabilities, DeviceError, DeviceState, Identity, Readback, StopClass
from devices.units import NS_PER_MS

START_NS = 1_000_000_000_000
TICK = 10 * NS_PER_MS

CAPABILITIES = Capabilities(
    self_expiring_lease=True,
    hardware_watchdog=True,
    measures_current=True,
    unipolar=False,
    device_ramp=True,
    max_level_ua=2000,
    resolution_ua=1.0,
    command_latency_s=0.01,
    host_timeout_s=0.25,
    min_transition_s=0.0,
    readback_interval_s=0.05,
)
EMULATOR = Identity(maker="test", model="double", serial_number="1", firmware="1", emulator=True)
HARDWARE = msgspec.structs.replace(EMULATOR, emulator=False)


def make_settings(**changes: Any) -> Settings:
    """Good settings; keyword arguments replace fields of any part, by name."""
    parts: dict[str, dict[str, Any]] = {
        "stimulation": dict(polarity="anodal", electrode="pad", contact_area_cm2=25.0, level_ua=200, ramp_s=5.0, hold_s=10.0),
        "limits": dict(
            max_level_ua=2000,
            max_density_ua_cm2=100.0,
            max_slew_ua_s=100,
            max_charge_uc=100_000,
            max_on_time_s=600.0,
            arm_below_ohm=10_000,
            stop_above_ohm=20_000,
        ),
        "device": dict(driver="simulated", port=""),
        "settings": dict(session="test", input_is_simulated=True),
    }
    for key, value in changes.items():
        (part,) = [fields for fields in parts.values() if key in fields]
        part[key] = value
    return Settings(
        stimulation=Stimulation(**parts["stimulation"]),
        limits=Limits(**parts["limits"]),
        device=Device(**parts["device"]),
        **parts["settings"],
    )


class FakeStimulator:
    """A stimulator that obeys and reports every 50 ms; every lie is an attribute a test sets.

    `level_ua` is the true output. It keeps its own lease and host timeout, as the real ones do.
    """

    def __init__(self, capabilities: Capabilities = CAPABILITIES, identity: Identity = EMULATOR) -> None:
        self._capabilities = capabilities
        self.identity = identity
        self.now_ns = START_NS
        self.level_ua = 0.0
        self.state = DeviceState.IDLE
        self.target_ua = 0.0
        self.slew_ua_s = 0.0
        self.lease_ns = 0
        self.host_ns = 0
        self.ack_seq = 0
        self.boot_count = 1
        self.fault = ""
        self.impedance_ohm: float | None = 5000.0
        self.gain = 1.0
        self.added_ua = 0.0
        self.measured: Callable[[float], float | None] = lambda truth: truth
        self.commanded: Callable[[float], int] = round
        self.mute = False
        self.deaf = False
        self.stuck = False
        self.raises: dict[str, DeviceError] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.history: list[tuple[int, float]] = []
        self._report_ns = 0

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def assumed_ua(self) -> int:
        return round(max(abs(self.level_ua), abs(self.target_ua)))

    def fileno(self) -> int:
        return -1

    def _call(self, name: str, *arguments: Any) -> bool:
        self.calls.append((name, *arguments))
        if name in self.raises:
            raise self.raises[name]
        if self.deaf:
            return False
        self.ack_seq += 1
        self.host_ns = self.now_ns
        return True

    def open(self) -> Identity:
        if self._call("open"):
            self._zero(DeviceState.IDLE)
        return self.identity

    def arm(self, max_level_ua: int, max_slew_ua_s: int) -> None:
        if self._call("arm", max_level_ua, max_slew_ua_s):
            self.state = DeviceState.ARMED

    def disarm(self) -> None:
        if self._call("disarm"):
            self._zero(DeviceState.IDLE)

    def set_level(self, level_ua: int, lease_ms: int) -> None:
        if self._call("set_level", level_ua, lease_ms) and self.state in (
            DeviceState.ARMED,
            DeviceState.ACTIVE,
        ):
            self.state = DeviceState.ACTIVE if level_ua else DeviceState.ARMED
            self.target_ua, self.slew_ua_s = float(level_ua), 2000.0
            self.lease_ns = self.now_ns + lease_ms * NS_PER_MS

    def heartbeat(self) -> None:
        self._call("heartbeat")

    def stop(self, stop_class: StopClass) -> None:
        if not self._call("stop", stop_class):
            return
        if stop_class == StopClass.S0_CUT or not self.level_ua:
            self._zero(DeviceState.IDLE)
        else:
            self.state, self.target_ua, self.slew_ua_s = DeviceState.RAMPING_DOWN, 0.0, 2000.0

    def reset_fault(self) -> None:
        if self._call("reset_fault"):
            self.fault = ""
            self.state = DeviceState.IDLE

    def poll(self, t_ns: int) -> list[Readback]:
        self.advance(t_ns)
        if "poll" in self.raises:
            raise self.raises["poll"]
        if self.mute or t_ns < self._report_ns:
            return []
        self._report_ns = t_ns + 50 * NS_PER_MS
        return [self.readback(t_ns)]

    def close(self) -> None:
        self.calls.append(("close",))
        self._zero(DeviceState.IDLE)

    def readback(self, t_ns: int) -> Readback:
        """What it reports now."""
        return Readback(
            t_ns=t_ns,
            state=self.state,
            commanded_ua=self.commanded(self.target_or_level()),
            measured_ua=self.measured(self.output_ua()),
            voltage_mv=None,
            impedance_ohm=self.impedance_ohm,
            ack_seq=self.ack_seq,
            boot_count=self.boot_count,
            fault=self.fault,
        )

    def output_ua(self) -> float:
        """True current at the electrode."""
        return self.level_ua * self.gain + self.added_ua

    def target_or_level(self) -> float:
        """The device's own set point, already limited in slew."""
        return self.level_ua

    def advance(self, t_ns: int) -> None:
        """Let time run: lease, host timeout, slew."""
        dt_s, self.now_ns = (t_ns - self.now_ns) / 1e9, t_ns
        if (
            self.state in (DeviceState.ARMED, DeviceState.ACTIVE, DeviceState.RAMPING_DOWN)
            and t_ns - self.host_ns > 250 * NS_PER_MS
        ):
            self._zero(DeviceState.FAULT)
            self.fault = "host_timeout"
        if self.state is DeviceState.ACTIVE and t_ns > self.lease_ns:
            self.state, self.target_ua = DeviceState.RAMPING_DOWN, 0.0
        way = 0.0 if self.stuck else self.slew_ua_s * dt_s
        self.level_ua += max(-way, min(way, self.target_ua - self.level_ua))
        if self.state is DeviceState.RAMPING_DOWN and self.level_ua == 0.0:
            self.state = DeviceState.IDLE
        self.history.append((t_ns, self.output_ua()))

    def _zero(self, state: DeviceState) -> None:
        if not self.stuck:
            self.level_ua = self.target_ua = 0.0
            self.state = state


class FailingBook(MemoryDoseBook):
    """A ledger on a full disk."""

    def reserve(self, charge_uc: int, on_time_ms: int) -> None:
        raise DoseBookError("ledger.sqlite: no space left on device")


class Bench:
    """A guard core and a double on one virtual clock, driven as the engine and the process would drive them."""

    def __init__(
        self,
        settings: Settings | None = None,
        device: FakeStimulator | None = None,
        book: MemoryDoseBook | None = None,
    ) -> None:
        self.settings = settings or make_settings()
        self.device = device or FakeStimulator()
        self.book = book or MemoryDoseBook()
        self.core = GuardCore(self.settings, self.device, b"test", self.book)
        self.t_ns = START_NS
        self.seq = 0
        self.sent: list[Any] = []
        self.wanted_ua: int | None = None

    # ---- time

    def run(self, seconds: float, until: str | None = None) -> None:
        """Let time pass by ticks; an engine renews `wanted_ua` every 20 ms where it is not None."""
        for _ in range(round(seconds * 100)):
            self.tick()
            if until is not None and self.phase == until:
                return
        assert until is None, f"{self.phase} instead of {until}: {self.reason}"

    def tick(self, after_ns: int = TICK) -> None:
        """One tick, `after_ns` later."""
        self.t_ns += after_ns
        if self.wanted_ua is not None and (self.t_ns // TICK) % 2 == 0:
            self.command(self.wanted_ua)
        self._keep(self.core.tick(self.t_ns))

    # ---- the engine

    def command(self, level_ua: int, deadline_ms: float = 250.0, seq: int | None = None) -> None:
        """Ask for a level."""
        self.send(
            link.Command(
                seq=self.next_seq() if seq is None else seq,
                level_ua=level_ua,
                deadline_ns=self.t_ns + round(deadline_ms * NS_PER_MS),
                decision=1,
            )
        )

    def send(self, message: link.ToGuard) -> None:
        """Send over the link's own bytes."""
        self._keep(self.core.handle_packet(self.t_ns, link.encode(message)))

    def bytes(self, packet: bytes) -> None:
        """Send bytes."""
        self._keep(self.core.handle_packet(self.t_ns, packet))

    def engine_gone(self) -> None:
        self._keep(self.core.engine_gone(self.t_ns))

    def terminate(self) -> None:
        self._keep(self.core.terminate(self.t_ns))

    def arm(self, code: str | None = None) -> None:
        self.send(link.Arm(seq=self.next_seq(), code=self.core.welcome().arm_code if code is None else code))

    def reserve(self, charge_uc: int | None = None, on_time_ms: int | None = None) -> None:
        dose = gate_dose(self.settings.stimulation)
        self.send(
            link.Reserve(
                seq=self.next_seq(),
                charge_uc=dose.charge_uc if charge_uc is None else charge_uc,
                on_time_ms=dose.on_time_ms if on_time_ms is None else on_time_ms,
            )
        )

    def stop(self, stop_class: int, reason: str = "test") -> None:
        self.send(link.Stop(stop_class=stop_class, reason=reason))

    def reset(self) -> None:
        self.send(link.Reset(seq=self.next_seq(), operator="operator"))

    def next_seq(self) -> int:
        self.seq += 1
        return self.seq

    # ---- short ways to a state

    def to_safe(self) -> Bench:
        self.run(1.0, until="safe")
        return self

    def to_armed(self) -> Bench:
        self.to_safe()
        self.arm()
        assert self.phase == "armed", self.refusals
        self.run(0.1)
        return self

    def to_live(self, level_ua: int = 0) -> Bench:
        """Live, and settled at `level_ua`."""
        self.to_armed()
        if level_ua:
            self.reserve()
        self.wanted_ua = level_ua
        self.run(0.3 + level_ua / 100.0 + 0.1)
        assert self.phase == "live", self.reason
        assert self.level == level_ua
        return self

    # ---- what came of it

    @property
    def phase(self) -> str:
        return self.core.phase.value

    @property
    def reason(self) -> str:
        return self.core.state.reason

    @property
    def level(self) -> int:
        return self.core.state.level_ua

    @property
    def refusals(self) -> list[str]:
        return [message.reason for message in self.sent if isinstance(message, link.Refused)]

    @property
    def reports(self) -> list[link.Report]:
        return [message for message in self.sent if isinstance(message, link.Report)]

    def report(self) -> link.Report:
        return self.core.report(self.t_ns)

    def _keep(self, messages: Iterable[Any]) -> None:
        for message in messages:
            link.decode_from_guard(link.encode(message))
            self.sent.append(message)


def stops(device: FakeStimulator) -> list[StopClass]:
    """The stops that the device was sent, repeats included."""
    return [call[1] for call in device.calls if call[0] == "stop"]
