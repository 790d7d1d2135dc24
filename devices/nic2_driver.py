"""The verbs of driver ``nic2``: what the guard may ask of a Starstim in each mode, and what is refused in which words.

NIC tells no current. What is reported here as commanded is what the device was told and should deliver by now; what is assumed
to flow is never less.
"""

from __future__ import annotations

import math
from typing import Final

from devices import nic2_codec as codec
from devices.limits import ABORT_SLEW_UA_S, NEVER_ABOVE_SLEW_UA_S
from devices.nic2_hello import Greeting
from devices.nic2_modes import MAX_HOLD_MS, Mode, Nic2Options, capabilities
from devices.nic2_plan import why_not
from devices.nic2_session import ASK_EVERY_MS, Session
from devices.nic2_table import TABLES
from devices.stimulator import (
    Capabilities,
    DeviceError,
    DeviceLostError,
    DeviceNotFoundError,
    DeviceProtocolError,
    DeviceRefusedError,
    DeviceUncertainError,
    GatePlan,
    Identity,
    Readback,
    StopClass,
)
from devices.units import NS_PER_MS, NS_PER_S
from devices.wires import Wire

CLOSE_BUDGET_MS: Final = 2000
PROTOCOL_SPARE_S: Final = 5.0


class Nic2Stimulator:
    """Driver of a Starstim behind NIC2; implements `devices.stimulator.GateStimulator`.

    Parameters
    ----------
    wire : Wire
        `TcpWire` to NIC.
    mode : {"peak", "timed", "plain"}
        How a current is made, and what ends it when this program dies.
    options : Nic2Options
        Montage and protocols.
    """

    def __init__(self, wire: Wire, mode: Mode, options: Nic2Options) -> None:
        self._wire = wire
        self._mode: Mode = mode
        self._options = options
        self._capabilities = capabilities(mode, options)
        self._identity: Identity | None = None
        self._lost = ""
        self._boots = 0
        self._nic = Session(wire, mode, options, self._boots)

    # ---- what it is

    @property
    def capabilities(self) -> Capabilities:
        """What it can do in this mode."""
        return self._capabilities

    @property
    def assumed_ua(self) -> int:
        """Largest magnitude that may flow: what was told and not yet surely over."""
        return self._nic.assumed_ua

    def fileno(self) -> int:
        """Descriptor that turns readable when NIC has sent something; -1 while closed."""
        return self._wire.fileno()

    # ---- opening

    def open(self) -> Identity:
        """Connect, agree on the version, wait for the operator's consent, measure impedance, start the zero-current protocol.

        Returns
        -------
        Identity
            Who answered. If already open, who answered then.

        Raises
        ------
        DeviceNotFoundError
            If nothing answers there, or not in this version.
        DeviceRefusedError
            If the operator does not consent within 20 s, or NIC does not do what is needed; the text says what.
        DeviceLostError
            If the connection breaks meanwhile.
        """
        if self._identity is not None:
            return self._identity
        self._wire.open()
        self._lost = ""
        self._boots += 1
        self._nic = Session(self._wire, self._mode, self._options, self._boots)
        try:
            greeting = Greeting(self._wire, self._nic.line, TABLES[self._options.version])
            identity, status = greeting.greet(self._options)
            self._nic.begin(status, greeting.now_ns)
            while not self._nic.ready:
                self._wait(ASK_EVERY_MS / 2000.0)
                self._nic.work()
                if self._nic.fault:
                    raise DeviceRefusedError(f"{self._wire.name}: {self._nic.fault}")
        except DeviceProtocolError as error:
            self._wire.close()
            raise DeviceNotFoundError(str(error)) from error
        except DeviceError:
            self._wire.close()
            raise
        self._nic.restart_clock()
        self._identity = identity
        return identity

    def _wait(self, budget_s: float) -> None:
        left_s = self._wire.wait(budget_s)
        self._nic.now_ns += max(1, round((budget_s - left_s) * NS_PER_S))

    # ---- verbs

    def arm(self, max_level_ua: int, max_slew_ua_s: int) -> None:
        """Latch limits and allow current; NIC itself knows no arming. Raises DeviceError."""
        self._require_open()
        if not 1 <= max_level_ua <= self._capabilities.max_level_ua:
            raise DeviceRefusedError(
                f"{self._wire.name}: a greatest level of {max_level_ua} uA is outside 1 .. {self._capabilities.max_level_ua} uA"
            )
        if not 1 <= max_slew_ua_s <= NEVER_ABOVE_SLEW_UA_S:
            raise DeviceRefusedError(
                f"{self._wire.name}: a slew of {max_slew_ua_s} uA/s is outside 1 .. {NEVER_ABOVE_SLEW_UA_S} uA/s"
            )
        self._require_certain()
        if self._nic.fault:
            raise DeviceRefusedError(f"{self._wire.name}: {self._nic.fault}; reset first")
        if not self._nic.ready or self._nic.has_gate:
            raise DeviceRefusedError(f"{self._wire.name}: NIC is not ready yet; arm again in a few seconds")
        self._nic.armed = (max_level_ua, max_slew_ua_s)

    def disarm(self) -> None:
        """Zero at once, and no current until armed again. Raises DeviceLostError."""
        self._require_open()
        self._nic.armed = None
        if self._nic.may_flow:
            self._nic.cut()
        elif not (self._nic.ready or self._nic.is_preparing or self._nic.left_alone or self._nic.is_aborting):
            self._nic.prepare(with_impedance=False)

    def run_gate(self, plan: GatePlan) -> None:
        """Begin one gate now.

        Raises
        ------
        DeviceRefusedError
            If it is not armed, one runs already, or the plan is outside the limits of the mode; the text says which.
        DeviceUncertainError, DeviceLostError
            If nobody knows what NIC does.
        """
        limits = self._require_armed()
        if self._mode == "plain":
            raise DeviceRefusedError(f"{self._wire.name}: mode plain takes levels, no gates")
        if self._nic.has_gate:
            raise DeviceRefusedError(f"{self._wire.name}: a gate runs already")
        why = why_not(plan, *limits, MAX_HOLD_MS if self._mode == "peak" else None) or self._why_not_timed(plan)
        if why:
            raise DeviceRefusedError(f"{self._wire.name}: {why}")
        self._nic.run_gate(plan)

    def _why_not_timed(self, plan: GatePlan) -> str:
        if self._mode != "timed":
            return ""
        gate_s = (plan.rise_ms + plan.hold_ms + plan.fall_ms) / 1000.0
        lasts_s = self._options.protocol_s or 0.0
        if gate_s <= lasts_s <= gate_s + PROTOCOL_SPARE_S:
            return ""
        return (
            f"a gate of {gate_s:g} s; the NIC protocol is to last as long, or up to {PROTOCOL_SPARE_S:g} s longer, and "
            f"`device.options.protocol_s` is {lasts_s:g}"
        )

    def set_level(self, level_ua: int, lease_ms: int) -> None:  # noqa: ARG002 - NIC knows no leases
        """In mode plain: go to `level_ua` by one online change, no faster than armed; otherwise only 0, where no gate runs.

        Raises
        ------
        DeviceRefusedError
            If a level other than 0 is not allowed here.
        DeviceUncertainError, DeviceLostError
            If nobody knows what NIC does.
        """
        self._require_open()
        if self._mode != "plain":
            if level_ua:
                raise DeviceRefusedError(f"{self._wire.name}: mode {self._mode} takes whole gates, no levels")
            return
        if level_ua:
            limits = self._require_armed()
            if abs(level_ua) > limits[0]:
                raise DeviceRefusedError(f"{self._wire.name}: {level_ua} uA; armed for at most {limits[0]} uA")
        now_ua = self._nic.commanded_ua
        if level_ua == now_ua or self._nic.is_changing:
            return  # the change before is under way; the next call goes on from where it ends
        rises = self._nic.armed is not None and (abs(level_ua) > abs(now_ua) or level_ua * now_ua < 0)
        slew = self._nic.armed[1] / 1000.0 if rises and self._nic.armed is not None else ABORT_SLEW_UA_S / 1000.0
        span_ms = math.ceil(abs(level_ua - now_ua) / slew)
        self._nic.change(level_ua, min(max(codec.MIN_TIME_MS, span_ms), codec.MAX_TIME_MS))

    def heartbeat(self) -> None:
        """NIC knows none. Raises DeviceLostError."""
        self._require_open()

    def stop(self, stop_class: StopClass) -> None:
        """Stop. Mode peak: always by NIC's abort; else by a change to zero (S0 0.1 s, S1 2 mA/s, S2 as armed), then abort.

        Raises
        ------
        DeviceLostError
            If the connection is closed or broken: then press abort in NIC.
        """
        self._require_open()
        if stop_class == StopClass.S0_CUT:
            self._nic.armed = None
            self._nic.cut()
            return
        if not self._nic.may_flow:
            self._nic.armed = None
            return
        if self._mode == "peak" or not self._nic.changes_heard:
            self._nic.abort(0)
        else:
            size = abs(self._nic.commanded_ua)
            slew = ABORT_SLEW_UA_S / 1000.0
            if stop_class == StopClass.S2_SESSION_RAMP and self._nic.armed is not None:
                slew = self._nic.armed[1] / 1000.0
            span_ms = min(max(codec.MIN_TIME_MS, math.ceil(size / slew)), codec.MAX_TIME_MS)
            self._nic.ramp_down(span_ms)
        self._nic.armed = None

    def reset_fault(self) -> None:
        """Prepare NIC anew, with an impedance check; only at zero current and by an operator's act. Raises DeviceLostError."""
        self._require_open()
        if self._nic.may_flow or self._nic.is_aborting:
            raise DeviceRefusedError(f"{self._wire.name}: current may still flow; press abort in NIC")
        self._nic.fault = ""
        self._nic.left_alone = False
        self._nic.prepare(with_impedance=True)

    def poll(self, t_ns: int) -> list[Readback]:
        """All reports since the last call, oldest first.

        Parameters
        ----------
        t_ns : int
            Now; the stamp of what is returned.

        Raises
        ------
        DeviceLostError
            If the connection is closed or broken.
        DeviceProtocolError
            If NIC sent what the protocol does not allow, or another status than the session can be in.
        DeviceUncertainError
            Once, when a reply has become overdue.
        """
        self._require_open()
        self._nic.now_ns = t_ns
        try:
            self._nic.work()
        except DeviceLostError as error:
            self._lost = str(error)
            raise
        readbacks, self._nic.readbacks = self._nic.readbacks, []
        return readbacks

    def close(self) -> None:
        """Zero, wait at most 2 s for NIC to confirm the abort, let go of the connection. Idempotent, never raises."""
        if self._identity is not None:
            self._identity = None
            try:
                self._nic.cut()
                end_ns = self._nic.now_ns + CLOSE_BUDGET_MS * NS_PER_MS
                while self._nic.is_aborting and self._nic.now_ns < end_ns:
                    self._wait(ASK_EVERY_MS / 5000.0)
                    self._nic.work()
            except DeviceError:
                pass  # the connection is gone: the peak or the protocol ends by itself, or somebody presses abort
        self._wire.close()

    # ---- what a call needs

    def _require_open(self) -> None:
        if self._identity is None:
            raise DeviceLostError(f"{self._wire.name} is not open")
        if self._lost:
            raise DeviceLostError(self._lost)

    def _require_certain(self) -> None:
        if self._nic.line.uncertain:
            raise DeviceUncertainError(f"{self._wire.name}: NIC has not answered yet; only stops are sent")

    def _require_armed(self) -> tuple[int, int]:
        self._require_open()
        self._require_certain()
        if self._nic.armed is None:
            raise DeviceRefusedError(f"{self._wire.name}: it is not armed")
        if not self._nic.ready or self._nic.is_aborting:
            raise DeviceRefusedError(f"{self._wire.name}: NIC is not ready yet; wait a few seconds")
        return self._nic.armed
