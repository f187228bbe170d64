"""How long a test waits, in time during which its machine runs: one that stands still meanwhile uses up nothing.

A machine that is suspended, or given no CPU for minutes, wakes up with every deadline behind it, and with nothing done
of what was to be done by then.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

_LOOK_S = 0.25
_MOST_S = 1.0
"""Who looks later than this after the last look has stood still in between."""


class Patience:
    """So many seconds, used up from look to look."""

    def __init__(self, seconds: float) -> None:
        self._left_s = seconds
        self._looked = time.monotonic()

    def is_over(self) -> bool:
        """Look. Whoever waits does so several times a second."""
        now = time.monotonic()
        self._left_s -= min(now - self._looked, _MOST_S)
        self._looked = now
        return self._left_s <= 0


@asynccontextmanager
async def within(seconds: float) -> AsyncGenerator[None]:
    """Give what is inside so much time. Raises TimeoutError, as `asyncio.timeout` does."""
    loop, patience = asyncio.get_running_loop(), Patience(seconds)
    alarm: asyncio.TimerHandle | None = None
    async with asyncio.timeout(None) as limit:

        def look() -> None:
            nonlocal alarm
            if patience.is_over():
                limit.reschedule(loop.time())
            else:
                alarm = loop.call_later(_LOOK_S, look)

        look()
        try:
            yield
        finally:
            if alarm is not None:
                alarm.cancel()
