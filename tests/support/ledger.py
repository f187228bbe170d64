"""Events and operations, read straight from the database."""

from typing import Any

from sqlalchemy import select

from nacre.control.services import operations
from nacre.control.store.db import Database
from nacre.control.store.events import events
from nacre.model.operations import OperationState


async def events_of(database: Database, object_id: str) -> list[Any]:
    """What was told of an object, oldest first."""
    async with database.read() as rd:
        query = select(events).where(events.c.object_id == object_id).order_by(events.c.cursor)
        return list((await rd.connection.execute(query)).all())


async def event_types(database: Database, object_id: str) -> list[str]:
    """The types of what was told of an object, oldest first."""
    return [event.type for event in await events_of(database, object_id)]


async def operation_state(database: Database, operation: str) -> OperationState:
    """How an operation stands."""
    async with database.read() as rd:
        row = await operations.get(rd, operation)
    assert row is not None
    return row.state
