"""Old history goes, young history stays, and one replica at a time sees to it."""

import pytest

from nacre.control.auth.principals import PLATFORM
from nacre.control.reconcilers.housekeeping import Housekeeper
from nacre.control.services import events, operations, tokens
from nacre.control.services.housekeeping import Keep
from nacre.control.services.listing import query
from nacre.control.store.db import Database
from nacre.lib.clock import ManualClock
from nacre.model.access import Role
from nacre.model.events import SYSTEM
from nacre.schema.access import TokenCreate
from support.access import admin, caller, user

pytestmark = pytest.mark.anyio

DAY = 86400.0


async def end_an_operation(database: Database, name: str) -> None:
    async with database.write() as tx:
        await operations.begin(
            tx, type="vm.start", noun="vm", object_id=name, object_name=name, project=None, generation=1, actor=SYSTEM
        )
        await operations.settle(tx, name, generation=1, ok=True)
        events.emit(
            tx,
            type="vm.started",
            actor=SYSTEM,
            noun="vm",
            object_id=name,
            object_name=name,
            project=None,
            message="it runs",
        )


async def names_of_operations(database: Database) -> set[str]:
    async with database.read() as rd:
        page = await operations.list_(rd, admin("operation:list"), query())
    return {operation.object_name for operation in page.items}


async def test_ended_operations_are_kept_for_a_month_and_running_ones_for_as_long_as_they_run(
    database: Database, clock: ManualClock
) -> None:
    await end_an_operation(database, "old")
    async with database.write() as tx:
        await operations.begin(
            tx,
            type="vm.start",
            noun="vm",
            object_id="slow",
            object_name="slow",
            project=None,
            generation=1,
            actor=SYSTEM,
        )
    clock.advance(31 * DAY)
    await end_an_operation(database, "young")
    await Housekeeper(database, "one", Keep()).round()
    assert await names_of_operations(database) == {"slow", "young"}


async def test_a_dead_token_is_forgotten_and_a_live_one_is_not(database: Database, clock: ManualClock) -> None:
    boss = await user(database, "boss", (Role.ADMIN, PLATFORM))
    async with database.write() as tx:
        await tokens.create(tx, caller(boss, "token:create"), TokenCreate(name="short", ttl_s=3600))
        await tokens.create(tx, caller(boss, "token:create"), TokenCreate(name="long", ttl_s=int(90 * DAY)))
    clock.advance(32 * DAY)
    await Housekeeper(database, "one", Keep()).round()
    async with database.read() as rd:
        left = await tokens.list_(rd, caller(boss, "token:list"), query())
    assert [token.name for token in left.items] == ["long"]


async def test_only_the_holder_of_the_lease_works_until_it_is_gone_for_long(
    database: Database, clock: ManualClock
) -> None:
    first, second = Housekeeper(database, "one", Keep()), Housekeeper(database, "two", Keep())
    await first.round()
    await end_an_operation(database, "old")
    clock.advance(31 * DAY)
    await first.round()
    assert await names_of_operations(database) == set()
    await end_an_operation(database, "older")
    clock.advance(60)
    await second.round()
    clock.advance(31 * DAY)
    assert await names_of_operations(database) == {"older"}
    await second.round()
    assert await names_of_operations(database) == set()
