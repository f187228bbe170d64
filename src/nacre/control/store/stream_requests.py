"""The table of streams that a viewer at one replica wants from a node linked to another, and its queries.

Rows live for seconds: whoever holds the node's link takes the row and tells the agent where to dial.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Column, Index, Integer, Table, Text, delete, insert

from nacre.control.store.db import Tx, metadata
from nacre.control.store.rows import load
from nacre.control.store.types import Choice, Timestamp
from nacre.model.ids import NodeId, StreamId, VmId
from nacre.protocol.messages import StreamKind

stream_requests = Table(
    "stream_requests",
    metadata,
    Column("id", Text, primary_key=True),
    Column("node", Text, nullable=False),
    Column("vm", Text, nullable=False),
    Column("kind", Choice(StreamKind), nullable=False),
    Column("tail_bytes", Integer, nullable=False),
    Column("address", Text, nullable=False),
    Column("expires_at", Timestamp, nullable=False),
    Index("ix_stream_requests_node", "node"),
)


@dataclass(frozen=True, kw_only=True)
class StreamRequestRow:
    """A stream that somebody waits for."""

    id: StreamId
    node: NodeId
    vm: VmId
    kind: StreamKind
    tail_bytes: int
    address: str
    """Where the agent must dial: the replica at which the viewer waits."""
    expires_at: datetime


async def add(tx: Tx, row: StreamRequestRow) -> None:
    """Ask whoever holds the node's link."""
    await tx.connection.execute(insert(stream_requests).values(**vars(row)))


async def take(tx: Tx, nodes: Iterable[NodeId]) -> list[StreamRequestRow]:
    """Remove and return what is wanted from these nodes and not given up yet. Each row is returned to one caller."""
    statement = delete(stream_requests).where(stream_requests.c.node.in_(list(nodes))).returning(stream_requests)
    rows = [load(StreamRequestRow, row) for row in await tx.connection.execute(statement)]
    return [row for row in rows if row.expires_at > tx.now()]


async def remove(tx: Tx, stream: StreamId) -> None:
    """Forget a request; it may have been taken already."""
    await tx.connection.execute(delete(stream_requests).where(stream_requests.c.id == stream))


async def remove_expired(tx: Tx) -> None:
    """Forget what its viewer has given up."""
    await tx.connection.execute(delete(stream_requests).where(stream_requests.c.expires_at <= tx.now()))
