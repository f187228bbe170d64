"""The schema: an upgrade from nothing leads to the declared tables."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from nacre.control.services import projects
from nacre.control.store.db import Database
from nacre.control.store.migrations import prepare_schema
from nacre.control.store.migrations.draft import draft
from nacre.control.store.tables import metadata
from nacre.control.wake import Wakes
from nacre.errors import NotFoundError, UnsupportedError
from nacre.lib.clock import ManualClock
from support.access import admin
from support.database import opened
from support.postgres import Cluster

pytestmark = pytest.mark.anyio

_SQLITE = (
    "SELECT type || ' ' || name, sql FROM sqlite_master WHERE name NOT LIKE 'alembic%' AND name NOT LIKE 'sqlite_%'"
)
_POSTGRESQL = """
    SELECT 'column ' || table_name || '.' || ordinal_position,
           column_name || ' ' || data_type || ' ' || is_nullable || ' ' || coalesce(column_default, '')
      FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'
    UNION ALL
    SELECT 'index ' || indexname, indexdef FROM pg_indexes
     WHERE schemaname = 'public' AND tablename <> 'alembic_version'
    UNION ALL
    SELECT 'constraint ' || conname, conrelid::regclass || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
     WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'alembic_version'
"""


def _schema(connection: Connection) -> dict[str, str]:
    query = _SQLITE if connection.dialect.name == "sqlite" else _POSTGRESQL
    rows = {name: " ".join((sql or "").split()) for name, sql in connection.execute(text(query))}
    if connection.dialect.name == "postgresql":
        return rows
    # SQLite keeps the text of a statement, in which constraints of a table may stand in any order.
    return {name: " ".join(sorted(sql.replace(",", " ").split())) for name, sql in rows.items()}


async def _schema_of(database: Database) -> dict[str, str]:
    async with database.writer.connect() as connection:
        return await connection.run_sync(_schema)


async def test_the_revisions_lead_to_the_declared_tables(
    request: pytest.FixtureRequest, database: Database, tmp_path: Path, clock: ManualClock
) -> None:
    """If this fails: `python -m nacre.control.store.migrations.draft "what changed"`."""
    url = f"sqlite:///{tmp_path / 'declared.sqlite'}"
    if database.is_postgresql:
        cluster: Cluster = request.getfixturevalue("postgres_cluster")
        url = cluster.url(await cluster.create())
    async with opened(url, clock, Wakes()) as declared:
        async with declared.writer.begin() as connection:
            await connection.run_sync(metadata.create_all)
        assert await _schema_of(database) == await _schema_of(declared)


def test_there_is_nothing_left_to_draft() -> None:
    assert draft("nothing") is None


async def test_many_replicas_may_start_at_once(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    cluster: Cluster = request.getfixturevalue("postgres_cluster")
    for url in (f"sqlite:///{tmp_path / 'new.sqlite'}", cluster.url(await cluster.create())):
        clock = ManualClock()
        async with opened(url, clock, Wakes()) as one, opened(url, clock, Wakes()) as two:
            await asyncio.gather(prepare_schema(one), prepare_schema(two))
            async with one.read() as rd:
                assert (await projects.resolve(rd, "default")).name == "default"


async def test_a_second_start_changes_nothing(database: Database) -> None:
    async with database.write() as tx:
        await projects.delete(tx, admin("project:delete"), "default")
    before = await _schema_of(database)
    await prepare_schema(database)
    assert await _schema_of(database) == before
    async with database.read() as rd:
        with pytest.raises(NotFoundError):
            await projects.resolve(rd, "default")


async def test_a_database_of_a_newer_version_is_left_alone(database: Database) -> None:
    async with database.writer.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(UnsupportedError) as refused:
        await prepare_schema(database)
    assert refused.value.code == "database_is_newer"
