"""The table of copies and its queries: what machines left behind on nodes that they moved away from."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
    update,
)

from nacre.control.store.db import Read, Tx, metadata
from nacre.control.store.rows import load
from nacre.control.store.types import Choice, Timestamp
from nacre.model.copies import CopyState
from nacre.model.ids import NodeId, ProjectId, VmId

copies = Table(
    "copies",
    metadata,
    Column("vm", Text, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("node", Text, nullable=False),
    Column("vm_name", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("state", Choice(CopyState), nullable=False),
    Column("reason", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("expires_at", Timestamp),
    PrimaryKeyConstraint("vm", "fence"),
    Index("ix_copies_node", "node"),
)


@dataclass(frozen=True, kw_only=True)
class CopyRow:
    """A copy as stored. `vm` and `fence` name it: no two placements of a machine have the same token."""

    vm: VmId
    fence: int
    node: NodeId
    vm_name: str
    project: ProjectId
    state: CopyState
    reason: str
    """Why the machine moved away: `failover`, `drain`, …"""
    size_bytes: int = 0
    created_at: datetime
    expires_at: datetime | None = None
    """When its disks are deleted; None keeps them until an operator says otherwise."""


async def add(tx: Tx, row: CopyRow) -> None:
    """Insert a copy."""
    await tx.connection.execute(insert(copies).values(**vars(row)))


async def on_node(rd: Read, node: NodeId) -> list[CopyRow]:
    """Return what machines have left behind on a node."""
    query = select(copies).where(copies.c.node == node).order_by(copies.c.vm, copies.c.fence)
    return [load(CopyRow, row) for row in await rd.connection.execute(query)]


async def on_nodes(rd: Read, among: Collection[NodeId]) -> list[CopyRow]:
    """Return what machines have left behind on some nodes."""
    query = select(copies).where(copies.c.node.in_(among)).order_by(copies.c.vm, copies.c.fence)
    return [load(CopyRow, row) for row in await rd.connection.execute(query)]


async def of_vm(rd: Read, vm: VmId) -> list[CopyRow]:
    """Return what a machine has left behind, oldest first."""
    query = select(copies).where(copies.c.vm == vm).order_by(copies.c.fence)
    return [load(CopyRow, row) for row in await rd.connection.execute(query)]


async def counts(rd: Read, nodes: Collection[NodeId]) -> dict[NodeId, int]:
    """Return how many copies there are on each of these nodes. Nodes without any are left out."""
    query = select(copies.c.node, func.count().label("copies")).where(copies.c.node.in_(nodes)).group_by(copies.c.node)
    return {NodeId(row.node): int(row.copies) for row in await rd.connection.execute(query)}


async def expired(rd: Read, now: datetime) -> list[CopyRow]:
    """Return the copies that are kept and were to be kept until `now` at most."""
    query = select(copies).where(copies.c.state == CopyState.KEPT, copies.c.expires_at <= now)
    return [load(CopyRow, row) for row in await rd.connection.execute(query.order_by(copies.c.node, copies.c.vm))]


async def set_expiry(tx: Tx, vm: VmId, fence: int, expires_at: datetime) -> None:
    """Record when a copy is to be deleted."""
    where = (copies.c.vm == vm, copies.c.fence == fence)
    await tx.connection.execute(update(copies).where(*where).values(expires_at=expires_at))


async def forget_node(tx: Tx, node: NodeId) -> None:
    """Forget every copy on a node that is removed."""
    await tx.connection.execute(delete(copies).where(copies.c.node == node))


async def set_state(tx: Tx, vm: VmId, fence: int, state: CopyState, *, size_bytes: int | None = None) -> None:
    """Record what has become of a copy."""
    values: dict[str, object] = {"state": state}
    if size_bytes is not None:
        values["size_bytes"] = size_bytes
    await tx.connection.execute(update(copies).where(copies.c.vm == vm, copies.c.fence == fence).values(**values))


async def remove(tx: Tx, node: NodeId, refs: Collection[tuple[VmId, int]]) -> None:
    """Forget copies that a node no longer has."""
    for vm, fence in sorted(refs):
        where = (copies.c.node == node, copies.c.vm == vm, copies.c.fence == fence)
        await tx.connection.execute(delete(copies).where(*where))
