"""The placer as it runs: from a creation to a node without anybody asking."""

import asyncio

import pytest

from nacre.control.reconcilers.vms import Placer
from nacre.control.store.db import Database
from nacre.control.wake import Wakes, node_topic
from support.cloud import cloud, make_node
from support.waiting import until

pytestmark = pytest.mark.anyio


async def test_a_new_machine_gets_a_node_and_the_node_is_rung(database: Database, wakes: Wakes) -> None:
    platform = await cloud(database)
    task = asyncio.create_task(Placer(database).loop().run())
    try:
        with wakes.listen(node_topic(platform.agent.node)) as bell:
            await platform.create()
            assert await bell.wait(5)
        assert (await platform.vm("web")).node is not None
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_machine_that_waits_is_placed_when_a_node_comes(database: Database) -> None:
    platform = await cloud(database, node_count=0)
    task = asyncio.create_task(Placer(database).loop().run())
    try:
        await platform.create()

        async def waits() -> bool:
            return (await platform.vm("web")).conditions.degraded is not None

        await until(waits)
        async with database.write() as tx:
            await make_node(tx)

        async def placed() -> bool:
            return (await platform.vm("web")).node is not None

        await until(placed)
        assert (await platform.vm("web")).conditions.degraded is None
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
