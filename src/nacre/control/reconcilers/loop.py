"""The loop of every reconciler: work, then wait for a bell or the slow poll, and never die of an error.

Run by `main` as one task per reconciler. What is done is passed in; here is only when.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from nacre.control.wake import Bell, Wakes

log = structlog.get_logger()

POLL_S = 10.0
"""Bells may be lost: look this often anyway."""
FIRST_RETRY_S = 0.5
LAST_RETRY_S = 30.0

Work = Callable[[], Awaitable[float | None]]
"""One round. Returns in how many seconds the next is due even without a bell; None leaves that to the poll."""


class Loop:
    """Calls `work` when one of `topics` rings, when work itself asks for it, and every `poll_s` seconds."""

    def __init__(self, name: str, wakes: Wakes, topics: Sequence[str], work: Work, *, poll_s: float = POLL_S) -> None:
        self.name = name
        self.failures = 0
        """In a row; 0 when the last round went well."""
        self.rounds = 0
        self._wakes = wakes
        self._topics = topics
        self._work = work
        self._poll_s = poll_s

    async def run(self) -> None:
        """Work until cancelled."""
        with self._wakes.listen(*self._topics) as bell:
            while True:
                await self._wait(bell, await self._round())

    async def _round(self) -> float:
        """Work once and return how long to wait. The only place where any error is caught: it ends the round only."""
        try:
            due = await self._work()
        except Exception:
            self.failures += 1
            delay = min(LAST_RETRY_S, FIRST_RETRY_S * 2 ** min(self.failures - 1, 10))
            if self.failures == 1:
                log.exception("reconciler.failed", reconciler=self.name, retry_in_s=delay)
            return delay
        if self.failures:
            log.info("reconciler.recovered", reconciler=self.name, failures=self.failures)
        self.failures = 0
        self.rounds += 1
        return self._poll_s if due is None else min(due, self._poll_s)

    async def _wait(self, bell: Bell, seconds: float) -> None:
        """After a failure the bell is not listened to: a broken round is not repeated as fast as it rings."""
        if self.failures or seconds <= 0:
            await asyncio.sleep(max(0.0, seconds))
        else:
            await bell.wait(seconds)
