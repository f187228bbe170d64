"""The table of snapshots of volumes and its queries."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
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
from nacre.control.store.types import Choice, Timestamp
from nacre.errors import NacreError
from nacre.model.consistency import Consistency
from nacre.model.ids import SnapshotId, VolumeId
from nacre.model.volumes import Wish

snapshots = Table(
    "snapshots",
    metadata,
    Column("id", Text, primary_key=True),
    Column("volume", Text, ForeignKey("volumes.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("desired", Choice(Wish), nullable=False),
    Column("after", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("taken_at", Timestamp),
    Column("consistency", Choice(Consistency)),
    Column("expires_at", Timestamp),
    Column("protected", Boolean, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    UniqueConstraint("volume", "name"),
)


@dataclass(frozen=True, kw_only=True)
class SnapshotRow:
    """A snapshot as stored."""

    id: SnapshotId
    volume: VolumeId
    name: str
    desired: Wish = Wish.PRESENT
    after: int
    """It is of the volume as it is once the restore with this nonce is done."""
    size_bytes: int = 0
    taken_at: datetime | None = None
    """None until a node has taken it."""
    consistency: Consistency | None = None
    """None until it is taken, and of those that were before this was known."""
    expires_at: datetime | None = None
    protected: bool = False
    created_by: str
    created_at: datetime


async def of(rd: Read, among: Collection[VolumeId]) -> dict[VolumeId, list[SnapshotRow]]:
    """Return the snapshots of these volumes, oldest first."""
    query = select(snapshots).where(is_one_of(rd, snapshots.c.volume, among)).order_by(snapshots.c.id)
    found: dict[VolumeId, list[SnapshotRow]] = {}
    for row in await rd.connection.execute(query):
        found.setdefault(row.volume, []).append(load(SnapshotRow, row))
    return found


async def get(rd: Read, volume: VolumeId, ref: str) -> SnapshotRow | None:
    """Return the snapshot of a volume with this id or name."""
    query = select(snapshots).where(snapshots.c.volume == volume, or_(snapshots.c.id == ref, snapshots.c.name == ref))
    row = (await rd.connection.execute(query)).one_or_none()
    return None if row is None else load(SnapshotRow, row)


async def page(rd: Read, volume: VolumeId, query: ListQuery) -> tuple[list[SnapshotRow], str | None]:
    """Return a page of the snapshots of a volume."""
    listed = Listed(
        id=snapshots.c.id,
        sorts={"created_at": snapshots.c.created_at, "name": snapshots.c.name},
        filters={"name": snapshots.c.name},
    )
    rows, following = await fetch(rd, select(snapshots).where(snapshots.c.volume == volume), query, listed)
    return [load(SnapshotRow, row) for row in rows], following


async def expired(rd: Read, now: datetime) -> list[SnapshotRow]:
    """Return the snapshots whose time is over and that nobody protects."""
    query = select(snapshots).where(
        snapshots.c.expires_at <= now, snapshots.c.protected.is_(False), snapshots.c.desired == Wish.PRESENT
    )
    return [load(SnapshotRow, row) for row in await rd.connection.execute(query.order_by(snapshots.c.volume))]


async def add(tx: Tx, row: SnapshotRow, *, taken: NacreError) -> None:
    """Insert a snapshot. Raises `taken` if its volume has one of this name."""
    await insert_unique(tx, insert(snapshots).values(**vars(row)), taken=taken)


async def save(tx: Tx, row: SnapshotRow) -> None:
    """Store a snapshot whose volume this transaction has locked."""
    values = {name: value for name, value in vars(row).items() if name not in {"id", "volume"}}
    await tx.connection.execute(update(snapshots).where(snapshots.c.id == row.id).values(**values))


async def remove(tx: Tx, snapshot: SnapshotId) -> None:
    """Forget a snapshot that is gone."""
    await tx.connection.execute(delete(snapshots).where(snapshots.c.id == snapshot))


async def remove_of(tx: Tx, volume: VolumeId) -> None:
    """Forget all snapshots of a volume that is gone."""
    await tx.connection.execute(delete(snapshots).where(snapshots.c.volume == volume))
