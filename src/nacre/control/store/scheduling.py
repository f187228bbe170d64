"""The table of the platform's scheduling policy: one row at most; without it the defaults of `model.placement` hold."""

from datetime import datetime

from sqlalchemy import Column, Integer, Table, Text, insert, select, update
from sqlalchemy.dialects.postgresql import insert as insert_postgresql
from sqlalchemy.dialects.sqlite import insert as insert_sqlite

from nacre.control.store.db import Read, Tx, metadata
from nacre.control.store.types import EPOCH, Model, Timestamp
from nacre.model.placement import Policy

scheduling = Table(
    "scheduling",
    metadata,
    Column("id", Text, primary_key=True),
    Column("policy", Model(Policy), nullable=False),
    Column("version", Integer, nullable=False),
    Column("updated_at", Timestamp, nullable=False),
)

_ONLY = "platform"


async def get(rd: Read, *, lock: bool = False) -> tuple[Policy, int, datetime | None]:
    """Return the policy, its version (0 for the defaults) and when it was changed."""
    query = select(scheduling).where(scheduling.c.id == _ONLY)
    if lock:
        query = query.with_for_update()
    row = (await rd.connection.execute(query)).one_or_none()
    if row is None or row.version == 0:
        return Policy(), 0, None
    return row.policy, row.version, row.updated_at


async def locked(tx: Tx) -> tuple[Policy, int, datetime | None]:
    """Return the same, and keep it until the transaction ends, from the first change on."""
    kind = insert_postgresql if tx.connection.dialect.name == "postgresql" else insert_sqlite
    defaults = kind(scheduling).values(id=_ONLY, policy=Policy(), version=0, updated_at=EPOCH)
    await tx.connection.execute(defaults.on_conflict_do_nothing())
    return await get(tx, lock=True)


async def put(tx: Tx, policy: Policy, version: int) -> None:
    """Store the policy as `version`."""
    values = {"policy": policy, "version": version, "updated_at": tx.now()}
    changed = await tx.connection.execute(update(scheduling).where(scheduling.c.id == _ONLY).values(**values))
    if changed.rowcount == 0:
        await tx.connection.execute(insert(scheduling).values(id=_ONLY, **values))
