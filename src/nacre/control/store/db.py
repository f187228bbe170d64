"""The database: engines, transactions, and what happens at a commit. SQLite by default, PostgreSQL for replicas.

Opened by `main`, handed to everything that needs data. Read and write transactions are different types: what only
reads cannot write by accident. One request, one transaction, committed where it was opened.
"""

import asyncio
import os
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import MetaData, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from nacre.control.store.sqlite import use_one_trip
from nacre.control.wake import Wakes
from nacre.lib.clock import Clock
from nacre.model.ids import make_id

NOTIFY_CHANNEL = "nacre"
_TRIES, _TRY_AGAIN_S = 600, 0.05

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
"""Every table. A store module adds its own by being imported; `store.tables` imports them all."""


class Read:
    """A transaction that sees one state of the database and changes nothing."""

    def __init__(self, connection: AsyncConnection, clock: Clock) -> None:
        self.connection = connection
        self._clock = clock

    def now(self) -> datetime:
        """Wall time."""
        return self._clock.now()


BeforeCommit = Callable[["Tx"], Any]


class Tx(Read):
    """A transaction that may change things. Bells ring and buffered events are written when it commits."""

    def __init__(self, connection: AsyncConnection, clock: Clock) -> None:
        super().__init__(connection, clock)
        self.topics: set[str] = set()
        self.events: list[dict[str, Any]] = []
        """Rows for the events table, written last of all so that cursors are in the order of commits."""

    def new_id(self, noun: str) -> str:
        """Return a fresh id (see `model.ids`)."""
        return make_id(noun, self.now(), os.urandom(10))

    @asynccontextmanager
    async def part(self) -> AsyncGenerator[None]:
        """Do something of which nothing remains, not even what it told, if the block raises; the rest stays."""
        told, topics = len(self.events), set(self.topics)
        try:
            async with self.connection.begin_nested():
                yield
        except BaseException:
            del self.events[told:]
            self.topics = topics
            raise

    def wake(self, *topics: str) -> None:
        """Ring these bells once the transaction has committed."""
        self.topics.update(topics)


class Database:
    """The engines behind transactions."""

    def __init__(self, url: URL, clock: Clock, wakes: Wakes) -> None:
        self.url = url
        self.clock = clock
        self.wakes = wakes
        self.is_postgresql = url.get_backend_name() == "postgresql"
        self.instance = os.urandom(8).hex()
        """Tells the notifications of this process from those of other replicas."""
        self._writer, self._reader = _engines(url)
        self._flush_events: Callable[[Tx], Any] | None = None

    @classmethod
    def from_url(cls, url: str, clock: Clock, wakes: Wakes) -> "Database":
        """`sqlite:///path` or `postgresql://user:password@host/name`; drivers are chosen here."""
        parsed = make_url(url)
        driver = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}[parsed.get_backend_name()]
        return cls(parsed.set(drivername=driver), clock, wakes)

    @property
    def writer(self) -> AsyncEngine:
        """For migrations only."""
        return self._writer

    def on_commit(self, flush_events: Callable[[Tx], Any]) -> None:
        """Set the coroutine function that writes `tx.events`. Called once, by `main`."""
        self._flush_events = flush_events

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[Read]:
        """Open a read-only transaction."""
        async with self._reader.connect() as connection, connection.begin():
            yield Read(connection, self.clock)

    @asynccontextmanager
    async def write(self) -> AsyncGenerator[Tx]:
        """Open a write transaction: commits at the end of the block, rolls back on any exception."""
        async with self._writer.connect() as connection:
            async with connection.begin():
                tx = Tx(connection, self.clock)
                yield tx
                if tx.events and self._flush_events is not None:
                    await self._flush_events(tx)
                if self.is_postgresql and tx.topics:
                    await self._notify(tx)
            for topic in tx.topics:
                self.wakes.ring(topic)

    async def _notify(self, tx: Tx) -> None:
        """Have the commit ring the bells of other replicas too (see `store.notifications`)."""
        query = text("SELECT pg_notify(:channel, payload) FROM unnest(CAST(:payloads AS text[])) AS payload")
        payloads = [f"{self.instance} {topic}" for topic in sorted(tx.topics)]
        await tx.connection.execute(query, {"channel": NOTIFY_CHANNEL, "payloads": payloads})

    async def close(self) -> None:
        """Close every connection."""
        await self._writer.dispose()
        await self._reader.dispose()


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


_JSON: dict[str, Any] = {"json_serializer": _json, "json_deserializer": msgspec.json.decode}
"""Columns of JSON are read by the thousand."""


def _engines(url: URL) -> tuple[AsyncEngine, AsyncEngine]:
    if url.get_backend_name() == "postgresql":
        engine = create_async_engine(url, pool_size=10, max_overflow=10, pool_pre_ping=True, **_JSON)
        reader = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        return engine, reader
    writer = create_async_engine(url, pool_size=1, max_overflow=0, pool_timeout=60, **_JSON)
    reader = create_async_engine(url, pool_size=4, max_overflow=4, **_JSON)
    _prepare_sqlite(writer, begin="BEGIN IMMEDIATE", read_only=False)
    _prepare_sqlite(reader, begin="BEGIN", read_only=True)
    return writer, reader


def _prepare_sqlite(engine: AsyncEngine, *, begin: str, read_only: bool) -> None:
    """Take transaction handling away from the sqlite3 module, which begins none before a SELECT and so loses updates.

    https://docs.sqlalchemy.org/en/21/dialects/sqlite.html#enabling-non-legacy-sqlite-transactional-modes
    """

    def on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA busy_timeout = 30000")
        _write_ahead(connection, cursor)
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        if read_only:
            cursor.execute("PRAGMA query_only = ON")
        cursor.close()

    def on_begin(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    use_one_trip(engine)
    event.listen(engine.sync_engine, "connect", on_connect)
    event.listen(engine.sync_engine, "begin", on_begin)


async def _a_moment(_connection: object) -> None:
    await asyncio.sleep(_TRY_AGAIN_S)


def _write_ahead(connection: Any, cursor: Any) -> None:
    """Have the file written ahead. Of two who do that to a new one at once SQLite refuses one without any waiting.

    It cannot tell that from two who would wait for each other for ever (https://www.sqlite.org/c3ref/busy_handler.html).
    """
    for left in reversed(range(_TRIES)):
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or not left:
                raise
            connection.run_async(_a_moment)
        else:
            return
