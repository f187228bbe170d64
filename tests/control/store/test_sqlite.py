"""One trip to a thread per statement, and nothing lost on the way."""

from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError

from nacre.control.store.db import Database

pytestmark = pytest.mark.anyio


async def test_rows_counts_and_names_come_back(sqlite_database: Database) -> None:
    async with sqlite_database.write() as tx:
        await tx.connection.execute(text("CREATE TABLE things (id INTEGER PRIMARY KEY, name TEXT UNIQUE)"))
        rows = [{"name": "a"}, {"name": "b"}, {"name": "c"}]
        await tx.connection.execute(text("INSERT INTO things (name) VALUES (:name)"), rows)
        changed = await tx.connection.execute(text("UPDATE things SET name = name || '!' WHERE name <> 'b'"))
        assert changed.rowcount == 2
        returned = await tx.connection.execute(text("DELETE FROM things WHERE name = 'b' RETURNING id, name"))
        assert [row._asdict() for row in returned] == [{"id": 2, "name": "b"}]
    async with sqlite_database.read() as rd:
        found = await rd.connection.execute(text("SELECT id, name FROM things ORDER BY id"))
        assert found.keys() == ["id", "name"]
        assert found.first() is not None
        streamed = await rd.connection.stream(text("SELECT name FROM things ORDER BY id"))
        assert [row.name async for row in streamed] == ["a!", "c!"]


async def test_what_goes_wrong_is_raised_as_before(sqlite_database: Database) -> None:
    async with sqlite_database.write() as tx:
        await tx.connection.execute(text("CREATE TABLE things (name TEXT UNIQUE)"))
        await tx.connection.execute(text("INSERT INTO things VALUES ('a')"))
    with pytest.raises(IntegrityError):
        await insert(sqlite_database, "b", "a")
    with pytest.raises(OperationalError):
        async with sqlite_database.read() as rd:
            await rd.connection.execute(text("SELECT * FROM nothing"))
    async with sqlite_database.read() as rd:
        assert (await rd.connection.execute(text("SELECT count(*) FROM things"))).scalar_one() == 1


async def insert(database: Database, *names: str) -> None:
    async with database.write() as tx:
        for name in names:
            await tx.connection.execute(text("INSERT INTO things VALUES (:name)"), {"name": name})


async def test_a_statement_is_one_trip(sqlite_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    import aiosqlite

    trips: list[str] = []
    execute: Any = aiosqlite.Connection._execute

    async def counted(self: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        trips.append(function.__name__)
        return await execute(self, function, *args, **kwargs)

    async with sqlite_database.read():
        pass  # connected
    monkeypatch.setattr(aiosqlite.Connection, "_execute", counted)
    async with sqlite_database.read() as rd:
        await rd.connection.execute(text("SELECT 1"))
    assert trips == ["_once", "_once", "commit"]
