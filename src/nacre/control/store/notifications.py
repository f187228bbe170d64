"""Doorbells between replicas: what one rings at a commit, PostgreSQL's NOTIFY rings in the others.

Run by `main` for as long as the program lives. Carries topics only; whoever misses one looks again by itself later.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg  # pyright: ignore[reportMissingTypeStubs]
import structlog
from sqlalchemy.exc import SQLAlchemyError

from nacre.control.store.db import NOTIFY_CHANNEL, Database

PROBE_EVERY_S = 30.0
PROBE_TIMEOUT_S = 10.0
RETRY_EVERY_S = 1.0

log = structlog.get_logger()


async def follow(database: Database, *, retry_s: float = RETRY_EVERY_S) -> None:
    """Ring this process's bells for the commits of other replicas, until cancelled. Returns at once on SQLite.

    Reconnects when the connection is lost, and then rings every bell, because some may have been missed.
    """
    if not database.is_postgresql:
        return
    failing = False
    while True:
        try:
            async with _listening(database) as raw:
                database.wakes.ring_all()
                if failing:
                    log.info("notifications.recovered")
                failing = False
                await _until_lost(raw)
        except (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            if not failing:
                log.warning("notifications.lost", error=type(error).__name__, retry_s=retry_s)
            failing = True
        await asyncio.sleep(retry_s)


@asynccontextmanager
async def _listening(database: Database) -> AsyncGenerator[Any]:
    """Listen on a connection of the driver's that nothing else uses."""

    def on_notification(_connection: object, _pid: int, _channel: str, payload: str) -> None:
        instance, _, topic = payload.partition(" ")
        if instance != database.instance:
            database.wakes.ring(topic)

    async with database.writer.connect() as connection:
        raw: Any = (await connection.get_raw_connection()).driver_connection
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await raw.add_listener(NOTIFY_CHANNEL, on_notification)
            yield raw
        finally:
            await connection.invalidate()


async def _until_lost(raw: Any) -> None:
    """Return when the server closes the connection. Raises when it is dead without a word."""
    lost = asyncio.Event()

    def on_end(_connection: object) -> None:
        lost.set()

    raw.add_termination_listener(on_end)
    while not raw.is_closed():
        try:
            async with asyncio.timeout(PROBE_EVERY_S):
                await lost.wait()
        except TimeoutError:
            await raw.execute("SELECT 1", timeout=PROBE_TIMEOUT_S)
    raise ConnectionResetError("the database closed the connection")
