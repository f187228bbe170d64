"""Bring the schema of a database up to date. Called by `main` at start and by tests; safe from many replicas at once.

Revisions are files in `versions`, in the order of their numbers, and go up only: back is a restored backup. A change
of a table in `store` needs one: `python -m nacre.control.store.migrations.draft "what it does"` writes a first draft.
"""

import os
from pathlib import Path

import structlog
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import ResolutionError
from sqlalchemy import Connection, insert, text

from nacre.control.store.db import Database
from nacre.control.store.projects import projects
from nacre.errors import UnsupportedError
from nacre.model.ids import make_id

DEFAULT_PROJECT = "default"
FOLDER = Path(__file__).parent

_LOCK = 0x6E61637266
"""Of PostgreSQL's advisory locks, which are numbers: one that nothing else here takes."""

log = structlog.get_logger()


async def prepare_schema(database: Database) -> None:
    """Apply the revisions that are missing, all or none. A new database gets the project `default`.

    Raises UnsupportedError if the database was used by a newer Nacre.
    """
    async with database.writer.begin() as connection:  # on SQLite, this takes the lock of the only writer
        if database.is_postgresql:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        before, after = await connection.run_sync(upgrade)
        if before is None:
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
    if before != after:
        log.info("schema.upgraded", before=before, after=after)


def upgrade(connection: Connection, to: str | None = None) -> tuple[str | None, str | None]:
    """Apply what is missing up to a revision (None: the newest) and return the revisions before and after."""
    context = MigrationContext.configure(connection)
    scripts = ScriptDirectory(FOLDER)
    before, head = context.get_current_revision(), to or scripts.get_current_head()
    if before == head:
        return before, head
    try:
        missing = list(scripts.iterate_revisions(head, before or "base"))
    except ResolutionError as error:
        raise UnsupportedError(
            "database_is_newer",
            f"the database was used by a newer version (schema {before}, this one knows {head})",
            hint="start the newer version again, or restore a backup from before the upgrade",
        ) from error
    for revision in reversed(missing):
        with Operations.context(context):
            revision.module.upgrade()
        context.stamp(scripts, revision.revision)
    return before, head
