"""Transactions on both engines."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from nacre.control.store.db import Database
from nacre.control.wake import Wakes
from nacre.lib.clock import SystemClock
from support.database import opened

pytestmark = pytest.mark.anyio

_metadata = MetaData()
_counters = Table("test_counters", _metadata, Column("id", Integer, primary_key=True), Column("value", Integer))


async def _prepare(database: Database) -> None:
    async with database.writer.begin() as connection:
        await connection.run_sync(_metadata.create_all)
        await connection.execute(insert(_counters).values(id=1, value=0))


async def _value(database: Database) -> int:
    async with database.read() as rd:
        return (await rd.connection.execute(select(_counters.c.value))).scalar_one()


async def _fail_after_writing(database: Database) -> None:
    async with database.write() as tx:
        await tx.connection.execute(update(_counters).values(value=5))
        tx.wake("vms")
        raise ZeroDivisionError


async def test_no_increment_is_lost_when_two_replicas_read_then_write(database: Database, database_url: str) -> None:
    await _prepare(database)

    async def increment(replica: Database, times: int) -> None:
        for _ in range(times):
            async with replica.write() as tx:
                query = select(_counters.c.value).where(_counters.c.id == 1).with_for_update()
                value = (await tx.connection.execute(query)).scalar_one()
                await asyncio.sleep(0)
                await tx.connection.execute(update(_counters).where(_counters.c.id == 1).values(value=value + 1))

    async with opened(database_url, SystemClock(), Wakes()) as other:
        await asyncio.gather(*(increment(replica, 25) for replica in (database, other) * 4))
    assert await _value(database) == 200


async def test_a_read_transaction_cannot_write(database: Database) -> None:
    await _prepare(database)
    with pytest.raises(DBAPIError):
        async with database.read() as rd:
            await rd.connection.execute(update(_counters).values(value=9))
    assert await _value(database) == 0


async def test_a_read_transaction_sees_one_state(database: Database) -> None:
    await _prepare(database)
    async with database.read() as rd:
        before = (await rd.connection.execute(select(_counters.c.value))).scalar_one()
        async with database.write() as tx:
            await tx.connection.execute(update(_counters).values(value=5))
        again = (await rd.connection.execute(select(_counters.c.value))).scalar_one()
    assert (before, again) == (0, 0)
    assert await _value(database) == 5


async def test_an_exception_rolls_back_and_rings_no_bell(database: Database) -> None:
    await _prepare(database)
    with database.wakes.listen("vms") as bell:
        with pytest.raises(ZeroDivisionError):
            await _fail_after_writing(database)
        assert not await bell.wait(0)
    assert await _value(database) == 0


async def test_a_bell_rings_after_the_commit(database: Database) -> None:
    with database.wakes.listen("vms") as bell:
        async with database.write() as tx:
            tx.wake("vms")
            assert not await bell.wait(0)
        assert await bell.wait(0)


async def test_many_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    for number in range(20):
        url = f"sqlite:///{tmp_path / str(number)}.sqlite"
        async with AsyncExitStack() as stack:
            clock, many = SystemClock(), range(4)
            opening = [opened(url, clock, Wakes()) for _ in many]
            databases = [await stack.enter_async_context(one) for one in opening]
            assert await asyncio.gather(*map(_mode, databases)) == ["wal" for _ in many]


async def _mode(database: Database) -> str:
    async with database.writer.begin() as connection:
        return (await connection.execute(text("PRAGMA journal_mode"))).scalar_one()
