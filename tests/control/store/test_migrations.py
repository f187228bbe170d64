"""The schema: an upgrade from nothing leads to the declared tables."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import Connection, inspect, text
from sqlalchemy.engine.interfaces import ReflectedIndex

from nacre.control.services import projects
from nacre.control.store import nodes
from nacre.control.store.db import Database
from nacre.control.store.migrations import prepare_schema, upgrade
from nacre.control.store.migrations.draft import draft
from nacre.control.store.tables import metadata
from nacre.control.wake import Wakes
from nacre.errors import NotFoundError, UnsupportedError
from nacre.lib.clock import ManualClock
from nacre.model.nodes import NodeWish
from support.access import admin
from support.database import opened
from support.postgres import Cluster

pytestmark = pytest.mark.anyio


def _schema(connection: Connection) -> dict[str, dict[str, object]]:
    """What a database is made of. The order of columns and defaults for rows from before a revision do not matter."""
    found = inspect(connection)
    return {
        table: {
            "columns": {c["name"]: (str(c["type"]), c["nullable"]) for c in found.get_columns(table)},
            "primary key": found.get_pk_constraint(table),
            "unique": sorted(map(str, found.get_unique_constraints(table))),
            "foreign keys": sorted(map(str, found.get_foreign_keys(table))),
            "indexes": sorted(map(_index, found.get_indexes(table))),
        }
        for table in found.get_table_names()
        if table != "alembic_version"
    }


def _index(index: ReflectedIndex) -> str:
    where = {name: str(option) for name, option in index.get("dialect_options", {}).items()}
    return f"{index['name']} {index['column_names']} {index['unique']} {where}"


async def _schema_of(database: Database) -> dict[str, dict[str, object]]:
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


async def test_a_fleet_of_before_the_fleet_is_as_it_was(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    cluster: Cluster = request.getfixturevalue("postgres_cluster")
    for url in (f"sqlite:///{tmp_path / 'old.sqlite'}", cluster.url(await cluster.create())):
        async with opened(url, ManualClock(), Wakes()) as old:
            async with old.writer.begin() as connection:
                await connection.run_sync(upgrade, "0001")
                for name, cordoned in (("at-work", "false"), ("set-aside", "true")):
                    await connection.execute(text(_OLD_NODE.format(name=name, cordoned=cordoned)))
            await prepare_schema(old)
            async with old.read() as rd:
                rows = {row.name: row for row in await nodes.every(rd)}
        assert {name: row.wish for name, row in rows.items()} == {
            "at-work": NodeWish.ACTIVE,
            "set-aside": NodeWish.CORDONED,
        }
        assert {(row.tenure, row.renewals, row.taints) for row in rows.values()} == {(1, 0, ())}


_OLD_NODE = """
    INSERT INTO nodes (id, name, state, cordoned, labels, own_labels, region, zone, conditions, instance,
                       observed_sequence, key_fingerprint, version, created_at, updated_at)
    VALUES ('{name}', '{name}', 'ready', {cordoned}, '{{}}', '{{}}', '', '', '[]', '', 0, '{name}', 1, 0, 0)
"""
