"""One train of the Magstim driver, from the settings to its last pulse: what to send when, and the most it may have given.

Pure but for its own state; times are those of the driver's polls.
"""

from __future__ import annotations

from typing import Final

from devices import magstim_codec as codec
from devices.magstim_codec import Command, Parameters, Version
from devices.pulses import PulseCapabilities, PulseLimits, Train
from devices.units import NS_PER_MS

RISE_NS_PERCENT: Final = 10 * NS_PER_MS
FALL_NS_PERCENT: Final = 100 * NS_PER_MS
CHARGED_NS: Final = 50 * NS_PER_MS
_NOT_YET: Final = -(1 << 62)


def tenth_hz_of(train: Train) -> int:
    """The train's rate as the unit counts it; 0 where it is no whole tenth of Hz."""
    return 0 if 10_000 % train.interval_ms else 10_000 // train.interval_ms


def tenths_of(train: Train) -> int:
    """The train's duration as the unit counts it, in tenths of a second; rounded up, so that it holds every pulse."""
    return -(-train.pulses * train.interval_ms // 100)


def why_not(train: Train, mode: str, limits: PulseLimits | None, can: PulseCapabilities, given: int) -> str:
    """Why a train must not be begun, `given` pulses after arming with `limits`; empty where it may."""
    if limits is None:
        return "it is not armed"
    if not 1 <= train.intensity_percent <= limits.max_intensity_percent:
        return f"{train.intensity_percent} % where 1 .. {limits.max_intensity_percent} % were latched"
    if not limits.min_interval_ms <= train.interval_ms <= 10_000:
        return f"an interval of {train.interval_ms} ms where {limits.min_interval_ms} .. 10000 ms are allowed"
    if mode == "train" and tenth_hz_of(train) == 0:
        return f"an interval of {train.interval_ms} ms is no whole tenth of Hz"
    if not 1 <= train.pulses <= can.max_train_pulses:
        return f"{train.pulses} pulses where a train has 1 .. {can.max_train_pulses}"
    if given + train.pulses > limits.max_pulses:
        return f"{given} pulses may have been given of the {limits.max_pulses} that were latched"
    return ""


class HeldCharge:
    """The most that the unit's capacitor can hold: a lower setting is taken on slowly, and the unit tells only the setting."""

    def __init__(self, percent: int = 0) -> None:
        self._setting = self._from = percent
        self._since_ns = _NOT_YET

    def begin(self, t_ns: int) -> None:
        """Time is known from now on."""
        self._since_ns = t_ns

    def most(self, t_ns: int) -> int:
        """Percent of the greatest output, never too low."""
        return max(self._setting, self._from - max(0, t_ns - self._since_ns) // FALL_NS_PERCENT)

    def set_to(self, percent: int, t_ns: int) -> None:
        """The unit has taken this setting, from whomever."""
        if percent != self._setting:
            self._from, self._since_ns, self._setting = self.most(t_ns), t_ns, percent


class RunningTrain:
    """A train that was asked for.

    Parameters
    ----------
    train : Train
    mode : str
        ``train``: one command for all pulses; ``single``: one each.
    lease_ns : int
        How long it goes on without `renew`.
    t_ns : int
        Now.
    """

    def __init__(self, train: Train, mode: str, lease_ns: int, t_ns: int) -> None:
        self.train = train
        self._at_once = train.pulses if mode == "train" else 1
        self._in_train = mode == "train"
        self._lease_ns = lease_ns
        self._until_ns = t_ns + lease_ns
        self._interval_ns = train.interval_ms * NS_PER_MS
        self._open_settings = 0
        self._set_ns = t_ns
        self._charged_ns = t_ns
        self._charge_ns = 0
        self._sent = 0
        self._sent_ns = _NOT_YET
        self._fired_ns = _NOT_YET
        self._waits_for_reply = False
        self._end_ns: int | None = None

    def settings(self, version: Version, told: Parameters | None) -> list[Command]:
        """The commands that are needed, given what the unit has said that it is set to."""
        train = self.train
        # Where it has not said what it is set to: as if from nothing. That it may have to fall is for `HeldCharge` to know.
        way = train.intensity_percent - (told.power_percent if told is not None else 0)
        self._charge_ns = abs(way) * (RISE_NS_PERCENT if way > 0 else FALL_NS_PERCENT) + CHARGED_NS
        wanted: list[Command] = []
        if told is None or way:
            wanted.append(codec.power(train.intensity_percent))
        if self._in_train:
            tenths = tenths_of(train)
            if told is None or (told.tenth_hz, told.pulses, told.duration_tenths) != (tenth_hz_of(train), train.pulses, tenths):
                wanted += [
                    codec.frequency(tenth_hz_of(train)),
                    codec.pulses(version, train.pulses),
                    codec.duration(version, tenths),
                ]
        elif told is None or told.duration_tenths:
            wanted.append(codec.duration(version, 0))
        self._open_settings = len(wanted)
        self._charged_ns = self._set_ns + (self._charge_ns if wanted else 0)
        return wanted

    def was_set(self, t_ns: int) -> None:
        """The unit has taken one of the settings."""
        if self._open_settings:
            self._open_settings -= 1
            self._set_ns = t_ns
            self._charged_ns = t_ns + self._charge_ns

    def renew(self, t_ns: int) -> None:
        """The host lives."""
        self._until_ns = t_ns + self._lease_ns

    def end(self, t_ns: int) -> None:
        """A stop is on its way: nothing further is sent."""
        if self._end_ns is None:
            self._end_ns = t_ns

    def is_void(self, t_ns: int) -> bool:
        """Whether its lease is over and it has not been stopped yet."""
        return self._end_ns is None and t_ns > self._until_ns

    def mismatch(self, told: Parameters | None, asked_ns: int) -> str:
        """How what the unit says differs from what it was told; empty where it does not, or where it is too early to say."""
        if told is None or self._open_settings or asked_ns <= self._set_ns or self._end_ns is not None:
            return ""
        train = self.train
        if told.power_percent != train.intensity_percent:
            return f"{told.power_percent} % where {train.intensity_percent} % were set"
        tenths = tenths_of(train)
        if self._in_train and (told.tenth_hz, told.pulses, told.duration_tenths) != (tenth_hz_of(train), train.pulses, tenths):
            return f"a train of {told.pulses} pulses at {told.tenth_hz / 10:g} Hz where {train.pulses} were set"
        if not self._in_train and told.duration_tenths:
            return "repetitive mode where single pulses were set"
        return ""

    def wants_pulse(self, t_ns: int, told: Parameters | None, asked_ns: int) -> bool:
        """Whether to send the fire command now: everything set, seen to be set, charged, ready, and the interval over."""
        if self._end_ns is not None or self._waits_for_reply or self._open_settings or told is None:
            return False
        if self._sent >= self.train.pulses:
            return False
        if asked_ns < self._charged_ns or t_ns < self._charged_ns or (self._sent and t_ns < self._fired_ns + self._interval_ns):
            return False
        return (
            asked_ns > self._fired_ns
            and told.instrument.armed
            and told.instrument.ready
            and not told.rapid.wait
            and not told.rapid.train
        )

    def sent(self, t_ns: int) -> None:
        """The fire command goes out: from now on its pulses count."""
        self._sent += self._at_once
        self._sent_ns = t_ns
        self._waits_for_reply = True

    def fired(self, t_ns: int) -> None:
        """The unit has taken the fire command."""
        self._fired_ns = t_ns
        self._waits_for_reply = False

    def not_fired(self) -> None:
        """The unit has refused it."""
        self._sent -= self._at_once
        self._waits_for_reply = False

    def is_over(self, t_ns: int, told: Parameters | None, asked_ns: int) -> bool:
        """Whether its last interval is over and the unit says that nothing runs, or it has been stopped, by whomever."""
        if self._end_ns is not None:
            return told is not None and asked_ns > self._end_ns and not told.rapid.train and not told.instrument.armed
        if self._fired_ns == _NOT_YET or self._waits_for_reply:
            return False
        if told is None or asked_ns <= self._fired_ns or told.rapid.train:
            return False
        if not told.instrument.armed:
            return True
        spell_ns = self._interval_ns * (self.train.pulses if self._in_train else 1)
        return self._sent >= self.train.pulses and t_ns >= self._fired_ns + spell_ns

    def most(self, t_ns: int) -> int:
        """Most pulses that it can have given by now."""
        if not self._in_train or not self._sent:
            return self._sent
        # Paced by the unit, the first one not before the command was sent.
        return min(self._sent, max(0, t_ns - self._sent_ns) // self._interval_ns + 1)
