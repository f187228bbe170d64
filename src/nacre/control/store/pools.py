"""The tables of pools and of what nodes say of them, and their queries."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    ForeignKey,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    delete,
    insert,
    or_,
    select,
    update,
)

from nacre.control.store.conflicts import insert_unique
from nacre.control.store.db import Read, Tx, metadata
from nacre.control.store.listing import Listed, ListQuery, fetch
from nacre.control.store.members import is_one_of
from nacre.control.store.rows import load
from nacre.control.store.types import Choice, Model, Timestamp
from nacre.errors import NacreError
from nacre.model.ceph import CephCluster
from nacre.model.ids import NodeId, PoolId
from nacre.model.volumes import LOCAL_POOL, PoolKind, PoolObserved

pools = Table(
    "pools",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("kind", Choice(PoolKind), nullable=False),
    Column("path", Text, nullable=False),
    Column("shared", Boolean, nullable=False),
    Column("nodes", JSON, nullable=False),
    Column("ceph", Model(CephCluster), nullable=True),
    Column("sealed", LargeBinary, nullable=True),
    Column("version", Integer, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("updated_at", Timestamp, nullable=False),
    UniqueConstraint("name"),
)

pool_reports = Table(
    "pool_reports",
    metadata,
    Column("pool", Text, ForeignKey("pools.id", ondelete="CASCADE"), nullable=False),
    Column("node", Text, ForeignKey("nodes.id", ondelete="CASCADE"), nullable=False),
    Column("seen", Model(PoolObserved), nullable=False),
    Column("updated_at", Timestamp, nullable=False),
    PrimaryKeyConstraint("pool", "node"),
)


@dataclass(frozen=True, kw_only=True)
class PoolRow:
    """A pool as stored."""

    id: PoolId
    name: str
    kind: PoolKind
    path: str
    """The folder, or what the cluster calls the pool. Empty for the pool that every node has in its agent's folder."""
    shared: bool
    nodes: list[NodeId]
    """Those that it is on; empty for all."""
    version: int
    created_at: datetime
    updated_at: datetime
    ceph: CephCluster | None = None
    """The cluster that it is in."""
    sealed: bytes | None = None
    """The key to that."""

    @property
    def is_local(self) -> bool:
        """Whether it is the one that every node has."""
        return self.id == LOCAL_POOL

    def is_on(self, node: NodeId) -> bool:
        """Whether a node should have it."""
        return not self.nodes or node in self.nodes


async def get(rd: Read, ref: str, *, lock: bool = False) -> PoolRow | None:
    """Return the pool with this id or name."""
    query = select(pools).where(or_(pools.c.id == ref, pools.c.name == ref))
    if lock:
        query = query.with_for_update(key_share=True)
    row = (await rd.connection.execute(query)).one_or_none()
    return None if row is None else load(PoolRow, row)


async def many(rd: Read, among: Collection[PoolId], *, lock: bool = False) -> list[PoolRow]:
    """Return those of these pools that exist, in the order of their ids. Volumes are locked before (see `volumes`)."""
    query = select(pools).where(is_one_of(rd, pools.c.id, among)).order_by(pools.c.id)
    if lock:
        query = query.with_for_update(key_share=True)
    return [load(PoolRow, row) for row in await rd.connection.execute(query)]


async def every(rd: Read) -> list[PoolRow]:
    """Return all pools, in the order of their ids."""
    return [load(PoolRow, row) for row in await rd.connection.execute(select(pools).order_by(pools.c.id))]


async def page(rd: Read, query: ListQuery) -> tuple[list[PoolRow], str | None]:
    """Return a page of pools."""
    listed = Listed(
        id=pools.c.id,
        sorts={"name": pools.c.name, "created_at": pools.c.created_at},
        filters={"name": pools.c.name, "kind": pools.c.kind},
    )
    rows, following = await fetch(rd, select(pools), query, listed)
    return [load(PoolRow, row) for row in rows], following


async def add(tx: Tx, row: PoolRow, *, taken: NacreError) -> None:
    """Insert a pool. Raises `taken` if the name is."""
    await insert_unique(tx, insert(pools).values(**vars(row)), taken=taken)


async def save(tx: Tx, row: PoolRow) -> None:
    """Store which nodes have a pool that this transaction has locked."""
    changed = update(pools).where(pools.c.id == row.id)
    await tx.connection.execute(changed.values(nodes=row.nodes, version=row.version, updated_at=row.updated_at))


async def remove(tx: Tx, pool: PoolId) -> None:
    """Delete a pool without volumes."""
    await tx.connection.execute(delete(pool_reports).where(pool_reports.c.pool == pool))
    await tx.connection.execute(delete(pools).where(pools.c.id == pool))


async def reports(rd: Read, among: Collection[PoolId]) -> dict[PoolId, dict[NodeId, PoolObserved]]:
    """Return what nodes say of these pools."""
    query = select(pool_reports).where(is_one_of(rd, pool_reports.c.pool, among)).order_by(pool_reports.c.node)
    found: dict[PoolId, dict[NodeId, PoolObserved]] = {}
    for row in await rd.connection.execute(query):
        found.setdefault(row.pool, {})[row.node] = row.seen
    return found


async def forget_node(tx: Tx, node: NodeId) -> None:
    """Drop what a node has said."""
    await tx.connection.execute(delete(pool_reports).where(pool_reports.c.node == node))


async def said(rd: Read, among: Collection[NodeId]) -> dict[NodeId, tuple[PoolObserved, ...]]:
    """Return what these nodes have said, in the order of the pools."""
    query = select(pool_reports).where(is_one_of(rd, pool_reports.c.node, among)).order_by(pool_reports.c.pool)
    found: dict[NodeId, tuple[PoolObserved, ...]] = {}
    for row in await rd.connection.execute(query):
        found[row.node] = (*found.get(row.node, ()), row.seen)
    return found


async def report(tx: Tx, node: NodeId, seen: Sequence[PoolObserved]) -> None:
    """Replace what a node says. What it says of pools that are gone is dropped."""
    known = {row.id for row in await every(tx)}
    await tx.connection.execute(delete(pool_reports).where(pool_reports.c.node == node))
    rows = [{"pool": one.id, "node": node, "seen": one, "updated_at": tx.now()} for one in seen if one.id in known]
    if rows:
        await tx.connection.execute(insert(pool_reports), rows)
