"""Leases."""

import asyncio
from datetime import timedelta

import pytest

from nacre.control.services import leases
from nacre.control.store.db import Database
from nacre.errors import ConflictError
from nacre.lib.clock import ManualClock
from support.database import opened

pytestmark = pytest.mark.anyio

TTL = timedelta(seconds=10)


async def _acquire(database: Database, holder: str) -> int | None:
    async with database.write() as tx:
        return await leases.acquire(tx, "sweeper", holder, TTL)


async def _guard(database: Database, term: int) -> bool:
    async with database.write() as tx:
        try:
            await leases.guard(tx, "sweeper", term)
        except ConflictError:
            return False
        return True


async def test_one_holds_it_and_renews_it(database: Database, clock: ManualClock) -> None:
    assert await _acquire(database, "a") == 1
    assert await _acquire(database, "b") is None
    clock.advance(9)
    assert await _acquire(database, "a") == 1
    clock.advance(9)
    assert await _acquire(database, "b") is None


async def test_an_expired_lease_changes_hands_with_a_higher_term(database: Database, clock: ManualClock) -> None:
    assert await _acquire(database, "a") == 1
    clock.advance(10)
    assert not await _guard(database, 1)
    assert await _acquire(database, "b") == 2
    assert await _guard(database, 2)
    assert not await _guard(database, 1)
    assert await _acquire(database, "a") is None


async def test_a_holder_that_slept_gets_a_new_term(database: Database, clock: ManualClock) -> None:
    assert await _acquire(database, "a") == 1
    clock.advance(11)
    assert await _acquire(database, "a") == 2


async def test_a_released_lease_is_free_at_once(database: Database) -> None:
    assert await _acquire(database, "a") == 1
    async with database.write() as tx:
        await leases.release(tx, "sweeper", 1)
    assert await _acquire(database, "b") == 2
    async with database.write() as tx:
        await leases.release(tx, "sweeper", 1)
    assert await _guard(database, 2)


async def test_of_many_that_try_at_once_one_wins(database: Database, database_url: str) -> None:
    async with opened(database_url, database.clock, database.wakes) as other:
        terms = await asyncio.gather(*(_acquire((database, other)[n % 2], f"r{n}") for n in range(8)))
    assert sorted(term for term in terms if term is not None) == [1]


async def test_a_lease_that_stands_still_can_be_seized_and_one_that_changed_cannot(database: Database) -> None:
    async with database.write() as tx:
        assert await leases.look(tx, "sweeper") is None
        term = await leases.acquire(tx, "sweeper", "a", timedelta(hours=2))
        seen = await leases.look(tx, "sweeper")
    assert term == 1
    assert seen is not None
    assert await _acquire(database, "b") is None
    async with database.write() as tx:
        assert await leases.seize(tx, "sweeper", "b", TTL, (7, seen[1])) is None
        assert await leases.seize(tx, "sweeper", "b", TTL, seen) == 2
        assert await leases.seize(tx, "sweeper", "c", TTL, seen) is None
    assert not await _guard(database, 1)
    assert await _guard(database, 2)
