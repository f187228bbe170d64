"""The table of operations and its queries."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Table, Text, delete, insert, select, update

from nacre.control.store.db import Read, Tx, metadata
from nacre.control.store.listing import Listed, ListQuery, fetch
from nacre.control.store.rows import load
from nacre.control.store.types import Choice, Timestamp
from nacre.model.ids import OperationId, ProjectId, looks_like_id
from nacre.model.operations import OperationState

operations = Table(
    "operations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("type", Text, nullable=False),
    Column("state", Choice(OperationState), nullable=False),
    Column("noun", Text, nullable=False),
    Column("object_id", Text, nullable=False),
    Column("object_name", Text, nullable=False),
    Column("project", Text),
    Column("project_name", Text, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("progress", Float),
    Column("message", Text, nullable=False),
    Column("error_code", Text, nullable=False),
    Column("hint", Text, nullable=False),
    Column("cancellable", Boolean, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("updated_at", Timestamp, nullable=False),
    Column("finished_at", Timestamp),
    Index("ix_operations_object_id_state", "object_id", "state"),
    Index("ix_operations_project_created_at", "project", "created_at"),
)


@dataclass(frozen=True, kw_only=True)
class OperationRow:
    """An operation as stored. The project's name is kept, because an operation outlives what it was about."""

    id: OperationId
    type: str
    state: OperationState
    noun: str
    object_id: str
    object_name: str
    project: ProjectId | None
    project_name: str
    generation: int
    progress: float | None
    message: str
    error_code: str
    hint: str
    cancellable: bool
    created_by: str
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None


async def get(rd: Read, operation: str, *, lock: bool = False) -> OperationRow | None:
    """Return an operation."""
    query = select(operations).where(operations.c.id == operation)
    if lock:
        query = query.with_for_update()
    row = (await rd.connection.execute(query)).one_or_none()
    return None if row is None else load(OperationRow, row)


async def add(tx: Tx, row: OperationRow) -> None:
    """Insert an operation."""
    await tx.connection.execute(insert(operations).values(**vars(row)))


async def finish(
    tx: Tx,
    *,
    object_id: str,
    state: OperationState,
    up_to: int | None = None,
    only: OperationId | None = None,
    message: str = "",
    code: str = "",
    hint: str = "",
) -> int:
    """End the running operations of an object (of generations `up_to`, or `only` one) and say how many there were."""
    now = tx.now()
    ended: dict[str, object] = {"state": state, "updated_at": now, "finished_at": now, "message": message}
    ended |= {"error_code": code, "hint": hint, "cancellable": False}
    if state is OperationState.SUCCEEDED:
        ended["progress"] = 1.0
    statement = update(operations).where(
        operations.c.object_id == object_id, operations.c.state == OperationState.RUNNING
    )
    if up_to is not None:
        statement = statement.where(operations.c.generation <= up_to)
    if only is not None:
        statement = statement.where(operations.c.id == only)
    return (await tx.connection.execute(statement.values(**ended))).rowcount


async def advance(tx: Tx, object_id: str, *, progress: float | None, message: str) -> int:
    """Record how far the running operation of an object is."""
    statement = update(operations).where(
        operations.c.object_id == object_id, operations.c.state == OperationState.RUNNING
    )
    result = await tx.connection.execute(statement.values(progress=progress, message=message, updated_at=tx.now()))
    return result.rowcount


async def page(
    rd: Read, query: ListQuery, visible: frozenset[ProjectId] | None
) -> tuple[list[OperationRow], str | None]:
    """Return a page of the operations on objects of the projects among `visible` (None: all)."""
    statement = select(operations)
    if visible is not None:
        statement = statement.where(operations.c.project.in_(visible))
    by_id = looks_like_id(query.filters.get("object", ""))
    listed = Listed(
        id=operations.c.id,
        sorts={"created_at": operations.c.created_at, "updated_at": operations.c.updated_at},
        filters={
            "state": operations.c.state,
            "type": operations.c.type,
            "noun": operations.c.noun,
            "object": operations.c.object_id if by_id else operations.c.object_name,
        },
    )
    rows, following = await fetch(rd, statement, query, listed)
    return [load(OperationRow, row) for row in rows], following


async def running_objects(rd: Read, object_ids: Iterable[str]) -> set[str]:
    """Return those of `object_ids` that have a running operation."""
    query = select(operations.c.object_id).where(
        operations.c.object_id.in_(list(object_ids)), operations.c.state == OperationState.RUNNING
    )
    return set((await rd.connection.execute(query)).scalars())


async def forget(tx: Tx, before: datetime) -> int:
    """Delete operations that ended before `before`."""
    result = await tx.connection.execute(delete(operations).where(operations.c.finished_at < before))
    return result.rowcount
