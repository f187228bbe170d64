"""Work in a task of its own."""

import asyncio

import pytest

from nacre.lib.tasks import apart

pytestmark = pytest.mark.anyio


async def fail() -> None:
    raise ArithmeticError


async def group_that_fails() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(fail())
        group.create_task(asyncio.sleep(60))


async def test_what_a_failed_group_leaves_behind_does_not_reach_the_caller() -> None:
    with pytest.raises(ExceptionGroup):
        await apart(group_that_fails())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)


async def test_a_cancellation_passes_on_and_what_is_returned_comes_back() -> None:
    ended = asyncio.Event()

    async def work() -> int:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return 1

    async def quick() -> int:
        return 2

    running = asyncio.create_task(apart(work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    assert ended.is_set()
    assert await apart(quick()) == 2
