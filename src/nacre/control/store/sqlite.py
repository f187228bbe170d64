"""SQLite behind SQLAlchemy with one trip to the connection's thread per statement. Used by `store.db` only.

aiosqlite runs every call of the sqlite3 module in a thread, and SQLAlchemy's adapter makes four for a statement: make a
cursor, execute, fetch, close. Each costs more than the statement itself, so here they are one call.

The parts of both that this stands on are not public; `tests/control/store/test_sqlite.py` holds them to what we need.
"""

# pyright: reportPrivateUsage=false, reportIncompatibleMethodOverride=false
# ruff: noqa: SLF001

import collections
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import event
from sqlalchemy.dialects.sqlite.aiosqlite import AsyncAdapt_aiosqlite_connection, AsyncAdapt_aiosqlite_cursor
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util.concurrency import await_


@dataclass(frozen=True)
class _Result:
    rows: list[Any]
    description: Any
    rowcount: int
    lastrowid: int | None


_NOTHING = _Result([], None, -1, None)


class OneTripCursor(AsyncAdapt_aiosqlite_cursor):
    """A cursor that exists only for as long as it takes to execute one statement and fetch all of its rows."""

    __slots__ = ("_result", "arraysize")

    def __init__(self, adapt_connection: Any) -> None:
        self._adapt_connection = adapt_connection
        self._connection = adapt_connection._connection
        self._rows = collections.deque()
        self._result = _NOTHING
        self.arraysize = 1

    @property
    def description(self) -> Any:
        """The columns of the result; None if there are none."""
        return self._result.description

    @property
    def rowcount(self) -> int:
        """How many rows were changed."""
        return self._result.rowcount

    @property
    def lastrowid(self) -> Any:
        """The key of the row that was inserted last."""
        return self._result.lastrowid

    def execute(self, operation: Any, parameters: Any = None) -> Any:
        """Execute a statement."""
        return self._run(_once, operation, () if parameters is None else parameters)

    def executemany(self, operation: Any, seq_of_parameters: Any) -> Any:
        """Execute a statement once for each of many sets of parameters."""
        return self._run(_often, operation, seq_of_parameters)

    def close(self) -> None:
        """Forget the rows that were not read."""
        self._rows.clear()

    async def _async_soft_close(self) -> None:
        """There is nothing to close."""

    def _run(self, how: Any, operation: str, parameters: Any) -> Any:
        try:
            self._result = await_(self._trip(how, operation, parameters))
        except Exception as error:  # noqa: BLE001 - turned into one of SQLAlchemy's
            self._adapt_connection._handle_exception(error)
        self._rows = collections.deque(self._result.rows)
        return self

    async def _trip(self, how: Any, operation: str, parameters: Any) -> _Result:
        connection: Any = self._connection
        async with self._adapt_connection._execute_mutex:
            result: _Result = await connection._execute(how, connection._conn, operation, parameters)
            return result


class OneTripConnection(AsyncAdapt_aiosqlite_connection):
    """A connection with such cursors."""

    __slots__ = ()
    _cursor_cls = OneTripCursor

    def rollback(self) -> None:
        """Roll back, unless there is nothing to: the pool asks whenever a connection comes back."""
        if self._connection.in_transaction:  # type: ignore[attr-defined]
            super().rollback()


def use_one_trip(engine: AsyncEngine) -> None:
    """Have all connections of an engine be of this kind."""

    def connect(dialect: Any, _record: Any, arguments: Sequence[Any], options: dict[str, Any]) -> OneTripConnection:
        made = dialect.connect(*arguments, **options)
        return OneTripConnection(made.dbapi, made._connection)

    event.listen(engine.sync_engine, "do_connect", connect)


def _once(connection: sqlite3.Connection, operation: str, parameters: Any) -> _Result:
    cursor = connection.execute(operation, parameters)
    return _all(cursor)


def _often(connection: sqlite3.Connection, operation: str, parameters: Any) -> _Result:
    cursor = connection.executemany(operation, parameters)
    return _all(cursor)


def _all(cursor: sqlite3.Cursor) -> _Result:
    try:
        rows = cursor.fetchall() if cursor.description is not None else []
        return _Result(rows, cursor.description, cursor.rowcount, cursor.lastrowid)
    finally:
        cursor.close()
