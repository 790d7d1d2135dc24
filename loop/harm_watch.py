"""Feeds the harm guard: which trials were probes, which rating belongs to which stimulus, when an ON block begins and ends."""

from __future__ import annotations

from typing import Final, NamedTuple

from devices.units import NS_PER_MS, NS_PER_S
from loop import harm, markers
from loop.arms import Conduct
from loop.config import Config
from loop.gate import WITH_CURRENT, Phase
from loop.markers import Meaning

_SAME_EVENT_NS: Final = 50 * NS_PER_MS
# A rating later than this after its stimulus is not believed to be about it.
_RATING_WITHIN_NS: Final = 12 * NS_PER_S
# An outcome is judged about 0.7 s after it happened; a rating whose outcome never was is dropped after this.
_JUDGED_WITHIN_NS: Final = 5 * NS_PER_S


class Noxious(NamedTuple):
    """The last judged noxious outcome: when, what the learner had expected, whether it was a probe at full intensity."""

    t_ns: int
    expected: float
    is_probe: bool


class HarmWatch:
    """State of the harm guard over a session, moved by what the engine sees; touches nothing else.

    Parameters
    ----------
    config : Config
        Uses `harm` and `stimulation.polarity`.
    """

    def __init__(self, config: Config) -> None:
        self._table = config.harm
        self._polarity: harm.Polarity | None = config.stimulation.polarity if config.stimulation is not None else None
        if config.pulses is not None:
            self._polarity = "pulses"
        self._must_be_clear = True
        self._works = config.stimulates
        self._state: harm.Probing | harm.Stimulating = harm.Probing()
        self._charge_uc = 0
        self._charge_before_uc = 0
        self._due_ns: int | None = None
        self._noxious_ns: int | None = None
        self._judged: Noxious | None = None
        self._waiting: list[tuple[int, int, float]] = []

    @property
    def locked(self) -> str:
        """The sentence that locked this session; empty where none did."""
        state = self._state
        return state.locked if isinstance(state, harm.Probing) else state.before.locked

    def take_arm(self, conduct: Conduct) -> None:
        """Learn what leads this session: a schedule does not wait for trials; and that a sham's blocks are shams."""
        self._must_be_clear = conduct.lead not in ("plan", "trace")
        if conduct.plateau == "released" and self._polarity is not None:
            self._polarity = "sham"

    def enter(self, phase: Phase) -> None:
        """Follow the gate: an ON block begins with the ramp and is over once the session senses again."""
        match self._state:
            case harm.Probing() as probing if phase in WITH_CURRENT and self._polarity is not None:
                self._charge_before_uc = self._charge_uc
                self._waiting.clear()
                self._state = harm.start_on(probing, self._polarity)
            case harm.Stimulating() as stimulating if phase is Phase.SENSE:
                self._judged = None
                charge_uc = self._charge_uc - self._charge_before_uc
                # A block that the guard refused was none.
                delivered = charge_uc > 0 or self._polarity == "sham"
                self._state = harm.end_on(stimulating, float(charge_uc)) if delivered else stimulating.before
            case _:
                pass

    def take_charge(self, charge_uc: int) -> None:
        """Note the session's charge so far, or its pulses, as the guard counts them."""
        self._charge_uc = charge_uc

    def take_index(self, excess: float, surprise: float) -> None:
        """Take the index of an outcome that was evidence: seen whole at zero current, in SENSE."""
        if isinstance(self._state, harm.Probing):
            self._state = harm.take_index(self._state, excess, surprise)

    def take_noxious(self, noxious: Noxious) -> None:
        """Take a judged noxious outcome, to which a rating may come, or has come."""
        self._judged = noxious
        waiting, self._waiting = self._waiting, []
        for of_ns, stamp_ns, rating in waiting:
            self._take_rating(of_ns, stamp_ns, rating)

    def take_marker(self, stamp_ns: int, meaning: Meaning) -> None:
        """Follow the trial: what was delivered last, and how it was rated."""
        if meaning.kind in ("outcome", "out_due"):
            self._due_ns = stamp_ns
            if meaning.channel == markers.CHANNELS.index("NOX"):
                self._noxious_ns = stamp_ns
        elif meaning.kind == "rating" and self._due_ns is not None and self._noxious_ns is not None:
            is_about_it = abs(self._due_ns - self._noxious_ns) <= _SAME_EVENT_NS
            if is_about_it and 0 <= stamp_ns - self._noxious_ns <= _RATING_WITHIN_NS:
                self._take_rating(self._noxious_ns, stamp_ns, 100.0 * meaning.intensity)

    def judge(self) -> harm.Verdict:
        """Say whether a gate may open, as far as harm is concerned.

        A schedule of open_loop stands: there the guard locks out, but does not wait for trials that may never come; its
        verdict says how little it has seen. Without current there is nothing to judge.
        """
        if not self._works or not isinstance(self._state, harm.Probing):
            return harm.Verdict("clear", "")
        self._state, verdict = harm.judge(self._table, self._state)
        if verdict.kind == "gathering" and not self._must_be_clear:
            return harm.Verdict("clear", f"harm guard sees little: {verdict.reason}")
        return verdict

    def _take_rating(self, of_ns: int, stamp_ns: int, rating: float) -> None:
        judged = self._judged
        if judged is None or judged.t_ns < of_ns:
            self._waiting = [one for one in self._waiting if stamp_ns - one[1] <= _JUDGED_WITHIN_NS]
            self._waiting.append((of_ns, stamp_ns, rating))
        elif judged.t_ns == of_ns and judged.is_probe and isinstance(self._state, harm.Probing):
            self._state = harm.take_rating(self._state, rating, judged.expected)
