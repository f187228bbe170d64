"""The loop: bells, the poll, and rounds that fail."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import structlog

from nacre.control.reconcilers.loop import Loop
from nacre.control.wake import Wakes
from support.waiting import until

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def running(loop: Loop) -> AsyncGenerator[None]:
    task = asyncio.create_task(loop.run())
    try:
        yield
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_it_works_at_once_then_when_a_bell_rings() -> None:
    wakes = Wakes()
    rounds: list[int] = []

    async def work() -> None:
        rounds.append(1)

    async with running(Loop("test", wakes, ("vms",), work, poll_s=3600)):
        await until(lambda: len(rounds) == 1)
        wakes.ring("vms")
        await until(lambda: len(rounds) == 2)
        wakes.ring("nodes")


async def test_it_looks_again_without_a_bell() -> None:
    rounds: list[int] = []

    async def work() -> None:
        rounds.append(1)

    async with running(Loop("test", Wakes(), ("vms",), work, poll_s=0.01)):
        await until(lambda: len(rounds) > 3)


async def test_a_round_may_ask_for_the_next() -> None:
    rounds: list[int] = []

    async def work() -> float | None:
        rounds.append(1)
        return 0.0 if len(rounds) < 5 else None

    async with running(Loop("test", Wakes(), ("vms",), work, poll_s=3600)):
        await until(lambda: len(rounds) == 5)


async def test_a_failed_round_is_logged_once_tried_again_and_its_end_is_logged() -> None:
    wakes = Wakes()
    rounds: list[int] = []

    async def work() -> None:
        rounds.append(1)
        if len(rounds) < 3:
            raise ZeroDivisionError

    with structlog.testing.capture_logs() as lines:
        async with running(loop := Loop("test", wakes, ("vms",), work, poll_s=3600)):
            await until(lambda: len(rounds) == 3)
            await until(lambda: loop.failures == 0)
    assert [line["event"] for line in lines] == ["reconciler.failed", "reconciler.recovered"]
