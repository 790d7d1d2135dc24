"""A mock Starstim on a virtual clock with its driver and meter: what most tests here stand on."""

from __future__ import annotations

from collections.abc import Callable

from devices.clock import VirtualClock
from devices.mock.electrodes import ElectrodeParameters
from devices.mock.faults import NIC2_FAULTS, parse
from devices.mock.meter import Meter, MeterRecord
from devices.mock.nic2 import Nic2Model, NicSettings
from devices.nic2 import Mode, Nic2Options, Nic2Stimulator
from devices.stimulator import GatePlan, Readback
from devices.units import NS_PER_MS

OPTIONS = Nic2Options(
    channels=8,
    target=1,
    returns=(2, 3),
    protocol="cereloop-zero",
    impedance_protocol="cereloop-impedance",
)
TIMED = Nic2Options(
    channels=8,
    target=1,
    returns=(2, 3),
    protocol="cereloop-gate",
    impedance_protocol="cereloop-impedance",
    protocol_s=12.0,
    accept_unproven_expiry=True,
)
PLAN = GatePlan(level_ua=-200, rise_ms=3000, hold_ms=4000, fall_ms=3000)


class VirtualWire:
    """In-process connection whose waiting moves the virtual clock; hears nothing once `broken`."""

    def __init__(self, model: Nic2Model, clock: VirtualClock) -> None:
        self.model = model
        self.clock = clock
        self.sent: list[tuple[int, bytes]] = []

    @property
    def name(self) -> str:
        return "the emulated NIC"

    def open(self) -> None:
        self.model.client_gone()

    def fileno(self) -> int:
        return -1

    def write(self, data: bytes) -> int:
        self.sent.append((self.clock.now_ns(), data))
        self.model.receive(data, self.clock.now_ns())
        return len(data)

    def read(self) -> bytes:
        self.model.advance(self.clock.now_ns())
        return self.model.take_output()

    def wait(self, budget_s: float) -> float:
        left_ns = round(budget_s * 1e9)
        while left_ns > 0:
            step_ns = min(left_ns, 5 * NS_PER_MS)
            left_ns -= step_ns
            self.clock.advance_to(self.clock.now_ns() + step_ns)
            self.model.advance(self.clock.now_ns())
            outbox = self.model._outbox
            if outbox and outbox[0][0] * NS_PER_MS <= self.clock.now_ns():
                return left_ns * 1e-9
        return 0.0

    def close(self) -> None:
        self.model.client_gone()


class Bench:
    """Clock, model, meter record and driver; time moves in steps of 10 ms, as the guard's does."""

    def __init__(
        self,
        mode: Mode = "peak",
        options: Nic2Options | None = None,
        seed: int = 1,
        body: ElectrodeParameters | None = None,
        faults: tuple[str, ...] = (),
    ) -> None:
        self.clock = VirtualClock()
        self.records: list[MeterRecord] = []
        self.options = options or (TIMED if mode == "timed" else OPTIONS)
        settings = NicSettings(gate_s=self.options.protocol_s or 60.0)
        self.model = Nic2Model(seed=seed, settings=settings, body=body, meter=Meter(0, self.records.append))
        for text in faults:
            self.inject(text)
        self.wire = VirtualWire(self.model, self.clock)
        self.driver = Nic2Stimulator(self.wire, mode, self.options)

    @property
    def now(self) -> int:
        return self.clock.now_ns()

    def run(self, ms: int, act: Callable[[], None] | None = None) -> list[Readback]:
        """Let `ms` pass; `act` is called and the driver polled every 10 ms."""
        readbacks: list[Readback] = []
        for _ in range(ms // 10):
            self.clock.advance_to(self.now + 10 * NS_PER_MS)
            if act is not None:
                act()
            readbacks += self.driver.poll(self.now)
        return readbacks

    def pass_time(self, ms: int) -> None:
        """Let `ms` pass with nobody listening."""
        self.clock.advance_to(self.now + ms * NS_PER_MS)
        self.model.advance(self.now)

    def arm(self, max_level_ua: int = 1000, max_slew_ua_s: int = 100) -> None:
        self.driver.open()
        self.run(500)
        self.driver.arm(max_level_ua, max_slew_ua_s)
        self.run(500)

    def inject(self, text: str) -> int:
        return self.model.inject(parse(text, NIC2_FAULTS))
