"""The table of the first claim: at most one row, gone once there is an administrator."""

from sqlalchemy import Column, Integer, Table, Text, delete, insert, select

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
    await clear(tx)
    await tx.connection.execute(insert(claims).values(id=_ONLY, digest=digest, created_at=tx.now()))


async def clear(tx: Tx) -> None:
    """Forget the claim."""
    await tx.connection.execute(delete(claims))
