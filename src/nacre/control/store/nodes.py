"""The table of nodes and its queries."""

from collections.abc import AsyncGenerator, Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime

from sqlalchemy import BigInteger, Column, Float, Integer, Table, Text, bindparam, delete, insert, or_, select, update

from nacre.control.store.conflicts import insert_unique
from nacre.control.store.db import Read, Tx, metadata
from nacre.control.store.listing import Listed, ListQuery, fetch
from nacre.control.store.rows import load
from nacre.control.store.types import Choice, Labels, Model, Timestamp
from nacre.errors import ConflictError
from nacre.model.ids import NodeId
from nacre.model.nodes import Condition, HypervisorInfo, NodeFacts, NodeState, NodeWish, Reliability, Usage
from nacre.model.placement import Taint

nodes = Table(
    "nodes",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("state", Choice(NodeState), nullable=False),
    Column("wish", Choice(NodeWish), nullable=False),
    Column("taints", Model(tuple[Taint, ...]), nullable=False),
    Column("labels", Labels, nullable=False),
    Column("own_labels", Labels, nullable=False),
    Column("region", Text, nullable=False),
    Column("zone", Text, nullable=False),
    Column("facts", Model(NodeFacts)),
    Column("usage", Model(Usage)),
    Column("conditions", Model(tuple[Condition, ...]), nullable=False),
    Column("held", Model(Condition)),
    Column("instance", Text, nullable=False),
    Column("observed_sequence", BigInteger, nullable=False),
    Column("key_fingerprint", Text, nullable=False, index=True),
    Column("enrolment", Text, nullable=False),
    Column("tenure", Integer, nullable=False),
    Column("renewals", BigInteger, nullable=False),
    Column("lease_s", Float, nullable=False),
    Column("reliability", Model(Reliability)),
    Column("revision", BigInteger, nullable=False),
    Column("teardown_allowed_at", Timestamp),
    Column("last_seen_at", Timestamp),
    Column("certificate_expires_at", Timestamp),
    Column("version", Integer, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("updated_at", Timestamp, nullable=False),
)

LISTED = Listed(
    id=nodes.c.id,
    sorts={"name": nodes.c.name, "created_at": nodes.c.created_at, "updated_at": nodes.c.updated_at},
    filters={
        "name": nodes.c.name,
        "state": nodes.c.state,
        "region": nodes.c.region,
        "zone": nodes.c.zone,
        "wish": nodes.c.wish,
    },
    labels=nodes.c.labels,
)


@dataclass(frozen=True, kw_only=True)
class NodeRow:
    """A node as stored."""

    id: NodeId
    name: str
    state: NodeState
    wish: NodeWish = NodeWish.ACTIVE
    """An operator's; outlives being offline, which `state` cannot say."""
    taints: tuple[Taint, ...] = ()
    labels: dict[str, str]
    """What is shown and selected by: the agent's own labels, overridden by the operator's."""
    own_labels: dict[str, str]
    """The operator's."""
    region: str
    zone: str
    facts: NodeFacts | None = None
    usage: Usage | None = None
    conditions: tuple[Condition, ...] = ()
    """As the agent reports them."""
    held: Condition | None = None
    """Derived from the machines that the agent holds and that nobody told it of."""
    instance: str = ""
    """Which start of the agent speaks for the node now."""
    observed_sequence: int = 0
    """The newest observation of `instance` that is stored."""
    key_fingerprint: str
    """Of the key that it enrolled with."""
    enrolment: str = ""
    """The token that it joined with."""
    tenure: int = 1
    """Raised whenever the node is given up; leases are granted for the newest only."""
    renewals: int = 0
    """How many leases were granted. One more means that the node was heard asking."""
    lease_s: float = 0.0
    """How long the newest lease lasts."""
    reliability: Reliability | None = None
    revision: int = 0
    """Raised with every change that matters to the scheduler."""
    teardown_allowed_at: datetime | None = None
    last_seen_at: datetime | None = None
    certificate_expires_at: datetime | None = None
    version: int = 1
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, kw_only=True)
class Pulse:
    """What is looked at of a node that is heard."""

    id: NodeId
    state: NodeState
    wish: NodeWish
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """A node as it was before an observation of it was accepted."""

    id: NodeId
    name: str
    instance: str
    observed_sequence: int
    held: Condition | None
    teardown_allowed_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class NodeTerms:
    """What a node is told about itself."""

    id: NodeId
    tenure: int
    teardown_allowed_at: datetime | None


_ACCEPTED = tuple(nodes.c[field.name] for field in fields(Accepted))
_TERMS = tuple(nodes.c[field.name] for field in fields(NodeTerms))
_PULSE = tuple(nodes.c[field.name] for field in fields(Pulse))
_MANY = 500
"""Of so many nodes it is cheaper to read all there are than to name them."""


async def get(rd: Read, id_or_name: str, *, lock: bool = False) -> NodeRow | None:
    """Return the node with this id or name."""
    query = select(nodes).where((nodes.c.id == id_or_name) | (nodes.c.name == id_or_name))
    if lock:
        query = query.with_for_update(key_share=True)
    row = (await rd.connection.execute(query)).one_or_none()
    return None if row is None else load(NodeRow, row)


async def by_key(rd: Read, fingerprint: str) -> NodeRow | None:
    """Return the node that enrolled with this key."""
    query = select(nodes).where(nodes.c.key_fingerprint == fingerprint).order_by(nodes.c.created_at.desc()).limit(1)
    row = (await rd.connection.execute(query)).one_or_none()
    return None if row is None else load(NodeRow, row)


async def every(rd: Read, among: Collection[NodeId] | None = None, *, lock: bool = False) -> list[NodeRow]:
    """Return all nodes, or those `among` ids; locked in the order of their ids, so that no two wait for each other."""
    query = select(nodes).order_by(nodes.c.id)
    if among is not None:
        query = query.where(nodes.c.id.in_(among))
    if lock:
        query = query.with_for_update(key_share=True)
    return [load(NodeRow, row) for row in await rd.connection.execute(query)]


async def ids(rd: Read, *, limit: int) -> list[NodeId]:
    """Return the ids of at most `limit` nodes."""
    return [NodeId(found) for found in (await rd.connection.execute(select(nodes.c.id).limit(limit))).scalars()]


async def names(rd: Read, stem: str) -> set[str]:
    """Return the names that are `stem` or `stem` with a hyphen and more."""
    query = select(nodes.c.name).where(or_(nodes.c.name == stem, nodes.c.name.startswith(f"{stem}-", autoescape=True)))
    return set((await rd.connection.execute(query)).scalars())


async def add(tx: Tx, row: NodeRow) -> None:
    """Insert a node. Raises ConflictError if the name is taken."""
    taken = ConflictError(
        "node_name_taken",
        f"there is a node {row.name} already",
        hint="choose another name, or remove the old node with `nacre node delete`",
        field="name",
    )
    await insert_unique(tx, insert(nodes).values(**vars(row)), taken=taken)


@dataclass(frozen=True, kw_only=True)
class ToldRow:
    """What the agent of a node has said of its hypervisors."""

    name: str
    hypervisors: tuple[HypervisorInfo, ...]


async def told(rd: Read) -> AsyncGenerator[list[ToldRow]]:
    """Yield what all agents have said of their hypervisors, some hundred nodes at a time, in the order of their ids."""
    after = ""
    while True:
        query = select(nodes.c.id, nodes.c.name, nodes.c.facts).where(nodes.c.id > after).order_by(nodes.c.id)
        rows = (await rd.connection.execute(query.limit(_CHUNK))).all()
        if not rows:
            return
        after = rows[-1].id
        yield [ToldRow(name=row.name, hypervisors=row.facts.hypervisors) for row in rows if row.facts is not None]


_CHUNK = 200
_SCHEDULED_BY = frozenset({"state", "taints", "labels", "region", "zone", "facts", "reliability", "conditions"})


async def save(tx: Tx, before: NodeRow, after: NodeRow) -> None:
    """Store what has changed of a node that this transaction has locked."""
    if values := _changes(before, after):
        await tx.connection.execute(update(nodes).where(nodes.c.id == after.id).values(**values))


def _changes(before: NodeRow, after: NodeRow) -> dict[str, object]:
    old = vars(before)
    values = {name: value for name, value in vars(after).items() if value != old[name]}
    if _SCHEDULED_BY & values.keys():
        values["revision"] = before.revision + 1
    return values


async def save_many(tx: Tx, changes: Iterable[tuple[NodeRow, NodeRow]]) -> None:
    """Store what has changed of nodes that this transaction has locked, those with like changes in one statement."""
    alike: dict[frozenset[str], list[dict[str, object]]] = {}
    for before, after in changes:
        if values := _changes(before, after):
            alike.setdefault(frozenset(values), []).append({f"new_{name}": value for name, value in values.items()})
            alike[frozenset(values)][-1]["which"] = after.id
    for names, rows in alike.items():
        statement = update(nodes).where(nodes.c.id == bindparam("which"))
        await tx.connection.execute(statement.values({name: bindparam(f"new_{name}") for name in names}), rows)


async def certify(tx: Tx, node: NodeId, expires_at: datetime) -> bool:
    """Store until when the newest certificate of a node is valid. False if there is no such node."""
    statement = update(nodes).where(nodes.c.id == node).values(certificate_expires_at=expires_at)
    return (await tx.connection.execute(statement)).rowcount == 1


async def pulses(tx: Tx, among: Collection[NodeId]) -> list[Pulse]:
    """Return and lock nodes, in the order of their ids, with what says whether a sign of life is news."""
    query = select(*_PULSE).where(nodes.c.id.in_(among)).order_by(nodes.c.id).with_for_update(key_share=True)
    return [load(Pulse, row) for row in await tx.connection.execute(query)]


async def beat(tx: Tx, beats: Mapping[NodeId, Usage], now: datetime) -> None:
    """Store that nodes that this transaction has locked were heard, and nothing but that."""
    if not beats:
        return
    statement = update(nodes).where(nodes.c.id == bindparam("which")).values(last_seen_at=now, usage=bindparam("used"))
    await tx.connection.execute(statement, [{"which": node, "used": used} for node, used in beats.items()])


async def existing(rd: Read, among: Collection[NodeId]) -> set[NodeId]:
    """Return those of these nodes that exist."""
    query = select(nodes.c.id)
    if len(among) < _MANY:
        query = query.where(nodes.c.id.in_(among))
    return {NodeId(found) for found in (await rd.connection.execute(query)).scalars()}


async def terms(rd: Read, among: Collection[NodeId]) -> dict[NodeId, NodeTerms]:
    """Return what these nodes are told about themselves."""
    query = select(*_TERMS).where(nodes.c.id.in_(among))
    return {row.id: load(NodeTerms, row) for row in await rd.connection.execute(query)}


async def last_seen(rd: Read, states: Collection[NodeState]) -> dict[NodeId, datetime | None]:
    """Return when each node in one of `states` was last heard."""
    query = select(nodes.c.id, nodes.c.last_seen_at).where(nodes.c.state.in_(states))
    return {row.id: row.last_seen_at for row in await rd.connection.execute(query)}


async def remove(tx: Tx, node: NodeId) -> None:
    """Delete a node that holds nothing."""
    await tx.connection.execute(delete(nodes).where(nodes.c.id == node))


async def accept_observation(tx: Tx, node: NodeId, instance: str, sequence: int) -> Accepted | None:
    """Lock the node and record that observation `sequence` is being stored.

    None if a newer observation is stored already, or another instance speaks for the node; "" is any instance.
    """
    return (await accept_observations(tx, {node: (instance, sequence)})).get(node)


async def accept_observations(tx: Tx, told: Mapping[NodeId, tuple[str, int]]) -> dict[NodeId, Accepted]:
    """Do the same for many nodes, by instance and sequence. Those not accepted are left out."""
    query = select(*_ACCEPTED).where(nodes.c.id.in_(list(told))).order_by(nodes.c.id).with_for_update(key_share=True)
    rows = [load(Accepted, row) for row in await tx.connection.execute(query)]
    accepted = {row.id: row for row in rows if _is_newer(row, *told[row.id])}
    if accepted:
        statement = update(nodes).where(nodes.c.id == bindparam("which")).values(observed_sequence=bindparam("newest"))
        await tx.connection.execute(statement, [{"which": node, "newest": told[node][1]} for node in accepted])
    return accepted


def _is_newer(row: Accepted, instance: str, sequence: int) -> bool:
    return row.observed_sequence < sequence and instance in {"", row.instance}


async def page(rd: Read, query: ListQuery) -> tuple[list[NodeRow], str | None]:
    """Return a page of nodes."""
    rows, following = await fetch(rd, select(nodes), query, LISTED)
    return [load(NodeRow, row) for row in rows], following
