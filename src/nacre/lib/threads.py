"""Blocking calls in a thread. Used wherever a file descriptor is passed into one."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `call` in a thread. A cancellation passes on only once the call has ended.

    `asyncio.to_thread` lets go at once: the thread then goes on with a descriptor that its owner has closed, and that
    may by then name another file.
    """
    running = asyncio.ensure_future(asyncio.to_thread(call, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # seen, so that asyncio does not report it as forgotten
        raise
