"""Wait for something to become true, with a deadline. For every test that would otherwise sleep and hope."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def until(check: Callable[[], Awaitable[T] | T], timeout: float = 90.0, *, every: float = 0.02) -> T:
    """Return the first truthy answer of `check`, which may be async. Fails with the last answer after `timeout` s."""
    deadline = time.monotonic() + timeout
    while True:
        outcome = check()
        answer: T = await outcome if inspect.isawaitable(outcome) else outcome  # type: ignore[assignment]
        if answer:
            return answer
        if time.monotonic() >= deadline:
            raise AssertionError(f"not true after {timeout} s; the last answer was {answer!r}")
        await asyncio.sleep(every)
