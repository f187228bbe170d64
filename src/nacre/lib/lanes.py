"""One lane per key: work for the same key never overlaps, work for different keys does. Used by the agent's executor.

Work is level-triggered: a ring says "look again", never what to do. Rings while the work runs make it run once more.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import structlog

from nacre.lib.backoff import Backoff

K = TypeVar("K", bound=Hashable)

log = structlog.get_logger()


class Lanes(Generic[K]):
    """The lanes of one kind of work. `work` may be run at any time and finds out by itself what there is to do."""

    def __init__(self, work: Callable[[K], Awaitable[None]], *, random: Callable[[], float]) -> None:
        self._work = work
        self._random = random
        self._lanes: dict[K, _Lane] = {}
        self._closed = False

    def ring(self, key: K) -> None:
        """Run the work for `key` now, or once more after what runs."""
        if self._closed:
            return
        lane = self._lane(key)
        lane.silence()
        lane.rung = True
        if lane.task is None:
            lane.task = asyncio.create_task(self._run(key, lane), name=f"lane {key}")

    def ring_later(self, key: K, seconds: float) -> None:
        """Ring after a while, unless it is rung before. Replaces an earlier alarm."""
        if self._closed:
            return
        lane = self._lane(key)
        lane.silence()
        lane.alarm = asyncio.get_running_loop().call_later(seconds, self.ring, key)

    def interrupt(self, key: K) -> None:
        """Cancel what runs for `key`, and run it again."""
        lane = self._lanes.get(key)
        if lane is not None and lane.running is not None:
            lane.running.cancel()
        self.ring(key)

    def is_busy(self, key: K) -> bool:
        """Whether work for `key` runs now."""
        lane = self._lanes.get(key)
        return lane is not None and lane.task is not None

    def drop(self, key: K) -> None:
        """Forget a key that there is nothing to do for any more, unless its work runs or waits."""
        lane = self._lanes.get(key)
        if lane is not None and lane.task is None and lane.alarm is None:
            del self._lanes[key]

    async def close(self) -> None:
        """Cancel everything and wait until it has ended."""
        self._closed = True
        tasks: list[asyncio.Task[None]] = []
        for lane in self._lanes.values():
            lane.silence()
            if lane.task is not None:
                lane.task.cancel()
                tasks.append(lane.task)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _lane(self, key: K) -> "_Lane":
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(Backoff(first=0.5, cap=30.0, random=self._random))
        return lane

    async def _run(self, key: K, lane: "_Lane") -> None:
        try:
            while lane.rung:
                lane.rung = False
                await self._once(key, lane)
        finally:
            lane.task = None
            self.drop(key)

    async def _once(self, key: K, lane: "_Lane") -> None:
        lane.running = asyncio.ensure_future(self._work(key))
        try:
            await asyncio.wait({lane.running})
        except asyncio.CancelledError:
            lane.running.cancel()
            await asyncio.wait({lane.running})
            raise
        finally:
            ended, lane.running = lane.running, None
        error = None if ended.cancelled() else ended.exception()
        if error is not None:
            delay = lane.backoff.next()
            log.error("lane.failed", key=key, exc_info=error, next=f"tried again in {delay:.1f} s")
            self.ring_later(key, delay)
        else:
            lane.backoff.reset()


class _Lane:
    def __init__(self, backoff: Backoff) -> None:
        self.task: asyncio.Task[None] | None = None
        self.running: asyncio.Future[None] | None = None
        self.rung = False
        self.alarm: asyncio.TimerHandle | None = None
        self.backoff = backoff

    def silence(self) -> None:
        if self.alarm is not None:
            self.alarm.cancel()
            self.alarm = None
