"""Many small requests of one kind carried out together: what is asked while one batch is under way makes up the next.

Used where each request alone would be a transaction. Knows nothing of what is asked. A lone request waits for nobody.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from nacre.errors import NacreError

Q = TypeVar("Q")
A = TypeVar("A")

MOST = 256
"""Of requests in one batch: more would hold up others for longer than they save."""

_ENOUGH = 2
"""Requests that fail alone, one after the other, before the others are taken to fail too."""


class Batches(Generic[Q, A]):
    """The requests of one kind. Needs no closing: it is at rest when nobody asks."""

    def __init__(
        self, work: Callable[[Sequence[Q]], Awaitable[Sequence[A | Exception]]], *, most: int = MOST, pause_s: float = 0
    ) -> None:
        """`work` answers requests in their order, with an exception for one that failed by itself.

        If it raises, nothing of the batch may have happened; then each request is tried alone, until two in a row
        have failed for no reason of their own. `pause_s` is how long a request that is patient waits for more.
        """
        self._work = work
        self._most = most
        self._pause_s = pause_s
        self._waiting: deque[tuple[Q, asyncio.Future[A]]] = deque()
        self._hurry = asyncio.Event()
        self._working: asyncio.Task[None] | None = None

    async def ask(self, request: Q, *, patient: bool = False) -> A:
        """Return the answer to a request. Raises what went wrong with it."""
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, answer))
        if not patient or len(self._waiting) >= self._most:
            self._hurry.set()
        if self._working is None:
            self._working = asyncio.create_task(self._run(), name="batches")
        return await answer

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._pause()
                batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
                await self._carry_out([each for each in batch if not each[1].done()])
        finally:
            self._working = None
            for _, answer in self._waiting:
                answer.cancel()
            self._waiting.clear()

    async def _pause(self) -> None:
        """Return once somebody is in a hurry, and after a while anyway."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._pause_s):
                await self._hurry.wait()
        self._hurry.clear()
        await asyncio.sleep(0)  # for who asks in the same breath

    async def _carry_out(self, batch: "Sequence[tuple[Q, asyncio.Future[A]]]") -> None:
        error = await self._together(batch)
        if error is None:
            return
        failures = 0
        for each in batch:
            alone = error if failures >= _ENOUGH or len(batch) == 1 else await self._together([each])
            if alone is not None:
                _settle(each[1], alone)
            failures = 0 if alone is None or isinstance(alone, NacreError) else failures + 1

    async def _together(self, batch: "Sequence[tuple[Q, asyncio.Future[A]]]") -> Exception | None:
        """Carry out a batch. Returns what was raised, if anything."""
        if not batch:
            return None
        try:
            answers = await self._work([request for request, _ in batch])
        except Exception as error:  # noqa: BLE001 - handed to who asked
            return error
        except asyncio.CancelledError:
            for _, answer in batch:
                answer.cancel()
            raise
        for (_, future), answer in zip(batch, answers, strict=True):
            _settle(future, answer)
        return None


def _settle(future: "asyncio.Future[A]", answer: A | Exception) -> None:
    if future.done():  # whoever asked has left
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
