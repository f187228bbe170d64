"""Volumes and snapshots as they are shown: rows to bodies. Used by the services of volumes."""

from collections.abc import Sequence

from nacre.control.services.preconditions import etag_of
from nacre.control.store import volumes as store
from nacre.control.store.db import Read
from nacre.control.store.snapshots import SnapshotRow
from nacre.control.store.volumes import VolumeRow, VolumeView
from nacre.model.convergence import Conditions, derive
from nacre.model.ids import VolumeId
from nacre.model.nodes import LOST
from nacre.model.volumes import SnapshotPhase, VolumePhase, Wish
from nacre.schema.common import ProjectRef, VmRef
from nacre.schema.vms import NodeRef
from nacre.schema.volumes import PoolRef, SnapshotOut, SourceOut, VolumeOut, VolumeRef

MOST_NAMED = 5
"""Volumes in one sentence."""


async def shown(rd: Read, volume: VolumeId) -> VolumeOut:
    """Return a volume that exists as it is now."""
    return out(await store.view(rd, volume))


def out(view: VolumeView) -> VolumeOut:
    """Show a row. A volume whose node is out of reach is in an unknown phase, whatever was last seen."""
    conditions = conditions_of(view, reachable=view.node_state not in LOST)
    source = view.source
    return VolumeOut(
        id=view.id,
        name=view.name,
        project=ProjectRef(id=view.project, name=view.project_name),
        labels=view.labels,
        pool=PoolRef(id=view.pool, name=view.pool_name),
        node=None if view.node is None else NodeRef(id=view.node, name=view.node_name or ""),
        size_bytes=view.size_bytes,
        format=view.format,
        actual_size_bytes=view.seen_size_bytes,
        used_bytes=view.used_bytes,
        source=SourceOut(kind=source.kind, image=source.image, volume=source.volume, snapshot=source.snapshot),
        desired=view.desired,
        phase=VolumePhase(conditions.phase),
        vm=None if view.vm is None else VmRef(id=view.vm, name=view.vm_name or ""),
        conditions=conditions,
        created_at=view.created_at,
        updated_at=view.updated_at,
        etag=etag_of(view.generation),
    )


def conditions_of(row: VolumeRow, *, snapshots: bool = True, reachable: bool = True) -> Conditions:
    """Return how far a volume is from what was asked. `snapshots` says whether those are as they should be."""
    if row.desired is Wish.ABSENT:
        satisfied = row.phase is VolumePhase.ABSENT
    elif row.node is None:
        satisfied = True  # it is made when it is first needed
    else:
        grown = row.seen_size_bytes >= row.size_bytes
        restored = row.applied_restore_nonce >= row.restore_nonce
        satisfied = row.phase is VolumePhase.READY and grown and restored and snapshots
    return derive(
        generation=row.generation,
        observed_generation=row.observed_generation,
        satisfied=reachable and satisfied,
        phase=row.phase if reachable else VolumePhase.UNKNOWN,
        failure=row.failure,
    )


def named(names: Sequence[str]) -> str:
    """Name volumes as what a sentence is about: one, or the first of several."""
    if len(names) == 1:
        return f"volume {names[0]}"
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"each of volumes {', '.join(names[:MOST_NAMED])}{more}"


def snapshot_out(row: SnapshotRow, volume: VolumeRow) -> SnapshotOut:
    """Show a snapshot."""
    if row.desired is Wish.ABSENT:
        phase = SnapshotPhase.DELETING
    else:
        phase = SnapshotPhase.CREATING if row.taken_at is None else SnapshotPhase.READY
    return SnapshotOut(
        id=row.id,
        name=row.name,
        volume=VolumeRef(id=volume.id, name=volume.name),
        phase=phase,
        size_bytes=row.size_bytes,
        taken_at=row.taken_at,
        consistency=row.consistency,
        expires_at=row.expires_at,
        protected=row.protected,
        created_by=row.created_by,
        created_at=row.created_at,
    )
