"""What nodes are told of pools and volumes. A part of `desired`: rows in, intents out."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from nacre.control.auth.sealing import Sealer
from nacre.control.services import pool_keys
from nacre.control.store import checkpoints, pools, snapshots, volumes
from nacre.control.store.db import Read
from nacre.control.store.pools import PoolRow
from nacre.control.store.snapshots import SnapshotRow
from nacre.control.store.volumes import AttachmentRow, VolumeRow
from nacre.model.arrivals import ArrivingVolume
from nacre.model.ceph import CephAccess
from nacre.model.ids import CheckpointId, ImageId, NodeId, PoolId, VmId, VolumeId
from nacre.model.images import ImageManifest
from nacre.model.volumes import (
    PoolIntent,
    Restore,
    SnapshotIntent,
    VolumeAttachment,
    VolumeIntent,
    VolumePhase,
    Wish,
)

_UNMADE = frozenset({VolumePhase.PENDING, VolumePhase.CREATING})


@dataclass(frozen=True, kw_only=True)
class NodeStorage:
    """What one node is told."""

    pools: tuple[PoolIntent, ...] = ()
    volumes: tuple[VolumeIntent, ...] = ()
    attached: Mapping[VmId, tuple[VolumeAttachment, ...]] = field(
        default_factory=dict[VmId, tuple[VolumeAttachment, ...]]
    )
    delete_requested_by: tuple[str | None, ...] = ()
    """Who asked for each volume that should be absent."""
    images: frozenset[ImageId] = frozenset()
    """Images that volumes are still to be made from."""


NOTHING = NodeStorage()


@dataclass(frozen=True, kw_only=True)
class Storage:
    """All that the intents of some nodes follow from."""

    pools: list[PoolRow]
    volumes: list[VolumeRow]
    snapshots: Mapping[VolumeId, list[SnapshotRow]]
    attachments: Mapping[VmId, list[AttachmentRow]]
    checkpoints: Mapping[VolumeId, list[CheckpointId]]
    """Those of machines that each volume is part of."""
    access: Mapping[PoolId, CephAccess]
    """To the clusters that pools are in."""
    homes: Mapping[VolumeId, ArrivingVolume] = field(default_factory=dict[VolumeId, ArrivingVolume])
    """Where the volumes of machines are that are about to come."""

    def images(self) -> set[ImageId]:
        """Return the images that volumes start as."""
        return {row.source.image for row in self.volumes if row.source.image is not None}

    def attached_to(self, vm: VmId) -> tuple[VolumeAttachment, ...]:
        """Return the volumes that a machine should have open."""
        return tuple(
            VolumeAttachment(volume=row.volume, options=row.options, read_only=row.read_only)
            for row in self.attachments.get(vm, ())
            if not row.leaving
        )

    def of(self, node: NodeId, manifests: Mapping[ImageId, ImageManifest]) -> NodeStorage:
        """Return what one node is told, in a stable order."""
        mine = [row for row in self.volumes if row.node == node]
        absent = [row for row in mine if row.desired is Wish.ABSENT]
        unmade = [row for row in mine if row.desired is Wish.PRESENT and row.phase in _UNMADE]
        return NodeStorage(
            pools=tuple(
                _pool(row, self.access.get(row.id)) for row in self.pools if not row.is_local and row.is_on(node)
            ),
            volumes=tuple(_volume(row, self, manifests) for row in mine),
            attached={vm: self.attached_to(vm) for vm in self.attachments},
            delete_requested_by=tuple(row.delete_requested_by for row in absent),
            images=frozenset(row.source.image for row in unmade if row.source.image is not None),
        )


async def load(
    rd: Read,
    among: Collection[NodeId],
    machines: Collection[VmId],
    sealer: Sealer | None = None,
    *,
    coming: Collection[VmId] = (),
) -> Storage:
    """Read all that concerns these nodes and machines, `coming` among them, in a few statements."""
    rows = await volumes.on_nodes(rd, among)
    known = await pools.every(rd)
    attachments = await volumes.attached(rd, machines) if machines else {}
    shared = [one.volume for vm in coming for one in attachments.get(vm, ())]
    return Storage(
        pools=known,
        access=pool_keys.opened(known, sealer),
        volumes=rows,
        snapshots=await snapshots.of(rd, [row.id for row in rows]) if rows else {},
        attachments=attachments,
        homes={
            row.id: ArrivingVolume(id=row.id, name=row.name, pool=row.pool)
            for row in (await volumes.many(rd, shared) if shared else ())
        },
        checkpoints=await checkpoints.with_volumes(rd, [row.id for row in rows]) if rows else {},
    )


def _pool(row: PoolRow, access: CephAccess | None) -> PoolIntent:
    return PoolIntent(id=row.id, name=row.name, kind=row.kind, path=row.path, shared=row.shared, ceph=access)


def _volume(row: VolumeRow, storage: Storage, manifests: Mapping[ImageId, ImageManifest]) -> VolumeIntent:
    image, kept = row.source.image, storage.snapshots.get(row.id, [])
    restore = None
    if row.restore_snapshot is not None and row.restore_nonce:
        restore = Restore(nonce=row.restore_nonce, snapshot=row.restore_snapshot)
    return VolumeIntent(
        id=row.id,
        project=row.project,
        name=row.name,
        generation=row.generation,
        desired=row.desired,
        pool=row.pool,
        size_bytes=row.size_bytes,
        format=row.format,
        source=row.source,
        image=None if image is None else manifests.get(image) or ImageManifest(id=image, artifacts=()),
        snapshots=tuple(SnapshotIntent(id=one.id, desired=one.desired, after=one.after) for one in kept),
        restore=restore,
        checkpoints=tuple(storage.checkpoints.get(row.id, ())),
        made=row.made,
    )
