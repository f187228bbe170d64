"""The table of machines and its queries.

Lock nodes before machines, and each in the order of their ids: then no two transactions wait for each other.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    ForeignKey,
    Index,
    Integer,
    Row,
    Select,
    Table,
    Text,
    UniqueConstraint,
    case,
    delete,
    func,
    insert,
    select,
    update,
)

from nacre.control.store.conflicts import insert_unique
from nacre.control.store.db import Read, Tx, metadata
from nacre.control.store.instance_types import instance_types
from nacre.control.store.listing import Listed, ListQuery, fetch
from nacre.control.store.nodes import nodes
from nacre.control.store.projects import projects
from nacre.control.store.rows import load
from nacre.control.store.templates import templates
from nacre.control.store.types import Choice, Labels, Model, Timestamp
from nacre.errors import NacreError
from nacre.model.checkpoints import CheckpointSource, Restoration
from nacre.model.convergence import Failure
from nacre.model.guests import GuestInfo
from nacre.model.ids import (
    ImageId,
    InstanceTypeId,
    MoveId,
    NodeId,
    ProjectId,
    StreamId,
    TemplateId,
    VmId,
    looks_like_id,
)
from nacre.model.nodes import LOST, NodeState
from nacre.model.placement import Decision
from nacre.model.templates import Origins
from nacre.model.vms import Desired, Phase, RunInfo, VmSpec
from nacre.model.volumes import Tie

vms = Table(
    "vms",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, ForeignKey("projects.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("labels", Labels, nullable=False),
    Column("spec", Model(VmSpec), nullable=False),
    Column("image", Text, ForeignKey("images.id"), nullable=False),
    Column("image_name", Text, nullable=False),
    Column("template", Text),
    Column("instance_type", Text),
    Column("origins", Model(Origins)),
    Column("image_roles", Text, nullable=False, server_default=""),
    Column("desired", Choice(Desired), nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("reboot_nonce", Integer, nullable=False),
    Column("reset_nonce", Integer, nullable=False),
    Column("force_stop", Boolean, nullable=False),
    Column("delete_requested_by", Text),
    Column("finalizers", JSON, nullable=False),
    Column("node", Text, ForeignKey("nodes.id")),
    Column("fence", Integer, nullable=False),
    Column("moving", Text),
    Column("arrived_by", Text),
    Column("ha_since", BigInteger, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("decision", Model(Decision)),
    Column("nominated", Text),
    Column("tie", Model(Tie)),
    Column("reserved_cpus", Integer, nullable=False),
    Column("reserved_memory_bytes", BigInteger, nullable=False),
    Column("reserved_disk_bytes", BigInteger, nullable=False),
    Column("observed_generation", BigInteger, nullable=False),
    Column("phase", Choice(Phase), nullable=False),
    Column("since", Timestamp, nullable=False),
    Column("run", Model(RunInfo)),
    Column("failure", Model(Failure)),
    Column("applied_reboot_nonce", Integer, nullable=False),
    Column("applied_reset_nonce", Integer, nullable=False),
    Column("applied_restore_nonce", Integer, nullable=False, server_default="0"),
    Column("restore", Model(Restoration)),
    Column("source", Model(CheckpointSource)),
    Column("checkpoints", Integer, nullable=False, server_default="0"),
    Column("restarts", Integer, nullable=False),
    Column("guest", Model(GuestInfo)),
    Column("created_at", Timestamp, nullable=False),
    Column("updated_at", Timestamp, nullable=False),
    UniqueConstraint("project", "name"),
    Index("ix_vms_node", "node"),
    Index("ix_vms_image", "image"),
    Index("ix_vms_template", "template"),
    Index("ix_vms_instance_type", "instance_type"),
)

_shown_phase: ColumnElement[Any] = case((nodes.c.state.in_(LOST), Phase.UNKNOWN.value), else_=vms.c.phase)
"""A machine on a node out of reach: nobody knows."""


@dataclass(frozen=True, kw_only=True)
class VmRow:
    """A machine as stored: what was asked, where it is, what was seen."""

    id: VmId
    project: ProjectId
    name: str
    labels: dict[str, str]
    spec: VmSpec
    image: ImageId
    image_name: str
    template: TemplateId | None = None
    instance_type: InstanceTypeId | None = None
    origins: Origins | None = None
    """What it was made from, as it was then. The two ids before are in there too; they may be gone by now."""
    image_roles: str = ""
    """What its image is made of, with commas between; empty for machines of which nobody has noted it."""
    desired: Desired
    generation: int
    reboot_nonce: int = 0
    reset_nonce: int = 0
    force_stop: bool = False
    delete_requested_by: str | None = None
    """Who asked for the deletion. Absent machines without it were not deleted by a person."""
    finalizers: list[str]
    """Who must still let go of it before a deleted machine's row may go."""
    node: NodeId | None = None
    fence: int = 0
    """The token of the newest placement; raised by every one."""
    moving: MoveId | None = None
    """The move that is taking it off its node. Until it has left, its node is told that it should be off."""
    arrived_by: StreamId | None = None
    """The stream by which it came to its node while it ran; None if it was started there."""
    ha_since: int = 0
    """The generation since which it is to be restarted elsewhere; 0 if it is not."""
    priority: int = 100
    decision: Decision | None = None
    """Why it is where it is, or nowhere yet."""
    nominated: NodeId | None = None
    """Where room is being made for it while it waits, and kept from all others."""
    tie: Tie | None = None
    """What its volumes mean for where it can be; None if it has none."""
    reserved_cpus: int
    reserved_memory_bytes: int
    reserved_disk_bytes: int
    """What it takes of its node from placement to deletion: what it is configured for or still has, the larger."""
    observed_generation: int = 0
    phase: Phase
    since: datetime
    run: RunInfo | None = None
    failure: Failure | None = None
    applied_reboot_nonce: int = 0
    applied_reset_nonce: int = 0
    applied_restore_nonce: int = 0
    restore: Restoration | None = None
    """The newest request to put it back to a checkpoint."""
    source: CheckpointSource | None = None
    """What its disk was made from, if not from its image."""
    checkpoints: int = 0
    """How many there are of it, those included that are on their way out."""
    restarts: int = 0
    guest: GuestInfo | None = None
    """What the agent in its guest says."""
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, kw_only=True)
class VmView(VmRow):
    """A machine with the names that are shown beside it."""

    project_name: str
    node_name: str | None
    node_state: NodeState | None


@dataclass(frozen=True, kw_only=True)
class Reserved:
    """What the machines of a node have reserved."""

    vms: int = 0
    cpus: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0


async def get(rd: Read, vm: str, *, lock: bool = False) -> VmRow | None:
    """Return the machine with this id."""
    return await _one(rd, select(vms).where(vms.c.id == vm), lock=lock)


async def named(rd: Read, project: ProjectId, name: str, *, lock: bool = False) -> VmRow | None:
    """Return the machine of a project with this name."""
    return await _one(rd, select(vms).where(vms.c.project == project, vms.c.name == name), lock=lock)


async def view(rd: Read, vm: VmId) -> VmView:
    """Return a machine that exists, with the names around it."""
    row = (await rd.connection.execute(_views().where(vms.c.id == vm))).one()
    return load(VmView, row)


async def on_node(rd: Read, node: NodeId, among: Collection[VmId] | None = None, *, lock: bool = False) -> list[VmRow]:
    """Return the machines placed on a node, or those of them that are `among` ids, in the order of their ids."""
    query = select(vms).where(vms.c.node == node).order_by(vms.c.id)
    if among is not None:
        query = query.where(vms.c.id.in_(among))
    if lock:
        query = query.with_for_update(key_share=True)
    return [load(VmRow, row) for row in await rd.connection.execute(query)]


async def on_nodes(rd: Read, among: Collection[NodeId]) -> list[VmRow]:
    """Return the machines placed on some nodes, in the order of their ids."""
    query = select(vms).where(vms.c.node.in_(among)).order_by(vms.c.id)
    return [load(VmRow, row) for row in await rd.connection.execute(query)]


async def hosts(rd: Read, among: Collection[NodeId]) -> set[NodeId]:
    """Return those of these nodes that have machines placed on them."""
    query = select(vms.c.node).distinct().where(vms.c.node.in_(among))
    return {NodeId(found) for found in (await rd.connection.execute(query)).scalars() if found is not None}


async def many(rd: Read, among: Collection[VmId]) -> list[VmRow]:
    """Return those of these machines that exist."""
    query = select(vms).where(vms.c.id.in_(among)).order_by(vms.c.id)
    return [load(VmRow, row) for row in await rd.connection.execute(query)]


async def any_absent(rd: Read, node: NodeId) -> bool:
    """Whether a node still has machines that should be absent."""
    query = select(vms.c.id).where(vms.c.node == node, vms.c.desired == Desired.ABSENT).limit(1)
    return (await rd.connection.execute(query)).first() is not None


async def add(tx: Tx, row: VmRow, *, taken: NacreError) -> None:
    """Insert a machine. Raises `taken` if the name is taken in its project."""
    await insert_unique(tx, insert(vms).values(**vars(row)), taken=taken)


async def save(tx: Tx, row: VmRow) -> None:
    """Store what may change of a machine that this transaction has locked."""
    fixed = {
        "id",
        "project",
        "name",
        "image",
        "image_name",
        "image_roles",
        "template",
        "instance_type",
        "origins",
        "created_at",
    }
    values = {name: value for name, value in vars(row).items() if name not in fixed}
    await tx.connection.execute(update(vms).where(vms.c.id == row.id).values(**values))


async def remove(tx: Tx, vm: VmId) -> None:
    """Delete a machine that nobody holds any more."""
    await tx.connection.execute(delete(vms).where(vms.c.id == vm))


async def reserved(rd: Read, on: Collection[NodeId] | None = None) -> dict[NodeId, Reserved]:
    """Return what is reserved on these nodes (None: on all). Nodes without machines are left out."""
    query = (
        select(
            vms.c.node,
            func.count().label("vms"),
            func.sum(vms.c.reserved_cpus).label("cpus"),
            func.sum(vms.c.reserved_memory_bytes).label("memory_bytes"),
            func.sum(vms.c.reserved_disk_bytes).label("disk_bytes"),
        )
        .where(vms.c.node.is_not(None))
        .group_by(vms.c.node)
    )
    if on is not None:
        query = query.where(vms.c.node.in_(on))
    return {
        row.node: Reserved(
            vms=int(row.vms), cpus=int(row.cpus), memory_bytes=int(row.memory_bytes), disk_bytes=int(row.disk_bytes)
        )
        for row in await rd.connection.execute(query)
    }


async def using(rd: Read, images: Iterable[ImageId]) -> dict[ImageId, int]:
    """Return how many machines boot from each of these images. Unused ones are left out."""
    query = select(vms.c.image, func.count().label("vms")).where(vms.c.image.in_(list(images))).group_by(vms.c.image)
    return {row.image: int(row.vms) for row in await rd.connection.execute(query)}


async def made_from(rd: Read, ids: Iterable[str]) -> dict[str, int]:
    """Return how many machines were made from each of these templates or instance types. Unused ones are left out."""
    wanted, counts = list(ids), dict[str, int]()
    for column in (vms.c.template, vms.c.instance_type):
        query = select(column, func.count()).where(column.in_(wanted)).group_by(column)
        counts |= {str(found): int(count) for found, count in await rd.connection.execute(query)}
    return counts


async def unmade(rd: Read) -> list[VmRow]:
    """Return the machines that are still to be made from a checkpoint."""
    query = select(vms).where(vms.c.source.is_not(None), vms.c.run.is_(None)).order_by(vms.c.id)
    return [load(VmRow, row) for row in await rd.connection.execute(query)]


async def phases(rd: Read) -> dict[str, int]:
    """Return how many machines are in each phase, as shown."""
    shown = _shown_phase.label("shown")
    query = select(shown, func.count().label("vms")).select_from(vms.outerjoin(nodes)).group_by(shown)
    return {str(row.shown): int(row.vms) for row in await rd.connection.execute(query)}


async def page(rd: Read, query: ListQuery, visible: frozenset[ProjectId] | None) -> tuple[list[VmView], str | None]:
    """Return a page of the machines of the projects among `visible` (None: all). One query, whatever the number."""
    statement = _views()
    if visible is not None:
        statement = statement.where(vms.c.project.in_(visible))
    rows, following = await fetch(rd, statement, query, _listed(query))
    return [load(VmView, row) for row in rows], following


def _listed(query: ListQuery) -> Listed:
    """Nodes, images, templates and instance types may be given by name or id."""
    by_id = {
        name: looks_like_id(query.filters.get(name, "")) for name in ("node", "image", "template", "instance_type")
    }
    return Listed(
        id=vms.c.id,
        sorts={"name": vms.c.name, "created_at": vms.c.created_at, "updated_at": vms.c.updated_at},
        filters={
            "name": vms.c.name,
            "desired": vms.c.desired,
            "phase": _shown_phase,
            "node": vms.c.node if by_id["node"] else nodes.c.name,
            "image": vms.c.image if by_id["image"] else vms.c.image_name,
            "template": vms.c.template if by_id["template"] else _name_of(templates, vms.c.template),
            "instance_type": vms.c.instance_type
            if by_id["instance_type"]
            else _name_of(instance_types, vms.c.instance_type),
        },
        labels=vms.c.labels,
    )


def _name_of(table: Table, reference: ColumnElement[Any]) -> ColumnElement[Any]:
    """The name of what a machine was made from, as long as it exists."""
    return select(table.c.name).where(table.c.id == reference).scalar_subquery()


def _views() -> Select[Any]:
    return select(
        vms,
        projects.c.name.label("project_name"),
        nodes.c.name.label("node_name"),
        nodes.c.state.label("node_state"),
    ).select_from(vms.join(projects).outerjoin(nodes))


async def _one(rd: Read, query: Select[Any], *, lock: bool) -> VmRow | None:
    if lock:
        query = query.with_for_update(key_share=True)
    row: Row[Any] | None = (await rd.connection.execute(query)).one_or_none()
    return None if row is None else load(VmRow, row)
