"""An emulated Magstim Rapid²: bytes in, bytes and pulses out, on whatever clock it is given.

Where the unit's behaviour is not public it is as strict as any unit could be: only the enable command feeds the watchdog, a
command in the wrong state is a conflict, nothing fires in a wait. Numbers marked so are guesses that a bench must replace.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any, Final

from devices import magstim_codec as codec
from devices.magstim_codec import Version
from devices.mock.faults import FaultError, Injection
from devices.mock.magstim_faults import FAULTS
from devices.mock.pulse_meter import PulseMeter
from devices.units import NS_PER_MS, NS_PER_S

UNLOCK_CODE: Final = "cereloop"
"""The emulator's own; a unit's comes from its maker."""
ARM_NS: Final = NS_PER_S
AUTO_DISARM_NS: Final = 60 * NS_PER_S
WATCHDOG_ARMED_NS: Final = NS_PER_S  # a guess: the source says only how often the host repeats itself
WATCHDOG_DISARMED_NS: Final = 10 * NS_PER_S  # a guess
WAIT_NS: Final = NS_PER_S // 2
SINGLE_NS: Final = NS_PER_S
RISE_NS: Final = 10 * NS_PER_MS
FALL_NS: Final = 100 * NS_PER_MS
CHARGE_NS: Final = 300 * NS_PER_MS  # a guess
PROCESS_NS: Final = 8 * NS_PER_MS  # a guess
BYTE_NS: Final = NS_PER_S * 10 // 9600
SAME_BURST_NS: Final = 50 * NS_PER_MS
HOT_C: Final = 40.0
ROOM_C: Final = 22.0
HEAT_C: Final = 0.02  # a guess: of one pulse at full output
COOLING_NS: Final = 1200 * NS_PER_S  # a guess

_LONGEST_ENABLE: Final = 1 + codec.MAX_CODE + 1
_MOST: Final = {b"B": 1000, b"D": 6000, b"[": 6000}
_LENGTHS: Final = {b"R": 3, b"E": 3, b"F": 3, b"N": 3, b"\\": 3, b"@": 5, b"B": 6}


class MagstimModel:
    """The unit, its coil, and the pulse meter beside it.

    Parameters
    ----------
    start_ns : int
        Now.
    seed : int
        Draws what `garbage` sends.
    firmware : Version
        7 and 9 made replies longer, 9 wants the unlock code.
    meter : PulseMeter, optional
        Told of every pulse that leaves the coil.
    """

    def __init__(
        self, start_ns: int = 0, seed: int = 0, firmware: Version = (9, 0, 0), meter: PulseMeter | None = None
    ) -> None:
        self.meter = meter or PulseMeter(start_ns)
        self.firmware = firmware
        self.coil_c = ROOM_C
        self._start_ns = self._now_ns = self._coil_ns = start_ns
        self._random = random.Random(seed)
        self._faults: dict[str, dict[str, float]] = {}
        self._planned: list[tuple[int, Injection]] = []
        self._heard = bytearray()
        self._heard_ns = start_ns
        self._inbox: list[tuple[int, bytes]] = []
        self._outbox: list[tuple[int, bytes]] = []
        self._power_on()

    def _power_on(self) -> None:
        self.remote = self.armed = self.error = self.firing = False
        self.power = 0
        self._from_power, self._power_ns = 0, self._now_ns
        self._tenth_hz, self._pulses, self._duration, self._wait = 0, 0, 0, 0
        self._armed_ns = self._fed_ns = self._used_ns = self._now_ns
        self._pulse_ns = self._waits_ns = self._now_ns - AUTO_DISARM_NS
        self._left, self._next_ns, self._over_ns = 0, 0, 0

    # ---- faults

    def inject(self, fault: Injection) -> int:
        """Put a fault in force now or at its time; returns when."""
        if fault.at_s is not None and self._start_ns + round(fault.at_s * NS_PER_S) > self._now_ns:
            at_ns = self._start_ns + round(fault.at_s * NS_PER_S)
            self._planned.append((at_ns, fault))
            return at_ns
        name = fault.spec.name
        self._faults[name] = fault.values
        if name == "restart":
            self._power_on()
        elif name == "error":
            self.error = True
            self._disarm()
        elif name == "front_panel":
            self._disarm()
            self.remote = False
        elif name in ("disarms", "coil_absent"):
            self._disarm()
        elif name == "interlock" and "runaway" not in self._faults:
            self._stop_train()
        elif name == "hot_coil":
            self.coil_c, self._coil_ns = 45.0, self._now_ns
            self._disarm()
        return self._now_ns

    def clear(self, name: str) -> None:
        """Take a fault back. Raises FaultError where there is none of that name."""
        if name not in FAULTS:
            raise FaultError(f"no fault is called {name!r}; there are {', '.join(FAULTS)}")
        self._faults.pop(name, None)
        if name == "error":
            self.error = False
        elif name == "hot_coil":
            self.coil_c, self._coil_ns = ROOM_C, self._now_ns

    @property
    def fault_names(self) -> list[str]:
        """Faults in force."""
        return list(self._faults)

    # ---- the line

    def status(self) -> dict[str, Any]:
        """What it is and does now, for whoever asks over the control channel."""
        return {
            "armed": self.armed,
            "remote": self.remote,
            "firing": self.firing,
            "power_percent": self.power,
            "coil_c": round(self.coil_c, 2),
            "pulses": len(self.meter.pulses),
            "faults": self.fault_names,
        }

    def receive(self, data: bytes, t_ns: int) -> None:
        """Bytes from the host."""
        self.advance(t_ns)
        if self._heard and t_ns - self._heard_ns > SAME_BURST_NS:
            self._heard.clear()  # a command that broke off is forgotten
        self._heard += data
        self._heard_ns = t_ns
        while self._heard:
            length = self._length()
            if length > len(self._heard):
                return
            packet = bytes(self._heard[:length])
            del self._heard[:length]
            self._inbox.append((t_ns + length * BYTE_NS + PROCESS_NS, packet))

    def _length(self) -> int:
        head = bytes(self._heard[:1])
        is_long = self.firmware >= codec.LONG_VERSION
        if head == b"Q":
            # A code has any length up to the longest: the command ends where its checksum fits. What is longer is none (I29).
            end = min(len(self._heard), _LONGEST_ENABLE)
            whole = (n for n in range(3, end + 1) if codec.checksum(self._heard[: n - 1]) == self._heard[n - 1])
            return next(whole, len(self._heard) if len(self._heard) >= _LONGEST_ENABLE else len(self._heard) + 1)
        lengths = {**_LENGTHS, b"D": 7 if is_long else 6, b"[": 6 if is_long else 5}
        return lengths.get(head, len(self._heard))

    def take_output(self) -> bytes:
        """What has come out by now."""
        due = [data for at_ns, data in self._outbox if at_ns <= self._now_ns]
        self._outbox = self._outbox[len(due) :]
        return b"".join(due)

    def advance(self, t_ns: int) -> None:
        """Let time pass, one happening after the other."""
        while True:
            at_ns, act = min(self._happenings(), key=lambda item: item[0], default=(t_ns + 1, None))
            if act is None or at_ns > t_ns:
                break
            self._now_ns = max(at_ns, self._now_ns)
            act()
        self._now_ns = max(t_ns, self._now_ns)
        self._cool()
        self.meter.live(self._now_ns)

    def _happenings(self) -> list[tuple[int, Callable[[], None]]]:
        found: list[tuple[int, Callable[[], None]]] = []
        if self._inbox:
            found.append((self._inbox[0][0], self._obey))
        if self._planned:
            found.append((min(at_ns for at_ns, _ in self._planned), self._begin_fault))
        if self.firing:
            found.append((self._next_ns, self._fire))
        if self.remote:
            patience_ns = WATCHDOG_ARMED_NS if self.armed else WATCHDOG_DISARMED_NS
            found.append((self._fed_ns + patience_ns, self._lose_host))
        if self.armed and not self.firing:
            found.append((max(self._used_ns, self._armed_ns) + AUTO_DISARM_NS, self._disarm))
        return found

    def _begin_fault(self) -> None:
        at_ns, fault = min(self._planned, key=lambda item: item[0])
        self._planned.remove((at_ns, fault))
        self.inject(Injection(spec=fault.spec, values=fault.values))

    def _lose_host(self) -> None:
        self._disarm()
        self.remote = False

    def _disarm(self) -> None:
        self.armed = False
        if "runaway" not in self._faults:
            self._stop_train()

    def _stop_train(self) -> None:
        if self.firing:
            self.firing = False
            self._waits_ns = self._now_ns + WAIT_NS

    # ---- pulses

    @property
    def percent_now(self) -> float:
        """Intensity that the capacitor holds: it follows the setting, up faster than down."""
        gone_ns = self._now_ns - self._power_ns
        way = self.power - self._from_power
        reached = min(abs(way), gone_ns / (RISE_NS if way > 0 else FALL_NS))
        return self._from_power + math.copysign(reached, way)

    @property
    def is_ready(self) -> bool:
        """Whether it would fire now."""
        return (
            self.armed
            and self._now_ns - self._armed_ns >= ARM_NS
            and self._now_ns - self._pulse_ns >= CHARGE_NS
            and "interlock" not in self._faults
        )

    @property
    def waits(self) -> bool:
        """Whether the pause after a train is not over."""
        return not self.firing and self._now_ns < self._waits_ns

    def _fire(self) -> None:
        """The next pulse of what runs, or its end."""
        goes_on = "runaway" in self._faults
        if self._left <= 0 and not goes_on:
            self._stop_train()
            return
        self._left -= 1
        interval_ns = NS_PER_S * 10 // self._tenth_hz if self._duration and self._tenth_hz else NS_PER_S
        self._next_ns = self._now_ns + interval_ns
        self._pulse_ns = self._used_ns = self._now_ns
        self.meter.pulse(self._now_ns, self.percent_now)
        self._cool()
        self.coil_c += HEAT_C * (self.percent_now / 100.0) ** 2
        if self.coil_c > HOT_C:
            self._disarm()

    def _cool(self) -> None:
        share = math.exp(-(self._now_ns - self._coil_ns) / COOLING_NS)
        self._coil_ns = self._now_ns
        if "hot_coil" not in self._faults:
            self.coil_c = ROOM_C + (self.coil_c - ROOM_C) * share

    # ---- commands

    def _obey(self) -> None:
        _, packet = self._inbox.pop(0)
        body = packet[:-1]
        if not body or codec.checksum(body) != packet[-1]:
            self._say(b"?")
            return
        letter = body[:1]
        answer = self._answer(letter, body[1:])
        reply = b"?" if answer is None else letter + answer
        self._say(reply if answer is None else reply + bytes((codec.checksum(reply),)))

    def _answer(self, letter: bytes, data: bytes) -> bytes | None:
        match letter:
            case b"Q":
                return self._enable(data)
            case b"R" if data == b"@":
                self._disarm()
                self.remote = False
                return self._status
            case b"E":
                return self._operate(data)
            case b"F" if data == b"@":
                tenths = f"{min(999, round(10 * self.coil_c)):03d}".encode()
                return self._status + tenths + tenths
            case b"N" if data == b"D":
                number = ".".join(str(part) for part in self.firmware)
                return f"{number} {codec.EMULATOR_WORD}".encode() + b"\0"
            case b"\\" if data == b"@":
                return self._parameters()
            case b"@" | b"B" | b"D" | b"[":
                return self._set(letter, data)
        return None

    def _enable(self, data: bytes) -> bytes:
        wanted = UNLOCK_CODE.encode() if self.firmware >= codec.LONG_VERSION else b"@"
        if data != wanted:
            return b"?"
        self.remote = True
        self._fed_ns = self._now_ns
        return self._status

    def _operate(self, data: bytes) -> bytes | None:
        if data == b"A":
            self._disarm()
            return self._status
        if data == b"B":
            unfit = self.error or "coil_absent" in self._faults or self.coil_c > HOT_C
            if not self.remote or self.armed or unfit:
                return b"S"
            self.armed = True
            self._armed_ns = self._now_ns
            return self._status
        if data == b"H":
            early = not self._duration and self._now_ns - self._pulse_ns < SINGLE_NS
            too_many = bool(self._duration) and 100 * self._pulses > self._tenth_hz * self._duration
            if not self.remote or not self.is_ready or self.firing or self.waits or early or too_many:
                return b"S"
            self._left = self._pulses if self._duration else 1
            self.firing, self._next_ns = True, self._now_ns
            self._fire()
            if not self._duration and "runaway" not in self._faults:
                self.firing = False
            return self._status
        return None

    def _set(self, letter: bytes, data: bytes) -> bytes:
        if not data.isdigit():
            return b"?"
        value = int(data)
        if not self.remote or self.firing or (self.waits and letter != b"@"):
            return b"S"
        if letter == b"@":
            if value > 100:
                return b"?"
            value += round(self._faults.get("too_strong", {}).get("extra_percent", 0.0)) if value else 0
            self._from_power = round(self.percent_now)
            self.power, self._power_ns = min(100, value), self._now_ns
            return self._status
        if value > _MOST[letter]:
            return b"?"
        if letter == b"B":
            self._tenth_hz = value
        elif letter == b"D":
            self._pulses = value
        else:
            self._duration = value
        return self._status + self._rapid

    @property
    def _status(self) -> bytes:
        has_coil = "coil_absent" not in self._faults
        status = codec.Instrument(
            not self.armed, self.armed, self.is_ready, has_coil, False, self.error, False, self.remote  # noqa: FBT003
        )
        return bytes((status.byte,))

    @property
    def _rapid(self) -> bytes:
        coil_ready = "coil_absent" not in self._faults and "interlock" not in self._faults
        status = codec.Rapid(
            False, self.firing, self.waits, not self._duration, True, coil_ready, False, False  # noqa: FBT003
        )
        return bytes((status.byte,))

    def _parameters(self) -> bytes:
        is_long, is_middle = self.firmware >= codec.LONG_VERSION, self.firmware >= (7, 0, 0)
        text = f"{self.power:03d}{self._tenth_hz:04d}{self._pulses:0{5 if is_long else 4}d}"
        text += f"{self._duration:0{4 if is_long else 3}d}{self._wait:0{4 if is_middle else 3}d}"
        return self._status + self._rapid + text.encode()

    def _say(self, reply: bytes) -> None:
        if "lost_replies" in self._faults:
            return
        if "garbage" in self._faults:
            reply = self._random.randbytes(len(reply))
        elif "wrong_echo" in self._faults:
            body = b"Z" + reply[1:-1]
            reply = body + bytes((codec.checksum(body),))
        elif "bad_checksum" in self._faults:
            reply = reply[:-1] + bytes((reply[-1] ^ 0x01,))
        late_ns = round(self._faults.get("slow_replies", {}).get("latency_s", 0.0) * NS_PER_S)
        begin_ns = max(self._now_ns + late_ns, self._outbox[-1][0] if self._outbox else 0)
        self._outbox.append((begin_ns + len(reply) * BYTE_NS, reply))
