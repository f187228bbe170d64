"""Waiting for an operation on behalf of a client, and never answering unchecked."""

import asyncio

import pytest

from nacre.control.auth.principals import Caller
from nacre.control.request import RequestContext, Requests, UncheckedRequestError
from nacre.control.services import operations
from nacre.control.store.db import Database, Tx
from nacre.control.wake import OPERATIONS
from nacre.schema.common import OperationOut
from support.access import ADMIN

pytestmark = pytest.mark.anyio


def context(database: Database, stopping: asyncio.Event) -> RequestContext:
    caller = Caller(principal=ADMIN, action="vm:start", checked=True)
    return Requests(database, stopping).begin(caller, None)


async def begun(database: Database) -> OperationOut:
    async with database.write() as tx:
        row = await operations.begin(
            tx,
            type="vm.start",
            noun="vm",
            object_id="vm-1",
            object_name="web",
            project=None,
            generation=1,
            actor=ADMIN.actor,
        )
    return operations.out(row)


async def test_a_wait_ends_as_soon_as_the_operation_does(database: Database) -> None:
    operation = await begun(database)
    waiting = asyncio.create_task(context(database, asyncio.Event()).settled(operation, 60))
    await asyncio.sleep(0)
    async with database.write() as tx:
        await operations.settle(tx, "vm-1", generation=1, ok=True)
    async with asyncio.timeout(4):  # less than the poll
        assert (await waiting).state == "succeeded"


async def test_a_wait_ends_when_its_time_is_over(sqlite_database: Database) -> None:
    operation = await begun(sqlite_database)
    async with asyncio.timeout(4):
        ended = await context(sqlite_database, asyncio.Event()).settled(operation, 0.05)
    assert ended.state == "running"


async def test_a_wait_ends_when_the_program_stops(sqlite_database: Database) -> None:
    operation = await begun(sqlite_database)
    stopping = asyncio.Event()
    waiting = asyncio.create_task(context(sqlite_database, stopping).settled(operation, 60))
    await asyncio.sleep(0.05)
    stopping.set()
    sqlite_database.wakes.ring(OPERATIONS)
    async with asyncio.timeout(4):
        assert (await waiting).state == "running"


async def test_a_change_that_nobody_checked_is_not_committed(database: Database) -> None:
    caller = Caller(principal=ADMIN, action="vm:start")
    request = Requests(database, asyncio.Event()).begin(caller, None)

    async def careless(tx: Tx, _caller: Caller) -> None:
        await operations.begin(
            tx,
            type="vm.start",
            noun="vm",
            object_id="vm-2",
            object_name="web",
            project=None,
            generation=1,
            actor=ADMIN.actor,
        )

    with pytest.raises(UncheckedRequestError):
        await request.change(careless, type(None))
    async with database.read() as rd:
        listed = await operations.list_(rd, Caller(principal=ADMIN, action="operation:list"), operations.ListQuery())
    assert listed.items == []
