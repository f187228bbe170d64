"""The table of events and its queries. Added to, and forgotten after years; the cursor is in the order of commits.

Events are told during a transaction (`emit`) and written last of all before it commits (`flush`).
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Index,
    Integer,
    Row,
    Table,
    Text,
    delete,
    false,
    func,
    insert,
    or_,
    select,
    text,
)

from nacre.control.store.db import Read, Tx, metadata
from nacre.control.store.types import Choice, Timestamp
from nacre.control.wake import EVENTS
from nacre.model.events import Actor, ActorKind, Event
from nacre.model.ids import ProjectId, looks_like_id

_LOCK = 0x6E61637265
"""Of PostgreSQL's advisory locks, which are numbers: one that nothing else here takes."""

events = Table(
    "events",
    metadata,
    Column("cursor", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("at", Timestamp, nullable=False),
    Column("type", Text, nullable=False),
    Column("actor_kind", Choice(ActorKind), nullable=False),
    Column("actor_id", Text, nullable=False),
    Column("actor_name", Text, nullable=False),
    Column("noun", Text, nullable=False),
    Column("object_id", Text, nullable=False),
    Column("object_name", Text, nullable=False),
    Column("project", Text),
    Column("message", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("details", JSON, nullable=False),
    Index("ix_events_object_id_cursor", "object_id", "cursor"),
    Index("ix_events_project_cursor", "project", "cursor"),
    sqlite_autoincrement=True,  # never use a cursor again, even after the newest event was deleted
)


def emit(
    tx: Tx,
    *,
    type: str,  # noqa: A002 - the word of the wire
    actor: Actor,
    noun: str,
    object_id: str,
    object_name: str,
    project: str | None,
    message: str,
    request_id: str = "",
    details: Mapping[str, Any] | None = None,
) -> None:
    """Tell that something happened. It is known to all once `tx` commits."""
    tx.events.append(
        {
            "at": tx.now(),
            "type": type,
            "actor_kind": actor.kind,
            "actor_id": actor.id,
            "actor_name": actor.name,
            "noun": noun,
            "object_id": object_id,
            "object_name": object_name,
            "project": project,
            "message": message,
            "request_id": request_id,
            "details": dict(details or {}),
        }
    )
    tx.wake(EVENTS)


async def flush(tx: Tx) -> None:
    """Write what was told. Registered with `Database.on_commit`.

    On PostgreSQL numbers are drawn before commits, so without the lock a reader could see cursor 8 before 7 is there
    and never go back for it. The lock is held from here to the commit that follows at once.
    """
    if tx.connection.dialect.name == "postgresql":
        await tx.connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    await tx.connection.execute(insert(events), tx.events)


async def latest(rd: Read) -> int:
    """Return the cursor of the newest event, 0 if there is none."""
    return (await rd.connection.execute(select(func.coalesce(func.max(events.c.cursor), 0)))).scalar_one()


async def told_since(
    rd: Read,
    after: int,
    *,
    noun: str,
    types: Collection[str],
    projects: Collection[ProjectId] | None = None,
    limit: int,
) -> list[tuple[int, str, str]]:
    """Return cursor, type and object of at most `limit` events after a cursor, in their order."""
    query = select(events.c.cursor, events.c.type, events.c.object_id).where(
        events.c.cursor > after, events.c.noun == noun, events.c.type.in_(sorted(types))
    )
    if projects is not None:
        query = query.where(events.c.project.in_(sorted(projects)))
    rows = await rd.connection.execute(query.order_by(events.c.cursor).limit(limit))
    return [(row.cursor, row.type, row.object_id) for row in rows]


async def span(
    rd: Read,
    *,
    visible: frozenset[ProjectId] | None,
    after: int | None,
    before: int | None,
    limit: int,
    about: str | None = None,
    equal: Mapping[str, str],
) -> list[Event]:
    """Return at most `limit` events in the order of cursors: the first ones after `after`, else the last ones.

    Only those of the projects among `visible` (None: all, and those of no project), `about` what has this id or had
    this name then, with `equal` columns.
    """
    query = select(events).limit(limit)
    if visible is not None:
        query = query.where(events.c.project.in_(visible))
    if about is not None:
        by_name = false() if looks_like_id(about) else events.c.object_name == about
        query = query.where(or_(events.c.object_id == about, by_name))
    for column, value in equal.items():
        query = query.where(events.c[column] == value)
    if before is not None:
        query = query.where(events.c.cursor < before)
    if after is not None:
        rows = (await rd.connection.execute(query.where(events.c.cursor > after).order_by(events.c.cursor))).all()
        return [_event(row) for row in rows]
    rows = (await rd.connection.execute(query.order_by(events.c.cursor.desc()))).all()
    return [_event(row) for row in reversed(rows)]


def _event(row: Row[Any]) -> Event:
    return Event(
        cursor=row.cursor,
        at=row.at,
        type=row.type,
        actor=Actor(kind=row.actor_kind, id=row.actor_id, name=row.actor_name),
        noun=row.noun,
        object_id=row.object_id,
        object_name=row.object_name,
        project=row.project,
        message=row.message,
        request_id=row.request_id,
        details=row.details,
    )


async def forget(tx: Tx, before: datetime) -> int:
    """Delete events from before `before`. Cursors are never used again."""
    return (await tx.connection.execute(delete(events).where(events.c.at < before))).rowcount
