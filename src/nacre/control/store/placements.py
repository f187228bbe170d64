"""Queries of the scheduler over many machines and nodes at once. Its tables are those of nodes, machines and moves.

Lock the groups of machines first, then nodes, then machines, each in the order of their ids: then no two deciders wait
for each other.
"""

import hashlib
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import ColumnElement, and_, bindparam, case, exists, func, literal, or_, select, text, union_all, update

from nacre.control.store.db import Read, Tx
from nacre.control.store.members import is_one_of
from nacre.control.store.moves import ON_ITS_WAY, moves
from nacre.control.store.nodes import nodes
from nacre.control.store.rows import load
from nacre.control.store.vms import VmRow, vms
from nacre.control.store.volumes import attachments, volumes
from nacre.model.convergence import Failure
from nacre.model.ids import MoveId, NodeId, ProjectId, VmId
from nacre.model.moves import MoveState
from nacre.model.nodes import Usage
from nacre.model.placement import Decision
from nacre.model.vms import Desired, VmSpec
from nacre.model.volumes import LOCAL_POOL, Tie

CHUNK = 500
"""Ids in one query."""
_GROUPS = 0x6E61636
"""Of PostgreSQL's advisory locks of two numbers: a first one that nothing else here takes."""
_WANTS_A_NODE = and_(vms.c.node.is_(None), vms.c.desired.in_([Desired.RUNNING, Desired.PAUSED]))


@dataclass(frozen=True, kw_only=True)
class Promised:
    """What is promised of a node: to machines on it, to those that are moving there, and to one that makes room."""

    cpus: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0


NOTHING = Promised()


@dataclass(frozen=True, kw_only=True)
class PlacedRow:
    """A machine that has a node, as far as the scheduler cares."""

    id: VmId
    name: str
    project: ProjectId
    node: NodeId
    labels: dict[str, str]
    spec: VmSpec
    image_roles: str
    moving: MoveId | None
    reserved_cpus: int
    reserved_memory_bytes: int
    reserved_disk_bytes: int
    tie: Tie | None


@dataclass(frozen=True, kw_only=True)
class Written:
    """One placement to write down."""

    vm: VmId
    node: NodeId
    decision: Decision


@dataclass(frozen=True, kw_only=True)
class WrittenRefusal:
    """Why a machine has no node yet, to write down."""

    vm: VmId
    failure: Failure
    decision: Decision


async def waiting(rd: Read, after: VmRow | None = None, *, limit: int) -> list[VmRow]:
    """Return machines that want a node, by priority and then by how long they wait: the first, or those `after` one."""
    query = select(vms).where(_WANTS_A_NODE).order_by(vms.c.priority.desc(), vms.c.updated_at, vms.c.id).limit(limit)
    if after is not None:
        later = or_(
            vms.c.updated_at > after.updated_at, and_(vms.c.updated_at == after.updated_at, vms.c.id > after.id)
        )
        query = query.where(
            or_(vms.c.priority < after.priority, and_(vms.c.priority == after.priority, later)),
        )
    return [load(VmRow, row) for row in (await rd.connection.execute(query)).all()]


async def revisions(rd: Read) -> dict[NodeId, int]:
    """Return the revision of every node: it grows with what matters to the scheduler, reservations excepted."""
    return {row.id: row.revision for row in (await rd.connection.execute(select(nodes.c.id, nodes.c.revision))).all()}


async def usages(rd: Read) -> dict[NodeId, Usage | None]:
    """Return what is in use on every node."""
    return {row.id: row.usage for row in (await rd.connection.execute(select(nodes.c.id, nodes.c.usage))).all()}


async def lock_nodes(tx: Tx, among: Collection[NodeId]) -> dict[NodeId, tuple[int, Usage | None]]:
    """Lock these nodes and return the revision and the usage of each. Those that are gone are left out."""
    query = select(nodes.c.id, nodes.c.revision, nodes.c.usage).where(is_one_of(tx, nodes.c.id, among))
    query = query.order_by(nodes.c.id).with_for_update(key_share=True)
    return {row.id: (row.revision, row.usage) for row in (await tx.connection.execute(query)).all()}


async def promised(rd: Read, on: Collection[NodeId] | None = None) -> dict[NodeId, Promised]:
    """Return what is promised of these nodes (None: of all). Nodes of which nothing is are left out."""
    here = select(vms.c.node.label("node"), *_reserved()).where(vms.c.node.is_not(None))
    coming = (
        select(moves.c.target.label("node"), *_reserved())
        .select_from(moves.join(vms, vms.c.id == moves.c.vm))
        .where(moves.c.target.is_not(None), moves.c.state.in_(ON_ITS_WAY), moves.c.ended_at.is_(None))
    )
    nominated = select(vms.c.nominated.label("node"), *_reserved()).where(_WANTS_A_NODE, vms.c.nominated.is_not(None))
    loose = select(
        volumes.c.node.label("node"),
        literal(0).label("cpus"),
        literal(0).label("memory_bytes"),
        volumes.c.size_bytes.label("disk_bytes"),
    ).where(
        volumes.c.node.is_not(None),
        volumes.c.pool == LOCAL_POOL,
        ~exists().where(attachments.c.volume == volumes.c.id),  # those of machines are counted with them
    )
    if on is not None:
        loose = loose.where(is_one_of(rd, volumes.c.node, on))
        here = here.where(is_one_of(rd, vms.c.node, on))
        coming = coming.where(is_one_of(rd, moves.c.target, on))
        nominated = nominated.where(is_one_of(rd, vms.c.nominated, on))
    every = union_all(here, coming, nominated, loose).subquery()
    query = select(
        every.c.node,
        func.sum(every.c.cpus).label("cpus"),
        func.sum(every.c.memory_bytes).label("memory_bytes"),
        func.sum(every.c.disk_bytes).label("disk_bytes"),
    ).group_by(every.c.node)
    return {
        row.node: Promised(cpus=int(row.cpus), memory_bytes=int(row.memory_bytes), disk_bytes=int(row.disk_bytes))
        for row in (await rd.connection.execute(query)).all()
    }


async def placed(
    rd: Read, among: Collection[VmId] | None = None, *, project: ProjectId | None = None
) -> AsyncGenerator[list[PlacedRow]]:
    """Yield the machines that have a node (among these ids, of this project, or all), some hundred at a time."""
    columns: tuple[ColumnElement[Any], ...] = tuple(vms.c[field.name] for field in fields(PlacedRow))
    query = select(*columns).where(vms.c.node.is_not(None))
    if project is not None:
        query = query.where(vms.c.project == project)
    if among is None:
        result = await rd.connection.execute(query)
        while rows := result.fetchmany(CHUNK):
            yield [load(PlacedRow, row) for row in rows]
        return
    for ids in _chunks(sorted(among)):
        result = await rd.connection.execute(query.where(is_one_of(rd, vms.c.id, ids)))
        yield [load(PlacedRow, row) for row in result.all()]


_HA_FROM_THE_FIRST = case((vms.c.ha_since > 0, 1), else_=0)
"""A node that gets a machine has never been told of it as one that is not to be restarted elsewhere."""


async def hold_groups(tx: Tx, exclusive: Mapping[ProjectId, bool]) -> None:
    """Keep other deciders from placing machines of these projects until the transaction ends.

    Where it is not exclusive, only those are kept out that ask for the same exclusively. On SQLite there is one writer.
    """
    if tx.connection.dialect.name != "postgresql" or not exclusive:
        return
    wanted: dict[int, bool] = {}
    for project, alone in exclusive.items():
        key = int.from_bytes(hashlib.sha256(project.encode()).digest()[:4], "big", signed=True)
        wanted[key] = wanted.get(key, False) or alone
    query = text(
        "SELECT CASE WHEN alone THEN pg_advisory_xact_lock(:kind, key) ELSE pg_advisory_xact_lock_shared(:kind, key) "
        "END FROM unnest(CAST(:keys AS integer[]), CAST(:alone AS boolean[])) AS held (key, alone)"
    )
    keys = sorted(wanted)
    await tx.connection.execute(query, {"kind": _GROUPS, "keys": keys, "alone": [wanted[key] for key in keys]})


async def lock_waiting(tx: Tx, among: Iterable[VmId]) -> dict[VmId, int]:
    """Lock those of these machines that still want a node, and return the generation of each."""
    # Not asked of the database in the condition: it would rather look through all machines that have no node.
    wants = _WANTS_A_NODE.label("wants")
    query = select(vms.c.id, vms.c.generation, wants).where(is_one_of(tx, vms.c.id, among))
    query = query.order_by(vms.c.id).with_for_update(key_share=True)
    return {row.id: row.generation for row in (await tx.connection.execute(query)).all() if row.wants}


async def place(tx: Tx, written: Sequence[Written]) -> None:
    """Give machines that `lock_waiting` has locked their nodes, whose rows are locked too."""
    statement = (
        update(vms)
        .where(vms.c.id == bindparam("of"))
        .values(
            node=bindparam("at"),
            fence=vms.c.fence + 1,
            ha_since=_HA_FROM_THE_FIRST,
            decision=bindparam("why"),
            nominated=None,
            failure=None,
            since=tx.now(),
            finalizers=["node"],
        )
    )
    rows = [{"of": one.vm, "at": one.node, "why": one.decision} for one in sorted(written, key=lambda one: one.vm)]
    if rows:
        await tx.connection.execute(statement, rows)


async def refuse(tx: Tx, written: Sequence[WrittenRefusal]) -> None:
    """Record why machines that `lock_waiting` has locked have no node yet."""
    statement = update(vms).where(vms.c.id == bindparam("of"))
    statement = statement.values(failure=bindparam("because"), decision=bindparam("why"))
    rows = [{"of": one.vm, "because": one.failure, "why": one.decision} for one in written]
    if rows:
        await tx.connection.execute(statement, rows)


async def nominate(tx: Tx, vm: VmId, node: NodeId | None) -> None:
    """Keep the room that is being made on a node for a machine that waits; None keeps none any more."""
    await tx.connection.execute(update(vms).where(vms.c.id == vm).values(nominated=node))


async def leaving(rd: Read, nodes_: Collection[NodeId]) -> set[NodeId]:
    """Return those of these nodes that a machine is leaving without having a target."""
    query = select(moves.c.source).where(
        moves.c.source.in_(sorted(nodes_)), moves.c.target.is_(None), moves.c.ended_at.is_(None)
    )
    query = query.where(moves.c.state == MoveState.STOPPING)
    return set((await rd.connection.execute(query.distinct())).scalars())


def _reserved() -> tuple[ColumnElement[Any], ...]:
    return (
        vms.c.reserved_cpus.label("cpus"),
        vms.c.reserved_memory_bytes.label("memory_bytes"),
        vms.c.reserved_disk_bytes.label("disk_bytes"),
    )


def _chunks(ids: Sequence[VmId]) -> Iterable[Sequence[VmId]]:
    return (ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK))
