"""The tables of volumes and of their attachments to machines, and their queries.

Lock nodes before machines, machines before volumes, and volumes before pools, each in the order of their ids. Whoever
promises room in a pool holds the pool: what is promised of it stays as it is until the transaction ends.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    Select,
    Table,
    Text,
    UniqueConstraint,
    delete,
    false,
    func,
    insert,
    select,
    text,
    update,
)

from nacre.control.store.conflicts import insert_unique
from nacre.control.store.db import Read, Tx, metadata
from nacre.control.store.listing import Listed, ListQuery, fetch
from nacre.control.store.members import is_one_of
from nacre.control.store.nodes import nodes
from nacre.control.store.pools import pools
from nacre.control.store.projects import projects
from nacre.control.store.rows import load
from nacre.control.store.types import Choice, Labels, Model, Timestamp
from nacre.control.store.vms import vms
from nacre.errors import NacreError
from nacre.model.convergence import Failure
from nacre.model.hardware import DiskOptions
from nacre.model.ids import NodeId, PoolId, ProjectId, SnapshotId, VmId, VolumeId, looks_like_id
from nacre.model.nodes import NodeState
from nacre.model.volumes import LOCAL_POOL, DiskFormat, VolumePhase, VolumeSource, Wish

_UNMADE = text("NOT made AND desired = 'present'")
"""Also a volume whose node knows of it, until it is there: what it is made from is needed until then."""

volumes = Table(
    "volumes",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, ForeignKey("projects.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("labels", Labels, nullable=False),
    Column("pool", Text, ForeignKey("pools.id"), nullable=False),
    Column("node", Text, ForeignKey("nodes.id")),
    Column("size_bytes", BigInteger, nullable=False),
    Column("format", Choice(DiskFormat), nullable=False, server_default=DiskFormat.QCOW2.value),
    Column("source", Model(VolumeSource), nullable=False),
    Column("desired", Choice(Wish), nullable=False),
    Column("delete_requested_by", Text),
    Column("generation", BigInteger, nullable=False),
    Column("restore_nonce", Integer, nullable=False),
    Column("restore_snapshot", Text),
    Column("observed_generation", BigInteger, nullable=False),
    Column("phase", Choice(VolumePhase), nullable=False),
    Column("made", Boolean, nullable=False, server_default=false()),
    Column("seen_size_bytes", BigInteger, nullable=False),
    Column("used_bytes", BigInteger, nullable=False),
    Column("applied_restore_nonce", Integer, nullable=False),
    Column("failure", Model(Failure)),
    Column("created_at", Timestamp, nullable=False),
    Column("updated_at", Timestamp, nullable=False),
    UniqueConstraint("project", "name"),
    Index("ix_volumes_node", "node"),
    Index("ix_volumes_pool", "pool"),
    Index("ix_volumes_unmade", "project", sqlite_where=_UNMADE, postgresql_where=_UNMADE),
)

attachments = Table(
    "attachments",
    metadata,
    Column("volume", Text, ForeignKey("volumes.id"), primary_key=True),
    Column("vm", Text, ForeignKey("vms.id"), nullable=False),
    Column("slot", Integer, nullable=False),
    Column("options", Model(DiskOptions), nullable=False),
    Column("read_only", Boolean, nullable=False),
    Column("delete_with_vm", Boolean, nullable=False),
    Column("leaving", BigInteger, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    UniqueConstraint("vm", "slot"),
)
"""The key is what keeps a volume from being attached twice."""


@dataclass(frozen=True, kw_only=True)
class VolumeRow:
    """A volume as stored: what was asked, where it is, what was seen."""

    id: VolumeId
    project: ProjectId
    name: str
    labels: dict[str, str]
    pool: PoolId
    node: NodeId | None = None
    """Where it lies or, in a shared pool, the one that looks after it. None until it is first needed."""
    size_bytes: int
    format: DiskFormat = DiskFormat.QCOW2
    source: VolumeSource
    desired: Wish = Wish.PRESENT
    delete_requested_by: str | None = None
    generation: int = 1
    restore_nonce: int = 0
    restore_snapshot: SnapshotId | None = None
    observed_generation: int = 0
    phase: VolumePhase = VolumePhase.PENDING
    made: bool = False
    """A node has had it. From then on one that does not find it makes no blank one in its place."""
    seen_size_bytes: int = 0
    used_bytes: int = 0
    applied_restore_nonce: int = 0
    failure: Failure | None = None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, kw_only=True)
class VolumeView(VolumeRow):
    """A volume with what is shown beside it."""

    project_name: str
    pool_name: str
    shared: bool
    node_name: str | None
    node_state: NodeState | None
    vm: VmId | None
    vm_name: str | None


@dataclass(frozen=True, kw_only=True)
class AttachmentRow:
    """A volume as a disk of a machine."""

    volume: VolumeId
    vm: VmId
    slot: int
    """Its place among the machine's volumes."""
    options: DiskOptions
    read_only: bool = False
    delete_with_vm: bool = False
    leaving: int = 0
    """The generation of the machine since which it should not have it any more; 0 if it should."""
    created_at: datetime


async def get(rd: Read, ref: str, *, project: ProjectId | None = None, lock: bool = False) -> VolumeRow | None:
    """Return the volume with this id; with `project`, the one of this name there."""
    query = select(volumes).where(volumes.c.id == ref)
    if project is not None:
        query = select(volumes).where(volumes.c.project == project, volumes.c.name == ref)
    if lock:
        query = query.with_for_update(key_share=True)
    row = (await rd.connection.execute(query)).one_or_none()
    return None if row is None else load(VolumeRow, row)


async def many(rd: Read, among: Collection[VolumeId], *, lock: bool = False) -> list[VolumeRow]:
    """Return those of these volumes that exist, in the order of their ids."""
    query = select(volumes).where(is_one_of(rd, volumes.c.id, among)).order_by(volumes.c.id)
    if lock:
        query = query.with_for_update(key_share=True)
    return [load(VolumeRow, row) for row in await rd.connection.execute(query)]


async def on_nodes(rd: Read, among: Collection[NodeId], *, lock: bool = False) -> list[VolumeRow]:
    """Return the volumes on these nodes, in the order of their ids."""
    query = select(volumes).where(is_one_of(rd, volumes.c.node, among)).order_by(volumes.c.id)
    if lock:
        query = query.with_for_update(key_share=True)
    return [load(VolumeRow, row) for row in await rd.connection.execute(query)]


async def holders(rd: Read, among: Collection[NodeId]) -> set[NodeId]:
    """Return those of these nodes that have volumes."""
    query = select(volumes.c.node).distinct().where(is_one_of(rd, volumes.c.node, among))
    return {NodeId(found) for found in (await rd.connection.execute(query)).scalars() if found is not None}


async def in_pool(rd: Read, pool: PoolId) -> int:
    """Count the volumes of a pool."""
    query = select(func.count()).select_from(volumes).where(volumes.c.pool == pool)
    return int((await rd.connection.execute(query)).scalar_one())


async def of_pool(rd: Read, pool: PoolId) -> list[VolumeRow]:
    """Return the volumes of a pool, in the order of their ids."""
    query = select(volumes).where(volumes.c.pool == pool).order_by(volumes.c.id)
    return [load(VolumeRow, row) for row in await rd.connection.execute(query)]


async def attached_in(rd: Read, pool: PoolId) -> list[AttachmentRow]:
    """Return the attachments of the volumes of a pool."""
    query = select(attachments).join(volumes, volumes.c.id == attachments.c.volume).where(volumes.c.pool == pool)
    return [load(AttachmentRow, row) for row in await rd.connection.execute(query)]


async def promised(rd: Read, pool: PoolId) -> int:
    """Return how much the volumes of a pool may grow to."""
    query = select(func.coalesce(func.sum(volumes.c.size_bytes), 0)).where(volumes.c.pool == pool)
    return int((await rd.connection.execute(query)).scalar_one())


async def promised_on(rd: Read, among: Collection[PoolId]) -> dict[PoolId, dict[NodeId | None, int]]:
    """Return how much the volumes of these pools may grow to on each node, and (None) those that are on none yet."""
    query = select(volumes.c.pool, volumes.c.node, func.sum(volumes.c.size_bytes).label("size_bytes"))
    query = query.where(is_one_of(rd, volumes.c.pool, among)).group_by(volumes.c.pool, volumes.c.node)
    found: dict[PoolId, dict[NodeId | None, int]] = {}
    for row in await rd.connection.execute(query):
        found.setdefault(row.pool, {})[row.node] = int(row.size_bytes)
    return found


async def homeless(rd: Read, among: Collection[VmId]) -> dict[VmId, dict[PoolId, int]]:
    """Return what the volumes of these machines will take of the pool of the node that the machine gets.

    Not counted are those that are somewhere, those of shared pools, and those that the machine reserves room for.
    """
    query = (
        select(attachments.c.vm, volumes.c.pool, func.sum(volumes.c.size_bytes).label("size_bytes"))
        .select_from(attachments.join(volumes, volumes.c.id == attachments.c.volume).join(pools))
        .where(is_one_of(rd, attachments.c.vm, among), volumes.c.node.is_(None))
        .where(pools.c.shared.is_(False), pools.c.id != LOCAL_POOL)
        .group_by(attachments.c.vm, volumes.c.pool)
    )
    found: dict[VmId, dict[PoolId, int]] = {}
    for row in await rd.connection.execute(query):
        found.setdefault(row.vm, {})[row.pool] = int(row.size_bytes)
    return found


async def made_from(rd: Read, volume: VolumeId) -> list[str]:
    """Name the volumes that are still to be made from this one. They are of its project."""
    home = select(volumes.c.project).where(volumes.c.id == volume).scalar_subquery()
    query = select(volumes.c.name, volumes.c.source).where(volumes.c.project == home, _UNMADE)
    rows = (await rd.connection.execute(query)).all()
    return sorted(row.name for row in rows if row.source.volume == volume)


async def add(tx: Tx, row: VolumeRow, *, taken: NacreError) -> None:
    """Insert a volume. Raises `taken` if the name is taken in its project."""
    await insert_unique(tx, insert(volumes).values(**vars(row)), taken=taken)


async def save(tx: Tx, row: VolumeRow) -> None:
    """Store what may change of a volume that this transaction has locked."""
    fixed = {"id", "project", "name", "pool", "format", "source", "created_at"}
    values = {name: value for name, value in vars(row).items() if name not in fixed}
    await tx.connection.execute(update(volumes).where(volumes.c.id == row.id).values(**values))


async def remove(tx: Tx, volume: VolumeId) -> None:
    """Delete a volume that nobody holds any more."""
    await tx.connection.execute(delete(volumes).where(volumes.c.id == volume))


async def view(rd: Read, volume: VolumeId) -> VolumeView:
    """Return a volume that exists, with the names around it."""
    return load(VolumeView, (await rd.connection.execute(_views().where(volumes.c.id == volume))).one())


async def page(rd: Read, query: ListQuery, visible: frozenset[ProjectId] | None) -> tuple[list[VolumeView], str | None]:
    """Return a page of the volumes of the projects among `visible` (None: all)."""
    statement = _views()
    if visible is not None:
        statement = statement.where(volumes.c.project.in_(visible))
    by_id = {name: looks_like_id(query.filters.get(name, "")) for name in ("node", "pool", "vm")}
    listed = Listed(
        id=volumes.c.id,
        sorts={"name": volumes.c.name, "created_at": volumes.c.created_at, "size_bytes": volumes.c.size_bytes},
        filters={
            "name": volumes.c.name,
            "phase": volumes.c.phase,
            "node": volumes.c.node if by_id["node"] else nodes.c.name,
            "pool": volumes.c.pool if by_id["pool"] else pools.c.name,
            "vm": attachments.c.vm if by_id["vm"] else vms.c.name,
        },
        labels=volumes.c.labels,
    )
    rows, following = await fetch(rd, statement, query, listed)
    return [load(VolumeView, row) for row in rows], following


# Attachments


async def attached(rd: Read, among: Collection[VmId]) -> dict[VmId, list[AttachmentRow]]:
    """Return the attachments of these machines, in the order of their places."""
    query = select(attachments).where(is_one_of(rd, attachments.c.vm, among))
    found: dict[VmId, list[AttachmentRow]] = {}
    for row in await rd.connection.execute(query.order_by(attachments.c.vm, attachments.c.slot)):
        found.setdefault(row.vm, []).append(load(AttachmentRow, row))
    return found


async def attachment(rd: Read, volume: VolumeId) -> AttachmentRow | None:
    """Return where a volume is attached."""
    row = (await rd.connection.execute(select(attachments).where(attachments.c.volume == volume))).one_or_none()
    return None if row is None else load(AttachmentRow, row)


async def attach(tx: Tx, row: AttachmentRow, *, taken: NacreError) -> None:
    """Attach a volume. Raises `taken` if it is attached already."""
    await insert_unique(tx, insert(attachments).values(**vars(row)), taken=taken)


async def leave(tx: Tx, volume: VolumeId, generation: int) -> None:
    """Note that a machine should not have a volume any more since this generation of it."""
    await tx.connection.execute(update(attachments).where(attachments.c.volume == volume).values(leaving=generation))


async def detach(tx: Tx, volume: VolumeId) -> None:
    """Forget an attachment: the machine has let go."""
    await tx.connection.execute(delete(attachments).where(attachments.c.volume == volume))


def _views() -> Select[Any]:
    return select(
        volumes,
        projects.c.name.label("project_name"),
        pools.c.name.label("pool_name"),
        pools.c.shared,
        nodes.c.name.label("node_name"),
        nodes.c.state.label("node_state"),
        attachments.c.vm,
        vms.c.name.label("vm_name"),
    ).select_from(
        volumes.join(projects, projects.c.id == volumes.c.project)
        .join(pools, pools.c.id == volumes.c.pool)
        .outerjoin(nodes, nodes.c.id == volumes.c.node)
        .outerjoin(attachments, attachments.c.volume == volumes.c.id)
        .outerjoin(vms, vms.c.id == attachments.c.vm)
    )
