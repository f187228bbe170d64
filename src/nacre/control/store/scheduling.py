"""The table of the platform's scheduling policy: one row at most; without it the defaults of `model.placement` hold."""

from datetime import datetime

from sqlalchemy import Column, Integer, Table, Text, insert, select, update

from nacre.control.store.db import Read, Tx, metadata
from nacre.control.store.types import Model, Timestamp
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
    return (Policy(), 0, None) if row is None else (row.policy, row.version, row.updated_at)


async def put(tx: Tx, policy: Policy, version: int) -> None:
    """Store the policy as `version`."""
    values = {"policy": policy, "version": version, "updated_at": tx.now()}
    changed = await tx.connection.execute(update(scheduling).where(scheduling.c.id == _ONLY).values(**values))
    if changed.rowcount == 0:
        await tx.connection.execute(insert(scheduling).values(id=_ONLY, **values))
