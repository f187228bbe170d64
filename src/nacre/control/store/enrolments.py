"""The table of enrolment tokens and its queries. Only a hash of the secret is kept."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Column, Integer, Table, Text, delete, insert, select, update

from nacre.control.store.db import Read, Tx, metadata
from nacre.control.store.listing import Listed, ListQuery, fetch
from nacre.control.store.rows import load
from nacre.control.store.types import Timestamp
from nacre.model.ids import EnrolmentId, NodeId

enrolments = Table(
    "enrolments",
    metadata,
    Column("id", Text, primary_key=True),
    Column("secret_sha256", Text, nullable=False, unique=True),
    Column("node_name", Text),
    Column("region", Text, nullable=False),
    Column("zone", Text, nullable=False),
    Column("uses", Integer, nullable=False),
    Column("used", Integer, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("expires_at", Timestamp, nullable=False),
    Column("used_at", Timestamp),
    Column("used_by", Text),
    Column("key_fingerprint", Text),
    Column("revoked_at", Timestamp),
)

LISTED = Listed(
    id=enrolments.c.id,
    sorts={"created_at": enrolments.c.created_at, "expires_at": enrolments.c.expires_at},
)


@dataclass(frozen=True, kw_only=True)
class EnrolmentRow:
    """An enrolment token as stored."""

    id: EnrolmentId
    secret_sha256: str
    node_name: str | None
    region: str
    zone: str
    uses: int = 1
    """How many nodes may join with it."""
    used: int = 0
    """How many have."""
    created_by: str
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None = None
    """When it was used last, by which node and with which key."""
    used_by: NodeId | None = None
    key_fingerprint: str | None = None
    revoked_at: datetime | None = None


async def get(rd: Read, enrolment: str, *, lock: bool = False) -> EnrolmentRow | None:
    """Return the token with this id, unless it was revoked."""
    query = select(enrolments).where(enrolments.c.id == enrolment, enrolments.c.revoked_at.is_(None))
    if lock:
        query = query.with_for_update()
    row = (await rd.connection.execute(query)).one_or_none()
    return None if row is None else load(EnrolmentRow, row)


async def by_secret(tx: Tx, secret_sha256: str) -> EnrolmentRow | None:
    """Return the token with this secret, whatever became of it, and lock it."""
    query = select(enrolments).where(enrolments.c.secret_sha256 == secret_sha256).with_for_update()
    row = (await tx.connection.execute(query)).one_or_none()
    return None if row is None else load(EnrolmentRow, row)


async def add(tx: Tx, row: EnrolmentRow) -> None:
    """Insert a token."""
    await tx.connection.execute(insert(enrolments).values(**vars(row)))


async def use(tx: Tx, row: EnrolmentRow, node: NodeId, key_fingerprint: str) -> bool:
    """Count a use of a token and say whether there was one left. Of two who race for the last one, one gets it."""
    left = (enrolments.c.id == row.id) & (enrolments.c.used < enrolments.c.uses) & enrolments.c.revoked_at.is_(None)
    values = {"used": enrolments.c.used + 1, "used_at": tx.now(), "used_by": node, "key_fingerprint": key_fingerprint}
    return (await tx.connection.execute(update(enrolments).where(left).values(**values))).rowcount == 1


async def revoke(tx: Tx, enrolment: EnrolmentId) -> None:
    """Make a token useless."""
    await tx.connection.execute(update(enrolments).where(enrolments.c.id == enrolment).values(revoked_at=tx.now()))


async def revoke_unused(tx: Tx, created_by: str) -> None:
    """Revoke every unused token that `created_by` made."""
    await tx.connection.execute(
        update(enrolments)
        .where(enrolments.c.created_by == created_by, enrolments.c.used_at.is_(None), enrolments.c.revoked_at.is_(None))
        .values(revoked_at=tx.now())
    )


async def page(rd: Read, query: ListQuery) -> tuple[list[EnrolmentRow], str | None]:
    """Return a page of the tokens that were not revoked."""
    statement = select(enrolments).where(enrolments.c.revoked_at.is_(None))
    rows, following = await fetch(rd, statement, query, LISTED)
    return [load(EnrolmentRow, row) for row in rows], following


async def forget(tx: Tx, before: datetime) -> int:
    """Delete tokens that have not worked since before `before`. What enrolled with them stays."""
    return (await tx.connection.execute(delete(enrolments).where(enrolments.c.expires_at < before))).rowcount
