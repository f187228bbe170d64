"""Volumes of a simulated node: there as soon as they are asked for, and in nobody's way. Pure."""

from datetime import datetime

from nacre.model.consistency import Consistency
from nacre.model.volumes import (
    LOCAL_POOL,
    CloneCost,
    DiskFormat,
    FormatCapabilities,
    PoolCapabilities,
    PoolObserved,
    SnapshotObserved,
    VolumeIntent,
    VolumeObserved,
    VolumePhase,
    Wish,
)
from nacre.protocol.messages import NodeIntent


def volumes(intent: NodeIntent, now: datetime) -> tuple[VolumeObserved, ...]:
    """Return all volumes as they were asked for."""
    return tuple(_made(one, now) for one in intent.volumes)


def pools(intent: NodeIntent, disk_bytes: int) -> tuple[PoolObserved, ...]:
    """Return all pools, each as large as the node's disk."""
    formats = tuple(
        FormatCapabilities(format=form, clone=CloneCost.LAYERS, snapshot=CloneCost.LAYERS, live_snapshots=True)
        for form in DiskFormat
    )
    can = PoolCapabilities(snapshots=True, live_snapshots=True, grow=True, live_grow=True, thin=True, formats=formats)
    ids = (LOCAL_POOL, *(pool.id for pool in intent.pools))
    return tuple(PoolObserved(id=one, available=True, capacity_bytes=disk_bytes, capabilities=can) for one in ids)


def _made(one: VolumeIntent, now: datetime) -> VolumeObserved:
    gone = one.desired is Wish.ABSENT
    return VolumeObserved(
        id=one.id,
        generation=one.generation,
        phase=VolumePhase.ABSENT if gone else VolumePhase.READY,
        size_bytes=0 if gone else one.size_bytes,
        restore_nonce=one.restore.nonce if one.restore is not None else 0,
        snapshots=tuple(
            SnapshotObserved(id=kept.id, size_bytes=one.size_bytes, taken_at=now, consistency=Consistency.FILESYSTEM)
            for kept in one.snapshots
            if kept.desired is Wish.PRESENT and not gone
        ),
    )
