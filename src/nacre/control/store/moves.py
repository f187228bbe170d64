"""The table of moves and its queries: each takes one machine off one node, and perhaps to another.

A machine is in at most one move that has not ended, which a unique index sees to.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    Select,
    Table,
    Text,
    delete,
    func,
    insert,
    or_,
    select,
    text,
    update,
)

from nacre.control.store.conflicts import insert_unique
from nacre.control.store.db import Read, Tx, metadata
from nacre.control.store.listing import Listed, ListQuery, fetch
from nacre.control.store.move_streams import streams
from nacre.control.store.nodes import nodes
from nacre.control.store.projects import projects
from nacre.control.store.rows import load
from nacre.control.store.types import Choice, Model, Timestamp
from nacre.control.store.vms import Reserved, vms
from nacre.errors import ConflictError
from nacre.model.ids import DrainId, MoveId, NodeId, ProjectId, StreamId, VmId, looks_like_id
from nacre.model.migrations import ArrivalState, SendState
from nacre.model.moves import MoveMethod, MoveReason, MoveState
from nacre.model.placement import Decision

moves = Table(
    "moves",
    metadata,
    Column("id", Text, primary_key=True),
    Column("vm", Text, nullable=False),
    Column("vm_name", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("reason", Choice(MoveReason), nullable=False),
    Column("state", Choice(MoveState), nullable=False),
    Column("source", Text, nullable=False),
    Column("target", Text),
    Column("pinned", Text),
    Column("drain", Text),
    Column("decision", Model(Decision)),
    Column("method", Choice(MoveMethod), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("stream", Text),
    Column("ordered", Boolean, nullable=False),
    Column("stopped_because", Text, nullable=False),
    Column("bandwidth_bytes", BigInteger),
    Column("downtime_ms", Integer),
    Column("message", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("updated_at", Timestamp, nullable=False),
    Column("ended_at", Timestamp),
    Index(
        "uq_moves_vm",
        "vm",
        unique=True,
        sqlite_where=text("ended_at IS NULL"),
        postgresql_where=text("ended_at IS NULL"),
    ),
    Index("ix_moves_drain", "drain"),
    Index("ix_moves_source_ended_at", "source", "ended_at"),
    Index("ix_moves_target_ended_at", "target", "ended_at"),
)


@dataclass(frozen=True, kw_only=True)
class MoveRow:
    """A move as stored."""

    id: MoveId
    vm: VmId
    vm_name: str
    project: ProjectId
    reason: MoveReason
    state: MoveState
    source: NodeId
    target: NodeId | None = None
    """Where it goes. What it needs is reserved there from when the target is chosen until it is placed there."""
    pinned: NodeId | None = None
    """The only target that was asked for; None leaves that to the scheduler."""
    drain: DrainId | None = None
    decision: Decision | None = None
    """Why this target was chosen. The machine's own once it has left its node."""
    method: MoveMethod = MoveMethod.RESTART
    attempts: int = 0
    """How often it was tried while the machine ran."""
    stream: StreamId | None = None
    """The newest such attempt."""
    ordered: bool = False
    """Whether the source has been told to send the machine by that stream."""
    stopped_because: str = ""
    """Why its machine is stopped and started, although it would have moved while it ran if that were possible."""
    bandwidth_bytes: int | None = None
    downtime_ms: int | None = None
    message: str = ""
    """What is waited for, or why it ended as it did."""
    created_by: str
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class MoveView(MoveRow):
    """A move with the names that are shown beside it. None for a node that has been removed."""

    project_name: str
    source_name: str | None
    target_name: str | None
    pinned_name: str | None
    sending: SendState | None = None
    arrival: ArrivalState | None = None
    transferred_bytes: int | None = None
    remaining_bytes: int | None = None
    stood_still_ms: float | None = None


ON_ITS_WAY = (MoveState.MIGRATING, MoveState.STOPPING)
"""States of machines that are still on their nodes while room is reserved elsewhere."""
_TO_PLACE = (moves.c.state.in_(ON_ITS_WAY), moves.c.target.is_not(None))
_OPEN = moves.c.ended_at.is_(None)
_source, _target, _pinned = nodes.alias("source"), nodes.alias("target"), nodes.alias("pinned")


async def get(rd: Read, move: str, *, lock: bool = False) -> MoveRow | None:
    """Return a move."""
    query = select(moves).where(moves.c.id == move)
    if lock:
        query = query.with_for_update()
    row = (await rd.connection.execute(query)).one_or_none()
    return None if row is None else load(MoveRow, row)


async def view(rd: Read, move: str) -> MoveView | None:
    """Return a move with the names around it."""
    row = (await rd.connection.execute(_views().where(moves.c.id == move))).one_or_none()
    return None if row is None else load(MoveView, row)


async def of_vm(rd: Read, vm: VmId, *, lock: bool = False) -> MoveRow | None:
    """Return the move that a machine is in now."""
    query = select(moves).where(moves.c.vm == vm, _OPEN)
    if lock:
        query = query.with_for_update()
    row = (await rd.connection.execute(query)).one_or_none()
    return None if row is None else load(MoveRow, row)


async def under_way(rd: Read, *, limit: int) -> list[MoveRow]:
    """Return moves that have not ended, oldest first."""
    query = select(moves).where(_OPEN).order_by(moves.c.created_at, moves.c.id).limit(limit)
    return [load(MoveRow, row) for row in await rd.connection.execute(query)]


async def touching(rd: Read, node: NodeId) -> list[MoveRow]:
    """Return moves from or to a node that have not ended, in the order of their machines' ids."""
    query = select(moves).where(_OPEN, or_(moves.c.source == node, moves.c.target == node)).order_by(moves.c.vm)
    return [load(MoveRow, row) for row in await rd.connection.execute(query)]


async def live(rd: Read, among: Collection[NodeId]) -> list[MoveRow]:
    """Return moves from or to these nodes whose machines are copied while they run."""
    query = select(moves).where(
        moves.c.state == MoveState.MIGRATING, _OPEN, or_(moves.c.source.in_(among), moves.c.target.in_(among))
    )
    return [load(MoveRow, row) for row in await rd.connection.execute(query.order_by(moves.c.vm))]


async def of_drain(rd: Read, drain: DrainId) -> list[MoveRow]:
    """Return the moves of a drain, in the order of their machines' ids."""
    query = select(moves).where(moves.c.drain == drain).order_by(moves.c.vm, moves.c.id)
    return [load(MoveRow, row) for row in await rd.connection.execute(query)]


async def counts(rd: Read, drains: Iterable[DrainId]) -> dict[DrainId, dict[MoveState, int]]:
    """Return how many moves of each drain are in each state."""
    query = (
        select(moves.c.drain, moves.c.state, func.count().label("moves"))
        .where(moves.c.drain.in_(list(drains)))
        .group_by(moves.c.drain, moves.c.state)
    )
    found: dict[DrainId, dict[MoveState, int]] = {}
    for row in await rd.connection.execute(query):
        found.setdefault(DrainId(row.drain), {})[row.state] = int(row.moves)
    return found


async def on_their_way(rd: Read, drain: DrainId) -> int:
    """Return how many machines of a drain are stopping or starting now."""
    query = select(func.count()).where(moves.c.drain == drain, moves.c.state.in_([*ON_ITS_WAY, MoveState.STARTING]))
    return int((await rd.connection.execute(query)).scalar_one())


async def reserved(rd: Read, on: Collection[NodeId] | None = None) -> dict[NodeId, Reserved]:
    """Return what is kept free on these nodes (None: on all) for machines that are still stopping elsewhere."""
    query = (
        select(
            moves.c.target,
            func.count().label("vms"),
            func.sum(vms.c.reserved_cpus).label("cpus"),
            func.sum(vms.c.reserved_memory_bytes).label("memory_bytes"),
            func.sum(vms.c.reserved_disk_bytes).label("disk_bytes"),
        )
        .select_from(moves.join(vms, vms.c.id == moves.c.vm))
        .where(*_TO_PLACE)
        .group_by(moves.c.target)
    )
    if on is not None:
        query = query.where(moves.c.target.in_(on))
    return {
        NodeId(row.target): Reserved(
            vms=int(row.vms), cpus=int(row.cpus), memory_bytes=int(row.memory_bytes), disk_bytes=int(row.disk_bytes)
        )
        for row in await rd.connection.execute(query)
    }


async def arriving(rd: Read, on: Collection[NodeId] | None = None) -> list[tuple[NodeId, VmId]]:
    """Return target and machine of each move whose machine is still stopping, for what else it will need there."""
    query = select(moves.c.target, moves.c.vm).where(*_TO_PLACE).order_by(moves.c.vm)
    if on is not None:
        query = query.where(moves.c.target.in_(on))
    return [(NodeId(row.target), VmId(row.vm)) for row in await rd.connection.execute(query)]


async def add(tx: Tx, row: MoveRow) -> None:
    """Insert a move. Raises ConflictError if the machine is in another that has not ended."""
    taken = ConflictError(
        "vm_already_moving",
        f"machine {row.vm_name} is being moved already",
        hint="see it with `nacre move list --filter state=pending`, or end it with `nacre move abort`",
    )
    await insert_unique(tx, insert(moves).values(**vars(row)), taken=taken)


async def add_many(tx: Tx, rows: Sequence[MoveRow]) -> None:
    """Insert moves of machines that are in no other; their rows must be locked."""
    if rows:
        await tx.connection.execute(insert(moves), [vars(row) for row in rows])


async def save(tx: Tx, before: MoveRow, after: MoveRow) -> None:
    """Store what has changed of a move that this transaction has locked."""
    old = vars(before)
    values = {name: value for name, value in vars(after).items() if value != old[name]}
    if values:
        await tx.connection.execute(update(moves).where(moves.c.id == after.id).values(**values))


async def forget(tx: Tx, before: datetime) -> int:
    """Delete moves that ended before `before`, and their streams."""
    old = select(moves.c.id).where(moves.c.ended_at < before)
    await tx.connection.execute(delete(streams).where(streams.c.move.in_(old)))
    return (await tx.connection.execute(delete(moves).where(moves.c.ended_at < before))).rowcount


async def page(rd: Read, query: ListQuery, visible: frozenset[ProjectId] | None) -> tuple[list[MoveView], str | None]:
    """Return a page of the moves of machines of the projects among `visible` (None: all).

    `node` finds moves from and to a node; nodes and machines may be given by name or id.
    """
    statement = _views()
    if visible is not None:
        statement = statement.where(moves.c.project.in_(visible))
    filters = dict(query.filters)
    node = filters.pop("node", None)
    if node is not None:
        of_source, of_target = (
            (moves.c.source, moves.c.target) if looks_like_id(node) else (_source.c.name, _target.c.name)
        )
        statement = statement.where(or_(of_source == node, of_target == node))
    vm = moves.c.vm if looks_like_id(filters.get("vm", "")) else moves.c.vm_name
    listed = Listed(
        id=moves.c.id,
        sorts={"created_at": moves.c.created_at, "updated_at": moves.c.updated_at},
        filters={"state": moves.c.state, "reason": moves.c.reason, "drain": moves.c.drain, "vm": vm},
    )
    rows, following = await fetch(rd, statement, replace(query, filters=filters), listed)
    return [load(MoveView, row) for row in rows], following


def _views() -> Select[Any]:
    return select(
        moves,
        projects.c.name.label("project_name"),
        _source.c.name.label("source_name"),
        _target.c.name.label("target_name"),
        _pinned.c.name.label("pinned_name"),
        streams.c.sending,
        streams.c.arrival,
        streams.c.transferred_bytes,
        streams.c.remaining_bytes,
        streams.c.downtime_ms.label("stood_still_ms"),
    ).select_from(
        moves.join(projects, projects.c.id == moves.c.project)
        .outerjoin(_source, _source.c.id == moves.c.source)
        .outerjoin(_target, _target.c.id == moves.c.target)
        .outerjoin(_pinned, _pinned.c.id == moves.c.pinned)
        .outerjoin(streams, streams.c.id == moves.c.stream)
    )
