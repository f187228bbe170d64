"""What reliability is judged by, and the judgements: queries over the tables of nodes and events, many rows at once."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec
from sqlalchemy import bindparam, func, select, type_coerce, update

from nacre.control.store.db import Read, Tx
from nacre.control.store.events import events
from nacre.control.store.nodes import nodes
from nacre.control.store.types import Model
from nacre.model.events import ActorKind
from nacre.model.ids import NodeId
from nacre.model.nodes import Capacity, Condition, NodeState, Reliability, Usage


class _Has(msgspec.Struct, frozen=True, kw_only=True):
    """What is needed of a node's facts; reading all of them for thousands of nodes would take its time."""

    capacity: Capacity


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What is needed of a node."""

    id: NodeId
    state: NodeState
    created_at: datetime
    last_seen_at: datetime | None
    capacity: Capacity | None
    usage: Usage | None
    conditions: tuple[Condition, ...]
    reliability: Reliability | None
    revision: int


async def watched(rd: Read, *, after: str, limit: int) -> list[Watched]:
    """Return at most `limit` nodes in the order of their ids, those after `after`."""
    c = nodes.c
    query = (
        select(
            c.id,
            c.state,
            c.created_at,
            c.last_seen_at,
            type_coerce(c.facts, Model(_Has)).label("has"),
            c.usage,
            c.conditions,
            c.reliability,
            c.revision,
        )
        .where(c.id > after)
        .order_by(c.id)
        .limit(limit)
    )
    return [
        Watched(
            id=row.id,
            state=row.state,
            created_at=row.created_at,
            last_seen_at=row.last_seen_at,
            capacity=row.has.capacity if row.has is not None else None,
            usage=row.usage,
            conditions=row.conditions,
            reliability=row.reliability,
            revision=row.revision,
        )
        for row in await rd.connection.execute(query)
    ]


async def told_by_nodes(
    rd: Read, types: Collection[str], *, after: int, until: int
) -> Mapping[tuple[NodeId, str], int]:
    """Count events of these types that nodes told, by node and type, with cursors after `after` up to `until`."""
    c = events.c
    query = (
        select(c.actor_id, c.type, func.count())
        .where(c.cursor > after, c.cursor <= until, c.actor_kind == ActorKind.NODE, c.type.in_(types))
        .group_by(c.actor_id, c.type)
    )
    return {(NodeId(node), type_): number for node, type_, number in await rd.connection.execute(query)}


async def save(tx: Tx, judged: Sequence[tuple[Watched, Reliability]]) -> None:
    """Store judgements of nodes that nothing else has changed meanwhile; the others are judged again next time."""
    statement = (
        update(nodes)
        .where(nodes.c.id == bindparam("node"), nodes.c.revision == bindparam("seen"))
        .values(reliability=bindparam("judgement", type_=Model(Reliability)), revision=nodes.c.revision + 1)
    )
    rows = [{"node": seen.id, "seen": seen.revision, "judgement": judgement} for seen, judgement in judged]
    if rows:
        await tx.connection.execute(statement, rows)
