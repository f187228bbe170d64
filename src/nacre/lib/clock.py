"""Time as an input. Passed to everything that asks what time it is, so that tests can move it."""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

BOOTTIME: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    """Wall time for records, monotonic time for durations. The two may disagree: wall clocks jump."""

    def now(self) -> datetime:
        """Wall time, always aware and in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards, from an arbitrary start."""
        ...

    def boottime(self) -> float:
        """Seconds since the host booted, those asleep too. Every process of the host reads the same."""
        ...


class SystemClock:
    """The host's clocks."""

    def now(self) -> datetime:
        """Wall time in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since an arbitrary start."""
        return time.monotonic()

    def boottime(self) -> float:
        """Seconds since the host booted. macOS has no such clock for Python: there, time asleep does not count."""
        return time.clock_gettime(BOOTTIME)


class ManualClock:
    """A clock that stands still until told otherwise. For tests and simulations."""

    def __init__(self, start: datetime = datetime(2030, 1, 1, tzinfo=UTC)) -> None:
        self._now = start
        self._monotonic = 0.0

    def now(self) -> datetime:
        """The time that was set."""
        return self._now

    def monotonic(self) -> float:
        """Seconds advanced so far."""
        return self._monotonic

    def boottime(self) -> float:
        """Seconds advanced so far, as if the host had booted when the clock was made."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Move both clocks forward, as time passing does."""
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Move only the wall clock, in either direction, as NTP or an operator does."""
        self._now += timedelta(seconds=seconds)
