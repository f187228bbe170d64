"""Bring the schema of a database up to date. Called by `main` at start and by tests, under a lock of the database."""

from nacre.control.store.db import Database
from nacre.control.store.tables import metadata


async def prepare_schema(database: Database) -> None:
    """Create or upgrade every table. Safe to call from many replicas at once."""
    async with database.writer.begin() as connection:
        await connection.run_sync(metadata.create_all)
