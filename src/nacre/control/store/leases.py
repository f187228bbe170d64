"""The table of leases: who does what only one replica may do. A term grows with every change of hands."""

from datetime import datetime, timedelta

from sqlalchemy import Column, Integer, Row, Table, Text, select, update
from sqlalchemy.dialects.postgresql import insert as insert_postgresql
from sqlalchemy.dialects.sqlite import insert as insert_sqlite

from nacre.control.store.db import Read, Tx, metadata
from nacre.control.store.types import EPOCH, Timestamp

leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("term", Integer, nullable=False),
    Column("expires_at", Timestamp, nullable=False),
)


async def take(tx: Tx, name: str, holder: str, ttl: timedelta) -> int | None:
    """Take or renew a lease that is free, expired or one's own. Return its term, None if another holds it."""
    insert = insert_postgresql if tx.connection.dialect.name == "postgresql" else insert_sqlite
    free = insert(leases).values(name=name, holder="", term=0, expires_at=EPOCH)
    await tx.connection.execute(free.on_conflict_do_nothing())
    lease = await _locked(tx, name)
    now = tx.now()
    live = lease.expires_at > now
    if live and lease.holder != holder:
        return None
    term: int = lease.term if live else lease.term + 1
    changed = {"holder": holder, "term": term, "expires_at": now + ttl}
    await tx.connection.execute(update(leases).where(leases.c.name == name).values(**changed))
    return term


async def look(rd: Read, name: str) -> tuple[int, datetime] | None:
    """Return the term of a lease and when it ends."""
    row = (await rd.connection.execute(select(leases).where(leases.c.name == name))).one_or_none()
    return None if row is None else (row.term, row.expires_at)


async def seize(tx: Tx, name: str, holder: str, ttl: timedelta, seen: tuple[int, datetime]) -> int | None:
    """Take a lease whose term and end are as they were seen, and return its new term."""
    term, end = seen
    as_seen = (leases.c.name == name) & (leases.c.term == term) & (leases.c.expires_at == end)
    changed = {"holder": holder, "term": term + 1, "expires_at": tx.now() + ttl}
    taken = await tx.connection.execute(update(leases).where(as_seen).values(**changed))
    return term + 1 if taken.rowcount else None


async def end_of(tx: Tx, name: str, term: int) -> datetime | None:
    """Return when a term of a lease ends, None if another began; locks the lease until the transaction ends."""
    lease = await _locked_or_none(tx, name)
    return lease.expires_at if lease is not None and lease.term == term else None


async def release(tx: Tx, name: str, term: int) -> None:
    """Let go of a lease, if it is still in this term."""
    held = (leases.c.name == name) & (leases.c.term == term)
    await tx.connection.execute(update(leases).where(held).values(expires_at=EPOCH))


async def _locked(tx: Tx, name: str) -> Row[tuple[str, str, int, datetime]]:
    return (await tx.connection.execute(select(leases).where(leases.c.name == name).with_for_update())).one()


async def _locked_or_none(tx: Tx, name: str) -> Row[tuple[str, str, int, datetime]] | None:
    query = select(leases).where(leases.c.name == name).with_for_update()
    return (await tx.connection.execute(query)).one_or_none()
