"""The table of streams: each is one attempt to bring a machine to another node while it runs, as both nodes tell it.

Written by reports of nodes and by nobody else once it is there, so whoever carries a move out reads it without a lock:
that all has been sent is never taken back, and what has come to nothing never comes to something again.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import JSON, BigInteger, Column, Float, Index, Table, Text, insert, select, update

from nacre.control.store.db import Read, Tx, metadata
from nacre.control.store.rows import load
from nacre.control.store.types import Choice, Timestamp
from nacre.model.ids import MoveId, NodeId, StreamId, VmId
from nacre.model.migrations import ArrivalObserved, ArrivalState, OutgoingObserved, SendState

streams = Table(
    "move_streams",
    metadata,
    Column("id", Text, primary_key=True),
    Column("move", Text, nullable=False),
    Column("vm", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("arrival", Choice(ArrivalState), nullable=False),
    Column("addresses", JSON, nullable=False),
    Column("arrival_message", Text, nullable=False),
    Column("sending", Choice(SendState), nullable=False),
    Column("sending_message", Text, nullable=False),
    Column("transferred_bytes", BigInteger, nullable=False),
    Column("remaining_bytes", BigInteger, nullable=False),
    Column("downtime_ms", Float),
    Column("created_at", Timestamp, nullable=False),
    Column("changed_at", Timestamp, nullable=False),
    Index("ix_move_streams_move", "move"),
)


@dataclass(frozen=True, kw_only=True)
class StreamRow:
    """A stream as stored."""

    id: StreamId
    move: MoveId
    vm: VmId
    source: NodeId
    target: NodeId
    arrival: ArrivalState = ArrivalState.WAITING
    addresses: list[str]
    arrival_message: str = ""
    sending: SendState = SendState.WAITING
    sending_message: str = ""
    transferred_bytes: int = 0
    remaining_bytes: int = 0
    downtime_ms: float | None = None
    created_at: datetime
    changed_at: datetime
    """When either node last had something new to say."""

    @property
    def is_whole(self) -> bool:
        """Whether all of the machine has left the one node, and is on the other."""
        return self.sending is SendState.SENT and self.arrival is ArrivalState.ARRIVED


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a node says of a stream."""

    node: NodeId
    vm: VmId
    outgoing: OutgoingObserved | None = None
    arriving: ArrivalObserved | None = None

    @property
    def stream(self) -> StreamId | None:
        """Which stream it is about."""
        said = self.outgoing or self.arriving
        return said.stream if said is not None else None


async def get(rd: Read, stream: StreamId | None) -> StreamRow | None:
    """Return a stream."""
    if stream is None:
        return None
    row = (await rd.connection.execute(select(streams).where(streams.c.id == stream))).one_or_none()
    return None if row is None else load(StreamRow, row)


async def many(rd: Read, ids: Collection[StreamId]) -> dict[StreamId, StreamRow]:
    """Return these streams, by id."""
    if not ids:
        return {}
    query = select(streams).where(streams.c.id.in_(ids))
    rows = [load(StreamRow, row) for row in await rd.connection.execute(query)]
    return {row.id: row for row in rows}


async def add(tx: Tx, row: StreamRow) -> None:
    """Insert a stream."""
    await tx.connection.execute(insert(streams).values(**vars(row)))


async def follow(tx: Tx, told: Collection[Told]) -> bool:
    """Store what nodes say of streams; say whether anything but numbers has changed. The last thing in a transaction.

    A stream is told of by its own two nodes only, and never becomes less than it was.
    """
    by_stream = sorted(((said.stream, said) for said in told if said.stream is not None), key=lambda each: each[0])
    news = False
    for stream, said in by_stream:
        query = select(streams).where(streams.c.id == stream, streams.c.vm == said.vm).with_for_update()
        row = (await tx.connection.execute(query)).one_or_none()
        if row is None:
            continue
        before = load(StreamRow, row)
        after = after_report(before, said)
        if after == before:
            continue
        changed = {name: value for name, value in vars(after).items() if value != getattr(before, name)}
        changed["changed_at"] = tx.now()
        await tx.connection.execute(update(streams).where(streams.c.id == stream).values(**changed))
        news |= (before.sending, before.arrival) != (after.sending, after.arrival)
    return news


def after_report(row: StreamRow, said: Told) -> StreamRow:
    """Return a stream after what a node has said of it. Pure."""
    if said.outgoing is not None and said.node == row.source and row.sending is not SendState.SENT:
        out = said.outgoing
        row = replace(
            row,
            sending=out.state if row.sending is not SendState.FAILED else row.sending,
            sending_message=out.message or row.sending_message,
            transferred_bytes=max(out.transferred_bytes, row.transferred_bytes),
            remaining_bytes=out.remaining_bytes,
            downtime_ms=out.downtime_ms if out.downtime_ms is not None else row.downtime_ms,
        )
    if said.arriving is not None and said.node == row.target and row.arrival is not ArrivalState.FAILED:
        come = said.arriving
        row = replace(
            row,
            arrival=come.state,
            addresses=list(come.addresses) or row.addresses,
            arrival_message=come.message or row.arrival_message,
        )
    return row
