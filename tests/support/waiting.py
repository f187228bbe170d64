"""Wait for something to become true, with a deadline. For every test that would otherwise sleep and hope."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar

from support.patience import Patience

T = TypeVar("T")


async def until(check: Callable[[], Awaitable[T] | T], timeout: float = 90.0, *, every: float = 0.02) -> T:
    """Return the first truthy answer of `check`, which may be async. Fails with the last answer after `timeout` s."""
    patience = Patience(timeout)
    while True:
        outcome = check()
        answer: T = await outcome if inspect.isawaitable(outcome) else outcome  # type: ignore[assignment]
        if answer:
            return answer
        if patience.is_over():
            raise AssertionError(f"not true after {timeout} s; the last answer was {answer!r}")
        await asyncio.sleep(every)
