"""Blocking calls in threads."""

import asyncio
import threading

import pytest

from nacre.lib.threads import in_thread

pytestmark = pytest.mark.anyio


async def test_it_returns_what_the_call_returns_and_raises_what_it_raises() -> None:
    assert await in_thread(int, "12") == 12
    with pytest.raises(ValueError, match="invalid literal"):
        await in_thread(int, "x")


async def test_a_cancellation_waits_for_the_call_to_end() -> None:
    began, go, ended = threading.Event(), threading.Event(), threading.Event()

    def call() -> None:
        began.set()
        go.wait(10)
        ended.set()

    task = asyncio.create_task(in_thread(call))
    await asyncio.to_thread(began.wait, 10)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
