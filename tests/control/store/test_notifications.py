"""Bells of one replica ring in the others."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import pytest
from sqlalchemy import text

from nacre.control.store.db import Database
from nacre.control.store.notifications import follow
from nacre.control.wake import Wakes
from nacre.lib.clock import SystemClock
from support.database import opened
from support.waiting import until

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def _following(database: Database) -> AsyncGenerator[None]:
    with database.wakes.listen("connected") as bell:  # every bell rings when the listener is there
        task = asyncio.create_task(follow(database, retry_s=0.01))
        if database.is_postgresql:
            assert await bell.wait(10)
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_a_commit_rings_the_bells_of_every_replica(database: Database, database_url: str) -> None:
    if not database.is_postgresql:
        await asyncio.wait_for(follow(database), 1)  # one process, nothing to follow
        return
    async with opened(database_url, SystemClock(), Wakes()) as other, _following(other):
        with other.wakes.listen("vms") as vms, other.wakes.listen("images") as images:
            async with database.write() as tx:
                tx.wake("vms", "node:x")
            assert await vms.wait(5)
            assert not await images.wait(0)


async def test_a_replica_does_not_hear_itself_twice(database: Database) -> None:
    async with _following(database):
        with database.wakes.listen("vms") as bell:
            async with database.write() as tx:
                tx.wake("vms")
            assert await bell.wait(1)
            assert not await bell.wait(0.2)


async def test_a_lost_connection_is_replaced_and_then_every_bell_rings(database: Database) -> None:
    if not database.is_postgresql:
        return
    async with _following(database):
        with database.wakes.listen("vms") as bell:

            async def cut() -> bool:
                query = text(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                    " WHERE query LIKE 'LISTEN%' AND datname = current_database()"
                )
                async with database.writer.connect() as connection:
                    return bool((await connection.execute(query)).scalar_one())

            await until(cut)
            assert await bell.wait(10)
