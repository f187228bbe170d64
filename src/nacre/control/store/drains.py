"""The table of drains and its queries: each empties one node. Its results are the moves that belong to it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Column, Index, Integer, Table, Text, delete, func, insert, select, text, update

from nacre.control.store.db import Read, Tx, metadata
from nacre.control.store.rows import load
from nacre.control.store.types import Choice, Timestamp
from nacre.model.ids import DrainId, NodeId
from nacre.model.moves import DrainState, MoveMethod, MoveReason
from nacre.model.nodes import NodeWish

drains = Table(
    "drains",
    metadata,
    Column("id", Text, primary_key=True),
    Column("node", Text, nullable=False),
    Column("node_name", Text, nullable=False),
    Column("state", Choice(DrainState), nullable=False),
    Column("reason", Choice(MoveReason), nullable=False),
    Column("wish_before", Choice(NodeWish), nullable=False),
    Column("wish_after", Choice(NodeWish), nullable=False),
    Column("parallel", Integer, nullable=False),
    Column("method", Choice(MoveMethod), nullable=False),
    Column("message", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("deadline", Timestamp),
    Column("ended_at", Timestamp),
    Index(
        "uq_drains_node",
        "node",
        unique=True,
        sqlite_where=text("ended_at IS NULL"),
        postgresql_where=text("ended_at IS NULL"),
    ),
    Index("ix_drains_node", "node"),
)


@dataclass(frozen=True, kw_only=True)
class DrainRow:
    """A drain as stored."""

    id: DrainId
    node: NodeId
    node_name: str
    state: DrainState
    reason: MoveReason = MoveReason.DRAIN
    """`drain`, or `evacuation`, which asks no guest."""
    wish_before: NodeWish
    """What the operator wanted of the node before; an abort goes back to it."""
    wish_after: NodeWish
    """What the node is for once it is empty: cordoned, or in maintenance."""
    parallel: int
    """How many machines may be on their way at once."""
    method: MoveMethod = MoveMethod.RESTART
    message: str = ""
    created_by: str
    created_at: datetime
    deadline: datetime | None = None
    """When it gives up."""
    ended_at: datetime | None = None


async def get(rd: Read, drain: DrainId, *, lock: bool = False) -> DrainRow | None:
    """Return a drain."""
    query = select(drains).where(drains.c.id == drain)
    if lock:
        query = query.with_for_update()
    row = (await rd.connection.execute(query)).one_or_none()
    return None if row is None else load(DrainRow, row)


async def many(rd: Read, ids: Iterable[DrainId]) -> dict[DrainId, DrainRow]:
    """Return these drains, by id."""
    query = select(drains).where(drains.c.id.in_(list(ids)))
    rows = [load(DrainRow, row) for row in await rd.connection.execute(query)]
    return {row.id: row for row in rows}


async def running(rd: Read) -> list[DrainRow]:
    """Return the drains that have not ended, oldest first."""
    query = select(drains).where(drains.c.ended_at.is_(None)).order_by(drains.c.created_at, drains.c.id)
    return [load(DrainRow, row) for row in await rd.connection.execute(query)]


async def of_node(rd: Read, node: NodeId, *, lock: bool = False) -> DrainRow | None:
    """Return the drain of a node that has not ended. Lock the node's row first."""
    query = select(drains).where(drains.c.node == node, drains.c.ended_at.is_(None))
    if lock:
        query = query.with_for_update()
    row = (await rd.connection.execute(query)).one_or_none()
    return None if row is None else load(DrainRow, row)


async def newest(rd: Read, nodes: Iterable[NodeId]) -> dict[NodeId, DrainRow]:
    """Return the drain of each of these nodes that runs, or else the newest one."""
    order = (drains.c.ended_at.is_not(None), drains.c.created_at.desc(), drains.c.id.desc())
    place = func.row_number().over(partition_by=drains.c.node, order_by=order).label("place")
    ranked = select(drains, place).where(drains.c.node.in_(list(nodes))).subquery()
    rows = [load(DrainRow, row) for row in await rd.connection.execute(select(ranked).where(ranked.c.place == 1))]
    return {row.node: row for row in rows}


async def add(tx: Tx, row: DrainRow) -> None:
    """Insert a drain. The node's row must be locked."""
    await tx.connection.execute(insert(drains).values(**vars(row)))


async def save(tx: Tx, before: DrainRow, after: DrainRow) -> None:
    """Store what has changed of a drain that this transaction has locked."""
    old = vars(before)
    values = {name: value for name, value in vars(after).items() if value != old[name]}
    if values:
        await tx.connection.execute(update(drains).where(drains.c.id == after.id).values(**values))


async def forget(tx: Tx, before: datetime) -> int:
    """Delete drains that ended before `before`."""
    return (await tx.connection.execute(delete(drains).where(drains.c.ended_at < before))).rowcount
