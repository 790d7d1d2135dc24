"""How a session with NIC begins: version, the operator's consent, and who answers. Blocks, within bounds."""

from __future__ import annotations

from typing import Final

from devices import nic2_codec as codec
from devices.nic2_codec import Nic2CodecError
from devices.nic2_line import Conversation
from devices.nic2_modes import Nic2Options
from devices.nic2_table import Op, OpcodeTable, Status
from devices.stimulator import DeviceNotFoundError, DeviceRefusedError, Identity
from devices.units import NS_PER_S
from devices.wires import Wire

HELLO_TRIES: Final = 25
CONSENT_TRIES: Final = 20
TRY_EVERY_S: Final = 1.0
FIRST_TRY_S: Final = 0.2


class Greeting:
    """One opening of a connection; keeps its own count of the time that it has waited.

    Parameters
    ----------
    wire : Wire
        Already connected.
    line : Conversation
        On that wire.
    table : OpcodeTable
        Version to agree on.

    Attributes
    ----------
    now_ns : int
        Time waited so far, ns.
    """

    def __init__(self, wire: Wire, line: Conversation, table: OpcodeTable) -> None:
        self.now_ns = 0
        self._wire = wire
        self._line = line
        self._table = table

    def greet(self, options: Nic2Options) -> tuple[Identity, Status | None]:
        """Agree on the version, wait for consent, and ask who it is; returns that and NIC's status.

        Raises
        ------
        DeviceNotFoundError
            If what answers is no NIC2 of this version.
        DeviceRefusedError
            If the operator does not consent, or the device has other channels than `options` say.
        DeviceLostError, DeviceProtocolError
            If the connection breaks, or what comes is no reply.
        """
        self._hello()
        self._consent()
        identity = self._who(options)
        main = self._reply(Op.QUERY_STATUS)
        return identity, main if isinstance(main, Status) else None

    def _hello(self) -> None:
        for i in range(HELLO_TRIES):
            status = self._reply(Op.VERSION, self._table.version)
            if status in (Status.IDLE, Status.REMOTE_CONTROL_ALLOWED):
                return
            if status is Status.VERSION_RECEIVED:
                raise DeviceNotFoundError(f"{self._wire.name}: NIC does not speak version {self._table.version}")
            if status is None:
                raise DeviceNotFoundError(f"{self._wire.name} can be reached, but does not answer as NIC2 does")
            self._pause(min(TRY_EVERY_S, FIRST_TRY_S * 2.0**i))
        raise DeviceNotFoundError(f"{self._wire.name}: NIC does not get ready; is the Starstim switched on and connected?")

    def _consent(self) -> None:
        for _ in range(CONSENT_TRIES):
            status = self._reply(Op.QUERY_STATUS)
            if status is Status.REMOTE_CONTROL_REJECTED:
                raise DeviceRefusedError(f"{self._wire.name}: the operator rejected remote control in NIC")
            if status is Status.REMOTE_CONTROL_ALLOWED:
                return
            self._pause(TRY_EVERY_S)
        raise DeviceRefusedError(
            f"{self._wire.name}: nobody allowed remote control in NIC within {CONSENT_TRIES} s; press Yes there, then try again"
        )

    def _who(self, options: Nic2Options) -> Identity:
        version, channels, line = (
            self._reply(op) for op in (Op.READ_MATNIC_VERSION, Op.READ_CHANNELS, Op.READ_DEVICE_SETTINGS)
        )
        if channels != options.channels:
            raise DeviceRefusedError(
                f"{self._wire.name}: the device has {channels} channels; key `device.options.channels` says "
                f"{options.channels}"
            )
        try:
            found = codec.parse_settings(str(line))
        except Nic2CodecError as error:
            raise DeviceNotFoundError(f"{self._wire.name}: {error}") from error
        return Identity(
            maker="Neuroelectrics",
            model=found.kind or "Starstim",
            serial_number=found.address,
            firmware=f"{found.firmware}; {version}",
            emulator="emulat" in f"{version} {found.kind}".lower(),
        )

    def _reply(self, op: Op, text: str = "") -> Status | int | str | None:
        """Ask and wait for the answer, 3 s at most; None if there is none."""
        self._line.ask(op, self.now_ns, text)
        for _ in range(3):
            answers, _ = self._line.pump(self.now_ns)
            if answers:
                return answers[0][1]
            self.wait(TRY_EVERY_S)
        answers, _ = self._line.pump(self.now_ns)
        return answers[0][1] if answers else None

    def _pause(self, seconds: float) -> None:
        """Let time pass; nothing has been asked, so what comes meanwhile is dropped."""
        end_ns = self.now_ns + round(seconds * NS_PER_S)
        while self.now_ns < end_ns:
            self.wait((end_ns - self.now_ns) / NS_PER_S)
            self._wire.read()

    def wait(self, budget_s: float) -> None:
        """Wait until something has come, at most `budget_s`."""
        left_s = self._wire.wait(budget_s)
        self.now_ns += max(1, round((budget_s - left_s) * NS_PER_S))
