"""Conditions that name many values."""

import pytest
from sqlalchemy import select

from nacre.control.services import projects
from nacre.control.store.db import Database
from nacre.control.store.members import is_one_of
from nacre.control.store.projects import projects as table

pytestmark = pytest.mark.anyio


async def names(database: Database, *wanted: str) -> set[str]:
    async with database.read() as rd:
        query = select(table.c.name).where(is_one_of(rd, table.c.name, wanted))
        return set((await rd.connection.execute(query)).scalars())


async def test_rows_with_one_of_the_values_are_found_and_no_others(database: Database) -> None:
    async with database.read() as rd:
        assert (await projects.resolve(rd, "default")).name == "default"
    assert await names(database, "default") == {"default"}
    assert await names(database, "default", "default", "other's", "{a,b}", "") == {"default"}
    assert await names(database, "Default") == set()
    assert await names(database) == set()


async def test_a_thousand_values_are_no_trouble(database: Database) -> None:
    assert await names(database, "default", *(f"p-{number}" for number in range(1000))) == {"default"}
