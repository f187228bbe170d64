"""Databases for tests: empty, with every table, on SQLite and on PostgreSQL."""

import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from nacre.control.services import events
from nacre.control.store.db import Database
from nacre.control.store.migrations import prepare_schema
from nacre.control.wake import Wakes
from nacre.lib.clock import Clock, SystemClock
from support.postgres import TEMPLATE, Cluster

ENGINES = ("sqlite", "postgresql")


@asynccontextmanager
async def opened(url: str, clock: Clock, wakes: Wakes) -> AsyncGenerator[Database]:
    """Open a database as `main` does, its tables being there already."""
    database = Database.from_url(url, clock, wakes)
    database.on_commit(events.flush)
    try:
        yield database
    finally:
        await database.close()


class Templates:
    """Makes databases that have every table by copying one that was prepared once per session."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._prepared: set[str] = set()

    async def sqlite(self, path: Path) -> str:
        """Make an SQLite database at `path` and return its URL."""
        template = self._folder / "template.sqlite"
        await self._prepare(f"sqlite:///{template}")
        shutil.copyfile(template, path)
        return f"sqlite:///{path}"

    async def postgresql(self, cluster: Cluster) -> str:
        """Make a PostgreSQL database and return its name."""
        if cluster.url(TEMPLATE) not in self._prepared:
            await cluster.drop(TEMPLATE)  # what an earlier try that failed half way may have left
            await cluster.create(TEMPLATE)
        await self._prepare(cluster.url(TEMPLATE))
        return await cluster.create(template=TEMPLATE)

    async def _prepare(self, url: str) -> None:
        if url in self._prepared:
            return
        async with opened(url, SystemClock(), Wakes()) as database:
            await prepare_schema(database)
        self._prepared.add(url)
