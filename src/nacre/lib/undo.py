"""Undo what a recipe has done so far if it does not get to its end. Used by the recipes in `agent/vms`.

Only for what would do harm if it stayed: recipes may be repeated, so most of what they make can wait for the next try.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Self

import structlog

log = structlog.get_logger()


class Undo:
    """A stack of steps back, taken in reverse order when the block fails or is cancelled, and not if it succeeds."""

    def __init__(self) -> None:
        self._steps: list[Callable[[], Awaitable[None]]] = []

    def push(self, step: Callable[[], Awaitable[None]]) -> None:
        """Take this step back on failure."""
        self._steps.append(step)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: object) -> None:
        if kind is None:
            return
        steps, self._steps = self._steps, []
        going_back = asyncio.ensure_future(_all(steps[::-1]))
        try:
            await asyncio.shield(going_back)
        except asyncio.CancelledError:
            await going_back  # a second cancellation does not leave half of it
            raise


async def _all(steps: list[Callable[[], Awaitable[None]]]) -> None:
    for step in steps:
        try:
            await step()
        except Exception:
            log.exception("undo.failed", next="the other steps back are taken")
