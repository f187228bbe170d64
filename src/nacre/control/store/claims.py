"""The table of the first claim: at most one row, gone once there is an administrator."""

from sqlalchemy import Column, Integer, Table, Text, delete, select
from sqlalchemy.dialects.postgresql import insert as insert_postgresql
from sqlalchemy.dialects.sqlite import insert as insert_sqlite

from nacre.control.store.db import Read, Tx, metadata
from nacre.control.store.types import Timestamp

_ONLY = 1

claims = Table(
    "claims",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("digest", Text, nullable=False),
    Column("created_at", Timestamp, nullable=False),
)


async def get(rd: Read, *, lock: bool = False) -> str | None:
    """Return the digest of the open claim; `lock` lets one transaction at a time have it."""
    query = select(claims.c.digest)
    if lock:
        query = query.with_for_update()
    return (await rd.connection.execute(query)).scalar_one_or_none()


async def put(tx: Tx, digest: str) -> None:
    """Store the only claim, in place of any other."""
    insert = insert_postgresql if tx.connection.dialect.name == "postgresql" else insert_sqlite
    values = {"digest": digest, "created_at": tx.now()}
    statement = insert(claims).values(id=_ONLY, **values)
    await tx.connection.execute(statement.on_conflict_do_update(index_elements=[claims.c.id], set_=values))


async def clear(tx: Tx) -> None:
    """Forget the claim."""
    await tx.connection.execute(delete(claims))
