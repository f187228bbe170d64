"""Bring the schema of a database up to date. Called by `main` at start and by tests, under a lock of the database."""

import os

from sqlalchemy import insert, select

from nacre.control.store.db import Database
from nacre.control.store.projects import projects
from nacre.control.store.tables import metadata
from nacre.model.ids import make_id

DEFAULT_PROJECT = "default"


async def prepare_schema(database: Database) -> None:
    """Create or upgrade every table. Safe to call from many replicas at once."""
    async with database.writer.begin() as connection:
        await connection.run_sync(metadata.create_all)
        if (await connection.execute(select(projects.c.id))).first() is not None:
            return
        now = database.clock.now()
        await connection.execute(
            insert(projects).values(
                id=make_id("project", now, os.urandom(10)),
                name=DEFAULT_PROJECT,
                description="Where things go that name no project",
                labels={},
                version=1,
                created_at=now,
                updated_at=now,
            )
        )
