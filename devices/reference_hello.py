"""How a session with the reference serial protocol begins: a cut, who answers, and its self-test. Blocks, within bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from devices import refproto
from devices.reference_line import Line
from devices.refframe import VERSION, Frame
from devices.refproto import FrameError, HostMessage
from devices.stimulator import DeviceNotFoundError, DeviceRefusedError, DeviceUnfitError, Identity, StopClass
from devices.wires import Wire

OPEN_BUDGET_S: Final = 3.0
ASK_EVERY_S: Final = 0.3

_ReplyT = TypeVar("_ReplyT", refproto.IdentityReply, refproto.SelfTestResult)


class Greeting:
    """One opening of a line.

    Parameters
    ----------
    wire : Wire
        Already open.
    line : Line
        On that wire.
    send : callable
        Sends a message and keeps count of what is owed for it.

    Attributes
    ----------
    device_seq : int
        Number of the newest frame that was taken for an answer.
    """

    def __init__(self, wire: Wire, line: Line, send: Callable[[HostMessage], None]) -> None:
        self.device_seq = 0
        self._wire = wire
        self._line = line
        self._send = send

    def greet(self) -> Identity:
        """Cut, identify, test; returns who answered.

        Raises
        ------
        DeviceNotFoundError
            If nothing there answers in this protocol.
        DeviceRefusedError
            If the device speaks an older minor version.
        DeviceUnfitError
            If its self-test finds a defect.
        DeviceLostError
            If the line breaks meanwhile.
        """
        reply = self._ask((refproto.Stop(StopClass.S0_CUT), refproto.Identify()), refproto.IdentityReply)
        if reply is None:
            raise DeviceNotFoundError(
                f"{self._wire.name} can be opened, but no device there answered in the reference serial "
                f"protocol, version {VERSION}, within {OPEN_BUDGET_S:g} s ({self._heard()}); check port, cable and power"
            )
        if reply.minor < refproto.MINOR:
            raise DeviceRefusedError(
                f"{self._wire.name} speaks version {VERSION}.{reply.minor} of the reference serial protocol; "
                f"{VERSION}.{refproto.MINOR} or newer is needed: update its firmware"
            )
        self.test()
        return reply.identity

    def test(self) -> None:
        """Have the device test itself. Raises DeviceNotFoundError, DeviceUnfitError."""
        reply = self._ask((refproto.SelfTest(),), refproto.SelfTestResult)
        if reply is None:
            raise DeviceNotFoundError(f"{self._wire.name}: the device answered no self-test within {OPEN_BUDGET_S:g} s")
        if reply.defects:
            names = ", ".join(str(defect.name).lower().replace("_", " ") for defect in reply.defects)
            raise DeviceUnfitError(f"{self._wire.name}: the device's self-test failed ({names}); it must not be used")

    def _ask(self, messages: Sequence[HostMessage], kind: type[_ReplyT]) -> _ReplyT | None:
        """Send and wait for the answer, again and again within the budget."""
        first_seq = self._line.last_seq + 1
        for _ in range(round(OPEN_BUDGET_S / ASK_EVERY_S)):
            for message in messages:
                self._send(message)
            left = ASK_EVERY_S
            while True:
                self._line.flush()
                for frame in self._line.decoder.feed(self._wire.read()):
                    reply = _reply(frame, kind)
                    # An answer to an earlier host may still be on the line: only numbers just sent count.
                    if reply is not None and first_seq <= reply.ack_seq <= self._line.last_seq:
                        self.device_seq = frame.seq
                        return reply
                if left <= 0.0:
                    break
                left = self._wire.wait(left)
        return None

    def _heard(self) -> str:
        decoder = self._line.decoder
        if decoder.other_version is not None:
            return f"it speaks version {decoder.other_version}"
        return "bytes came back, but none with this meaning" if decoder.skipped else "nothing came back"


def _reply(frame: Frame, kind: type[_ReplyT]) -> _ReplyT | None:
    try:
        message = refproto.parse_device(frame)
    except FrameError:
        return None
    return message if isinstance(message, kind) else None
