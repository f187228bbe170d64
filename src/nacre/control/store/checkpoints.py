"""The tables of checkpoints of machines and of the volumes that are part of them, and their queries."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    delete,
    insert,
    or_,
    select,
    update,
)

from nacre.control.store.conflicts import insert_unique
from nacre.control.store.db import Read, Tx, metadata
from nacre.control.store.listing import Listed, ListQuery, fetch
from nacre.control.store.members import is_one_of
from nacre.control.store.rows import load
from nacre.control.store.types import Choice, Model, Timestamp
from nacre.errors import NacreError
from nacre.model.consistency import Consistency
from nacre.model.convergence import Failure
from nacre.model.hardware import DiskOptions
from nacre.model.ids import CheckpointId, VmId, VolumeId
from nacre.model.vms import RunInfo, VmSpec
from nacre.model.volumes import Wish

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("id", Text, primary_key=True),
    Column("vm", Text, ForeignKey("vms.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("desired", Choice(Wish), nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("after", Integer, nullable=False),
    Column("memory", Boolean, nullable=False),
    Column("spec", Model(VmSpec), nullable=False),
    Column("run", Model(RunInfo)),
    Column("consistency", Choice(Consistency)),
    Column("size_bytes", BigInteger, nullable=False),
    Column("disk_bytes", BigInteger, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("failure", Model(Failure)),
    Column("taken_at", Timestamp),
    Column("expires_at", Timestamp),
    Column("protected", Boolean, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    UniqueConstraint("vm", "name"),
)

parts = Table(
    "checkpoint_volumes",
    metadata,
    Column("checkpoint", Text, ForeignKey("checkpoints.id"), primary_key=True),
    Column("volume", Text, ForeignKey("volumes.id"), primary_key=True),
    Column("slot", Integer, nullable=False),
    Column("options", Model(DiskOptions), nullable=False),
    Column("delete_with_vm", Boolean, nullable=False),
    Index("ix_checkpoint_volumes_volume", "volume"),
)


@dataclass(frozen=True, kw_only=True)
class CheckpointRow:
    """A checkpoint as stored."""

    id: CheckpointId
    vm: VmId
    name: str
    description: str = ""
    desired: Wish = Wish.PRESENT
    generation: int
    """The generation of its machine that asks for it."""
    after: int
    """It is of the machine as it is once the restore with this nonce is done."""
    memory: bool = False
    spec: VmSpec
    """Its machine's configuration when it was asked for."""
    run: RunInfo | None = None
    """With memory: the life that it is of."""
    consistency: Consistency | None = None
    size_bytes: int = 0
    disk_bytes: int = 0
    memory_bytes: int = 0
    failure: Failure | None = None
    """Why it could not be taken."""
    taken_at: datetime | None = None
    """None until a node has taken it."""
    expires_at: datetime | None = None
    protected: bool = False
    created_by: str
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class PartRow:
    """A volume that is part of a checkpoint, and how it was attached."""

    checkpoint: CheckpointId
    volume: VolumeId
    slot: int
    options: DiskOptions
    delete_with_vm: bool


async def of(rd: Read, among: Collection[VmId]) -> dict[VmId, list[CheckpointRow]]:
    """Return the checkpoints of these machines, oldest first."""
    query = select(checkpoints).where(is_one_of(rd, checkpoints.c.vm, among)).order_by(checkpoints.c.id)
    found: dict[VmId, list[CheckpointRow]] = {}
    for row in await rd.connection.execute(query):
        found.setdefault(row.vm, []).append(load(CheckpointRow, row))
    return found


async def get(rd: Read, ref: str, *, vm: VmId | None = None) -> CheckpointRow | None:
    """Return the checkpoint with this id; with `vm`, that of a machine with this id or name."""
    query = select(checkpoints).where(checkpoints.c.id == ref)
    if vm is not None:
        named = or_(checkpoints.c.id == ref, checkpoints.c.name == ref)
        query = select(checkpoints).where(checkpoints.c.vm == vm, named)
    row = (await rd.connection.execute(query)).one_or_none()
    return None if row is None else load(CheckpointRow, row)


async def page(rd: Read, vm: VmId, query: ListQuery) -> tuple[list[CheckpointRow], str | None]:
    """Return a page of the checkpoints of a machine."""
    listed = Listed(
        id=checkpoints.c.id,
        sorts={"created_at": checkpoints.c.created_at, "name": checkpoints.c.name},
        filters={"name": checkpoints.c.name},
    )
    rows, following = await fetch(rd, select(checkpoints).where(checkpoints.c.vm == vm), query, listed)
    return [load(CheckpointRow, row) for row in rows], following


async def expired(rd: Read, now: datetime) -> list[CheckpointRow]:
    """Return the checkpoints whose time is over and that nobody protects, in the order of their machines."""
    query = select(checkpoints).where(
        checkpoints.c.expires_at <= now, checkpoints.c.protected.is_(False), checkpoints.c.desired == Wish.PRESENT
    )
    return [load(CheckpointRow, row) for row in await rd.connection.execute(query.order_by(checkpoints.c.vm))]


async def add(tx: Tx, row: CheckpointRow, volumes: Sequence[PartRow], *, taken: NacreError) -> None:
    """Insert a checkpoint. Raises `taken` if its machine has one of this name."""
    await insert_unique(tx, insert(checkpoints).values(**vars(row)), taken=taken)
    for part in volumes:
        await tx.connection.execute(insert(parts).values(**vars(part)))


async def save(tx: Tx, row: CheckpointRow) -> None:
    """Store a checkpoint whose machine this transaction has locked."""
    values = {name: value for name, value in vars(row).items() if name not in {"id", "vm", "spec", "created_at"}}
    await tx.connection.execute(update(checkpoints).where(checkpoints.c.id == row.id).values(**values))


async def remove(tx: Tx, checkpoint: CheckpointId) -> None:
    """Forget a checkpoint that is gone."""
    await tx.connection.execute(delete(parts).where(parts.c.checkpoint == checkpoint))
    await tx.connection.execute(delete(checkpoints).where(checkpoints.c.id == checkpoint))


async def volumes_of(rd: Read, among: Collection[CheckpointId]) -> dict[CheckpointId, list[PartRow]]:
    """Return the volumes that are part of these checkpoints, as their machines saw them."""
    query = select(parts).where(is_one_of(rd, parts.c.checkpoint, among)).order_by(parts.c.checkpoint, parts.c.slot)
    found: dict[CheckpointId, list[PartRow]] = {}
    for row in await rd.connection.execute(query):
        found.setdefault(row.checkpoint, []).append(load(PartRow, row))
    return found


async def with_volumes(rd: Read, among: Collection[VolumeId]) -> dict[VolumeId, list[CheckpointId]]:
    """Return the checkpoints that each of these volumes is part of."""
    query = select(parts.c.volume, parts.c.checkpoint).where(is_one_of(rd, parts.c.volume, among))
    found: dict[VolumeId, list[CheckpointId]] = {}
    for row in await rd.connection.execute(query.order_by(parts.c.checkpoint)):
        found.setdefault(row.volume, []).append(row.checkpoint)
    return found


async def lose_volume(tx: Tx, volume: VolumeId) -> None:
    """Take a volume that is lost out of all checkpoints."""
    await tx.connection.execute(delete(parts).where(parts.c.volume == volume))
