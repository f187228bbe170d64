"""Steps back are taken on failure only, in reverse, and all of them."""

import asyncio

import pytest

from nacre.lib.undo import Undo

pytestmark = pytest.mark.anyio


def step(taken: list[str], name: str, error: Exception | None = None):
    async def take() -> None:
        await asyncio.sleep(0)
        taken.append(name)
        if error is not None:
            raise error

    return take


async def test_success_undoes_nothing():
    taken: list[str] = []
    async with Undo() as undo:
        undo.push(step(taken, "a"))
    assert taken == []


async def test_a_failure_takes_every_step_back_in_reverse_although_one_fails():
    taken: list[str] = []

    async def recipe() -> None:
        async with Undo() as undo:
            undo.push(step(taken, "a"))
            undo.push(step(taken, "b", OSError("no")))
            undo.push(step(taken, "c"))
            raise KeyError

    with pytest.raises(KeyError):
        await recipe()
    assert taken == ["c", "b", "a"]


async def test_a_cancellation_takes_every_step_back_even_if_cancelled_again():
    taken: list[str] = []

    async def recipe() -> None:
        async with Undo() as undo:
            undo.push(step(taken, "a"))
            undo.push(step(taken, "b"))
            await asyncio.sleep(60)

    task = asyncio.create_task(recipe())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert taken == ["b", "a"]
