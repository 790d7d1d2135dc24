"""What should flow through a Starstim, and what may: NIC tells no current, so this is all that is known of it; pure.

What is commanded is what the device was told and should deliver by now. What is assumed is never less, and stays until what was
told before is surely over: radio and program may be late by the latency, and an abort may not be heard.
"""

from __future__ import annotations

from typing import Final

from devices.nic2_modes import LATENCY_S
from devices.nic2_plan import Course
from devices.units import NS_PER_S

LATENCY_NS: Final = round(LATENCY_S * NS_PER_S)


class Expected:
    """The course that the device follows, and how much of what came before may linger."""

    def __init__(self) -> None:
        self._course: Course | None = None
        self._lingers_ua = 0
        self._lingers_until_ns = 0

    @property
    def follows(self) -> bool:
        """Whether there is a course at all: none after a gate, before the first change, or once the protocol has ended."""
        return self._course is not None

    def is_moving(self, now_ns: int) -> bool:
        """Whether the course's end is still ahead."""
        return self._course is not None and now_ns < self._course.end_ns

    def commanded_ua(self, now_ns: int) -> int:
        """What the device should deliver now, signed."""
        return 0 if self._course is None else round(self._course.level_ua(now_ns))

    def greatest_ua(self, now_ns: int) -> int:
        """Largest magnitude of the course from now on."""
        return 0 if self._course is None else self._course.greatest_ua(now_ns)

    def assumed_ua(self, now_ns: int, *, abort_asked: bool) -> int:
        """Largest magnitude that may flow; while an abort is asked for, nobody knows whether it was heard."""
        if abort_asked or now_ns < self._lingers_until_ns:
            return self._lingers_ua
        return self.greatest_ua(now_ns)

    def follow(self, course: Course, now_ns: int, *, abort_asked: bool) -> None:
        """From now on the device is to deliver `course`; what it delivered until now may linger for the latency."""
        self._lingers_ua = max(self.assumed_ua(now_ns, abort_asked=abort_asked), course.greatest_ua(now_ns))
        self._course = course
        self._lingers_until_ns = course.end_ns + LATENCY_NS

    def drop_course(self) -> None:
        """The course is over; what may linger still may."""
        self._course = None

    def note_over(self) -> None:
        """The protocol has ended: nothing flows."""
        self._course = None
        self._lingers_ua = self._lingers_until_ns = 0
