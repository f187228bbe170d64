"""Leases of nodes: granting them to many at once, which nodes no longer renew theirs, and what waits for them.

A lease is counted in its node's row (`renewals`) and is for one tenure of the node. There is no time in here: how long
a count has stood still is for its reader to measure.
"""

from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import datetime

from sqlalchemy import case, func, or_, select, tuple_, update

from nacre.control.store.db import Read, Tx
from nacre.control.store.nodes import nodes
from nacre.control.store.rows import load
from nacre.control.store.vms import vms
from nacre.model.ids import NodeId, ProjectId, VmId
from nacre.model.nodes import NodeState
from nacre.model.vms import Desired, RunInfo

Asked = tuple[NodeId, int]
"""A node that asks for a lease, and the tenure that it asks for."""


@dataclass(frozen=True, kw_only=True)
class LeaseRow:
    """What is watched of a node."""

    id: NodeId
    name: str
    state: NodeState
    tenure: int
    renewals: int
    lease_s: float
    last_seen_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class RestartableRow:
    """What matters of a machine that is to be started elsewhere when its node is lost."""

    id: VmId
    name: str
    project: ProjectId
    node: NodeId
    priority: int
    ha_since: int
    observed_generation: int
    run: RunInfo | None
    created_at: datetime


_WATCHED = tuple(nodes.c[field.name] for field in fields(LeaseRow))
_RESTARTABLE = tuple(vms.c[field.name] for field in fields(RestartableRow))


async def renew(tx: Tx, asked: Collection[Asked], lease_s: float) -> frozenset[Asked]:
    """Count a lease of `lease_s` seconds for each node that asks for its own tenure, and return those that have one.

    A node that was given up has none before it is heard. Of leases of several lengths the longest is on record, until
    the node is given up: the node may still hold that one.
    """
    if tx.connection.dialect.name == "postgresql":  # in one order, so that no two transactions wait for each other
        ids = {node for node, _ in asked}
        locked = select(nodes.c.id).where(nodes.c.id.in_(ids)).order_by(nodes.c.id).with_for_update(key_share=True)
        await tx.connection.execute(locked)
    statement = (
        update(nodes)
        .where(tuple_(nodes.c.id, nodes.c.tenure).in_(list(asked)), nodes.c.state != NodeState.FAILED)
        .values(
            renewals=nodes.c.renewals + 1,
            lease_s=case((nodes.c.lease_s > lease_s, nodes.c.lease_s), else_=lease_s),
        )
        .returning(nodes.c.id, nodes.c.tenure)
    )
    return frozenset((row.id, row.tenure) for row in await tx.connection.execute(statement))


async def watched(rd: Read, states: Collection[NodeState]) -> list[LeaseRow]:
    """Return the nodes that ever had a lease, and those in one of `states`."""
    query = select(*_WATCHED).where(or_(nodes.c.renewals > 0, nodes.c.state.in_(states))).order_by(nodes.c.id)
    return [load(LeaseRow, row) for row in await rd.connection.execute(query)]


async def count(rd: Read, states: Collection[NodeState]) -> int:
    """Return how many nodes are in one of `states`."""
    query = select(func.count()).select_from(nodes).where(nodes.c.state.in_(states))
    return (await rd.connection.execute(query)).scalar_one()


async def restartable(rd: Read, on: Collection[NodeId], wanted: Collection[Desired]) -> list[RestartableRow]:
    """Return the machines on these nodes that are to be restarted elsewhere, highest priority first, then oldest."""
    query = (
        select(*_RESTARTABLE)
        .where(vms.c.node.in_(on), vms.c.ha_since > 0, vms.c.desired.in_(wanted))
        .order_by(vms.c.priority.desc(), vms.c.created_at, vms.c.id)
    )
    return [load(RestartableRow, row) for row in await rd.connection.execute(query)]
