"""Doorbells."""

import asyncio

import pytest

from nacre.control.wake import Wakes

pytestmark = pytest.mark.anyio


async def test_a_ring_between_two_waits_is_not_lost() -> None:
    wakes = Wakes()
    with wakes.listen("vms") as bell:
        wakes.ring("vms")
        assert await bell.wait(1)
        assert not await bell.wait(0)


async def test_a_bell_hears_its_topics_only() -> None:
    wakes = Wakes()
    with wakes.listen("vms", "images") as bell:
        wakes.ring("nodes")
        assert not await bell.wait(0)
        wakes.ring("images")
        assert await bell.wait(0)


async def test_all_are_woken_and_nobody_is_remembered_after_listening() -> None:
    wakes = Wakes()
    with wakes.listen("vms") as one, wakes.listen("images") as two:
        waiting = asyncio.gather(one.wait(5), two.wait(5))
        await asyncio.sleep(0)
        wakes.ring_all()
        assert await waiting == [True, True]
    wakes.ring("vms")
    wakes.ring_all()
