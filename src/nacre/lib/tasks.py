"""Tasks of asyncio, where the standard library needs help."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def apart(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` in a task of its own and return what it returns. A cancellation passes on to it.

    For whatever uses a TaskGroup that may fail and whose caller goes on afterwards. Before Python 3.13 such a group
    leaves its task counted as cancelled for ever, and the next `asyncio.timeout` in it that expires raises
    CancelledError instead of TimeoutError, which ends the task without a word.
    """
    return await asyncio.create_task(work)
