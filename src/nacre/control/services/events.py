"""Events: told by services in the transaction of what happened, written last of all before it commits."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import insert, text

from nacre.control.store.db import Tx
from nacre.control.store.events import events
from nacre.control.wake import EVENTS
from nacre.model.events import Actor

_LOCK = 0x6E61637265  # any number that nothing else locks


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
            "actor_kind": actor.kind.value,
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
